//! Our declarations against independently generated types: `bazel-remote-apis`, and `tonic-types` for the error
//! details.
//!
//! A wrong number, type, cardinality, enum value, field name, method or stream direction in `proto/` fails here. The
//! lists of messages and enums in `pairs.rs` are checked against our descriptor set, so a declaration without a
//! counterpart fails too.

mod messages;
mod pairs;
mod random;
mod services;

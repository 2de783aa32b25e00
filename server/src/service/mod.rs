//! The tonic services, a file each.

pub(crate) mod action_cache;
pub(crate) mod byte_stream;
pub(crate) mod cas;
mod request;
mod tree;

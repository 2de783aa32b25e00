//! The hand codecs of `wire` against the generated types: what one accepts the other accepts, with the same values.
//!
//! Inputs are messages in every spelling that protobuf allows (`spelling`), mutations of them, and random bytes. The comparisons
//! are also the fuzz targets of the same names.

mod answers;
mod compare;
mod random;
mod requests;
mod spelling;

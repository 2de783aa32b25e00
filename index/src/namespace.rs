//! [`Namespace`]: which blobs see each other.

/// A set of blobs that are found only by those who look in the same set: 0 is the one that all instances share, the others
/// belong to an instance whose blobs are kept apart. Part of a [`Digest`](crate::Digest) inside the house, never on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(u8);

impl Namespace {
    /// Of every instance that is not kept apart.
    pub const SHARED: Namespace = Namespace(0);

    /// From the number in a record's header.
    pub const fn from_number(number: u8) -> Self {
        Namespace(number)
    }

    /// As it stands in a record's header.
    pub const fn number(self) -> u8 {
        self.0
    }
}

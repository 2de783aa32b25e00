//! [`WireFault`]: why some bytes are not the message they should be.

/// Malformed protobuf. The client's fault and permanent: `INVALID_ARGUMENT`, "the message cannot be decoded: " and this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct WireFault(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Kind {
    #[error("it ends within a field")]
    Truncated,
    #[error("a number has more than 64 bits")]
    NumberTooLong,
    #[error("a field's key is malformed")]
    Key,
    #[error("a group ends that is not open")]
    GroupEnd,
    #[error("groups are nested too deeply")]
    Nesting,
    #[error("field {field} does not have the type it is declared with")]
    Type { field: u32 },
    #[error("field {field} is a string and not UTF-8")]
    NotUtf8 { field: u32 },
    #[error("it is nothing but empty fields")]
    TooManyFields,
}

impl WireFault {
    /// More bytes may complete the message.
    pub(super) const TRUNCATED: Self = Self(Kind::Truncated);
    pub(super) const NUMBER_TOO_LONG: Self = Self(Kind::NumberTooLong);
    pub(super) const KEY: Self = Self(Kind::Key);
    pub(super) const GROUP_END: Self = Self(Kind::GroupEnd);
    pub(super) const NESTING: Self = Self(Kind::Nesting);
    pub(super) const TOO_MANY_FIELDS: Self = Self(Kind::TooManyFields);

    #[cold]
    pub(super) fn wrong_type(field: u32) -> Self {
        Self(Kind::Type { field })
    }

    #[cold]
    pub(super) fn not_utf8(field: u32) -> Self {
        Self(Kind::NotUtf8 { field })
    }
}

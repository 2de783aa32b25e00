//! gRPC's frames: what stands before each message.

/// A flag, and the message's length in four bytes.
pub const MESSAGE_PREFIX_BYTES: usize = 5;

/// What is wrong with a body as a sequence of messages. All permanent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingFault {
    /// Longer than the method takes.
    #[error("a message of {bytes} bytes is over this method's limit of {limit_bytes}")]
    TooLong {
        /// Announced.
        bytes: usize,
        /// Allowed.
        limit_bytes: usize,
    },
    /// Nobody was told that messages may be compressed.
    #[error("compressed gRPC messages are not supported")]
    Compressed,
    /// Neither compressed nor not.
    #[error("{0} is no flag of a gRPC message")]
    Flag(u8),
    /// The end is not behind a message.
    #[error("the body ends within a message")]
    CutShort,
}

/// The length of the message behind a prefix.
pub fn message_length(prefix: [u8; MESSAGE_PREFIX_BYTES], limit_bytes: usize) -> Result<usize, FramingFault> {
    let [flag, length @ ..] = prefix;
    let bytes = u32::from_be_bytes(length) as usize;
    match flag {
        0 if bytes > limit_bytes => Err(FramingFault::TooLong { bytes, limit_bytes }),
        0 => Ok(bytes),
        1 => Err(FramingFault::Compressed),
        flag => Err(FramingFault::Flag(flag)),
    }
}

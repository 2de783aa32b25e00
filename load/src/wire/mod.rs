//! A client's side of HTTP/2 and HTTP/1.1, as cheap as can be: what it costs must be small beside what it measures.
//!
//! In the order of a request's way: a [`Body`](body::Body) says what is sent, [`headers`] with which header block,
//! [`outbox`] gathers many requests into one write, [`socket`] writes and reads, [`frame`] and [`hpack`] (with
//! [`huffman`]) take apart what comes, [`http2`] keeps streams and flow control, [`http1`] is the other protocol, [`connection`] either of
//! them. Nothing
//! here knows gRPC's messages or what the requests are for.
//!
//! Everything received is untrusted: a peer that breaks the protocol ends its connection with a [`WireError`], and nothing
//! it sends makes memory grow beyond a bound.

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod headers;
pub(crate) mod hpack;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod huffman;
pub(crate) mod outbox;
pub(crate) mod socket;

/// Who receives the answers. Slots are the caller's numbers for requests under way.
pub(crate) trait Inbox {
    /// The next bytes of a slot's answer.
    fn data(&mut self, slot: usize, bytes: &[u8]);
    /// A slot's answer is over; the slot is free.
    fn end(&mut self, slot: usize, end: End<'_>);
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End<'a> {
    /// With these statuses: of HTTP, and of gRPC where it was said, with its message (percent-encoded).
    Answered {
        /// The HTTP status; 0 where none came.
        status: u16,
        /// `grpc-status`.
        grpc: Option<u32>,
        /// `grpc-message`.
        message: &'a [u8],
    },
    /// The peer reset the stream, with this code.
    Reset(u32),
    /// The peer said GOAWAY before it looked at the request; with its code.
    Refused(u32),
    /// The connection ended first.
    Lost,
}

/// How a connection came to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// The peer closed it.
    #[error("the server closed the connection")]
    Closed,
    /// The kernel says so.
    #[error("{0}")]
    Socket(rustix::io::Errno),
    /// What the peer sent is not the protocol.
    #[error("the server's bytes are not the protocol: {0}")]
    Protocol(&'static str),
}

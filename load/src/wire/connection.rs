//! [`Connection`]: one of either protocol.

use std::os::fd::{AsFd, BorrowedFd};

use super::body::Body;
use super::headers::Method;
use super::socket::Socket;
use super::{Inbox, WireError, http1, http2};

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    /// With this window for each answer.
    Http2 {
        window_bytes: u32,
    },
}

/// A connection; see [`http1::Connection`] and [`http2::Connection`].
pub(crate) enum Connection<'a> {
    Http1(http1::Connection<'a>),
    /// Boxed: its state is more than twice the other's.
    Http2(Box<http2::Connection<'a>>),
}

macro_rules! either {
    ($self:expr, $connection:ident => $what:expr) => {
        match $self {
            Self::Http1($connection) => $what,
            Self::Http2($connection) => $what,
        }
    };
}

impl<'a> Connection<'a> {
    /// Speaks on `socket`, with `slots` requests at once.
    pub(crate) fn new(protocol: Protocol, socket: Socket, authority: &str, slots: usize) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1(http1::Connection::new(socket)),
            Protocol::Http2 { window_bytes } => {
                Self::Http2(Box::new(http2::Connection::new(socket, authority, slots, window_bytes)))
            }
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        either!(self, it => it.has_room())
    }

    pub(crate) fn under_way(&self) -> usize {
        either!(self, it => it.under_way())
    }

    pub(crate) fn is_retiring(&self) -> bool {
        either!(self, it => it.is_retiring())
    }

    pub(crate) fn is_blocked(&self) -> bool {
        either!(self, it => it.is_blocked())
    }

    pub(crate) fn body(&mut self, slot: usize) -> &mut Body<'a> {
        match self {
            Self::Http1(connection) => connection.body(),
            Self::Http2(connection) => connection.body(slot),
        }
    }

    /// Begins the request in a free slot's body. HTTP/1.1 has the method in there.
    pub(crate) fn start(&mut self, slot: usize, method: Method) {
        match self {
            Self::Http1(connection) => connection.start(),
            Self::Http2(connection) => connection.start(slot, method),
        }
    }

    pub(crate) fn flush(&mut self) -> Result<(), WireError> {
        either!(self, it => it.flush())
    }

    pub(crate) fn read(&mut self, waits: bool) -> Result<usize, WireError> {
        either!(self, it => it.read(waits))
    }

    pub(crate) fn hand_out(&mut self, inbox: &mut impl Inbox) -> Result<(), WireError> {
        either!(self, it => it.hand_out(inbox))
    }

    pub(crate) fn abandon(&mut self, inbox: &mut impl Inbox) {
        either!(self, it => it.abandon(inbox));
    }

    pub(crate) fn wait(&self) -> Result<(), WireError> {
        either!(self, it => it.wait())
    }
}

impl AsFd for Connection<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, it => it.as_fd())
    }
}

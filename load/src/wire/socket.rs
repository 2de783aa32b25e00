//! [`Socket`]: a connected stream socket that never blocks on writing, and on reading for a moment and when told so.

use std::io::IoSlice;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use super::WireError;
use crate::target::Place;

/// How long one wait lasts at most, so that the end of a run is seen.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(100);
/// How long connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Connects; the kernel's own words where that fails.
    pub(crate) fn connect(place: &Place) -> std::io::Result<Self> {
        match place {
            Place::Tcp { host, port } => {
                let mut failure = None;
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
                        Ok(stream) => {
                            // Requests are gathered here, not by the kernel.
                            stream.set_nodelay(true)?;
                            stream.set_read_timeout(Some(WAIT_MAX))?;
                            return Ok(OwnedFd::from(stream).into());
                        }
                        Err(error) => failure = Some(error),
                    }
                }
                Err(failure.unwrap_or_else(|| std::io::Error::other("the name has no address")))
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(WAIT_MAX))?;
                Ok(OwnedFd::from(stream).into())
            }
        }
    }

    /// Reads what there is into `buffer`: how much, 0 where there is nothing. With `waits` that is after [`WAIT_MAX`]: one
    /// system call instead of two where there is nothing else to wait for.
    pub(crate) fn read(&self, buffer: &mut [u8], waits: bool) -> Result<usize, WireError> {
        let flags = if waits { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        match recv(&self.0, buffer, flags) {
            Ok((_, 0)) => Err(WireError::Closed),
            Ok((_, length)) => Ok(length),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(WireError::Socket(error)),
        }
    }

    /// Writes as much as the kernel takes: how much, 0 where it takes nothing.
    pub(crate) fn write(&self, slices: &[IoSlice<'_>]) -> Result<usize, WireError> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let written = match slices {
            [] => return Ok(0),
            [only] => send(&self.0, only, flags),
            _ => sendmsg(&self.0, slices, &mut SendAncillaryBuffer::default(), flags),
        };
        match written {
            Ok(length) => Ok(length),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(WireError::Socket(error)),
        }
    }

    /// Waits until there is something to read, or room to write, or [`WAIT_MAX`] is over.
    pub(crate) fn wait(&self) -> Result<(), WireError> {
        let time = Timespec { tv_sec: 0, tv_nsec: WAIT_MAX.as_nanos() as i64 };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN | PollFlags::OUT)], Some(&time)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(WireError::Socket(error)),
        }
    }
}

impl From<OwnedFd> for Socket {
    fn from(connected: OwnedFd) -> Self {
        Self(connected)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

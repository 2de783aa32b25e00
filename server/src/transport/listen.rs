//! Where to listen: addresses as written, bound sockets, accepted streams.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// An address as an operator writes it: `HOST:PORT` (a name is resolved when binding) or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenAddress {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an address; write HOST:PORT (127.0.0.1:8980, 0.0.0.0:8980, [::]:8980) or unix:/path")]
pub(crate) struct ListenAddressError(String);

impl Default for ListenAddress {
    fn default() -> Self {
        Self::Tcp { host: "127.0.0.1".to_owned(), port: 8980 }
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ListenAddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///path` is how grpc writes the same thing.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(error()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().map_err(|_| error())?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            None if !host.contains([':', '/', '[', ']']) => host,
            _ => return Err(error()),
        };
        if host.is_empty() { Err(error()) } else { Ok(Self::Tcp { host: host.to_owned(), port }) }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where a bound listener can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BoundAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error("{address} is in use by another program; stop it, or choose another address with --listen")]
    InUse { address: ListenAddress },
    #[error("may not listen on {address}; ports below 1024 need privileges, choose another with --listen")]
    Forbidden { address: ListenAddress },
    #[error("there is no address of this machine behind {address}; check --listen")]
    NotOurs { address: ListenAddress },
    #[error("cannot listen on {address}: {error}")]
    Other { address: ListenAddress, error: io::Error },
}

/// A bound socket. A unix socket's file is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    address: BoundAddress,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds; connections queue in the kernel until `accept` is called.
    pub(crate) async fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        let bound = match address {
            ListenAddress::Tcp { host, port } => TcpListener::bind((host.as_str(), *port))
                .await
                .and_then(|socket| Ok((BoundAddress::Tcp(socket.local_addr()?), Socket::Tcp(socket)))),
            ListenAddress::Unix(path) => {
                bind_unix(path).await.map(|socket| (BoundAddress::Unix(path.clone()), Socket::Unix(socket)))
            }
        };
        let address = address.clone();
        match bound {
            Ok((address, socket)) => Ok(Self { socket, address }),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::AddrInUse => BindError::InUse { address },
                io::ErrorKind::PermissionDenied if matches!(address, ListenAddress::Tcp { .. }) => {
                    BindError::Forbidden { address }
                }
                io::ErrorKind::AddrNotAvailable => BindError::NotOurs { address },
                _ => BindError::Other { address, error },
            }),
        }
    }

    pub(crate) fn address(&self) -> &BoundAddress {
        &self.address
    }

    /// The next connection. Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                // Small answers must not wait for the peer's delayed ack; writes are batched in user space.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Socket::Unix(socket) => Ok(Stream::Unix(socket.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let BoundAddress::Unix(path) = &self.address {
            // Best effort: a leftover file is recognised as such by the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket file whose server is gone is replaced; a served one, or a file that is no socket, is left alone.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
            let refused = || async {
                matches!(UnixStream::connect(path).await, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
            };
            if is_socket && refused().await {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            } else {
                Err(error)
            }
        }
        bound => bound,
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection on its way from the thread that accepted it to the one that serves it.
#[derive(Debug)]
pub(super) enum Handed {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    pub(super) fn hand_over(self) -> io::Result<Handed> {
        Ok(match self {
            Self::Tcp(stream) => Handed::Tcp(stream.into_std()?),
            Self::Unix(stream) => Handed::Unix(stream.into_std()?),
        })
    }
}

impl Handed {
    /// Called on the thread that serves it.
    pub(super) fn receive(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_parse() {
        for text in [
            "127.0.0.1:8980",
            "0.0.0.0:0",
            "[::1]:80",
            "localhost:8980",
            "cache.example.com:443",
            "unix:/run/cask.sock",
        ] {
            assert_eq!(text.parse::<ListenAddress>().expect(text).to_string(), text);
        }
        assert_eq!("unix:///run/a".parse(), Ok(ListenAddress::Unix("/run/a".into())));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "8980",
            ":8980",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:99999",
            "::1:80",
            "[nonsense]:1",
            "http://a:1",
            "unix:",
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(ListenAddressError(text.to_owned())));
        }
    }

    fn error_of(bound: Result<Listener, BindError>) -> BindError {
        bound.expect_err("an error")
    }

    #[tokio::test]
    async fn a_busy_port_is_named_with_advice() {
        let first = Listener::bind(&"127.0.0.1:0".parse().expect("an address")).await.expect("a listener");
        let taken = first.address().to_string();
        let error = error_of(Listener::bind(&taken.parse().expect("an address")).await);
        assert_eq!(
            error.to_string(),
            format!("{taken} is in use by another program; stop it, or choose another address with --listen")
        );
    }

    #[tokio::test]
    async fn a_socket_file_left_behind_is_replaced_but_a_served_one_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("cask.sock");
        let address = ListenAddress::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket left behind"));
        let listener = Listener::bind(&address).await.expect("the leftover is replaced");
        assert!(matches!(error_of(Listener::bind(&address).await), BindError::InUse { .. }));
        drop(listener);
        assert!(!path.exists(), "a listener cleans up after itself");
        std::fs::write(&path, b"precious").expect("a file");
        assert!(matches!(error_of(Listener::bind(&address).await), BindError::InUse { .. }));
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    }
}

//! One connection to an origin, for one request: resolved, checked, connected, encrypted.
//!
//! Addresses are checked here, after resolution and on what is connected to, so a name that resolves differently the second time
//! (DNS rebinding) gains nothing. No proxy is used and no connection is kept: fetches are few and large, and a connection of its own
//! cannot carry anything from one client's request to another's.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::address::is_public;
use super::target::Target;
use super::{Fault, FaultKind};

/// For each address of a host.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Names resolved at once.
const RESOLVING_MAX: usize = 16;
/// What a connection reads ahead of the store, at most; also the longest head of an answer.
const READ_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// How connections are made.
pub(super) struct Connector {
    pub(super) allow_private: bool,
    tls: TlsConnector,
    /// Names being resolved. The system's resolver has threads of its own to wait in, which reads from the disk need too, and goes on when
    /// nobody waits for it any more.
    resolving: Arc<Semaphore>,
}

/// An open connection; dropping it closes it.
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<Empty<Bytes>>,
    pub(super) driver: AbortOnDropHandle<()>,
}

impl Connector {
    /// Reads the machine's trusted certificates.
    pub(super) fn new(allow_private: bool) -> Connector {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = rustls::RootCertStore::empty();
        let (added, _unusable) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!(
                event = "asset.no_certificates",
                "no trusted certificates found on this machine: no https origin can be fetched from; install ca-certificates or set SSL_CERT_FILE"
            );
        }
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("the provider has what the default versions need")
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let resolving = Arc::new(Semaphore::new(RESOLVING_MAX));
        Connector { allow_private, tls: TlsConnector::from(Arc::new(config)), resolving }
    }

    /// Connects. Cancel-safe.
    pub(super) async fn connect(&self, target: &Target) -> Result<Connection, Fault> {
        let stream = self.dial(target).await?;
        if !target.is_https() {
            return handshake(stream).await;
        }
        let name = ServerName::try_from(target.host().to_owned())
            .map_err(|_| Fault::new(FaultKind::Denied, "the host is no name a certificate could be for"))?;
        match self.tls.connect(name, stream).await {
            Ok(stream) => handshake(stream).await,
            // A certificate that is not trusted now will not be the next time.
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(reason) => {
                    Err(Fault::new(FaultKind::Denied, format!("the connection cannot be trusted: {reason}")))
                }
                None => Err(failed(&error)),
            },
        }
    }

    async fn resolve(&self, host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        let permit = Arc::clone(&self.resolving).acquire_owned().await.expect("the semaphore is never closed");
        let resolving = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            Ok((host.as_str(), port).to_socket_addrs()?.collect())
        });
        resolving.await.map_err(io::Error::other)?
    }

    async fn dial(&self, target: &Target) -> Result<TcpStream, Fault> {
        let addresses: Vec<SocketAddr> = match target.host().parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, target.port())],
            Err(_) => self
                .resolve(target.host().to_owned(), target.port())
                .await
                .map_err(|error| Fault::new(FaultKind::Failed, format!("its host cannot be resolved: {error}")))?,
        };
        let mut last = None;
        for address in addresses {
            if !self.allow_private && !is_public(address.ip()) {
                last.get_or_insert_with(|| {
                    Fault::new(
                        FaultKind::Denied,
                        "its host is not on the public internet (see asset_allow_private_origins)",
                    )
                });
                continue;
            }
            match tokio::time::timeout(CONNECT_WAIT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = Some(failed(&error)),
                Err(_elapsed) => {
                    last = Some(Fault::new(FaultKind::TimedOut, "it took no connection in time"));
                }
            }
        }
        Err(last.unwrap_or_else(|| Fault::new(FaultKind::Failed, "its host has no address")))
    }
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Connection, Fault> {
    let (sender, driver) = http1::Builder::new()
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Fault::new(FaultKind::Failed, format!("the connection failed: {error}")))?;
    let driver = tokio::spawn(async move {
        // What goes wrong is told to the request that is under way.
        let _ = driver.await;
    });
    Ok(Connection { sender, driver: AbortOnDropHandle::new(driver) })
}

fn failed(error: &io::Error) -> Fault {
    Fault::new(FaultKind::Failed, format!("the connection failed: {error}"))
}

/// An answer under way, with the connection it comes over.
pub(crate) struct Answer {
    pub(super) body: Incoming,
    /// Unless the origin sends it in chunks.
    pub(super) length_bytes: Option<u64>,
    pub(super) _driver: AbortOnDropHandle<()>,
}

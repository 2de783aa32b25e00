//! TLS on the way in: the certificate, and the handshake.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take to agree on keys.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);

/// What is spoken inside, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How clients are greeted on connections that are encrypted. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read {path}: {error}; it has to be a PEM file of certificates, see --tls-certificate")]
    Certificate { path: PathBuf, error: pem::Error },
    #[error("there is no certificate in {0}; it has to be a PEM file of certificates, see --tls-certificate")]
    NoCertificate(PathBuf),
    #[error("cannot read {path}: {error}; it has to be a PEM file with a private key, see --tls-key")]
    Key { path: PathBuf, error: pem::Error },
    #[error("certificate and key cannot be used: {0}")]
    Unusable(rustls::Error),
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and its key; both PEM.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let unreadable = |error| TlsError::Certificate { path: certificate.to_owned(), error };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(unreadable)?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(certificate.to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::Key { path: key.to_owned(), error })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .map_err(TlsError::Unusable)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// The encrypted stream, when the client has agreed to it.
    pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the client did not finish the TLS handshake");
        tokio::time::timeout(HANDSHAKE_WAIT_MAX, self.acceptor.accept(stream)).await.map_err(|_| late())?
    }
}

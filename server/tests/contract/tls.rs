//! TLS: the same server, encrypted.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::blob::blob;
use crate::support::origin::Identity;
use crate::support::process::{Options, Server};
use crate::support::within;

struct Encrypted {
    server: Server,
    identity: Identity,
    _folder: tempfile::TempDir,
}

fn start() -> Encrypted {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let identity = Identity::of(&["127.0.0.1"]);
    let file = |name: &str, content: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("a readable path").to_owned()
    };
    let environment = vec![
        ("CASK_TLS_CERTIFICATE", file("certificate.pem", identity.pem())),
        ("CASK_TLS_KEY", file("key.pem", identity.key_pem())),
    ];
    let server = Server::start(Options { environment, ..Options::default() });
    Encrypted { server, identity, _folder: folder }
}

impl Encrypted {
    async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.identity.pem().as_bytes()).expect("a certificate");
        roots.add(certificate).expect("it can be trusted");
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("the provider has what the default versions need")
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.server.address()).await.expect("the server takes a connection");
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let greeting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        within("the handshake", greeting).await.expect("an encrypted connection")
    }
}

#[tokio::test]
async fn blobs_come_and_go_over_tls_on_both_protocols() {
    let encrypted = start();
    // More than the largest write at once, so that what TLS takes of a write is seen.
    let (digest, data) = blob(1, 3_000_000);
    let path = format!("/cas/{}", digest.hash);

    let stream = encrypted.connect(b"http/1.1").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    let driver = tokio::spawn(connection);
    let put = Request::builder()
        .method(Method::PUT)
        .uri(&path)
        .header("host", "127.0.0.1")
        .header("content-length", data.len())
        .body(Full::new(Bytes::from(data.clone())))
        .expect("a well-formed request");
    let answer = within("a PUT", sender.send_request(put)).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    driver.abort();

    let stream = encrypted.connect(b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let get = Request::get(format!("https://127.0.0.1{path}")).body(Full::<Bytes>::default()).expect("a request");
    let answer = within("a GET", sender.send_request(get)).await.expect("an answer");
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    let body = within("its body", answer.into_body().collect()).await.expect("a whole body");
    assert!(body.to_bytes() == data, "the bytes that were put");
    driver.abort();
}

#[tokio::test]
async fn who_does_not_encrypt_is_not_answered() {
    let encrypted = start();
    let said = crate::support::http::send_raw(&encrypted.server, b"GET /status HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(!said.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&said));
    // And nobody else is worse off.
    encrypted.connect(b"h2").await;
}

//! A web server for the server under test to fetch from: bare sockets and scripted answers, so that it can also be slow, wrong and rude.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::within;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What the origin does about a request.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// Sent at once.
    first: Vec<u8>,
    /// Sent when the origin is released; until then the connection is silent.
    held: Option<Vec<u8>>,
}

impl Reply {
    /// Exactly these bytes, then the end of the connection.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply { first: bytes.into(), held: None }
    }

    /// 200 with a length.
    pub(crate) fn ok(body: &[u8]) -> Reply {
        Self::ok_with(body, "")
    }

    /// As `ok`, with more header lines, each with its line's end.
    pub(crate) fn ok_with(body: &[u8], headers: &str) -> Reply {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        Reply::raw([head.as_bytes(), body].concat())
    }

    /// 200 in chunks: nobody knows the length before the end.
    pub(crate) fn chunked(body: &[u8]) -> Reply {
        let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for piece in body.chunks(60_000) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        Reply::raw(bytes)
    }

    /// Nothing but a status.
    pub(crate) fn status(line: &str) -> Reply {
        Reply::raw(format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n"))
    }

    pub(crate) fn redirect(location: &str) -> Reply {
        Reply::raw(format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))
    }

    /// Sends the first `count` bytes at once and the others when the origin is released.
    pub(crate) fn held_after(mut self, count: usize) -> Reply {
        self.held = Some(self.first.split_off(count));
        self
    }
}

/// A certificate that vouches for itself, and its key.
pub(crate) struct Identity(CertifiedKey<KeyPair>);

impl Identity {
    /// Of these names and addresses.
    pub(crate) fn of(names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Identity(rcgen::generate_simple_self_signed(names).expect("a certificate"))
    }

    /// What others need in order to trust it.
    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", self.0.cert.der())
    }

    /// What must stay with its owner.
    pub(crate) fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.0.signing_key.serialize_der())
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivatePkcs8KeyDer::from(self.0.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has what the default versions need")
            .with_no_client_auth()
            .with_single_cert(vec![self.0.cert.der().clone()], key.into())
            .expect("the key is the certificate's");
        TlsAcceptor::from(Arc::new(config))
    }
}

fn pem(kind: &str, content: &[u8]) -> String {
    let content = base64::engine::general_purpose::STANDARD.encode(content);
    format!("-----BEGIN {kind}-----\n{content}\n-----END {kind}-----\n")
}

/// The origin; its connections end with it.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    count: watch::Receiver<usize>,
    released: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Origin {
    /// Answers each request as `reply` says.
    pub(crate) async fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Origin {
        Self::start_over(None, reply).await
    }

    /// The same over TLS.
    pub(crate) async fn start_tls(
        identity: &Identity,
        reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Origin {
        Self::start_over(Some(identity.acceptor()), reply).await
    }

    async fn start_over(tls: Option<TlsAcceptor>, reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (counted, count) = watch::channel(0);
        let (released, release) = watch::channel(false);
        let (reply, counted, log) = (Arc::new(reply), Arc::new(counted), Arc::clone(&asked));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reply, counted, log, release) =
                    (Arc::clone(&reply), Arc::clone(&counted), Arc::clone(&log), release.clone());
                let answer = move |asked: Asked| {
                    let answer = reply(&asked);
                    log.lock().expect("no holder panics").push(asked);
                    counted.send_modify(|count| *count += 1);
                    answer
                };
                match tls.clone() {
                    None => drop(tokio::spawn(serve(stream, release, answer))),
                    Some(tls) => drop(tokio::spawn(async move {
                        // One that does not trust us goes away.
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream, release, answer).await;
                        }
                    })),
                }
            }
        });
        Origin { address, asked, count, released, accepting }
    }

    /// One that gives `body` to everybody.
    pub(crate) async fn of(body: Vec<u8>) -> Origin {
        Self::start(move |_| Reply::ok(&body)).await
    }

    pub(crate) fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no holder panics").clone()
    }

    /// Waits until there were so many requests.
    pub(crate) async fn asked_times(&self, count: usize) {
        let mut seen = self.count.clone();
        within("a request to the origin", seen.wait_for(|seen| *seen >= count)).await.expect("the origin runs");
    }

    /// Lets all held answers go, these and later ones.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One request of one connection. A peer that goes away is none of our business.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut release: watch::Receiver<bool>,
    answer: impl FnOnce(Asked) -> Reply,
) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => head.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).expect("a head of ASCII");
    let mut lines = head.lines();
    let request_line = lines.next().expect("a request line");
    let target = request_line.split(' ').nth(1).expect("a target").to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let reply = answer(Asked { target, headers });
    if stream.write_all(&reply.first).await.is_err() {
        return;
    }
    if let Some(held) = reply.held {
        tokio::select! {
            released = release.wait_for(|released| *released) => if released.is_err() { return },
            // The other side does not wait any longer.
            _ = stream.read_u8() => return,
        }
        let _ = stream.write_all(&held).await;
    }
    let _ = stream.shutdown().await;
}

//! Plain HTTP clients: HTTP/1.1 for the cache protocol, HTTP/2 for gRPC bodies no well-behaved client would send, and
//! bare sockets for what is neither.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::Server;
use super::within;

/// An answer read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    /// The gRPC status code, from the trailers or from a trailers-only answer's headers.
    pub(crate) fn grpc_code(&self) -> Option<tonic::Code> {
        let value = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"))?;
        Some(tonic::Code::from_bytes(value.as_bytes()))
    }
}

/// One HTTP/1.1 request on a connection of its own.
pub(crate) async fn request(server: &Server, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let mut request = Request::builder().uri(path).header("host", server.address().to_string());
    if method == Method::PUT {
        // Cache clients always say how long a body is; the library would leave a zero out.
        request = request.header("content-length", body.len());
    }
    let request = request.method(method).body(Full::new(body)).expect("a well-formed request");
    send(server, request).await.expect("an answer over HTTP/1.1")
}

/// Any HTTP/1.1 request; an error where the server closed the connection instead of answering.
pub(crate) async fn send(server: &Server, request: Request<Full<Bytes>>) -> Result<Answer, hyper::Error> {
    let stream = TcpStream::connect(server.address()).await.expect("the server takes a connection");
    let call = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let answer = collect(sender.send_request(request).await?).await;
        driver.abort();
        answer
    };
    within("an answer over HTTP/1.1", call).await
}

/// One request over HTTP/2 with prior knowledge, on a connection of its own.
pub(crate) async fn send_http2(server: &Server, request: Request<Full<Bytes>>) -> Result<Answer, hyper::Error> {
    let stream = TcpStream::connect(server.address()).await.expect("the server takes a connection");
    let call = async {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let answer = collect(sender.send_request(request).await?).await;
        driver.abort();
        answer
    };
    within("an answer over HTTP/2", call).await
}

/// A gRPC call whose body is exactly `body`, length prefix and all.
pub(crate) async fn grpc_call(
    server: &Server,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Answer, hyper::Error> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{path}", server.address()))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send_http2(server, request.body(Full::new(body.into())).expect("a well-formed request")).await
}

/// A message with gRPC's five bytes in front.
pub(crate) fn grpc_frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

/// Writes `bytes` to a bare connection, half-closes, and gives whatever comes back.
pub(crate) async fn send_raw(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address()).await.expect("the server takes a connection");
    let talk = async {
        // The server may close or reset before it has read everything; what it said until then counts.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut said = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            said.extend_from_slice(&buffer[..count]);
        }
        said
    };
    within("the end of a bare connection", talk).await
}

async fn collect(answer: Response<hyper::body::Incoming>) -> Result<Answer, hyper::Error> {
    let (parts, body) = answer.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok(Answer { status: parts.status, headers: parts.headers, body: collected.to_bytes(), trailers })
}

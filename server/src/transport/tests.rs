//! What holds over the whole way from a handler to the writer.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cask_engine::clock::SystemClock;
use cask_engine::{Engine, EngineOptions};
use cask_index::{DigestFunction, Hasher};
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;

use super::sent_body::{Held, SentBody, StreamTasks};
use crate::access::instances::Instances;
use crate::access::limits::Limits;
use crate::cache::{Cache, Wire};
use crate::hot::{Answered, Frames, Hot, Method};
use crate::observe::requests::RequestCounts;
use crate::service::health::Readiness;
use crate::status::Answer;

/// Notes where what is written to it lies.
struct Noting {
    stream: DuplexStream,
    written: Arc<Mutex<Vec<Range<usize>>>>,
}

impl AsyncRead for Noting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Noting {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(slice) = slices.iter().find(|slice| !slice.is_empty()) else { return Poll::Ready(Ok(0)) };
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, slice))?;
        let start = slice.as_ptr() as usize;
        self.written.lock().push(start..start + written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What the client takes as a frame, and what the library copies of each.
const FRAME_BYTES: usize = 16 * 1024;
const HEAD_BUFFER_BYTES: usize = 256;

/// A request that is one message.
struct OneMessage(Option<Bytes>);

impl Frames for OneMessage {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Answer>>> {
        Poll::Ready(self.0.take().map(Ok))
    }

    fn is_at_end(&self) -> bool {
        self.0.is_none()
    }
}

fn framed(message: &[u8]) -> Bytes {
    [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat().into()
}

#[tokio::test]
async fn bytes_of_a_blob_are_not_copied_between_the_store_and_the_writer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = EngineOptions::new(256 << 20);
    let (engine, _) = Engine::open(folder.path(), options, Arc::new(SystemClock::new())).expect("a store");
    let cache = Cache::new(engine, Instances::default(), Limits::default());
    let content = Bytes::from((0..1_500_000_u32).map(|number| number as u8).collect::<Vec<_>>());
    let digest = Hasher::digest(DigestFunction::Sha256, &content);
    cache.put(digest, content.clone()).await.expect("it is stored");

    // Where the store has it, for as long as somebody holds it.
    let mut held = Vec::new();
    let mut blob = cache.read(&digest, 0, None, Wire::Plain).expect("it is there");
    while let Some(chunk) = blob.next_chunk().await.expect("it can be read") {
        held.push(chunk);
    }

    let (near, far) = tokio::io::duplex(1 << 20);
    let written = Arc::new(Mutex::new(Vec::new()));
    let near = Noting { stream: near, written: Arc::clone(&written) };
    let (_readiness, readiness_seen) = watch::channel(Readiness::Serving);
    let hot = Hot::new(cache.clone(), readiness_seen);
    let counts = Arc::new(RequestCounts::new(&[]));
    let resource_name = format!("blobs/{}/{}", digest.hash_hex(), digest.size_bytes());
    let request = cask_proto::bytestream::ReadRequest { resource_name, ..Default::default() }.encode_to_vec();
    let service = hyper::service::service_fn(move |_: http::Request<hyper::body::Incoming>| {
        let (hot, counts, request) = (hot.clone(), Arc::clone(&counts), framed(&request));
        async move {
            let answered = hot.answer(Method::Read, None, OneMessage(Some(request))).await;
            let Ok(Answered::Stream(stream)) = answered else { panic!("the blob is there") };
            let body =
                SentBody::of_read(stream, counts.begin_grpc("/google.bytestream.ByteStream/Read"), Held::default());
            Ok::<_, std::convert::Infallible>(http::Response::new(body))
        }
    });
    let server = hyper::server::conn::http2::Builder::new(StreamTasks).serve_connection(TokioIo::new(near), service);
    let server = tokio::spawn(server);
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(far))
        .await
        .expect("a connection");
    tokio::spawn(connection);
    let ask = http::Request::get("http://cask/").body(http_body_util::Empty::<Bytes>::new()).expect("a request");
    let answer = sender.send_request(ask).await.expect("an answer").into_body().collect().await.expect("all of it");
    let received = answer.to_bytes();
    assert!(received.len() > content.len() && received.ends_with(&content[content.len() - 1000..]));

    let of_the_store: usize = written
        .lock()
        .iter()
        .filter(|range| {
            held.iter().any(|chunk| {
                let start = chunk.as_ptr() as usize;
                range.start >= start && range.end <= start + chunk.len()
            })
        })
        .map(ExactSizeIterator::len)
        .sum();
    // HTTP/2's library puts the first bytes of a frame behind its head, so that the head does not go alone.
    let frames = content.len().div_ceil(FRAME_BYTES) + 64;
    assert!(
        of_the_store >= content.len() - frames * HEAD_BUFFER_BYTES,
        "{of_the_store} of {} bytes reached the writer from where the store has them",
        content.len()
    );
    server.abort();
}

//! What clients can make the server hold is bounded, and what is over a bound is refused with a code that says whether to try again.

use std::convert::Infallible;

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest, ExecutedActionMetadata,
    FindMissingBlobsRequest, batch_update_blobs_request,
};
use bazel_remote_apis::google::protobuf::Timestamp;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;

use super::robustness::{FIND_MISSING, METHODS};
use crate::support::blob::{absent_digest, blob, digest_of};
use crate::support::grpc::{assert_code, assert_invalid, piece, update_item, write_messages};
use crate::support::http::{grpc_call, grpc_frame, request, send};
use crate::support::metrics::Metrics;
use crate::support::process::{Options, Server};
use crate::support::within;
use crate::{start, start_with};

const MIB: usize = 1024 * 1024;
const BATCH_UPDATE: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";

#[tokio::test]
async fn a_message_that_cannot_be_decoded_is_invalid_and_not_worth_a_retry() {
    let (server, _cache) = start().await;
    for path in METHODS {
        for (what, body) in [
            ("garbage for a message", grpc_frame(&[0xff; 100])),
            ("a field cut short", grpc_frame(b"\x0a\x7fabc")),
            ("a length longer than the body", vec![0, 0, 0, 1, 0, 1, 2, 3]),
            ("half a length", vec![0, 0]),
            ("a length of 1 GiB", vec![0, 0x40, 0, 0, 0, 1, 2, 3]),
            ("an unknown flag", vec![7, 0, 0, 0, 0]),
        ] {
            let answer = grpc_call(&server, path, &[], body).await.expect("an answer");
            assert_eq!(answer.grpc_code(), Some(Code::InvalidArgument), "{path}, {what}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_clients_could_not_receive_is_refused() {
    let (server, cache) = start().await;
    let present = cache.store(b"present").await;
    let absent = absent_digest(1);
    let ask = |digest: &Digest, count: usize| {
        let request = FindMissingBlobsRequest { blob_digests: vec![digest.clone(); count], ..Default::default() };
        grpc_call(&server, FIND_MISSING, &[], grpc_frame(&request.encode_to_vec()))
    };
    // 72 bytes a digest: 4.1 MiB asked. Few of them missing is a small answer.
    let answer = ask(&present, 60_000).await.expect("an answer");
    assert_eq!(answer.grpc_code(), Some(Code::Ok));
    let answer = ask(&absent, 60_000).await.expect("an answer");
    assert_eq!(answer.grpc_code(), Some(Code::InvalidArgument), "{answer:?}");
    let answer = ask(&absent, 50_000).await.expect("an answer");
    assert_eq!(answer.grpc_code(), Some(Code::Ok));
    assert!(answer.body.len() < 4 * MIB);
}

#[tokio::test]
async fn a_write_message_over_the_limit_is_invalid_and_one_just_under_4_mib_is_not() {
    let (_server, cache) = start().await;
    // What the widest client sends at once.
    let (digest, data) = blob(5, 4_193_415);
    cache.write(vec![piece(&cache.write_name(&digest), 0, &data, true)]).await.expect("Write");
    let (digest, data) = blob(6, 6 * MIB);
    let outcome = cache.write(vec![piece(&cache.write_name(&digest), 0, &data, true)]).await;
    assert_invalid(&outcome, "a message of 6 MiB");
    // In pieces it is welcome.
    cache.upload(&digest, &data).await.expect("Write");
}

#[tokio::test]
async fn a_blob_over_the_limit_is_refused_before_its_bytes_whichever_way_it_comes() {
    let (server, cache) = start_with(Options::with_max_size("64MiB")).await;
    let huge = Digest { size_bytes: 1 << 40, ..absent_digest(42) };
    // The client sends the first piece only, and the answer comes all the same.
    let mut write = cache.open_write();
    write.send(piece(&cache.write_name(&huge), 0, &[0; 1000], false)).await;
    assert_invalid(&write.answer().await, "a stream");
    let head = format!(
        "PUT /cas/{} HTTP/1.1\r\nHost: cask\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        huge.hash,
        1_u64 << 40
    );
    let said = crate::support::http::send_raw(&server, head.as_bytes()).await;
    assert!(said.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&said));
}

type HalfBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

async fn connect(server: &Server) -> SendRequest<HalfBody> {
    let stream = TcpStream::connect(server.address()).await.expect("the server takes a connection");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    sender
}

/// A batch whose message announces 4 MiB and stops one byte short of them.
fn half_batch(server: &Server) -> Request<HalfBody> {
    let mut half = grpc_frame(&vec![0; 4 * MIB]);
    half.pop();
    let frames = tokio_stream::iter([Ok(Frame::data(Bytes::from(half)))]).chain(futures_util::stream::pending());
    Request::post(format!("http://{}{BATCH_UPDATE}", server.address()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(HalfBody::new(StreamBody::new(frames)))
        .expect("a well-formed request")
}

/// A hundred messages of 4 MiB that never become whole: what is held of them is the budget and no more, everybody else is served
/// meanwhile, and the ones that crawl give way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_received_messages_are_in_a_budget() {
    let options = Options { max_staged: Some("32MiB".to_owned()), ..Options::default() };
    let (server, cache) = start_with(options).await;
    let before = server.anonymous_memory_bytes();
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let sender = connect(&server).await;
        for _ in 0..10 {
            let (mut sender, request) = (sender.clone(), half_batch(&server));
            calls.spawn(async move { sender.send_request(request).await });
        }
    }
    let used = |metrics: &Metrics| metrics.get("cask_budget_used{budget=\"message_bytes\"}") as usize;
    let full = async {
        while used(&Metrics::of(&server).await) < 28 * MIB {
            tokio::task::yield_now().await;
        }
    };
    within("the budget to fill", full).await;
    // Small messages have a budget of their own: nobody waits.
    for seed in 0..20 {
        let (digest, data) = blob(600 + seed, 100_000);
        cache.write(write_messages(&cache.write_name(&digest), &data, 16 * 1024)).await.expect("Write");
    }
    let metrics = Metrics::of(&server).await;
    assert!(used(&metrics) <= 32 * MIB);
    let grown = server.anonymous_memory_bytes().saturating_sub(before);
    assert!(grown < 160 * MIB as u64, "100 half messages of 4 MiB cost {} MiB", grown / MIB as u64);
    // A large one waits for those that crawl to give way; then it is received whole.
    let (digest, data) = blob(700, 4 * MIB - 100_000);
    let large = cache.batch_update(vec![(digest.clone(), data.clone())]).await;
    assert_code(&large, &[Code::Ok, Code::ResourceExhausted], "a large message while the budget is full");
    let ended = within("the first of the crawling calls", calls.join_next()).await.expect("a call");
    let answer = ended.expect("no panic").expect("an answer, not a reset");
    let code = answer.headers().get("grpc-status").expect("a status in the headers");
    assert_eq!(Code::from_bytes(code.as_bytes()), Code::ResourceExhausted);

    calls.shutdown().await;
    let empty = async {
        while !Metrics::of(&server).await.budgets_in_use().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("the budgets to be given back", empty).await;
    cache.upload(&digest, &data).await.expect("Write");
}

/// An element of a list takes two bytes on the wire and a hundred in memory: millions of empty ones are refused before they are
/// decoded, and a batch of which not even the codes fit an answer before any of it is stored.
#[tokio::test]
async fn lists_of_nothing_cost_nothing() {
    let (server, cache) = start().await;
    let before = server.anonymous_memory_bytes();
    let update = BatchUpdateBlobsRequest {
        requests: vec![batch_update_blobs_request::Request::default(); 3_000_000],
        ..Default::default()
    };
    assert_invalid(&cache.cas().batch_update_blobs(update).await, "a batch of empty uploads");
    let read = BatchReadBlobsRequest { digests: vec![Digest::default(); 3_000_000], ..Default::default() };
    assert_invalid(&cache.cas().batch_read_blobs(read).await, "a batch of empty reads");
    let find = FindMissingBlobsRequest { blob_digests: vec![Digest::default(); 3_000_000], ..Default::default() };
    assert_invalid(&cache.cas().find_missing_blobs(find).await, "a list of empty digests");
    let grown = server.anonymous_memory_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB as u64, "{} MiB for lists of nothing", grown / MIB as u64);

    let one = blob(1, 1);
    let items = vec![update_item(one.0.clone(), one.1); 55_000];
    let update = BatchUpdateBlobsRequest { requests: items, ..Default::default() };
    assert_invalid(&cache.cas().batch_update_blobs(update).await, "more items than an answer has room for");
    assert!(!cache.is_present(&one.0).await, "nothing of a refused batch is stored");
}

/// Protobuf has times that JSON has not.
#[tokio::test]
async fn a_result_without_a_json_form_is_not_acceptable() {
    let (server, cache) = start().await;
    let timestamp = Timestamp { seconds: i64::MAX, nanos: 0 };
    let metadata = ExecutedActionMetadata { queued_timestamp: Some(timestamp), ..Default::default() };
    let (action, _) = blob(2, 10);
    let result = ActionResult { exit_code: 1, execution_metadata: Some(metadata), ..Default::default() };
    cache.update_action(&action, result).await.expect("UpdateActionResult");
    for (accept, status) in [("application/json", StatusCode::NOT_ACCEPTABLE), ("*/*", StatusCode::OK)] {
        let asked = Request::get(format!("/ac/{}", action.hash)).header("accept", accept);
        let asked = asked.body(Full::default()).expect("a request");
        assert_eq!(send(&server, asked).await.expect("an answer").status, status, "{accept}");
    }
}

#[tokio::test]
async fn limits_over_http_are_told_by_their_codes() {
    let (server, _cache) = start().await;
    let answer = request(&server, Method::PUT, &format!("/ac/{}", digest_of(b"a").hash), vec![0; 9 * MIB]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

//! What no client should send: garbage, oversized things, half a protocol, none of it may hurt the server or the
//! clients beside.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use prost::Message;
use tokio::net::TcpStream;
use tonic::Code;

use crate::start;
use crate::support::blob::{blob, digest_of};
use crate::support::grpc::Cache;
use crate::support::http::{grpc_call, grpc_frame, request, send, send_http2, send_raw};
use crate::support::process::Server;
use crate::support::within;

const MIB: usize = 1024 * 1024;
pub(crate) const FIND_MISSING: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
pub(crate) const METHODS: [&str; 13] = [
    FIND_MISSING,
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/SplitBlob",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/SpliceBlob",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/GetChunkMapping",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/RegisterChunkMapping",
    "/build.bazel.remote.execution.v2.ActionCache/GetActionResult",
    "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult",
    "/google.bytestream.ByteStream/Read",
    "/google.bytestream.ByteStream/Write",
    "/google.bytestream.ByteStream/QueryWriteStatus",
];

/// The process runs, and a fresh client and the old one are served.
async fn assert_well(server: &mut Server, cache: &Cache) {
    assert!(server.is_alive(), "the server died");
    let fresh = Cache::connect(server).await;
    for cache in [cache, &fresh] {
        let digest = cache.store(b"all is well").await;
        assert_eq!(cache.read(&digest).await.expect("Read"), b"all is well");
    }
}

#[tokio::test]
async fn garbage_on_the_port_hurts_nobody() {
    let (mut server, cache) = start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let with_preface = |rest: &[u8]| [&preface[..], rest].concat();
    for garbage in [
        Vec::new(),
        b"\0".to_vec(),
        b"\n".to_vec(),
        blob(1, 100_000).1,
        // A TLS ClientHello's beginning.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET".to_vec(),
        b"GET / HTTP/1.1".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"PUT /cas/x HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"PUT /cas/x HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n".to_vec(),
        preface.to_vec(),
        with_preface(&[0xff; 1000]),
        // SETTINGS of a length it must not have.
        with_preface(&[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]),
        // DATA on a stream nobody opened, after proper SETTINGS.
        with_preface(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4]),
        // HEADERS that are no HPACK.
        with_preface(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
    ] {
        send_raw(&server, &garbage).await;
    }
    assert_well(&mut server, &cache).await;
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let (mut server, cache) = start().await;
    for size in [100_000, 2 * MIB] {
        let long = "x".repeat(size);
        let over_http1 = Request::get("/cas/x").header("host", "cask").header("x-long", &long);
        if let Ok(answer) = send(&server, over_http1.body(Full::new(Bytes::new())).expect("a request")).await {
            assert!(answer.status.is_client_error(), "{}", answer.status);
        }
        let answer = grpc_call(&server, FIND_MISSING, &[("x-long", &long)], grpc_frame(b"")).await;
        if let Ok(answer) = answer {
            assert!(answer.status != StatusCode::OK || answer.grpc_code() != Some(Code::Ok), "{answer:?}");
        }
        let line = format!("GET /cas/{long} HTTP/1.1\r\nHost: cask\r\n\r\n");
        send_raw(&server, line.as_bytes()).await;
    }
    assert_well(&mut server, &cache).await;
}

#[tokio::test]
async fn wrong_methods_and_paths_are_told_so() {
    let (mut server, cache) = start().await;
    let digest = cache.store(b"something").await;
    for method in [Method::DELETE, Method::POST, Method::PATCH, Method::OPTIONS, Method::TRACE] {
        for kind in ["cas", "ac"] {
            let answer = request(&server, method.clone(), &format!("/{kind}/{}", digest.hash), "x").await;
            let allowed = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_FOUND, StatusCode::NOT_IMPLEMENTED];
            assert!(allowed.contains(&answer.status), "{method}: {}", answer.status);
            assert!(answer.body.len() < 10 * 1024);
        }
    }
    for path in ["/", "/cas", "/cas/", "/ac/", "/nothing/here", FIND_MISSING] {
        for method in [Method::PUT, Method::DELETE] {
            let answer = request(&server, method.clone(), path, "x").await;
            assert!(!answer.status.is_success(), "{method} {path}: {}", answer.status);
            assert!(
                !answer.status.is_server_error() || answer.status == StatusCode::NOT_IMPLEMENTED,
                "{method} {path}"
            );
        }
    }
    assert_eq!(cache.read(&digest).await.expect("Read"), b"something");
    assert_well(&mut server, &cache).await;
}

#[tokio::test]
async fn an_unknown_grpc_method_is_unimplemented() {
    let (mut server, cache) = start().await;
    for path in [
        "/no.such.Service/Method",
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/NoSuchMethod",
        "/build.bazel.remote.execution.v2.Execution/Execute",
        "/build.bazel.remote.asset.v1.Fetch/NoSuchMethod",
        "/google.bytestream.ByteStream/",
    ] {
        let answer = grpc_call(&server, path, &[], grpc_frame(b"")).await.expect("an answer");
        assert_eq!(answer.grpc_code(), Some(Code::Unimplemented), "{path}: {answer:?}");
    }
    assert_well(&mut server, &cache).await;
}

#[tokio::test]
async fn bodies_that_are_no_message_are_errors() {
    let (mut server, cache) = start().await;
    for path in METHODS {
        for (what, body) in [
            ("garbage for a message", grpc_frame(&[0xff; 100])),
            ("a message cut short", grpc_frame(b"\x12\x7fabc")),
            ("a length of 4 GiB", vec![0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
            ("a length of 1 GiB", vec![0, 0x40, 0, 0, 0, 1, 2, 3]),
            ("a length longer than the body", vec![0, 0, 0, 1, 0, 1, 2, 3]),
            ("half a length", vec![0, 0]),
            ("nothing", Vec::new()),
            ("an unknown compression", vec![1, 0, 0, 0, 2, 0x0a, 0]),
            ("an unknown flag", vec![7, 0, 0, 0, 0]),
        ] {
            // A server may also just reset the stream.
            if let Ok(answer) = grpc_call(&server, path, &[], body).await {
                assert_ne!(answer.grpc_code(), Some(Code::Ok), "{path}, {what}");
            }
        }
    }
    assert_well(&mut server, &cache).await;
}

/// The framing library answered INTERNAL here, which clients retry for ever.
#[tokio::test]
async fn a_compressed_message_is_unimplemented_for_methods_hot_and_cold() {
    let (mut server, cache) = start().await;
    for path in METHODS {
        let answer = grpc_call(&server, path, &[], vec![1, 0, 0, 0, 2, 0x0a, 0]).await.expect("an answer");
        assert_eq!(answer.grpc_code(), Some(Code::Unimplemented), "{path}: {answer:?}");
    }
    assert_well(&mut server, &cache).await;
}

#[tokio::test]
async fn two_messages_to_a_unary_method_are_an_error_or_the_first_counts() {
    let (mut server, cache) = start().await;
    let digest = digest_of(b"absent");
    let message = bazel_remote_apis::build::bazel::remote::execution::v2::FindMissingBlobsRequest {
        blob_digests: vec![digest],
        ..Default::default()
    };
    let frame = grpc_frame(&message.encode_to_vec());
    let once = grpc_call(&server, FIND_MISSING, &[], frame.clone()).await.expect("an answer");
    assert_eq!(once.grpc_code(), Some(Code::Ok));
    let twice = grpc_call(&server, FIND_MISSING, &[], [frame.clone(), frame].concat()).await.expect("an answer");
    if twice.grpc_code() == Some(Code::Ok) {
        assert_eq!(twice.body, once.body);
    }
    assert_well(&mut server, &cache).await;
}

#[tokio::test]
async fn grpc_needs_its_content_type() {
    let (mut server, cache) = start().await;
    for content_type in ["text/plain", "application/json", "application/x-www-form-urlencoded"] {
        let request = Request::post(format!("http://{}{FIND_MISSING}", server.address()))
            .header("content-type", content_type)
            .body(Full::new(Bytes::from(grpc_frame(b""))))
            .expect("a request");
        if let Ok(answer) = send_http2(&server, request).await {
            assert!(
                answer.status != StatusCode::OK || answer.grpc_code() != Some(Code::Ok),
                "{content_type}: {answer:?}"
            );
        }
    }
    // Its variants are gRPC all the same.
    let request = Request::post(format!("http://{}{FIND_MISSING}", server.address()))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(grpc_frame(b""))))
        .expect("a request");
    let answer = send_http2(&server, request).await.expect("an answer");
    assert_eq!(answer.grpc_code(), Some(Code::Ok), "{answer:?}");
    assert_well(&mut server, &cache).await;
}

/// A broken gRPC timeout header must not break the call's stream in a way that hangs.
#[tokio::test]
async fn odd_timeouts_do_not_hang() {
    let (mut server, cache) = start().await;
    for timeout in ["1S", "99999999H", "0n", "abc", "-1S", "1", ""] {
        let answer = grpc_call(&server, FIND_MISSING, &[("grpc-timeout", timeout)], grpc_frame(b"")).await;
        let answer = answer.unwrap_or_else(|error| panic!("{timeout:?}: {error}"));
        assert_eq!(answer.status, StatusCode::OK, "{timeout:?}: {answer:?}");
    }
    assert_well(&mut server, &cache).await;
}

#[tokio::test]
async fn very_many_connections_come_and_go() {
    let (mut server, cache) = start().await;
    let files_before = server.open_file_count();
    let mut open = Vec::new();
    for _ in 0..300 {
        open.push(TcpStream::connect(server.address()).await.expect("a connection"));
    }
    assert_well(&mut server, &cache).await;
    drop(open);
    // The server sees them go in its own time.
    let gone = async {
        while server.open_file_count() > files_before + 32 {
            cache.capabilities().await.expect("GetCapabilities");
        }
    };
    within("closed connections to be let go", gone).await;
    assert_well(&mut server, &cache).await;
}

#[tokio::test]
async fn readers_that_do_not_read_cost_little() {
    let (mut server, cache) = start().await;
    let (digest, data) = blob(7, 32 * MIB);
    cache.upload(&digest, &data).await.expect("Write");
    let before = server.anonymous_memory_bytes();
    let mut idle = Vec::new();
    for _ in 0..20 {
        let slow = Cache::connect(&server).await;
        for _ in 0..4 {
            idle.push(slow.read_stream(&slow.read_name(&digest), 0, 0).await.expect("Read"));
        }
    }
    // Beside them a reader that reads is served.
    assert!(cache.read(&digest).await.expect("Read") == data);
    let grown = server.anonymous_memory_bytes().saturating_sub(before);
    assert!(grown < 256 * MIB as u64, "80 idle readers cost {grown} bytes");
    for mut stream in idle {
        let first = within("the first piece", stream.message()).await.expect("Read").expect("a piece");
        assert!(data.starts_with(&first.data));
    }
    assert_well(&mut server, &cache).await;
}

#[tokio::test]
async fn a_folder_in_use_is_refused_with_a_word() {
    let (mut server, cache) = start().await;
    cache.store(b"something").await;
    let (status, printed) = server.run_another();
    assert!(!status.success(), "two processes on one folder");
    assert!(printed.contains("use"), "a word on why: {printed}");
    assert_well(&mut server, &cache).await;
}

#[tokio::test]
async fn a_folder_that_is_something_elses_is_refused_with_a_word() {
    let (mut server, _cache) = start().await;
    server = server.stop().await;
    std::fs::remove_dir_all(server.store()).expect("the store goes");
    std::fs::create_dir(server.store()).expect("a folder");
    std::fs::write(server.store().join("thesis.tex"), "three years of work").expect("a file");
    let (status, printed) = server.run_another();
    assert!(!status.success(), "a store was made among somebody's files");
    assert!(printed.contains("store"), "a word on why: {printed}");
    assert_eq!(std::fs::read(server.store().join("thesis.tex")).expect("a file"), b"three years of work");
}

#[tokio::test]
async fn a_stop_is_quick_with_idle_connections_open() {
    let (server, cache) = start().await;
    cache.store(b"something").await;
    let idle = TcpStream::connect(server.address()).await.expect("a connection");
    server.terminate();
    let (status, _server) = server.ended().await;
    assert!(status.success(), "after SIGTERM the server ended with {status}");
    drop(idle);
    drop(cache);
}

//! Clients that begin and do not go on: half a greeting, half a request, a byte at a time.

use tokio::io::AsyncWriteExt;

use crate::raw::{DATA, END_HEADERS, HEADERS, NONE, PREFACE, RawConnection, call_headers, frame, open_call, settings};
use crate::siege::{MIB, Siege};
use crate::support::blob::absent_digest;
use crate::support::http::grpc_frame;
use crate::{BATCH_UPDATE, FIND_MISSING, READ, WRITE};

/// Connections that say the beginning of something and keep quiet, by what they say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_never_get_as_far_as_a_request() {
    let siege = Siege::lay().await;
    let mut silent = Vec::new();
    for said in [
        Vec::new(),
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        [PREFACE, &settings(&[])[..5]].concat(),
        [PREFACE, &settings(&[])].concat(),
        // Half a head, in a frame and in a block.
        [PREFACE, &settings(&[]), &open_call(1, FIND_MISSING)[..30]].concat(),
        [PREFACE, &settings(&[]), &frame(HEADERS, NONE, 1, &call_headers(FIND_MISSING))].concat(),
        // Half of a frame that announces as much as it may.
        [PREFACE, &settings(&[]), &[3, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]].concat(),
        b"PUT /cas/".to_vec(),
        b"GET / HTTP/1.1\r\nHost: c".to_vec(),
    ] {
        for _ in 0..50 {
            let mut connection = RawConnection::silent(&siege.server).await;
            connection.send(&said).await.expect("the server reads");
            silent.push(connection);
        }
    }
    siege.endure(40 * MIB).await;
    println!("{} silent connections cost {} KiB", silent.len(), siege.grown_bytes() >> 10);
    drop(silent);
    siege.lift().await;
}

/// Closed by the client's half only: it says it will say no more, and waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_half_closed() {
    let siege = Siege::lay().await;
    for said in [
        Vec::new(),
        PREFACE.to_vec(),
        [PREFACE, &settings(&[])].concat(),
        [PREFACE, &settings(&[]), &open_call(1, WRITE)].concat(),
    ] {
        let mut half_closed = Vec::new();
        for _ in 0..50 {
            let mut connection = RawConnection::silent(&siege.server).await;
            connection.send(&said).await.expect("the server reads");
            connection.stream.shutdown().await.expect("a connection");
            half_closed.push(connection);
        }
        siege.endure(32 * MIB).await;
        // The server lets go by itself.
        for mut connection in half_closed {
            while crate::support::within("the end of a half-closed connection", connection.next_frame()).await.is_some()
            {
            }
        }
    }
    siege.lift().await;
}

/// As many streams as a connection may have, of every kind, opened and left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_and_never_finished() {
    let siege = Siege::lay().await;
    let mut waiting = Vec::new();
    for path in
        [FIND_MISSING, BATCH_UPDATE, READ, WRITE, "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult"]
    {
        let mut connection = RawConnection::greeted(&siege.server, &[]).await;
        for number in 0..1000 {
            // Half of them with half a message.
            let mut opened = open_call(number * 2 + 1, path);
            if number % 2 == 1 {
                opened.extend(frame(DATA, NONE, number * 2 + 1, &[0, 0, 0, 0x10, 0, 1, 2, 3]));
            }
            connection.send(&opened).await.expect("the server reads");
        }
        assert!(connection.is_heard().await, "{path}: the server keeps the connection");
        waiting.push(connection);
    }
    let metrics = siege.metrics().await;
    assert!(metrics.count("cask_requests_in_flight") > 4000, "{}", metrics.count("cask_requests_in_flight"));
    siege.endure(96 * MIB).await;
    println!("5000 open streams cost {} KiB", siege.grown_bytes() >> 10);
    drop(waiting);
    siege.lift().await;
}

/// More than a connection may have: the rest is refused, and those that are open live on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_limit_are_refused() {
    let siege = Siege::lay().await;
    let mut connection = RawConnection::greeted(&siege.server, &[]).await;
    for number in 0..5000 {
        if connection.send_and_drain(&open_call(number * 2 + 1, WRITE)).await.is_err() {
            break;
        }
    }
    siege.endure(32 * MIB).await;
    let metrics = siege.metrics().await;
    assert!(metrics.count("cask_requests_in_flight") <= 1025, "{}", metrics.count("cask_requests_in_flight"));
    drop(connection);
    siege.lift().await;
}

/// Writers that send a byte, wait until it is read, and send the next: nobody waits for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_a_byte_at_a_time() {
    let siege = Siege::lay().await;
    let mut writers = Vec::new();
    for number in 0..50 {
        let mut connection = RawConnection::greeted(&siege.server, &[]).await;
        let digest = absent_digest(900 + number);
        let name = siege.cache.write_name(&digest);
        let message = crate::support::grpc::piece(&name, 0, &[7; 24], true);
        let body = grpc_frame(&prost::Message::encode_to_vec(&message));
        connection.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(WRITE))).await.expect("the server reads");
        writers.push((connection, body.into_iter()));
    }
    for round in 0..100 {
        for (connection, body) in &mut writers {
            let byte = body.next().expect("a message is longer than that");
            connection.send(&frame(DATA, NONE, 1, &[byte])).await.expect("the server reads");
        }
        if round % 10 == 0 {
            siege.ordinary_calls(round).await;
            siege.assert_grown_below(16 * MIB, "trickled uploads");
        }
    }
    drop(writers);
    siege.lift().await;
}

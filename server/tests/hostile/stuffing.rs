//! Windows: those that the server grants are filled, those that the client grants are wide open and nothing is read.

use bazel_remote_apis::build::bazel::remote::execution::v2::{BatchReadBlobsRequest, Digest, FindMissingBlobsRequest};
use bazel_remote_apis::google::bytestream::ReadRequest;
use prost::Message;

use crate::raw::{INITIAL_WINDOW_SIZE, RawConnection, WINDOW_BYTES_MAX, whole_call, window_update};
use crate::siege::{MIB, Siege};
use crate::support::blob::{absent_digest, blob};
use crate::support::process::Options;
use crate::{BATCH_READ, FIND_MISSING, READ};

/// Connections that grant all the window there is, ask, and read nothing of the answers.
async fn ask_and_not_read(
    siege: &Siege,
    connections: u32,
    streams: u32,
    path: &str,
    message: &[u8],
) -> Vec<RawConnection> {
    let mut deaf = Vec::new();
    for _ in 0..connections {
        let mut connection = RawConnection::greeted(&siege.server, &[(INITIAL_WINDOW_SIZE, WINDOW_BYTES_MAX)]).await;
        connection.send(&window_update(0, WINDOW_BYTES_MAX - 65_535)).await.expect("the server reads");
        let (reader, mut writer) = connection.stream.into_split();
        let calls: Vec<u8> = (0..streams).flat_map(|number| whole_call(number * 2 + 1, path, message)).collect();
        // The server may stop to read before it has everything: that is its right.
        let writing = tokio::spawn(async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut writer, &calls).await;
            writer
        });
        deaf.push((reader, writing));
    }
    let mut held = Vec::new();
    for (reader, writing) in deaf {
        siege.ordinary_calls(5).await;
        writing.abort();
        if let Ok(writer) = writing.await {
            held.push(RawConnection { stream: reader.reunite(writer).expect("two halves of one") });
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_grant_everything_and_read_nothing() {
    let siege = Siege::lay().await;
    let (digest, data) = blob(77, 8 << 20);
    siege.cache.upload(&digest, &data).await.expect("Write");
    let message = ReadRequest { resource_name: siege.cache.read_name(&digest), ..ReadRequest::default() };
    let held = ask_and_not_read(&siege, 8, 1000, READ, &message.encode_to_vec()).await;
    siege.endure(128 * MIB).await;
    println!("8000 unread reads of 8 MiB cost {} KiB", siege.grown_bytes() >> 10);
    drop(held);
    siege.lift().await;
}

/// Answers that are the server's own memory, not slices of the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_are_asked_for_and_not_read() {
    let options = Options { max_staged: Some("32MiB".to_owned()), ..Options::default() };
    let siege = Siege::lay_with(options).await;
    let missing: Vec<Digest> = (0..12_000).map(absent_digest).collect();
    let message = FindMissingBlobsRequest { blob_digests: missing, ..FindMissingBlobsRequest::default() };
    let held = ask_and_not_read(&siege, 4, 1000, FIND_MISSING, &message.encode_to_vec()).await;
    siege.endure(192 * MIB).await;
    println!("4000 unread lists of 900 KB cost {} KiB", siege.grown_bytes() >> 10);
    drop(held);
    siege.lift().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_are_asked_for_and_not_read() {
    let siege = Siege::lay().await;
    let (digest, data) = blob(78, 900_000);
    siege.cache.upload(&digest, &data).await.expect("Write");
    let message = BatchReadBlobsRequest { digests: vec![digest], ..BatchReadBlobsRequest::default() };
    let held = ask_and_not_read(&siege, 4, 1000, BATCH_READ, &message.encode_to_vec()).await;
    // The budget of answers is 256 MiB.
    siege.endure(320 * MIB).await;
    println!("4000 unread batches of 900 KB cost {} KiB", siege.grown_bytes() >> 10);
    drop(held);
    siege.lift().await;
}

//! Section L, log streams: made by one service, written and followed over ByteStream (lines L1 to L5).

use bazel_remote_apis::build::bazel::remote::logstream::v1::log_stream_service_client::LogStreamServiceClient;
use bazel_remote_apis::build::bazel::remote::logstream::v1::{CreateLogStreamRequest, LogStream};
use tonic::{Code, Status};

use crate::support::blob::bytes;
use crate::support::grpc::{Cache, assert_code, assert_invalid, code, piece, write_messages};
use crate::support::metrics::Metrics;
use crate::support::process::Options;
use crate::support::within;
use crate::{start, start_with};

async fn create(cache: &Cache, parent: &str) -> Result<LogStream, Status> {
    let request = CreateLogStreamRequest { parent: parent.to_owned() };
    Ok(LogStreamServiceClient::new(cache.channel.clone()).create_log_stream(request).await?.into_inner())
}

#[tokio::test]
async fn l01_a_log_has_a_name_for_readers_and_one_for_its_writer() {
    let (_server, cache) = start().await;
    for parent in ["", "main", "a/b/c"] {
        let log = create(&cache, parent).await.expect("CreateLogStream");
        let prefix = if parent.is_empty() { "logstreams/".to_owned() } else { format!("{parent}/logstreams/") };
        assert!(log.name.starts_with(&prefix), "{}", log.name);
        assert!(log.write_resource_name.starts_with(&format!("{}/", log.name)), "{}", log.write_resource_name);
        let other = create(&cache, parent).await.expect("CreateLogStream");
        assert_ne!((log.name, log.write_resource_name), (other.name, other.write_resource_name));
    }
    for malformed in ["/", "a//b", "a/blobs/b"] {
        assert_invalid(&create(&cache, malformed).await, malformed);
    }
}

/// A reader sees each piece when it is written, from its offset on, and its stream ends with the log. Long enough for several
/// pieces to have gone to the store.
#[tokio::test]
async fn l02_a_reader_follows_until_the_log_is_finished() {
    let (mut server, cache) = start().await;
    let log = create(&cache, "main").await.expect("CreateLogStream");
    let data = bytes(2, 700_000);
    let mut early = cache.read_stream(&log.name, 0, 0).await.expect("Read");
    let mut writer = cache.open_write();
    let mut seen = Vec::new();
    for (number, chunk) in data.chunks(100_000).enumerate() {
        writer.send(piece(&log.write_resource_name, number * 100_000, chunk, false)).await;
        while seen.len() < (number + 1) * 100_000 {
            let message = within("more of the log", early.message()).await.expect("Read").expect("no end yet");
            seen.extend_from_slice(&message.data);
        }
    }
    // Those who come later start where they want; one waits behind the end for what is still to come.
    let mut behind = cache.read_stream(&log.name, 700_003, 0).await.expect("Read");
    assert_eq!(cache.read_range(&log.name, 650_000, 20_000).await.expect("Read"), data[650_000..670_000]);
    let status = cache.write_status(&log.write_resource_name).await.expect("QueryWriteStatus");
    assert_eq!((status.committed_size, status.complete), (700_000, false));
    assert_eq!(Metrics::of(&server).await.get("cask_logs_open") as u64, 1);

    writer.send(piece(&log.write_resource_name, 700_000, b"the end", true)).await;
    assert_eq!(writer.answer().await.expect("Write"), 700_007);
    let last = within("the end of the log", behind.message()).await.expect("Read").expect("four bytes");
    assert_eq!(last.data, b" end");
    assert!(within("the end of the stream", behind.message()).await.expect("Read").is_none());
    while let Some(message) = within("the rest", early.message()).await.expect("Read") {
        seen.extend_from_slice(&message.data);
    }
    let whole = [&data[..], b"the end"].concat();
    assert!(seen == whole);
    assert_eq!(Metrics::of(&server).await.get("cask_logs_open") as u64, 0);

    // A finished log is in the store: any offset, after a kill too.
    server.kill();
    server.start_again();
    let cache = Cache::connect(&server).await;
    assert!(cache.read_range(&log.name, 0, 0).await.expect("Read") == whole);
    assert_eq!(cache.read_range(&log.name, 300_000, 0).await.expect("Read"), whole[300_000..]);
    assert_eq!(cache.read_range(&log.name, 700_007, 0).await.expect("Read"), b"");
    assert_eq!(code(&cache.read_range(&log.name, 700_008, 0).await), Code::OutOfRange);
    let status = cache.write_status(&log.write_resource_name).await.expect("QueryWriteStatus");
    assert_eq!((status.committed_size, status.complete), (700_007, true));
}

#[tokio::test]
async fn l02_an_empty_log_ends_when_it_is_finished() {
    let (_server, cache) = start().await;
    let log = create(&cache, "").await.expect("CreateLogStream");
    assert_eq!(cache.write(vec![piece(&log.write_resource_name, 0, b"", true)]).await.expect("Write"), 0);
    assert_eq!(cache.read_range(&log.name, 0, 0).await.expect("Read"), b"");
}

#[tokio::test]
async fn l03_the_write_name_cannot_be_read() {
    let (_server, cache) = start().await;
    let log = create(&cache, "").await.expect("CreateLogStream");
    assert_invalid(&cache.read_range(&log.write_resource_name, 0, 0).await, "Read of the write name");
}

#[tokio::test]
async fn l04_the_read_name_cannot_be_written_nor_can_a_guessed_one() {
    let (_server, cache) = start().await;
    let log = create(&cache, "").await.expect("CreateLogStream");
    assert_invalid(&cache.write(write_messages(&log.name, b"x", 10)).await, "Write to the read name");
    assert_invalid(&cache.write_status(&log.name).await, "QueryWriteStatus of the read name");
    let guessed = format!("{}/{}", log.name, "0".repeat(32));
    assert_code(&cache.write(write_messages(&guessed, b"x", 10)).await, &[Code::NotFound], "a guessed secret");
    assert_code(&cache.write_status(&guessed).await, &[Code::NotFound], "a guessed secret");
    let unknown = format!("logstreams/{}", "0".repeat(32));
    assert_code(&cache.read_range(&unknown, 0, 0).await, &[Code::NotFound], "an unknown log");
    for malformed in ["logstreams/abc", "main/logstreams/", "logstreams"] {
        assert_invalid(&cache.read_range(malformed, 0, 0).await, malformed);
        assert_invalid(&cache.write(write_messages(malformed, b"x", 10)).await, malformed);
    }
    assert_eq!(cache.write(write_messages(&log.write_resource_name, b"x", 10)).await.expect("Write"), 1);
}

/// What is written stays: no gap, no second version, nothing behind the end.
#[tokio::test]
async fn l05_a_log_only_grows_and_not_beyond_its_end() {
    let (_server, cache) = start().await;
    let log = create(&cache, "").await.expect("CreateLogStream");
    let name = &log.write_resource_name;
    // Left open by a half-close, gone on with by another stream.
    assert_eq!(cache.write(vec![piece(name, 0, b"12345", false)]).await.expect("Write"), 5);
    for wrong in [0, 4, 6, 1000] {
        assert_invalid(&cache.write(vec![piece(name, wrong, b"x", false)]).await, &format!("at {wrong}"));
    }
    assert_eq!(cache.write(vec![piece(name, 5, b"678", true)]).await.expect("Write"), 8);
    for (offset, data) in [(8, &b"9"[..]), (8, b""), (0, b"12345678")] {
        let outcome = cache.write(vec![piece(name, offset, data, true)]).await;
        assert_code(&outcome, &[Code::FailedPrecondition, Code::InvalidArgument], "after the end");
    }
    assert_eq!(cache.read_range(&log.name, 0, 0).await.expect("Read"), b"12345678");
}

#[tokio::test]
async fn l_logs_of_an_isolated_instance_and_of_an_unknown_one() {
    let options = Options { flags: vec!["--instances", "apart,cas=isolated;main"], ..Options::default() };
    let (_server, cache) = start_with(options).await;
    assert_invalid(&create(&cache, "other").await, "an unknown instance");
    let log = create(&cache, "apart").await.expect("CreateLogStream");
    assert_eq!(cache.write(write_messages(&log.write_resource_name, b"said apart", 4)).await.expect("Write"), 10);
    assert_eq!(cache.read_range(&log.name, 0, 0).await.expect("Read"), b"said apart");
    let elsewhere = log.name.replace("apart/", "main/");
    assert_eq!(code(&cache.read_range(&elsewhere, 0, 0).await), Code::NotFound);
}

/// A reader that waits for more does not keep the server from stopping.
#[tokio::test]
async fn l_waiting_readers_and_writers_do_not_hold_up_a_stop() {
    let (server, cache) = start_with(Options { drain_timeout: Some("1h".to_owned()), ..Options::default() }).await;
    let log = create(&cache, "").await.expect("CreateLogStream");
    let mut reader = cache.read_stream(&log.name, 0, 0).await.expect("Read");
    let mut writer = cache.open_write();
    writer.send(piece(&log.write_resource_name, 0, b"x", false)).await;
    assert_eq!(within("the first byte", reader.message()).await.expect("Read").expect("a byte").data, b"x");
    server.terminate();
    assert_code(&within("the reader's end", reader.message()).await, &[Code::Unavailable], "Read");
    assert_code(&within("the writer's end", writer.answer()).await, &[Code::Unavailable], "Write");
    let (status, _server) = server.ended().await;
    assert!(status.success(), "{status}");
}

//! Section G: ByteStream.Write and `QueryWriteStatus`.
//!
//! G7, G10 to G12, G29 and G30 ask for compression: they are in `compression`. G8's "one stored copy" shows only in the store's size, which a black box cannot tell from slack.

use bazel_remote_apis::google::bytestream::WriteRequest;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::blob::{absent_digest, blob, bytes, digest_of, empty_digest, malformed_hashes, uuid, with_size};
use crate::support::grpc::{Cache, assert_code, assert_invalid, code, piece, write_messages, write_messages_from};
use crate::support::process::Options;
use crate::support::within;
use crate::{start, start_with};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn g01_one_message_is_enough() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(1, 10_000);
    let committed = cache.write(vec![piece(&cache.write_name(&digest), 0, &data, true)]).await;
    assert_eq!(committed.expect("Write"), 10_000);
    assert_eq!(cache.read(&digest).await.expect("Read"), data);
}

#[tokio::test]
async fn g01_an_answer_comes_without_half_close() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(101, 10_000);
    let mut call = cache.open_write();
    call.send(piece(&cache.write_name(&digest), 0, &data, true)).await;
    assert_eq!(call.answer().await.expect("Write"), 10_000);
    assert_eq!(cache.read(&digest).await.expect("Read"), data);
}

#[tokio::test]
async fn g02_many_messages_of_any_size() {
    let (_server, cache) = start().await;
    for (number, (size, piece_bytes)) in
        [(5_000, 1), (300_000, 16 * 1024), (3 * MIB, MIB), (5 * MIB + 17, 2 * MIB), (9 * MIB, 4_193_415)]
            .into_iter()
            .enumerate()
    {
        let (digest, data) = blob(200 + number as u64, size);
        let committed = cache.write(write_messages(&cache.write_name(&digest), &data, piece_bytes)).await;
        assert_eq!(committed.expect("Write"), size as i64, "{size} bytes in pieces of {piece_bytes}");
        assert!(cache.read(&digest).await.expect("Read") == data, "{size} bytes in pieces of {piece_bytes}");
    }
}

#[tokio::test]
async fn g02_the_name_may_be_repeated() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(21, 3000);
    let name = cache.write_name(&digest);
    let messages = vec![
        piece(&name, 0, &data[..1000], false),
        piece(&name, 1000, &data[1000..2000], false),
        piece(&name, 2000, &data[2000..], true),
    ];
    assert_eq!(cache.write(messages).await.expect("Write"), 3000);
}

#[tokio::test]
async fn g02_a_finish_of_its_own_is_a_finish() {
    let (_server, cache) = start().await;
    for size in [3000, MIB, 2 * MIB] {
        let (digest, data) = blob(22 + size as u64, size);
        let name = cache.write_name(&digest);
        let messages = vec![piece(&name, 0, &data, false), piece("", size, &[], true)];
        assert_eq!(cache.write(messages).await.expect("Write"), size as i64);
        assert!(cache.read(&digest).await.expect("Read") == data);
    }
}

#[tokio::test]
async fn g03_a_wrong_hash_is_invalid_and_not_stored() {
    let (_server, cache) = start().await;
    for size in [100, 2 * MIB + 5] {
        let (claimed, _) = blob(3, size);
        let actual = bytes(33, size);
        assert_invalid(&cache.upload(&claimed, &actual).await, "bytes of another hash");
        assert_eq!(
            cache.find_missing(&[claimed.clone(), digest_of(&actual)]).await.expect("FindMissingBlobs").len(),
            2
        );
        assert_code(&cache.read(&claimed).await, &[Code::NotFound], "a refused blob");
    }
}

#[tokio::test]
async fn g04_fewer_bytes_than_claimed_are_invalid() {
    let (_server, cache) = start().await;
    for (size, sent) in [(1000, 0), (1000, 999), (2 * MIB, MIB), (2 * MIB, 2 * MIB - 1)] {
        let (digest, data) = blob(4 + size as u64, size);
        let messages = write_messages(&cache.write_name(&digest), &data[..sent], 64 * 1024);
        assert_invalid(&cache.write(messages).await, &format!("{sent} of {size} bytes"));
        assert!(!cache.is_present(&digest).await);
        // What was sent hashes right, but was not asked for under that name.
        let shorter = with_size(&digest_of(&data[..sent]), size as i64);
        let messages = write_messages(&cache.write_name(&shorter), &data[..sent], 64 * 1024);
        assert_invalid(&cache.write(messages).await, &format!("{sent} of {size} bytes, the hash of the {sent}"));
    }
}

#[tokio::test]
async fn g05_more_bytes_than_claimed_are_invalid() {
    let (_server, cache) = start().await;
    for (size, sent) in [(1000, 1001), (1, 100_000), (MIB, MIB + 1), (2 * MIB, 3 * MIB)] {
        let data = bytes(5 + size as u64, sent);
        for claimed in [with_size(&digest_of(&data), size as i64), digest_of(&data[..size])] {
            let outcome = cache.write(write_messages(&cache.write_name(&claimed), &data, 64 * 1024)).await;
            assert_invalid(&outcome, &format!("{sent} bytes for {size}"));
            assert!(!cache.is_present(&claimed).await);
        }
    }
}

#[tokio::test]
async fn g06_an_existing_blob_ends_the_write_at_once() {
    let (_server, cache) = start().await;
    for size in [50_000, 3 * MIB] {
        let (digest, data) = blob(6 + size as u64, size);
        cache.upload(&digest, &data).await.expect("Write");
        let mut call = cache.open_write();
        call.send(piece(&cache.write_name(&digest), 0, &data[..10_000], false)).await;
        // The client waits, the stream open on its side.
        assert_eq!(call.answer().await.expect("an early answer"), size as i64);
        // The connection is none the worse for it.
        assert!(cache.read(&digest).await.expect("Read") == data);
    }
}

#[tokio::test]
async fn g06_an_existing_blob_may_be_sent_in_full_again() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(61, 5 * MIB);
    for _ in 0..5 {
        assert_eq!(cache.upload(&digest, &data).await.expect("Write"), data.len() as i64);
    }
}

#[tokio::test]
async fn g08_two_writers_of_one_blob_both_succeed() {
    let (_server, cache) = start().await;
    for (seed, size) in [1000, 300_000, 4 * MIB].into_iter().enumerate() {
        let (digest, data) = blob(80 + seed as u64, size);
        let writers: Vec<_> = (0..6)
            .map(|_| {
                let (cache, digest, data) = (cache.clone(), digest.clone(), data.clone());
                tokio::spawn(async move { cache.upload(&digest, &data).await })
            })
            .collect();
        for writer in writers {
            let committed = writer.await.expect("a writer does not panic");
            assert_eq!(committed.expect("Write"), size as i64);
        }
        assert!(cache.read(&digest).await.expect("Read") == data);
    }
}

#[tokio::test]
async fn g09_a_writer_overtaken_ends_early() {
    let (_server, cache) = start().await;
    for size in [200_000, 3 * MIB] {
        let (digest, data) = blob(9 + size as u64, size);
        let mut slow = cache.open_write();
        slow.send(piece(&cache.write_name(&digest), 0, &data[..1000], false)).await;
        assert_eq!(cache.upload(&digest, &data).await.expect("Write"), size as i64);
        // The next piece is the slow writer's last: it waits for an answer, its stream open.
        slow.send(piece("", 1000, &data[1000..2000], false)).await;
        assert_eq!(slow.answer().await.expect("an early answer"), size as i64);
    }
}

#[tokio::test]
async fn g13_a_wrong_later_offset_is_invalid() {
    let (_server, cache) = start().await;
    for offset in [0, 999, 1001, 2000, i64::MAX as usize] {
        let (digest, data) = blob(1300 + (offset % 10_000) as u64, 2000);
        let name = cache.write_name(&digest);
        let messages = vec![piece(&name, 0, &data[..1000], false), piece("", offset, &data[1000..], true)];
        assert_invalid(&cache.write(messages).await, &format!("offset {offset} where 1000 is due"));
        assert!(!cache.is_present(&digest).await);
    }
    let (digest, data) = blob(1399, 2000);
    let negative = WriteRequest { write_offset: -1, ..piece(&cache.write_name(&digest), 0, &data, true) };
    assert_code(&cache.write(vec![negative]).await, &[Code::InvalidArgument, Code::OutOfRange], "a negative offset");
}

#[tokio::test]
async fn g14_an_unknown_upload_cannot_be_resumed() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(14, 2000);
    for offset in [1, 1000, 2000, 2001] {
        let from = offset.min(data.len());
        let message = piece(&cache.write_name(&digest), offset, &data[from..], true);
        let outcome = cache.write(vec![message]).await;
        assert_code(&outcome, &[Code::InvalidArgument, Code::OutOfRange], &format!("a first offset of {offset}"));
        assert!(!cache.is_present(&digest).await);
    }
}

/// Asks how far an upload came and goes on from there, as Bazel does, until it is through.
///
/// The server may still be busy with the call that broke off, so that what it says is overtaken at once: the client
/// asks again, as clients do.
async fn resume(cache: &Cache, name: &str, data: &[u8], sent: usize) -> i64 {
    let mut refused = Vec::new();
    for _ in 0..1000 {
        let status = cache.write_status(name).await.expect("QueryWriteStatus");
        let from = usize::try_from(status.committed_size).expect("a committed size is not negative");
        assert!(!status.complete, "{sent} of {} bytes were sent", data.len());
        assert!(from <= sent, "{from} bytes are said to be committed where {sent} were sent");
        match cache.write(write_messages_from(name, data, from, 64 * 1024)).await {
            Ok(committed) => return committed,
            Err(status) => refused.push(status),
        }
    }
    panic!("never resumed: {:?}", refused.last());
}

#[tokio::test]
async fn g15_a_broken_upload_is_resumed() {
    let (_server, cache) = start().await;
    for (number, sent) in [1, 1000, 64 * 1024, MIB - 1, MIB, MIB + 1, 2 * MIB + 12_345].into_iter().enumerate() {
        let (digest, data) = blob(1500 + number as u64, 3 * MIB);
        let name = cache.write_name(&digest);
        let mut call = cache.open_write();
        call.send(piece(&name, 0, &data[..sent], false)).await;
        drop(call);
        assert_eq!(resume(&cache, &name, &data, sent).await, data.len() as i64, "broken after {sent} bytes");
        assert!(cache.read(&digest).await.expect("Read") == data, "broken after {sent} bytes");
    }
}

#[tokio::test]
async fn g15_a_half_closed_upload_goes_on_where_it_stopped() {
    let (_server, cache) = start().await;
    for sent in [1000, MIB, MIB + 5000] {
        let (digest, data) = blob(15 + sent as u64, 2 * MIB);
        let name = cache.write_name(&digest);
        let committed = cache.write(vec![piece(&name, 0, &data[..sent], false)]).await;
        // Either it tells how far it came or it refuses; a status query must fit to it.
        let status = cache.write_status(&name).await.expect("QueryWriteStatus");
        assert!(!status.complete);
        match committed {
            Ok(committed) => {
                assert!((0..=sent as i64).contains(&committed));
                assert_eq!(status.committed_size, committed);
            }
            Err(error) => assert_eq!(error.code(), Code::InvalidArgument, "{error}"),
        }
        assert_eq!(resume(&cache, &name, &data, sent).await, data.len() as i64);
        assert!(cache.read(&digest).await.expect("Read") == data);
    }
}

#[tokio::test]
async fn g16_a_name_that_changes_is_invalid() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(16, 2000);
    let (other, _) = blob(161, 2000);
    for second in [cache.write_name(&digest), cache.write_name(&other), "junk".to_owned()] {
        let name = cache.write_name(&digest);
        let messages = vec![piece(&name, 0, &data[..1000], false), piece(&second, 1000, &data[1000..], true)];
        assert_invalid(&cache.write(messages).await, "a second name");
        assert!(!cache.is_present(&digest).await);
    }
}

#[tokio::test]
async fn g17_a_first_message_without_a_name_is_invalid() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(17, 2000);
    assert_invalid(&cache.write(vec![piece("", 0, &data, true)]).await, "no name");
    let late = vec![piece("", 0, &data[..1000], false), piece(&cache.write_name(&digest), 1000, &data[1000..], true)];
    assert_invalid(&cache.write(late).await, "the name on the second message");
    assert_invalid(&cache.write(vec![]).await, "no message at all");
}

#[tokio::test]
async fn g18_a_message_after_the_finish_does_no_harm() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(18, 2000);
    let name = cache.write_name(&digest);
    let messages = vec![piece(&name, 0, &data, true), piece("", 2000, b"more", true)];
    match cache.write(messages).await {
        // The blob was whole and answered for before the second message was looked at.
        Ok(committed) => assert_eq!(committed, 2000),
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
    }
    if cache.is_present(&digest).await {
        assert_eq!(cache.read(&digest).await.expect("Read"), data);
    }
    // A finish in the middle is a blob too short, whatever follows.
    let (digest, data) = blob(181, 2000);
    let name = cache.write_name(&digest);
    let messages = vec![piece(&name, 0, &data[..1000], true), piece("", 1000, &data[1000..], true)];
    assert_invalid(&cache.write(messages).await, "a finish in the middle");
    assert!(!cache.is_present(&digest).await);
}

#[tokio::test]
async fn g19_half_close_without_finish_stores_nothing() {
    let (_server, cache) = start().await;
    for size in [1000, MIB, 2 * MIB] {
        let (digest, data) = blob(19 + size as u64, size);
        let name = cache.write_name(&digest);
        let outcome = cache.write(vec![piece(&name, 0, &data, false)]).await;
        match outcome {
            Ok(committed) => assert!((0..=size as i64).contains(&committed)),
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
        }
        assert!(!cache.is_present(&digest).await, "all {size} bytes came but no finish");
        assert!(!cache.write_status(&name).await.expect("QueryWriteStatus").complete);
    }
}

#[tokio::test]
async fn g20_trailing_metadata_is_ignored() {
    let (_server, cache) = start().await;
    for (number, trailing) in ["/foo", "/foo/bar", "/a file name.txt", "/blobs/uploads/x", "/ü"].into_iter().enumerate()
    {
        let (digest, data) = blob(2000 + number as u64, 3000);
        let name = cache.write_name(&digest) + trailing;
        assert!(!cache.write_status(&name).await.expect("QueryWriteStatus").complete);
        assert_eq!(cache.write(write_messages(&name, &data, 1000)).await.expect("Write"), 3000, "{trailing}");
        assert!(cache.write_status(&name).await.expect("QueryWriteStatus").complete);
        assert_eq!(cache.read(&digest).await.expect("Read"), data);
    }
}

#[tokio::test]
async fn g21_what_is_no_uuid_is_treated_alike_everywhere() {
    let (_server, cache) = start().await;
    for (number, id) in ["not-a-uuid", "1", "00000000-0000-0000-0000-000000000000"].into_iter().enumerate() {
        let (digest, data) = blob(2100 + number as u64, 3000);
        let name = format!("uploads/{id}/blobs/{}/3000", digest.hash);
        let outcomes =
            [code(&cache.write_status(&name).await), code(&cache.write(write_messages(&name, &data, 1000)).await)];
        assert!(outcomes == [Code::Ok; 2] || outcomes == [Code::InvalidArgument; 2], "{id}: {outcomes:?}");
        assert_eq!(cache.is_present(&digest).await, outcomes[1] == Code::Ok);
    }
}

#[tokio::test]
async fn g22_one_uuid_for_two_blobs() {
    let (_server, cache) = start().await;
    let name = |id: &str, hash: &str, size: usize| format!("uploads/{id}/blobs/{hash}/{size}");

    // One after the other.
    let id = uuid();
    for seed in 220..223 {
        let (digest, data) = blob(seed, 200_000);
        let messages = write_messages(&name(&id, &digest.hash, data.len()), &data, 64 * 1024);
        assert_eq!(cache.write(messages).await.expect("Write"), 200_000);
        assert_eq!(cache.read(&digest).await.expect("Read"), data);
    }

    // At the same time, piece by piece.
    let id = uuid();
    let (one, one_data) = blob(224, 2000);
    let (two, two_data) = blob(225, 2000);
    let mut first = cache.open_write();
    let mut second = cache.open_write();
    first.send(piece(&name(&id, &one.hash, 2000), 0, &one_data[..1000], false)).await;
    second.send(piece(&name(&id, &two.hash, 2000), 0, &two_data[..1000], false)).await;
    first.send(piece("", 1000, &one_data[1000..], true)).await;
    second.send(piece("", 1000, &two_data[1000..], true)).await;
    assert_eq!(first.answer().await.expect("Write"), 2000);
    assert_eq!(second.answer().await.expect("Write"), 2000);
    assert_eq!(cache.read(&one).await.expect("Read"), one_data);
    assert_eq!(cache.read(&two).await.expect("Read"), two_data);

    // After a first that was broken off.
    let id = uuid();
    let (one, one_data) = blob(226, 2000);
    let (two, two_data) = blob(227, 2000);
    let mut broken = cache.open_write();
    broken.send(piece(&name(&id, &one.hash, 2000), 0, &one_data[..1000], false)).await;
    drop(broken);
    assert_eq!(cache.write(write_messages(&name(&id, &two.hash, 2000), &two_data, 500)).await.expect("Write"), 2000);
    assert_eq!(cache.read(&two).await.expect("Read"), two_data);
    assert!(!cache.is_present(&one).await);
}

#[tokio::test]
async fn g23_a_stored_blob_is_complete_under_any_upload_name() {
    let (_server, cache) = start().await;
    for size in [1, 5000, 2 * MIB] {
        let (digest, data) = blob(23 + size as u64, size);
        cache.upload(&digest, &data).await.expect("Write");
        let status = cache.write_status(&cache.write_name(&digest)).await.expect("QueryWriteStatus");
        assert_eq!((status.committed_size, status.complete), (size as i64, true));
    }
    let status = cache.write_status(&cache.write_name(&empty_digest())).await.expect("QueryWriteStatus");
    assert_eq!((status.committed_size, status.complete), (0, true));
}

#[tokio::test]
async fn g24_an_unknown_upload_starts_at_zero() {
    let (_server, cache) = start().await;
    let status = cache.write_status(&cache.write_name(&absent_digest(24))).await.expect("QueryWriteStatus");
    assert_eq!((status.committed_size, status.complete), (0, false));
}

#[tokio::test]
async fn g24_a_status_of_a_junk_name_is_invalid() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"something").await;
    for name in junk_write_names(&digest.hash) {
        assert_invalid(&cache.write_status(&name).await, &name);
    }
}

#[tokio::test]
async fn g25_the_committed_size_never_falls() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(25, 4 * MIB);
    let name = cache.write_name(&digest);
    let mut call = cache.open_write();
    let mut last = 0;
    let mut sent = 0;
    for message in write_messages(&name, &data, 200_000) {
        sent += message.data.len() as i64;
        let finished = message.finish_write;
        call.send(message).await;
        let status = cache.write_status(&name).await.expect("QueryWriteStatus");
        assert!(status.committed_size >= last, "{} after {last}", status.committed_size);
        assert!(status.committed_size <= sent, "{} where {sent} were sent", status.committed_size);
        assert!(!status.complete || finished, "complete before the end");
        last = status.committed_size;
    }
    assert_eq!(call.answer().await.expect("Write"), data.len() as i64);
    let status = cache.write_status(&name).await.expect("QueryWriteStatus");
    assert_eq!((status.committed_size, status.complete), (data.len() as i64, true));
}

#[tokio::test]
async fn g26_the_empty_blob_can_be_written() {
    let (_server, cache) = start().await;
    let name = cache.write_name(&empty_digest());
    assert_eq!(cache.write(vec![piece(&name, 0, &[], true)]).await.expect("Write"), 0);
    let with_bytes = cache.write(vec![piece(&cache.write_name(&empty_digest()), 0, b"x", true)]).await;
    // It exists already, so the server may answer without a look at what is sent.
    if let Err(status) = with_bytes {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}

#[tokio::test]
async fn g27_a_blob_over_the_largest_size_is_refused_before_its_data() {
    let (_server, cache) = start().await;
    let capabilities = cache.capabilities().await.expect("GetCapabilities").cache_capabilities.unwrap_or_default();
    let mut sizes = vec![1 << 40, i64::MAX];
    if capabilities.max_cas_blob_size_bytes > 0 {
        sizes.push(capabilities.max_cas_blob_size_bytes + 1);
    }
    for size in sizes {
        let digest = with_size(&absent_digest(27), size);
        let mut call = cache.open_write();
        call.send(piece(&cache.write_name(&digest), 0, b"first", false)).await;
        // The client waits, the stream open.
        assert_invalid(&call.answer().await, &format!("a blob of {size} bytes"));
    }
}

/// Fails unless the refusal says when to come again.
#[track_caller]
fn assert_full(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.get_details_retry_info().is_some(), "a refusal for want of room carries RetryInfo: {status}");
}

#[tokio::test]
async fn g28_a_full_store_refuses_with_advice_and_keeps_what_it_took() {
    let (_server, cache) = start_with(Options::with_max_size("64MiB")).await;
    let size = 700_000;
    let mut stored = Vec::new();
    let mut refused = Vec::new();
    // The default floor holds everything for minutes, so that the store fills up.
    for seed in 0..200 {
        let (digest, data) = blob(2800 + seed, size);
        match cache.upload(&digest, &data).await {
            Ok(committed) => {
                assert_eq!(committed, size as i64);
                stored.push((seed, digest));
            }
            Err(status) => {
                assert_full(&status);
                refused.push((digest, data));
                if refused.len() == 5 {
                    break;
                }
            }
        }
    }
    assert_eq!(refused.len(), 5, "{} blobs of {size} bytes went into 64 MiB", stored.len());
    assert!(stored.len() >= 20, "only {} blobs of {size} bytes went into 64 MiB", stored.len());

    let missing = cache.find_missing(&refused.iter().map(|(digest, _)| digest.clone()).collect::<Vec<_>>()).await;
    assert_eq!(missing.expect("FindMissingBlobs").len(), refused.len(), "no part of a refused blob is there");
    let (digest, data) = refused[0].clone();
    assert_code(&cache.read(&digest).await, &[Code::NotFound], "a refused blob");
    let answer = cache.batch_update(vec![(digest.clone(), data)]).await.expect("BatchUpdateBlobs");
    assert_eq!(answer, [(digest, Code::ResourceExhausted)], "in a batch the item is refused, not the call");

    // Nothing younger than the floor is lost, and reading goes on.
    let kept: Vec<_> = stored.iter().map(|(_, digest)| digest.clone()).collect();
    assert_eq!(cache.find_missing(&kept).await.expect("FindMissingBlobs"), []);
    for (seed, digest) in stored {
        assert!(cache.read(&digest).await.expect("Read") == bytes(2800 + seed, size));
    }
}

#[tokio::test]
async fn g31_empty_messages_keep_a_stream_alive() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(31, 3000);
    let name = cache.write_name(&digest);
    let messages = vec![
        piece(&name, 0, &[], false),
        piece("", 0, &[], false),
        piece("", 0, &data[..1000], false),
        piece("", 1000, &[], false),
        piece("", 1000, &data[1000..], false),
        piece("", 3000, &[], false),
        piece("", 3000, &[], true),
    ];
    assert_eq!(cache.write(messages).await.expect("Write"), 3000);
    assert_eq!(cache.read(&digest).await.expect("Read"), data);
}

#[tokio::test]
async fn g32_a_kill_in_the_middle_of_a_write_leaves_a_clean_store() {
    let (mut server, cache) = start().await;
    let (before, before_data) = blob(320, 100_000);
    cache.upload(&before, &before_data).await.expect("Write");
    let (cut, cut_data) = blob(321, 5 * MIB);
    let name = cache.write_name(&cut);
    let mut call = cache.open_write();
    for message in write_messages(&name, &cut_data, 500_000) {
        if !message.finish_write {
            call.send(message).await;
        }
    }
    // The server has seen some of it for sure once it answers for this upload's beginning.
    cache.write_status(&name).await.expect("QueryWriteStatus");
    server.kill_and_restart();

    let cache = Cache::connect(&server).await;
    assert!(!cache.is_present(&cut).await);
    assert_code(&cache.read(&cut).await, &[Code::NotFound], "a blob cut off by a kill");
    let status = cache.write_status(&name).await.expect("QueryWriteStatus");
    assert_eq!((status.committed_size, status.complete), (0, false));
    assert_eq!(cache.read(&before).await.expect("Read"), before_data);
    assert_eq!(cache.write(write_messages(&name, &cut_data, 500_000)).await.expect("Write"), 5 * MIB as i64);
    assert!(cache.read(&cut).await.expect("Read") == cut_data);
}

/// Names no Write may take, around a hash that is fine.
fn junk_write_names(hash: &str) -> Vec<String> {
    let id = uuid();
    let mut names = vec![
        String::new(),
        "junk".to_owned(),
        format!("blobs/{hash}/9"),
        format!("uploads/blobs/{hash}/9"),
        format!("uploads//blobs/{hash}/9"),
        format!("uploads/{id}/{hash}/9"),
        format!("uploads/{id}/blobs/{hash}"),
        format!("uploads/{id}/blobs/{hash}/"),
        format!("uploads/{id}/blobs/{hash}/abc"),
        format!("uploads/{id}/blobs/{hash}/-1"),
        format!("uploads/{id}/blobs/{hash}/+9"),
        format!("uploads/{id}/blobs/{hash}/99999999999999999999999"),
        format!("uploads/{id}/blobs//{hash}/9"),
        format!("/uploads/{id}/blobs/{hash}/9"),
        format!("uploads/{id}/blobs/unheard-of/{hash}/9"),
        format!("uploads/{id}/compressed-blobs/{hash}/9"),
    ];
    names.extend(malformed_hashes().into_iter().map(|(_, hash)| format!("uploads/{id}/blobs/{hash}/9")));
    names
}

#[tokio::test]
async fn g_junk_names_are_invalid() {
    let (_server, cache) = start().await;
    let digest = digest_of(b"something");
    for name in junk_write_names(&digest.hash) {
        let outcome = cache.write(vec![piece(&name, 0, b"something", true)]).await;
        assert_invalid(&outcome, &name);
    }
    assert!(!cache.is_present(&digest).await);
}

#[tokio::test]
async fn g_writes_that_are_broken_off_leave_nothing_behind() {
    let (server, cache) = start().await;
    let mut memory_after_some = 0;
    for round in 0..300 {
        let (digest, data) = blob(0x6000_0000 + round, 600_000);
        let mut call = cache.open_write();
        call.send(piece(&cache.write_name(&digest), 0, &data[..500_000], false)).await;
        drop(call);
        if round == 100 {
            memory_after_some = server.anonymous_memory_bytes();
        }
    }
    // Nothing that was abandoned stands in the way of a new upload.
    let (digest, data) = blob(0x6fff_ffff, 3 * MIB);
    let committed = within("a write after broken ones", cache.upload(&digest, &data)).await;
    assert_eq!(committed.expect("Write"), data.len() as i64);
    let grown = server.anonymous_memory_bytes().saturating_sub(memory_after_some);
    assert!(grown < 128 * MIB as u64, "200 broken writes left {grown} bytes behind");
}

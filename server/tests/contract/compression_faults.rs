//! Known faults of compression, by their numbers: 9 (offsets), 10 (what is committed), 29 (streams made to hurt).

use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;
use http::Method;
use tokio::task::JoinSet;
use tonic::Code;

use super::compression::{
    both, http, read_name, store, text, unzstd, upload, write_name, wrong_streams, zstd, zstd_item,
};
use crate::support::blob::{absent_digest, bytes, digest_of, with_size};
use crate::support::grpc::{Cache, assert_code, assert_invalid, piece, write_messages};
use crate::support::process::Server;

const MIB: usize = 1024 * 1024;

/// Offsets of a compressed read count plain bytes, whichever way the blob came; and a limit, which cannot be kept, is refused.
#[tokio::test]
async fn fault_09_compressed_reads_keep_their_offset_and_refuse_a_limit() {
    for (_server, cache) in both().await {
        // A part of this store is 256 KiB.
        for size in [1, 5000, 262_144, 262_145, 700_001] {
            for (came, data) in
                [("plain", text(900 + size as u64, size)), ("compressed", text(901 + size as u64, size))]
            {
                let digest = digest_of(&data);
                if came == "plain" {
                    store(&cache, &data).await;
                } else {
                    upload(&cache, &digest, &zstd(&data)).await.expect("Write");
                }
                let size = size as i64;
                for offset in [i64::MIN, -1, 0, 1, 65_537, 262_143, 262_144, size - 1, size, size + 1, i64::MAX] {
                    let what = format!("{size} bytes that came {came}, offset {offset}");
                    let found = cache.read_range(&read_name(&digest), offset, 0).await;
                    if (0..=size).contains(&offset) {
                        let found = found.unwrap_or_else(|status| panic!("{what}: {status}"));
                        assert!(unzstd(&found) == data[offset as usize..], "{what}");
                    } else {
                        assert_code(&found, &[Code::OutOfRange], &what);
                    }
                    for limit in [i64::MIN, -1, 1, size, size + 1, i64::MAX] {
                        let found = cache.read_range(&read_name(&digest), offset, limit).await;
                        let what = format!("{what}, limit {limit}");
                        if (0..=size).contains(&offset) {
                            assert_invalid(&found, &what);
                        } else {
                            assert_code(&found, &[Code::InvalidArgument, Code::OutOfRange], &what);
                        }
                    }
                }
            }
        }
    }
}

/// Clients count what they sent against what is committed: the size of a plain write, for a compressed one the bytes that were
/// sent or -1, and -1 where it ended early.
#[tokio::test]
async fn fault_10_what_is_committed_is_what_the_client_counts() {
    for (_server, cache) in both().await {
        for (seed, size) in [(1000, 5000), (1001, 300_000), (1002, 2 * MIB + 9)] {
            let data = text(seed, size);
            let (digest, stream) = (digest_of(&data), zstd(&data));
            let size = size as i64;
            let what = format!("{size} bytes");

            // A wrong size must fail, by either way, before the blob is there and after.
            let wrong = [with_size(&digest, size - 1), with_size(&digest, size + 1)];
            let refused = |wrong: Digest| {
                let (cache, data, stream, what) = (&cache, &data, &stream, &what);
                async move {
                    assert_invalid(&upload(cache, &wrong, stream).await, &format!("{what} as {}", wrong.size_bytes));
                    assert_invalid(&cache.upload(&wrong, data).await, &format!("{what} as {}", wrong.size_bytes));
                }
            };
            for wrong in &wrong {
                refused(wrong.clone()).await;
            }
            let committed = upload(&cache, &digest, &stream).await.expect(&what);
            assert!(committed == stream.len() as i64 || committed == -1, "{what}: {committed}");
            for wrong in &wrong {
                refused(wrong.clone()).await;
            }

            // Now it is there. The client sends one piece and waits, or all of it, in few pieces or many.
            let mut call = cache.open_write();
            call.send(piece(&cache.write_name(&digest), 0, &data[..100], false)).await;
            assert_eq!(call.answer().await.expect(&what), size, "{what}: plain, one piece");
            let mut call = cache.open_write();
            call.send(piece(&write_name(&digest), 0, &stream[..100], false)).await;
            assert_eq!(call.answer().await.expect(&what), -1, "{what}: compressed, one piece");
            for piece_bytes in [1000, 65_536, 4 * MIB - 65_536] {
                let plain = cache.write(write_messages(&cache.write_name(&digest), &data, piece_bytes)).await;
                assert_eq!(plain.expect(&what), size, "{what}: plain, in pieces of {piece_bytes}");
                let compressed = cache.write(write_messages(&write_name(&digest), &stream, piece_bytes)).await;
                let committed = compressed.expect(&what);
                let is_count = committed == -1 || committed == stream.len() as i64;
                assert!(is_count, "{what}: compressed, in pieces of {piece_bytes}: {committed}");
            }
            for name in [cache.write_name(&digest), write_name(&digest)] {
                let status = cache.write_status(&name).await.expect(&what);
                assert_eq!((status.committed_size, status.complete), (size, true), "{what}: {name}");
            }
        }
    }
}

/// A frame of one raw block whose header says what is written here and not what is true.
fn frame(window_log: u8, claimed_size: Option<u64>, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    // No checksum, no dictionary; a content size of eight bytes or none.
    frame.push(if claimed_size.is_some() { 0xc0 } else { 0 });
    frame.push((window_log - 10) << 3);
    frame.extend(claimed_size.map(u64::to_le_bytes).into_iter().flatten());
    let block = 1 | (data.len() as u32) << 3;
    frame.extend_from_slice(&block.to_le_bytes()[..3]);
    frame.extend_from_slice(data);
    frame
}

/// A frame that decoders pass over.
fn skippable(length: usize) -> Vec<u8> {
    [&[0x50, 0x2a, 0x4d, 0x18][..], &(length as u32).to_le_bytes(), &vec![0; length]].concat()
}

/// Sends a stream by each door; true where it was acknowledged.
async fn send_by(door: &str, server: &Server, cache: &Cache, digest: &Digest, stream: &[u8], what: &str) -> bool {
    match door {
        "ByteStream" => {
            let outcome = upload(cache, digest, stream).await;
            assert_code(&outcome, &[Code::Ok, Code::InvalidArgument], what);
            outcome.is_ok()
        }
        "a batch" => {
            let answer = cache.batch_update_items(vec![zstd_item(digest, stream)]).await.expect(what);
            assert!([Code::Ok, Code::InvalidArgument].contains(&answer[0].1), "{what}: {answer:?}");
            answer[0].1 == Code::Ok
        }
        _ => {
            let size = digest.size_bytes.to_string();
            let headers = [("content-encoding", "zstd"), ("x-digest-sizebytes", size.as_str())];
            let status = http(server, Method::PUT, &format!("/cas/{}", digest.hash), &headers, stream).await.status;
            assert!(status.is_success() || status.is_client_error(), "{what}: {status}");
            status.is_success()
        }
    }
}

/// Streams made to hurt: what each is, its bytes, and whether it is the blob; `None` where a decoder may have a limit of its own.
fn hurtful(data: &[u8], bomb: &[u8]) -> Vec<(&'static str, Vec<u8>, Option<bool>)> {
    let honest = &zstd(data)[..];
    let frame_a_byte: Vec<u8> = data.iter().flat_map(|byte| zstd(&[*byte])).collect();
    let mut streams = vec![
        ("a bomb", bomb.to_vec(), Some(false)),
        ("a bomb behind the blob", [honest, bomb].concat(), Some(false)),
        ("the blob behind a bomb", [bomb, honest].concat(), Some(false)),
        ("ten bombs", bomb.repeat(10), Some(false)),
        ("a frame a byte", frame_a_byte, Some(true)),
        ("very many empty frames", [&zstd(b"").repeat(100_000)[..], honest].concat(), None),
        ("very much that is passed over", [&skippable(MIB)[..], honest, &skippable(MIB)].concat(), None),
        ("a window of 8 MiB", frame(23, None, data), Some(true)),
        ("a window of 2 GiB", frame(31, None, data), None),
        ("a window of 2 TiB", frame(41, None, data), None),
        ("a content of 1 TiB claimed", frame(20, Some(1 << 40), data), Some(false)),
        ("a content of a byte claimed", frame(20, Some(1), data), Some(false)),
        ("a content claimed rightly", frame(20, Some(data.len() as u64), data), Some(true)),
    ];
    let wrong = wrong_streams(data).into_iter().filter(|(_, stream)| !stream.is_empty());
    streams.extend(wrong.map(|(what, stream)| (what, stream, Some(false))));
    streams
}

/// By every door: what is acknowledged is the blob to the byte, everything else is refused for good, and the server holds no more
/// than the sizes that were declared.
#[tokio::test]
async fn fault_29_no_stream_costs_more_than_it_declares() {
    let bomb = zstd(&vec![0; 256 * MIB]);
    for (server, cache) in both().await {
        for (at, door) in ["ByteStream", "a batch", "HTTP"].into_iter().enumerate() {
            for number in 0..hurtful(&text(0, 3000), &bomb).len() {
                // A blob of its own, or the next would find it there.
                let data = text(2900 + 100 * at as u64 + number as u64, 3000);
                let digest = digest_of(&data);
                let (what, stream, is_blob) = hurtful(&data, &bomb).swap_remove(number);
                let what = format!("{what} by {door}");
                let taken = send_by(door, &server, &cache, &digest, &stream, &what).await;
                assert!(is_blob.is_none_or(|is_blob| is_blob == taken), "{what}: taken: {taken}");
                assert_eq!(cache.is_present(&digest).await, taken, "{what}");
                if taken {
                    assert!(cache.read(&digest).await.expect(&what) == data, "{what}");
                }
            }
        }
        // Many at once, each of which declares a part of a MiB and inflates to 256.
        let mut calls = JoinSet::new();
        for seed in 0..32 {
            let (cache, bomb) = (cache.clone(), bomb.clone());
            let claimed = with_size(&absent_digest(2900 + seed), MIB as i64);
            calls.spawn(async move { assert_invalid(&upload(&cache, &claimed, &bomb).await, "one of many bombs") });
        }
        calls.join_all().await;
        let peak = server.peak_memory_bytes();
        assert!(peak < 320 * MIB as u64, "the server held {peak} bytes at most");
        let (digest, data) = (digest_of(&bytes(29, 5000)), bytes(29, 5000));
        upload(&cache, &digest, &zstd(&data)).await.expect("a server that is well");
    }
}

//! The lines of every section that ask for compression: zstd over streams, in batches and over HTTP.
//!
//! Each is asked of a server that stores what it is given as it is, and of one that compresses it.

use bazel_remote_apis::build::bazel::remote::execution::v2::{Digest, batch_update_blobs_request, compressor};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tonic::Code;

use crate::start_with;
use crate::support::blob::{absent_digest, blob, bytes, digest_of, empty_digest, uuid, with_size};
use crate::support::damage;
use crate::support::grpc::{Cache, assert_code, assert_invalid, piece, update_item, write_messages};
use crate::support::http::{Answer, request, send};
use crate::support::process::{Options, Server};

const MIB: usize = 1024 * 1024;
/// A record's worth of blob in a store of 256 MiB.
const PART: usize = MIB / 4;

/// A server of each setting.
pub(crate) async fn both() -> Vec<(Server, Cache)> {
    let mut servers = Vec::new();
    for compression in ["--compression=off", "--compression=zstd"] {
        servers.push(start_with(Options { flags: vec![compression], ..Options::default() }).await);
    }
    servers
}

/// Compresses to about a half; depends on `seed` alone.
pub(crate) fn text(seed: u64, size: usize) -> Vec<u8> {
    bytes(seed, size).into_iter().map(|byte| b'a' + byte % 16).collect()
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(data, 3).expect("zstd compresses anything")
}

/// As clients compress that do not know the size beforehand: no content size, a checksum, pieces flushed.
fn zstd_streamed(data: &[u8], window_log: u32) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("an encoder");
    encoder.include_contentsize(false).expect("no content size");
    encoder.include_checksum(true).expect("a checksum");
    encoder.window_log(window_log).expect("a window");
    for piece in data.chunks(50_000) {
        encoder.write_all(piece).expect("zstd compresses anything");
        encoder.flush().expect("zstd compresses anything");
    }
    encoder.finish().expect("zstd compresses anything")
}

pub(crate) fn unzstd(stream: &[u8]) -> Vec<u8> {
    zstd::stream::decode_all(stream).expect("what the server sends is zstd")
}

pub(crate) fn read_name(digest: &Digest) -> String {
    format!("compressed-blobs/zstd/{}/{}", digest.hash, digest.size_bytes)
}

pub(crate) fn write_name(digest: &Digest) -> String {
    format!("uploads/{}/compressed-blobs/zstd/{}/{}", uuid(), digest.hash, digest.size_bytes)
}

pub(crate) async fn upload(cache: &Cache, digest: &Digest, stream: &[u8]) -> Result<i64, tonic::Status> {
    cache.write(write_messages(&write_name(digest), stream, 64 * 1024)).await
}

/// Uploads as it is.
pub(crate) async fn store(cache: &Cache, data: &[u8]) -> Digest {
    let digest = digest_of(data);
    assert_eq!(cache.upload(&digest, data).await.expect("Write"), data.len() as i64);
    digest
}

/// Blobs at every edge, with what they are uploaded as.
fn blobs() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let mixed = [text(1, PART + 5000), bytes(2, 2 * PART), text(3, 77)].concat();
    let frames = text(4, 300_000);
    let frames_stream: Vec<u8> = frames.chunks(1000).flat_map(zstd).chain(zstd(&[])).collect();
    let large = text(5, 5 * MIB + 17);
    vec![
        ("a byte", b"x".to_vec(), zstd(b"x")),
        ("small text", text(6, 3000), zstd(&text(6, 3000))),
        ("small noise", bytes(7, 3000), zstd(&bytes(7, 3000))),
        ("zeros", vec![0; 700_000], zstd(&vec![0; 700_000])),
        ("a part", text(8, PART), zstd_streamed(&text(8, PART), 21)),
        ("a part and a byte", text(9, PART + 1), zstd(&text(9, PART + 1))),
        ("text and noise", mixed.clone(), zstd(&mixed)),
        ("many frames", frames, frames_stream),
        ("a large window", large.clone(), zstd_streamed(&large, 25)),
        ("a large window of one record", text(10, 200_000), zstd_streamed(&text(10, 200_000), 25)),
    ]
}

#[tokio::test]
async fn a06_zstd_leads_the_compressors() {
    for (_server, cache) in both().await {
        let capabilities = cache.capabilities().await.expect("GetCapabilities").cache_capabilities.unwrap_or_default();
        for compressors in [capabilities.supported_compressors, capabilities.supported_batch_update_compressors] {
            assert_eq!(compressors.first(), Some(&(compressor::Value::Zstd as i32)), "some clients take the first");
        }
    }
}

#[tokio::test]
async fn f10_the_empty_blob_is_an_empty_stream() {
    for (_server, cache) in both().await {
        let stream = cache.read_range(&read_name(&empty_digest()), 0, 0).await.expect("Read");
        assert_eq!(unzstd(&stream), b"");
        assert_eq!(upload(&cache, &empty_digest(), &zstd(b"")).await.expect("Write"), -1);
    }
}

#[tokio::test]
async fn f13_f21_g10_g29_what_is_uploaded_either_way_is_read_either_way() {
    for (_server, cache) in both().await {
        for (what, data, stream) in blobs() {
            let digest = digest_of(&data);
            assert!(!cache.is_present(&digest).await, "{what}");
            let committed = upload(&cache, &digest, &stream).await.expect(what);
            assert_eq!(committed, stream.len() as i64, "{what}: the bytes that were sent");
            assert!(cache.read(&digest).await.expect(what) == data, "{what}: plain");
            let read = cache.read_range(&read_name(&digest), 0, 0).await.expect(what);
            assert!(unzstd(&read) == data, "{what}: compressed");

            // And uploaded plain.
            let data: Vec<u8> = data.iter().map(|byte| byte ^ 1).collect();
            let digest = store(&cache, &data).await;
            assert!(cache.read(&digest).await.expect(what) == data, "{what}: plain");
            let read = cache.read_range(&read_name(&digest), 0, 0).await.expect(what);
            assert!(unzstd(&read) == data, "{what}: compressed");
        }
    }
}

#[tokio::test]
async fn f13_what_comes_compressed_goes_compressed() {
    for (_server, cache) in both().await {
        let data = text(13, 200_000);
        let stream = zstd_streamed(&data, 20);
        upload(&cache, &digest_of(&data), &stream).await.expect("Write");
        let read = cache.read_range(&read_name(&digest_of(&data)), 0, 0).await.expect("Read");
        assert!(read == stream, "a stored stream is handed out as it came");
        // More than one record: in frames of the store's own.
        let data = text(14, 5 * MIB);
        upload(&cache, &digest_of(&data), &zstd(&data)).await.expect("Write");
        let read = cache.read_range(&read_name(&digest_of(&data)), 0, 0).await.expect("Read");
        assert!(unzstd(&read) == data && read.len() < data.len() * 3 / 4, "{} of {}", read.len(), data.len());
    }
}

#[tokio::test]
async fn f14_a_compressed_read_begins_anywhere() {
    for (_server, cache) in both().await {
        for (what, data, stream) in blobs() {
            let digest = digest_of(&data);
            upload(&cache, &digest, &stream).await.expect(what);
            for offset in [1, 2, data.len() / 2, PART - 1, PART, PART + 1, 2 * PART, data.len() - 1, data.len()] {
                if offset <= data.len() {
                    let read = cache.read_range(&read_name(&digest), offset as i64, 0).await.expect(what);
                    assert!(unzstd(&read) == data[offset..], "{what} from {offset}");
                }
            }
            for offset in [-1, data.len() as i64 + 1] {
                let outcome = cache.read_range(&read_name(&digest), offset, 0).await;
                assert_code(&outcome, &[Code::OutOfRange], &format!("{what} from {offset}"));
            }
        }
    }
}

#[tokio::test]
async fn f15_a_compressed_read_has_no_limit() {
    for (_server, cache) in both().await {
        let digest = cache.store(&text(15, 5000)).await;
        for limit in [1, 5000, 1 << 40, -1] {
            assert_invalid(&cache.read_range(&read_name(&digest), 0, limit).await, &format!("a limit of {limit}"));
        }
    }
}

#[tokio::test]
async fn f16_unserved_compressors_are_refused_for_good() {
    let (_server, cache) = start_with(Options::default()).await;
    let digest = cache.store(b"something").await;
    for compressor in ["deflate", "brotli", "identity", "lzma", "ZSTD", ""] {
        let name = format!("compressed-blobs/{compressor}/{}/{}", digest.hash, digest.size_bytes);
        for (offset, limit) in [(0, 0), (3, 0), (0, 3)] {
            assert_invalid(&cache.read_range(&name, offset, limit).await, &name);
        }
        for digest in [digest.clone(), absent_digest(16)] {
            let name =
                format!("uploads/{}/compressed-blobs/{compressor}/{}/{}", uuid(), digest.hash, digest.size_bytes);
            assert_invalid(&cache.write(vec![piece(&name, 0, &zstd(b"something"), true)]).await, &name);
            assert_invalid(&cache.write_status(&name).await, &name);
        }
    }
}

#[tokio::test]
async fn f_absent_and_wrong_names_of_compressed_blobs() {
    let (_server, cache) = start_with(Options::default()).await;
    let data = text(16, 5000);
    let digest = cache.store(&data).await;
    for absent in [absent_digest(1), with_size(&digest, 4999), with_size(&digest, 3 * MIB as i64)] {
        assert_code(&cache.read_range(&read_name(&absent), 0, 0).await, &[Code::NotFound], &read_name(&absent));
    }
}

#[tokio::test]
async fn g07_an_existing_blob_ends_a_compressed_upload_at_once() {
    for (_server, cache) in both().await {
        for (seed, size) in [(70, 5000), (71, 4 * MIB)] {
            let data = text(seed, size);
            let digest = store(&cache, &data).await;
            let stream = zstd(&data);
            assert_eq!(upload(&cache, &digest, &stream).await.expect("Write"), -1);
            // Only the beginning comes, and at an offset that no upload stands at.
            for offset in [0, 17] {
                let mut call = cache.open_write();
                call.send(piece(&write_name(&digest), offset, &stream[..100], false)).await;
                assert_eq!(call.answer().await.expect("an early answer"), -1);
            }
        }
    }
}

#[tokio::test]
async fn g09_a_compressed_upload_ends_when_another_was_faster() {
    let (_server, cache) = start_with(Options::default()).await;
    let data = text(9, 3 * MIB);
    let (digest, stream) = (digest_of(&data), zstd(&data));
    let name = write_name(&digest);
    let mut slow = cache.open_write();
    slow.send(piece(&name, 0, &stream[..1000], false)).await;
    upload(&cache, &digest, &stream).await.expect("the faster one");
    slow.send(piece("", 1000, &stream[1000..2000], false)).await;
    assert_eq!(slow.answer().await.expect("the slower one"), -1);
}

/// What a stream may be that is not the blob's.
pub(crate) fn wrong_streams(data: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let stream = zstd(data);
    let mut another = data.to_vec();
    another[data.len() / 2] ^= 1;
    let mut flipped = zstd_streamed(data, 20);
    let at = flipped.len() / 2;
    flipped[at] ^= 0x10;
    let dictionary = {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x21, 200, 7];
        frame.extend_from_slice(&stream[9..]);
        frame
    };
    vec![
        ("garbage", bytes(12, data.len())),
        ("the bytes themselves", data.to_vec()),
        ("nothing", Vec::new()),
        ("truncated", stream[..stream.len() - 1].to_vec()),
        ("half", stream[..stream.len() / 2].to_vec()),
        ("a trailing byte", [&stream[..], b"x"].concat()),
        ("a trailing zero", [&stream[..], b"\0"].concat()),
        ("half a frame behind it", [&stream[..], &stream[..10]].concat()),
        ("another content", zstd(&another)),
        ("a byte less", zstd(&data[1..])),
        ("a byte more", zstd(&[data, b"x"].concat())),
        ("twice the content", [&stream[..], &stream[..]].concat()),
        ("a flipped bit", flipped),
        ("a dictionary nobody has", dictionary),
        ("gzip", [&[0x1f, 0x8b, 8, 0][..], &stream[..]].concat()),
    ]
}

#[tokio::test]
async fn g11_g12_a_stream_that_is_not_the_blobs_is_refused_for_good() {
    for (_server, cache) in both().await {
        for (seed, size) in [(110, 4000), (111, 200_000), (112, 3 * MIB)] {
            let data = text(seed, size);
            let digest = digest_of(&data);
            for (what, stream) in wrong_streams(&data) {
                let what = format!("{what} for {size} bytes");
                let name = write_name(&digest);
                let messages = if stream.is_empty() {
                    vec![piece(&name, 0, &[], true)]
                } else {
                    write_messages(&name, &stream, 64 * 1024)
                };
                assert_invalid(&cache.write(messages).await, &what);
                let status = cache.write_status(&name).await.expect(&what);
                assert_eq!((status.committed_size, status.complete), (0, false), "{what}");
                assert!(!cache.is_present(&digest).await, "{what}");
            }
            upload(&cache, &digest, &zstd(&data)).await.expect("and the right one");
            assert!(cache.read(&digest).await.expect("Read") == data);
        }
    }
}

#[tokio::test]
async fn g13_g14_offsets_of_a_compressed_upload_count_what_was_sent() {
    let (_server, cache) = start_with(Options::default()).await;
    for (seed, size) in [(130, 5000), (131, 2 * MIB)] {
        let data = text(seed, size);
        let (digest, stream) = (digest_of(&data), zstd(&data));
        let half = stream.len() / 2;
        let name = || write_name(&digest);
        for (what, messages) in [
            ("a beginning elsewhere", vec![piece(&name(), 7, &stream, true)]),
            ("a negative offset", {
                let mut message = piece(&name(), 0, &stream, true);
                message.write_offset = -1;
                vec![message]
            }),
            ("a gap", vec![piece(&name(), 0, &stream[..half], false), piece("", half + 1, &stream[half..], true)]),
            ("a repetition", vec![piece(&name(), 0, &stream[..half], false), piece("", 0, &stream, true)]),
            (
                "uncompressed counting",
                vec![piece(&name(), 0, &stream[..half], false), piece("", half * 2 + 10, &stream[half..], true)],
            ),
        ] {
            assert_invalid(&cache.write(messages).await, what);
            assert!(!cache.is_present(&digest).await, "{what}");
        }
        let messages = vec![
            piece(&name(), 0, &[], false),
            piece("", 0, &stream[..half], false),
            piece("", half, &[], false),
            piece("", half, &stream[half..], false),
            piece("", stream.len(), &[], true),
        ];
        assert_eq!(cache.write(messages).await.expect("in order, with keep-alives"), stream.len() as i64);
    }
}

#[tokio::test]
async fn g19_a_compressed_upload_without_a_finish_is_not_stored() {
    let (_server, cache) = start_with(Options::default()).await;
    for (seed, size) in [(190, 5000), (191, 2 * MIB)] {
        let data = text(seed, size);
        let (digest, stream) = (digest_of(&data), zstd(&data));
        let committed = cache.write(vec![piece(&write_name(&digest), 0, &stream, false)]).await;
        assert_eq!(committed.expect("a half-close"), 0, "nothing of it is kept");
        assert!(!cache.is_present(&digest).await);
    }
}

#[tokio::test]
async fn g15_a_compressed_upload_that_breaks_off_starts_anew() {
    let (_server, cache) = start_with(Options::default()).await;
    for (seed, size) in [(150, 500_000), (151, 4 * MIB)] {
        let data = text(seed, size);
        let (digest, stream) = (digest_of(&data), zstd(&data));
        let name = write_name(&digest);
        let mut broken = cache.open_write();
        broken.send(piece(&name, 0, &stream[..stream.len() / 2], false)).await;
        let status = cache.write_status(&name).await.expect("QueryWriteStatus");
        assert_eq!((status.committed_size, status.complete), (0, false), "under way");
        drop(broken);
        assert_invalid(
            &cache.write(vec![piece(&name, stream.len() / 2, &stream[stream.len() / 2..], true)]).await,
            "it cannot be resumed",
        );
        let messages = write_messages(&name, &stream, 10_000);
        assert_eq!(cache.write(messages).await.expect("from the beginning"), stream.len() as i64);
        let status = cache.write_status(&name).await.expect("QueryWriteStatus");
        assert_eq!((status.committed_size, status.complete), (size as i64, true), "stored");
    }
}

/// Every byte of the window is one of the blob's, so a bomb cannot make the server take more than it promised.
#[tokio::test]
async fn g30_a_bomb_is_bounded_by_the_size_it_declares() {
    for (server, cache) in both().await {
        let bomb = zstd(&vec![0; 512 * MIB]);
        for (seed, size) in [(300, 1000), (301, PART), (302, 8 * MIB)] {
            let (digest, _) = blob(seed, size);
            assert_invalid(&upload(&cache, &digest, &bomb).await, &format!("512 MiB declared as {size}"));
            assert!(!cache.is_present(&digest).await);
        }
        // Many frames in little, each of which promises much.
        let (digest, _) = blob(303, 2 * MIB);
        let bombs = bomb.repeat(20);
        assert_invalid(&upload(&cache, &digest, &bombs).await, "twenty of them");
        let peak = server.peak_memory_bytes();
        assert!(peak < 200 << 20, "the server held {peak} bytes at most");
    }
}

#[tokio::test]
async fn g_windows_that_decoders_do_not_take_are_refused() {
    let (_server, cache) = start_with(Options::default()).await;
    let data = text(31, 2 * MIB);
    let digest = digest_of(&data);
    for window_log in [28, 30] {
        let stream = zstd_streamed(&data, window_log);
        assert_invalid(&upload(&cache, &digest, &stream).await, &format!("a window of 2^{window_log}"));
    }
    upload(&cache, &digest, &zstd_streamed(&data, 27)).await.expect("what decoders take");
}

/// Frames of a stream, one after another.
fn frames(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while !stream.is_empty() {
        let length = zstd::zstd_safe::find_frame_compressed_size(stream).expect("a frame");
        let (frame, rest) = stream.split_at(length);
        frames.push(frame);
        stream = rest;
    }
    frames
}

#[tokio::test]
async fn f_a_damaged_stored_stream_is_never_served() {
    let (server, cache) = start_with(Options::default()).await;
    let (small, large) = (text(400, 100_000), text(401, 4 * PART));
    let (small_digest, large_digest) = (digest_of(&small), digest_of(&large));
    let mut stored = Vec::new();
    for data in [&small, &large] {
        upload(&cache, &digest_of(data), &zstd(data)).await.expect("Write");
        stored.push(cache.read_range(&read_name(&digest_of(data)), 0, 0).await.expect("Read"));
    }
    let parts = frames(&stored[1]);
    assert_eq!(parts.len(), 4, "a frame a record");
    // Under the running server: at a start, what is damaged in an open segment is not even entered.
    assert_eq!(damage::flip_a_bit(&server, &stored[0], 1000), 1, "the small blob's stream is in a segment");
    assert_eq!(damage::flip_a_bit(&server, parts[2], 1000), 1, "and the large one's third part");

    assert_code(&cache.read_range(&read_name(&small_digest), 0, 0).await, &[Code::NotFound], "compressed");
    assert_code(&cache.read(&small_digest).await, &[Code::NotFound], "plain");
    assert!(!cache.is_present(&small_digest).await);
    // Half of it went out before: that must not look like an end.
    assert_code(&cache.read_range(&read_name(&large_digest), 0, 0).await, &[Code::DataLoss], "compressed");
    assert_code(&cache.read(&large_digest).await, &[Code::NotFound], "and gone from then on");
    for data in [&small, &large] {
        upload(&cache, &digest_of(data), &zstd(data)).await.expect("Write");
        assert!(cache.read(&digest_of(data)).await.expect("Read") == *data);
    }
}

pub(crate) fn zstd_item(digest: &Digest, data: &[u8]) -> batch_update_blobs_request::Request {
    batch_update_blobs_request::Request {
        compressor: compressor::Value::Zstd as i32,
        ..update_item(digest.clone(), data.to_vec())
    }
}

#[tokio::test]
async fn c08_zstd_items_are_stored_beside_plain_ones() {
    for (_server, cache) in both().await {
        let blobs: Vec<Vec<u8>> =
            vec![text(80, 10), text(81, 3000), bytes(82, 3000), text(83, 500_000), text(84, PART + 9)];
        let mut items: Vec<_> = blobs.iter().map(|data| zstd_item(&digest_of(data), &zstd(data))).collect();
        let plain = text(85, 5000);
        items.push(update_item(digest_of(&plain), plain.clone()));
        items.push(zstd_item(&empty_digest(), &zstd(b"")));
        let answer = cache.batch_update_items(items).await.expect("BatchUpdateBlobs");
        assert!(answer.iter().all(|(_, code)| *code == Code::Ok), "{answer:?}");
        for data in blobs.iter().chain([&plain]) {
            assert!(cache.read(&digest_of(data)).await.expect("Read") == *data);
        }
    }
}

#[tokio::test]
async fn c10_a_corrupt_item_fails_alone() {
    for (_server, cache) in both().await {
        for (number, size) in [4000, 200_000, PART + 500_000].into_iter().enumerate() {
            let data = text(1000 + number as u64, size);
            let digest = digest_of(&data);
            for (at, (what, stream)) in wrong_streams(&data).into_iter().enumerate() {
                let good = text(2000 + 100 * number as u64 + at as u64, 3000);
                let items = vec![zstd_item(&digest, &stream), zstd_item(&digest_of(&good), &zstd(&good))];
                let answer = cache.batch_update_items(items).await.expect(what);
                let codes: Vec<Code> = answer.into_iter().map(|(_, code)| code).collect();
                assert_eq!(codes, [Code::InvalidArgument, Code::Ok], "{what} for {size} bytes");
                assert!(!cache.is_present(&digest).await, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn c11_a_bomb_in_a_batch_is_bounded() {
    for (_server, cache) in both().await {
        let bomb = zstd(&vec![0; 256 * MIB]);
        for size in [1000, 2 * MIB] {
            let (digest, _) = blob(1100 + size as u64, size);
            let answer = cache.batch_update_items(vec![zstd_item(&digest, &bomb)]).await.expect("BatchUpdateBlobs");
            assert_eq!(answer, [(digest, Code::InvalidArgument)]);
        }
        // Digests that promise more than a batch may carry, however little is sent for them.
        let zeros = vec![0; 256 * MIB];
        let answer = cache.batch_update_items(vec![zstd_item(&digest_of(&zeros), &bomb)]).await;
        assert_invalid(&answer, "a batch of 256 MiB, uncompressed");
    }
}

#[tokio::test]
async fn d05_d06_compressors_are_offers() {
    use compressor::Value;
    for (_server, cache) in both().await {
        let sent_compressed = text(50, 5000);
        upload(&cache, &digest_of(&sent_compressed), &zstd(&sent_compressed)).await.expect("Write");
        let blobs =
            vec![sent_compressed, text(51, 5000), bytes(52, 5000), text(53, 2 * MIB), b"x".to_vec(), Vec::new()];
        for data in &blobs[1..] {
            cache.store(data).await;
        }
        let digests: Vec<Digest> = blobs.iter().map(|data| digest_of(data)).collect();
        for (accepted, takes_zstd) in [
            (vec![], false),
            (vec![Value::Identity], false),
            (vec![Value::Deflate], false),
            (vec![Value::Zstd], true),
            (vec![Value::Brotli, Value::Zstd], true),
        ] {
            let answer = cache.batch_read_accepting(&digests, &accepted).await.expect("BatchReadBlobs");
            let mut compressed = 0;
            for (item, data) in answer.iter().zip(&blobs) {
                assert_eq!(item.status.as_ref().map(|status| status.code), Some(0));
                if item.compressor == Value::Zstd as i32 {
                    compressed += 1;
                    assert!(unzstd(&item.data) == *data);
                } else {
                    assert_eq!(item.compressor, Value::Identity as i32);
                    assert!(item.data == *data);
                }
            }
            assert_eq!(compressed > 0, takes_zstd, "{accepted:?}");
            assert!(!takes_zstd || answer[0].compressor == Value::Zstd as i32, "what is stored as zstd goes as zstd");
        }
    }
}

pub(crate) async fn http(server: &Server, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut request = Request::builder().method(method.clone()).uri(path).header("host", "cask");
    if method == Method::PUT {
        request = request.header("content-length", body.len());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(server, request.body(Full::new(body.to_vec().into())).expect("a request")).await.expect("an answer")
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).and_then(|value| value.to_str().ok())
}

#[tokio::test]
async fn l16_http_bodies_may_be_zstd_both_ways() {
    for (server, cache) in both().await {
        for (what, data, stream) in blobs() {
            let digest = digest_of(&data);
            let path = format!("/cas/{}", digest.hash);
            let size = data.len().to_string();
            let told = [("content-encoding", "zstd"), ("x-digest-sizebytes", size.as_str())];
            assert_eq!(http(&server, Method::PUT, &path, &told, &stream).await.status, StatusCode::OK, "{what}");
            // Once more, now that it is there.
            assert_eq!(http(&server, Method::PUT, &path, &told, &stream).await.status, StatusCode::OK, "{what}");
            assert!(cache.read(&digest).await.expect(what) == data);

            let plain = http(&server, Method::GET, &path, &[], b"").await;
            assert!(plain.body == data, "{what}");
            assert_eq!((header(&plain, "content-encoding"), header(&plain, "vary")), (None, Some("Accept-Encoding")));
            assert_eq!(header(&plain, "content-length"), Some(size.as_str()), "{what}");
            let offered = [("accept-encoding", "gzip, zstd;q=0.8")];
            let answer = http(&server, Method::GET, &path, &offered, b"").await;
            match header(&answer, "content-encoding") {
                Some(coding) => {
                    assert_eq!(coding, "zstd", "{what}");
                    assert!(unzstd(&answer.body) == data, "{what}");
                    assert!(answer.body.len() < data.len(), "{what}: else it is not worth it");
                }
                None => assert!(answer.body == data, "{what}"),
            }
            assert_eq!(header(&answer, "vary"), Some("Accept-Encoding"), "{what}");
            for headers in [&[][..], &offered] {
                let (head, get) = (
                    http(&server, Method::HEAD, &path, headers, b"").await,
                    http(&server, Method::GET, &path, headers, b"").await,
                );
                assert_eq!(head.status, StatusCode::OK, "{what}");
                for name in ["content-encoding", "content-length", "content-type", "vary"] {
                    assert_eq!(header(&head, name), header(&get, name), "{what}: {name} of HEAD and GET");
                }
            }
        }
        let text = text(6, 3000);
        let answer =
            http(&server, Method::GET, &format!("/cas/{}", digest_of(&text).hash), &[("accept-encoding", "zstd")], b"")
                .await;
        assert_eq!(header(&answer, "content-encoding"), Some("zstd"), "what was sent compressed is sent compressed");
    }
}

#[tokio::test]
async fn l16_the_size_of_an_http_body_in_zstd_must_be_told() {
    let (server, cache) = start_with(Options::default()).await;
    let coded = ("content-encoding", "zstd");
    for (seed, size) in [(160, 5000), (161, 3 * MIB)] {
        let data = text(seed, size);
        let path = format!("/cas/{}", digest_of(&data).hash);
        // By nobody.
        let answer = http(&server, Method::PUT, &path, &[coded], &zstd_streamed(&data, 20)).await;
        assert_eq!(answer.status, StatusCode::LENGTH_REQUIRED);
        assert!(String::from_utf8_lossy(&answer.body).contains("X-Digest-SizeBytes"), "it says how");
        // Wrongly.
        for told in ["0", "1", "4999", "9000000", "-1", "many", "99999999999999999999"] {
            let headers = [coded, ("x-digest-sizebytes", told)];
            let status = http(&server, Method::PUT, &path, &headers, &zstd(&data)).await.status;
            assert!(status.is_client_error(), "{told}: {status}");
            assert!(!cache.is_present(&digest_of(&data)).await, "{told}");
        }
        // By the stream itself.
        assert_eq!(http(&server, Method::PUT, &path, &[coded], &zstd(&data)).await.status, StatusCode::OK);
        assert!(cache.read(&digest_of(&data)).await.expect("Read") == data);
    }
}

#[tokio::test]
async fn l16_a_wrong_http_body_in_zstd_is_a_bad_request() {
    let (server, cache) = start_with(Options::default()).await;
    for (seed, size) in [(170, 4000), (171, 3 * MIB)] {
        let data = text(seed, size);
        let (digest, size) = (digest_of(&data), size.to_string());
        let path = format!("/cas/{}", digest.hash);
        for (what, stream) in wrong_streams(&data) {
            let headers = [("content-encoding", "zstd"), ("x-digest-sizebytes", size.as_str())];
            let answer = http(&server, Method::PUT, &path, &headers, &stream).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what} for {size} bytes");
            assert!(!cache.is_present(&digest).await, "{what}");
        }
        for coding in ["gzip", "br", "zstd, gzip"] {
            let answer = http(&server, Method::PUT, &path, &[("content-encoding", coding)], &zstd(&data)).await;
            assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{coding}");
        }
    }
    let answer = request(&server, Method::GET, &format!("/cas/{}", absent_digest(1).hash), "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

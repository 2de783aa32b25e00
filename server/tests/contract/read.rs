//! Section F: ByteStream.Read.
//!
//! F13 to F16, F21 and F10's second half ask for compression: they are in `compression`. F17 asks for BLAKE3, which is not advertised yet: its name is refused too, and never aliases.
//! F19's 10 GiB are scaled to a blob many times larger than what the server may buffer.

use tonic::Code;

use crate::support::blob::{EMPTY_HASH, absent_digest, blob, bytes, empty_digest, malformed_hashes, with_size};
use crate::support::grpc::{Cache, assert_code, assert_invalid, code, write_messages};
use crate::support::process::Options;
use crate::support::within;
use crate::{start, start_with};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn f01_whole_blobs_byte_for_byte() {
    let (_server, cache) = start().await;
    for (seed, size) in [1, 63, 64, 65, 4096, 16 * 1024, 64 * 1024 + 1, MIB - 1, MIB, MIB + 1, 3 * MIB, 7_654_321]
        .into_iter()
        .enumerate()
    {
        let (digest, data) = blob(100 + seed as u64, size);
        assert_eq!(cache.upload(&digest, &data).await.expect("Write"), size as i64);
        assert!(cache.read(&digest).await.expect("Read") == data, "{size} bytes came back changed");
    }
}

#[tokio::test]
async fn f02_an_absent_blob_is_not_found() {
    let (_server, cache) = start().await;
    assert_code(&cache.read(&absent_digest(2)).await, &[Code::NotFound], "an absent blob");
    let name = cache.read_name(&absent_digest(2));
    assert_code(&cache.read_range(&name, 5, 5).await, &[Code::NotFound], "a range of an absent blob");
}

/// F3, F4, F5, F7, F8 in one table: each offset with each limit, over blobs of one part and of several.
#[tokio::test]
async fn f03_f04_f05_f07_f08_every_offset_with_every_limit() {
    let (_server, cache) = start().await;
    for (seed, size) in [1, 1000, 100_000, MIB, 2 * MIB + 500_000].into_iter().enumerate() {
        let (digest, data) = blob(300 + seed as u64, size);
        cache.upload(&digest, &data).await.expect("Write");
        let name = cache.read_name(&digest);
        let edges = [0, 1, 65_535, 65_536, 65_537, MIB - 1, MIB, MIB + 1, 2 * MIB, size - 1, size];
        for offset in edges.into_iter().filter(|&offset| offset <= size) {
            for limit in
                [0, 1, 2, 16_384, 65_536, MIB, MIB + 1, size - offset, size - offset + 1, size + 1, usize::MAX >> 1]
            {
                let what = format!("{size} bytes, offset {offset}, limit {limit}");
                let found = cache.read_range(&name, offset as i64, limit as i64).await;
                let end = if limit == 0 { size } else { size.min(offset.saturating_add(limit)) };
                assert!(found.expect(&what) == data[offset..end], "{what}");
            }
        }
        for offset in [size + 1, size + MIB, i64::MAX as usize] {
            for limit in [0, 1] {
                let found = cache.read_range(&name, offset as i64, limit).await;
                assert_code(&found, &[Code::OutOfRange], &format!("{size} bytes, offset {offset}"));
            }
        }
    }
}

#[tokio::test]
async fn f06_a_negative_offset_is_out_of_range() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"something").await;
    for offset in [-1, i64::MIN] {
        let found = cache.read_range(&cache.read_name(&digest), offset, 0).await;
        assert_code(&found, &[Code::OutOfRange], "a negative offset");
    }
}

#[tokio::test]
async fn f09_a_negative_limit_is_invalid() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"something").await;
    for limit in [-1, i64::MIN] {
        assert_invalid(&cache.read_range(&cache.read_name(&digest), 0, limit).await, "a negative limit");
    }
}

#[tokio::test]
async fn f10_the_empty_blob_reads_empty_without_upload() {
    let (_server, cache) = start().await;
    let name = cache.read_name(&empty_digest());
    assert_eq!(cache.read_range(&name, 0, 0).await.expect("Read"), b"");
    assert_eq!(cache.read_range(&name, 0, 10).await.expect("Read"), b"");
    assert_code(&cache.read_range(&name, 1, 0).await, &[Code::OutOfRange], "one byte into nothing");
}

#[tokio::test]
async fn f11_a_wrong_size_never_gives_data() {
    let (_server, cache) = start().await;
    let digest = cache.store(&bytes(11, 1000)).await;
    for size in [0, 1, 999, 1001, 5_000_000_000, i64::MAX] {
        let found = cache.read(&with_size(&digest, size)).await;
        assert_code(&found, &[Code::NotFound, Code::InvalidArgument], &format!("size {size}"));
    }
    let found = cache.read_range(&format!("blobs/{EMPTY_HASH}/5"), 0, 0).await;
    assert_code(&found, &[Code::NotFound, Code::InvalidArgument], "the empty hash with a size");
}

#[tokio::test]
async fn f12_junk_names_are_invalid() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"something").await;
    let hash = &digest.hash;
    let mut names = vec![
        String::new(),
        "/".to_owned(),
        "junk".to_owned(),
        "blobs".to_owned(),
        "blobs/".to_owned(),
        format!("blobs/{hash}"),
        format!("blobs/{hash}/"),
        format!("blobs/{hash}/abc"),
        format!("blobs/{hash}/-1"),
        format!("blobs/{hash}/-9"),
        format!("blobs/{hash}/+9"),
        format!("blobs/{hash}/0x9"),
        format!("blobs/{hash}/ 9"),
        format!("blobs/{hash}/9.0"),
        format!("blobs/{hash}/9/"),
        format!("blobs/{hash}/9/trailing"),
        format!("blobs/{hash}/99999999999999999999999"),
        format!("blobs//{hash}/9"),
        format!("/blobs/{hash}/9"),
        format!("a//blobs/{hash}/9"),
        format!("blob/{hash}/9"),
        format!("Blobs/{hash}/9"),
        format!("{hash}/9"),
        format!("uploads/1-2-3/blobs/{hash}/9"),
        format!("blobs/unheard-of/{hash}/9"),
        format!("compressed-blobs/{hash}/9"),
        "x/".repeat(30_000),
    ];
    names.extend(malformed_hashes().into_iter().map(|(_, hash)| format!("blobs/{hash}/9")));
    for name in names {
        assert_invalid(&cache.read_range(&name, 0, 0).await, &name[..name.len().min(120)]);
    }
    assert_eq!(cache.read(&digest).await.expect("the blob under its right name"), b"something");
}

#[tokio::test]
async fn f17_a_blake3_name_does_not_alias_sha256() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"something").await;
    let name = format!("blobs/blake3/{}/{}", digest.hash, digest.size_bytes);
    assert_code(&cache.read_range(&name, 0, 0).await, &[Code::InvalidArgument, Code::NotFound], &name);
}

#[tokio::test]
async fn f18_the_segment_that_must_be_omitted_is_treated_alike_everywhere() {
    let (_server, cache) = start().await;
    let data = bytes(18, 5000);
    let digest = cache.store(&data).await;
    let (new, new_data) = blob(180, 5000);
    let read = cache.read_range(&format!("blobs/sha256/{}/5000", digest.hash), 0, 0).await;
    let name = format!("uploads/{}/blobs/sha256/{}/5000", crate::support::blob::uuid(), new.hash);
    let status = cache.write_status(&name).await;
    let write = cache.write(write_messages(&name, &new_data, 1000)).await;
    let outcomes = [code(&read), code(&status), code(&write)];
    assert!(outcomes == [Code::Ok; 3] || outcomes == [Code::InvalidArgument; 3], "{outcomes:?}");
    assert_eq!(cache.is_present(&new).await, outcomes[2] == Code::Ok);
    if let Ok(found) = read {
        assert_eq!(found, data);
    }
}

#[tokio::test]
async fn f19_a_large_blob_streams_through_flat_memory() {
    let (server, cache) = start_with(Options::with_max_size("512MiB")).await;
    let (digest, data) = blob(19, 192 * MIB);
    let before = server.anonymous_memory_bytes();
    assert_eq!(cache.upload(&digest, &data).await.expect("Write"), data.len() as i64);
    let mut stream = cache.read_stream(&cache.read_name(&digest), 0, 0).await.expect("Read");
    let mut at = 0;
    let mut peak = 0;
    let mut next_look = 0;
    while let Some(message) = within("the next piece", stream.message()).await.expect("Read") {
        assert!(data[at..].starts_with(&message.data), "wrong bytes at {at}");
        at += message.data.len();
        if at >= next_look {
            peak = peak.max(server.anonymous_memory_bytes());
            next_look += 8 * MIB;
        }
    }
    assert_eq!(at, data.len());
    let grown = peak.saturating_sub(before);
    assert!(grown < 64 * MIB as u64, "{grown} bytes of memory grew while {at} bytes went through");
}

#[tokio::test]
async fn f20_reads_that_are_broken_off_leave_nothing_behind() {
    let (server, cache) = start().await;
    let (digest, data) = blob(20, 8 * MIB);
    cache.upload(&digest, &data).await.expect("Write");
    let name = cache.read_name(&digest);
    // A small window: the client's library gives up a connection on which too much comes for streams it has left.
    let hasty = Cache::connect_with_window(&server, 16 * 1024).await;
    let mut memory_after_some = 0;
    for round in 0..400 {
        let mut stream = hasty.read_stream(&name, 0, 0).await.expect("Read");
        within("the first piece", stream.message()).await.expect("Read");
        drop(stream);
        if round == 100 {
            memory_after_some = server.anonymous_memory_bytes();
        }
    }
    // Streams that were not given back would block this call by the limit on concurrent ones, or pile up here.
    assert!(hasty.read(&digest).await.expect("Read") == data);
    let grown = server.anonymous_memory_bytes().saturating_sub(memory_after_some);
    assert!(grown < 64 * MIB as u64, "300 broken reads left {grown} bytes behind");
}

#[tokio::test]
async fn f_a_blob_is_the_same_whichever_way_it_came() {
    let (_server, cache) = start().await;
    for (seed, size) in [10, 100_000, 2_000_000].into_iter().enumerate() {
        let (batched, batched_data) = blob(400 + seed as u64, size);
        cache.store(&batched_data).await;
        assert!(cache.read(&batched).await.expect("Read") == batched_data);
        let (streamed, streamed_data) = blob(450 + seed as u64, size);
        cache.upload(&streamed, &streamed_data).await.expect("Write");
        assert!(cache.batch_read(&[streamed]).await.expect("BatchReadBlobs")[0].data == streamed_data);
    }
}

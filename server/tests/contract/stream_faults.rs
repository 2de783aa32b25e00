//! Known faults of streams, by their numbers: 8 (limits of reads), 13 (reads taken up again).

use tonic::Code;

use crate::start;
use crate::support::blob::{blob, bytes};
use crate::support::grpc::{Cache, assert_code};
use crate::support::within;

const MIB: usize = 1024 * 1024;

/// Every offset with every limit, those that cannot be included: a limit below what remains is no error, and is kept to the byte.
#[tokio::test]
async fn fault_08_offsets_and_limits_are_kept_to_the_byte() {
    let (_server, cache) = start().await;
    // A part of this store is 256 KiB; pieces on the wire are 64 KiB.
    for size in [0, 1, 65_536, 262_144, 262_145, 700_001] {
        let (digest, data) = blob(800 + size as u64, size);
        cache.upload(&digest, &data).await.expect("Write");
        let name = cache.read_name(&digest);
        let size = size as i64;
        for offset in [i64::MIN, -size - 1, -1, 0, 1, 65_536, 262_143, 262_144, size - 1, size, size + 1, i64::MAX] {
            for limit in [i64::MIN, -1, 0, 1, 65_536, 65_537, 262_144, size - 1, size, size + 1, i64::MAX] {
                let what = format!("{size} bytes, offset {offset}, limit {limit}");
                let found = cache.read_range(&name, offset, limit).await;
                if !(0..=size).contains(&offset) {
                    // With a limit that is wrong too, either may be told.
                    let also = if limit < 0 { Code::InvalidArgument } else { Code::OutOfRange };
                    assert_code(&found, &[Code::OutOfRange, also], &what);
                } else if limit < 0 {
                    assert_code(&found, &[Code::InvalidArgument], &what);
                } else {
                    let end = if limit == 0 { size } else { offset.saturating_add(limit).min(size) };
                    let found = found.unwrap_or_else(|status| panic!("{what}: {status}"));
                    assert!(found == data[offset as usize..end as usize], "{what}: {} bytes came", found.len());
                }
            }
        }
    }
}

/// A client whose connection broke goes on where its bytes end, over another connection: none comes twice and none is left out.
#[tokio::test]
async fn fault_13_a_read_that_broke_off_goes_on_to_the_byte() {
    let (mut server, cache) = start().await;
    let (digest, data) = blob(13, 3 * MIB + 77);
    cache.upload(&digest, &data).await.expect("Write");
    let name = cache.read_name(&digest);
    // How much is taken before each break: within a piece, at its edge, beyond a part.
    for takes in [[1, 65_535, 65_536], [65_537, 262_143, 1], [262_144, 262_145, 500_000]] {
        let mut got = Vec::new();
        for wanted in takes.into_iter().cycle() {
            // A window that keeps most of the blob on the server's side, where the break finds it.
            let client = Cache::connect_with_window(&server, 65_535).await;
            let mut stream = client.read_stream(&name, got.len() as i64, 0).await.expect("Read");
            let until = got.len() + wanted;
            while got.len() < until {
                let Some(message) = within("a piece", stream.message()).await.expect("Read") else { break };
                got.extend_from_slice(&message.data);
            }
            assert!(got.len() <= data.len(), "more came than there is");
            if got.len() >= data.len() {
                break;
            }
            // Half of the last piece is lost with the connection.
            got.truncate(until.max(got.len() - 30_000));
        }
        assert!(got == data, "taken in steps of {takes:?}");
    }
    // The same over a restart in the middle.
    let mut got = cache.read_range(&name, 0, 1_234_567).await.expect("Read");
    server.kill_and_restart();
    let cache = Cache::connect(&server).await;
    got.extend(cache.read_range(&name, got.len() as i64, 0).await.expect("Read"));
    assert!(got == data);
    // What was never there is not continued.
    let absent = cache.read_name(&crate::support::blob::digest_of(&bytes(131, 5000)));
    assert_code(&cache.read_range(&absent, 2500, 0).await, &[Code::NotFound], "the second half of nothing");
}

//! Heads of requests that are too long, never end, or work the table that HPACK keeps of them.

use std::sync::Arc;

use crate::FIND_MISSING;
use crate::raw::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, NONE, RST_STREAM, RawConnection, call_headers, frame,
    indexed_literal, literal,
};
use crate::siege::{MIB, Progress, Siege};
use crate::support::process::Server;

const FRAME_BYTES: usize = 16 << 10;

/// A header block cut into frames, the last one ending it if `ends`.
fn header_frames(stream: u32, block: &[u8], ends: bool) -> Vec<u8> {
    let count = block.len().div_ceil(FRAME_BYTES);
    let mut frames = Vec::new();
    for (number, piece) in block.chunks(FRAME_BYTES).enumerate() {
        let kind = if number == 0 { HEADERS } else { CONTINUATION };
        let flags = if number + 1 == count && ends { END_HEADERS } else { NONE };
        frames.extend(frame(kind, flags, stream, piece));
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_over_64_kib_is_refused_and_its_connection_goes_on_or_is_told_to_go() {
    let siege = Siege::lay().await;
    for size in [65 << 10, 200 << 10, 2 << 20, 16 << 20] {
        let mut connection = RawConnection::greeted(&siege.server, &[]).await;
        let many: Vec<u8> = (0..size / 1000).flat_map(|_| literal("x-long", &"x".repeat(1000))).collect();
        let _ = connection.send(&header_frames(1, &[call_headers(FIND_MISSING), many].concat(), true)).await;
        // 431, a reset, or the end of the connection: any of them, and nothing else.
        let mut refused = false;
        while let Some(said) = crate::support::within("a refusal", connection.next_frame()).await {
            refused |= matches!(said.kind, HEADERS | RST_STREAM | GOAWAY);
            assert_ne!(said.kind, crate::raw::DATA, "{size}: the call was answered");
            if refused {
                break;
            }
        }
        siege.assert_grown_below(32 * MIB, "a long head");
    }
    siege.endure(32 * MIB).await;
    siege.lift().await;
}

/// Every header block is legal, and never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_continuations() {
    for piece in [Vec::new(), literal("a", "b"), literal("x-long", &"x".repeat(10_000))] {
        let siege = Siege::lay().await;
        let batch = frame(CONTINUATION, NONE, 1, &piece).repeat(100);
        let attack = |server, progress: Progress| {
            let batch = batch.clone();
            async move {
                let server: Arc<Server> = server;
                loop {
                    let mut connection = RawConnection::greeted(&server, &[]).await;
                    let begun = frame(HEADERS, NONE, 1, &call_headers(FIND_MISSING));
                    let mut outcome = connection.send_and_drain(&begun).await;
                    while outcome.is_ok() {
                        outcome = connection.send_and_drain(&batch).await;
                        progress.add(100);
                    }
                }
            }
        };
        siege.endure_attackers(4, 10_000, 32 * MIB, attack).await;
        siege.lift().await;
    }
}

/// Each request enters headers that push the earlier ones out of the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_headers_that_are_never_the_same() {
    let siege = Siege::lay().await;
    let attack = |server, progress: Progress| async move {
        let server: Arc<Server> = server;
        loop {
            let mut connection = RawConnection::greeted(&server, &[]).await;
            for call in 0_u32.. {
                let mut block = call_headers(FIND_MISSING);
                for number in 0..100 {
                    block.extend(indexed_literal(&format!("x-{call}-{number}"), &"y".repeat(60)));
                }
                let request = frame(HEADERS, END_HEADERS | END_STREAM, call * 2 + 1, &block);
                if connection.send_and_drain(&request).await.is_err() {
                    break;
                }
                progress.add(1);
            }
        }
    };
    siege.endure_attackers(4, 500, 32 * MIB, attack).await;
    siege.lift().await;
}

/// A small block that stands for a large head: one long header in the table, named again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_bombs() {
    let siege = Siege::lay().await;
    let attack = |server, progress: Progress| async move {
        let server: Arc<Server> = server;
        loop {
            let mut connection = RawConnection::greeted(&server, &[]).await;
            for call in 0_u32.. {
                let mut block = call_headers(FIND_MISSING);
                block.extend(indexed_literal("x-bomb", &"y".repeat(3900)));
                // The newest entry of the dynamic table, 12,000 times: 47 MB of headers.
                block.extend(std::iter::repeat_n(0xbe, 12_000));
                let request = frame(HEADERS, END_HEADERS | END_STREAM, call * 2 + 1, &block);
                if connection.send_and_drain(&request).await.is_err() {
                    break;
                }
                progress.add(1);
            }
            progress.add(1);
        }
    };
    siege.endure_attackers(4, 100, 64 * MIB, attack).await;
    siege.lift().await;
}

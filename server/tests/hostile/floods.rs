//! Frames that cost their sender little, by the hundred thousand: on connections that live, and on new ones whenever the server has
//! had enough of one.

use std::sync::Arc;

use crate::raw::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, NONE, PADDED, PING, PRIORITY, RawConnection, call_headers, frame,
    open_call, reset, settings, whole_call, window_update,
};
use crate::siege::{MIB, Progress, Siege};
use crate::support::http::grpc_frame;
use crate::support::process::Server;
use crate::{FIND_MISSING, READ, WRITE};

const ATTACKERS: usize = 4;

/// Sends `frames` again and again, and on a new connection when the server closes one.
async fn repeat(server: Arc<Server>, progress: Progress, count: u64, frames: Vec<u8>) {
    loop {
        let mut connection = RawConnection::greeted(&server, &[]).await;
        while connection.send_and_drain(&frames).await.is_ok() {
            progress.add(count);
        }
        progress.add(1);
    }
}

/// Frames that want no stream. A batch of them is a thousand.
async fn flood(bytes_max: u64, one: Vec<u8>) {
    let siege = Siege::lay().await;
    let batch = one.repeat(1000);
    let attack = |server, progress| repeat(server, progress, 1000, batch.clone());
    siege.endure_attackers(ATTACKERS, 100_000, bytes_max, attack).await;
    siege.lift().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_settings() {
    flood(16 * MIB, settings(&[(4, 65_535), (3, 100)])).await;
}

/// Each changes the window of every stream there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_settings_with_a_thousand_streams_open() {
    let siege = Siege::lay().await;
    let batch = [settings(&[(4, 65_535)]), settings(&[(4, 1_000_000)])].concat().repeat(50);
    let attack = |server, progress: Progress| {
        let batch = batch.clone();
        async move {
            let server: Arc<Server> = server;
            loop {
                let mut connection = RawConnection::greeted(&server, &[]).await;
                let opened: Vec<u8> = (0..1000).flat_map(|number| open_call(number * 2 + 1, WRITE)).collect();
                if connection.send_and_drain(&opened).await.is_err() {
                    continue;
                }
                while connection.send_and_drain(&batch).await.is_ok() {
                    progress.add(100);
                }
            }
        }
    };
    siege.endure_attackers(ATTACKERS, 1000, 64 * MIB, attack).await;
    siege.lift().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings() {
    flood(16 * MIB, frame(PING, NONE, 0, b"are you?")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_acknowledgements_of_nothing() {
    flood(16 * MIB, frame(PING, ACK, 0, b"not sent")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_priorities() {
    flood(16 * MIB, frame(PRIORITY, NONE, 1, &[0, 0, 0, 3, 200])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_frames_of_unknown_kinds() {
    flood(16 * MIB, frame(0xfa, NONE, 0, b"?")).await;
}

/// The connection's window overflows in the end, which is an error of the connection; then the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_window_updates() {
    flood(16 * MIB, window_update(0, 1)).await;
}

/// The replies are read by nobody: what waits to be sent must not grow, the flood is not read on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_whose_answers_nobody_reads() {
    let siege = Siege::lay().await;
    let mut deaf = Vec::new();
    for _ in 0..ATTACKERS {
        let mut connection = RawConnection::greeted(&siege.server, &[]).await;
        let batch = frame(PING, NONE, 0, b"are you?").repeat(10_000);
        deaf.push(tokio::spawn(async move { while connection.send(&batch).await.is_ok() {} }));
    }
    siege.endure(16 * MIB).await;
    for connection in deaf {
        connection.abort();
        let _ = connection.await;
    }
    siege.lift().await;
}

/// Opens streams and resets them at once: the client's part of the work is two frames, the server's a call begun and dropped.
async fn rapid_reset(bytes_max: u64, call: impl Fn(u32) -> Vec<u8> + Clone + Send + 'static, batch: u32) {
    let siege = Siege::lay().await;
    let attack = |server, progress: Progress| {
        let call = call.clone();
        async move {
            let server: Arc<Server> = server;
            loop {
                let mut connection = RawConnection::greeted(&server, &[]).await;
                let mut stream = 1;
                loop {
                    let mut frames = Vec::new();
                    for number in 0..batch {
                        frames.extend(call(stream + number * 2));
                    }
                    // Apart, so that the calls have begun.
                    if connection.send_and_drain(&frames).await.is_err() {
                        break;
                    }
                    let resets: Vec<u8> = (0..batch).flat_map(|number| reset(stream + number * 2)).collect();
                    if connection.send_and_drain(&resets).await.is_err() {
                        break;
                    }
                    stream += batch * 2;
                    progress.add(u64::from(batch));
                }
                progress.add(1);
            }
        }
    };
    siege.endure_attackers(ATTACKERS, 5000, bytes_max, attack).await;
    siege.lift().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_and_reset_at_once() {
    rapid_reset(32 * MIB, |stream| [open_call(stream, FIND_MISSING), reset(stream)].concat(), 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_begun_and_reset_by_the_hundred() {
    rapid_reset(32 * MIB, |stream| open_call(stream, WRITE), 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_calls_that_are_reset_by_the_hundred() {
    rapid_reset(32 * MIB, |stream| whole_call(stream, READ, b""), 500).await;
}

/// The server resets these: a head without a path, a stream that depends on itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_the_server_has_to_reset() {
    let siege = Siege::lay().await;
    let attack = |server, progress: Progress| async move {
        let server: Arc<Server> = server;
        loop {
            let mut connection = RawConnection::greeted(&server, &[]).await;
            for number in 0.. {
                let stream = number * 4 + 1;
                let malformed = [
                    frame(HEADERS, END_HEADERS, stream, &crate::raw::literal(":method", "POST")),
                    frame(HEADERS, END_HEADERS | 0x20, stream + 2, &[&(stream + 2).to_be_bytes()[..], &[1]].concat()),
                ];
                if connection.send_and_drain(&malformed.concat()).await.is_err() {
                    break;
                }
                progress.add(2);
            }
            progress.add(1);
        }
    };
    siege.endure_attackers(ATTACKERS, 5000, 32 * MIB, attack).await;
    siege.lift().await;
}

/// DATA frames of almost nothing to a call that takes them: each costs its head, and a visit of the call.
async fn tiny_frames(data: Vec<u8>) {
    let siege = Siege::lay().await;
    let batch = data.repeat(1000);
    let attack = |server, progress: Progress| {
        let batch = batch.clone();
        async move {
            let server: Arc<Server> = server;
            loop {
                let mut connection = RawConnection::greeted(&server, &[]).await;
                // A message that announces 4 MiB.
                let begun = [open_call(1, WRITE), frame(DATA, NONE, 1, &[0, 0, 0x3f, 0xff, 0xff])].concat();
                let mut outcome = connection.send_and_drain(&begun).await;
                while outcome.is_ok() {
                    outcome = connection.send_and_drain(&batch).await;
                    progress.add(1000);
                }
                progress.add(1);
            }
        }
    };
    siege.endure_attackers(ATTACKERS, 100_000, 32 * MIB, attack).await;
    siege.lift().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_empty_data_frames() {
    tiny_frames(frame(DATA, NONE, 1, b"")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_data_frames_of_nothing_but_padding() {
    let padding = [&[10][..], &[0; 10]].concat();
    tiny_frames(frame(DATA, PADDED, 1, &padding)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_data_frames_of_a_byte() {
    tiny_frames(frame(DATA, NONE, 1, b"x")).await;
}

/// An ordinary call that comes a byte a frame is an ordinary call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_frames_of_a_byte_is_answered() {
    let siege = Siege::lay().await;
    let mut connection = RawConnection::greeted(&siege.server, &[]).await;
    let body = grpc_frame(b"");
    connection.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(FIND_MISSING))).await.expect("the server reads");
    for (number, byte) in body.iter().enumerate() {
        let flags = if number + 1 == body.len() { END_STREAM } else { NONE };
        connection.send(&frame(DATA, flags, 1, &[*byte])).await.expect("the server reads");
    }
    let head = connection.next_of(HEADERS).await.expect("an answer");
    assert_eq!(head.stream, 1);
    let data = connection.next_of(DATA).await.expect("an answer");
    assert_eq!(data.payload, grpc_frame(b""));
    drop(connection);
    siege.lift().await;
}

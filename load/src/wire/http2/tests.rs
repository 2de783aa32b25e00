//! The connection against peers that are slow, rude or mad. What a good peer does is tested against the server itself.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::traffic::content::scatter;

/// What came of the requests in each slot.
#[derive(Default)]
struct Seen {
    data: Vec<u8>,
    ends: Vec<(usize, String)>,
}

impl Inbox for Seen {
    fn data(&mut self, _slot: usize, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
    }

    fn end(&mut self, slot: usize, end: End<'_>) {
        self.ends.push((slot, format!("{end:?}")));
    }
}

const WINDOW_BYTES: u32 = 1 << 16;
const SLOTS: usize = 4;
const STATUS_200: u8 = 0x88;

/// A connection whose peer is the test.
struct Bout<'a> {
    connection: Connection<'a>,
    peer: UnixStream,
    seen: Seen,
}

impl Bout<'_> {
    fn new() -> Self {
        let (ours, peer) = UnixStream::pair().expect("a pair of sockets");
        peer.set_nonblocking(true).expect("a socket");
        let connection = Connection::new(OwnedFd::from(ours).into(), "localhost", SLOTS, WINDOW_BYTES);
        Self { connection, peer, seen: Seen::default() }
    }

    /// With two requests under way, of streams 1 and 3.
    fn begun() -> Self {
        let mut bout = Self::new();
        bout.say(&frame::settings(&[])).expect("a peer's SETTINGS");
        for slot in 0..2 {
            bout.connection.body(slot).own(|out| out.extend_from_slice(b"request"));
            bout.connection.start(slot, Method::Read);
        }
        bout.connection.flush().expect("the peer reads");
        bout
    }

    /// The peer says this, and the connection hears it.
    fn say(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        for piece in bytes.chunks(64 * 1024) {
            self.peer.write_all(piece).expect("room in the socket");
            self.hear()?;
        }
        Ok(())
    }

    /// Reads all there is.
    fn hear(&mut self) -> Result<(), WireError> {
        while self.connection.read(false)? > 0 {
            self.connection.hand_out(&mut self.seen)?;
        }
        Ok(())
    }

    /// What the connection has written since.
    fn heard(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        loop {
            self.connection.flush().expect("the peer reads");
            match self.peer.read(&mut piece) {
                Ok(length) if length > 0 => all.extend_from_slice(&piece[..length]),
                _ => return all,
            }
        }
    }

    fn kinds_heard(&mut self) -> Vec<(u8, u32)> {
        let heard = self.heard();
        let mut rest = heard.strip_prefix(frame::PREFACE).unwrap_or(&heard);
        let mut kinds = Vec::new();
        while let Some(header) = Header::parse(rest) {
            kinds.push((header.kind, header.stream));
            rest = &rest[HEADER_BYTES + header.length..];
        }
        kinds
    }
}

fn frame_of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header { length: payload.len(), kind, flags, stream }.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// `:status` 200, and `grpc-status` 0 at the end.
fn answer(stream: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = frame_of(kind::HEADERS, flag::END_HEADERS, stream, &[STATUS_200]);
    bytes.extend(frame_of(kind::DATA, 0, stream, data));
    let trailers = [&[0, 11][..], b"grpc-status", &[1], b"0"].concat();
    bytes.extend(frame_of(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &trailers));
    bytes
}

#[test]
fn answers_come_to_their_slots_however_they_are_cut() {
    for step in [1, 2, 9, 10, 1000] {
        let mut bout = Bout::begun();
        let bytes = [answer(3, b"three"), answer(1, b"one")].concat();
        for piece in bytes.chunks(step) {
            bout.say(piece).expect("a good peer");
        }
        assert_eq!(bout.seen.data, b"threeone");
        let slots: Vec<usize> = bout.seen.ends.iter().map(|(slot, _)| *slot).collect();
        assert_eq!(slots, [1, 0]);
        assert!(bout.seen.ends[0].1.contains("status: 200, grpc: Some(0)"), "{:?}", bout.seen.ends);
        assert_eq!(bout.connection.under_way(), 0);
    }
}

#[test]
fn padding_continuations_and_unknown_frames_are_taken() {
    let mut bout = Bout::begun();
    let mut said = frame_of(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &[2, 0, 0, 0, 0, 9, 0x8d, 0, 0]);
    said.extend(frame_of(kind::CONTINUATION, 0, 1, &[]));
    said.extend(frame_of(kind::CONTINUATION, flag::END_HEADERS, 1, &[STATUS_200]));
    said.extend(frame_of(kind::DATA, flag::PADDED, 1, &[3, b'x', 0, 0, 0]));
    said.extend(frame_of(200, 0xff, 77, b"whatever"));
    said.extend(frame_of(2, 0, 1, &[0; 5]));
    said.extend(frame_of(kind::DATA, flag::END_STREAM, 1, b"y"));
    bout.say(&said).expect("a good peer");
    assert_eq!(bout.seen.data, b"xy");
    // The later status counts: the first block said 404.
    assert!(bout.seen.ends[0].1.contains("status: 200"), "{:?}", bout.seen.ends);
}

#[test]
fn a_peer_that_breaks_the_protocol_is_told_apart() {
    let status = [STATUS_200];
    let header_of = |length, kind, stream| Header { length, kind, flags: 0, stream }.encode().to_vec();
    let mut long_block = frame_of(kind::HEADERS, 0, 1, &[0x0f; 16_384]);
    (0..4).for_each(|_| long_block.extend(frame_of(kind::CONTINUATION, 0, 1, &[0; 16_384])));
    for (says, bytes) in [
        ("a frame larger than allowed", header_of(16_385, kind::DATA, 1)),
        ("a stream that was not begun", frame_of(kind::DATA, 0, 2, b"x")),
        ("a stream that was not begun", frame_of(kind::HEADERS, flag::END_HEADERS, 5, &status)),
        ("a stream that was not begun", frame_of(kind::DATA, 0, 0, b"x")),
        ("more padding than payload", frame_of(kind::DATA, flag::PADDED, 1, &[2, 0])),
        ("more padding than payload", frame_of(kind::DATA, flag::PADDED, 1, &[])),
        ("a HEADERS frame that is too short", frame_of(kind::HEADERS, flag::PRIORITY | flag::END_HEADERS, 1, &[0])),
        (
            "a header block that is not continued",
            [frame_of(kind::HEADERS, 0, 1, &status), frame_of(kind::DATA, 0, 1, b"x")].concat(),
        ),
        ("a stray CONTINUATION", frame_of(kind::CONTINUATION, flag::END_HEADERS, 1, &status)),
        (
            "a stray CONTINUATION",
            [frame_of(kind::HEADERS, 0, 1, &status), frame_of(kind::CONTINUATION, flag::END_HEADERS, 3, &status)]
                .concat(),
        ),
        ("a header block larger than allowed", long_block),
        ("a table that is empty", frame_of(kind::HEADERS, flag::END_HEADERS, 1, &[0xbe])),
        ("a table that is empty", frame_of(kind::HEADERS, flag::END_HEADERS, 1, &[0x7f, 0x10, 0x00])),
        ("index 0", frame_of(kind::HEADERS, flag::END_HEADERS, 1, &[0x80])),
        ("a header table larger than allowed", frame_of(kind::HEADERS, flag::END_HEADERS, 1, &[0x21])),
        ("cut off", frame_of(kind::HEADERS, flag::END_HEADERS, 1, &[0x00, 0x05, b'a'])),
        ("too large", frame_of(kind::HEADERS, flag::END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])),
        ("a status that is no number", frame_of(kind::HEADERS, flag::END_HEADERS, 1, &[0x08, 3, b'2', b'x', b'0'])),
        ("a RST_STREAM frame of a wrong length", frame_of(kind::RST_STREAM, 0, 1, &[0; 3])),
        ("a SETTINGS frame of a wrong length", frame_of(kind::SETTINGS, 0, 0, &[0; 5])),
        ("a frame size that is out of bounds", frame::settings(&[(setting::MAX_FRAME_SIZE, 16_383)])),
        ("a window that is too large", frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)])),
        ("a window that is too large", frame::of_number(kind::WINDOW_UPDATE, 0, WINDOW_BYTES_MAX).to_vec()),
        ("a window that is too large", frame::of_number(kind::WINDOW_UPDATE, 1, WINDOW_BYTES_MAX).to_vec()),
        ("a WINDOW_UPDATE of nothing", frame::of_number(kind::WINDOW_UPDATE, 1, 0).to_vec()),
        ("a WINDOW_UPDATE frame of a wrong length", frame_of(kind::WINDOW_UPDATE, 0, 1, &[0; 5])),
        ("a PING frame of a wrong length", frame_of(kind::PING, 0, 0, &[0; 7])),
        ("a GOAWAY frame that is too short", frame_of(kind::GOAWAY, 0, 0, &[0; 7])),
        ("a PUSH_PROMISE", frame_of(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2])),
    ] {
        let mut bout = Bout::begun();
        let error = bout.say(&bytes).expect_err(says).to_string();
        assert!(error.contains(says), "{says}: {error}");
        bout.connection.abandon(&mut bout.seen);
        let lost = bout.seen.ends.iter().filter(|(_, end)| end == "Lost").count();
        assert_eq!((bout.connection.under_way(), lost), (0, 2), "{says}: {:?}", bout.seen.ends);
    }
}

#[test]
fn data_beyond_the_window_is_an_error() {
    let mut bout = Bout::begun();
    // Padding is not given back before half the window is consumed, data is; so the peer may send a window and no more.
    let payload = vec![0; 16_384];
    let mut sent = 0;
    while sent + payload.len() <= WINDOW_BYTES as usize {
        // Not read: nothing is given back.
        bout.peer.write_all(&frame_of(kind::DATA, 0, 1, &payload)).expect("room");
        sent += payload.len();
    }
    bout.hear().expect("within the window");
    let updates = bout.kinds_heard().iter().filter(|kind| **kind == (kind::WINDOW_UPDATE, 1)).count();
    assert_eq!(updates, 2, "half a window each");
    let unasked = (0..).map(|_| frame_of(kind::DATA, 0, 3, &[0; 1])).take(3).flatten().collect::<Vec<u8>>();
    bout.say(&unasked).expect("another stream has its own");
    // A peer whose count of our updates is wrong.
    bout.connection.streams[0].receive_window = 10;
    let error = bout.say(&frame_of(kind::DATA, 0, 1, &[0; 11])).expect_err("beyond the window");
    assert!(error.to_string().contains("more data than a stream's window"), "{error}");
}

#[test]
fn what_is_no_http2_is_said_to_be_none() {
    for (says, bytes) in [
        ("HTTP/1.1", &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]),
        ("does not begin with SETTINGS", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("does not begin with SETTINGS", &frame_of(kind::PING, 0, 0, &[0; 8])),
    ] {
        let error = Bout::new().say(bytes).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn resets_and_goaway_end_their_streams_and_no_others() {
    let mut bout = Bout::begun();
    bout.say(&frame::of_number(kind::RST_STREAM, 3, 7)).expect("a good peer");
    assert_eq!(bout.seen.ends, [(1, "Reset(7)".to_owned())]);
    // A stream that is over may still be spoken of.
    bout.say(&frame::of_number(kind::RST_STREAM, 3, 0)).expect("a good peer");
    bout.say(&frame_of(kind::DATA, 0, 3, b"late")).expect("a good peer");
    bout.say(&frame::of_number(kind::WINDOW_UPDATE, 3, 5)).expect("a good peer");
    assert!(bout.seen.data.is_empty());
    assert!(bout.connection.has_room());

    bout.connection.body(1).own(|out| out.extend_from_slice(b"request"));
    bout.connection.start(1, Method::Read);
    let goaway = [1u32.to_be_bytes(), 11u32.to_be_bytes()].concat();
    bout.say(&frame_of(kind::GOAWAY, 0, 0, &goaway)).expect("a good peer");
    assert_eq!(bout.seen.ends.last(), Some(&(1, "Refused(11)".to_owned())));
    assert!(!bout.connection.has_room() && bout.connection.is_retiring());
    bout.say(&answer(1, b"one")).expect("what was under way goes on");
    assert_eq!(bout.seen.ends.len(), 3);
}

#[test]
fn uploads_wait_for_the_peers_windows_and_end_early_when_it_answers() {
    let blob = vec![0xab; 300_000];
    let mut bout = Bout::new();
    bout.say(&frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 1000), (setting::MAX_CONCURRENT_STREAMS, 1)]))
        .expect("good");
    bout.connection.body(0).lent(&blob);
    bout.connection.start(0, Method::Write);
    assert!(!bout.connection.has_room(), "one stream at once is all the peer wants");
    let sent = |heard: &[u8]| heard.split(|byte| *byte == 0xab).count() - 1;
    assert_eq!(sent(&bout.heard()), 1000);
    bout.say(&frame::of_number(kind::WINDOW_UPDATE, 1, 20_000)).expect("a good peer");
    assert_eq!(sent(&bout.heard()), 20_000);
    // The window of new streams changes that of old ones by as much.
    bout.say(&frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 3000)])).expect("a good peer");
    assert_eq!(sent(&bout.heard()), 2000);
    // The connection's window is what is left of 65,535.
    bout.say(&frame::of_number(kind::WINDOW_UPDATE, 1, 1 << 20)).expect("a good peer");
    assert_eq!(sent(&bout.heard()), 65_535 - 23_000);
    bout.say(&answer(1, b"enough")).expect("a good peer");
    assert_eq!(bout.kinds_heard(), [(kind::RST_STREAM, 1)]);
    assert_eq!(bout.seen.ends.len(), 1);
    bout.say(&frame::of_number(kind::WINDOW_UPDATE, 0, 1 << 20)).expect("a good peer");
    assert!(bout.heard().is_empty(), "nothing of an upload that is over");
    assert!(bout.connection.has_room());
}

#[test]
fn a_peer_that_asks_but_does_not_listen_cannot_fill_our_memory() {
    let mut bout = Bout::begun();
    let pings: Vec<u8> = (0..3000).flat_map(|_| frame_of(kind::PING, 0, 0, &[0; 8])).collect();
    bout.peer.set_nonblocking(true).expect("a socket");
    for _ in 0..4000 {
        // What does not fit is the peer's trouble.
        let _ = bout.peer.write(&pings);
        let _ = bout.connection.read(false);
        bout.connection.hand_out(&mut bout.seen).expect("a good peer");
        // Its socket is full: nothing more leaves.
        let _ = bout.connection.flush();
    }
    let held = bout.connection.outbox.length_bytes();
    assert!(held < 6 << 20, "{held} bytes are held for a peer that does not read");
}

/// Random bytes, and random frames that look like good ones, behind a good beginning.
#[test]
fn random_bytes_end_the_connection_or_do_no_harm() {
    let mut errors = 0;
    for seed in 0..3000u64 {
        let mut bout = Bout::begun();
        let mut state = scatter(seed);
        let mut next = || {
            state = scatter(state);
            state
        };
        let mut said = Vec::new();
        for _ in 0..=next() % 8 {
            let payload: Vec<u8> = (0..next() % 40).map(|_| next() as u8).collect();
            if seed % 4 == 0 {
                said.extend(payload);
            } else {
                let (kind, flags, stream) = (next() % 11, next(), next() % 6);
                said.extend(frame_of(kind as u8, flags as u8, stream as u32, &payload));
            }
        }
        errors += u64::from(bout.say(&said).is_err());
        bout.connection.abandon(&mut bout.seen);
        let mut slots: Vec<usize> = bout.seen.ends.iter().map(|(slot, _)| *slot).collect();
        slots.sort_unstable();
        assert_eq!(slots, [0, 1], "seed {seed}: each request ends once");
    }
    assert!(errors > 1000, "{errors} of 3000");
}

//! [`Connection`]: a client's side of one HTTP/1.1 connection that is kept alive, a request at a time.
//!
//! ```text
//!   idle ── start ──▶ head ──▶ body: of a length, in chunks, or to the end of the connection ──▶ idle
//! ```
//!
//! No pipelining: real clients open more connections instead. A request's [`Body`] holds its head, too.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};

use super::body::{Body, Part};
use super::outbox::Outbox;
use super::socket::Socket;
use super::{End, Inbox, WireError};

/// What one read takes at most; no head is longer.
const INPUT_BYTES: usize = 256 * 1024;
/// Header fields of an answer.
const FIELDS_MAX: usize = 64;
/// The longest line that says how long a chunk is, and the longest line behind the last chunk.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// The only slot.
const SLOT: usize = 0;

/// One connection and the request on it.
pub(crate) struct Connection<'a> {
    socket: Socket,
    body: Body<'a>,
    outbox: Outbox<'a>,
    input: Vec<u8>,
    input_begin: usize,
    input_end: usize,
    state: State,
    status: u16,
    /// The peer closes the connection after this answer.
    is_last: bool,
    is_blocked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Head,
    /// Bytes of the body that are to come.
    Length(u64),
    UntilClose,
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
}

/// What a piece of input led to.
enum Step {
    /// So many bytes were taken.
    Taken(usize),
    /// More input is needed.
    Wait,
}

impl<'a> Connection<'a> {
    /// Speaks on `socket`.
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            body: Body::default(),
            outbox: Outbox::default(),
            input: vec![0; INPUT_BYTES],
            input_begin: 0,
            input_end: 0,
            state: State::Idle,
            status: 0,
            is_last: false,
            is_blocked: false,
        }
    }

    /// Whether a request may begin now.
    pub(crate) fn has_room(&self) -> bool {
        self.state == State::Idle && !self.is_last
    }

    /// Requests that wait for their answer.
    pub(crate) fn under_way(&self) -> usize {
        usize::from(self.state != State::Idle)
    }

    /// True when no request may begin any more.
    pub(crate) fn is_retiring(&self) -> bool {
        self.is_last
    }

    /// The socket does not take all there is to send.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// The request that is to begin, its head included.
    pub(crate) fn body(&mut self) -> &mut Body<'a> {
        &mut self.body
    }

    /// Begins it.
    pub(crate) fn start(&mut self) {
        debug_assert!(self.has_room(), "asked before");
        self.state = State::Head;
        let outbox = &mut self.outbox;
        self.body.take(usize::MAX, |part| match part {
            Part::Own(bytes) => outbox.copy(bytes),
            Part::Lent(bytes) => outbox.lend(bytes),
        });
    }

    /// Writes what there is, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> Result<(), WireError> {
        self.is_blocked = false;
        while self.outbox.length_bytes() > 0 {
            let socket = &self.socket;
            let written = self.outbox.send(|slices: &[IoSlice<'_>]| socket.write(slices))?;
            if written == 0 {
                self.is_blocked = true;
                break;
            }
        }
        Ok(())
    }

    /// Reads once, and waits for it with `waits`; how many bytes came.
    pub(crate) fn read(&mut self, waits: bool) -> Result<usize, WireError> {
        let received = match self.socket.read(&mut self.input[self.input_end..], waits) {
            Err(WireError::Closed) if self.state == State::UntilClose => {
                self.is_last = true;
                return Ok(0);
            }
            other => other?,
        };
        self.input_end += received;
        Ok(received)
    }

    /// Hands out what was read.
    pub(crate) fn hand_out(&mut self, inbox: &mut impl Inbox) -> Result<(), WireError> {
        if self.input_begin == self.input_end {
            if self.is_last && self.state == State::UntilClose {
                self.finish(inbox);
            }
            return Ok(());
        }
        let input = std::mem::take(&mut self.input);
        let outcome = self.parse(&input, inbox);
        self.input = input;
        outcome.map_err(WireError::Protocol)?;
        self.input.copy_within(self.input_begin..self.input_end, 0);
        (self.input_begin, self.input_end) = (0, self.input_end - self.input_begin);
        if self.input_end == self.input.len() {
            return Err(WireError::Protocol("a head longer than 256 KiB"));
        }
        Ok(())
    }

    fn parse(&mut self, input: &[u8], inbox: &mut impl Inbox) -> Result<(), &'static str> {
        while self.input_begin < self.input_end {
            let rest = &input[self.input_begin..self.input_end];
            match self.step(rest, inbox)? {
                Step::Taken(count) => self.input_begin += count,
                Step::Wait => break,
            }
        }
        Ok(())
    }

    fn step(&mut self, rest: &[u8], inbox: &mut impl Inbox) -> Result<Step, &'static str> {
        match self.state {
            State::Idle => Err("bytes that were not asked for"),
            State::Head => self.head(rest, inbox),
            State::Length(left) => {
                let taken = deliver(rest, left, inbox);
                self.state = State::Length(left - taken);
                if left == taken {
                    self.finish(inbox);
                }
                Ok(Step::Taken(taken as usize))
            }
            State::UntilClose => {
                inbox.data(SLOT, rest);
                Ok(Step::Taken(rest.len()))
            }
            State::ChunkSize => match httparse::parse_chunk_size(rest) {
                Ok(httparse::Status::Complete((taken, size))) => {
                    self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
                    Ok(Step::Taken(taken))
                }
                Ok(httparse::Status::Partial) if rest.len() <= LINE_BYTES_MAX => Ok(Step::Wait),
                _ => Err("a chunk whose length is none"),
            },
            State::Chunk(left) => {
                let taken = deliver(rest, left, inbox);
                self.state = if left == taken { State::ChunkEnd } else { State::Chunk(left - taken) };
                Ok(Step::Taken(taken as usize))
            }
            State::ChunkEnd => match rest {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(Step::Taken(2))
                }
                [b'\r'] => Ok(Step::Wait),
                _ => Err("a chunk that does not end"),
            },
            State::Trailer => match rest.windows(2).position(|end| end == b"\r\n") {
                Some(0) => {
                    self.finish(inbox);
                    Ok(Step::Taken(2))
                }
                Some(end) => Ok(Step::Taken(end + 2)),
                None if rest.len() <= LINE_BYTES_MAX => Ok(Step::Wait),
                None => Err("a line that does not end"),
            },
        }
    }

    fn head(&mut self, rest: &[u8], inbox: &mut impl Inbox) -> Result<Step, &'static str> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let taken = match head.parse(rest) {
            Ok(httparse::Status::Complete(taken)) => taken,
            Ok(httparse::Status::Partial) => return Ok(Step::Wait),
            Err(_) => return Err("it does not answer in HTTP/1.1"),
        };
        let status = head.code.unwrap_or(0);
        if (100..200).contains(&status) {
            // An answer before the answer.
            return Ok(Step::Taken(taken));
        }
        self.status = status;
        self.is_last = head.version == Some(0);
        let (mut length, mut is_chunked) = (None, false);
        for field in head.headers.iter() {
            let has = |word: &str| {
                let value = std::str::from_utf8(field.value).unwrap_or("");
                value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word))
            };
            if field.name.eq_ignore_ascii_case("content-length") {
                let value = std::str::from_utf8(field.value).ok().and_then(|value| value.trim().parse::<u64>().ok());
                length = Some(value.ok_or("a content-length that is no number")?);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                is_chunked |= has("chunked");
            } else if field.name.eq_ignore_ascii_case("connection") {
                self.is_last |= has("close");
                self.is_last &= !has("keep-alive");
            }
        }
        self.state = match (is_chunked, length) {
            _ if matches!(status, 204 | 304) => State::Length(0),
            (true, _) => State::ChunkSize,
            (false, Some(length)) => State::Length(length),
            (false, None) => State::UntilClose,
        };
        if self.state == State::Length(0) {
            self.finish(inbox);
        }
        Ok(Step::Taken(taken))
    }

    fn finish(&mut self, inbox: &mut impl Inbox) {
        self.state = State::Idle;
        if self.outbox.length_bytes() > 0 {
            // The answer came before the end of the request, which the next one cannot follow.
            self.is_last = true;
        }
        inbox.end(SLOT, End::Answered { status: self.status, grpc: None, message: &[] });
    }

    /// Ends what is under way.
    pub(crate) fn abandon(&mut self, inbox: &mut impl Inbox) {
        if self.state != State::Idle {
            self.state = State::Idle;
            inbox.end(SLOT, End::Lost);
        }
    }

    /// Waits until there is room to write, or something to read.
    pub(crate) fn wait(&self) -> Result<(), WireError> {
        self.socket.wait()
    }
}

/// Hands out what there is of `left` bytes; how many those are.
fn deliver(rest: &[u8], left: u64, inbox: &mut impl Inbox) -> u64 {
    let taken = left.min(rest.len() as u64);
    if taken > 0 {
        inbox.data(SLOT, &rest[..taken as usize]);
    }
    taken
}

impl AsFd for Connection<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::traffic::content::scatter;

    #[derive(Default)]
    struct Seen {
        data: Vec<u8>,
        ends: Vec<String>,
    }

    impl Inbox for Seen {
        fn data(&mut self, _slot: usize, bytes: &[u8]) {
            self.data.extend_from_slice(bytes);
        }

        fn end(&mut self, _slot: usize, end: End<'_>) {
            self.ends.push(match end {
                End::Answered { status, .. } => status.to_string(),
                other => format!("{other:?}"),
            });
        }
    }

    /// A request that is answered with these bytes, in pieces of `step`, and then with the end of the connection.
    fn answered(bytes: &[u8], step: usize) -> (Seen, Result<(), WireError>, bool) {
        let (ours, mut peer) = UnixStream::pair().expect("a pair of sockets");
        let mut connection = Connection::new(OwnedFd::from(ours).into());
        connection.body().own(|out| out.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n"));
        connection.start();
        connection.flush().expect("the peer reads");
        peer.read_exact(&mut [0; 18]).expect("the request");
        let mut seen = Seen::default();
        for piece in bytes.chunks(step) {
            peer.write_all(piece).expect("room in the socket");
            if let Err(error) = connection.read(false).and_then(|_| connection.hand_out(&mut seen)) {
                connection.abandon(&mut seen);
                return (seen, Err(error), false);
            }
        }
        let has_room = connection.has_room();
        drop(peer);
        let outcome = connection.read(false).and_then(|_| connection.hand_out(&mut seen));
        connection.abandon(&mut seen);
        (seen, outcome, has_room)
    }

    #[test]
    fn answers_of_every_form_come_whole() {
        for (bytes, status, data, stays) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..], "200", &b"hello"[..], true),
            (b"HTTP/1.1 204 No Content\r\n\r\n", "204", b"", true),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n", "201", b"", true),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nt: u\r\n\r\n",
                "200",
                b"hello",
                true,
            ),
            (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", "200", b"hi", false),
            (b"HTTP/1.1 404 Not Found\r\n\r\nnothing here", "404", b"nothing here", false),
        ] {
            for step in [1, 2, 7, 1000] {
                let (seen, _, has_room) = answered(bytes, step);
                assert_eq!((seen.ends, seen.data.as_slice()), (vec![status.to_owned()], data), "in steps of {step}");
                assert_eq!(has_room, stays);
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let endless = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &vec![b'y'; 300_000]].concat();
        let endless_chunk =
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".as_slice(), &[b'0'; 10_000]].concat();
        let endless_trailer =
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n".as_slice(), &[b'a'; 10_000]].concat();
        for (says, bytes) in [
            ("does not answer in HTTP/1.1", &b"SSH-2.0-OpenSSH_9.2\r\n"[..]),
            ("does not answer in HTTP/1.1", b"\0\0\x06\x04\0\0\0\0\0"),
            ("content-length", b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
            ("a chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n"),
            ("a chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc"),
            ("not asked for", b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
            ("closed", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
            ("closed", b""),
            ("a head longer", &endless),
            ("a chunk", &endless_chunk),
            ("a line that does not end", &endless_trailer),
        ] {
            let (seen, outcome, _) = answered(bytes, 64 * 1024);
            let error = outcome.expect_err(says).to_string();
            assert!(error.contains(says), "{says}: {error}");
            assert_eq!(seen.ends.len(), 1, "{says}: the request ends once");
        }
    }

    #[test]
    fn random_answers_do_no_harm() {
        const WORDS: [&[u8]; 8] = [
            b"HTTP/1.1 200 OK\r\n",
            b"content-length: 3\r\n",
            b"\r\n",
            b"transfer-encoding: chunked\r\n",
            b"3\r\n",
            b"0\r\n",
            b"abc",
            b"\xff",
        ];
        for seed in 0..3000u64 {
            let count = 1 + scatter(seed) % 12;
            let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
            (0..count).for_each(|at| bytes.extend(WORDS[(scatter(seed << 8 | at) % 8) as usize]));
            let (seen, _, _) = answered(&bytes, 1 + (seed % 50) as usize);
            assert_eq!(seen.ends.len(), 1, "seed {seed}: the request ends once");
        }
    }
}

//! [`Connection`]: a client's side of one HTTP/1.1 connection that is kept alive, a request at a time.
//!
//! ```text
//!   idle ── start ──▶ head ──▶ body: of a length, in chunks, or to the end of the connection ──▶ idle
//! ```
//!
//! No pipelining: real clients open more connections instead. A request's [`Body`] holds its head, too.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

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

    /// Reads once and hands out what came; how many bytes.
    pub(crate) fn receive(&mut self, inbox: &mut impl Inbox) -> Result<usize, WireError> {
        let received = match self.socket.read(&mut self.input[self.input_end..]) {
            Err(WireError::Closed) if self.state == State::UntilClose => {
                self.is_last = true;
                self.finish(inbox);
                return Ok(0);
            }
            other => other?,
        };
        self.input_end += received;
        if received == 0 {
            return Ok(0);
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
        Ok(received)
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

    /// Waits until there is something to do, or the time is over.
    pub(crate) fn wait(&self, time: Duration) -> Result<(), WireError> {
        self.socket.wait(self.is_blocked, time)
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

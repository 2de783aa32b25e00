//! [`Connection`]: a client's side of one HTTP/2 connection (RFC 9113), clear text, prior knowledge.
//!
//! ```text
//!   slot free ── start ──▶ under way ── END_STREAM, RST_STREAM, GOAWAY, end of the connection ──▶ slot free
//!                            │   ▲
//!                    body bytes  answers, window updates
//! ```
//!
//! The number of slots is fixed, so is the memory. A slot is given back through [`Inbox::end`], exactly once a request. Who
//! calls: `run::worker`, one thread a connection: start requests in the free slots, [`Connection::flush`], wait,
//! [`Connection::read`] and [`Connection::hand_out`], which are in `incoming`.

mod incoming;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use super::body::{Body, Part};
use super::frame::{self, HEADER_BYTES, Header, PAYLOAD_BYTES_DEFAULT, WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX};
use super::frame::{code, flag, kind, setting};
use super::headers::{Headers, Method};
use super::hpack::Said;
use super::outbox::Outbox;
use super::socket::Socket;
use super::{End, Inbox, WireError};

/// What one read takes at most.
const INPUT_BYTES: usize = 256 * 1024;
/// No more body bytes are gathered than this before they are written.
const OUTBOX_BYTES_FULL: usize = 1 << 20;
/// Writes in one [`Connection::flush`], so that a long upload does not keep us from reading.
const WRITES_PER_FLUSH: usize = 4;
/// The longest header block that is taken, in bytes.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// One connection, its streams and windows.
pub(crate) struct Connection<'a> {
    socket: Socket,
    outbox: Outbox<'a>,
    /// What was received; `input_begin..input_end` is not parsed yet.
    input: Vec<u8>,
    input_begin: usize,
    input_end: usize,
    authority: String,
    /// None until the peer's first SETTINGS.
    headers: Option<Headers>,
    streams: Vec<Stream<'a>>,
    /// The stream of each slot, 0 for a free one: apart from `streams`, so that looking for one is quick.
    ids: Vec<u32>,
    last_slot: usize,
    under_way: usize,
    next_id: u32,
    /// Slots with body bytes to be sent and room in their window.
    sending: VecDeque<usize>,
    peer: Peer,
    /// The peer's window, in bytes.
    send_window: i64,
    /// Our windows: what a stream's is, what is left of the connection's, and what was consumed and not given back.
    stream_window: u32,
    receive_window: i64,
    consumed: u32,
    /// A DATA frame that has not wholly come: its slot, if that is still under way, and bytes that are to come.
    data: Option<(Option<usize>, usize, bool)>,
    /// A header block that has not wholly come: its stream and whether that ends with it.
    block: Option<(u32, bool)>,
    block_bytes: Vec<u8>,
    is_retiring: bool,
    is_blocked: bool,
}

/// What the peer's SETTINGS say.
#[derive(Clone, Copy, Debug)]
struct Peer {
    stream_window: u32,
    payload_bytes_max: usize,
    streams_max: usize,
}

#[derive(Default)]
struct Stream<'a> {
    body: Body<'a>,
    is_queued: bool,
    send_window: i64,
    receive_window: i64,
    consumed: u32,
    said: Said,
}

impl<'a> Connection<'a> {
    /// Begins to speak on `socket`, with `slots` requests at once and this window for each answer.
    pub(crate) fn new(socket: Socket, authority: &str, slots: usize, stream_window: u32) -> Self {
        let mut outbox = Outbox::default();
        outbox.copy(frame::PREFACE);
        outbox.copy(&frame::settings(&[
            (setting::HEADER_TABLE_SIZE, 0),
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, stream_window),
            (setting::MAX_HEADER_LIST_SIZE, BLOCK_BYTES_MAX as u32),
        ]));
        // The connection's window never binds: the streams' windows do.
        let more = WINDOW_BYTES_MAX - WINDOW_BYTES_DEFAULT;
        outbox.copy(&frame::of_number(kind::WINDOW_UPDATE, 0, more));
        let peer = Peer {
            stream_window: WINDOW_BYTES_DEFAULT,
            payload_bytes_max: PAYLOAD_BYTES_DEFAULT,
            streams_max: usize::MAX,
        };
        Self {
            socket,
            outbox,
            input: vec![0; INPUT_BYTES],
            input_begin: 0,
            input_end: 0,
            authority: authority.to_owned(),
            headers: None,
            streams: (0..slots).map(|_| Stream::default()).collect(),
            ids: vec![0; slots],
            last_slot: 0,
            under_way: 0,
            next_id: 1,
            sending: VecDeque::with_capacity(slots),
            peer,
            send_window: i64::from(WINDOW_BYTES_DEFAULT),
            stream_window,
            receive_window: i64::from(WINDOW_BYTES_MAX),
            consumed: 0,
            data: None,
            block: None,
            block_bytes: Vec::new(),
            is_retiring: false,
            is_blocked: false,
        }
    }

    /// Whether another request may begin now.
    pub(crate) fn has_room(&self) -> bool {
        self.headers.is_some() && !self.is_retiring && self.under_way < self.peer.streams_max.min(self.ids.len())
    }

    /// Requests that wait for their answer.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    /// True when no request may begin any more, though those under way may end well.
    pub(crate) fn is_retiring(&self) -> bool {
        self.is_retiring
    }

    /// The socket does not take all there is to send.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// The body of the request that is to begin in a free slot.
    pub(crate) fn body(&mut self, slot: usize) -> &mut Body<'a> {
        &mut self.streams[slot].body
    }

    /// Begins a request in a free slot, with what its [`body`](Self::body) holds.
    pub(crate) fn start(&mut self, slot: usize, method: Method) {
        debug_assert!(self.has_room() && self.ids[slot] == 0, "asked before");
        let id = self.next_id;
        self.next_id += 2;
        // Identifiers are not used again.
        self.is_retiring |= self.next_id > WINDOW_BYTES_MAX - 2;
        self.ids[slot] = id;
        self.under_way += 1;
        let stream = &mut self.streams[slot];
        stream.send_window = i64::from(self.peer.stream_window);
        stream.receive_window = i64::from(self.stream_window);
        stream.consumed = 0;
        stream.said.clear();
        let end = if stream.body.left_bytes() == 0 { flag::END_STREAM } else { 0 };
        let headers = self.headers.as_mut().expect("asked before");
        self.outbox.write(|out| {
            let begin = out.len();
            out.extend_from_slice(&[0; HEADER_BYTES]);
            headers.append(method, out);
            let length = out.len() - begin - HEADER_BYTES;
            let header = Header { length, kind: kind::HEADERS, flags: flag::END_HEADERS | end, stream: id };
            out[begin..begin + HEADER_BYTES].copy_from_slice(&header.encode());
        });
        if end == 0 && !self.send_frame(slot) {
            self.queue(slot);
        }
    }

    fn queue(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.streams[slot].is_queued, true) {
            self.sending.push_back(slot);
        }
    }

    /// Sends the next DATA frame of a body, as long as the windows allow; whether that was the last one.
    fn send_frame(&mut self, slot: usize) -> bool {
        let stream = &mut self.streams[slot];
        let room = self.send_window.min(stream.send_window).clamp(0, self.peer.payload_bytes_max as i64);
        let length = stream.body.left_bytes().min(room as usize);
        if length == 0 {
            return stream.body.left_bytes() == 0;
        }
        self.send_window -= length as i64;
        stream.send_window -= length as i64;
        let is_last = stream.body.left_bytes() == length;
        let flags = if is_last { flag::END_STREAM } else { 0 };
        self.outbox.copy(&Header { length, kind: kind::DATA, flags, stream: self.ids[slot] }.encode());
        let outbox = &mut self.outbox;
        stream.body.take(length, |part| match part {
            Part::Own(bytes) => outbox.copy(bytes),
            Part::Lent(bytes) => outbox.lend(bytes),
        });
        is_last
    }

    /// Moves body bytes into the outbox, a frame a stream in turn, until it is full or the windows are.
    fn gather(&mut self) {
        while self.outbox.length_bytes() < OUTBOX_BYTES_FULL && self.send_window > 0 {
            let Some(slot) = self.sending.pop_front() else { return };
            self.streams[slot].is_queued = false;
            // A stream without room is queued again when it gets some; one that is over has no body left.
            if !self.send_frame(slot) && self.streams[slot].send_window > 0 {
                self.queue(slot);
            }
        }
    }

    /// Writes what there is, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> Result<(), WireError> {
        self.is_blocked = false;
        for _ in 0..WRITES_PER_FLUSH {
            self.gather();
            let length = self.outbox.length_bytes();
            if length == 0 {
                self.is_blocked = false;
                return Ok(());
            }
            let socket = &self.socket;
            let written = self.outbox.send(|slices| socket.write(slices))?;
            if written < length {
                self.is_blocked = true;
                if written == 0 {
                    return Ok(());
                }
            }
        }
        self.is_blocked |= self.outbox.length_bytes() > 0 || self.send_window > 0 && !self.sending.is_empty();
        Ok(())
    }

    /// Waits until there is room to write, or something to read.
    pub(crate) fn wait(&self) -> Result<(), WireError> {
        self.socket.wait()
    }

    /// Ends all that is under way.
    pub(crate) fn abandon(&mut self, inbox: &mut impl Inbox) {
        for slot in 0..self.ids.len() {
            if self.ids[slot] != 0 {
                self.free(slot);
                inbox.end(slot, End::Lost);
            }
        }
    }

    /// The answer is whole.
    fn finish(&mut self, slot: usize, inbox: &mut impl Inbox) {
        if self.streams[slot].body.left_bytes() > 0 {
            // The answer came before the end of the request: the rest is not wanted.
            self.outbox.copy(&frame::of_number(kind::RST_STREAM, self.ids[slot], code::CANCEL));
        }
        self.free(slot);
        let said = &self.streams[slot].said;
        inbox.end(
            slot,
            End::Answered { status: said.status.unwrap_or(0), grpc: said.grpc_status, message: &said.grpc_message },
        );
    }

    fn free(&mut self, slot: usize) {
        self.ids[slot] = 0;
        self.under_way -= 1;
        self.streams[slot].body.clear();
    }
}

impl AsFd for Connection<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

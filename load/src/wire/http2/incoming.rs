//! What a peer sends: frames taken apart, checked, and obeyed.
//!
//! A frame that breaks the protocol is an error, with a few words for people; the connection is of no use then.

use super::super::frame::{self, HEADER_BYTES, Header, PAYLOAD_BYTES_DEFAULT, WINDOW_BYTES_MAX};
use super::super::frame::{flag, kind, setting};
use super::super::headers::{Headers, TABLE_BYTES_DEFAULT};
use super::super::{End, Inbox, WireError};
use super::{BLOCK_BYTES_MAX, Connection};

/// With more than this unsent, nothing more is read: the peer makes us answer but does not listen.
const OUTBOX_BYTES_CLOGGED: usize = 4 << 20;

impl Connection<'_> {
    /// Reads once, and waits for it with `waits`; how many bytes came.
    pub(crate) fn read(&mut self, waits: bool) -> Result<usize, WireError> {
        if self.outbox.length_bytes() > OUTBOX_BYTES_CLOGGED {
            return Ok(0);
        }
        let received = self.socket.read(&mut self.input[self.input_end..], waits)?;
        self.input_end += received;
        Ok(received)
    }

    /// Hands out what was read.
    pub(crate) fn hand_out(&mut self, inbox: &mut impl Inbox) -> Result<(), WireError> {
        if self.input_begin == self.input_end {
            return Ok(());
        }
        let input = std::mem::take(&mut self.input);
        let parsed = self.parse(&input[self.input_begin..self.input_end], inbox);
        self.input = input;
        self.input_begin += parsed.map_err(WireError::Protocol)?;
        if self.input_begin < self.input_end {
            // A part of a frame other than DATA: short.
            self.input.copy_within(self.input_begin..self.input_end, 0);
        }
        (self.input_begin, self.input_end) = (0, self.input_end - self.input_begin);
        Ok(())
    }

    /// Takes whole frames, and DATA as it comes; how many bytes were taken.
    fn parse(&mut self, input: &[u8], inbox: &mut impl Inbox) -> Result<usize, &'static str> {
        let mut rest = input;
        loop {
            if let Some((slot, left, is_last)) = self.data {
                let (bytes, after) = rest.split_at(left.min(rest.len()));
                if let Some(slot) = slot.filter(|_| !bytes.is_empty()) {
                    inbox.data(slot, bytes);
                }
                rest = after;
                if bytes.len() < left {
                    self.data = Some((slot, left - bytes.len(), is_last));
                    return Ok(input.len() - rest.len());
                }
                self.data = None;
                if let Some(slot) = slot.filter(|_| is_last) {
                    self.finish(slot, inbox);
                }
            }
            let Some(header) = Header::parse(rest) else { break };
            if self.headers.is_none() && header.kind != kind::SETTINGS {
                return Err(if rest.starts_with(b"HTTP/1.") {
                    "it answers in HTTP/1.1, so that is no port for gRPC"
                } else {
                    "it does not begin with SETTINGS, so that is no port for gRPC"
                });
            }
            if header.length > PAYLOAD_BYTES_DEFAULT {
                return Err("a frame larger than allowed");
            }
            if header.kind == kind::DATA && header.flags & flag::PADDED == 0 && self.block.is_none() {
                rest = &rest[HEADER_BYTES..];
                let slot = self.account(header)?;
                self.data = Some((slot, header.length, header.flags & flag::END_STREAM != 0));
                continue;
            }
            let Some(payload) = rest.get(HEADER_BYTES..HEADER_BYTES + header.length) else { break };
            self.handle(header, payload, inbox)?;
            rest = &rest[HEADER_BYTES + header.length..];
        }
        Ok(input.len() - rest.len())
    }

    /// The slot of a stream, if it is under way; an error where it was never begun.
    fn slot(&mut self, id: u32) -> Result<Option<usize>, &'static str> {
        if id.is_multiple_of(2) || id >= self.next_id {
            return Err("a frame of a stream that was not begun");
        }
        if self.ids[self.last_slot] != id {
            match self.ids.iter().position(|other| *other == id) {
                Some(slot) => self.last_slot = slot,
                None => return Ok(None),
            }
        }
        Ok(Some(self.last_slot))
    }

    /// Takes a DATA frame off the windows, and gives back what is half used.
    fn account(&mut self, header: Header) -> Result<Option<usize>, &'static str> {
        let slot = self.slot(header.stream)?;
        let length = header.length as u32;
        self.receive_window -= i64::from(length);
        self.consumed += length;
        if self.receive_window < 0 {
            return Err("more data than the connection's window");
        }
        if self.consumed > WINDOW_BYTES_MAX / 2 {
            self.outbox.copy(&frame::of_number(kind::WINDOW_UPDATE, 0, self.consumed));
            self.receive_window += i64::from(self.consumed);
            self.consumed = 0;
        }
        if let Some(slot) = slot {
            let stream = &mut self.streams[slot];
            stream.receive_window -= i64::from(length);
            stream.consumed += length;
            if stream.receive_window < 0 {
                return Err("more data than a stream's window");
            }
            if stream.consumed >= self.stream_window.div_ceil(2) && header.flags & flag::END_STREAM == 0 {
                self.outbox.copy(&frame::of_number(kind::WINDOW_UPDATE, header.stream, stream.consumed));
                stream.receive_window += i64::from(stream.consumed);
                stream.consumed = 0;
            }
        }
        Ok(slot)
    }

    fn handle(&mut self, header: Header, payload: &[u8], inbox: &mut impl Inbox) -> Result<(), &'static str> {
        let Header { kind, flags, stream, .. } = header;
        if self.block.is_some() && kind != kind::CONTINUATION {
            return Err("a header block that is not continued");
        }
        match kind {
            kind::DATA => {
                let payload = frame::without_padding(flags, payload).ok_or("more padding than payload")?;
                if let Some(slot) = self.account(header)? {
                    inbox.data(slot, payload);
                    if flags & flag::END_STREAM != 0 {
                        self.finish(slot, inbox);
                    }
                }
                Ok(())
            }
            kind::HEADERS => {
                let payload = frame::without_padding(flags, payload).ok_or("more padding than payload")?;
                let skipped = if flags & flag::PRIORITY != 0 { 5 } else { 0 };
                let block = payload.get(skipped..).ok_or("a HEADERS frame that is too short")?;
                let is_last = flags & flag::END_STREAM != 0;
                if flags & flag::END_HEADERS != 0 {
                    return self.headers_came(stream, is_last, block, inbox);
                }
                self.block_bytes.clear();
                self.block_bytes.extend_from_slice(block);
                self.block = Some((stream, is_last));
                Ok(())
            }
            kind::CONTINUATION => {
                let (begun, is_last) =
                    self.block.filter(|(begun, _)| *begun == stream).ok_or("a stray CONTINUATION")?;
                if self.block_bytes.len() + payload.len() > BLOCK_BYTES_MAX {
                    return Err("a header block larger than allowed");
                }
                self.block_bytes.extend_from_slice(payload);
                if flags & flag::END_HEADERS != 0 {
                    self.block = None;
                    let block = std::mem::take(&mut self.block_bytes);
                    self.headers_came(begun, is_last, &block, inbox)?;
                    self.block_bytes = block;
                }
                Ok(())
            }
            kind::RST_STREAM => {
                let code = Some(payload).filter(|payload| payload.len() == 4).and_then(frame::number_at);
                let code = code.ok_or("a RST_STREAM frame of a wrong length")?;
                if let Some(slot) = self.slot(stream)? {
                    self.free(slot);
                    inbox.end(slot, End::Reset(code));
                }
                Ok(())
            }
            kind::SETTINGS => self.settings_came(flags, payload),
            kind::PING => {
                if payload.len() != 8 {
                    return Err("a PING frame of a wrong length");
                }
                if flags & flag::ACK == 0 {
                    self.outbox.copy(&Header { length: 8, kind: kind::PING, flags: flag::ACK, stream: 0 }.encode());
                    self.outbox.copy(payload);
                }
                Ok(())
            }
            kind::GOAWAY => {
                let last = frame::number_at(payload).ok_or("a GOAWAY frame that is too short")? & WINDOW_BYTES_MAX;
                let code = payload.get(4..).and_then(frame::number_at).ok_or("a GOAWAY frame that is too short")?;
                self.is_retiring = true;
                for slot in 0..self.ids.len() {
                    if self.ids[slot] > last {
                        self.free(slot);
                        inbox.end(slot, End::Refused(code));
                    }
                }
                Ok(())
            }
            kind::WINDOW_UPDATE => self.window_update_came(stream, payload),
            kind::PUSH_PROMISE => Err("a PUSH_PROMISE, which was not allowed"),
            // PRIORITY says nothing any more, and kinds that are not known are to be ignored.
            _ => Ok(()),
        }
    }

    fn headers_came(
        &mut self,
        id: u32,
        is_last: bool,
        block: &[u8],
        inbox: &mut impl Inbox,
    ) -> Result<(), &'static str> {
        let Some(slot) = self.slot(id)? else { return Ok(()) };
        self.streams[slot].said.read(block)?;
        if is_last {
            self.finish(slot, inbox);
        }
        Ok(())
    }

    fn settings_came(&mut self, flags: u8, payload: &[u8]) -> Result<(), &'static str> {
        if flags & flag::ACK != 0 {
            return if self.headers.is_some() { Ok(()) } else { Err("an answer to SETTINGS before its own") };
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err("a SETTINGS frame of a wrong length");
        }
        let mut table_bytes = None;
        for &[n0, n1, v0, v1, v2, v3] in settings {
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([n0, n1]) {
                setting::HEADER_TABLE_SIZE => table_bytes = Some(value),
                setting::MAX_CONCURRENT_STREAMS => self.peer.streams_max = value as usize,
                setting::INITIAL_WINDOW_SIZE if value > WINDOW_BYTES_MAX => return Err("a window that is too large"),
                setting::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - i64::from(self.peer.stream_window);
                    self.peer.stream_window = value;
                    for slot in 0..self.ids.len() {
                        if self.ids[slot] != 0 {
                            self.streams[slot].send_window += change;
                            if self.streams[slot].send_window > 0 && self.streams[slot].body.left_bytes() > 0 {
                                self.queue(slot);
                            }
                        }
                    }
                }
                setting::MAX_FRAME_SIZE if !(16_384..1 << 24).contains(&value) => {
                    return Err("a frame size that is out of bounds");
                }
                setting::MAX_FRAME_SIZE => self.peer.payload_bytes_max = value as usize,
                _ => {}
            }
        }
        let is_first = self.headers.is_none();
        if is_first || table_bytes.is_some() {
            // A change of the table's size empties it, as far as we are concerned.
            self.headers = Some(Headers::new(&self.authority, table_bytes.unwrap_or(TABLE_BYTES_DEFAULT), !is_first));
        }
        self.outbox.copy(&Header { length: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.encode());
        Ok(())
    }

    fn window_update_came(&mut self, id: u32, payload: &[u8]) -> Result<(), &'static str> {
        const TOO_LARGE: &str = "a window that is too large";
        let more = Some(payload).filter(|payload| payload.len() == 4).and_then(frame::number_at);
        let more = i64::from(more.ok_or("a WINDOW_UPDATE frame of a wrong length")? & WINDOW_BYTES_MAX);
        if more == 0 {
            return Err("a WINDOW_UPDATE of nothing");
        }
        let grown = |window: i64| Some(window + more).filter(|grown| *grown <= i64::from(WINDOW_BYTES_MAX));
        if id == 0 {
            self.send_window = grown(self.send_window).ok_or(TOO_LARGE)?;
        } else if let Some(slot) = self.slot(id)? {
            let stream = &mut self.streams[slot];
            stream.send_window = grown(stream.send_window).ok_or(TOO_LARGE)?;
            if stream.send_window > 0 && stream.body.left_bytes() > 0 {
                self.queue(slot);
            }
        }
        Ok(())
    }
}

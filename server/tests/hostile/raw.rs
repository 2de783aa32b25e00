//! A client that speaks HTTP/2 frame by frame and keeps no rule: no library would send what these tests send.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::process::Server;
use crate::support::within;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEAD_BYTES: usize = 9;

/// Frame types.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags.
pub(crate) const NONE: u8 = 0;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// Settings.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;

/// One frame, its length told truly.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length");
    let mut bytes = Vec::with_capacity(FRAME_HEAD_BYTES + payload.len());
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in values {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(SETTINGS, NONE, 0, &payload)
}

pub(crate) fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, NONE, stream, &bytes.to_be_bytes())
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    const CANCEL: u32 = 8;
    frame(RST_STREAM, NONE, stream, &CANCEL.to_be_bytes())
}

/// A header as HPACK writes one that is in no table and goes into none.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        hpack_length(&mut bytes, text.len());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// The same, entered into the peer's dynamic table.
pub(crate) fn indexed_literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = literal(name, value);
    bytes[0] = 0x40;
    bytes
}

/// An integer with a prefix of seven bits.
fn hpack_length(bytes: &mut Vec<u8>, length: usize) {
    if length < 0x7f {
        bytes.push(length as u8);
        return;
    }
    bytes.push(0x7f);
    let mut rest = length - 0x7f;
    while rest >= 0x80 {
        bytes.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// The header block of a gRPC call.
pub(crate) fn call_headers(path: &str) -> Vec<u8> {
    [
        literal(":method", "POST"),
        literal(":scheme", "http"),
        literal(":path", path),
        literal(":authority", "cask"),
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
    ]
    .concat()
}

/// HEADERS that open a stream with a gRPC call, whose body follows.
pub(crate) fn open_call(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &call_headers(path))
}

/// A whole gRPC call of one message, which must fit a frame of 16 KiB with its prefix.
pub(crate) fn whole_call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let body = crate::support::http::grpc_frame(message);
    let mut bytes = open_call(stream, path);
    for (number, piece) in body.chunks(16 << 10).enumerate() {
        let flags = if (number + 1) * (16 << 10) >= body.len() { END_STREAM } else { NONE };
        bytes.extend(frame(DATA, flags, stream, piece));
    }
    bytes
}

/// What the server sent.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection whose test writes and reads every byte itself. It answers nothing by itself: no SETTINGS, no PING, no window.
pub(crate) struct RawConnection {
    pub(crate) stream: TcpStream,
}

impl RawConnection {
    /// A TCP connection, and nothing said on it.
    pub(crate) async fn silent(server: &Server) -> Self {
        let stream = within("a connection", TcpStream::connect(server.address())).await.expect("the server accepts");
        stream.set_nodelay(true).expect("an option of every socket");
        Self { stream }
    }

    /// A connection that has greeted as it should, with these settings.
    pub(crate) async fn greeted(server: &Server, values: &[(u16, u32)]) -> Self {
        let mut connection = Self::silent(server).await;
        connection.send(&[PREFACE, &settings(values)].concat()).await.expect("the server reads a greeting");
        connection
    }

    /// An error says that the server has closed the connection; waits for as long as the server does not read.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends and throws away what comes meanwhile, so that neither side waits for the other for ever.
    pub(crate) async fn send_and_drain(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut reader, mut writer) = self.stream.split();
        let mut said = vec![0; 16 << 10];
        let mut writing = std::pin::pin!(writer.write_all(bytes));
        loop {
            tokio::select! {
                written = &mut writing => return written,
                read = reader.read(&mut said) => if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                },
            }
        }
    }

    /// The next frame; `None` when the server has closed the connection.
    pub(crate) async fn next_frame(&mut self) -> Option<Frame> {
        let mut head = [0; FRAME_HEAD_BYTES];
        self.stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads up to a frame of this kind; `None` when the connection ends without one.
    pub(crate) async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = within("the server's next frame", self.next_frame()).await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Asks for a sign that everything sent so far has been read, and waits for it; false when the connection ends instead.
    pub(crate) async fn is_heard(&mut self) -> bool {
        const MARK: &[u8; 8] = b"all read";
        if self.send(&frame(PING, NONE, 0, MARK)).await.is_err() {
            return false;
        }
        while let Some(answer) = self.next_of(PING).await {
            if answer.flags & ACK != 0 && answer.payload == MARK {
                return true;
            }
        }
        false
    }
}

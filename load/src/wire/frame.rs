//! HTTP/2 frames (RFC 9113, sections 4 and 6): headers of nine bytes, their kinds and flags, and the small frames a client
//! writes.

/// What a client says first, before its SETTINGS.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 9;
/// The largest payload that each side takes unless it says otherwise.
pub(crate) const PAYLOAD_BYTES_DEFAULT: usize = 16_384;
/// The largest window there is.
pub(crate) const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
/// Each window, unless said otherwise.
pub(crate) const WINDOW_BYTES_DEFAULT: u32 = 65_535;

/// Kinds of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags; ACK and `END_STREAM` are the same bit.
pub(crate) mod flag {
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const PADDED: u8 = 8;
    pub(crate) const PRIORITY: u8 = 32;
}

/// Settings by number.
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// The code of `RST_STREAM` that we send.
pub(crate) mod code {
    pub(crate) const CANCEL: u32 = 8;
}

/// The names of HTTP/2's error codes, by number.
pub(crate) fn code_name(code: u32) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(code as usize).copied().unwrap_or("unknown code")
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of payload.
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Header {
    /// Reads one from its bytes; `None` where there are not enough.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        Some(Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind,
            flags,
            // The highest bit is reserved, and ignored.
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & WINDOW_BYTES_MAX,
        })
    }

    /// Its bytes.
    #[inline]
    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let [_, l0, l1, l2] = (self.length as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }
}

/// Reads the big-endian number at the beginning of a payload.
pub(crate) fn number_at(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// A payload without its padding; `None` where the padding is longer than the payload.
pub(crate) fn without_padding(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    if flags & flag::PADDED == 0 {
        return Some(payload);
    }
    let (&padding, rest) = payload.split_first()?;
    rest.len().checked_sub(usize::from(padding)).map(|length| &rest[..length])
}

/// Settings as a frame.
pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let header = Header { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 };
    let mut frame = header.encode().to_vec();
    for (number, value) in settings {
        frame.extend_from_slice(&number.to_be_bytes());
        frame.extend_from_slice(&value.to_be_bytes());
    }
    frame
}

/// A frame of one number: `WINDOW_UPDATE` or `RST_STREAM`.
#[inline]
pub(crate) fn of_number(kind: u8, stream: u32, number: u32) -> [u8; HEADER_BYTES + 4] {
    let mut frame = [0; HEADER_BYTES + 4];
    frame[..HEADER_BYTES].copy_from_slice(&Header { length: 4, kind, flags: 0, stream }.encode());
    frame[HEADER_BYTES..].copy_from_slice(&number.to_be_bytes());
    frame
}

//! The header block of a gRPC request.
//!
//! As real clients do, the fields are sent in full once a connection and by their place in the peer's table from then on,
//! unless the peer's table is too small. The blocks are made once; nothing is compressed while requests are made.

/// The hot methods of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Method {
    FindMissingBlobs,
    BatchUpdateBlobs,
    BatchReadBlobs,
    Read,
    Write,
    GetActionResult,
    UpdateActionResult,
}

const METHODS: usize = 7;

impl Method {
    fn path(self) -> &'static str {
        match self {
            Self::FindMissingBlobs => "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
            Self::BatchUpdateBlobs => "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
            Self::BatchReadBlobs => "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
            Self::Read => "/google.bytestream.ByteStream/Read",
            Self::Write => "/google.bytestream.ByteStream/Write",
            Self::GetActionResult => "/build.bazel.remote.execution.v2.ActionCache/GetActionResult",
            Self::UpdateActionResult => "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult",
        }
    }
}

/// The longest authority that is sent, so that the whole table stays far below the size that every peer has.
pub(crate) const AUTHORITY_BYTES_MAX: usize = 300;
/// The table that peers have unless they say otherwise; ours fills less than that.
pub(crate) const TABLE_BYTES_DEFAULT: u32 = 4096;
/// Entries of HPACK's static table, behind which the dynamic one begins.
const STATIC_ENTRIES: usize = 61;
/// Static places of the fields and names we use.
const METHOD_POST: u8 = 0x83;
const SCHEME_HTTP: u8 = 0x86;
const NAME_AUTHORITY: usize = 1;
const NAME_PATH: usize = 4;
const NAME_CONTENT_TYPE: usize = 31;
const NAME_USER_AGENT: usize = 58;

/// What the peer of one connection has in its table because of us.
#[derive(Debug)]
pub(crate) struct Headers {
    authority: Vec<u8>,
    /// Whether fields are entered into the peer's table.
    is_indexing: bool,
    /// True until the peer has been told that its table is emptied.
    owes_size_update: bool,
    /// Fields entered so far.
    entered: usize,
    /// The number of the first common field, once entered.
    common: Option<usize>,
    paths: [Option<usize>; METHODS],
}

impl Headers {
    /// For requests to `authority`, to a peer whose header table holds `table_bytes`; `was_used` where there were fields in
    /// it, which are forgotten.
    pub(crate) fn new(authority: &str, table_bytes: u32, was_used: bool) -> Self {
        debug_assert!(authority.len() <= AUTHORITY_BYTES_MAX, "checked where the target was parsed");
        let is_indexing = table_bytes >= TABLE_BYTES_DEFAULT;
        Self {
            authority: authority.as_bytes().to_vec(),
            is_indexing,
            owes_size_update: was_used || !is_indexing,
            entered: 0,
            common: None,
            paths: [None; METHODS],
        }
    }

    /// Appends the block of the next request.
    pub(crate) fn append(&mut self, method: Method, out: &mut Vec<u8>) {
        if self.owes_size_update {
            // A table of no bytes, and perhaps of its default size again: both at the beginning of a block.
            out.push(0x20);
            if self.is_indexing {
                append_integer(0x20, 5, TABLE_BYTES_DEFAULT as usize, out);
            }
            self.owes_size_update = false;
        }
        out.extend_from_slice(&[METHOD_POST, SCHEME_HTTP]);
        if let Some(number) = self.paths[method as usize] {
            self.append_indexed(number, out);
        } else {
            let number = self.append_literal(NAME_PATH, b"", method.path().as_bytes(), out);
            self.paths[method as usize] = number;
        }
        if let Some(first) = self.common {
            for number in first..first + 4 {
                self.append_indexed(number, out);
            }
        } else {
            let authority = std::mem::take(&mut self.authority);
            self.common = self.append_literal(NAME_AUTHORITY, b"", &authority, out);
            self.authority = authority;
            self.append_literal(NAME_CONTENT_TYPE, b"", b"application/grpc", out);
            self.append_literal(0, b"te", b"trailers", out);
            self.append_literal(
                NAME_USER_AGENT,
                b"",
                concat!("cask-bench/", env!("CARGO_PKG_VERSION")).as_bytes(),
                out,
            );
        }
    }

    fn append_indexed(&self, number: usize, out: &mut Vec<u8>) {
        // The newest field is the first behind the static ones.
        append_integer(0x80, 7, STATIC_ENTRIES + self.entered - number, out);
    }

    /// A field in full; its number where it was entered. A name of 0 is the one given.
    fn append_literal(&mut self, name: usize, new_name: &[u8], value: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        if self.is_indexing {
            append_integer(0x40, 6, name, out);
        } else {
            append_integer(0, 4, name, out);
        }
        if name == 0 {
            append_integer(0, 7, new_name.len(), out);
            out.extend_from_slice(new_name);
        }
        append_integer(0, 7, value.len(), out);
        out.extend_from_slice(value);
        self.entered += usize::from(self.is_indexing);
        self.is_indexing.then(|| self.entered - 1)
    }
}

/// An integer behind the `first` bits of a byte (RFC 7541, 5.1).
fn append_integer(first: u8, prefix_bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1usize << prefix_bits) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer's table, newest field first, and what a block says by it.
    #[derive(Default)]
    struct Reader {
        table: Vec<(String, String)>,
        resized: Vec<usize>,
    }

    impl Reader {
        fn integer(block: &mut &[u8], prefix_bits: u32) -> usize {
            let most = (1 << prefix_bits) - 1;
            let mut value = usize::from(block[0]) & most;
            *block = &block[1..];
            let mut shift = 0;
            while value >= most {
                let byte = usize::from(block[0]);
                *block = &block[1..];
                value += (byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            value
        }

        fn string(block: &mut &[u8]) -> String {
            let length = Self::integer(block, 7);
            let (text, rest) = block.split_at(length);
            *block = rest;
            String::from_utf8(text.to_vec()).expect("text")
        }

        fn field(&self, index: usize) -> (String, String) {
            let (name, value) = match index {
                1 => (":authority", ""),
                3 => (":method", "POST"),
                4 => (":path", ""),
                6 => (":scheme", "http"),
                31 => ("content-type", ""),
                58 => ("user-agent", ""),
                _ => return self.table[index - STATIC_ENTRIES - 1].clone(),
            };
            (name.to_owned(), value.to_owned())
        }

        fn read(&mut self, mut block: &[u8]) -> Vec<(String, String)> {
            let mut fields = Vec::new();
            while let Some(first) = block.first() {
                if first & 0x80 != 0 {
                    fields.push(self.field(Self::integer(&mut block, 7)));
                } else if first & 0xe0 == 0x20 {
                    self.resized.push(Self::integer(&mut block, 5));
                    self.table.clear();
                } else {
                    let is_entered = first & 0x40 != 0;
                    let index = Self::integer(&mut block, if is_entered { 6 } else { 4 });
                    let name = if index == 0 { Self::string(&mut block) } else { self.field(index).0 };
                    let field = (name, Self::string(&mut block));
                    if is_entered {
                        self.table.insert(0, field.clone());
                    }
                    fields.push(field);
                }
            }
            fields
        }
    }

    const METHODS_IN_TURN: [Method; 6] =
        [Method::Read, Method::Write, Method::Read, Method::FindMissingBlobs, Method::Write, Method::FindMissingBlobs];

    /// Blocks of several methods say what they should; how long each is.
    fn check(headers: &mut Headers, reader: &mut Reader) -> Vec<usize> {
        METHODS_IN_TURN
            .map(|method| {
                let mut block = Vec::new();
                headers.append(method, &mut block);
                let said = reader.read(&block);
                let expected = [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", method.path()),
                    (":authority", "cache.example.org:8980"),
                    ("content-type", "application/grpc"),
                    ("te", "trailers"),
                    ("user-agent", concat!("cask-bench/", env!("CARGO_PKG_VERSION"))),
                ];
                assert_eq!(said, expected.map(|(name, value)| (name.to_owned(), value.to_owned())), "{method:?}");
                block.len()
            })
            .to_vec()
    }

    #[test]
    fn fields_are_sent_once_and_then_by_their_place() {
        let mut reader = Reader::default();
        let mut headers = Headers::new("cache.example.org:8980", TABLE_BYTES_DEFAULT, false);
        let lengths = check(&mut headers, &mut reader);
        assert_eq!([lengths[2], lengths[4], lengths[5]], [7; 3], "a byte a field");
        assert!(reader.resized.is_empty());
        // The peer changed its table: it is emptied, said to be as large as before, and filled again.
        let mut headers = Headers::new("cache.example.org:8980", 1 << 16, true);
        check(&mut headers, &mut reader);
        assert_eq!(reader.resized, [0, 4096]);
    }

    #[test]
    fn a_peer_with_a_small_table_gets_every_field_in_full() {
        let mut reader = Reader::default();
        let mut headers = Headers::new("cache.example.org:8980", 4095, false);
        let lengths = check(&mut headers, &mut reader);
        assert!(lengths.iter().all(|length| *length > 80), "{lengths:?}");
        assert_eq!(reader.resized, [0]);
        assert!(reader.table.is_empty());
    }
}

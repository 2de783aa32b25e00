//! Cask's digest index: the ground floor. No I/O, no async; knows nothing of disks or gRPC.
#![allow(missing_docs)]

/// A digest function of the Remote Execution API; discriminants are the wire numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DigestFunction {
    Sha256 = 1,
    Sha1 = 2,
    Md5 = 3,
    Sha384 = 5,
    Sha512 = 6,
    Sha256Tree = 8,
    Blake3 = 9,
    GitSha1 = 10,
}

impl DigestFunction {
    pub const ALL: [DigestFunction; 8] = [
        DigestFunction::Sha256,
        DigestFunction::Sha1,
        DigestFunction::Md5,
        DigestFunction::Sha384,
        DigestFunction::Sha512,
        DigestFunction::Sha256Tree,
        DigestFunction::Blake3,
        DigestFunction::GitSha1,
    ];
    pub const fn hash_length_bytes(self) -> usize {
        todo!()
    }
    pub const fn wire_number(self) -> u8 {
        self as u8
    }
    pub fn from_wire_number(_number: i32) -> Option<Self> {
        todo!()
    }
    /// Lowercase name: "sha256", "blake3"...
    pub const fn name(self) -> &'static str {
        todo!()
    }
    pub fn empty_blob(self) -> Digest {
        todo!()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("hash has {found} characters, {function:?} needs {expected}")]
    HashLength { function: DigestFunction, found: usize, expected: usize },
    #[error("hash is not lowercase hexadecimal")]
    NotHex,
    #[error("size {0} is negative")]
    NegativeSize(i64),
}

/// Size is part of identity. Copy, 80 bytes at most.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    function: DigestFunction,
    size_bytes: u64,
    hash: [u8; 64], // zero-padded
}

impl Digest {
    pub fn new(_function: DigestFunction, _hash: &[u8], _size_bytes: u64) -> Result<Self, DigestError> {
        todo!()
    }
    pub fn parse_hex(_function: DigestFunction, _hex: &[u8], _size_bytes: i64) -> Result<Self, DigestError> {
        todo!()
    }
    pub fn function(&self) -> DigestFunction {
        self.function
    }
    /// Exactly `function.hash_length_bytes()` bytes.
    pub fn hash(&self) -> &[u8] {
        &self.hash
    }
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    /// Lowercase hex of the hash.
    pub fn hash_hex(&self) -> String {
        todo!()
    }
    /// True for the digest of the empty blob under its function.
    pub fn is_empty_blob(&self) -> bool {
        todo!()
    }
}

impl std::fmt::Display for Digest {
    // `<hex>/<size>`
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Keyed 128-bit mix; what the table, the footers and action closures store instead of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u128);
impl Key {
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Key(u128::from_le_bytes(bytes))
    }
}

/// Makes keys; holds the store's secret. Domains (blob, action, part) never collide by construction of the input.
#[derive(Clone)]
pub struct Keyer {}
impl Keyer {
    pub fn new(_seed: &[u8; 32]) -> Self {
        todo!()
    }
    pub fn blob(&self, _digest: &Digest) -> Key {
        todo!()
    }
    pub fn action(&self, _instance: &str, _action: &Digest) -> Key {
        todo!()
    }
    /// Part `number` of the large blob whose upload drew `nonce`.
    pub fn part(&self, _nonce: u64, _number: u32) -> Key {
        todo!()
    }
}

/// Where a record stands: 24 bits segment | 22 bits offset | 18 bits length; offset and length in units of 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location(u64);
impl Location {
    pub const UNIT_BYTES: u32 = 64;
    pub const SEGMENT_COUNT_MAX: u32 = 1 << 24;
    /// `offset_bytes` and `length_bytes` are multiples of 64; panics (broken invariant) when out of range.
    pub fn new(_segment: u32, _offset_bytes: u32, _length_bytes: u32) -> Self {
        todo!()
    }
    pub fn segment(self) -> u32 {
        todo!()
    }
    pub fn offset_bytes(self) -> u32 {
        todo!()
    }
    pub fn length_bytes(self) -> u32 {
        todo!()
    }
}

/// 6-bit touch epoch: 0 = beyond the horizon, 1..=63 a ring of periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TouchEpoch(u8);
impl TouchEpoch {
    pub const OLD: TouchEpoch = TouchEpoch(0);
    /// As stored in a footer entry; values over 63 read as `OLD`.
    pub fn from_u8(_raw: u8) -> Self {
        todo!()
    }
    pub fn as_u8(self) -> u8 {
        self.0
    }
}

/// Arithmetic between wall-clock milliseconds and touch epochs.
#[derive(Clone, Copy, Debug)]
pub struct EpochLength {
    pub length_ms: u64,
}
impl EpochLength {
    /// Periods the ring can tell apart before an entry must have been swept to `OLD` (48 of 63, the rest is slack).
    pub const AGE_PERIODS_MAX: u8 = 48;
    pub fn epoch_at(&self, _now_ms: u64) -> TouchEpoch {
        todo!()
    }
    /// Whole periods since the touch, `None` for OLD. 0 = touched in the current period. A touch `age` periods ago
    /// happened less than `(age + 1) * length_ms` and more than `(age - 1) * length_ms` ago.
    pub fn age_periods(&self, _now_ms: u64, _touched: TouchEpoch) -> Option<u8> {
        todo!()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub location: Location,
    pub touched: TouchEpoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    New,
    Replaced(Found),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("both buckets and the shard's stash are full")]
pub struct TableFull;

/// Sharded two-choice table; lock-free readers, one writer lock a shard. Entries never move.
pub struct Table {}
impl Table {
    /// Slots are `entry_count_max / 0.8` rounded up; memory is zero pages until touched.
    pub fn with_capacity(_entry_count_max: u64) -> std::io::Result<Self> {
        todo!()
    }
    pub fn get(&self, _key: Key) -> Option<Found> {
        todo!()
    }
    pub fn insert(&self, _key: Key, _location: Location, _touched: TouchEpoch) -> Result<Inserted, TableFull> {
        todo!()
    }
    /// Points the entry from `from` to `to`, keeping its touch epoch; false when it is not (any more) at `from`.
    pub fn relocate(&self, _key: Key, _from: Location, _to: Location) -> bool {
        todo!()
    }
    /// Removes the entry if it is still at `location`.
    pub fn remove(&self, _key: Key, _location: Location) -> bool {
        todo!()
    }
    /// Sets the touch epoch when it differs. False when absent.
    pub fn touch(&self, _key: Key, _epoch: TouchEpoch) -> bool {
        todo!()
    }
    /// For each key in order calls `absent(position)` when it is absent; present ones are touched. Prefetches.
    pub fn touch_batch(&self, _keys: &[Key], _epoch: TouchEpoch, _absent: impl FnMut(usize)) {
        todo!()
    }
    /// Sets every entry older than `EpochLength::AGE_PERIODS_MAX` to OLD; to be run at least every 8 periods.
    pub fn age(&self, _epochs: EpochLength, _now_ms: u64) {
        todo!()
    }
    pub fn entry_count(&self) -> u64 {
        todo!()
    }
    pub fn slot_count(&self) -> u64 {
        todo!()
    }
    /// Bytes reserved (virtual), all in.
    pub fn memory_bytes(&self) -> u64 {
        todo!()
    }
}

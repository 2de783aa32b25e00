//! [`Key`]: what the table, the footers and the action closures store instead of digests, and [`Keyer`] that makes them.
//!
//! A key is 128 bits of a keyed mix. Keys are on disk, so the mix never changes; golden vectors below pin it. Nobody can
//! craft colliding or bucket-crowding digests offline, because every multiplication has a secret operand; nobody who does
//! not hold the store's seed can compute a key at all. The mix is not a cryptographic hash: keys must not be shown to the
//! world, and every read compares the full digest in the record.
//!
//! How the 128 bits are spent in the table (disjoint, so a full bucket says nothing about its fingerprints):
//!
//! ```text
//! 127             93 92              58 57         56                  0
//! | second bucket (35) | first bucket (35) | zero (1) | fingerprint (57) |
//! ```
//!
//! # The mix, version 1
//! Two lanes compute 64 bits each with secrets of their own. A lane sums products of 64-bit words, each word offset by a
//! secret (NH of UMAC: two different inputs give the same 128-bit sum with probability at most 2^-64 over the secrets),
//! then folds the sum to 64 bits. With `fold(a, b)` = low half xor high half of the 128-bit product `a * b`, additions of
//! words modulo 2^64, sums of products modulo 2^128, `s` the lane's 18 secret words, words little-endian:
//!
//! ```text
//! sum    = (head + s0) * (size + s1)  +  sum over i of (w[2i] + s[2+2i]) * (w[2i+1] + s[3+2i])
//!          + (action only) (name + s10) * (name_length + s11)
//! folded = fold(low(sum) ^ s14, high(sum) ^ s15)
//! lane   = fold(folded ^ s16, s17)
//! name   = s12, then for each 16 bytes a, b of the instance name (zero-padded): name = fold(name ^ a, b ^ s13)
//!
//! blob:    head = 1 | function << 8 | namespace << 16, size = 0, w = hash in 16-byte pieces, zero-padded; then the low 24 bits of the key
//!          are xored with those of fold(size in bytes + s12, s13) of lane 0
//! action:  head = 2 | function << 8 | namespace << 16, size = size in bytes, w as a blob, and the instance name
//! part:    head = 3, size = nonce, w = [number, 0]
//! ```
//! A blob's size changes only the low 24 bits, so that an entry can be found by its hash alone: its buckets and the other
//! 33 bits of its fingerprint say nothing of the size. A wrong size with a right hash is taken for present once in 2^24,
//! which the record's header then tells. Bit 57 is always 0.
//!
//! The head holds the domain and the function (thereby the number of products), so inputs of different shape differ in
//! the first product and are covered by the same bound. Secret words: SHA-256 of `"cask key 1" | block number | seed`,
//! four words a block, lane 0 first.

use std::fmt;

use sha2::Digest as _;

use crate::Digest;
use crate::touch::TouchEpoch;

/// 128 keyed bits that stand for a blob, an action or a part of a large blob. 16 little-endian bytes when stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u128);

const _: () = assert!(size_of::<Key>() == 16);

impl Key {
    /// As stored: 16 bytes, little-endian.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From what [`to_bytes`](Self::to_bytes) gave.
    #[inline]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Key(u128::from_le_bytes(bytes))
    }

    #[inline]
    pub(crate) fn fingerprint(self) -> Fingerprint {
        let bits = self.0 as u64 & Fingerprint::MASK;
        // 0 marks an empty slot; the key with fingerprint 0 shares 1 with its neighbour.
        Fingerprint(bits.max(1))
    }

    /// Selects a bucket of the whole table, and thereby the shard.
    #[inline]
    pub(crate) fn first_selector(self) -> Selector {
        Selector((self.0 >> Selector::FIRST_AT) as u64 & Selector::MASK)
    }

    /// Selects another bucket of the same shard.
    #[inline]
    pub(crate) fn second_selector(self) -> Selector {
        Selector((self.0 >> (Selector::FIRST_AT + Selector::BITS)) as u64)
    }

    /// Selects the key's two buckets in its shard's stash, as a fraction of 2^64: from the selectors' bits alone (a
    /// fingerprint must not be predictable from where it stands), stirred so that the keys of one crowded bucket part.
    #[inline]
    pub(crate) fn stash_fraction(self) -> u64 {
        ((self.0 >> Selector::FIRST_AT) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// 57 bits of a key, never 0: what a slot is recognised by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) const BITS: u32 = u64::BITS - TouchEpoch::BITS - 1;
    const MASK: u64 = (1 << Self::BITS) - 1;
    /// Low bits that depend on a blob's size.
    pub(crate) const SIZE_BITS: u32 = 24;

    #[inline]
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

/// 35 bits of a key that choose a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selector(u64);

impl Selector {
    pub(crate) const BITS: u32 = 35;
    const FIRST_AT: u32 = u128::BITS - 2 * Self::BITS;
    const MASK: u64 = (1 << Self::BITS) - 1;

    /// An index below `count`, evenly spread for any count up to 2^35 (no need for a power of two, nor for a division).
    #[inline]
    pub(crate) fn scale(self, count: usize) -> usize {
        scale(self.fraction(), count).0
    }

    /// An index below `outer_count` and one below `inner_count`, spread as [`scale`](Self::scale) by their product.
    #[inline]
    pub(crate) fn scale_twice(self, outer_count: usize, inner_count: usize) -> (usize, usize) {
        let (outer, rest) = scale(self.fraction(), outer_count);
        (outer, scale(rest, inner_count).0)
    }

    /// The selector as a fraction of 2^64.
    fn fraction(self) -> u64 {
        self.0 << (u64::BITS - Self::BITS)
    }
}

/// Whole part and fraction of `fraction / 2^64 * count`.
#[inline]
pub(crate) fn scale(fraction: u64, count: usize) -> (usize, u64) {
    let product = u128::from(fraction) * count as u128;
    ((product >> u64::BITS) as usize, product as u64)
}

const _: () = assert!(Fingerprint::BITS <= Selector::FIRST_AT);

/// Makes keys; holds the store's secret. Domains (blob, action, part) never collide by construction of the input.
#[derive(Clone)]
pub struct Keyer {
    lanes: [Lane; 2],
}

impl Keyer {
    /// `seed` is the store's secret: 32 random bytes, drawn when the store is made and kept in its superblock.
    pub fn new(seed: &[u8; 32]) -> Self {
        let mut words = (0_u8..).flat_map(|block| {
            let hash: [u8; 32] = sha2::Sha256::new()
                .chain_update(b"cask key 1")
                .chain_update([block])
                .chain_update(seed)
                .finalize()
                .into();
            let (words, _) = hash.as_chunks::<8>();
            <[[u8; 8]; 4]>::try_from(words).expect("32 bytes are four words").map(u64::from_le_bytes)
        });
        let mut lane = || Lane { secrets: std::array::from_fn(|_| words.next().expect("36 words are 9 blocks")) };
        Keyer { lanes: [lane(), lane()] }
    }

    /// The key of a blob.
    #[inline]
    pub fn blob(&self, digest: &Digest) -> Key {
        let Key(of_hash) = self.key(|lane| lane.digest_sum(Domain::Blob, 0, digest));
        let [low, _] = &self.lanes;
        let of_size = fold(digest.size_bytes().wrapping_add(low.secrets[NAME_START]), low.secrets[NAME_STEP]);
        Key(of_hash ^ u128::from(of_size & ((1 << Fingerprint::SIZE_BITS) - 1)))
    }

    /// The key of an action's cached result in an instance. Any instance name is taken as it is, the empty one too.
    pub fn action(&self, instance: &str, action: &Digest) -> Key {
        self.key(|lane| {
            let sum = lane.digest_sum(Domain::Action, action.size_bytes(), action);
            sum.wrapping_add(lane.name_product(instance.as_bytes()))
        })
    }

    /// Part `number` of the large blob whose upload drew `nonce`.
    pub fn part(&self, nonce: u64, number: u32) -> Key {
        self.key(|lane| lane.product(0, Domain::Part as u64, nonce).wrapping_add(lane.product(2, u64::from(number), 0)))
    }

    #[inline]
    fn key(&self, sum: impl Fn(&Lane) -> u128) -> Key {
        let [low, high] = &self.lanes;
        Key((u128::from(low.finish(sum(low))) | u128::from(high.finish(sum(high))) << u64::BITS) & !ZERO_BIT)
    }
}

/// Hides the secret.
impl fmt::Debug for Keyer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyer").finish_non_exhaustive()
    }
}

/// The one bit that the table has no use for.
const ZERO_BIT: u128 = 1 << Fingerprint::BITS;

#[derive(Clone, Copy)]
enum Domain {
    Blob = 1,
    Action = 2,
    Part = 3,
}

/// Where a lane's secret words stand; 0..10 are the offsets of the head's and the hash's products.
const NAME: usize = 10;
const NAME_START: usize = 12;
const NAME_STEP: usize = 13;
const FOLD: usize = 14;
const FINISH: usize = 16;
const SECRET_WORDS: usize = 18;

#[derive(Clone)]
struct Lane {
    secrets: [u64; SECRET_WORDS],
}

impl Lane {
    /// One product of the sum, with the secret words `at` and `at + 1`.
    #[inline]
    fn product(&self, at: usize, left: u64, right: u64) -> u128 {
        u128::from(left.wrapping_add(self.secrets[at])) * u128::from(right.wrapping_add(self.secrets[at + 1]))
    }

    #[inline]
    fn digest_sum(&self, domain: Domain, size: u64, digest: &Digest) -> u128 {
        let head = domain as u64
            | u64::from(digest.function().wire_number()) << 8
            | u64::from(digest.namespace().number()) << 16;
        let (pieces, _) = digest.padded_hash().as_chunks::<PIECE_BYTES>();
        let piece_count = digest.function().hash_length_bytes().div_ceil(PIECE_BYTES);
        let product_of = |index: usize| {
            let (left, right) = words_of(&pieces[index]);
            self.product(2 + 2 * index, left, right)
        };
        let mut sum = self.product(0, head, size).wrapping_add(product_of(0));
        // Nearly every hash has two pieces, and what is no loop costs half.
        if piece_count > 1 {
            sum = sum.wrapping_add(product_of(1));
        }
        for index in 2..piece_count {
            sum = sum.wrapping_add(product_of(index));
        }
        sum
    }

    fn name_product(&self, name: &[u8]) -> u128 {
        let mut state = self.secrets[NAME_START];
        for chunk in name.chunks(PIECE_BYTES) {
            let mut piece = [0; PIECE_BYTES];
            piece[..chunk.len()].copy_from_slice(chunk);
            let (left, right) = words_of(&piece);
            state = fold(state ^ left, right ^ self.secrets[NAME_STEP]);
        }
        self.product(NAME, state, name.len() as u64)
    }

    #[inline]
    fn finish(&self, sum: u128) -> u64 {
        let folded = fold(sum as u64 ^ self.secrets[FOLD], (sum >> u64::BITS) as u64 ^ self.secrets[FOLD + 1]);
        fold(folded ^ self.secrets[FINISH], self.secrets[FINISH + 1])
    }
}

/// Bytes that go into one product.
const PIECE_BYTES: usize = 16;

#[inline]
fn words_of(piece: &[u8; PIECE_BYTES]) -> (u64, u64) {
    let both = u128::from_le_bytes(*piece);
    (both as u64, (both >> u64::BITS) as u64)
}

#[inline]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> u64::BITS) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DigestFunction, Namespace};
    use std::collections::HashSet;

    fn seed() -> [u8; 32] {
        std::array::from_fn(|index| index as u8)
    }

    fn digest(function: DigestFunction, fill: u8, size_bytes: u64) -> Digest {
        let hash: Vec<u8> = (0..function.hash_length_bytes()).map(|index| fill.wrapping_add(index as u8)).collect();
        Digest::new(function, &hash, size_bytes).unwrap()
    }

    /// Keys are on disk: whoever changes one of these lines makes every existing store unreadable. The values were
    /// computed by a second implementation, written from the description above.
    #[test]
    fn golden_vectors() {
        let keyer = Keyer::new(&seed());
        let mut lines = Vec::new();
        for function in DigestFunction::ALL {
            lines.push((format!("blob {function:?}"), keyer.blob(&digest(function, 0x40, 1_000_000_007))));
        }
        let apart = digest(DigestFunction::Sha256, 0x40, 1_000_000_007).within(Namespace::from_number(3));
        lines.push(("blob Sha256, namespace 3".to_owned(), keyer.blob(&apart)));
        let action = digest(DigestFunction::Sha256, 0x80, 142);
        for instance in ["", "main", "sixteen-bytes-ab", "an instance name that fills two pieces and a bit"] {
            lines.push((format!("action {instance:?}"), keyer.action(instance, &action)));
        }
        for (nonce, number) in [(0, 0), (0, 1), (u64::MAX, u32::MAX)] {
            lines.push((format!("part {nonce} {number}"), keyer.part(nonce, number)));
        }
        let lines: Vec<String> = lines.into_iter().map(|(name, key)| format!("{name}: {:032x}", key.0)).collect();
        assert_eq!(lines.join("\n"), GOLDEN.trim());
    }

    const GOLDEN: &str = r#"
blob Sha256: 6596d92149e3adc79833baabe3bd55ca
blob Sha1: 91204c66ecf9e6e84072e774c2d75866
blob Md5: 012b2a40770933385d883ba20c269dfc
blob Sha384: 978da8d575c562c9b02de20339d16537
blob Sha512: d21246177b142fa780bc9c4d07a77433
blob Sha256Tree: c3c7663535712afc1d58a153802f2e21
blob Blake3: 70475eeeb3b88cab755db827afd6b651
blob GitSha1: 8662efd57cfe05993c5d3c696172a6db
blob Sha256, namespace 3: 168197326b456d9231e46556c7954cb5
action "": 80ec050f5fe7066ee98ec6723b9fb1df
action "main": 2b9f938f9b0d260cccef2d76061ff8fe
action "sixteen-bytes-ab": 061916fca665cdcde5526dd64f6468d2
action "an instance name that fills two pieces and a bit": cd4c3bcdcdc9da3440b8d098926a3116
part 0 0: 179c02b9bb75a29c85df8cf77b8d27c5
part 0 1: 985724562f25d8383cac269d71cc2984
part 18446744073709551615 4294967295: 1cf569a6e1fce052f08801db341e23aa
"#;

    #[test]
    fn bytes_lead_back_and_are_little_endian() {
        let key = Key(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100);
        assert_eq!(key.to_bytes(), std::array::from_fn(|index| index as u8));
        assert_eq!(Key::from_bytes(key.to_bytes()), key);
    }

    /// Each bit of a key is in exactly one of the three parts.
    #[test]
    fn parts_of_a_key_are_disjoint() {
        for bit in 0..u128::BITS {
            let parts = |key: Key| (key.fingerprint().bits(), key.first_selector().0, key.second_selector().0);
            // Two more bits keep the fingerprint from being mapped away from 0.
            let base = if bit < 2 { 0b1100 } else { 0b0011 };
            let (before, after) = (parts(Key(base)), parts(Key(base | 1 << bit)));
            let changed = [before.0 != after.0, before.1 != after.1, before.2 != after.2];
            let expected = [bit < 57, (58..93).contains(&bit), bit >= 93];
            if !(2..4).contains(&bit) || base == 0b0011 {
                assert_eq!(changed, expected, "bit {bit}");
            }
        }
        assert_eq!(Key(0).fingerprint(), Fingerprint(1), "an empty slot's fingerprint is no key's");
    }

    #[test]
    fn selectors_cover_every_bucket() {
        for bucket_count in [1_usize, 2, 3, 1000, 1 << 20, (1 << 30) - 1] {
            assert_eq!(Selector(0).scale(bucket_count), 0);
            assert_eq!(Selector(Selector::MASK).scale(bucket_count), bucket_count - 1);
            assert_eq!(Selector(1 << 34).scale(bucket_count), bucket_count / 2);
            assert_eq!(Selector(0).scale_twice(256, bucket_count), (0, 0));
            if bucket_count < 1 << 27 {
                assert_eq!(Selector(Selector::MASK).scale_twice(256, bucket_count), (255, bucket_count - 1));
            }
        }
    }

    /// Everything that is part of an identity changes the key.
    #[test]
    fn different_names_have_different_keys() {
        let keyer = Keyer::new(&seed());
        let sha256 = digest(DigestFunction::Sha256, 1, 5);
        let mut keys = HashSet::new();
        let mut add = |key: Key, what: &str| assert!(keys.insert(key), "{what}");
        for function in DigestFunction::ALL {
            for size in 0..3 {
                add(keyer.blob(&digest(function, 1, size + 5)), &format!("{function:?} {size}"));
            }
        }
        add(keyer.action("", &sha256), "action, empty instance");
        add(keyer.action("\0", &sha256), "a zero byte is not padding");
        add(keyer.action("a", &sha256), "instance a");
        add(keyer.action("a\0", &sha256), "instance a, zero");
        add(keyer.action("a", &digest(DigestFunction::Blake3, 1, 5)), "other function");
        for nonce in 0..10 {
            for number in 0..10 {
                add(keyer.part(nonce, number), &format!("part {nonce} {number}"));
            }
        }
        let mut other_seed = seed();
        other_seed[31] ^= 0x80;
        add(Keyer::new(&other_seed).blob(&sha256), "other seed");
    }

    /// Flipping any input bit flips each key bit about half of the time, over seeds.
    #[test]
    fn every_input_bit_reaches_every_key_bit() {
        let seeds = if cfg!(miri) { 2_u32 } else { 400 };
        let base = digest(DigestFunction::Sha256, 0, 0);
        let flip_of = |bit: usize| {
            let (mut hash, mut size) = (*base.padded_hash(), 0);
            if bit < 256 {
                hash[bit / 8] ^= 1 << (bit % 8)
            } else {
                size = 1 << (bit - 256)
            }
            Digest::new(DigestFunction::Sha256, &hash[..32], size).unwrap()
        };
        let mut flips = vec![[0_u32; 128]; 256 + 63];
        for number in 0..seeds {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&number.to_le_bytes());
            let keyer = Keyer::new(&seed);
            let before = keyer.blob(&base);
            for (bit, flips) in flips.iter_mut().enumerate() {
                let changed = before.0 ^ keyer.blob(&flip_of(bit)).0;
                for (key_bit, flips) in flips.iter_mut().enumerate() {
                    *flips += u32::from(changed >> key_bit & 1 == 1);
                }
            }
        }
        if cfg!(miri) {
            return;
        }
        // Binomial(400, 1/2) has a deviation of 10; 70 are seven of them, over 40 thousand counts.
        for (bit, flips) in flips.iter().enumerate() {
            for (key_bit, &count) in flips.iter().enumerate() {
                if key_bit as u32 == Fingerprint::BITS || bit >= 256 && key_bit as u32 >= Fingerprint::SIZE_BITS {
                    assert_eq!(count, 0, "input bit {bit} leaves key bit {key_bit} alone");
                    continue;
                }
                assert!(
                    (130..=270).contains(&count),
                    "input bit {bit} flips key bit {key_bit} {count} times of {seeds}"
                );
            }
        }
    }

    /// Inputs in a row (part numbers, hashes that differ by one) spread over buckets like random ones.
    #[test]
    fn rows_of_inputs_spread_evenly() {
        const BUCKETS: usize = 256;
        let count = if cfg!(miri) { 256 } else { 256 * 1024 };
        let keyer = Keyer::new(&seed());
        let rows: [&dyn Fn(u32) -> Key; 2] = [&|number| keyer.part(9, number), &|number| {
            let mut hash = [0x55; 32];
            hash[..4].copy_from_slice(&number.to_le_bytes());
            keyer.blob(&Digest::new(DigestFunction::Sha256, &hash, 77).unwrap())
        }];
        for row in rows {
            let selects: [fn(Key) -> usize; 3] = [
                |key| key.first_selector().scale(BUCKETS),
                |key| key.second_selector().scale(BUCKETS),
                |key| key.fingerprint().bits() as usize % BUCKETS,
            ];
            for select in selects {
                let mut counts = [0_u32; BUCKETS];
                (0..count).for_each(|number| counts[select(row(number))] += 1);
                let expected = f64::from(count) / BUCKETS as f64;
                let chi_square: f64 =
                    counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
                // 255 degrees of freedom: mean 255, deviation 22.6.
                assert!(chi_square < 255.0 + 7.0 * 22.6, "{chi_square}");
            }
        }
    }
}

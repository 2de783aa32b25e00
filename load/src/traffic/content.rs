//! Blobs that cost next to nothing: any number of them, of any size, each with its own digest.
//!
//! ```text
//!   blob   = base base base ... | tail          base: 4 MiB of random bytes, the same for all blobs of a run
//!   digest = hash(prefix), kept | hash goes on  tail: up to 32 bytes made of seed, family and number
//! ```
//!
//! The hash over the prefix is computed once a size; each blob pays for its tail alone. Blobs do not compress with the
//! windows that compressors use, but a server that cuts them into chunks finds the same chunks again.

use cask_index::{Digest, DigestFunction, Hasher};

use crate::wire::body::Body;

/// Bytes that repeat: beyond the windows of common compressors, within a processor's last cache.
const BASE_BYTES: usize = 4 << 20;
/// What makes a blob its own.
const TAIL_BYTES_MAX: usize = 32;

/// What a blob is for, so that no two uses share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Stored before the measured time.
    Stored = 1,
    /// Uploaded in it.
    Fresh = 2,
    /// Never stored.
    Absent = 3,
    /// An action whose result is stored before the measured time.
    Action = 4,
    /// An action whose result is stored in it.
    FreshAction = 5,
}

/// The blobs of a run.
pub(crate) struct Content {
    base: Vec<u8>,
    function: DigestFunction,
    seed: u64,
}

/// Blobs of one size.
pub(crate) struct Shape {
    size_bytes: u64,
    tail_bytes: usize,
    prefix: Hasher,
}

/// The end of a blob.
pub(crate) type Tail = [u8; TAIL_BYTES_MAX];

/// A number that looks random and is not (splitmix64).
pub(crate) fn scatter(number: u64) -> u64 {
    let mut word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl Content {
    /// The blobs of a seed.
    pub(crate) fn new(function: DigestFunction, seed: u64) -> Self {
        let words = (0..BASE_BYTES as u64 / 8).map(|at| scatter(scatter(seed) ^ at));
        Self { base: words.flat_map(u64::to_le_bytes).collect(), function, seed }
    }

    /// A number that tells runs apart.
    pub(crate) fn run(&self) -> u64 {
        scatter(self.seed)
    }

    /// The function of all digests.
    pub(crate) fn function(&self) -> DigestFunction {
        self.function
    }

    /// Blobs of this size. Hashes as much once.
    pub(crate) fn shape(&self, size_bytes: u64) -> Shape {
        let tail_bytes = size_bytes.min(TAIL_BYTES_MAX as u64) as usize;
        let mut prefix = Hasher::new(self.function, size_bytes);
        self.each_slice(0, size_bytes - tail_bytes as u64, |slice| prefix.update(slice));
        Shape { size_bytes, tail_bytes, prefix }
    }

    /// The tail of a blob.
    pub(crate) fn tail(&self, family: Family, number: u64) -> Tail {
        let mut tail = [0; TAIL_BYTES_MAX];
        let start = scatter(self.seed ^ (family as u64) << 56) ^ number;
        for (at, word) in tail.chunks_exact_mut(8).enumerate() {
            // The first word is a permutation of the numbers, so that 8 bytes are enough to tell blobs apart.
            word.copy_from_slice(&scatter(start.wrapping_add((at as u64) << 40)).to_le_bytes());
        }
        tail
    }

    fn each_slice<'a>(&'a self, mut at: u64, end: u64, mut each: impl FnMut(&'a [u8])) {
        while at < end {
            let from = (at % BASE_BYTES as u64) as usize;
            let length = (BASE_BYTES - from).min((end - at) as usize);
            each(&self.base[from..from + length]);
            at += length as u64;
        }
    }

    /// Appends bytes `from..to` of a blob.
    pub(crate) fn append<'a>(&'a self, body: &mut Body<'a>, shape: &Shape, tail: &Tail, from: u64, to: u64) {
        let prefix_end = shape.prefix_bytes();
        self.each_slice(from, to.min(prefix_end), |slice| body.lent(slice));
        if to > prefix_end {
            let tail_from = from.saturating_sub(prefix_end) as usize;
            body.own(|out| out.extend_from_slice(&tail[tail_from..(to - prefix_end) as usize]));
        }
    }

    /// Whether `bytes` are those of the blob at `at`.
    pub(crate) fn is_at(&self, shape: &Shape, tail: &Tail, at: u64, bytes: &[u8]) -> bool {
        let end = at + bytes.len() as u64;
        if end > shape.size_bytes {
            return false;
        }
        let mut rest = bytes;
        let mut is_same = true;
        self.each_slice(at, end.min(shape.prefix_bytes()), |slice| {
            let (these, others) = rest.split_at(slice.len());
            is_same &= these == slice;
            rest = others;
        });
        let tail_from = at.saturating_sub(shape.prefix_bytes()) as usize;
        is_same && (rest.is_empty() || rest == &tail[tail_from..tail_from + rest.len()])
    }
}

impl Shape {
    /// Bytes of each blob.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The digest of the blob with this tail.
    pub(crate) fn digest(&self, tail: &Tail) -> Digest {
        let mut hasher = self.prefix.clone();
        hasher.update(&tail[..self.tail_bytes]);
        hasher.finish(self.size_bytes)
    }

    fn prefix_bytes(&self) -> u64 {
        self.size_bytes - self.tail_bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::body::Part;

    fn bytes(content: &Content, shape: &Shape, tail: &Tail, step: u64) -> Vec<u8> {
        let mut all = Vec::new();
        let mut at = 0;
        while at < shape.size_bytes() {
            let end = (at + step).min(shape.size_bytes());
            let mut body = Body::default();
            content.append(&mut body, shape, tail, at, end);
            assert_eq!(body.left_bytes() as u64, end - at);
            body.take(usize::MAX, |part| match part {
                Part::Own(bytes) | Part::Lent(bytes) => all.extend_from_slice(bytes),
            });
            at = end;
        }
        all
    }

    #[test]
    fn digests_are_those_of_the_bytes() {
        for function in [DigestFunction::Sha256, DigestFunction::Blake3, DigestFunction::GitSha1] {
            let content = Content::new(function, 7);
            for size in [0, 1, 8, 31, 32, 33, 64, 4096, 65_537, BASE_BYTES as u64 + 40] {
                let shape = content.shape(size);
                let tail = content.tail(Family::Fresh, 3);
                let whole = bytes(&content, &shape, &tail, 70_000);
                assert_eq!(shape.digest(&tail), Hasher::digest(function, &whole), "{function:?}, {size} bytes");
                assert!(content.is_at(&shape, &tail, 0, &whole));
                for at in [0, size.saturating_sub(40), size.saturating_sub(5)] {
                    assert!(content.is_at(&shape, &tail, at, &whole[at as usize..]), "{size} from {at}");
                }
                if let Some(spoilt) = whole.len().checked_sub(1) {
                    let mut wrong = whole.clone();
                    wrong[spoilt] ^= 1;
                    assert!(!content.is_at(&shape, &tail, 0, &wrong));
                    wrong[spoilt] ^= 1;
                    wrong.push(0);
                    assert!(!content.is_at(&shape, &tail, 0, &wrong), "longer than the blob");
                }
            }
        }
    }

    #[test]
    fn no_two_blobs_are_the_same() {
        let content = Content::new(DigestFunction::Sha256, 7);
        let families = [Family::Stored, Family::Fresh, Family::Absent, Family::Action, Family::FreshAction];
        let tails = families.iter().flat_map(|family| (0..2000).map(|number| content.tail(*family, number)));
        let mut first: Vec<[u8; 8]> = tails.map(|tail| *tail.first_chunk().expect("8 bytes")).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 5 * 2000);
    }
}

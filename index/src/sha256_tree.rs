//! SHA256TREE of the Remote Execution API: SHA-256 over leaves of 1 KiB, joined pairwise into a binary tree.
//!
//! A blob of at most one leaf hashes as under SHA-256. A longer one splits at the largest power of two (times a leaf)
//! below its length; a node is one SHA-256 compression of its children's hashes, from an initial state of its own, without
//! the addition of that state at the end. Fed piece by piece; holds one leaf's running hash and one hash a level.

use sha2::Digest as _;
use sha2::block_api::compress256;

const LEAF_BYTES: usize = 1024;
const HASH_BYTES: usize = 32;

type Hash = [u8; HASH_BYTES];

/// First 32 bits of the fractional parts of the square roots of the ninth to the sixteenth prime.
const NODE_STATE: [u32; 8] =
    [0xcbbb_9d5d, 0x629a_292a, 0x9159_015a, 0x152f_ecd8, 0x6733_2667, 0x8eb4_4a87, 0xdb0c_2e0d, 0x47b5_481d];

/// A running hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sha256Tree {
    leaf: sha2::Sha256,
    /// Bytes in `leaf`; a full leaf is closed when more comes, since the last one is not a left child.
    leaf_bytes: usize,
    /// Leaves closed.
    leaf_count: u64,
    /// Full subtrees that wait for their right sibling, the largest first: one for each bit of `leaf_count`.
    waiting: Vec<Hash>,
}

impl Sha256Tree {
    pub(crate) fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.leaf_bytes == LEAF_BYTES {
                self.close_leaf();
            }
            let (piece, rest) = data.split_at(data.len().min(LEAF_BYTES - self.leaf_bytes));
            self.leaf.update(piece);
            self.leaf_bytes += piece.len();
            data = rest;
        }
    }

    pub(crate) fn finish(mut self) -> Hash {
        let last = self.leaf.finalize().into();
        std::iter::from_fn(|| self.waiting.pop()).fold(last, |right, left| node(&left, &right))
    }

    fn close_leaf(&mut self) {
        let mut hash = self.leaf.finalize_reset().into();
        self.leaf_bytes = 0;
        self.leaf_count += 1;
        for _ in 0..self.leaf_count.trailing_zeros() {
            let left = self.waiting.pop().expect("a subtree for each bit of the count");
            hash = node(&left, &hash);
        }
        self.waiting.push(hash);
    }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut block = [0; 2 * HASH_BYTES];
    block[..HASH_BYTES].copy_from_slice(left);
    block[HASH_BYTES..].copy_from_slice(right);
    let mut state = NODE_STATE;
    compress256(&mut state, &[block]);
    let mut hash = [0; HASH_BYTES];
    for ((bytes, word), initial) in hash.chunks_exact_mut(4).zip(state).zip(NODE_STATE) {
        // The function at hand adds the initial state, as SHA-256 does; this tree does not.
        bytes.copy_from_slice(&word.wrapping_sub(initial).to_be_bytes());
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0, 1, ... 250, 0, 1, ...: the input of the published vectors.
    fn sequence(length: usize) -> Vec<u8> {
        (0..length).map(|position| (position % 251) as u8).collect()
    }

    fn hex_in_steps(data: &[u8], step: usize) -> String {
        let mut tree = Sha256Tree::default();
        for piece in data.chunks(step) {
            tree.update(piece);
        }
        tree.finish().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The vectors published beside the API.
    #[test]
    fn published_vectors() {
        for (length, expected) in [
            (1025, "36c0998b21839ef74300b9de47d96d1f62323dc81f2b4231e98ce70cd6ffe750"),
            (2048, "b584996386f01793751c5cf0c39561f51b7e9924b818943b3cb2f6928cea0fa9"),
            (2049, "7318d2029b0392edf4cf109edb5a086b4bdadbb7950f710a1483eb881d9e5d44"),
            (3072, "dfc61c0a041f79d55d53bfe31c6cda7df77fdc8e6fbac1143d70b7144fdf6937"),
            (3073, "517d20c0e5835f060a1bd6388ed68574f63424bdac2a2c3a35a5c2ef859d8fe2"),
            (4096, "2f72bb93880012168c027f6781527ff08177c7c8dccb443f4d2c6389c186633d"),
            (4097, "c3ec942c1b8f4580320d3a06bcf4f8fe1f5db2be797ab67061ea4c2a95f208f2"),
            (5121, "98f987c3e9fc057a70873715b679b89a663d0df806859b6ce73f8379b06a10ff"),
            (7169, "ad729297ab36cd099665b27c4247474a5518e4cd0be443f5f31d95edda08429b"),
            (8193, "113c6e3a2452f388b6fad13dfab66ee0bff597a0a9a517ad8d0165f7190b603e"),
            (16384, "a7a10149a8cb00be537000560edb83b196306b780b72fad8af218f369f75fc19"),
            (31744, "2cdf7662636c173d4b236f6ea03bf84c65e7f6487b53b2a61c420e26cf8a98c7"),
            (102_400, "0668d69e5331840d2f1823d717b7b3f5d1fdc8a09504cddb692b87ff83d50e5f"),
        ] {
            for step in [777, 1024, length] {
                assert_eq!(hex_in_steps(&sequence(length), step), expected, "{length} bytes in steps of {step}");
            }
        }
    }

    #[test]
    fn one_leaf_is_plain_sha256() {
        for length in [0, 1, 1023, 1024] {
            let data = sequence(length);
            let plain: String = sha2::Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex_in_steps(&data, 100), plain, "{length} bytes");
        }
    }
}

//! Lowercase hexadecimal: the one place where hex becomes bytes, and bytes hex.
//!
//! Every digest of every request goes through here. Blocks of 64 characters, by the processor's vectors where it has them (`avx2`) and by
//! plain arithmetic elsewhere; both look at all characters and branch on none.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2;

/// Characters of a block.
const BLOCK_CHARS: usize = 64;
const BLOCK_BYTES: usize = BLOCK_CHARS / 2;

type CharBlock = [u8; BLOCK_CHARS];
type ByteBlock = [u8; BLOCK_BYTES];

/// Decodes; false when a character is outside `0-9a-f`, and then `bytes` is anything. `hex` is twice as long as `bytes`.
#[inline]
pub(crate) fn decode(hex: &[u8], bytes: &mut [u8]) -> bool {
    debug_assert_eq!(hex.len(), 2 * bytes.len());
    let (blocks, rest) = hex.as_chunks();
    let (decoded, decoded_rest) = bytes.as_chunks_mut();
    let mut is_hex = decode_blocks(blocks, decoded);
    if !rest.is_empty() {
        // Hashes of 256 and 512 bits are whole blocks, the others are not.
        let (mut block, mut decoded) = ([b'0'; BLOCK_CHARS], [0; BLOCK_BYTES]);
        block[..rest.len()].copy_from_slice(rest);
        is_hex &= decode_blocks(&[block], std::slice::from_mut(&mut decoded));
        decoded_rest.copy_from_slice(&decoded[..decoded_rest.len()]);
    }
    is_hex
}

/// Encodes into the front of `buffer`, which has room for two characters a byte.
pub(crate) fn encode<'buffer>(bytes: &[u8], buffer: &'buffer mut [u8]) -> &'buffer str {
    let hex = &mut buffer[..2 * bytes.len()];
    let (blocks, rest) = bytes.as_chunks();
    let (encoded, encoded_rest) = hex.as_chunks_mut();
    encode_blocks(blocks, encoded);
    if !rest.is_empty() {
        let (mut block, mut encoded) = ([0; BLOCK_BYTES], [0; BLOCK_CHARS]);
        block[..rest.len()].copy_from_slice(rest);
        encode_blocks(&[block], std::slice::from_mut(&mut encoded));
        encoded_rest.copy_from_slice(&encoded[..encoded_rest.len()]);
    }
    std::str::from_utf8(hex).expect("hex characters are ASCII")
}

#[inline]
fn decode_blocks(hex: &[CharBlock], bytes: &mut [ByteBlock]) -> bool {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if let Some(avx2) = avx2::Avx2::detect() {
        return avx2.decode(hex, bytes);
    }
    plain::decode(hex, bytes)
}

#[inline]
fn encode_blocks(bytes: &[ByteBlock], hex: &mut [CharBlock]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if let Some(avx2) = avx2::Avx2::detect() {
        return avx2.encode(bytes, hex);
    }
    plain::encode(bytes, hex);
}

/// Arithmetic over arrays, which the compiler turns into what vector instructions every processor has: a third of the time of a look-up
/// table.
mod plain {
    use super::{BLOCK_CHARS, ByteBlock, CharBlock};

    pub(super) fn decode(hex: &[CharBlock], bytes: &mut [ByteBlock]) -> bool {
        let mut is_hex = true;
        for (hex, bytes) in hex.iter().zip(bytes) {
            is_hex &= decode_block(hex, bytes);
        }
        is_hex
    }

    fn decode_block(hex: &CharBlock, bytes: &mut ByteBlock) -> bool {
        let mut nibbles = [0; BLOCK_CHARS];
        let mut seen_other = 0;
        for (nibble, &character) in nibbles.iter_mut().zip(hex) {
            let digit = character.wrapping_sub(b'0');
            let letter = character.wrapping_sub(b'a');
            let (is_digit, is_letter) = (u8::from(digit < 10), u8::from(letter < 6));
            seen_other |= (is_digit | is_letter) ^ 1;
            *nibble = digit & is_digit.wrapping_neg() | letter.wrapping_add(10) & is_letter.wrapping_neg();
        }
        for (byte, pair) in bytes.iter_mut().zip(nibbles.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        seen_other == 0
    }

    pub(super) fn encode(bytes: &[ByteBlock], hex: &mut [CharBlock]) {
        let character = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
        for (bytes, hex) in bytes.iter().zip(hex) {
            for (&byte, pair) in bytes.iter().zip(hex.chunks_exact_mut(2)) {
                pair[0] = character(byte >> 4);
                pair[1] = character(byte & 0xf);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By a table, a character at a time.
    fn expected(hex: &[u8]) -> Option<Vec<u8>> {
        let nibble = |character: u8| b"0123456789abcdef".iter().position(|&known| known == character);
        hex.chunks(2).map(|pair| Some((nibble(pair[0])? << 4 | nibble(pair[1])?) as u8)).collect()
    }

    fn decoded(hex: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = vec![0; hex.len() / 2];
        decode(hex, &mut bytes).then_some(bytes)
    }

    fn decoded_plainly(hex: &[CharBlock]) -> Option<Vec<u8>> {
        let mut bytes = vec![[0; BLOCK_BYTES]; hex.len()];
        plain::decode(hex, &mut bytes).then(|| bytes.concat())
    }

    /// Every byte at every place of a block, of the second block and of what is left behind blocks.
    #[test]
    fn exactly_sixteen_bytes_are_hex_wherever_they_stand() {
        let hex = b"0123456789abcdeffedcba9876543210";
        let length = 2 * BLOCK_CHARS + 8;
        let hex: Vec<u8> = hex.iter().copied().cycle().take(length).collect();
        for position in 0..length {
            for byte in 0..=u8::MAX {
                let mut hex = hex.clone();
                hex[position] = byte;
                assert_eq!(decoded(&hex), expected(&hex), "{byte} at {position}");
                let (blocks, _) = hex.as_chunks();
                assert_eq!(decoded_plainly(blocks), expected(blocks.as_flattened()), "{byte} at {position}, plainly");
            }
            if cfg!(miri) {
                break;
            }
        }
    }

    #[test]
    fn every_byte_is_spelled() {
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        let spelled: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for length in [0, 1, 15, 16, 17, 20, 32, 48, 64, 256] {
            let mut buffer = [0; 512];
            assert_eq!(encode(&bytes[..length], &mut buffer), &spelled[..2 * length]);
        }
        let (blocks, _) = bytes.as_chunks();
        let mut plainly = vec![[0; BLOCK_CHARS]; blocks.len()];
        plain::encode(blocks, &mut plainly);
        assert_eq!(plainly.concat(), spelled.as_bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 2000 }))]
        #[test]
        fn bytes_lead_back(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut buffer = [0; 200];
            let hex = encode(&bytes, &mut buffer);
            prop_assert_eq!(decoded(hex.as_bytes()), Some(bytes));
        }

        #[test]
        fn vectors_and_arithmetic_agree(blocks in proptest::collection::vec(any::<CharBlock>(), 0..4),
                                        is_mostly_hex in any::<bool>()) {
            let hex: Vec<CharBlock> = blocks
                .into_iter()
                .map(|block| if is_mostly_hex { block.map(|byte| b"0123456789abcdef0123456789abcdeg"[usize::from(byte & 31)]) } else { block })
                .collect();
            prop_assert_eq!(decoded(hex.as_flattened()), decoded_plainly(&hex));
        }
    }
}

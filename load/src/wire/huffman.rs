//! HPACK's Huffman code (RFC 7541, appendix B).
//!
//! The code is canonical: codes of one length count upwards in the order of their symbols. So the lengths are the table, and
//! a decoder needs, for each length, where its codes begin.

/// Bits of the code of each byte value, and of the end of the string.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

const LONGEST: usize = 30;
const END: u16 = 256;

/// Code and symbols by length.
struct Table {
    /// The first code of each length.
    first: [u32; LONGEST + 2],
    /// Where the symbols of each length begin in `symbols`.
    begin: [u16; LONGEST + 2],
    /// By length, then value.
    symbols: [u16; 257],
    /// Of each symbol.
    codes: [u32; 257],
}

const TABLE: Table = {
    let mut table = Table { first: [0; LONGEST + 2], begin: [0; LONGEST + 2], symbols: [0; 257], codes: [0; 257] };
    let (mut code, mut length, mut placed) = (0u32, 1, 0);
    while length <= LONGEST {
        code <<= 1;
        table.first[length] = code;
        table.begin[length] = placed;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                table.symbols[placed as usize] = symbol as u16;
                table.codes[symbol] = code;
                placed += 1;
                code += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    table.begin[LONGEST + 1] = placed;
    assert!(placed == 257 && code == 1 << LONGEST, "every code is given away");
    table
};

/// Appends what `encoded` stands for; `None` where it is no Huffman string.
pub(crate) fn decode(encoded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut code, mut length) = (0u32, 0usize);
    for byte in encoded {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            if length > LONGEST {
                return None;
            }
            let count = u32::from(TABLE.begin[length + 1] - TABLE.begin[length]);
            let place = code.wrapping_sub(TABLE.first[length]);
            if place < count {
                let symbol = TABLE.symbols[usize::from(TABLE.begin[length]) + place as usize];
                if symbol == END {
                    return None;
                }
                out.push(symbol as u8);
                (code, length) = (0, 0);
            }
        }
    }
    // Padding is the beginning of the end's code: less than a byte of ones.
    (length < 8 && code == (1 << length) - 1).then_some(())
}

/// The Huffman string of `text`. There is only one.
pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
    let (mut out, mut bits, mut held) = (Vec::with_capacity(text.len()), 0u64, 0);
    for &byte in text {
        let length = LENGTHS[usize::from(byte)];
        bits = bits << length | u64::from(TABLE.codes[usize::from(byte)]);
        held += length;
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        out.push((bits << (8 - held)) as u8 | 0xff >> held);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    }

    /// Examples of RFC 7541, C.4 and C.6.
    #[test]
    fn published_examples() {
        for (text, encoded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-key", "25a849e95ba97d7f"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            ),
        ] {
            assert_eq!(encode(text.as_bytes()), hex(encoded), "{text}");
            let mut decoded = Vec::new();
            decode(&hex(encoded), &mut decoded).expect(text);
            assert_eq!(decoded, text.as_bytes());
        }
    }

    #[test]
    fn every_byte_comes_back() {
        for byte in 0..=255 {
            let text = [byte, b'a', byte];
            let mut decoded = Vec::new();
            decode(&encode(&text), &mut decoded).expect("a Huffman string");
            assert_eq!(decoded, text);
        }
    }

    #[test]
    fn strings_that_end_wrongly_are_refused() {
        for (what, encoded) in [
            ("padding of zeros", &[0b0001_1000][..]),
            ("a whole byte of padding", &[0b0001_1111, 0xff]),
            ("the end's own code", &[0xff, 0xff, 0xff, 0xff]),
            ("a code cut off", &[0b1111_1110]),
        ] {
            assert_eq!(decode(encoded, &mut Vec::new()), None, "{what}");
        }
    }
}

//! What holds for every blob, in whatever pieces it comes; and RepMaxCDC against its definition, written down as plainly as it can be.

use cask_chunking::{Chunker, Cutter, FastCdc, RepMaxCdc};
use md5::{Digest, Md5};
use proptest::prelude::*;

/// Bytes from a seed; a low `variety` repeats itself, as the content of real files does.
fn bytes(seed: u64, variety: u8, length: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 56) as u8) % variety.max(1)
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// The chunks' lengths, and the chunks put together again.
fn cut(chunker: Chunker, data: &[u8], piece_bytes: usize) -> (Vec<usize>, Vec<u8>) {
    let mut cutter = Cutter::new(chunker, data.len() as u64);
    let (mut lengths, mut together) = (Vec::new(), Vec::new());
    let mut take = |cutter: &mut Cutter| {
        while let Some(chunk) = cutter.next_chunk() {
            lengths.push(chunk.len());
            together.extend_from_slice(chunk);
        }
    };
    for mut piece in data.chunks(piece_bytes) {
        while !piece.is_empty() {
            let taken = cutter.feed(piece);
            piece = &piece[taken..];
            take(&mut cutter);
        }
    }
    cutter.end();
    take(&mut cutter);
    (lengths, together)
}

/// RepMaxCDC as its definition reads: every hash computed anew from its 64 bytes, every place looked at in every search.
fn rep_max_cdc_by_definition(data: &[u8], min: usize, horizon: usize) -> Vec<usize> {
    let table: Vec<u64> =
        (0..=u8::MAX).map(|byte| u64::from_be_bytes(Md5::digest([byte; 64])[..8].try_into().unwrap())).collect();
    let hash = |place: usize| {
        data[place - 64..place].iter().fold(0_u64, |hash, byte| (hash << 1).wrapping_add(table[usize::from(*byte)]))
    };
    let (mut lengths, mut start) = (Vec::new(), 0);
    while start < data.len() {
        let visible = (data.len() - start).min(2 * min + horizon);
        let mut length = visible;
        if visible >= 2 * min {
            let mut last = visible - min;
            loop {
                length = (min..=last).rev().max_by_key(|length| hash(start + length)).unwrap();
                if length < 2 * min {
                    break;
                }
                last = length - min;
            }
        }
        lengths.push(length);
        start += length;
    }
    lengths
}

/// FastCDC over the whole blob, by the crate's own iterator.
fn fast_cdc_at_once(data: &[u8], average: usize) -> Vec<usize> {
    let level = fastcdc::v2020::Normalization::Level2;
    let chunks = fastcdc::v2020::FastCDC::with_level(data, average / 4, average, average * 4, level);
    chunks.map(|chunk| chunk.length).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rep_max_cdc_is_its_definition(
        seed: u64,
        variety in prop_oneof![Just(255_u8), 1..4_u8],
        length in 0..60_000_usize,
        min in prop_oneof![Just(64_usize), 64..700_usize, Just(4096)],
        horizon in prop_oneof![Just(0_usize), 0..20_000_usize],
        piece in 1..30_000_usize,
    ) {
        let data = bytes(seed, variety, length);
        let (lengths, together) = cut(Chunker::RepMaxCdc(RepMaxCdc::new(min, horizon)), &data, piece);
        prop_assert!(together == data);
        prop_assert_eq!(&lengths, &rep_max_cdc_by_definition(&data, min, horizon));
        prop_assert!(lengths.iter().all(|length| *length < 2 * min));
        prop_assert!(data.len() < min || lengths.iter().all(|length| *length >= min));
    }

    #[test]
    fn fast_cdc_in_pieces_is_fast_cdc_at_once(
        seed: u64,
        variety in prop_oneof![Just(255_u8), 1..4_u8],
        length in 0..300_000_usize,
        piece in 1..30_000_usize,
    ) {
        let data = bytes(seed, variety, length);
        let (lengths, together) = cut(Chunker::FastCdc(FastCdc::new(4096)), &data, piece);
        prop_assert!(together == data);
        prop_assert_eq!(&lengths, &fast_cdc_at_once(&data, 4096));
        prop_assert!(lengths.iter().all(|length| *length <= 4 * 4096));
        prop_assert!(lengths.iter().rev().skip(1).all(|length| *length >= 4096 / 4));
    }
}

/// The parameters that are advertised, over more than the cutter's buffer: what it moves to the front is cut as the rest.
#[test]
fn a_blob_longer_than_the_buffer_is_cut_the_same() {
    let data = bytes(7, 255, 24 << 20);
    let (lengths, together) = cut(Chunker::FastCdc(FastCdc::new(512 << 10)), &data, 1 << 20);
    assert!(together == data);
    assert_eq!(lengths, fast_cdc_at_once(&data, 512 << 10));
    let chunker = Chunker::RepMaxCdc(RepMaxCdc::new(256 << 10, 2 << 20));
    let (lengths, together) = cut(chunker.clone(), &data, 1 << 20);
    assert!(together == data);
    assert_eq!(lengths, cut(chunker, &data, 100_001).0);
    assert!(lengths.iter().all(|length| (256 << 10..512 << 10).contains(length)));
}

/// A byte put in early moves the cuts around it, and no others: the chunks of both versions are the same but for a few.
#[test]
fn a_change_changes_the_chunks_around_it() {
    let data = bytes(9, 255, 2 << 20);
    let mut changed = data.clone();
    changed.insert(300_000, 77);
    for chunker in [Chunker::FastCdc(FastCdc::new(16 << 10)), Chunker::RepMaxCdc(RepMaxCdc::new(8 << 10, 64 << 10))] {
        let (before, _) = cut(chunker.clone(), &data, 1 << 20);
        let (after, _) = cut(chunker, &changed, 1 << 20);
        let same_tail = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        let same_head = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
        assert!(
            before.len() - same_head - same_tail <= 4,
            "{} chunks, {same_head} and {same_tail} the same",
            before.len()
        );
    }
}

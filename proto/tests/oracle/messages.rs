//! Messages and enums: every declared field travels from ours to theirs and back, and neither side knows a field that
//! the other does not.

use std::collections::BTreeSet;

use prost::Message;
use prost_reflect::DynamicMessage;

use crate::{
    pairs::{MessagePair, Seen, all, declared_enums, declared_messages, pool},
    random::Random,
};

/// Tags that are tried one by one. The highest declared one is 12; additions are numbered onwards from there.
const TAG_MAX: u32 = 100;
/// Random messages a type.
const MESSAGE_COUNT: usize = 200;
/// Each field has to have been in at least this many of them.
const SET_COUNT_MIN: u64 = 50;

#[test]
fn every_declared_message_and_enum_stands_beside_an_independent_one() {
    let pool = pool();
    let (messages, enums) = all();
    let listed: BTreeSet<_> = messages.iter().map(|pair| pair.full_name.clone()).collect();
    let declared: BTreeSet<_> = declared_messages(&pool).iter().map(|m| m.full_name().to_owned()).collect();
    assert_eq!(listed, declared);
    assert_eq!(listed.len(), messages.len(), "a message is listed twice");
    let listed: BTreeSet<_> = enums.iter().map(|pair| pair.full_name.clone()).collect();
    let declared: BTreeSet<_> = declared_enums(&pool).iter().map(|e| e.full_name().to_owned()).collect();
    assert_eq!(listed, declared);
}

#[test]
fn random_messages_travel_both_ways_unchanged() {
    let pool = pool();
    let mut random = Random::new(0xca5c);
    for MessagePair { full_name, ours, theirs } in all().0 {
        let descriptor = pool.get_message_by_name(&full_name).expect("listed, so declared");
        for _ in 0..MESSAGE_COUNT {
            let message = random.message(&descriptor, 0);
            let bytes = message.encode_to_vec();
            let by_ours = ours(&bytes).unwrap_or_else(|| panic!("ours refuses {message:?}")).bytes;
            let by_theirs = theirs(&bytes).unwrap_or_else(|| panic!("theirs refuses {message:?}")).bytes;
            assert_eq!(by_ours, by_theirs, "{full_name}: {message:?}");
            assert_eq!(theirs(&by_ours).map(|seen| seen.bytes), Some(by_ours.clone()), "{full_name}: {message:?}");
            assert_eq!(ours(&by_theirs).map(|seen| seen.bytes), Some(by_theirs), "{full_name}: {message:?}");
            let back = DynamicMessage::decode(descriptor.clone(), by_ours.as_slice()).expect("encoded by us");
            assert_eq!(back, message, "{full_name} lost something");
        }
    }
    for message in declared_messages(&pool) {
        for field in message.fields() {
            let count = random.set_count.get(field.full_name()).copied().unwrap_or(0);
            assert!(count >= SET_COUNT_MIN, "{} was set in {count} messages", field.full_name());
        }
    }
}

/// A field of `tag` in each wire type, with values that tell the types of one wire type apart; true where both sides
/// print alike what they made of it.
fn probes(tag: u32) -> Vec<(bool, Vec<u8>)> {
    fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    let field = |wire_type: u32, fill: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        varint(u64::from(tag << 3 | wire_type), &mut bytes);
        fill(&mut bytes);
        bytes
    };
    let numbers = [0, 1, 2, 3, 9, 100, 1 << 31, u64::from(u32::MAX), 1 << 40, 1 << 63, u64::MAX];
    let payloads: [&[u8]; 8] =
        [b"", b"a", b"\x08\x07", b"\x08\xff\xff\xff\xff\x0f", b"\x0a\x01x", b"\x12\x01x", b"\x1a\x00", b"\xff\xfe"];
    let mut probes = vec![
        (true, field(1, &|out| out.extend(7u64.to_le_bytes()))),
        (true, field(5, &|out| out.extend(7u32.to_le_bytes()))),
    ];
    probes.extend(numbers.map(|number| (true, field(0, &|out| varint(number, out)))));
    probes.extend(payloads.map(|payload| {
        let bytes = field(2, &|out| {
            varint(payload.len() as u64, out);
            out.extend(payload);
        });
        (payload.is_empty(), bytes)
    }));
    probes
}

/// The random messages hold only what we declare. Here every tag is tried, so a field that is missing from our
/// declarations shows, and so do types that share a wire type (values overflow differently) and names (as printed).
#[test]
fn every_tag_means_the_same_to_both() {
    for MessagePair { full_name, ours, theirs } in all().0 {
        for tag in 1..=TAG_MAX {
            for (is_printed_alike, bytes) in probes(tag) {
                let (by_ours, by_theirs) = (ours(&bytes), theirs(&bytes));
                let encoded = |seen: &Option<Seen>| seen.as_ref().map(|seen| seen.bytes.clone());
                assert_eq!(encoded(&by_ours), encoded(&by_theirs), "{full_name}, tag {tag}: {bytes:02x?}");
                if is_printed_alike {
                    let named = |seen: Option<Seen>| seen.map(|seen| seen.words);
                    assert_eq!(named(by_ours), named(by_theirs), "{full_name}, tag {tag}: {bytes:02x?}");
                }
            }
        }
    }
}

#[test]
fn enums_have_the_same_names_and_numbers() {
    let pool = pool();
    for pair in all().1 {
        let declared = pool.get_enum_by_name(&pair.full_name).expect("listed, so declared");
        for number in -2..1000 {
            let name = declared.get_value(number).map(|value| value.name().to_owned());
            assert_eq!((pair.ours)(number), name.as_deref(), "{} {number}", pair.full_name);
            assert_eq!((pair.theirs)(number), name.as_deref(), "{} {number}", pair.full_name);
        }
    }
}

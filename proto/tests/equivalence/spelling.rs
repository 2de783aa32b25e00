//! Random messages of a declared type, in spellings that no encoder writes and every decoder has to read: fields in any order and more than once, numbers
//! longer than they need be, unknown fields and groups, packed and single; and now and then something that is malformed.

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use crate::random::Random;

/// The declared message of this name.
pub(crate) fn declared(full_name: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(cask_proto::FILE_DESCRIPTOR_SET).expect("the descriptor set");
    pool.get_message_by_name(full_name).expect("a declared message")
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const GROUP_START: u64 = 3;
const GROUP_END: u64 = 4;
const FIXED32: u64 = 5;

pub(crate) struct Speller<'a> {
    pub(crate) random: &'a mut Random,
    /// One in this many choices is malformed.
    pub(crate) fault_in: usize,
}

impl Speller<'_> {
    pub(crate) fn message(&mut self, declared: &MessageDescriptor) -> Vec<u8> {
        let mut out = Vec::new();
        let fields: Vec<FieldDescriptor> = declared.fields().collect();
        for _ in 0..self.random.below(8) {
            if self.random.once_in(6) {
                self.unknown(declared, &mut out);
            } else {
                let field = &fields[self.random.below(fields.len())];
                self.known(field, &mut out);
            }
        }
        if self.fault() {
            out.truncate(self.random.below(out.len() + 1));
        }
        out
    }

    fn fault(&mut self) -> bool {
        self.random.once_in(self.fault_in)
    }

    fn known(&mut self, field: &FieldDescriptor, out: &mut Vec<u8>) {
        let number = u64::from(field.number());
        if self.fault() {
            let wire_type = [VARINT, FIXED64, LENGTH_DELIMITED, GROUP_START, FIXED32][self.random.below(5)];
            return self.value_of(number, wire_type, 3, out);
        }
        match field.kind() {
            Kind::Message(declared) => {
                let body = self.message(&declared);
                self.bytes(number, &body, out);
            }
            Kind::String => {
                let body = self.string();
                self.bytes(number, &body, out);
            }
            Kind::Bytes => {
                let body: Vec<u8> = (0..self.length()).map(|_| self.random.next() as u8).collect();
                self.bytes(number, &body, out);
            }
            Kind::Enum(_) if field.is_list() && self.random.once_in(2) => {
                let mut body = Vec::new();
                for _ in 0..self.random.below(5) {
                    let value = self.random.number();
                    self.varint(value, &mut body);
                }
                if self.fault() {
                    body.push(0x80);
                }
                self.bytes(number, &body, out);
            }
            _ => {
                self.varint(number << 3 | VARINT, out);
                let value = self.random.number();
                self.varint(value, out);
            }
        }
    }

    fn unknown(&mut self, declared: &MessageDescriptor, out: &mut Vec<u8>) {
        let number = loop {
            let number = match self.random.below(3) {
                0 => 1 + self.random.below(20) as u64,
                1 => (1 << 29) - 1,
                _ => 1 + self.random.next() % ((1 << 29) - 1),
            };
            if declared.get_field(number as u32).is_none() {
                break number;
            }
        };
        if self.fault() {
            // Key of no field, key of no type, key of too many bits, the end of nothing.
            let key = [
                self.random.next() % 8,
                number << 3 | 6,
                number << 3 | 7,
                1 << 32 | number << 3,
                number << 3 | GROUP_END,
            ][self.random.below(5)];
            self.varint(key, out);
            return out.push(0);
        }
        let wire_type = [VARINT, FIXED64, LENGTH_DELIMITED, GROUP_START, FIXED32][self.random.below(5)];
        // Mostly shallow, sometimes about as deep as is allowed.
        let depth = if self.random.once_in(8) { 94 + self.random.below(8) } else { self.random.below(4) };
        self.value_of(number, wire_type, depth, out);
    }

    /// A field with a random value of its wire type; a group with others in it, up to `depth` deep.
    fn value_of(&mut self, number: u64, wire_type: u64, depth: usize, out: &mut Vec<u8>) {
        self.varint(number << 3 | wire_type, out);
        match wire_type {
            VARINT => {
                let value = self.random.number();
                self.varint(value, out);
            }
            FIXED64 => out.extend(self.random.next().to_le_bytes()),
            FIXED32 => out.extend((self.random.next() as u32).to_le_bytes()),
            LENGTH_DELIMITED => {
                let body = self.string();
                self.varint(body.len() as u64, out);
                out.extend(body);
            }
            _ => {
                if depth > 0 {
                    let inner = if depth > 4 {
                        GROUP_START
                    } else {
                        [VARINT, LENGTH_DELIMITED, GROUP_START][self.random.below(3)]
                    };
                    let number = 1 + self.random.below(20) as u64;
                    self.value_of(number, inner, depth - 1, out);
                }
                let end = if self.fault() { number + 1 } else { number };
                self.varint(end << 3 | GROUP_END, out);
            }
        }
    }

    fn bytes(&mut self, number: u64, body: &[u8], out: &mut Vec<u8>) {
        self.varint(number << 3 | LENGTH_DELIMITED, out);
        let length = body.len() as u64;
        let claimed = if self.fault() { self.random.number() } else { length };
        self.varint(claimed, out);
        out.extend(body);
    }

    /// Up to ten bytes, of which more than needed now and then, and of which more than 64 bits where a fault is due.
    fn varint(&mut self, mut value: u64, out: &mut Vec<u8>) {
        let longer = if self.random.once_in(8) { self.random.below(11) } else { 0 };
        let mut length = 1;
        while value >= 0x80 || length < longer {
            out.push(value as u8 | 0x80);
            value >>= 7;
            length += 1;
        }
        out.push(value as u8);
        if self.fault() {
            let last = out.len() - 1;
            out[last] |= 0x80;
            out.extend([[0x80, 0x02], [0x80, 0x80], [0x01, 0x00]][self.random.below(3)]);
        }
    }

    fn length(&mut self) -> usize {
        match self.random.below(16) {
            0 => 0,
            1 => 120 + self.random.below(16),
            2 => self.random.below(600),
            _ => self.random.below(20),
        }
    }

    /// Often a hash, as most strings of requests are.
    fn string(&mut self) -> Vec<u8> {
        if self.fault() {
            return [&b"\xc3("[..], b"\xed\xa0\x80", b"a\xff", b"\xf4\x90\x80\x80"][self.random.below(4)].to_vec();
        }
        match self.random.below(4) {
            0 => {
                let length = self.length();
                "gr\u{fc}\u{df}e \u{1f600} ".chars().cycle().take(length).collect::<String>().into_bytes()
            }
            1 => vec![b'x'; self.length()],
            _ => {
                let length = [64, 64, 64, 40, 32, 128, 63][self.random.below(7)];
                (0..length).map(|_| b"0123456789abcdef"[self.random.below(16)]).collect()
            }
        }
    }
}

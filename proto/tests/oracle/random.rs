//! Random messages made from a descriptor alone, so that no field can be forgotten.

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// Deepest nesting; the deepest message of the API (`ExecuteOperationMetadata` and the like) stands well below it.
const DEPTH_MAX: usize = 8;

/// `SplitMix64` (Steele, Lea, Flood 2014): the same seed gives the same messages everywhere.
pub(crate) struct Random {
    state: u64,
    /// How often each field, by full name, was set.
    pub(crate) set_count: BTreeMap<String, u64>,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, set_count: BTreeMap::new() }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number of any magnitude, never zero.
    fn number(&mut self) -> u64 {
        let shift = self.below(64);
        (self.next() >> shift).max(1)
    }

    fn string(&mut self) -> String {
        let length = 1 + self.below(12);
        (0..length).map(|_| char::from(b' ' + self.below(95) as u8)).chain(['\u{fc}']).collect()
    }

    /// Each field is set three times out of four; a set scalar is not the default one, since those do not travel.
    pub(crate) fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            let nests = matches!(field.kind(), Kind::Message(_));
            if self.below(4) == 0 || (nests && depth >= DEPTH_MAX) {
                continue;
            }
            // A later member of a oneof replaces an earlier one, which is as good as choosing.
            *self.set_count.entry(field.full_name().to_owned()).or_default() += 1;
            let value = self.field(&field, depth);
            message.set_field(&field, value);
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        if field.is_map() {
            // One entry: with more the order on the wire would be free.
            let Kind::Message(entry) = field.kind() else { unreachable!("a map is a message on the wire") };
            assert_eq!(entry.map_entry_key_field().kind(), Kind::String, "{}", field.full_name());
            let value = self.scalar(&entry.map_entry_value_field().kind(), depth);
            Value::Map(HashMap::from([(MapKey::String(self.string()), value)]))
        } else if field.is_list() {
            let count = 1 + self.below(3);
            Value::List((0..count).map(|_| self.scalar(&field.kind(), depth)).collect())
        } else {
            self.scalar(&field.kind(), depth)
        }
    }

    fn scalar(&mut self, kind: &Kind, depth: usize) -> Value {
        match kind {
            Kind::Bool => Value::Bool(true),
            Kind::Int32 => {
                Value::I32((self.number() as i32).max(1).wrapping_mul(if self.below(2) == 0 { 1 } else { -1 }))
            }
            Kind::Int64 => Value::I64((self.number() as i64).wrapping_mul(if self.below(2) == 0 { 1 } else { -1 })),
            Kind::Uint32 => Value::U32((self.number() as u32).max(1)),
            Kind::Uint64 => Value::U64(self.number()),
            Kind::String => Value::String(self.string()),
            Kind::Bytes => Value::Bytes((0..=self.below(20)).map(|_| self.next() as u8).collect::<Vec<u8>>().into()),
            // Enums are open: one number in eight is one that nobody declared.
            Kind::Enum(declared) => Value::EnumNumber(self.enum_number(declared)),
            Kind::Message(descriptor) => Value::Message(self.message(descriptor, depth + 1)),
            other => unreachable!("{other:?} is used by none of the declarations; give it a value here"),
        }
    }

    /// Enums are open: one number in eight is one that nobody declared.
    fn enum_number(&mut self, declared: &EnumDescriptor) -> i32 {
        if self.below(8) == 0 {
            return 1000 + self.below(1000) as i32;
        }
        let values: Vec<i32> = declared.values().map(|value| value.number()).filter(|number| *number != 0).collect();
        values[self.below(values.len() as u64) as usize]
    }
}

//! The payload of an action record: whose it is, what it needs, what it says.
//!
//! ```text
//! 0        4        8
//! | closure| inst.  | closure keys (16 each) | instance name | value |
//! ```

use bytes::Bytes;
use cask_index::Key;

use super::layout::{get_array, get_u32, put_u32};

const HEADER_BYTES: usize = 8;
const KEY_BYTES: usize = 16;

/// Bytes of the payload.
pub fn payload_bytes(instance: &str, closure_count: usize, value_bytes: usize) -> u64 {
    HEADER_BYTES as u64 + closure_count as u64 * KEY_BYTES as u64 + instance.len() as u64 + value_bytes as u64
}

/// The payload. `closure` as the index knows its blobs.
pub fn encode(instance: &str, closure: &[Key], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0_u8; HEADER_BYTES];
    bytes.reserve(payload_bytes(instance, closure.len(), value.len()) as usize - HEADER_BYTES);
    put_u32(&mut bytes, 0, closure.len() as u32);
    put_u32(&mut bytes, 4, instance.len() as u32);
    for key in closure {
        bytes.extend_from_slice(&key.to_bytes());
    }
    bytes.extend_from_slice(instance.as_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// A decoded payload; its parts share the payload's memory.
pub struct ActionPayload {
    closure: Bytes,
    instance: Bytes,
    /// What the caller stored, opaque to the engine.
    pub value: Bytes,
}

impl ActionPayload {
    /// `None` when the lengths do not fit: the record was not written by us.
    pub fn decode(payload: &Bytes) -> Option<Self> {
        if payload.len() < HEADER_BYTES {
            return None;
        }
        let closure_bytes = (get_u32(payload, 0) as usize).checked_mul(KEY_BYTES)?;
        let instance_at = HEADER_BYTES.checked_add(closure_bytes)?;
        let value_at = instance_at.checked_add(get_u32(payload, 4) as usize)?;
        (value_at <= payload.len()).then(|| Self {
            closure: payload.slice(HEADER_BYTES..instance_at),
            instance: payload.slice(instance_at..value_at),
            value: payload.slice(value_at..),
        })
    }

    /// `None` when it is no text.
    pub fn instance(&self) -> Option<&str> {
        std::str::from_utf8(&self.instance).ok()
    }

    /// Whether the record belongs to the instance.
    pub fn is_of(&self, instance: &str) -> bool {
        self.instance == instance.as_bytes()
    }

    /// Keys of the blobs that the result needs.
    pub fn closure(&self) -> impl Iterator<Item = Key> + '_ {
        self.closure.chunks_exact(KEY_BYTES).map(|key| Key::from_bytes(get_array(key, 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_cuts() {
        let closure = [Key::from_bytes([1; 16]), Key::from_bytes([2; 16])];
        let bytes = Bytes::from(encode("a/b", &closure, b"value"));
        assert_eq!(bytes.len() as u64, payload_bytes("a/b", 2, 5));
        let payload = ActionPayload::decode(&bytes).unwrap();
        assert!(payload.is_of("a/b") && !payload.is_of("a") && !payload.is_of(""));
        assert_eq!(payload.closure().collect::<Vec<_>>(), closure);
        assert_eq!(payload.value, "value");
        for length in 0..bytes.len() - 5 {
            assert!(ActionPayload::decode(&bytes.slice(..length)).is_none(), "cut at {length}");
        }
    }
}

//! The codec under the generated services: prost's, but what cannot be decoded is `INVALID_ARGUMENT`.
//!
//! Stock gRPC codecs answer `INTERNAL` there, which build clients retry although the same bytes will fail again.

use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use prost::encoding::WireType;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// Encodes `T`, decodes `U`.
#[derive(Clone, Debug)]
pub struct StrictCodec<T, U> {
    messages: PhantomData<(T, U)>,
}

impl<T, U> Default for StrictCodec<T, U> {
    fn default() -> Self {
        Self { messages: PhantomData }
    }
}

impl<T, U> Codec for StrictCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = StrictDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        StrictDecoder { message: PhantomData }
    }
}

/// Fields that any message may have, and the bytes that more of them must have on average: a list of digests has 38 and more each.
/// A field of two bytes becomes an element of a hundred and more, so without a bound a message of the largest size takes gigabytes.
const FIELDS_FREE: usize = 65_536;
const FIELD_BYTES_MIN: usize = 16;

/// Whether a message's own fields are few enough to be decoded. What is malformed is left to the decoder.
fn has_few_fields(message: &[u8]) -> bool {
    let fields_max = FIELDS_FREE + message.len() / FIELD_BYTES_MIN;
    let (mut rest, mut count) = (message, 0);
    while !rest.is_empty() {
        count += 1;
        if count > fields_max {
            return false;
        }
        let Ok((_, wire_type)) = prost::encoding::decode_key(&mut rest) else { return true };
        let length = match wire_type {
            WireType::Varint => match prost::encoding::decode_varint(&mut rest) {
                Ok(_) => 0,
                Err(_) => return true,
            },
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => match prost::encoding::decode_varint(&mut rest) {
                Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
                Err(_) => return true,
            },
            WireType::StartGroup | WireType::EndGroup => return true,
        };
        let Some(behind) = rest.get(length..) else { return true };
        rest = behind;
    }
    true
}

/// Decodes `U`.
#[derive(Clone, Debug)]
pub struct StrictDecoder<U> {
    message: PhantomData<U>,
}

impl<U: Message + Default> Decoder for StrictDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if !has_few_fields(bytes.chunk()) {
            return Err(Status::invalid_argument("the message is nothing but empty fields"));
        }
        U::decode(bytes)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("the message cannot be decoded: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_something_pass_and_lists_of_nothing_do_not() {
        let digest = [&[0x12, 38][..], &[b'0'; 38]].concat();
        for (what, element, count, passes) in [
            ("digests", &digest[..], 200_000, true),
            ("a few empty fields", &[0x12, 0][..], 60_000, true),
            ("millions of empty fields", &[0x12, 0], 2_000_000, false),
            ("millions of numbers", &[0x08, 1], 2_000_000, false),
            ("what ends within a field", &[0x12, 5], 1, true),
            ("rubbish", &[0xff; 11], 1000, true),
        ] {
            assert_eq!(has_few_fields(&element.repeat(count)), passes, "{what}");
        }
        assert!(has_few_fields(&[]));
    }
}

//! The codec under the generated services: prost's, but what cannot be decoded is `INVALID_ARGUMENT`.
//!
//! Stock gRPC codecs answer `INTERNAL` there, which build clients retry although the same bytes will fail again.

use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use crate::wire::has_few_fields;

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

//! How calls encode and decode their messages: as tonic does, but with a buffer to read into
//! that suits calls that wait, and with less work for each field.

use std::marker::PhantomData;

use bytes::Buf as _;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, EncodeBuf};

/// Bytes that a call takes to read into from its beginning; it takes more when a message comes.
/// tonic takes 8 KiB, which is most of what a call costs that has yet to say something: one
/// that waits, or one of a flood.
const TO_READ: usize = 1 << 10;
/// tonic's own, which is for encoders.
const TOGETHER: usize = 32 << 10;

/// The codec of all calls of the contract.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(PhantomData)
    }
}

/// Writes messages.
#[derive(Debug)]
pub struct Encoder<T>(PhantomData<T>);

impl<T: Message> tonic::codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // All room at once: a megabyte that grows by doubling is copied once more, and each
        // step is memory that the process has to be given first.
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Reads messages.
#[derive(Debug)]
pub struct Decoder<U>(PhantomData<U>);

impl<U: Message + Default> tonic::codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Taken as it is, not copied. To go on by a byte, and to share what a field has, is
        // much less work for bytes that nobody writes to any more than for the buffer.
        let message = buffer.copy_to_bytes(buffer.remaining());
        // As tonic: the bytes were meant to be a message, so the peer has a bug.
        let decoded = U::decode(message).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(decoded))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(TO_READ, TOGETHER)
    }
}

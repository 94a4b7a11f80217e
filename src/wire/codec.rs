//! How calls encode and decode their messages: as tonic does, but with a buffer to read into
//! that suits calls that wait.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

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
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(TO_READ, TOGETHER))
    }
}

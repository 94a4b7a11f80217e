//! Calls whose messages are bytes, whatever they say.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// A message, or the good end of a stream of none.
    Answer,
    /// A status that says what is wrong.
    Refusal,
    /// Nothing yet: it waits for something that does not come.
    Silence,
}

/// Calls one server.
pub(crate) struct Caller {
    channel: Channel,
}

impl Caller {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self { channel: endpoint.connect_lazy() }
    }

    /// Sends these messages, and waits for the first word of the answer.
    pub(crate) async fn call(self, path: &str, messages: Vec<Bytes>, patience: Duration) -> Met {
        let met = async {
            let mut grpc = tonic::client::Grpc::new(self.channel);
            grpc.ready().await.expect("the server is there");
            let request = Request::new(tokio_stream::iter(messages));
            let mut stream =
                grpc.streaming(request, path.parse().unwrap(), Raw).await?.into_inner();
            stream.message().await
        };
        match tokio::time::timeout(patience, met).await {
            Ok(Ok(_)) => Met::Answer,
            Ok(Err(_)) => Met::Refusal,
            Err(_) => Met::Silence,
        }
    }
}

/// Bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

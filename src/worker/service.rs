//! The worker's gRPC service: sessions, and Execute for single tasks.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::pool::{Order, Pool, Served};
use super::session::{self, Session};
use crate::core::id::{TaskId, Token};
use crate::core::limits;
use crate::wire::{Malformed, v1};

/// Reports on their way to the transport: one that it takes up, one to follow.
/// More would only make batches smaller.
const OUTGOING: usize = 2;

/// Who this worker is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) worker_id: String,
    pub(super) incarnation: u64,
    pub(super) slots: u32,
}

/// See the module.
pub(super) struct Service {
    pub(super) pool: Pool,
    pub(super) types: Arc<[Served]>,
    pub(super) identity: Identity,
}

#[tonic::async_trait]
impl v1::worker_server::Worker for Service {
    type SessionStream = ReceiverStream<Result<v1::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut incoming = request.into_inner();
        let hello = session::hello(&mut incoming).await?;
        let dispatcher = hello.caller.dispatcher.clone();
        let mut session = Session::begin(self.pool.clone(), hello)?;
        let (held, draining) = session.held();
        tracing::info!(dispatcher, held = held.len(), "session began");
        let (outgoing, responses) = mpsc::channel(OUTGOING);
        let hello = v1::session_response::Frame::Hello(self.hello(held, draining));
        if outgoing.try_send(Ok(v1::SessionResponse { frame: Some(hello) })).is_err() {
            return Err(Status::internal("an empty channel took no message"));
        }
        tokio::spawn(async move {
            session.run(incoming, outgoing).await;
            tracing::info!(dispatcher, "session ended");
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn execute(
        &self,
        request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        let request = request.into_inner();
        let names = |served: &Served| served.task_type.name.as_str() == request.r#type;
        let Some(type_index) = self.types.iter().position(names) else {
            return Err(Status::not_found("this worker does not serve that task type"));
        };
        let token = request.token.ok_or_else(|| Malformed::new("token", "missing"))?;
        let order = Order {
            task: TaskId(request.task_id),
            attempt: request.attempt,
            token: Token::try_from(token)?,
            type_index,
            payload: request.payload,
            timeout_ms: request.timeout_ms,
        };
        let outcome = self.pool.execute(order, limits::PAYLOAD_BYTES).await?;
        Ok(Response::new(v1::ExecuteResponse { outcome: Some(outcome) }))
    }
}

impl Service {
    fn hello(&self, held: Vec<v1::HeldLease>, draining: bool) -> v1::WorkerHello {
        v1::WorkerHello {
            worker_id: self.identity.worker_id.clone(),
            incarnation: self.identity.incarnation,
            types: self.types.iter().map(|served| (&served.task_type).into()).collect(),
            slots: self.identity.slots,
            held,
            draining,
        }
    }
}

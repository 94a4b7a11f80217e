//! A worker of another make, which serves Execute and no sessions.

use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use taskgrid::client::Task;
use taskgrid::testing::Grid;
use taskgrid::wire::v1::name_service_client::NameServiceClient;
use taskgrid::wire::v1::worker_server::{Worker, WorkerServer};
use taskgrid::wire::v1::{self, outcome::End};
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

use super::handlers::submit;

#[tokio::test]
async fn a_worker_without_sessions_is_given_its_tasks_one_by_one() {
    let grid = Grid::start().await.unwrap();
    let addr = serve().await;
    register(&grid, addr).await;
    grid.until("the worker to be known", async |grid| {
        let stats = grid.client().stats().await.ok()?;
        stats.workers.iter().any(|worker| worker.connected).then_some(())
    })
    .await
    .unwrap();
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        ids.push((submit(&grid, Task::new("twice", text)).await, text));
    }
    for (id, text) in ids {
        let result = grid.client().request_result(id).await.unwrap();
        assert_eq!(result, format!("{text}{text}"));
        assert_eq!(grid.client().task(id).await.unwrap().attempts, 1);
    }
    grid.stop().await.unwrap();
}

/// Answers with its payload twice.
struct Twice;

type Responses = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Worker for Twice {
    type SessionStream = Responses;

    async fn session(
        &self,
        _: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Responses>, Status> {
        Err(Status::new(Code::Unimplemented, "no sessions here"))
    }

    async fn execute(
        &self,
        request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        let request = request.into_inner();
        let result = Bytes::from([request.payload.as_ref(), request.payload.as_ref()].concat());
        let outcome = v1::Outcome {
            task_id: request.task_id,
            token: request.token,
            run_us: 1,
            end: Some(End::Completed(result)),
        };
        Ok(Response::new(v1::ExecuteResponse { outcome: Some(outcome) }))
    }
}

async fn serve() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = Server::builder().add_service(WorkerServer::new(Twice));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    addr
}

/// Registers once: a live link outlasts the registration.
async fn register(grid: &Grid, addr: SocketAddr) {
    let url = format!("http://{}", grid.nameservice());
    let mut nameservice = NameServiceClient::connect(url).await.unwrap();
    let mut task_type = v1::TaskType { name: "twice".to_owned(), ..Default::default() };
    task_type.set_payload(v1::PayloadKind::Bytes);
    let registration = v1::Registration {
        worker_id: "foreign".to_owned(),
        incarnation: 1,
        address: addr.to_string(),
        types: vec![task_type],
        slots: 2,
        version: String::new(),
    };
    let request = v1::RegisterRequest { registration: Some(registration) };
    nameservice.register(request).await.unwrap();
}

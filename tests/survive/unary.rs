//! A worker of another make, which serves Execute and no sessions.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use taskgrid::client::{SubmitOptions, Task};
use taskgrid::core::task::{Reason, Status};
use taskgrid::testing::Grid;
use taskgrid::wire::v1::name_service_client::NameServiceClient;
use taskgrid::wire::v1::worker_server::{Worker, WorkerServer};
use taskgrid::wire::v1::{self, outcome::End};
use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Streaming};

use super::handlers::submit;

#[tokio::test]
async fn a_worker_without_sessions_is_given_its_tasks_one_by_one() {
    let grid = Grid::start().await.unwrap();
    let _worker = Foreign::join(&grid).await;
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

#[tokio::test]
async fn a_handler_that_raises_fails_its_task_and_leaves_its_neighbours_alone() {
    let grid = Grid::start().await.unwrap();
    let worker = Foreign::join(&grid).await;
    let neighbour = submit(&grid, once(Task::new("hang", ""))).await;
    grid.until_status(neighbour, Status::Running).await.unwrap();
    let raising = submit(&grid, Task::new("raise", "").max_attempts(1)).await;
    let raised = grid.until_status(raising, Status::Failed).await.unwrap();
    assert_eq!((raised.reason, raised.attempts), (Some(Reason::Error), 1));
    assert!(raised.error.contains("out of cheese"), "{}", raised.error);
    worker.go.add_permits(1);
    assert_eq!(grid.client().request_result(neighbour).await.unwrap(), "");
    assert_eq!(grid.totals().await.unwrap().lost, 0);
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_says_that_it_leaves_has_not_begun() {
    let grid = Grid::start().await.unwrap();
    let worker = Foreign::join(&grid).await;
    let shy = submit(&grid, once(Task::new("shy", "x"))).await;
    assert_eq!(grid.client().request_result(shy).await.unwrap(), "xx");
    assert_eq!(worker.starts(), 2, "it was asked again");
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_run_at_most_once_is_not_run_again_after_a_restart() {
    let mut grid = Grid::start().await.unwrap();
    let worker = Foreign::join(&grid).await;
    let id = submit(&grid, once(Task::new("hang", ""))).await;
    grid.until("the call", async |_| (worker.starts() == 1).then_some(())).await.unwrap();
    grid.kill_dispatcher().await;
    grid.start_dispatcher().await.unwrap();
    let task = grid.until_status(id, Status::Failed).await.unwrap();
    assert_eq!(task.reason, Some(Reason::Unknown));
    assert_eq!(worker.starts(), 1);
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_registration_is_heeded_once_open_calls_are_answered() {
    let grid = Grid::start().await.unwrap();
    let worker = Foreign::join(&grid).await;
    let open = submit(&grid, once(Task::new("hang", ""))).await;
    grid.until_status(open, Status::Running).await.unwrap();
    register(&grid, worker.addr, &["hang", "thrice"]).await;
    let thrice = grid
        .until("the new type", async |grid| {
            let task = Task::new("thrice", "x");
            let stored = grid.client().submit(&[task], &SubmitOptions::default()).await;
            stored.ok().map(|receipt| receipt.ids[0])
        })
        .await
        .unwrap();
    worker.go.add_permits(1);
    assert_eq!(grid.client().request_result(open).await.unwrap(), "");
    assert_eq!(grid.client().request_result(thrice).await.unwrap(), "xxx");
    grid.stop().await.unwrap();
}

/// Started at most once.
fn once(task: Task) -> Task {
    task.max_attempts(1).max_crashes(0)
}

/// A worker that a test plays; each type has a way of its own.
struct Foreign {
    addr: SocketAddr,
    starts: Arc<AtomicU32>,
    go: Arc<Semaphore>,
}

impl Foreign {
    /// One of two slots that the dispatcher knows.
    async fn join(grid: &Grid) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (starts, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let service = WorkerServer::new(Served { starts: starts.clone(), go: go.clone() });
        let serving = Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        register(grid, addr, &["twice", "raise", "shy", "hang"]).await;
        grid.until("the worker to be known", async |grid| {
            let told = grid.client().stats().await.ok()?;
            told.workers.iter().any(|worker| worker.connected).then_some(())
        })
        .await
        .unwrap();
        Self { addr, starts, go }
    }

    /// How many calls it had.
    fn starts(&self) -> u32 {
        self.starts.load(Ordering::SeqCst)
    }
}

struct Served {
    starts: Arc<AtomicU32>,
    go: Arc<Semaphore>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, tonic::Status>> + Send>>;

#[tonic::async_trait]
impl Worker for Served {
    type SessionStream = Responses;

    async fn session(
        &self,
        _: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Responses>, tonic::Status> {
        Err(tonic::Status::new(Code::Unimplemented, "no sessions here"))
    }

    async fn execute(
        &self,
        request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, tonic::Status> {
        let before = self.starts.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        let times = match request.r#type.as_str() {
            "raise" => return Err(tonic::Status::unknown("out of cheese")),
            "shy" if before == 0 => return Err(tonic::Status::unavailable("it leaves")),
            "hang" => {
                self.go.acquire().await.unwrap().forget();
                1
            }
            "thrice" => 3,
            _ => 2,
        };
        let outcome = v1::Outcome {
            task_id: request.task_id,
            token: request.token,
            run_us: 1,
            end: Some(End::Completed(request.payload.repeat(times).into())),
        };
        Ok(Response::new(v1::ExecuteResponse { outcome: Some(outcome) }))
    }
}

/// Registers once: a live link outlasts the registration.
async fn register(grid: &Grid, addr: SocketAddr, types: &[&str]) {
    let url = format!("http://{}", grid.nameservice());
    let mut nameservice = NameServiceClient::connect(url).await.unwrap();
    let task_type = |name: &&str| {
        let mut task_type = v1::TaskType { name: (*name).to_owned(), ..Default::default() };
        task_type.set_payload(v1::PayloadKind::Bytes);
        task_type
    };
    let registration = v1::Registration {
        worker_id: "foreign".to_owned(),
        incarnation: 1,
        address: addr.to_string(),
        types: types.iter().map(task_type).collect(),
        slots: 2,
        version: String::new(),
    };
    let request = v1::RegisterRequest { registration: Some(registration) };
    nameservice.register(request).await.unwrap();
}

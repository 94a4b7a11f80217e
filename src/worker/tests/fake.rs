//! A dispatcher that does as it is told, and a worker to tell it about.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::rpc;
use crate::shutdown::Shutdown;
use crate::wire::v1;
use crate::wire::v1::outcome::End;
use crate::wire::v1::worker_client::WorkerClient;
use crate::worker::{Builder, Config, Context, Error, Failure};

/// Long enough for the slowest machine; nothing waits for it unless it fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const EPOCH: v1::Epoch = v1::Epoch { boot: 3, nonce: 77 };

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("no {what} in time"))
}

/// A worker that runs until it is dropped or told to leave.
pub(super) struct Running {
    pub(super) addr: SocketAddr,
    shutdown: Shutdown,
    run: JoinHandle<Result<(), Error>>,
}

pub(super) async fn worker(builder: Builder, slots: u32) -> Running {
    worker_with(builder, Config { slots: Some(slots), ..Config::default() }).await
}

pub(super) async fn worker_with(builder: Builder, config: Config) -> Running {
    let worker = builder.bind(config).await.unwrap();
    let (addr, shutdown) = (worker.addr(), Shutdown::new());
    let run = tokio::spawn(worker.run(shutdown.clone()));
    Running { addr, shutdown, run }
}

impl Running {
    pub(super) fn begin_shutdown(&self) {
        self.shutdown.begin();
    }

    pub(super) async fn ended(&mut self) {
        soon("end of the worker", &mut self.run).await.unwrap().unwrap();
    }

    pub(super) fn client(&self) -> WorkerClient<rpc::Channel> {
        WorkerClient::new(rpc::channel(&self.addr.to_string()).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.run.abort();
    }
}

/// One session, seen from the dispatcher's side.
pub(super) struct Session {
    pub(super) hello: v1::WorkerHello,
    number: u64,
    requests: mpsc::Sender<v1::SessionRequest>,
    responses: Streaming<v1::SessionResponse>,
    pub(super) heard: Heard,
}

/// All that a worker reported and no test has taken yet.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) outcomes: Vec<v1::Outcome>,
    pub(super) started: Vec<u64>,
    pub(super) prefetch: Vec<v1::Prefetch>,
    pub(super) progress: Vec<String>,
    pub(super) draining: bool,
    pub(super) empty: usize,
}

pub(super) fn hello(dispatcher: &str, number: u64) -> v1::DispatcherHello {
    v1::DispatcherHello {
        dispatcher_id: dispatcher.to_owned(),
        epoch: Some(EPOCH),
        session: number,
        lease_ms: 10_000,
        max_result_bytes: 1 << 20,
    }
}

impl Session {
    pub(super) async fn open(worker: &Running, number: u64) -> Self {
        Self::open_with(worker, hello("d", number)).await.unwrap()
    }

    pub(super) async fn open_with(
        worker: &Running,
        hello: v1::DispatcherHello,
    ) -> Result<Self, Status> {
        let number = hello.session;
        let (requests, outgoing) = mpsc::channel(64);
        requests.send(request(v1::session_request::Frame::Hello(hello))).await.unwrap();
        let mut client = worker.client().max_decoding_message_size(64 << 20);
        let calling = client.session(ReceiverStream::new(outgoing));
        let mut responses = soon("answer to the hello", calling).await?.into_inner();
        let first = soon("hello", responses.message()).await?.unwrap();
        let Some(v1::session_response::Frame::Hello(hello)) = first.frame else {
            panic!("the worker says hello first");
        };
        Ok(Self { hello, number, requests, responses, heard: Heard::default() })
    }

    pub(super) async fn send(&self, frame: v1::session_request::Frame) {
        self.requests.send(request(frame)).await.unwrap();
    }

    pub(super) async fn assign(&self, tasks: Vec<v1::Assignment>) {
        let assign = v1::Assign { session: self.number, tasks };
        self.send(v1::session_request::Frame::Assign(assign)).await;
    }

    pub(super) async fn recall(&self, sequences: &[u64]) {
        let tokens = sequences.iter().map(|sequence| token(*sequence)).collect();
        self.send(v1::session_request::Frame::Recall(v1::Recall { tokens })).await;
    }

    pub(super) async fn cancel(&self, sequences: &[u64]) {
        let tokens = sequences.iter().map(|sequence| token(*sequence)).collect();
        self.send(v1::session_request::Frame::Cancel(v1::Cancel { tokens })).await;
    }

    pub(super) async fn settle(&self, sequences: &[u64], answer: v1::Answer) {
        let answers = sequences.iter().map(|sequence| v1::OutcomeAnswer {
            token: Some(token(*sequence)),
            answer: answer.into(),
        });
        let settled = v1::Settled { answers: answers.collect() };
        self.send(v1::session_request::Frame::Settled(settled)).await;
    }

    /// Listens until the condition holds for all that was heard.
    pub(super) async fn until(&mut self, what: &str, condition: impl Fn(&Heard) -> bool) {
        while !condition(&self.heard) {
            let response = soon(what, self.responses.message()).await.unwrap();
            let Some(v1::session_response::Frame::Report(report)) = response.unwrap().frame else {
                panic!("one hello is enough");
            };
            self.heard.take(report);
        }
    }

    /// Takes the next outcomes, so many, in the order of their sequence numbers.
    pub(super) async fn outcomes(&mut self, count: usize) -> Vec<(u64, v1::Outcome)> {
        self.until("outcome", |heard| heard.outcomes.len() >= count).await;
        assert_eq!(self.heard.outcomes.len(), count, "{:?}", self.heard.outcomes);
        let outcomes = std::mem::take(&mut self.heard.outcomes);
        let mut outcomes: Vec<_> = outcomes.into_iter().map(|o| (sequence(&o), o)).collect();
        outcomes.sort_by_key(|(sequence, _)| *sequence);
        outcomes
    }

    /// Takes the next outcome, which must be of this lease.
    pub(super) async fn end_of(&mut self, of: u64) -> End {
        let (sequence, outcome) = self.outcomes(1).await.remove(0);
        assert_eq!(sequence, of);
        outcome.end.unwrap()
    }

    /// Listens until a handler of each of these leases runs.
    pub(super) async fn started(&mut self, sequences: &[u64]) {
        let all = |heard: &Heard| sequences.iter().all(|s| heard.started.contains(s));
        self.until("start", all).await;
    }

    /// How the stream ended: `None` in good order.
    pub(super) async fn end(&mut self) -> Option<Status> {
        loop {
            match soon("end of the session", self.responses.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }
}

impl Heard {
    fn take(&mut self, report: v1::Report) {
        self.empty += usize::from(report == v1::Report::default());
        self.outcomes.extend(report.outcomes);
        self.started
            .extend(report.started.iter().filter_map(|started| Some(started.token?.sequence)));
        self.prefetch.extend(report.prefetch);
        self.progress.extend(report.progress.into_iter().map(|progress| progress.message));
        self.draining |= report.draining;
    }
}

fn request(frame: v1::session_request::Frame) -> v1::SessionRequest {
    v1::SessionRequest { frame: Some(frame) }
}

pub(super) fn token(sequence: u64) -> v1::Token {
    v1::Token { epoch: Some(EPOCH), sequence }
}

pub(super) fn sequence(outcome: &v1::Outcome) -> u64 {
    outcome.token.as_ref().unwrap().sequence
}

/// A task of the worker's first type; its id is a hundred more than its sequence.
pub(super) fn task(sequence: u64, payload: &str) -> v1::Assignment {
    v1::Assignment {
        task_id: 100 + sequence,
        sequence,
        payload: payload.to_owned().into(),
        attempt: 1,
        ..v1::Assignment::default()
    }
}

pub(super) fn completed(result: &str) -> End {
    End::Completed(result.to_owned().into())
}

pub(super) fn released(release: v1::Release) -> End {
    End::Released(release.into())
}

/// The reason and the message of a failure.
pub(super) fn failure(end: End) -> (v1::Reason, String) {
    let End::Failed(failure) = end else { panic!("{end:?} is no failure") };
    (failure.reason(), failure.message)
}

/// A handler that returns its payload once the gate lets it through.
pub(super) fn gated(gate: &Arc<Semaphore>) -> impl crate::worker::Handler {
    let gate = Arc::clone(gate);
    move |_context: Context, payload: bytes::Bytes| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.map_err(Failure::permanent)?.forget();
            Ok(payload)
        }
    }
}

//! Sends tasks as planned, and hears of their ends.
//!
//! All of it is one task of one thread: submits in flight, and one watch of all
//! tasks of the run, which begins before the first of them is sent. Tasks that are
//! sent one at a time are waited for by the call that sends them; the watch then
//! comes last, for what the log has of them.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered};
use tokio::sync::mpsc;

use super::super::super::exit::{Exit, Failure};
use super::ledger::Ledger;
use super::pace;
use super::payloads::Payloads;
use super::report::{Mode, Report};
use super::spawn::Grid;
use crate::client::{
    Client, Error, Events, Found, Receipt, Run, SubmitOptions, Task, Watch, Watching,
};
use crate::rpc::Network;

/// With nothing heard for so long, the tasks that have not ended are lost.
const SILENCE: Duration = Duration::from_secs(30);

/// The type whose results are checked.
const HASH: &str = "hash";

/// What to send.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) type_name: String,
    pub(super) tasks: u64,
    /// Tasks beside them that are due tomorrow.
    pub(super) scheduled: u64,
    /// Bytes of each payload.
    pub(super) size: u64,
    /// Tasks of one submit.
    pub(super) batch: u64,
    /// Submits without an answer.
    pub(super) in_flight: u64,
    /// Tasks without an end; `None` for any number.
    pub(super) open: Option<u64>,
    pub(super) connections: u8,
    /// Whether a submit waits for its task's end.
    pub(super) waits: bool,
    /// Tasks a second; `None` for as many as are taken.
    pub(super) rate: Option<NonZeroU64>,
    /// How long the dispatcher may be away.
    pub(super) patience: Duration,
    /// How it is reached.
    pub(super) network: Network,
}

impl Plan {
    /// Whether results can be checked.
    pub(super) fn has_known_results(&self) -> bool {
        self.type_name == HASH
    }

    /// A client of the dispatcher, with a connection of its own.
    fn client(&self, url: &str) -> Result<Client, Error> {
        Ok(Client::connect_on(&self.network, url)?.with_patience(self.patience))
    }
}

type Submit = Pin<Box<dyn Future<Output = Result<Stored, Error>>>>;

/// A receipt for the tasks from this number on.
struct Stored {
    first: u64,
    receipt: Receipt,
    /// The tasks, if they were waited for.
    found: Vec<Found>,
}

/// One run.
pub(super) struct Load {
    plan: Plan,
    payloads: Payloads,
    /// Whether results can be checked.
    is_hash: bool,
    clients: Vec<Client>,
    group: u64,
    /// None while tasks are waited for one by one.
    watching: Option<Watching>,
    /// A place in the log from before all tasks.
    cursor: Option<Bytes>,
    began: Instant,
    /// When the next batch is to be sent, where there is a rate.
    moments: Option<mpsc::Receiver<Duration>>,
    submits: FuturesUnordered<Submit>,
    /// Tasks that were sent.
    sent: u64,
    ledger: Ledger,
}

impl Load {
    /// Prepares everything; the first batch is sent when it is waited for.
    pub(super) async fn start(plan: Plan, url: &str) -> Result<Self, Failure> {
        let clients = (0..plan.connections).map(|_| plan.client(url));
        let clients: Vec<Client> = clients.collect::<Result<_, Error>>()?;
        let group = rand::random::<u64>().max(1);
        let Some(first) = clients.first() else {
            return Err(Failure::new(Exit::WrongInput, "there must be a connection"));
        };
        let watching = if plan.waits { None } else { Some(first.watch(ends(group)).await?) };
        let size = usize::try_from(plan.size).unwrap_or(usize::MAX);
        let ledger =
            Ledger::new(plan.tasks, plan.batch).map_err(|bug| Failure::new(Exit::Internal, bug))?;
        Ok(Self {
            payloads: Payloads::new(size, rand::random()),
            is_hash: plan.has_known_results(),
            clients,
            group,
            watching,
            cursor: None,
            began: Instant::now(),
            moments: None,
            submits: FuturesUnordered::new(),
            sent: 0,
            ledger,
            plan,
        })
    }

    /// Sends everything, and waits for all receipts.
    pub(super) async fn until_stored(&mut self) -> Result<(), Failure> {
        self.until(|ledger| ledger.stored.is_complete()).await
    }

    /// Sends what was not sent, and waits for all ends, or until nothing comes.
    pub(super) async fn until_ended(&mut self) -> Result<(), Failure> {
        self.until(|ledger| ledger.ended.is_complete()).await?;
        self.read_log().await
    }

    /// Looks at the log for tasks that were waited for one by one: an end of each, and
    /// no second one.
    async fn read_log(&mut self) -> Result<(), Failure> {
        let (Some(cursor), Some(client)) = (self.cursor.take(), self.clients.first()) else {
            return Ok(());
        };
        let mut watching = client.watch(Watch { cursor, ..ends(self.group) }).await?;
        while self.ledger.booked() < self.ledger.ended.count {
            let Ok(events) = tokio::time::timeout(SILENCE, watching.next()).await else {
                return Ok(());
            };
            for event in events?.events {
                self.ledger.logged(event.id);
            }
        }
        Ok(())
    }

    async fn until(&mut self, is_reached: impl Fn(&Ledger) -> bool) -> Result<(), Failure> {
        if self.sent == 0 {
            self.began = Instant::now();
            if let Some(rate) = self.plan.rate {
                self.moments = Some(pace::start(self.began, self.plan.batch, rate)?);
            }
        }
        let mut heard = Instant::now();
        let silence = tokio::time::sleep(SILENCE);
        tokio::pin!(silence);
        while !is_reached(&self.ledger) {
            let may_send = self.may_send();
            if may_send && self.moments.is_none() {
                self.send(self.began.elapsed());
                continue;
            }
            tokio::select! {
                biased;
                Some(stored) = self.submits.next() => self.stored(stored.map_err(not_taken)?),
                Some(events) = heard_of(&mut self.watching) => self.ended(events?),
                due = next(&mut self.moments), if may_send => self.send(due),
                () = &mut silence => {
                    let left = SILENCE.saturating_sub(heard.elapsed());
                    if left.is_zero() {
                        return Ok(());
                    }
                    silence.as_mut().reset(tokio::time::Instant::now() + left);
                    continue;
                }
            }
            heard = Instant::now();
        }
        Ok(())
    }

    fn may_send(&self) -> bool {
        let in_flight = u64::try_from(self.submits.len()).unwrap_or(u64::MAX);
        let open = self.sent - self.ledger.ended.count;
        self.sent < self.plan.tasks
            && in_flight < self.plan.in_flight
            && self.plan.open.is_none_or(|most| open < most)
    }

    fn send(&mut self, at: Duration) {
        let first = self.sent;
        let end = self.plan.tasks.min(first + self.plan.batch);
        let tasks = self.payloads.tasks(&self.plan.type_name, first..end);
        let turn = usize::try_from(first / self.plan.batch).unwrap_or_default();
        let Some(client) = self.clients.get(turn % self.clients.len()).cloned() else { return };
        let (options, waits) = (SubmitOptions { key: None, group: self.group }, self.plan.waits);
        self.sent = end;
        self.ledger.sent(at);
        self.submits.push(Box::pin(async move {
            if waits {
                let Run { receipt, found } = client.run(&tasks, &options, SILENCE).await?;
                return Ok(Stored { first, receipt, found });
            }
            let receipt = client.submit(&tasks, &options).await?;
            Ok(Stored { first, receipt, found: Vec::new() })
        }));
    }

    fn stored(&mut self, Stored { first, receipt, found }: Stored) {
        let Self { ledger, payloads, is_hash, began, .. } = self;
        let at = began.elapsed();
        let is_right = |number, result: &[u8]| !*is_hash || payloads.is_hash(number, result);
        ledger.receipted(first, &receipt.ids, at, is_right);
        for (number, found) in (first..).zip(found) {
            self.cursor.get_or_insert_with(|| receipt.cursor.clone());
            if let Found::Task(task) = found
                && task.status.is_terminal()
            {
                let is_right = |result: &[u8]| is_right(number, result);
                ledger.answered(number, task.result.as_deref(), at, is_right);
            }
        }
    }

    fn ended(&mut self, events: Events) {
        let Self { ledger, payloads, is_hash, began, .. } = self;
        let at = began.elapsed();
        for event in events.events.into_iter().filter(|event| event.status.is_terminal()) {
            ledger.ended(event, at, |number, result| !*is_hash || payloads.is_hash(number, result));
        }
    }

    /// What came of it, by a grid of this program or another.
    pub(super) fn report(self, mode: Mode, grid: Option<&Grid>) -> Report {
        Report::new(mode, &self.plan, &self.ledger, grid)
    }
}

/// Has the tasks stored that are due tomorrow.
pub(super) async fn schedule(plan: &Plan, url: &str) -> Result<(), Failure> {
    /// They are small, whatever is measured beside them.
    const SIZE: usize = 32;
    const BATCH: u16 = 5_000;
    const IN_FLIGHT: usize = 16;
    const TOMORROW: Duration = Duration::from_secs(24 * 3_600);
    let client = plan.client(url)?;
    let (payloads, options) = (Payloads::new(SIZE, rand::random()), SubmitOptions::default());
    let starts = (0..plan.scheduled).step_by(BATCH.into());
    let submits = starts.map(async |first| {
        let numbers = first..plan.scheduled.min(first + u64::from(BATCH));
        let batch = payloads.tasks(&plan.type_name, numbers).into_iter();
        let batch: Vec<Task> = batch.map(|task| task.delay(TOMORROW)).collect();
        client.submit(&batch, &options).await
    });
    let mut receipts = stream::iter(submits).buffer_unordered(IN_FLIGHT);
    while let Some(receipt) = receipts.next().await {
        receipt.map_err(not_taken)?;
    }
    Ok(())
}

/// Of a submit that came to nothing.
fn not_taken(error: Error) -> Failure {
    let is_wrong = matches!(error, Error::WrongInput { .. });
    let failure = Failure::from(error);
    if is_wrong {
        return failure.hint("what is sent is text: take a type that takes any, such as hash");
    }
    failure
}

/// The ends of all tasks of a group.
fn ends(group: u64) -> Watch {
    Watch { group, ends_only: true, ..Watch::default() }
}

/// The next events of a watch, if there is one.
async fn heard_of(watching: &mut Option<Watching>) -> Option<Result<Events, Error>> {
    Some(watching.as_mut()?.next().await)
}

/// The next moment to send at; never, where there is none.
async fn next(moments: &mut Option<mpsc::Receiver<Duration>>) -> Duration {
    if let Some(moments) = moments
        && let Some(moment) = moments.recv().await
    {
        return moment;
    }
    std::future::pending().await
}

//! Sends tasks as planned, and hears of their ends.
//!
//! All of it is one task of one thread: submits in flight, and one watch of all
//! tasks of the run, which begins before the first of them is sent.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::super::super::exit::{Exit, Failure};
use super::ledger::Ledger;
use super::pace;
use super::payloads::Payloads;
use super::report::{Mode, Report};
use super::spawn::Grid;
use crate::client::{Client, Error, Events, Receipt, SubmitOptions, Watch, Watching};

/// With nothing heard for so long, the tasks that have not ended are lost.
const SILENCE: Duration = Duration::from_secs(30);

/// The type whose results are checked.
const HASH: &str = "hash";

/// What to send.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) type_name: String,
    pub(super) tasks: u64,
    /// Bytes of each payload.
    pub(super) size: u32,
    /// Tasks of one submit.
    pub(super) batch: u64,
    /// Submits without an answer.
    pub(super) in_flight: u64,
    /// Tasks without an end; `None` for any number.
    pub(super) open: Option<u64>,
    pub(super) connections: u8,
    /// Tasks a second; `None` for as many as are taken.
    pub(super) rate: Option<NonZeroU64>,
    /// How long the dispatcher may be away.
    pub(super) patience: Duration,
}

impl Plan {
    /// Whether results can be checked.
    pub(super) fn has_known_results(&self) -> bool {
        self.type_name == HASH
    }
}

type Submit = Pin<Box<dyn Future<Output = Result<Stored, Error>>>>;

/// A receipt for the tasks from this number on.
struct Stored {
    first: u64,
    receipt: Receipt,
}

/// One run.
pub(super) struct Load {
    plan: Plan,
    payloads: Payloads,
    /// Whether results can be checked.
    is_hash: bool,
    clients: Vec<Client>,
    group: u64,
    watching: Watching,
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
        let client = || Ok(Client::connect(url)?.with_patience(plan.patience));
        let clients = (0..plan.connections).map(|_| client());
        let clients: Vec<Client> = clients.collect::<Result<_, Error>>()?;
        let group = rand::random::<u64>().max(1);
        let watch = Watch { group, ends_only: true, ..Watch::default() };
        let Some(first) = clients.first() else {
            return Err(Failure::new(Exit::WrongInput, "there must be a connection"));
        };
        let watching = first.watch(watch).await?;
        let size = usize::try_from(plan.size).unwrap_or(usize::MAX);
        let ledger =
            Ledger::new(plan.tasks, plan.batch).map_err(|bug| Failure::new(Exit::Internal, bug))?;
        Ok(Self {
            payloads: Payloads::new(size, rand::random()),
            is_hash: plan.has_known_results(),
            clients,
            group,
            watching,
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
        self.until(|ledger| ledger.ended.is_complete()).await
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
                Some(stored) = self.submits.next() => self.stored(stored?),
                events = self.watching.next() => self.ended(events?),
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
        let options = SubmitOptions { key: None, group: self.group };
        self.sent = end;
        self.ledger.sent(at);
        self.submits.push(Box::pin(async move {
            let receipt = client.submit(&tasks, &options).await?;
            Ok(Stored { first, receipt })
        }));
    }

    fn stored(&mut self, Stored { first, receipt }: Stored) {
        let Self { ledger, payloads, is_hash, began, .. } = self;
        let is_right = |number, result: &[u8]| !*is_hash || payloads.is_hash(number, result);
        ledger.receipted(first, &receipt.ids, began.elapsed(), is_right);
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

/// The next moment to send at; never, where there is none.
async fn next(moments: &mut Option<mpsc::Receiver<Duration>>) -> Duration {
    if let Some(moments) = moments
        && let Some(moment) = moments.recv().await
    {
        return moment;
    }
    std::future::pending().await
}

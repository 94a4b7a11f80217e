//! Clients: they submit under a key until they have a receipt, look, cancel, ask for
//! new rounds, and remember what they were told. Their calls and the answers are
//! lost, late and repeated.

use std::collections::BTreeMap;

use taskgrid::core::id::TaskId;
use taskgrid::core::queue::Standing;

use super::{Happening, World};
use crate::dispatcher::{Message, Why};
use crate::wire::{Answer, Batch, Request};

/// How long a client waits for an answer before it asks again.
const PATIENCE: u64 = 700;

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    /// Batches it has yet to submit.
    batches: u64,
    asked: Option<Asked>,
    /// Its tasks, by their receipts.
    tasks: Vec<TaskId>,
    /// The results it was told.
    results: BTreeMap<TaskId, u64>,
}

/// A call without an answer.
#[derive(Debug)]
struct Asked {
    call: u64,
    request: Request,
    since: u64,
}

impl Client {
    pub(super) fn new(batches: u64) -> Self {
        Self { batches, asked: None, tasks: Vec::new(), results: BTreeMap::new() }
    }

    /// Whether it has all its receipts and answers.
    pub(super) fn is_done(&self) -> bool {
        self.batches == 0 && self.asked.is_none()
    }
}

impl World {
    pub(super) fn client_acts(&mut self, at: usize) {
        let again = match &self.clients[at].asked {
            Some(asked) if self.now < asked.since + PATIENCE => None,
            Some(asked) => Some((asked.call, asked.request.clone())),
            None => self.next_request(at).map(|request| {
                self.next_call += 1;
                self.calls.insert(self.next_call, at);
                (self.next_call, request)
            }),
        };
        if let Some((call, request)) = again {
            let since = self.now;
            self.clients[at].asked = Some(Asked { call, request: request.clone(), since });
            self.send(call, &request);
        }
        if !(self.is_calm() && self.clients[at].is_done()) {
            let after = self.dice.between(5, 300);
            self.schedule(after, Happening::Client(at));
        }
    }

    fn next_request(&mut self, at: usize) -> Option<Request> {
        let client = &self.clients[at];
        let is_first = client.tasks.is_empty() || self.dice.chance(400);
        if client.batches > 0 && (is_first || self.is_calm()) {
            let (batch, orders) = self.plan.batch(self.next_payload, &mut self.dice);
            self.next_payload += u64::try_from(batch.drafts.len()).expect("a batch is small");
            self.orders.extend(orders);
            self.clients[at].batches -= 1;
            return Some(Request::Submit(batch));
        }
        if client.tasks.is_empty() || self.is_calm() {
            return None;
        }
        let id = client.tasks[self.dice.place(client.tasks.len())];
        Some(match self.dice.place(8) {
            0 => Request::Cancel(id),
            1 => Request::Retry(id),
            _ => Request::Look(id),
        })
    }

    fn send(&mut self, call: u64, request: &Request) {
        let bad = if self.is_calm() { 0 } else { self.plan.bad_calls };
        if !self.dice.chance(bad) {
            let after = self.latency();
            self.schedule(after, Happening::Call(call, request.clone()));
        }
        if self.dice.chance(bad) {
            let after = self.dice.between(1, 2_500);
            self.schedule(after, Happening::Call(call, request.clone()));
        }
    }

    /// A call reaches the dispatcher, which reads what it needs of the disk first.
    pub(super) fn called(&mut self, call: u64, request: Request) {
        if self.dispatcher.is_none() {
            return;
        }
        let message = match request {
            Request::Submit(batch) => Message::Submit { call, batch },
            Request::Look(id) => Message::Look { call, id, why: Why::Asked },
            Request::Cancel(id) => {
                let spec = self.log.tasks.get(&id).map(|(spec, _)| *spec);
                Message::Cancel { call, id, spec }
            }
            Request::Retry(id) => {
                self.oracle.retry_sent(id);
                Message::Look { call, id, why: Why::Retry }
            }
        };
        self.tell(message);
    }

    pub(super) fn receipt(&mut self, call: u64, first: Option<TaskId>) {
        let client = &self.clients[self.calls[&call]];
        let Some(first) = first else { return self.answer(call, Answer::Refused) };
        // The batch of a call that had its answer is not kept: its receipt was checked.
        if let Some(Asked { call: asked, request: Request::Submit(batch), .. }) = &client.asked
            && *asked == call
        {
            let payloads = payloads(batch);
            self.oracle.receipt(first, &payloads, &self.log);
        }
        self.answer(call, Answer::Receipt(first));
    }

    pub(super) fn view(&mut self, call: u64, id: TaskId, standing: Standing) {
        let result = match standing {
            Standing::Ended(_, seq) => {
                let completed =
                    self.log.events.get(&seq).filter(|(event, _)| {
                        event.change == taskgrid::core::task::Change::Completed
                    });
                completed.map(|(_, result)| *result)
            }
            Standing::Pending(..) | Standing::Running | Standing::Absent => None,
        };
        self.oracle.told(id, standing, result, &self.log);
        self.answer(call, Answer::View(id, result));
    }

    fn answer(&mut self, call: u64, answer: Answer) {
        let bad = if self.is_calm() { 0 } else { self.plan.bad_calls };
        if !self.dice.chance(bad) {
            let after = self.latency();
            self.schedule(after, Happening::Answered(call, answer));
        }
    }

    pub(super) fn answered(&mut self, call: u64, answer: Answer) {
        let at = self.calls[&call];
        let client = &mut self.clients[at];
        let Some(asked) = client.asked.take_if(|asked| asked.call == call) else { return };
        match (answer, &asked.request) {
            (Answer::Receipt(first), Request::Submit(batch)) => {
                let ids = (first.0..).map(TaskId).take(batch.drafts.len());
                client.tasks.extend(ids);
            }
            (Answer::View(id, Some(result)), _) => {
                let told = *client.results.entry(id).or_insert(result);
                if told != result {
                    self.oracle.violated(format!(
                        "a client was told of result {told} and then of {result} of task {id}"
                    ));
                }
            }
            (Answer::View(..), _) => {}
            // It asks again when its patience is over.
            (Answer::Refused | Answer::Receipt(_), _) => client.asked = Some(asked),
        }
    }
}

fn payloads(batch: &Batch) -> Vec<u64> {
    batch.drafts.iter().map(|draft| draft.payload).collect()
}

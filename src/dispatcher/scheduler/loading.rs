//! The rest of a start: the history is read while new tasks are let in already.
//!
//! New tasks have greater ids and later places than all that is read, so that neither
//! needs the other. Whatever else is asked waits until it is known what there is; no
//! task is sent, nothing is trimmed, and no lease ends until then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::assign::Gate;
use super::{Message, READ_AGAIN, Scheduler};
use crate::dispatcher::recovery::{Part, Rest};
use crate::store::{self, Store};

/// How long after an unclean stop inherited tasks have their start stored before
/// the push: long enough that a task that takes the process down with it is seen
/// to do so a few times.
const CAUTION: Duration = Duration::from_secs(60);

/// A history that is being read.
#[derive(Debug)]
pub(super) struct Loading {
    /// What is to be read, until somebody does.
    pub(super) rest: Option<Rest>,
    /// Who does.
    reader: Option<JoinHandle<()>>,
    was_clean: bool,
    /// What waits for it.
    deferred: Vec<Message>,
}

impl Loading {
    pub(super) fn new(rest: Rest) -> Self {
        Self { was_clean: rest.was_clean, rest: Some(rest), reader: None, deferred: Vec::new() }
    }

    /// Keeps a message until the history is known. Before it takes more memory for them it lets
    /// go of calls whose callers have left, who may come again and again: nobody was told that
    /// they were done.
    fn defer(&mut self, message: Message) {
        if self.deferred.len() == self.deferred.capacity() {
            self.deferred.retain(|message| !message.is_given_up());
        }
        self.deferred.push(message);
    }

    /// What ends once nobody reads any more, soon after the loop takes nothing more.
    pub(super) fn into_reader(self) -> Option<JoinHandle<()>> {
        self.reader
    }
}

impl Scheduler {
    /// Has the history read.
    pub(super) fn begin_loading(&mut self) {
        let (Some(loading), Some(inbox)) = (&mut self.loading, self.shared.inbox.upgrade()) else {
            return;
        };
        let Some(rest) = loading.rest.take() else { return };
        loading.reader = Some(tokio::spawn(load(self.store.clone(), rest, inbox)));
    }

    /// Takes a message, unless it has to wait for the history.
    pub(super) fn receive(&mut self, message: Message) {
        let goes_ahead = match &message {
            // Who waits for the ends of old tasks is told how they stand.
            Message::Submit { batch, .. } => batch.wait.is_zero() || !self.is_known(batch),
            Message::Loaded { .. } | Message::Room { .. } => true,
            _ => false,
        };
        match &mut self.loading {
            Some(loading) if !goes_ahead => loading.defer(message),
            _ => self.handle(message),
        }
    }

    /// Folds in what was read.
    pub(super) fn loaded(&mut self, part: Result<Part, store::Error>) {
        match part {
            Ok(Part::History(events)) => {
                for event in &events {
                    self.queue.replay(event, self.last_turn);
                }
            }
            Ok(Part::Notes(notes)) => {
                let until = self.last_turn.plus(self.rules.lease);
                for (note, specs) in &notes {
                    self.queue.replay_notes(note, until, |id| specs.get(&id).copied());
                }
                self.end_loading();
            }
            Err(error) => self.announced_end = Some(error),
        }
    }

    /// Everything is known: the work goes on where the last boot left it.
    fn end_loading(&mut self) {
        let Some(loading) = self.loading.take() else { return };
        let now = self.last_turn;
        self.tally.resume(&self.queue.leases);
        self.gate = Gate::new(&self.known_workers, now);
        self.next_slow = self.gate.opens_at(now).unwrap_or(now);
        if !loading.was_clean {
            self.cautious_until = now.plus(CAUTION);
        }
        let (live, kept) = (self.queue.live(), self.queue.ended.count());
        tracing::info!(live, kept, "tasks are indexed");
        for message in loading.deferred {
            self.handle(message);
        }
    }
}

/// Reads part after part; the next one while the loop looks at the one before.
async fn load(store: Arc<dyn Store>, mut rest: Rest, inbox: mpsc::Sender<Message>) {
    let mut before: Option<oneshot::Receiver<()>> = None;
    loop {
        let read = store::apart(&store, move |store| Ok((rest.read(store), rest))).await;
        let part = match read {
            Ok((Err(store::Error::Full), same)) => {
                rest = same;
                tokio::select! {
                    () = tokio::time::sleep(READ_AGAIN) => continue,
                    () = inbox.closed() => return,
                }
            }
            Ok((part, next)) => {
                rest = next;
                part
            }
            Err(panic) => {
                drop(inbox.send(Message::loaded(Err(panic)).0).await);
                return;
            }
        };
        if let Some(before) = before.take() {
            // It is only ever dropped; a loop that has ended takes no more after it.
            drop(before.await);
        }
        let is_last = !matches!(part, Ok(Part::History(_)));
        let (message, taken) = Message::loaded(part);
        if inbox.send(message).await.is_err() || is_last {
            return;
        }
        before = Some(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::TaskId;

    #[test]
    fn callers_who_leave_and_come_again_take_no_more_memory_each_time() {
        let mut loading =
            Loading { rest: None, reader: None, was_clean: true, deferred: Vec::new() };
        let mut stays = Vec::new();
        for turn in 0..10_000 {
            let (reply, answer) = oneshot::channel();
            loading.defer(Message::Look { ids: vec![TaskId(turn)], wait: false, reply });
            if turn % 100 == 0 {
                stays.push((turn, answer));
            }
        }
        let kept = loading.deferred.iter().filter(|message| !message.is_given_up());
        let kept = kept.map(|message| match message {
            Message::Look { ids, .. } => ids[0].0,
            other => panic!("nobody sent {other:?}"),
        });
        assert!(kept.eq(stays.iter().map(|(turn, _)| *turn)), "who waits is kept, in order");
        assert!(loading.deferred.capacity() <= 512, "{}", loading.deferred.capacity());
    }
}

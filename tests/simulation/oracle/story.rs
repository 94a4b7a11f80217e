//! What the log tells of one task, event by event: a chain that keeps its budgets,
//! whose end nothing follows but a new round, and whose attempts and tokens rise.

use taskgrid::core::event::TaskEvent;
use taskgrid::core::id::{Seq, Token};
use taskgrid::core::task::{Change, Reason, Spec, Status};

/// The story of one task so far.
#[derive(Debug)]
pub(super) struct Story {
    spec: Spec,
    status: Status,
    last: Option<Seq>,
    attempts: u32,
    token: Option<Token>,
    /// The newest lease was given up: a success of it, or a repetition, may follow.
    open: bool,
    errors: u32,
    crashes: u32,
    /// A worker was lost in silence with it: the next loss counts for two.
    suspected: bool,
    rounds: u64,
}

impl Story {
    pub(super) fn new(spec: &Spec) -> Self {
        Self {
            spec: *spec,
            status: Status::Pending,
            last: None,
            attempts: 0,
            token: None,
            open: false,
            errors: 0,
            crashes: 0,
            suspected: false,
            rounds: 1,
        }
    }

    /// Adds an event, or says what is wrong with it.
    pub(super) fn tell(&mut self, event: &TaskEvent) -> Result<(), String> {
        if event.previous != self.last || event.spec != self.spec {
            return Err(format!("its story breaks at place {}", event.seq.0));
        }
        let is_new_round = matches!(event.change, Change::Retried { .. });
        if is_new_round && !matches!(self.status, Status::Failed | Status::Cancelled) {
            return Err(format!("a new round began while it was {:?}", self.status));
        }
        if !is_new_round && self.status.is_terminal() {
            return Err(format!("it was {:?} and then {:?}", self.status, event.change));
        }
        let is_another = event.attempt.as_ref().is_none_or(|end| Some(end.token) != self.token);
        if !is_another && event.change.reason() == Some(Reason::Lost) {
            // Its worker had come back: the silence was no death.
            self.suspected = false;
        }
        self.tell_attempt(event)?;
        self.tell_change(&event.change)?;
        self.status = event.change.status();
        self.last = Some(event.seq);
        Ok(())
    }

    fn tell_attempt(&mut self, event: &TaskEvent) -> Result<(), String> {
        let Some(attempt) = &event.attempt else { return Ok(()) };
        let (number, token) = (attempt.number, attempt.token);
        if let Some(newest) = self.token {
            let same_boot = newest.epoch == token.epoch;
            let is_fine = match token.cmp(&newest) {
                std::cmp::Ordering::Less => false,
                std::cmp::Ordering::Equal => self.open && number == self.attempts,
                // Leases that a crash made the log forget may share a number.
                std::cmp::Ordering::Greater if same_boot => number > self.attempts,
                std::cmp::Ordering::Greater => number >= self.attempts,
            };
            if !is_fine {
                let before = self.attempts;
                return Err(format!("{newest}, attempt {before}, then {token}, attempt {number}"));
            }
        }
        (self.attempts, self.token) = (number, Some(token));
        Ok(())
    }

    fn tell_change(&mut self, change: &Change) -> Result<(), String> {
        if let Change::Retried { attempts, token } = change {
            if (*attempts, *token) != (self.attempts, self.token) {
                return Err(format!("a new round goes on from attempt {attempts}, {token:?}"));
            }
            (self.errors, self.crashes, self.open, self.suspected) = (0, 0, false, false);
            self.rounds += 1;
            return Ok(());
        }
        let Spec { max_attempts, max_crashes, .. } = self.spec;
        self.open = false;
        match change.reason() {
            Some(Reason::Error | Reason::Timeout | Reason::Panic | Reason::Permanent) => {
                self.errors += 1;
                self.suspected = false;
            }
            Some(Reason::Lost | Reason::Poison | Reason::Unknown) => {
                let had_used_all = self.crashes >= max_crashes;
                self.crashes += 1;
                if !had_used_all {
                    self.crashes += u32::from(std::mem::take(&mut self.suspected));
                    // What is in arrears leads to the run alone and not past it.
                    self.crashes = self.crashes.min(max_crashes);
                }
                self.open = true;
            }
            Some(Reason::Released) => self.open = true,
            Some(Reason::Silence) => (self.open, self.suspected) = (true, true),
            Some(Reason::Cancelled) | None => {}
        }
        if self.errors > max_attempts || self.crashes > max_crashes + 1 {
            return Err(format!("{} errors, {} crashes", self.errors, self.crashes));
        }
        let is_due = match change {
            Change::Failed { reason: Reason::Permanent, .. } => true,
            Change::Failed { reason: Reason::Poison, .. } => self.crashes > max_crashes,
            Change::Failed { reason: Reason::Unknown, .. } => self.spec.at_most_once(),
            Change::Failed { .. } => self.errors >= max_attempts,
            _ => true,
        };
        is_due.then_some(()).ok_or_else(|| format!("it failed too soon: {change:?}"))
    }

    pub(super) fn status(&self) -> Status {
        self.status
    }

    pub(super) fn rounds(&self) -> u64 {
        self.rounds
    }

    /// The number of the last attempt that ended.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }
}

//! The checker of the campaigns' histories, checked itself: small histories, made up, each
//! of which breaks one promise, and one that breaks none.

#[path = "campaigns/checker.rs"]
#[expect(dead_code, reason = "the sums are for the campaigns")]
mod checker;
#[path = "campaigns/history.rs"]
#[expect(dead_code, reason = "nothing is recorded here")]
mod history;
#[path = "campaigns/work.rs"]
#[expect(dead_code, reason = "nothing is worked on here")]
mod work;

use checker::{History, INVARIANTS};
use history::{By, Fact, How, Line, Seen};
use taskgrid::core::task::Status;

/// A history in the making: each fact a millisecond after the one before.
#[derive(Default)]
struct Made {
    facts: Vec<Fact>,
}

impl Made {
    /// Two tasks, 1 and 2, receipted as `a/0` and `a/1`, executed as `x1` and `x2`.
    fn two_tasks() -> Self {
        Self::default()
            .asked("a", 2)
            .receipt("a", &[1, 2])
            .runs(1, "a/0", "x1", 1)
            .runs(2, "a/1", "x2", 2)
    }

    /// And both seen completed, by all means.
    fn two_ends() -> Self {
        Self::two_tasks().completed(By::Watch).completed(By::Get).completed(By::List)
    }

    fn asked(self, key: &str, count: usize) -> Self {
        let hashes = (0..count).map(|place| hash(&format!("{key}/{place}"))).collect();
        self.with(Fact::Asked { key: key.to_owned(), hashes, at_most_once: key == "once" })
    }

    fn receipt(self, key: &str, ids: &[u64]) -> Self {
        self.with(Fact::Receipt { key: key.to_owned(), ids: ids.to_vec() })
    }

    /// An execution with a lease of this number, from its begin to its end.
    fn runs(self, task: u64, name: &str, nonce: &str, lease: u64) -> Self {
        self.starts(task, name, nonce, lease).ends(nonce, How::Done)
    }

    fn starts(self, task: u64, name: &str, nonce: &str, lease: u64) -> Self {
        self.with(Fact::Started {
            nonce: nonce.to_owned(),
            task,
            name: name.to_owned(),
            attempt: 1,
            token: (1, 7, lease),
            worker: "w1".to_owned(),
        })
    }

    fn ends(self, nonce: &str, how: How) -> Self {
        self.with(Fact::Ended { nonce: nonce.to_owned(), how })
    }

    fn completed(self, by: By) -> Self {
        self.reads(by, vec![seen(1, "a/0", "x1"), seen(2, "a/1", "x2")])
    }

    /// A call that began before the fact before it, if any, was written.
    fn reads(self, by: By, tasks: Vec<Seen>) -> Self {
        let began = checker::count(self.facts.len());
        self.with(Fact::Read { by, began, tasks })
    }

    fn with(mut self, fact: Fact) -> Self {
        self.facts.push(fact);
        self
    }

    fn history(self) -> History {
        let mut history = History::default();
        for (fact, at) in self.facts.into_iter().zip(0..) {
            history.take(Line { at, fact });
        }
        history
    }

    /// Exactly these invariants complain.
    #[track_caller]
    fn breaks(self, names: &[&str]) {
        broken(&self.history(), names);
    }
}

#[track_caller]
fn broken(history: &History, names: &[&str]) {
    let complaints: Vec<_> =
        INVARIANTS.iter().map(|(name, invariant)| (&name[..2], invariant(history))).collect();
    let broken: Vec<&str> =
        complaints.iter().filter(|(_, all)| !all.is_empty()).map(|(name, _)| *name).collect();
    assert_eq!(broken, names, "{complaints:?}");
}

/// Completed, with what that execution gives for that payload.
fn seen(id: u64, name: &str, nonce: &str) -> Seen {
    Seen {
        id,
        status: Some(Status::Completed),
        result: Some(work::result(name.as_bytes(), nonce)),
        payload: Some((name.to_owned(), hash(name))),
    }
}

fn stands(id: u64, status: Status) -> Seen {
    Seen { id, status: Some(status), result: None, payload: None }
}

fn hash(payload: &str) -> String {
    work::hash(payload.as_bytes())
}

#[test]
fn a_history_that_keeps_the_promises_has_no_complaints() {
    Made::two_ends().breaks(&[]);
    assert_eq!(checker::check(&Made::two_ends().history()), [""; 0]);
}

#[test]
fn a_receipted_task_that_never_ended_is_found() {
    Made::two_tasks().reads(By::Watch, vec![seen(1, "a/0", "x1")]).breaks(&["I1"]);
    Made::two_tasks()
        .reads(By::Watch, vec![seen(1, "a/0", "x1"), stands(2, Status::Running)])
        .breaks(&["I1"]);
}

#[test]
fn a_receipted_task_that_is_not_in_the_list_of_all_is_found() {
    // It is half a batch besides.
    Made::two_tasks()
        .completed(By::Get)
        .reads(By::List, vec![seen(1, "a/0", "x1")])
        .breaks(&["I1", "I5"]);
}

#[test]
fn a_receipted_task_that_is_not_there_when_it_is_asked_for_is_found() {
    let gone = Seen { id: 2, status: None, result: None, payload: None };
    Made::two_ends().reads(By::Get, vec![gone]).breaks(&["I1", "I8"]);
}

#[test]
fn a_second_end_in_a_watch_is_found() {
    Made::two_ends().reads(By::Watch, vec![seen(1, "a/0", "x1")]).breaks(&["I1"]);
}

#[test]
fn a_task_that_is_forgotten_early_is_found() {
    let forgotten = || Made::two_ends().with(Fact::Expired { ids: vec![2] });
    forgotten().breaks(&["I1"]);
    broken(&forgotten().history().forgets(), &[]);
    // What never ran and was not cancelled cannot have ended.
    let lost = Made::two_ends().asked("b", 1).receipt("b", &[3]);
    broken(&lost.with(Fact::Expired { ids: vec![3] }).history().forgets(), &["I1"]);
}

#[test]
fn a_result_that_changed_is_found() {
    Made::two_ends()
        .runs(1, "a/0", "x3", 0)
        .with(Fact::WorkerLost { worker: "w1".to_owned() })
        .reads(By::Get, vec![seen(1, "a/0", "x3")])
        .breaks(&["I2"]);
}

#[test]
fn a_result_of_no_execution_is_found() {
    Made::two_tasks()
        .reads(By::Get, vec![seen(1, "a/0", "x9"), seen(2, "a/1", "x2")])
        .breaks(&["I3"]);
    let mut lie = seen(1, "a/0", "x1");
    lie.result = Some("lies".to_owned());
    Made::two_tasks().reads(By::Get, vec![lie, seen(2, "a/1", "x2")]).breaks(&["I3"]);
}

#[test]
fn a_result_of_another_task_or_for_another_payload_is_found() {
    Made::two_tasks()
        .reads(By::Get, vec![seen(1, "a/0", "x2"), seen(2, "a/1", "x2")])
        .breaks(&["I3"]);
    Made::two_tasks()
        .reads(
            By::Get,
            vec![Seen { payload: None, ..seen(1, "other", "x1") }, seen(2, "a/1", "x2")],
        )
        .breaks(&["I3"]);
}

#[test]
fn a_result_of_an_execution_that_gave_none_is_found() {
    let with_end = |how: Option<How>| {
        let made = Made::default().asked("a", 1).receipt("a", &[1]).starts(1, "a/0", "x1", 1);
        let made = match how {
            Some(how) => made.ends("x1", how),
            None => made,
        };
        made.reads(By::List, vec![seen(1, "a/0", "x1")])
    };
    with_end(Some(How::Done)).breaks(&[]);
    with_end(Some(How::Failed)).breaks(&["I3"]);
    with_end(None).breaks(&["I3"]);
}

#[test]
fn a_result_of_a_lease_that_was_over_is_found() {
    Made::two_tasks()
        .with(Fact::WorkerLost { worker: "w1".to_owned() })
        .starts(1, "a/0", "x3", 3)
        .completed(By::List)
        .breaks(&["I3"]);
}

#[test]
fn a_task_that_nobody_submitted_is_found() {
    Made::two_ends().reads(By::Watch, vec![stands(9, Status::Failed)]).breaks(&["I4"]);
    // Also where it has the name of one, but not its payload.
    let mut other = seen(9, "a/0", "x1");
    other.payload = Some(("a/0".to_owned(), hash("b/0")));
    other.status = Some(Status::Failed);
    Made::two_ends().reads(By::Get, vec![other]).breaks(&["I4"]);
}

#[test]
fn a_payload_of_another_task_is_found() {
    let swapped = vec![
        Seen { payload: Some(("a/1".to_owned(), hash("a/1"))), ..seen(1, "a/0", "x1") },
        Seen { payload: Some(("a/0".to_owned(), hash("a/0"))), ..seen(2, "a/1", "x2") },
    ];
    Made::two_tasks().reads(By::List, swapped).breaks(&["I4"]);
}

#[test]
fn an_unknown_submit_may_be_there_once_or_not_at_all() {
    let unknown = || Made::two_tasks().asked("b", 2).with(Fact::Unknown { key: "b".to_owned() });
    let listed = |more: &[(u64, &str)]| {
        let more = more.iter().map(|(id, name)| {
            let payload = Some(((*name).to_owned(), hash(name)));
            Seen { payload, ..stands(*id, Status::Failed) }
        });
        let two = [seen(1, "a/0", "x1"), seen(2, "a/1", "x2")];
        unknown().reads(By::List, two.into_iter().chain(more).collect())
    };
    listed(&[]).breaks(&[]);
    listed(&[(3, "b/0"), (4, "b/1")]).breaks(&[]);
    // Half of it, and twice.
    listed(&[(3, "b/0")]).breaks(&["I5"]);
    listed(&[(3, "b/0"), (4, "b/1"), (5, "b/0"), (6, "b/1")]).breaks(&["I5"]);
}

#[test]
fn receipts_of_one_key_that_differ_are_found() {
    Made::two_ends().receipt("a", &[1, 2]).breaks(&[]);
    // Then task 2 is both `a/1` and `a/2`.
    Made::two_ends().receipt("a", &[1, 2, 2]).breaks(&["I3", "I4", "I5"]);
}

#[test]
fn an_execution_without_a_cause_is_found() {
    let again = |made: Made| made.runs(1, "a/0", "x0", 0).completed(By::Get);
    again(Made::two_tasks()).breaks(&["I6"]);
    again(Made::two_tasks().with(Fact::WorkerLost { worker: "w2".to_owned() })).breaks(&["I6"]);
    again(Made::two_tasks().with(Fact::WorkerLost { worker: "w1".to_owned() })).breaks(&[]);
    let cut_off = |worker: &str, began| Fact::CutOff { workers: vec![worker.to_owned()], began };
    again(Made::two_tasks().with(cut_off("w2", 0))).breaks(&["I6"]);
    again(Made::two_tasks().with(cut_off("w1", 0))).breaks(&[]);
    // Long after it had ended.
    again(Made::two_tasks().with(cut_off("w1", 10_000))).breaks(&["I6"]);
    again(Made::two_tasks().with(Fact::DispatcherLost)).breaks(&[]);
    again(Made::two_tasks().runs(1, "a/0", "xf", 0).ends("xf", How::Failed)).breaks(&["I6"]);
    // What was lost before the task first ran explains nothing.
    let early = Made::default().with(Fact::DispatcherLost).asked("a", 1).receipt("a", &[1]);
    let early = early.runs(1, "a/0", "x1", 2).runs(1, "a/0", "x0", 1);
    early.reads(By::List, vec![seen(1, "a/0", "x1")]).breaks(&["I6"]);
}

#[test]
fn what_was_lost_when_it_could_cost_nothing_any_more_explains_no_execution() {
    let later = |mut history: History, facts: Vec<Fact>| {
        for (fact, at) in facts.into_iter().zip(60_000..) {
            history.take(Line { at, fact });
        }
        history
    };
    let lost = || vec![Fact::WorkerLost { worker: "w1".to_owned() }, Fact::DispatcherLost];
    // Long after the last run had begun.
    let twice = Made::two_tasks().runs(1, "a/0", "x0", 0).completed(By::Get);
    broken(&later(twice.history(), lost()), &["I6"]);
    // Before the last run, but long after the one before had told its end.
    let again = |lost: Vec<Fact>| {
        let run = Made::default().runs(1, "a/0", "x0", 0).facts;
        later(Made::two_ends().history(), lost.into_iter().chain(run).collect())
    };
    broken(&again(vec![Fact::WorkerLost { worker: "w1".to_owned() }]), &["I6"]);
    broken(&again(lost()), &[]);
}

#[test]
fn an_at_most_once_task_that_ran_twice_is_found() {
    let once = || {
        let made = Made::default().asked("once", 1).receipt("once", &[1]);
        made.starts(1, "once/0", "x1", 1).with(Fact::DispatcherLost)
    };
    once().reads(By::Watch, vec![stands(1, Status::Failed)]).breaks(&[]);
    once()
        .starts(1, "once/0", "x2", 2)
        .reads(By::Watch, vec![stands(1, Status::Failed)])
        .breaks(&["I7"]);
}

#[test]
fn an_end_that_changed_is_found() {
    // Another end has another result, too.
    Made::two_ends().reads(By::Get, vec![stands(1, Status::Failed)]).breaks(&["I2", "I8"]);
    Made::two_ends()
        .reads(By::Get, vec![stands(1, Status::Pending)])
        .completed(By::Get)
        .breaks(&["I8"]);
    // A call that was under way when the end came may not have seen it.
    let slow = Fact::Read { by: By::Get, began: 1, tasks: vec![stands(1, Status::Running)] };
    Made::two_ends().with(slow).completed(By::Get).breaks(&[]);
}

#[test]
fn a_cancel_that_did_not_last_is_found() {
    let cancelled = || {
        Made::two_tasks()
            .with(Fact::Cancels { ids: vec![1] })
            .with(Fact::Cancelled { ids: vec![1] })
    };
    let ends = |first: Seen| vec![first, seen(2, "a/1", "x2")];
    cancelled().reads(By::Get, ends(stands(1, Status::Cancelled))).breaks(&[]);
    cancelled().reads(By::Get, ends(seen(1, "a/0", "x1"))).breaks(&["I9"]);
    // And one that nobody asked for.
    Made::two_tasks().reads(By::Get, ends(stands(1, Status::Cancelled))).breaks(&["I9"]);
}

#[test]
fn a_torn_line_spoils_no_other() {
    let fact = Fact::DispatcherLost;
    let whole = serde_json::to_string(&Line { at: 1, fact: fact.clone() }).unwrap();
    let text = format!("\n{whole}\n\n{}\n{whole}\n", &whole[..10]);
    let line = Line { at: 1, fact };
    let mut lines = Vec::new();
    let torn = history::parse(text.as_bytes(), |line| lines.push(line)).unwrap();
    assert_eq!((lines, torn), (vec![line.clone(), line], 1));
}

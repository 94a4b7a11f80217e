use super::*;
use crate::core::id::Epoch;

const NOW: Timestamp = Timestamp(50_000);

#[test]
fn the_end_of_an_attempt_and_what_it_makes_of_the_task() {
    let started = |lease: Lease| Lease { started: Some(NOW), ..lease };
    let charged = |lease: Lease| Lease { charged: true, ..lease };
    let resumed = |lease: Lease| Lease { resumed: true, started: Some(NOW), ..lease };
    let fresh = Progress::default();
    let near = Progress { errors: 2, crashes: 3, ..fresh };
    let table = [
        (fresh, lease(), Outcome::Completed, "completed"),
        (near, started(lease()), Outcome::Completed, "completed"),
        (fresh, lease(), failed(Reason::Error), "pending error"),
        (fresh, lease(), failed(Reason::Timeout), "pending timeout"),
        (fresh, lease(), failed(Reason::Panic), "pending panic"),
        (fresh, lease(), failed(Reason::Permanent), "failed permanent"),
        (near, lease(), failed(Reason::Error), "failed error"),
        (near, lease(), failed(Reason::Timeout), "failed timeout"),
        (near, lease(), failed(Reason::Panic), "failed panic"),
        (fresh, lease(), Outcome::Released, "pending released"),
        (near, started(lease()), Outcome::Released, "pending released"),
        (fresh, lease(), Outcome::Lost, "pending released"),
        (near, lease(), Outcome::Lost, "pending released"),
        (fresh, started(lease()), Outcome::Lost, "pending lost"),
        (fresh, charged(lease()), Outcome::Lost, "pending lost"),
        (near, started(lease()), Outcome::Lost, "failed poison"),
        (near, charged(lease()), Outcome::Lost, "failed poison"),
        (near, resumed(lease()), failed(Reason::Error), "pending released"),
        (near, resumed(lease()), Outcome::Lost, "pending released"),
        (near, resumed(lease()), Outcome::Completed, "completed"),
    ];
    for (progress, lease, outcome, expected) in table {
        let change = settle(&spec(), &progress, &lease, outcome.clone(), NOW, 0);
        assert_eq!(shown(&change), expected, "{outcome:?} of {lease:?} after {progress:?}");
    }
}

#[test]
fn a_task_that_may_run_once_ends_with_its_first_attempt_unless_that_never_started() {
    let once = Spec { max_attempts: 1, max_crashes: 0, ..spec() };
    let charged = Lease { charged: true, ..lease() };
    assert!(once.at_most_once());
    assert!(!Spec { max_crashes: 1, ..once }.at_most_once());
    assert!(!Spec { max_attempts: 2, ..once }.at_most_once());
    let end = |outcome| shown(&settle(&once, &Progress::default(), &charged, outcome, NOW, 0));
    assert_eq!(end(Outcome::Lost), "failed unknown");
    assert_eq!(end(failed(Reason::Error)), "failed error");
    assert_eq!(end(Outcome::Released), "pending released");
}

#[test]
fn a_task_without_crashes_to_spend_is_poison_at_the_first_and_never_runs_alone() {
    let spec = Spec { max_crashes: 0, ..spec() };
    let started = Lease { started: Some(NOW), ..lease() };
    let change = settle(&spec, &Progress::default(), &started, Outcome::Lost, NOW, 0);
    assert_eq!(shown(&change), "failed poison");
    assert!(!Progress::default().runs_alone(&spec));
}

#[test]
fn delays_grow_with_the_errors_of_the_round_under_their_ceilings() {
    let spec = Spec { max_attempts: 100, ..spec() };
    let delay = |errors, dice| {
        let progress = Progress { errors, ..Progress::default() };
        match settle(&spec, &progress, &lease(), failed(Reason::Error), NOW, dice) {
            Change::Returned { run_at, .. } => run_at.since(NOW).as_millis(),
            other => panic!("{other:?}"),
        }
    };
    let ceilings = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000];
    for (errors, ceiling) in (0..).zip(ceilings) {
        assert_eq!(delay(errors, ceiling), u128::from(ceiling));
        assert_eq!(delay(errors, ceiling + 1), 0, "the die is taken modulo the ceiling");
    }
    assert_eq!(delay(99 - 1, 300_000), 300_000);
}

#[test]
fn a_delay_that_the_handler_names_goes_before_the_die() {
    let outcome = Outcome::Failed {
        reason: Reason::Error,
        message: String::new(),
        retry_after: Some(Duration::from_millis(5)),
    };
    let change = settle(&spec(), &Progress::default(), &lease(), outcome, NOW, 999);
    let run_at = NOW.plus(Duration::from_millis(5));
    assert_eq!(change, Change::Returned { reason: Reason::Error, error: String::new(), run_at });
}

#[test]
fn the_handlers_words_are_kept() {
    let error = "no luck".to_owned();
    let change = settle(&spec(), &Progress::default(), &lease(), failed(Reason::Error), NOW, 0);
    assert_eq!(change.error(), error);
    let permanent = failed(Reason::Permanent);
    let change = settle(&spec(), &Progress::default(), &lease(), permanent, NOW, 0);
    assert_eq!(change, Change::Failed { reason: Reason::Permanent, error });
}

#[test]
fn progress_counts_errors_and_crashes_apart_and_remembers_the_newest_lease() {
    let table = [
        (Reason::Error, "errors 2 crashes 1"),
        (Reason::Timeout, "errors 2 crashes 1"),
        (Reason::Panic, "errors 2 crashes 1"),
        (Reason::Lost, "errors 1 crashes 2 open counted"),
        (Reason::Released, "errors 1 crashes 1 open"),
    ];
    let before = Progress { attempts: 3, errors: 1, crashes: 1, ..Progress::default() };
    for (reason, expected) in table {
        let change = Change::Returned { reason, error: String::new(), run_at: NOW };
        let after = advance(&before, &change, Some((4, token(9))), Seq(7));
        assert_eq!(counted(&after), expected, "{reason:?}");
        let newest = (after.attempts, after.token, after.last);
        assert_eq!(newest, (4, Some(token(9)), Some(Seq(7))), "{reason:?}");
    }
}

#[test]
fn a_charged_lease_that_is_given_back_later_stays_charged_and_a_new_one_does_not_inherit_it() {
    let released = Change::Returned { reason: Reason::Released, error: String::new(), run_at: NOW };
    let lost = Change::Returned { reason: Reason::Lost, error: String::new(), run_at: NOW };
    let first = advance(&Progress::default(), &lost, Some((1, token(1))), Seq(1));
    let same = advance(&first, &released, Some((1, token(1))), Seq(2));
    assert_eq!(counted(&same), "errors 0 crashes 1 open counted");
    let other = advance(&same, &released, Some((2, token(2))), Seq(3));
    assert_eq!(counted(&other), "errors 0 crashes 1 open");
}

#[test]
fn a_loss_in_silence_counts_only_if_the_next_worker_is_lost_too() {
    let back = |reason| Change::Returned { reason, error: String::new(), run_at: NOW };
    let went = |story: &[(Reason, u64)]| {
        let mut progress = Progress::default();
        for (place, (reason, lease)) in (1..).zip(story) {
            let ended = (u32::try_from(*lease).unwrap(), token(*lease));
            progress = advance(&progress, &back(*reason), Some(ended), Seq(place));
        }
        (progress.crashes, progress.suspected)
    };
    let silence = (Reason::Silence, 1);
    assert_eq!(went(&[silence]), (0, true));
    assert_eq!(went(&[silence, (Reason::Lost, 2)]), (2, false), "it may have been the task");
    assert_eq!(went(&[silence, (Reason::Lost, 2), (Reason::Lost, 3)]), (3, false));
    assert_eq!(went(&[silence, (Reason::Lost, 1)]), (1, false), "the worker had come back");
    assert_eq!(went(&[silence, (Reason::Released, 2), (Reason::Lost, 3)]), (2, false));
    assert_eq!(went(&[silence, (Reason::Error, 2), (Reason::Lost, 3)]), (1, false));
}

#[test]
fn a_new_round_clears_the_budgets_and_keeps_attempts_and_token() {
    let before = Progress {
        attempts: 5,
        errors: 2,
        crashes: 1,
        last: Some(Seq(3)),
        token: Some(token(9)),
        open: true,
        counted: true,
        suspected: true,
    };
    let change = Change::Retried { attempts: 5, token: Some(token(9)) };
    let after = advance(&before, &change, None, Seq(4));
    let expected =
        Progress { attempts: 5, token: Some(token(9)), last: Some(Seq(4)), ..Progress::default() };
    assert_eq!(after, expected);
}

#[test]
fn a_task_runs_alone_from_the_crash_that_used_up_its_budget() {
    let runs_alone = |crashes| Progress { crashes, ..Progress::default() }.runs_alone(&spec());
    assert_eq!([0, 1, 2, 3, 4].map(runs_alone), [false, false, false, true, true]);
}

#[test]
fn every_status_says_whether_it_is_the_end() {
    for (status, is_terminal) in [
        (Status::Pending, false),
        (Status::Running, false),
        (Status::Completed, true),
        (Status::Failed, true),
        (Status::Cancelled, true),
    ] {
        assert_eq!(status.is_terminal(), is_terminal, "{}", status.as_str());
    }
}

fn spec() -> Spec {
    Spec {
        type_id: TypeId(0),
        priority: 5,
        created: NOW,
        run_at: NOW,
        timeout_ms: 0,
        max_attempts: 3,
        max_crashes: 3,
        group: 0,
        payload_bytes: 0,
    }
}

/// A lease whose handler has not started, as far as is known.
fn lease() -> Lease {
    Lease {
        token: token(1),
        attempt: 1,
        holder: Holder { worker: "a".into(), incarnation: 1 },
        leased: NOW,
        started: None,
        charged: false,
        resumed: false,
    }
}

fn token(sequence: u64) -> Token {
    Token { epoch: Epoch { boot: 1, nonce: 7 }, sequence }
}

fn failed(reason: Reason) -> Outcome {
    Outcome::Failed { reason, message: "no luck".to_owned(), retry_after: None }
}

fn shown(change: &Change) -> String {
    let reason = change.reason().map(|reason| format!(" {}", reason.as_str()));
    format!("{}{}", change.status().as_str(), reason.unwrap_or_default())
}

fn counted(progress: &Progress) -> String {
    let mut text = format!("errors {} crashes {}", progress.errors, progress.crashes);
    for (is_set, word) in [(progress.open, " open"), (progress.counted, " counted")] {
        text.push_str(if is_set { word } else { "" });
    }
    text
}

use std::time::Duration;

use super::*;
use crate::core::registry::{self, Registration};
use crate::core::task_type::{PayloadKind, TaskType};
use crate::wire::v1::{Counts, LinkState};

const NOW: Timestamp = Timestamp(100_000);

#[test]
fn what_both_told_of_a_worker_stands_in_one_row() {
    let known = known();
    let stats = known.stats(NOW);
    assert_eq!(stats.missing, [""; 0]);
    assert_eq!((stats.active_workers, stats.workers.len()), (1, 1));
    let worker = &stats.workers[0];
    assert_eq!((worker.id.as_str(), worker.address.as_str()), ("hash-1", "box:1"));
    assert_eq!((worker.health(), worker.link()), (Health::Healthy, LinkState::Closed));
    assert_eq!((worker.slots, worker.busy, worker.held), (4, 4, 9));
    assert_eq!(worker.average_processing_time_ms, Some(0.25));
    assert_eq!((stats.completed_tasks, stats.pending_tasks), (8, 3));
    assert_eq!(stats.average_processing_time_ms, Some(1.5));
    assert_eq!(stats.types[0].tasks_per_second, Some(2.5));
}

#[test]
fn a_dispatcher_that_went_away_greys_its_row_and_blanks_nothing() {
    let mut known = known();
    known.dispatcher.problem = "connection refused".to_owned();
    let stats = known.stats(NOW.plus(Duration::from_secs(3)));
    assert_eq!(stats.missing, ["the dispatcher at d:1 does not answer: connection refused"]);
    assert_eq!((stats.completed_tasks, stats.tasks_per_second), (8, None));
    // The registry still offers the worker; whether it has a session is not known.
    assert_eq!((stats.active_workers, stats.workers[0].connected), (1, false));
    let source = stats.sources.iter().find(|source| source.role == "dispatcher").unwrap();
    assert_eq!((source.reachable, source.age_ms), (false, Some(3_000)));
}

#[test]
fn a_nameservice_that_went_away_is_named_and_its_workers_stand() {
    let mut known = known();
    let lost = Some(Timestamp(NOW.0 - 2_000));
    known.nameservices[0].reachable = false;
    known.nameservices[0].lost = lost;
    known.nameservices[0].problem = "connection refused".to_owned();
    let stats = known.stats(NOW);
    assert_eq!(stats.missing, ["the nameservice at n:1 does not answer: connection refused"]);
    assert_eq!(stats.sources[0].age_ms, Some(2_000));
    assert_eq!(stats.active_workers, 1);
}

#[test]
fn a_lost_worker_is_named_with_its_type_and_what_waits() {
    let mut known = known();
    let mut told = known.dispatcher.stats.as_deref().cloned().unwrap();
    told.workers[0].connected = false;
    told.workers[0].set_link(LinkState::Open);
    told.workers[0].link_error = "connection refused".to_owned();
    told.types[0].workers = 0;
    known.dispatcher.stats = Some(Arc::new(told));
    let stats = known.stats(NOW);
    assert_eq!(stats.active_workers, 0);
    assert_eq!(
        stats.missing,
        [
            "the dispatcher has no session with the worker hash-1: connection refused",
            "no worker serves the type hash; 3 tasks wait",
        ]
    );
}

#[test]
fn before_anything_was_told_everything_is_missing_and_nothing_is_made_up() {
    let stats = Known {
        nameservices: vec![SourceState {
            url: "n:1".to_owned(),
            reachable: false,
            lost: None,
            problem: "not reached yet".to_owned(),
        }],
        dispatcher: Told { problem: "not reached yet".to_owned(), ..Told::default() },
        ..Known::default()
    }
    .stats(NOW);
    assert_eq!(stats.missing.len(), 2);
    assert_eq!((stats.average_processing_time_ms, stats.dispatcher_uptime_ms), (None, None));
    assert!(stats.sources.iter().all(|source| source.age_ms.is_none()));
}

#[test]
fn as_json_the_names_are_those_of_the_contract_and_enums_are_words() {
    let json = serde_json::to_value(known().stats(NOW)).unwrap();
    assert_eq!(json["completed_tasks"], 8);
    assert_eq!(json["oldest_pending_ms"], serde_json::Value::Null);
    assert_eq!(json["workers"][0]["health"], "healthy");
    assert_eq!(json["workers"][0]["link"], "closed");
    assert_eq!(json["types"][0]["type"], "hash");
    assert_eq!(json["sources"][1]["role"], "dispatcher");
}

/// One worker, known to both, that is as it should be.
fn known() -> Known {
    let registration = Registration {
        worker: "hash-1".into(),
        incarnation: 1,
        address: "box:1".into(),
        types: vec![TaskType { name: "hash".parse().unwrap(), payload: PayloadKind::Bytes }],
        slots: 4,
        version: String::new(),
    };
    let endpoint =
        Endpoint { registration: Arc::new(registration), health: registry::Health::Healthy };
    let endpoints = BTreeMap::from([("hash-1".into(), endpoint)]);
    let counts = Counts { completed: 8, pending: 3, run_us: 12_000, ..Counts::default() };
    let hash = crate::wire::v1::TaskType { name: "hash".to_owned(), ..Default::default() };
    let of_type =
        TypeStats { r#type: Some(hash), counts: Some(counts), workers: 1, oldest_pending_ms: None };
    let mut worker = WorkerStats {
        worker_id: "hash-1".to_owned(),
        address: "box:1".to_owned(),
        connected: true,
        types: vec!["hash".to_owned()],
        slots: 4,
        held: 9,
        completed: 4,
        run_us: 1_000,
        ..WorkerStats::default()
    };
    worker.set_link(LinkState::Closed);
    let stats = StatsResponse {
        totals: Some(counts),
        types: vec![of_type],
        workers: vec![worker],
        ..StatsResponse::default()
    };
    let rates = PerSecond { total: Some(2.5), types: BTreeMap::from([("hash".to_owned(), 2.5)]) };
    Known {
        view: Arc::new(View { endpoints, complete: true, ..View::default() }),
        nameservices: vec![SourceState {
            url: "n:1".to_owned(),
            reachable: true,
            lost: None,
            problem: String::new(),
        }],
        dispatcher: Told {
            url: "d:1".to_owned(),
            stats: Some(Arc::new(stats)),
            at: NOW,
            rates,
            problem: String::new(),
        },
    }
}

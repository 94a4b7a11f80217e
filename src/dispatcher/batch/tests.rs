use std::sync::Arc;

use tonic::Code;

use super::*;
use crate::core::payload::Checker;
use crate::core::task_type::{PayloadKind, TaskType};
use crate::dispatcher::types::Known;

#[test]
fn a_task_that_names_nothing_gets_the_defaults() {
    let batch = parse(vec![task("hash", b"text")]).unwrap();
    let spec = batch.drafts[0].accept(Timestamp(1_000));
    assert_eq!((spec.created, spec.run_at), (Timestamp(1_000), Timestamp(1_000)));
    assert_eq!((spec.priority, spec.max_attempts, spec.max_crashes), (5, 3, 3));
    assert_eq!((spec.payload_bytes, batch.bytes), (4, 4));
    assert!(batch.key.is_none());
}

#[test]
fn tasks_that_name_no_type_are_of_the_batchs() {
    let types = types();
    let admission = Admission { types: &types, complete: true, max_payload: 100 };
    let parse = |batch_type: &str| {
        let tasks = ["", "hash", "", "upper", ""].map(|name| task(name, b"text"));
        let request = v1::SubmitRequest { r#type: batch_type.into(), ..request(tasks.into()) };
        admission.parse(request)
    };
    let drafts = parse("upper").unwrap().drafts;
    let types: Vec<_> = drafts.iter().map(|draft| draft.spec.type_id).collect();
    assert_eq!(types, [1, 0, 1, 1, 1].map(TypeId));
    let refused = parse("hsah").unwrap_err();
    assert!(refused.message().starts_with("tasks[0].type"), "{refused}");
    assert!(refused.message().contains("did you mean \"hash\""), "{refused}");
    assert_eq!(parse("").unwrap_err().code(), Code::NotFound);
}

#[test]
fn a_delay_counts_from_the_acceptance() {
    let mut delayed = task("hash", b"");
    delayed.delay_ms = 500;
    let batch = parse(vec![delayed]).unwrap();
    assert_eq!(batch.drafts[0].accept(Timestamp(1_000)).run_at, Timestamp(1_500));
}

#[test]
fn what_is_wrong_is_refused_by_its_place_in_the_batch() {
    type Spoil = fn(&mut v1::NewTask);
    let cases: [(Spoil, &str); 6] = [
        (|t| t.payload = "x".repeat(101).into(), "tasks[1].payload: 101 bytes"),
        (|t| t.priority = Some(10), "tasks[1].priority"),
        (|t| t.max_attempts = Some(0), "tasks[1].max_attempts"),
        (|t| t.max_crashes = Some(1_001), "tasks[1].max_crashes"),
        (|t| t.delay_ms = u64::MAX, "tasks[1].delay_ms"),
        (|t| *t = task("upper", b"\xff"), "tasks[1].payload"),
    ];
    for (spoil, message) in cases {
        let mut bad = task("hash", b"");
        spoil(&mut bad);
        let status = parse(vec![task("hash", b""), bad]).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(message), "{}", status.message());
    }
    assert_eq!(parse(vec![]).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(parse(vec![task("hash", b""); 10_001]).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn an_unknown_type_is_refused_once_all_workers_are_known_and_put_off_before() {
    let status = parse(vec![task("hsah", b"")]).unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("did you mean \"hash\""), "{}", status.message());
    let types = types();
    let admission = Admission { types: &types, complete: false, max_payload: 100 };
    let status = admission.parse(request(vec![task("hsah", b"")])).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[test]
fn a_keys_digest_tells_other_tasks_groups_and_scopes_but_not_waits_and_other_keys() {
    let digest = |scope, change: fn(&mut v1::SubmitRequest)| {
        let mut request = request(vec![task("hash", b"a")]);
        request.key = "key".into();
        request.set_key_scope(scope);
        change(&mut request);
        let types = types();
        let admission = Admission { types: &types, complete: true, max_payload: 100 };
        admission.parse(request).unwrap().key.unwrap().digest
    };
    for scope in [v1::KeyScope::Call, v1::KeyScope::Caller] {
        let plain = digest(scope, |_| {});
        assert_eq!(plain, digest(scope, |r| r.wait_ms = 1_000));
        assert_eq!(plain, digest(scope, |r| r.answered_keys = vec!["other".into()]));
        assert_ne!(plain, digest(scope, |r| r.group = 1));
        assert_ne!(plain, digest(scope, |r| r.tasks[0].payload = "b".into()));
        assert_ne!(plain, digest(scope, |r| r.r#type = "hash".into()));
    }
    let calls = digest(v1::KeyScope::Call, |_| {});
    assert_eq!(calls, digest(v1::KeyScope::Unspecified, |_| {}));
    assert_ne!(calls, digest(v1::KeyScope::Caller, |_| {}));
}

#[test]
fn a_wait_is_bounded_and_for_as_many_tasks_as_a_look() {
    let parse = |count, wait_ms| {
        let types = types();
        let admission = Admission { types: &types, complete: true, max_payload: 100 };
        let request = request(vec![task("hash", b"a"); count]);
        admission.parse(v1::SubmitRequest { wait_ms, ..request }).map(|batch| batch.wait)
    };
    assert_eq!(parse(1_000, u64::MAX).unwrap(), limits::WAIT);
    assert_eq!(parse(1_001, 0).unwrap(), Duration::ZERO);
    let refused = parse(1_001, 1).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("wait_ms"), "{refused}");
}

#[test]
fn a_submit_names_a_bounded_number_of_answered_keys() {
    let parse = |count| {
        let types = types();
        let admission = Admission { types: &types, complete: true, max_payload: 100 };
        let request = request(vec![task("hash", b"a")]);
        let answered_keys = vec!["key".into(); count];
        admission.parse(v1::SubmitRequest { answered_keys, ..request })
    };
    assert_eq!(parse(64).unwrap().answered.len(), 64);
    let refused = parse(65).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("answered_keys"), "{refused}");
}

#[test]
fn a_key_that_is_remembered_does_not_keep_its_request_in_memory() {
    let mut request = request(vec![task("hash", b"text")]);
    request.key = "key".into();
    let message = Bytes::from(request.encode_to_vec());
    let request = v1::SubmitRequest::decode(message.clone()).unwrap();
    let types = types();
    let admission = Admission { types: &types, complete: true, max_payload: 100 };
    let Batch { key, drafts, .. } = admission.parse(request).unwrap();
    drop(drafts);
    assert!(message.is_unique());
    assert_eq!(key.unwrap().text, "key");
}

fn parse(tasks: Vec<v1::NewTask>) -> Result<Batch, Status> {
    let types = types();
    Admission { types: &types, complete: true, max_payload: 100 }.parse(request(tasks))
}

fn request(tasks: Vec<v1::NewTask>) -> v1::SubmitRequest {
    v1::SubmitRequest { tasks, ..v1::SubmitRequest::default() }
}

fn task(name: &str, payload: &'static [u8]) -> v1::NewTask {
    v1::NewTask { r#type: name.into(), payload: payload.into(), ..v1::NewTask::default() }
}

fn types() -> Types {
    let mut types = Types::default();
    for (place, name, payload) in [(0, "hash", PayloadKind::Bytes), (1, "upper", PayloadKind::Text)]
    {
        let checker = Arc::new(Checker::compile(&payload).unwrap());
        let definition = TaskType { name: name.parse().unwrap(), payload };
        types.learn(TypeId(place), Known { definition, checker });
    }
    types
}

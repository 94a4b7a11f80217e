use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(15);

#[test]
fn a_registration_is_offered_until_its_ttl_has_passed_without_a_heartbeat() {
    let mut registry = Registry::new(TTL);
    let changes = registry.register(worker("w1", 1).build(), at(0)).unwrap();
    assert_eq!(changes, [Change::Put(endpoint(&registry, "w1"))]);
    assert_eq!(found(&registry, "hash"), ["w1"]);
    assert_eq!(registry.next_end(), Some(at(15_000)));

    registry.heartbeat("w1", 1, at(10_000)).unwrap();
    assert_eq!(registry.next_end(), Some(at(25_000)));
    assert_eq!(registry.sweep(at(24_999)), []);
    assert_eq!(registry.sweep(at(25_000)), [Change::Removed("w1".into())]);
    assert_eq!(found(&registry, "hash"), [""; 0]);
    assert!(registry.is_empty());
    assert_eq!(registry.next_end(), None);
}

#[test]
fn a_heartbeat_never_creates_a_registration() {
    let mut registry = Registry::new(TTL);
    let refused = Err(Rejected::NotRegistered { worker: "w1".into() });
    assert_eq!(registry.heartbeat("w1", 1, at(0)), refused);
    registry.register(worker("w1", 2).build(), at(0)).unwrap();
    assert_eq!(registry.heartbeat("w1", 1, at(1)), refused, "of an older process");
    assert_eq!(registry.heartbeat("w1", 3, at(1)), refused, "of one that never registered");
    assert_eq!(registry.len(), 1);
}

#[test]
fn the_newest_incarnation_wins_and_begins_with_unknown_health() {
    let mut registry = Registry::new(TTL);
    registry.register(worker("w1", 2).build(), at(0)).unwrap();
    registry.probed("w1", 2, true).unwrap();
    assert_eq!(
        registry.register(worker("w1", 1).build(), at(1)),
        Err(Rejected::Older { worker: "w1".into(), known: 2 })
    );
    let newer = worker("w1", 3).at("host:2").serving(&["sum"]).build();
    let changes = registry.register(newer, at(2)).unwrap();
    let expected = endpoint(&registry, "w1");
    assert_eq!(changes, [Change::Put(expected.clone())]);
    assert_eq!((expected.health, expected.registered), (Health::Unknown, at(2)));
    assert_eq!(found(&registry, "hash"), [""; 0]);
    assert_eq!(found(&registry, "sum"), ["w1"]);
}

#[test]
fn registering_again_renews_and_tells_only_what_is_new() {
    let mut registry = Registry::new(TTL);
    registry.register(worker("w1", 1).build(), at(0)).unwrap();
    registry.probed("w1", 1, true).unwrap();
    assert_eq!(registry.register(worker("w1", 1).build(), at(5_000)).unwrap(), []);
    assert_eq!(registry.next_end(), Some(at(20_000)));

    let more = worker("w1", 1).serving(&["hash", "sum"]).build();
    let changes = registry.register(more, at(6_000)).unwrap();
    let expected = endpoint(&registry, "w1");
    assert_eq!(changes, [Change::Put(expected.clone())]);
    assert_eq!((expected.health, expected.registered), (Health::Healthy, at(0)));
}

#[test]
fn an_address_belongs_to_the_worker_that_registered_it_last() {
    let mut registry = Registry::new(TTL);
    registry.register(worker("w1", 1).at("host:1").build(), at(0)).unwrap();
    let changes = registry.register(worker("w2", 1).at("host:1").build(), at(1)).unwrap();
    assert_eq!(changes, [Change::Removed("w1".into()), Change::Put(endpoint(&registry, "w2"))]);
    assert!(registry.heartbeat("w1", 1, at(2)).is_err());
    assert_eq!(found(&registry, "hash"), ["w2"]);
}

#[test]
fn only_its_own_process_ends_a_registration() {
    let mut registry = Registry::new(TTL);
    registry.register(worker("w1", 2).build(), at(0)).unwrap();
    assert_eq!(registry.deregister("w1", 1), []);
    assert_eq!(registry.deregister("w2", 2), []);
    assert_eq!(registry.deregister("w1", 2), [Change::Removed("w1".into())]);
    assert_eq!(registry.deregister("w1", 2), []);
}

#[test]
fn two_failed_probes_withdraw_a_worker_and_one_answer_offers_it_again() {
    let mut registry = Registry::new(TTL);
    registry.register(worker("w1", 1).build(), at(0)).unwrap();
    assert_eq!(registry.probed("w1", 1, false), None);
    let withdrawn = registry.probed("w1", 1, false);
    assert_eq!(withdrawn, Some(Change::Put(endpoint(&registry, "w1"))));
    assert_eq!(endpoint(&registry, "w1").health, Health::Unhealthy);
    assert_eq!(found(&registry, "hash"), [""; 0]);
    assert_eq!(registry.list().count(), 1, "listed all the same");
    assert_eq!(registry.probed("w1", 1, false), None);
    let offered = registry.probed("w1", 1, true);
    assert_eq!(offered, Some(Change::Put(endpoint(&registry, "w1"))));
    assert_eq!(found(&registry, "hash"), ["w1"]);
    assert_eq!(registry.probed("w1", 1, false), None, "one failure alone is a hiccup");
    assert_eq!(endpoint(&registry, "w1").health, Health::Healthy);
    assert_eq!(registry.probed("w1", 2, false), None, "of another process");
    assert_eq!(registry.probed("w2", 1, false), None, "of nobody");
}

#[test]
fn a_pause_of_the_nameservice_itself_ends_nobody() {
    let mut registry = Registry::new(TTL);
    registry.register(worker("w1", 1).build(), at(0)).unwrap();
    registry.postpone(Duration::from_secs(60));
    assert_eq!(registry.sweep(at(74_999)), []);
    assert_eq!(registry.sweep(at(75_000)), [Change::Removed("w1".into())]);
}

#[test]
fn a_full_registry_takes_nobody_new_but_renews_and_replaces() {
    let mut registry = Registry::new(TTL);
    let nth = |n: usize| worker(&format!("w{n}"), 1).at(&format!("host:{n}"));
    for n in 0..limits::WORKERS {
        registry.register(nth(n).build(), at(0)).unwrap();
    }
    let refused = registry.register(worker("one-more", 1).build(), at(0)).unwrap_err();
    assert!(matches!(refused, Rejected::Full { workers: limits::WORKERS, .. }), "{refused:?}");
    assert_eq!(registry.register(nth(7).build(), at(1)), Ok(Vec::new()));
    let takes_over = worker("one-more", 1).at("host:7").build();
    assert_eq!(registry.register(takes_over, at(1)).unwrap().len(), 2);
    assert_eq!(registry.len(), limits::WORKERS);
}

#[test]
fn the_bytes_of_all_registrations_are_bounded() {
    let mut registry = Registry::new(TTL);
    let schema: Arc<str> = "x".repeat(limits::SCHEMA_BYTES).into();
    let large = |n: usize| {
        let mut registration = worker(&format!("w{n}"), 1).at(&format!("host:{n}")).build();
        registration.types = (0..limits::WORKER_TYPES)
            .map(|n| TaskType {
                name: format!("t{n}").parse().unwrap(),
                payload: PayloadKind::Json { schema: Some(Arc::clone(&schema)) },
            })
            .collect();
        registration
    };
    let taken = (0..100).take_while(|n| registry.register(large(*n), at(0)).is_ok()).count();
    assert!((1..=16).contains(&taken), "{taken} workers of 4 MiB in 64 MiB");
}

#[derive(Debug, Clone)]
enum Step {
    Register { worker: u8, incarnation: u64, address: u8, types: Vec<u8> },
    Heartbeat { worker: u8, incarnation: u64 },
    Deregister { worker: u8, incarnation: u64 },
    Probed { worker: u8, incarnation: u64, answered: bool },
    Sweep,
    Postpone,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let (worker, incarnation) = (0..4_u8, 1..4_u64);
    let pair = || (worker.clone(), incarnation.clone());
    let types = prop::collection::vec(0..3_u8, 1..3);
    let step = prop_oneof![
        4 => (pair(), 0..4_u8, types).prop_map(|((worker, incarnation), address, types)| {
            Step::Register { worker, incarnation, address, types }
        }),
        2 => pair().prop_map(|(worker, incarnation)| Step::Heartbeat { worker, incarnation }),
        1 => pair().prop_map(|(worker, incarnation)| Step::Deregister { worker, incarnation }),
        2 => (pair(), any::<bool>()).prop_map(|((worker, incarnation), answered)| {
            Step::Probed { worker, incarnation, answered }
        }),
        2 => Just(Step::Sweep),
        1 => Just(Step::Postpone),
    ];
    prop::collection::vec((0..9_000_u64, step), 0..60)
}

proptest! {
    /// Whatever happens: the indexes agree with the entries, a watcher that folds the
    /// changes sees what the registry lists, and incarnations never go back.
    #[test]
    fn the_registry_is_consistent_and_its_changes_tell_everything(steps in steps()) {
        let mut registry = Registry::new(TTL);
        let mut seen: BTreeMap<Arc<str>, (Arc<Registration>, Health)> = BTreeMap::new();
        let mut now = 0;
        for (pause, step) in steps {
            now += pause;
            let before: BTreeMap<Arc<str>, u64> = registry
                .list()
                .map(|e| (Arc::clone(&e.registration.worker), e.registration.incarnation))
                .collect();
            for change in take(&mut registry, step, at(now)) {
                match change {
                    Change::Put(endpoint) => {
                        let registration = Arc::clone(&endpoint.registration);
                        let worker = Arc::clone(&registration.worker);
                        seen.insert(worker, (registration, endpoint.health));
                    }
                    Change::Removed(worker) => prop_assert!(seen.remove(&worker).is_some()),
                }
            }
            let listed: BTreeMap<Arc<str>, (Arc<Registration>, Health)> = registry
                .list()
                .map(|e| {
                    let registration = Arc::clone(&e.registration);
                    (Arc::clone(&registration.worker), (registration, e.health))
                })
                .collect();
            prop_assert_eq!(&seen, &listed);
            for (worker, incarnation) in before {
                let after = registry.get(&worker).map(|e| e.registration.incarnation);
                prop_assert!(after.is_none_or(|after| after >= incarnation));
            }
            check_indexes(&registry)?;
        }
    }
}

fn take(registry: &mut Registry, step: Step, now: Timestamp) -> Vec<Change> {
    let id = |worker: u8| format!("w{worker}");
    match step {
        Step::Register { worker: w, incarnation, address, types } => {
            let names: BTreeSet<String> = types.iter().map(|t| format!("t{t}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let address = format!("host:{address}");
            let registration = worker(&id(w), incarnation).at(&address).serving(&names).build();
            registry.register(registration, now).unwrap_or_default()
        }
        Step::Heartbeat { worker, incarnation } => {
            let known = registry.get(&id(worker)).map(|e| e.registration.incarnation);
            let taken = registry.heartbeat(&id(worker), incarnation, now).is_ok();
            assert_eq!(taken, known == Some(incarnation));
            Vec::new()
        }
        Step::Deregister { worker, incarnation } => registry.deregister(&id(worker), incarnation),
        Step::Probed { worker, incarnation, answered } => {
            registry.probed(&id(worker), incarnation, answered).into_iter().collect()
        }
        Step::Sweep => {
            let changes = registry.sweep(now);
            assert!(registry.next_end().is_none_or(|end| end > now));
            changes
        }
        Step::Postpone => {
            registry.postpone(Duration::from_secs(2));
            Vec::new()
        }
    }
}

fn check_indexes(registry: &Registry) -> Result<(), TestCaseError> {
    let mut addresses = BTreeMap::new();
    let mut types: BTreeMap<TypeName, BTreeSet<Arc<str>>> = BTreeMap::new();
    let mut ends = BTreeSet::new();
    let mut bytes = 0;
    for (worker, entry) in &registry.entries {
        let registration = &entry.endpoint.registration;
        prop_assert_eq!(worker, &registration.worker);
        addresses.insert(Arc::clone(&registration.address), Arc::clone(worker));
        for task_type in &registration.types {
            types.entry(task_type.name.clone()).or_default().insert(Arc::clone(worker));
        }
        ends.insert((entry.ends, Arc::clone(worker)));
        bytes += registration.bytes();
    }
    prop_assert_eq!(addresses.len(), registry.entries.len(), "an address belongs to one");
    prop_assert_eq!(&addresses, &registry.addresses);
    prop_assert_eq!(&types, &registry.types);
    prop_assert_eq!(&ends, &registry.ends);
    prop_assert_eq!(bytes, registry.bytes);
    Ok(())
}

fn at(ms: u64) -> Timestamp {
    Timestamp(ms)
}

fn endpoint(registry: &Registry, worker: &str) -> Endpoint {
    registry.get(worker).unwrap().clone()
}

fn found(registry: &Registry, name: &str) -> Vec<String> {
    let name = name.parse().unwrap();
    registry.lookup(&name).map(|e| e.registration.worker.as_ref().to_owned()).collect()
}

/// A worker that serves `hash` at an address of its own, unless said otherwise.
struct Worker(Registration);

fn worker(id: &str, incarnation: u64) -> Worker {
    Worker(Registration {
        worker: id.into(),
        incarnation,
        address: format!("{id}:50062").into(),
        types: Vec::new(),
        slots: 1,
        version: String::new(),
    })
    .serving(&["hash"])
}

impl Worker {
    fn at(mut self, address: &str) -> Self {
        self.0.address = address.into();
        self
    }

    fn serving(mut self, names: &[&str]) -> Self {
        let bytes =
            |name: &&str| TaskType { name: name.parse().unwrap(), payload: PayloadKind::Bytes };
        self.0.types = names.iter().map(bytes).collect();
        self
    }

    fn build(self) -> Registration {
        self.0
    }
}

use super::*;

const TTL: Duration = Duration::from_secs(15);
const OLD: Duration = Duration::from_secs(3600);

#[test]
fn the_view_of_a_nameservice_that_has_been_up_for_a_ttl_is_complete() {
    let mut directory = Directory::new(1);
    assert_eq!(directory.view(), View::default());
    directory.snapshot(0, [worker("a", 1), worker("b", 1)], OLD, TTL, at(0));
    assert_eq!(seen(&directory), ["a.1", "b.1"]);
    assert!(directory.view().complete);
    directory.put(0, worker("c", 1));
    directory.removed(0, "a");
    assert_eq!(seen(&directory), ["b.1", "c.1"]);
    directory.snapshot(0, [worker("b", 1)], OLD, TTL, at(1));
    assert_eq!(seen(&directory), ["b.1"]);
    assert_eq!(directory.next_due(), None);
}

#[test]
fn a_fresh_nameservice_adds_but_removes_nobody_until_it_has_been_up_for_a_ttl() {
    let mut directory = Directory::new(1);
    directory.snapshot(0, [worker("a", 1), worker("b", 1), worker("c", 1)], OLD, TTL, at(0));
    directory.lost(0);
    assert_eq!(seen(&directory), ["a.1", "b.1", "c.1"], "kept while it is away");

    directory.snapshot(0, [worker("d", 1)], Duration::from_secs(5), TTL, at(100_000));
    assert_eq!(seen(&directory), ["a.1", "b.1", "c.1", "d.1"]);
    assert_eq!(directory.next_due(), Some(at(110_000)));
    directory.put(0, worker("a", 1));
    directory.put(0, worker("b", 1));
    directory.removed(0, "b");
    assert_eq!(seen(&directory), ["a.1", "c.1", "d.1"], "b registered, and then left");
    directory.tick(at(109_999));
    assert_eq!(seen(&directory), ["a.1", "c.1", "d.1"]);
    directory.tick(at(110_000));
    assert_eq!(seen(&directory), ["a.1", "d.1"], "c did not come back");
    assert_eq!(directory.next_due(), None);
}

#[test]
fn the_first_view_of_a_fresh_nameservice_is_complete_one_ttl_after_its_start() {
    let mut directory = Directory::new(1);
    directory.snapshot(0, [], Duration::ZERO, TTL, at(0));
    directory.put(0, worker("a", 1));
    assert!(!directory.view().complete);
    directory.tick(at(15_000));
    assert!(directory.view().complete);
    assert_eq!(seen(&directory), ["a.1"]);
}

#[test]
fn time_alone_does_not_complete_the_view_of_a_nameservice_that_went_away() {
    let mut directory = Directory::new(1);
    directory.snapshot(0, [worker("a", 1)], Duration::ZERO, TTL, at(0));
    directory.lost(0);
    assert_eq!(directory.next_due(), None);
    directory.tick(at(1_000_000));
    assert!(!directory.view().complete);
    assert_eq!(seen(&directory), ["a.1"]);
}

#[test]
fn a_nameservice_that_starts_twice_in_a_ttl_takes_nobody_away() {
    let mut directory = Directory::new(1);
    directory.snapshot(0, [worker("a", 1)], OLD, TTL, at(0));
    directory.lost(0);
    directory.snapshot(0, [], Duration::ZERO, TTL, at(10_000));
    directory.lost(0);
    directory.snapshot(0, [], Duration::ZERO, TTL, at(20_000));
    directory.tick(at(25_000));
    assert_eq!(seen(&directory), ["a.1"]);
    directory.tick(at(35_000));
    assert_eq!(seen(&directory), [""; 0]);
    assert!(directory.view().complete, "once complete, always complete");
}

#[test]
fn of_several_nameservices_the_newest_incarnation_and_the_best_health_count() {
    let mut directory = Directory::new(2);
    let with = |incarnation, health| Endpoint { health, ..worker("a", incarnation) };
    directory.snapshot(0, [with(2, Health::Unhealthy)], OLD, TTL, at(0));
    directory.snapshot(1, [with(1, Health::Healthy)], OLD, TTL, at(0));
    let health = |directory: &Directory| directory.view().endpoints["a"].health;
    assert_eq!(seen(&directory), ["a.2"]);
    assert_eq!(health(&directory), Health::Unhealthy);
    directory.put(1, with(2, Health::Healthy));
    assert_eq!(health(&directory), Health::Healthy);
    directory.removed(1, "a");
    assert_eq!(health(&directory), Health::Unhealthy);
    directory.removed(0, "a");
    assert_eq!(seen(&directory), [""; 0]);
}

#[test]
fn a_second_nameservice_that_is_fresh_hides_nobody() {
    let mut directory = Directory::new(2);
    directory.snapshot(0, [worker("a", 1)], OLD, TTL, at(0));
    directory.snapshot(1, [], Duration::ZERO, TTL, at(0));
    directory.tick(at(15_000));
    assert_eq!(seen(&directory), ["a.1"]);
}

#[test]
fn what_an_unknown_source_tells_changes_nothing() {
    let mut directory = Directory::new(1);
    directory.snapshot(1, [worker("a", 1)], OLD, TTL, at(0));
    directory.put(1, worker("a", 1));
    directory.removed(1, "a");
    directory.lost(1);
    assert_eq!(directory.view(), View::default());
}

#[test]
fn remembered_workers_stay_until_a_whole_view_leaves_them_out() {
    let mut directory = remembering(2, ["a:1", "b:1"]);
    assert_eq!(remembered(&directory), ["a a:1", "b b:1"]);
    directory.lost(0);
    directory.tick(at(1_000_000));
    assert_eq!(remembered(&directory), ["a a:1", "b b:1"], "nobody tells anything");
    directory.snapshot(0, [worker("a", 1)], Duration::ZERO, TTL, at(1_000_000));
    assert_eq!(remembered(&directory), ["b b:1"], "a is known better");
    directory.removed(0, "a");
    assert_eq!(remembered(&directory), ["b b:1"], "a has left");
    directory.tick(at(1_014_999));
    assert_eq!(remembered(&directory), ["b b:1"]);
    directory.tick(at(1_015_000));
    assert_eq!(remembered(&directory), [""; 0]);
    assert_eq!(seen(&directory), [""; 0]);
    assert_eq!(directory.next_due(), None);
}

#[test]
fn who_lost_its_registration_just_at_the_start_is_remembered_for_a_while() {
    let mut directory = remembering(1, ["a:1", "b:1"]);
    directory.snapshot(0, [worker("b", 1)], OLD, TTL, at(10));
    assert!(directory.view().complete);
    assert_eq!(remembered(&directory), ["a a:1"]);
    assert_eq!(directory.next_due(), Some(at(2_000)));
    directory.tick(at(1_999));
    assert_eq!(remembered(&directory), ["a a:1"]);
    directory.tick(at(2_000));
    assert_eq!(remembered(&directory), [""; 0]);
    assert_eq!(directory.next_due(), None);
}

#[test]
fn a_registration_outranks_what_is_remembered_of_its_name_and_of_its_address() {
    // One has moved, and where the other one was there is a third.
    let mut directory = remembering(1, ["old:1", "c:1"]);
    directory.snapshot(0, [worker("a", 2), worker("c", 1)], Duration::ZERO, TTL, at(0));
    assert_eq!(seen(&directory), ["a.2", "c.1"]);
    assert_eq!(remembered(&directory), [""; 0]);
}

/// With what is remembered of `a` and `b`, for two seconds at least.
fn remembering(sources: usize, addresses: [&str; 2]) -> Directory {
    let mut directory = Directory::new(sources);
    let workers = ["a", "b"].map(Arc::from).into_iter().zip(addresses.map(Arc::from));
    directory.remember(workers.collect(), at(2_000));
    directory
}

fn remembered(directory: &Directory) -> Vec<String> {
    let view = directory.view();
    view.remembered.iter().map(|(worker, address)| format!("{worker} {address}")).collect()
}

fn at(ms: u64) -> Timestamp {
    Timestamp(ms)
}

fn seen(directory: &Directory) -> Vec<String> {
    let view = directory.view();
    let name = |(worker, endpoint): (&Arc<str>, &Endpoint)| {
        format!("{worker}.{}", endpoint.registration.incarnation)
    };
    view.endpoints.iter().map(name).collect()
}

fn worker(id: &str, incarnation: u64) -> Endpoint {
    let registration = Registration {
        worker: id.into(),
        incarnation,
        address: format!("{id}:1").into(),
        types: Vec::new(),
        slots: 1,
        version: String::new(),
    };
    Endpoint { registration: Arc::new(registration), health: Health::Unknown }
}

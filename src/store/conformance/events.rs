//! Tasks and task events: stored once, read back by ids and by places.

use super::assert_refused_whole;
use super::engines::Engine;
use super::samples::{changed, group, returned, submitted};
use crate::core::id::{Seq, TaskId};
use crate::core::task::Change;

/// Around the sizes where bytes leave their row, and where they leave a page.
const SIZES: [usize; 7] = [0, 1, 255, 256, 257, 4_096, 1_000_000];

pub(super) fn payloads_and_results_of_any_size_come_back(engine: &impl Engine) {
    let store = engine.open();
    let bytes = |size: usize| -> Vec<u8> { (0..=250).cycle().take(size).collect() };
    for (number, size) in (1..).zip(SIZES) {
        let entries = [
            submitted(number, &bytes(size)),
            changed(number, number, None, Change::Completed).with(&bytes(size)),
        ];
        store.append(&group(entries)).unwrap();
    }
    let store = engine.crash(store);
    for (number, size) in (1..).zip(SIZES) {
        let task = store.tasks(&[TaskId(number)]).unwrap().remove(0).unwrap();
        assert_eq!((task.id, task.payload.len()), (TaskId(number), size));
        assert_eq!(task.payload, bytes(size));
        let event = store.events(&[Seq(number)]).unwrap().remove(0).unwrap();
        assert_eq!((event.event.seq, event.result.len()), (Seq(number), size));
        assert_eq!(event.result, bytes(size));
    }
}

pub(super) fn what_is_asked_for_comes_in_the_order_asked(engine: &impl Engine) {
    let store = engine.open();
    let entries = (1..=3).flat_map(|number| {
        [submitted(number, b"p"), changed(number, number, None, Change::Completed)]
    });
    store.append(&group(entries)).unwrap();
    let ids = [3, 9, 1, 3].map(TaskId);
    let found = store.tasks(&ids).unwrap();
    let found: Vec<_> = found.into_iter().map(|task| task.map(|task| task.id.0)).collect();
    assert_eq!(found, [Some(3), None, Some(1), Some(3)]);
    let places = [2, 0, 3, 2].map(Seq);
    let found = store.events(&places).unwrap();
    let found: Vec<_> =
        found.into_iter().map(|event| event.map(|event| event.event.seq.0)).collect();
    assert_eq!(found, [Some(2), None, Some(3), Some(2)]);
}

pub(super) fn tasks_stop_at_a_limit_of_bytes(engine: &impl Engine) {
    let store = engine.open();
    let entries = (1..).zip([10, 300, 0, 10]).map(|(id, size)| submitted(id, &vec![b'p'; size]));
    store.append(&group(entries)).unwrap();
    let within = |ids: &[u64], bytes| -> Vec<Option<u64>> {
        let ids: Vec<TaskId> = ids.iter().copied().map(TaskId).collect();
        let found = store.tasks_within(&ids, bytes).unwrap();
        found.into_iter().map(|task| task.map(|task| task.id.0)).collect()
    };
    assert_eq!(within(&[1, 2, 3, 4], 320), [1, 2, 3, 4].map(Some));
    assert_eq!(within(&[1, 2, 3, 4], 319), [1, 2, 3].map(Some));
    assert_eq!(within(&[1, 9, 2, 3], 309), [Some(1), None], "one that is not there has none");
    assert_eq!(within(&[2, 3, 1], 20), [2].map(Some), "but the first one always comes");
    assert_eq!(within(&[3, 3, 1], 0), [3, 3].map(Some));
    assert_eq!(within(&[9, 2, 1], 0), [None]);
    assert_eq!(within(&[], 0), []);
}

pub(super) fn events_after_a_place_stop_at_either_limit(engine: &impl Engine) {
    let store = engine.open();
    let sizes = [10, 300, 10, 0, 10];
    let entries = (1..)
        .zip(sizes)
        .map(|(seq, size)| changed(seq, seq, None, Change::Completed).with(&vec![b'r'; size]));
    store.append(&group(entries)).unwrap();
    let after = |place, limit, bytes| -> Vec<u64> {
        let found = store.events_after(Seq(place), limit, bytes).unwrap();
        found.iter().map(|found| found.event.seq.0).collect()
    };
    assert_eq!(after(0, 10, 1_000), [1, 2, 3, 4, 5]);
    assert_eq!(after(2, 10, 1_000), [3, 4, 5]);
    assert_eq!(after(0, 2, 1_000), [1, 2]);
    assert_eq!(after(0, 0, 1_000), [0; 0]);
    assert_eq!(after(0, 10, 310), [1, 2]);
    assert_eq!(after(0, 10, 309), [1], "a result that exceeds the bytes waits");
    assert_eq!(after(1, 10, 20), [2], "but the first one always comes");
    assert_eq!(after(1, 10, 0), [2]);
    assert_eq!(after(5, 10, 1_000), [0; 0]);
    assert_eq!(after(u64::MAX, 10, 1_000), [0; 0]);
}

pub(super) fn an_id_is_stored_once_and_the_group_with_a_second_is_refused_whole(
    engine: &impl Engine,
) {
    let store = engine.open();
    store.append(&group([submitted(1, b"first")])).unwrap();
    assert_refused_whole(store.as_ref(), &group([submitted(2, b""), submitted(1, b"second")]));
    assert_refused_whole(store.as_ref(), &group([submitted(3, b""), submitted(3, b"")]));
    store.append(&group([submitted(2, b"")])).unwrap();
}

pub(super) fn a_place_is_stored_once_and_the_group_with_a_second_is_refused_whole(
    engine: &impl Engine,
) {
    let store = engine.open();
    store.append(&group([changed(1, 1, None, returned())])).unwrap();
    let again = changed(1, 1, None, Change::Completed).with(b"another result");
    assert_refused_whole(store.as_ref(), &group([submitted(2, b""), again]));
    assert_eq!(store.events(&[Seq(1)]).unwrap()[0].as_ref().unwrap().event.change, returned());
}

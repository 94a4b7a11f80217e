use super::turn::BRIEF;
use super::*;
use crate::core::id::Epoch;

/// With a session.
fn attached(state: &mut State) -> Attached {
    let epoch = Epoch { boot: 1, nonce: 1 };
    let dispatcher = "d".to_owned();
    state
        .attach(Caller { dispatcher, epoch, number: 1, max_result_bytes: 1 << 20 })
        .unwrap_or_else(|refused| panic!("{refused:?}"))
}

fn assign(state: &mut State, attached: &Attached, sequence: u64) {
    let task = v1::Assignment { task_id: sequence, sequence, ..v1::Assignment::default() };
    let assign = v1::Assign { session: 1, tasks: vec![task] };
    state.assign(attached.desk, attached.serial, assign);
}

#[test]
fn a_task_that_takes_a_little_longer_is_brief_while_no_other_waits() {
    let mut state = State::new(2, vec![Kind::Computing]);
    let attached = attached(&mut state);
    let mut turn_after = |sequence| {
        assign(&mut state, &attached, sequence);
        state.run_times[0].add(BRIEF + BRIEF / 2);
        state.turn()
    };
    assert_eq!(turn_after(1), Some(Turn::Brief));
    assert_eq!(turn_after(2), Some(Turn::Blocking(0)));
}

#[test]
fn large_results_are_told_in_reports_of_a_bounded_size() {
    let mut state = State::new(5, vec![Kind::Computing]);
    let attached = attached(&mut state);
    let now = Instant::now();
    for sequence in 1..=5 {
        assign(&mut state, &attached, sequence);
        let taken = state.take(Place::Session, now).unwrap();
        let result = bytes::Bytes::from(vec![0; 100 << 10]);
        assert!(state.finish(taken.lease, Answer::Returned(Ok(result)), now));
    }
    let reports = std::iter::from_fn(|| state.report(attached.desk, attached.serial));
    let outcomes = reports.map(|report| report.outcomes.len());
    // Others tell of the prefetch.
    assert_eq!(outcomes.filter(|count| *count > 0).collect::<Vec<_>>(), [2, 2, 1]);
}

use super::*;

#[test]
fn a_note_is_over_with_its_last_lease_and_is_told_once() {
    let mut notes = Notes::default();
    let (one, two) = (notes.number(), notes.number());
    for note in [one, one, two] {
        notes.open(note);
    }
    notes.close(Some(one));
    assert!(notes.take_over().is_empty());
    notes.close(Some(one));
    notes.close(Some(two));
    assert_eq!(notes.take_over(), [one, two]);
    assert!(notes.take_over().is_empty());
}

#[test]
fn a_lease_that_was_never_noted_closes_nothing() {
    let mut notes = Notes::default();
    let note = notes.number();
    notes.open(note);
    notes.close(None);
    notes.close(Some(note + 1));
    assert!(notes.take_over().is_empty());
}

#[test]
fn numbers_go_on_after_those_of_the_log() {
    let mut notes = Notes::default();
    notes.reopen(7);
    notes.reopen(3);
    assert_eq!((notes.number(), notes.number()), (8, 9));
}

#[test]
fn a_note_of_the_log_without_open_leases_is_over_at_once() {
    let mut notes = Notes::default();
    notes.reopen(1);
    notes.seal(1);
    notes.reopen(2);
    notes.open(2);
    notes.seal(2);
    assert_eq!(notes.take_over(), [1]);
    notes.close(Some(2));
    assert_eq!(notes.take_over(), [2]);
}

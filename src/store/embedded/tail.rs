//! The end of the log: commits that the database has yet to take.
//!
//! A small group is durable once the journal has it. The database takes many of them in one
//! commit: before anybody reads, when too many wait or the journal has no more room, with a
//! group that is too large for it, and at the end. So a commit that somebody waits for is one
//! write in a row, and the engine, which asks as much for a group of one task as for one of a
//! hundred, is asked less often.
//!
//! Commits have numbers that rise by ones. The database holds that of the last one it has, and
//! the journal that of each group: after a crash the two fit together by them.
//!
//! What this module does not do: it knows no format of either.

use redb::{Database, ReadableDatabase as _};

use super::journal::Journal;
use super::mark;
use super::pack_file::PackFile;
use super::rows;
use super::tables::{self, engine};
use super::writer::Writer;
use crate::core::event::Event;
use crate::core::id::Epoch;
use crate::store::record::Table;
use crate::store::record::group::Stamp;
use crate::store::{Error, Group, stored_twice};

/// Entries that wait at most, and things to forget: the database takes so many in some
/// milliseconds, and the commit after them waits for that.
const WAITING: usize = 4_000;

/// What comes after the database.
#[derive(Debug)]
pub(super) struct Tail {
    journal: Journal,
    /// What is in the journal and not in the database.
    waiting: Group,
    /// The last commit of all.
    last: Stamp,
    ends: Ends,
    /// It is not known what of a commit is durable.
    is_broken: bool,
    space: Space,
}

/// Whether the database will have space for what waits.
///
/// ```text
///  Enough ── a reader's flush finds the disk full, and uses the reserve ──▶ Untold
///  Untold ── the next group is refused as `Full` ─────────────────────────▶ Short
///  Short  ── the reserve is held again (`hear_of_room`) ──────────────────▶ Enough
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    /// It will: some is held in reserve. Groups may wait in the journal.
    Enough,
    /// The disk is full and the reserve is used up, and the committer does not know it yet.
    Untold,
    /// The disk is full, or was a moment ago: each group goes to the database at once.
    Short,
}

/// The greatest keys that were given: ids and places are given once, and in order.
#[derive(Debug, Default, Clone, Copy)]
struct Ends {
    task: Option<u64>,
    event: Option<u64>,
}

impl Tail {
    /// Nothing, until it is [recovered](Self::recover).
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            journal,
            waiting: Group::default(),
            last: Stamp { nonce: 0, number: 0 },
            ends: Ends::default(),
            is_broken: true,
            space: Space::Enough,
        }
    }

    /// Has the database take what a journal holds beyond it. The last commit is not before
    /// the one that was noted as synced.
    pub(super) fn recover(
        &mut self,
        database: &Database,
        packs: &PackFile,
        synced: Option<u64>,
    ) -> Result<(), Error> {
        let held = mark::last(database)?;
        let (waiting, number) = self.journal.read(held)?;
        mark::check(number, synced)?;
        self.ends = Ends::read(database)?.after(&waiting)?;
        self.last = Stamp { number, ..held };
        self.waiting = waiting;
        self.is_broken = false;
        self.flush(database, packs)
    }

    /// Has the next read of the journal look at the disk.
    pub(super) fn distrust_the_page_cache(&self) -> Result<(), Error> {
        self.journal.distrust_the_page_cache()
    }

    /// Whether the database lacks what was committed.
    pub(super) fn lags(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hears whether space is held in reserve.
    pub(super) fn hear_of_room(&mut self, has_room: bool) {
        self.space = if has_room { Space::Enough } else { Space::Short };
    }

    /// Has the next group told that the disk is full, which somebody found who read.
    pub(super) fn tell_that_it_is_full(&mut self) {
        self.space = Space::Untold;
    }

    /// Makes a group durable. Its number.
    pub(super) fn append(
        &mut self,
        database: &Database,
        packs: &PackFile,
        group: &Group,
    ) -> Result<u64, Error> {
        self.must_be_whole()?;
        if self.space == Space::Untold {
            self.space = Space::Short;
            return Err(Error::Full);
        }
        if !self.append_to_journal(group)? {
            let ends = self.ends.after(group)?;
            let last = self.last.next();
            self.commit(database, packs, last, |writer| writer.write(group))?;
            self.ends = ends;
        }
        Ok(self.last.number)
    }

    /// Makes a group durable in the journal, if it is one for it; whether it was.
    pub(super) fn append_to_journal(&mut self, group: &Group) -> Result<bool, Error> {
        self.must_be_whole()?;
        let waiting = self.waiting.length() + group.length();
        if waiting > WAITING || self.space != Space::Enough {
            return Ok(false);
        }
        let ends = self.ends.after(group)?;
        let last = self.last.next();
        self.is_broken = true;
        let is_journaled = self.journal.append(last, group)?;
        self.is_broken = false;
        if is_journaled {
            self.waiting.extend(group.clone());
            self.last = last;
            self.ends = ends;
        }
        Ok(is_journaled)
    }

    /// Begins a boot. All epochs, and the number of the commit.
    pub(super) fn take_epoch(
        &mut self,
        database: &Database,
        packs: &PackFile,
        nonce: u64,
    ) -> Result<(Vec<Epoch>, u64), Error> {
        self.must_be_whole()?;
        let last = Stamp { nonce, ..self.last.next() };
        let epochs = self.commit(database, packs, last, |writer| writer.take_epoch(nonce))?;
        Ok((epochs, last.number))
    }

    /// Has the database take what waits.
    pub(super) fn flush(&mut self, database: &Database, packs: &PackFile) -> Result<(), Error> {
        if !self.lags() {
            return Ok(());
        }
        self.must_be_whole()?;
        self.commit(database, packs, self.last, |_| Ok(()))
    }

    /// One commit of the database: what waits, and then what `write` writes.
    fn commit<T>(
        &mut self,
        database: &Database,
        packs: &PackFile,
        last: Stamp,
        write: impl FnOnce(Writer<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.is_broken = true;
        let transaction = database.begin_write().map_err(engine)?;
        if self.lags() {
            Writer::new(&transaction, Some(packs)).write(&self.waiting)?;
        }
        let written = write(Writer::new(&transaction, Some(packs)))?;
        mark::put(&transaction, last.number)?;
        packs.sync()?;
        transaction.commit().map_err(engine)?;
        packs.committed()?;
        self.is_broken = false;
        self.waiting = Group::default();
        self.journal.restart();
        self.last = last;
        Ok(written)
    }

    /// Refuses to go on after a failure. Where the disk was full, and nothing else, the store
    /// tells of that instead ([`Embedded::explained`](super::Embedded)), and is opened anew.
    fn must_be_whole(&self) -> Result<(), Error> {
        let what = "an earlier commit failed";
        if self.is_broken { Err(Error::Failed { what: what.to_owned() }) } else { Ok(()) }
    }
}

impl Ends {
    /// Those in the database.
    fn read(database: &Database) -> Result<Self, Error> {
        let transaction = database.begin_read().map_err(engine)?;
        let last = |table| {
            let rows = transaction.open_table(tables::definition::<u64>(table)).map_err(engine)?;
            rows::last(table, &rows)
        };
        Ok(Self { task: last(Table::Tasks)?, event: last(Table::Events)? })
    }

    /// Those after a group, whose keys must come after these.
    fn after(mut self, group: &Group) -> Result<Self, Error> {
        for entry in &group.entries {
            match &entry.event {
                Event::Submitted { id, .. } => raise(&mut self.task, id.0, "task")?,
                Event::Changed(event) => raise(&mut self.event, event.seq.0, "event")?,
                _ => {}
            }
        }
        Ok(self)
    }
}

fn raise(end: &mut Option<u64>, key: u64, noun: &str) -> Result<(), Error> {
    if end.is_some_and(|end| key <= end) {
        return Err(stored_twice(noun, key));
    }
    *end = Some(key);
    Ok(())
}

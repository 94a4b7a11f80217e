//! `damage`: a recorded store of which bits are flipped and ends are cut off, at rest and
//! while it is open. It is refused, or all of it is read as it was written.
//!
//! Everything in it was synced, so that no prefix but the whole is right. No grid takes
//! part: a dispatcher has nothing between the store and its answers that could help.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use taskgrid::store::{self, Durability, Embedded, Error, Store as _};
use tempfile::TempDir;

use super::campaign::{Ran, Report, Run};
use super::dice::Dice;
use super::recorded::{Contents, Recorded, another_group, read};

/// The tail that is cut, a byte at a time.
const TAIL: usize = 64 << 10;
/// The files in which bits are flipped: the database, and the journal and the packs beside it.
const FILES: [&str; 3] = ["taskgrid.redb", "JOURNAL", "PACKS"];
/// Of a thousand flips, those in the journal, and of the others, those in the packs.
const IN_JOURNAL: u64 = 200;
const IN_PACKS: u64 = 250;

/// Runs it.
pub(crate) fn run(run: &Run) -> Ran {
    // The engine is let panic, as far as nobody hears of it.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let done = catch_unwind(AssertUnwindSafe(|| all(run)));
    std::panic::set_hook(hook);
    match done {
        Ok(report) => Ran::Done(report),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn all(run: &Run) -> Report {
    let mut report = Report::default();
    for recorded in [Recorded::closed(run.seed), Recorded::killed(run.seed)] {
        let mut part = Report::default();
        let mut bench = Bench::new(&recorded);
        part.figure("file_bytes", recorded.file.len());
        part.figure("records", recorded.contents.records());
        part.part("flips_at_rest", flips_at_rest(run, &mut bench));
        part.part("flips_while_open", flips_while_open(run, &mut bench));
        part.part("cuts", cuts(run, &mut bench));
        part.part("cuts_while_open", cuts_while_open(run, &mut bench));
        report.part(recorded.name, part);
    }
    report
}

/// One bit at a time, somewhere in the file, before it is opened.
fn flips_at_rest(run: &Run, bench: &mut Bench<'_>) -> Report {
    let mut dice = Dice::new(run.seed);
    let mut tally = Tally::default();
    let flips = run.many(300, 10_000);
    for _ in 0..flips {
        let bit = bench.some_bit(&mut dice);
        bench.flip(bit);
        let verified = bench.verify();
        let found = bench.open().and_then(|store| guarded(|| read(&store)));
        tally.agrees(verified, &found, &bit);
        tally.judge(&bit.to_string(), found, &bench.recorded.contents);
        bench.restore();
    }
    tally.report("flips", flips, flips / 4)
}

/// The same under an open store, of which everything is read then, and to which is
/// appended.
fn flips_while_open(run: &Run, bench: &mut Bench<'_>) -> Report {
    let mut dice = Dice::new(run.seed + 1);
    let mut tally = Tally::default();
    let flips = run.many(200, 10_000);
    for _ in 0..flips {
        let bit = bench.some_bit(&mut dice);
        bench.while_open(&bit.to_string(), &mut tally, |bench| bench.flip(bit));
    }
    tally.report("flips", flips, flips / 10)
}

/// Its end goes away under an open store.
fn cuts_while_open(run: &Run, bench: &mut Bench<'_>) -> Report {
    let mut dice = Dice::new(run.seed + 2);
    let mut tally = Tally::default();
    let cuts = run.many(100, 2_000);
    let used = bench.used();
    for _ in 0..cuts {
        // What is last may have been written for a commit that is over, and be read by none.
        let tail = if dice.chance(500) { TAIL.min(used - 1) } else { used - 1 };
        let length = used - 1 - dice.place(tail);
        bench.while_open(&format!("{length} bytes"), &mut tally, |bench| bench.cut(length));
    }
    tally.report("cuts", cuts, cuts / 10)
}

/// The file ends earlier, by each number of bytes.
fn cuts(run: &Run, bench: &mut Bench<'_>) -> Report {
    let (whole, used) = (&bench.recorded.file, bench.used());
    let mut lengths: Vec<usize> = (1..=TAIL).map(|cut| whole.len() - cut).collect();
    // Where the file ends with room for more, the tail of what is in it, too.
    lengths.extend((1..=TAIL).map(|cut| used - cut));
    lengths.sort_unstable();
    lengths.dedup();
    let all = lengths.len();
    let wanted = usize::try_from(run.many(200, 2 * 65_536)).unwrap().min(all);
    let mut tally = Tally::default();
    for place in 0..wanted {
        let length = lengths[place * all / wanted];
        bench.cut(length);
        let verified = (place % 16 == 0).then(|| bench.verify());
        let found = bench.open().and_then(|store| guarded(|| read(&store)));
        if let Some(verified) = verified {
            tally.agrees(verified, &found, &format_args!("{length} bytes"));
        }
        tally.judge(&format!("{length} bytes"), found, &bench.recorded.contents);
        bench.restore();
    }
    let wanted = u64::try_from(wanted).unwrap();
    tally.report("cuts", wanted, wanted / 4)
}

/// A bit of one of the files.
#[derive(Debug, Clone, Copy)]
struct Bit {
    /// Which of [`FILES`].
    file: usize,
    bit: usize,
}

impl std::fmt::Display for Bit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bit {} of {}", self.bit, FILES[self.file])
    }
}

/// A directory in which the recorded store is damaged, and mended again.
struct Bench<'a> {
    recorded: &'a Recorded,
    dir: TempDir,
    /// The files under the store, which the store has open, too.
    files: [File; 3],
}

impl<'a> Bench<'a> {
    fn new(recorded: &'a Recorded) -> Self {
        // In memory, where there is such a place: each turn writes the whole file.
        let in_memory = Path::new("/dev/shm");
        let dir =
            if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() };
        let dir = dir.expect("a directory can be made");
        let files = FILES.map(|name| {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(true);
            options.open(dir.path().join(name)).expect("a file can be made")
        });
        let bench = Self { recorded, dir, files };
        bench.restore();
        bench
    }

    /// Everything as it was recorded.
    fn restore(&self) {
        for (file, whole) in self.files.iter().zip(self.recorded()) {
            file.set_len(u64::try_from(whole.len()).unwrap()).expect("it has a length");
            file.write_all_at(whole, 0).expect("it is written");
        }
        std::fs::write(self.dir.path().join("LOCK"), &self.recorded.lock).expect("it is written");
    }

    /// What was recorded of each file.
    fn recorded(&self) -> [&'a [u8]; 3] {
        [&self.recorded.file, &self.recorded.journal, &self.recorded.packs]
    }

    /// A bit of a page that is not empty: three quarters of most files are.
    fn some_bit(&self, dice: &mut Dice) -> Bit {
        let file = if dice.chance(IN_JOURNAL) { 1 } else { 2 * usize::from(dice.chance(IN_PACKS)) };
        let bytes = self.recorded()[file];
        loop {
            let bit = dice.place(bytes.len() * 8);
            let page = bit / 8 / 4_096 * 4_096;
            if dice.chance(100) || bytes[page..][..4_096].iter().any(|byte| *byte != 0) {
                return Bit { file, bit };
            }
        }
    }

    fn flip(&self, Bit { file, bit }: Bit) {
        let (file, recorded) = (&self.files[file], self.recorded()[file]);
        let flipped = recorded[bit / 8] ^ (1 << (bit % 8));
        let place = u64::try_from(bit / 8).unwrap();
        // An open store may have given the end of its file back, and written since.
        if place >= file.metadata().expect("it has a length").len() {
            return;
        }
        let mut there = [0];
        file.read_exact_at(&mut there, place).expect("it is read");
        let is_as_recorded = there[0] == recorded[bit / 8];
        let flipped = if is_as_recorded { flipped } else { there[0] ^ (1 << (bit % 8)) };
        file.write_all_at(&[flipped], place).expect("it is written");
    }

    fn cut(&self, length: usize) {
        self.files[0].set_len(u64::try_from(length).unwrap()).expect("it has a length");
    }

    /// Where what is in the file ends: there may be room for more behind it.
    fn used(&self) -> usize {
        let last = self.recorded.file.iter().rposition(|byte| *byte != 0);
        last.expect("there is something in it") + 1
    }

    /// Opens the store, does harm to it, reads everything, appends, and reads it again.
    fn while_open(&self, what: &str, tally: &mut Tally, harm: impl FnOnce(&Self)) {
        let mut more = self.recorded.contents.clone();
        let group = another_group(&mut more);
        let store = self.open().expect("it is whole");
        harm(self);
        let found = guarded(|| read(&store));
        let was_read = found.is_ok();
        tally.judge(&format!("{what}, read"), found, &self.recorded.contents);
        if was_read {
            let appended = guarded(|| store.append(&group));
            let found = appended.and_then(|()| guarded(|| read(&store)));
            tally.judge(&format!("{what}, read after an append"), found, &more);
        }
        // What a store holds that was refused is told by the next start.
        let closed = guarded(|| {
            drop(store);
            Ok(())
        });
        if closed.is_err() {
            tally.wrong(format!("{what}: a panic at the close"));
        }
        self.restore();
    }

    fn open(&self) -> Result<Embedded, Fate> {
        guarded(|| Embedded::open(self.dir.path(), Durability::Sync))
    }

    /// Whether it is found sound.
    fn verify(&self) -> Result<bool, Fate> {
        guarded(|| match store::verify(self.dir.path()) {
            Err(Error::Format { .. }) => Ok(false),
            report => report.map(|report| report.is_sound()),
        })
    }
}

/// Why there is nothing to compare.
#[derive(Debug)]
enum Fate {
    Refused(Error),
    Panicked,
}

fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Fate> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(Fate::Refused),
        Err(_) => Err(Fate::Panicked),
    }
}

/// What became of the damages.
#[derive(Default)]
struct Tally {
    unharmed: u64,
    refused: u64,
    panics: u64,
    silent: u64,
    unclear: u64,
    complaints: Vec<String>,
}

impl Tally {
    fn judge(&mut self, what: &str, found: Result<Contents, Fate>, expected: &Contents) {
        match found {
            Ok(found) if found == *expected => self.unharmed += 1,
            Ok(found) => {
                self.silent += 1;
                self.wrong(format!("{what}: nothing was said, but {}", found.differs(expected)));
            }
            Err(Fate::Refused(Error::Damaged { .. } | Error::Format { .. })) => self.refused += 1,
            Err(Fate::Refused(other)) => {
                self.unclear += 1;
                self.wrong(format!("{what}: refused, but for another reason: {other}"));
            }
            Err(Fate::Panicked) => {
                self.panics += 1;
                self.wrong(format!("{what}: a panic"));
            }
        }
    }

    /// Whoever verifies a store is told what its dispatcher will find.
    fn agrees(
        &mut self,
        verified: Result<bool, Fate>,
        found: &Result<Contents, Fate>,
        place: &dyn std::fmt::Display,
    ) {
        let says = match verified {
            Ok(is_sound) => is_sound,
            Err(Fate::Refused(error)) => {
                return self.wrong(format!("{place}: not verified: {error}"));
            }
            Err(Fate::Panicked) => return self.wrong(format!("{place}: verifying panicked")),
        };
        if says != found.is_ok() {
            self.wrong(format!("{place}: sound: {says}, but opened: {}", found.is_ok()));
        }
    }

    fn wrong(&mut self, what: String) {
        self.complaints.push(what);
    }

    fn report(self, noun: &str, count: u64, floor: u64) -> Report {
        let mut report = Report::default();
        report.figure(noun, count);
        report.at_least("refused", self.refused, floor);
        report.figure("unharmed", self.unharmed);
        report.exactly("panics", self.panics, 0);
        report.exactly("silently_wrong", self.silent, 0);
        report.exactly("unclear", self.unclear, 0);
        let shown = self.complaints.into_iter().take(10).collect();
        report.complain_of(shown);
        report
    }
}

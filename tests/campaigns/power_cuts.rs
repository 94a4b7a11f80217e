//! `power-cuts`: the dispatcher's data is on a file system that goes away under load,
//! without a flush; what was on the disk is mounted again, and the dispatcher started.
//!
//! The dispatcher is stopped just before each cut. The kernel lets a sync that is under way
//! when the file system goes away succeed although its journal entry is dropped, as no disk
//! would: a dispatcher that goes on would acknowledge it. What it does about syncs that fail
//! is for `disks` to find out.
//!
//! That bytes were lost is measured: before each cut a file is written and not synced, and
//! after it none of its bytes may be there.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::campaign::{Ran, Report, Run};
use super::mount::{self, Mount};
use super::plan::Plan;
use super::process::PATIENCE;
use super::site::{Site, progress};
use super::waits::within;

const WORKERS: u64 = 2;
/// Long enough that a busy machine loses no lease by itself.
const FLAGS: [&str; 2] = ["--lease", "3s"];
/// Bytes that are written and not synced before each cut.
const UNSYNCED: usize = 64 << 10;

/// Runs it.
pub(crate) fn run(run: &Run) -> Ran {
    let mount = match Mount::ext4() {
        Ok(mount) => mount,
        Err(error) => return Ran::NotRun(format!("{}: {error}", mount::WANTED)),
    };
    let mut report = Report::default();
    let (cuts, mut dice) = (run.many(5, 500), run.dice());
    let mut site = Site::start_in(&mount.path().join("data"), &FLAGS);
    site.add_workers(WORKERS);
    // Of the file of packs, too, the last writes are to be lost.
    let mut load = site.load(Plan { large: 300, ..Plan::default() }, dice.roll());
    let (mut dropped, mut in_flight, mut refused) = (0, 0, 0);
    let mut slowest = Duration::ZERO;
    for cut in 0..cuts {
        // Some before the first end of a boot.
        let ends = if cut % 5 == 4 { 0 } else { dice.between(1, 600) };
        if let Err(stuck) = progress(&load, load.ended(), ends) {
            report.complain(stuck);
            break;
        }
        let unsynced = mount.path().join(format!("unsynced-{cut}"));
        std::fs::write(&unsynced, vec![0x5a; UNSYNCED]).expect("there is space");
        in_flight += u64::from(load.is_in_flight());
        let cutter = mount.cutter().expect("the power can be cut");
        site.stop_dispatcher();
        cutter.cut().expect("the power can be cut");
        site.kill_dispatcher();
        mount.mount_again().expect("what was on the disk can be mounted");
        let left = std::fs::read(&unsynced).unwrap_or_default();
        dropped += u64::from(left.iter().all(|byte| *byte != 0x5a));
        std::fs::remove_file(&unsynced).ok();
        let began = Instant::now();
        site.start_dispatcher();
        if let Err(told) = site.dispatcher_is_up() {
            refused += 1;
            report.complain(format!("cut {cut}: the start was refused: {told}"));
            break;
        }
        slowest = slowest.max(began.elapsed());
    }
    if refused == 0 {
        site.settle(&mut load, &mut report);
    }
    report.figure("cuts", cuts);
    report.at_least("cuts_that_dropped_bytes", dropped, cuts * 9 / 10);
    report.at_least("cuts_in_flight", in_flight, cuts * 9 / 10);
    report.exactly("refused_starts", refused, 0);
    report.figure("slowest_start_ms", u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX));
    drop(load);
    site.check(&mut report, false);
    Ran::Done(report)
}

impl Site {
    /// Stops the dispatcher where it is: the thread that answers says nothing from then on.
    /// One that is in a system call stops when that is over.
    fn stop_dispatcher(&self) {
        let dispatcher = &self.grid.dispatcher;
        dispatcher.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", dispatcher.id());
        let stopped = within(PATIENCE, || {
            let stat = std::fs::read_to_string(&stat).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')).then_some(())
        });
        stopped.expect("a process can be stopped");
    }

    /// Waits until the dispatcher that was started listens; what it said if it ends.
    pub(crate) fn dispatcher_is_up(&mut self) -> Result<(), String> {
        let up = within(PATIENCE, || {
            let listens =
                self.grid.dispatcher.told(|text| Some(text.contains("listening address=")));
            (listens || self.grid.dispatcher.ended().is_some()).then_some(listens)
        });
        match up {
            Some(true) => Ok(()),
            Some(false) | None => Err(self.grid.dispatcher.told(|text| Some(text.to_owned()))),
        }
    }
}

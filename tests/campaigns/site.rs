//! Where a campaign takes place: a grid of processes, workers of the campaign's own, and
//! the history of all of them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::campaign::Report;
use super::checker::{self, History};
use super::grid::Grid;
use super::history::{Fact, Recorder};
use super::load::Load;
use super::plan::Plan;
use super::process::{PATIENCE, Process};
use super::waits::within;
use super::work;
use super::worker;

/// A grid with a history.
pub(crate) struct Site {
    pub(crate) grid: Grid,
    pub(crate) recorder: Recorder,
    /// The history, and what else a campaign writes; kept where something is wrong.
    dir: TempDir,
    workers: u64,
}

impl Site {
    /// A nameservice, and a dispatcher with these further flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::around(Grid::start(flags))
    }

    /// The same, with the dispatcher's data in a directory that outlives it.
    pub(crate) fn start_in(data: &Path, flags: &[&str]) -> Self {
        Self::around(Grid::start_in(data.to_owned(), flags))
    }

    /// The same, with a nameservice that is there.
    pub(crate) fn start_around(nameservice: SocketAddr, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let grid = Grid::around(nameservice, dir.path().join("data"), flags);
        Self::with_history(grid, dir)
    }

    fn around(grid: Grid) -> Self {
        Self::with_history(grid, tempfile::tempdir().expect("a directory can be made"))
    }

    fn with_history(grid: Grid, dir: TempDir) -> Self {
        let recorder = Recorder::append_to(&dir.path().join("history.jsonl"));
        let recorder = recorder.expect("a history can be written");
        Self { grid, recorder, dir, workers: 0 }
    }

    /// The same, with workers that are ready.
    pub(crate) fn with_workers(flags: &[&str], workers: u64) -> Self {
        let mut site = Self::start(flags);
        site.add_workers(workers);
        site
    }

    /// Adds workers, and waits until they are ready.
    pub(crate) fn add_workers(&mut self, workers: u64) {
        for _ in 0..workers {
            let worker = self.worker_options().start();
            self.grid.workers.push(worker);
        }
        self.grid.wait_for_workers(work::TYPE, self.workers);
    }

    /// What starts another worker, under a name that none had.
    pub(crate) fn worker_options(&mut self) -> worker::Options {
        self.workers += 1;
        let name = format!("w{}", self.workers);
        worker::Options::new(self.grid.nameservice_addr, &self.recorder.path(), &name)
    }

    /// Begins a load on it.
    pub(crate) fn load(&self, plan: Plan, seed: u64) -> Load {
        Load::start(&self.grid.dispatcher_addr.to_string(), &self.recorder, plan, seed)
    }

    /// Kills the dispatcher, if it is not gone yet.
    pub(crate) fn kill_dispatcher(&mut self) {
        self.grid.dispatcher.kill();
        self.dispatcher_is_gone();
    }

    /// Writes down that it was killed, after it was.
    pub(crate) fn dispatcher_is_gone(&self) {
        self.recorder.write(Fact::DispatcherLost);
    }

    /// Starts the dispatcher as it was, and does not wait for it.
    pub(crate) fn start_dispatcher(&mut self) {
        self.grid.dispatcher = Process::spawn(self.grid.dispatcher_again(), b"");
    }

    /// Ends the load: waits for the ends of all tasks, reads them, kills the dispatcher once
    /// more, and reads them again from the disk.
    pub(crate) fn settle(&mut self, load: &mut Load, report: &mut Report) {
        drain(load, report);
        self.reread(load);
    }

    /// Kills the dispatcher, starts it again, and reads all tasks.
    pub(crate) fn reread(&mut self, load: &Load) {
        self.kill_dispatcher();
        self.start_dispatcher();
        assert_eq!(self.grid.dispatcher.addr(), self.grid.dispatcher_addr);
        load.read_all();
    }

    /// The history up to now, and how many lines are torn.
    pub(crate) fn history(&self) -> (History, u64) {
        let mut history = History::default();
        let torn = self.recorder.read(|line| history.take(line));
        (history, torn.expect("the history can be read"))
    }

    /// Checks the history, and tells its sums.
    pub(crate) fn check(self, report: &mut Report, forgets: bool) -> History {
        let (history, torn) = self.history();
        let history = if forgets { history.forgets() } else { history };
        let sums = history.sums();
        report.figure("receipted", sums.receipted);
        report.figure("unknown_submits", sums.unknown);
        report.figure("executions", sums.executions);
        report.figure("executions_again", sums.again);
        report.figure("cancelled", sums.cancelled);
        report.figure("reads", sums.reads);
        report.figure("torn_lines", torn);
        let complaints = checker::check(&history);
        report.exactly("violations", checker::count(complaints.len()), 0);
        report.complain_of(complaints);
        if !report.complaints().is_empty() {
            report.complain(format!("the history is kept: {}", self.dir.keep().display()));
        }
        history
    }
}

/// Waits until the load is so many ends further than it was.
pub(crate) fn progress(load: &Load, from: u64, ends: u64) -> Result<(), String> {
    let came = within(PATIENCE, || (load.ended() >= from + ends).then_some(()));
    came.ok_or_else(|| format!("the grid stood still at {} ends for {PATIENCE:?}", load.ended()))
}

/// Tells the clients to stop, waits for the ends of all tasks, and reads them.
pub(crate) fn drain(load: &mut Load, report: &mut Report) {
    report.complain_of(load.drain(drain_patience(load.receipted())));
}

/// A thousand tasks a second at the least.
fn drain_patience(tasks: u64) -> Duration {
    PATIENCE + Duration::from_millis(tasks)
}

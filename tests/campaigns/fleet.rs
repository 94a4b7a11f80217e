//! Workers that come and go: killed, stopped for a while, and replaced, some by a process
//! with the same name at the same address.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use taskgrid::wire::v1::StatsResponse;

use super::grid::reserved;
use super::history::Fact;
use super::process::Process;
use super::site::Site;
use super::waits::within;
use super::work;
use super::worker::Options;

/// All workers of a grid.
pub(crate) struct Fleet {
    members: Vec<Member>,
}

struct Member {
    options: Options,
    process: Process,
    /// Since when it has been stopped, also in the time of the history.
    stopped: Option<(Instant, u64)>,
    /// Whoever replaces it has its id and its address.
    keeps_place: bool,
}

impl Fleet {
    /// So many workers, ready; every second one keeps its place.
    pub(crate) fn start(site: &mut Site, count: u64) -> Self {
        Self::start_beside(site, count, 0)
    }

    /// The same, where other workers are ready.
    pub(crate) fn start_beside(site: &mut Site, count: u64, others: u64) -> Self {
        let members = (0..count).map(|number| {
            let mut options = site.worker_options();
            let keeps_place = number % 2 == 1;
            if keeps_place {
                let place = reserved();
                options.id = Some(format!("place-{number}"));
                (options.host, options.port) = (place.ip().to_string(), place.port());
            }
            Member { process: options.start(), options, stopped: None, keeps_place }
        });
        let members = members.collect();
        site.grid.wait_for_workers(work::TYPE, others + count);
        Self { members }
    }

    /// Those that run and hold tasks, by what the dispatcher says.
    pub(crate) fn busy(&self, stats: &StatsResponse) -> Vec<usize> {
        let holds = |member: &Member| {
            stats.workers.iter().any(|worker| {
                worker.worker_id == member.id() && worker.connected && worker.held > 0
            })
        };
        let members = self.members.iter().enumerate();
        let busy = members.filter(|(_, member)| member.stopped.is_none() && holds(member));
        busy.map(|(place, _)| place).collect()
    }

    /// How many are stopped.
    pub(crate) fn stopped(&self) -> usize {
        self.members.iter().filter(|member| member.stopped.is_some()).count()
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Kills one, and starts another in its stead.
    pub(crate) fn kill(&mut self, place: usize, site: &mut Site) {
        let member = &mut self.members[place];
        member.process.kill();
        member.replace(site);
    }

    /// Asks one to end, starts another in its stead, and tells how it ended, if it did so in
    /// time, and how long it took.
    pub(crate) fn terminate(
        &mut self,
        place: usize,
        site: &mut Site,
        patience: Duration,
    ) -> (Option<ExitStatus>, Duration) {
        let member = &mut self.members[place];
        let asked = Instant::now();
        member.process.terminate();
        let ended = within(patience, || member.process.ended());
        let took = asked.elapsed();
        member.options.name = site.worker_options().name;
        member.process = member.options.start();
        (ended, took)
    }

    /// Where one listens.
    pub(crate) fn addr(&self, place: usize) -> SocketAddr {
        self.members[place].process.addr()
    }

    /// Stops one: it neither works nor answers, and its connections stand.
    pub(crate) fn stop(&mut self, place: usize, site: &Site) {
        let member = &mut self.members[place];
        member.stopped = Some((Instant::now(), site.recorder.now()));
        member.process.signal(Signal::STOP);
        site.recorder.write(Fact::WorkerLost { worker: member.options.name.clone() });
    }

    /// Lets those go on that have been stopped for so long. What they had not begun by then
    /// they begin now, with leases that are long over.
    pub(crate) fn resume(&mut self, after: Duration, site: &Site) {
        for member in &mut self.members {
            let Some((_, began)) = member.stopped.take_if(|since| since.0.elapsed() >= after)
            else {
                continue;
            };
            let workers = vec![member.options.name.clone()];
            site.recorder.write(Fact::CutOff { workers, began });
            member.process.signal(Signal::CONT);
        }
    }

    /// Replaces those that have ended by themselves; how many.
    pub(crate) fn revive(&mut self, site: &mut Site) -> u64 {
        let mut ended = 0;
        for member in &mut self.members {
            if member.process.ended().is_some() {
                member.replace(site);
                ended += 1;
            }
        }
        ended
    }
}

impl Member {
    fn id(&self) -> &str {
        self.options.id.as_ref().unwrap_or(&self.options.name)
    }

    fn replace(&mut self, site: &mut Site) {
        site.recorder.write(Fact::WorkerLost { worker: self.options.name.clone() });
        let new = site.worker_options();
        if self.keeps_place {
            self.options.name = new.name;
        } else {
            self.options = new;
        }
        self.process = self.options.start();
    }
}

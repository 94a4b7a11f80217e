//! Does a world harm, by dice, and mends it: one harm at a time to each link and each host,
//! many of them beside each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use turmoil::Sim;

use super::dice::Dice;
use super::disk::{Disk, Fails};
use super::history::{Fact, Recorder};
use super::hosts::{DISPATCHER, NAMESERVICE, worker_name};
use super::site::{Life, Site};
use super::told::Told;
use super::world::client_name;

/// How long after a link's harm its sessions may still end of it: an HTTP/2 connection
/// that has lost something is noticed by its keepalive, and then a lease has to run out.
const GRACE: Duration = Duration::from_secs(12);

/// See the module.
pub(crate) struct Director {
    site: Site,
    recorder: Recorder,
    disk: Disk,
    dice: Dice,
    /// Mean time between two harms, in milliseconds.
    pace: u64,
    next: Duration,
    until: Duration,
    is_over: bool,
    /// What is to be done, and when.
    agenda: BTreeMap<(Duration, u64), Mend>,
    deeds: u64,
    /// Workers that the nameservice may not know, and until when.
    unregistered: BTreeMap<String, Duration>,
    /// Links and hosts that are being harmed.
    busy: BTreeSet<String>,
    told: Told,
}

/// What is to be done.
#[derive(Debug, Clone)]
enum Mend {
    Repair(Link),
    Release(Link),
    Steady(Link),
    Restart(String),
    /// A host was told to end; what does not is killed.
    Insist(String),
    /// What the link did to its worker may show until here.
    Excuse(Excuse),
}

/// What runs on this worker may run again.
#[derive(Debug, Clone)]
struct Excuse {
    worker: String,
    /// Its life when it began; others may have followed at the end.
    life: Life,
    began: Duration,
}

/// Two hosts.
#[derive(Debug, Clone)]
struct Link(String, String);

impl Link {
    fn name(&self) -> String {
        format!("{}~{}", self.0, self.1)
    }

    fn ends(&self) -> (&str, &str) {
        (&self.0, &self.1)
    }
}

impl Director {
    pub(crate) fn new(
        site: Site,
        disk: Disk,
        mut dice: Dice,
        from: Duration,
        until: Duration,
    ) -> Self {
        Self {
            recorder: site.recorder(),
            site,
            disk,
            pace: dice.between(200, 1_200),
            dice,
            next: from,
            until,
            is_over: false,
            agenda: BTreeMap::new(),
            deeds: 0,
            unregistered: BTreeMap::new(),
            busy: BTreeSet::new(),
            told: Told::default(),
        }
    }

    /// Does all that is due.
    pub(crate) fn act(&mut self, sim: &mut Sim<'static>) {
        let now = sim.elapsed();
        while let Some((&(at, number), _)) =
            self.agenda.first_key_value().filter(|(k, _)| k.0 <= now)
        {
            if let Some(mend) = self.agenda.remove(&(at, number)) {
                self.mend(sim, mend);
            }
        }
        self.raise_the_fallen(sim);
        if self.is_over {
            return;
        }
        if now >= self.until {
            self.is_over = true;
            return self.mend_all(sim);
        }
        if now >= self.next {
            self.harm(sim);
            let pause = self.dice.between(self.pace / 4, self.pace * 7 / 4);
            self.next = now + Duration::from_millis(pause);
        }
    }

    /// The world ends, and tells what was done to it. What a link's harm may still show is
    /// as much its doing as what it has shown.
    pub(crate) fn end(&mut self, sim: &Sim<'static>, told: &mut Told) {
        for mend in std::mem::take(&mut self.agenda).into_values() {
            if let Mend::Excuse(excuse) = mend {
                self.tell_excuse(sim, &excuse);
            }
        }
        let Told { seed, virtual_ms, network, .. } = std::mem::take(told);
        *told = Told { seed, virtual_ms, network, ..self.told.clone() };
    }

    fn harm(&mut self, sim: &mut Sim<'static>) {
        if self.dice.chance(600) {
            let link = self.link();
            if self.busy.insert(link.name()) {
                self.harm_link(sim, &link);
            }
        } else {
            let host = match self.dice.between(0, 9) {
                0..=3 => DISPATCHER.to_owned(),
                4..=8 => self.worker(),
                _ => NAMESERVICE.to_owned(),
            };
            if self.busy.insert(host.clone()) {
                self.harm_host(sim, host);
            }
        }
    }

    fn harm_link(&mut self, sim: &mut Sim<'static>, link: &Link) {
        let (a, b) = link.ends();
        let lease = self.site.rules().lease;
        let mut span = Duration::from_millis(self.dice.between(100, 6_000));
        let (mend, loses) = match self.dice.between(0, 9) {
            0..=2 => {
                sim.partition(a, b);
                self.told.cuts += 1;
                (Mend::Repair(link.clone()), true)
            }
            3 => {
                let (from, to) = if self.dice.chance(500) { (a, b) } else { (b, a) };
                sim.partition_oneway(from, to);
                self.told.cuts += 1;
                (Mend::Repair(link.clone()), true)
            }
            4..=6 => {
                sim.hold(a, b);
                self.told.holds += 1;
                (Mend::Release(link.clone()), true)
            }
            7 => {
                // Slow, but not so slow that a lease is lost of it.
                let most = lease.mul_f64(0.3);
                sim.set_link_max_message_latency(a, b, most);
                self.told.slow_links += 1;
                (Mend::Steady(link.clone()), false)
            }
            _ => {
                sim.set_link_fail_rate(a, b, 0.02);
                span += Duration::from_secs(2);
                self.told.lossy_links += 1;
                (Mend::Steady(link.clone()), true)
            }
        };
        let end = sim.elapsed() + span;
        self.later(end, mend);
        if loses && b.starts_with("worker") {
            match a {
                DISPATCHER => self.excuse(sim, b, end + GRACE),
                _ => _ = self.unregistered.insert(b.to_owned(), end + GRACE),
            }
        }
    }

    fn harm_host(&mut self, sim: &mut Sim<'static>, host: String) {
        let away = Duration::from_millis(self.dice.between(0, 3_000));
        if self.dice.chance(250) {
            self.site.life(&host).end.begin();
            self.told.drains += 1;
            return self.later(sim.elapsed() + Duration::from_secs(5), Mend::Insist(host));
        }
        if host == DISPATCHER && self.dice.chance(300) {
            self.disk.fail(if self.dice.chance(500) { Fails::Before } else { Fails::After });
            self.told.disk_failures += 1;
            return self.later(sim.elapsed() + Duration::from_secs(3), Mend::Insist(host));
        }
        self.crash(sim, &host);
        self.later(sim.elapsed() + away, Mend::Restart(host));
    }

    /// A host that ended by itself is started again.
    fn raise_the_fallen(&mut self, sim: &mut Sim<'static>) {
        let insisted = self.agenda.iter().filter_map(|(key, mend)| match mend {
            Mend::Insist(host) => Some((*key, host.clone())),
            _ => None,
        });
        let insisted: Vec<_> = insisted.collect();
        for (key, host) in insisted {
            if !sim.is_host_running(host.as_str()) {
                self.agenda.remove(&key);
                let away = Duration::from_millis(self.dice.between(0, 2_000));
                self.later(sim.elapsed() + away, Mend::Restart(host));
            }
        }
    }

    fn crash(&mut self, sim: &mut Sim<'static>, host: &str) {
        let process = self.site.life(host).process;
        {
            let mut books = self.site.books();
            if host == DISPATCHER {
                self.told.dispatcher_crashes += 1;
                let at_work = !books.open.is_empty() || books.asking > 0;
                self.told.dispatcher_crashes_at_work += u64::from(at_work);
            } else if host == NAMESERVICE {
                self.told.nameservice_crashes += 1;
            } else {
                self.told.worker_crashes += 1;
                let at_work = books.running.remove(&process).is_some_and(|running| running > 0);
                self.told.worker_crashes_at_work += u64::from(at_work);
            }
        }
        self.note_loss(sim, host);
        sim.crash(host);
    }

    fn note_loss(&self, sim: &Sim<'static>, host: &str) {
        if host == DISPATCHER {
            self.recorder.write_at(millis(sim.elapsed()), Fact::DispatcherLost);
        } else if host != NAMESERVICE {
            let fact = Fact::WorkerLost { worker: self.site.life(host).process };
            self.recorder.write_at(millis(sim.elapsed()), fact);
        }
    }

    /// From now until then what runs on this worker may run again.
    fn excuse(&mut self, sim: &Sim<'static>, worker: &str, until: Duration) {
        let life = self.site.life(worker);
        let began = sim.elapsed();
        self.later(until, Mend::Excuse(Excuse { worker: worker.to_owned(), life, began }));
    }

    fn tell_excuse(&self, sim: &Sim<'static>, excuse: &Excuse) {
        let workers = self.site.since(&excuse.worker, &excuse.life);
        let fact = Fact::CutOff { workers, began: millis(excuse.began) };
        self.recorder.write_at(millis(sim.elapsed()), fact);
    }

    /// A dispatcher that starts dials only whom a nameservice names: of a worker that it
    /// does not hear of, it cannot adopt what still runs.
    fn excuse_the_unregistered(&mut self, sim: &Sim<'static>) {
        let now = sim.elapsed();
        for (worker, until) in self.unregistered.clone() {
            if until > now {
                self.excuse(sim, &worker, until);
            }
        }
    }

    fn mend(&mut self, sim: &mut Sim<'static>, mend: Mend) {
        match mend {
            Mend::Repair(link) => {
                let (a, b) = link.ends();
                sim.repair(a, b);
                self.busy.remove(&link.name());
            }
            Mend::Release(link) => {
                let (a, b) = link.ends();
                sim.release(a, b);
                self.busy.remove(&link.name());
            }
            Mend::Steady(link) => {
                let (a, b) = link.ends();
                sim.set_link_fail_rate(a, b, 0.0);
                sim.repair(a, b);
                sim.set_link_max_message_latency(a, b, Duration::from_millis(40));
                self.busy.remove(&link.name());
            }
            Mend::Restart(host) => {
                if host == DISPATCHER {
                    self.excuse_the_unregistered(sim);
                }
                sim.bounce(host.as_str());
                self.busy.remove(&host);
            }
            Mend::Insist(host) => {
                if sim.is_host_running(host.as_str()) {
                    self.crash(sim, &host);
                }
                self.later(sim.elapsed(), Mend::Restart(host));
            }
            Mend::Excuse(excuse) => self.tell_excuse(sim, &excuse),
        }
    }

    /// The harm is over.
    fn mend_all(&mut self, sim: &mut Sim<'static>) {
        let agenda = std::mem::take(&mut self.agenda);
        for (at, mend) in agenda {
            match mend {
                Mend::Excuse(_) => self.later(at.0, mend),
                Mend::Insist(host) => {
                    if sim.is_host_running(host.as_str()) {
                        self.crash(sim, &host);
                    }
                    self.mend(sim, Mend::Restart(host));
                }
                Mend::Repair(_) | Mend::Release(_) | Mend::Steady(_) | Mend::Restart(_) => {
                    self.mend(sim, mend);
                }
            }
        }
        self.site.calm().begin();
    }

    fn later(&mut self, at: Duration, mend: Mend) {
        self.deeds += 1;
        self.agenda.insert((at, self.deeds), mend);
    }

    fn worker(&mut self) -> String {
        worker_name(self.dice.between(1, self.site.rules().workers))
    }

    fn link(&mut self) -> Link {
        let dispatcher = || DISPATCHER.to_owned();
        match self.dice.between(0, 9) {
            0..=4 => Link(dispatcher(), self.worker()),
            5..=7 => {
                let client = self.dice.between(0, self.site.rules().clients - 1);
                Link(dispatcher(), client_name(client))
            }
            8 => Link(dispatcher(), NAMESERVICE.to_owned()),
            _ => Link(NAMESERVICE.to_owned(), self.worker()),
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

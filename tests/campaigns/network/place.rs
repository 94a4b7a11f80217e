//! A grid whose every link can be harmed: each peer of the dispatcher is behind a door, all
//! ends of a link have addresses of their own, and nobody meets beside a port.
//!
//! ```text
//!  clients ─▶ 127.9.0.1 ─ door ─▶ dispatcher ─▶ 127.9.n.1 ─ door ─▶ 127.9.n.2, worker n
//!                                     │                                   │
//!                                127.9.255.3 ──▶ nameservice ◀── 127.9.n.3
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::process::Signal;

use super::super::history::Fact;
use super::super::load::Load;
use super::super::plan::Plan;
use super::super::process::{PATIENCE, Process, taskgrid};
use super::super::site::Site;
use super::super::waits::within;
use super::super::work;
use super::super::worker::Options;
use super::proxy::{Proxies, Proxy};

const PORT: u16 = 20_060;
const NAMESERVICE_PORT: u16 = 20_051;
/// The dispatcher's place on the link to the nameservice.
const DISPATCHER: u8 = 255;

/// The grid.
pub(super) struct Place {
    pub(super) site: Site,
    pub(super) nameservice: Process,
    workers: Vec<Peer>,
    /// In the way of the clients.
    clients: Proxy,
    proxies: Proxies,
    ttl: String,
}

/// A worker behind its door.
struct Peer {
    options: Options,
    process: Process,
    door: Proxy,
}

/// Whose links are harmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Side {
    /// Those of some workers, to the dispatcher and to the nameservice.
    Workers(Vec<usize>),
    /// Those of some workers, to the dispatcher alone: they stay registered.
    Doors(Vec<usize>),
    /// Those of the clients.
    Clients,
    /// Those of the dispatcher to everybody.
    Dispatcher,
}

/// What tells the packets of some links: those that go to the peers of the dispatcher, or for
/// the clients' link to the dispatcher, and those that come from there.
#[derive(Debug, Default)]
pub(super) struct Matches {
    pub(super) towards: Vec<String>,
    pub(super) away: Vec<String>,
}

impl Place {
    /// A nameservice with this TTL, a dispatcher, and so many workers with so many slots.
    pub(super) fn start(ttl: &str, flags: &[&str], workers: u8, slots: u32) -> Self {
        let nameservice = nameservice(ttl);
        let flags = [flags, &["--tcp-only"]].concat();
        let site = Site::start_around(at(DISPATCHER, 3, NAMESERVICE_PORT), &flags);
        let proxies = Proxies::start();
        let clients = proxies.open(at(0, 1, PORT), site.grid.dispatcher_addr);
        let clients = clients.expect("a network of one's own has free ports");
        let ttl = ttl.to_owned();
        let mut place = Self { site, nameservice, workers: Vec::new(), clients, proxies, ttl };
        for _ in 0..workers {
            place.add_worker(slots);
        }
        if workers > 0 {
            place.site.grid.wait_for_workers(work::TYPE, workers.into());
        }
        place
    }

    /// Starts one more worker.
    pub(super) fn add_worker(&mut self, slots: u32) {
        let number = number(self.workers.len());
        let mut options = self.site.worker_options();
        let (front, back) = (at(number, 1, PORT), at(number, 2, PORT));
        options.nameservice = at(number, 3, NAMESERVICE_PORT).to_string();
        options.advertise = Some(front.to_string());
        (options.host, options.port) = (back.ip().to_string(), back.port());
        options.slots = slots;
        let door = self.proxies.open(front, back).expect("a network of one's own has free ports");
        self.workers.push(Peer { process: options.start(), options, door });
    }

    /// How many workers there are.
    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Waits until the dispatcher has sessions with all workers; whether it has in time.
    pub(super) fn all_are_back(&self, load: &Load) -> bool {
        let all = || (connected(load) == self.workers.len()).then_some(());
        within(PATIENCE, all).is_some()
    }

    /// Begins a load, through the clients' door.
    pub(super) fn load(&self, plan: Plan, seed: u64) -> Load {
        Load::start(&at(0, 1, PORT).to_string(), &self.site.recorder, plan, seed)
    }

    /// Starts the nameservice anew, once it is gone.
    pub(super) fn start_nameservice(&mut self) {
        self.nameservice = nameservice(&self.ttl);
    }

    /// The names of the workers that a harm to this side may cost something.
    pub(super) fn names(&self, side: &Side) -> Vec<String> {
        let name = |peer: &Peer| peer.options.name.clone();
        match side {
            Side::Workers(some) | Side::Doors(some) => {
                some.iter().map(|place| name(&self.workers[*place])).collect()
            }
            Side::Clients => Vec::new(),
            Side::Dispatcher => self.workers.iter().map(name).collect(),
        }
    }

    /// The packets of this side.
    pub(super) fn matches(&self, side: &Side) -> Matches {
        let mut matches = Matches::default();
        match side {
            Side::Workers(some) => {
                for place in some {
                    matches.worker(*place);
                    matches.nameservice(host(number(*place), 3));
                }
            }
            Side::Doors(some) => some.iter().for_each(|place| matches.worker(*place)),
            Side::Clients => matches.door(host(0, 1), self.site.grid.dispatcher_addr.ip()),
            Side::Dispatcher => {
                matches.door(host(0, 1), self.site.grid.dispatcher_addr.ip());
                (0..self.workers.len()).for_each(|place| matches.worker(place));
                matches.nameservice(host(DISPATCHER, 3));
            }
        }
        matches
    }

    /// The doors of this side.
    pub(super) fn doors(&self, side: &Side) -> Vec<&Proxy> {
        let workers = self.workers.iter().map(|peer| &peer.door);
        match side {
            Side::Workers(some) | Side::Doors(some) => {
                some.iter().map(|place| &self.workers[*place].door).collect()
            }
            Side::Clients => vec![&self.clients],
            Side::Dispatcher => workers.chain([&self.clients]).collect(),
        }
    }

    /// Sends a signal to the workers of this side, or to the dispatcher.
    pub(super) fn signal(&self, side: &Side, signal: Signal) {
        match side {
            Side::Workers(some) | Side::Doors(some) => {
                for place in some {
                    self.workers[*place].process.signal(signal);
                }
            }
            Side::Clients | Side::Dispatcher => self.site.grid.dispatcher.signal(signal),
        }
    }

    /// Writes down that these could not be reached since then.
    pub(super) fn were_cut_off(&self, workers: Vec<String>, began: u64) {
        self.site.recorder.write(Fact::CutOff { workers, began });
    }

    /// Ends all but the grid, which can be asked and checked.
    pub(super) fn into_site(self) -> Site {
        self.site
    }
}

impl Matches {
    /// A door, and what is behind it.
    fn door(&mut self, front: Ipv4Addr, back: IpAddr) {
        self.towards.extend([format!("-d {front}"), format!("-d {back}")]);
        self.away.extend([format!("-s {front}"), format!("-s {back}")]);
    }

    /// That of a worker.
    fn worker(&mut self, place: usize) {
        let number = number(place);
        self.door(host(number, 1), host(number, 2).into());
    }

    /// A way to the nameservice.
    fn nameservice(&mut self, front: Ipv4Addr) {
        self.towards.push(format!("-s {front}"));
        self.away.push(format!("-d {front}"));
    }

    pub(super) fn both(self) -> Vec<String> {
        [self.towards, self.away].concat()
    }
}

/// With how many workers the dispatcher has sessions.
pub(super) fn connected(load: &Load) -> usize {
    load.stats().workers.iter().filter(|worker| worker.connected).count()
}

/// On all addresses: each peer has one of its own for it.
fn nameservice(ttl: &str) -> Process {
    let port = NAMESERVICE_PORT.to_string();
    let mut command = taskgrid(&["nameservice", "--host", "0.0.0.0", "--insecure", "--tcp-only"]);
    command.args(["--port", &port, "--ttl", ttl]);
    let nameservice = Process::spawn(command, b"");
    nameservice.addr();
    nameservice
}

/// The number that the addresses of a worker have.
fn number(place: usize) -> u8 {
    u8::try_from(place + 1).expect("there are not so many workers")
}

fn host(peer: u8, place: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 9, peer, place)
}

fn at(peer: u8, place: u8, port: u16) -> SocketAddr {
    SocketAddr::new(host(peer, place).into(), port)
}

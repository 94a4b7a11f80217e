//! The systems that are compared, and how each of them is measured.

use std::fmt;

use super::server::Kind;
use super::taskgrid::{bench, number};
use super::work::{self, Failure, Load, Run, SIZE, micros, per_second, quantile};
use super::{beanstalkd, gearman};

/// Tasks without a result in bulk, where the system has no queue that a client fills.
const IN_FLIGHT: u64 = 1_000;

/// Tasks one at a time.
const SINGLE: u64 = 5_000;

/// A system, with what its receipt survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// A power cut.
    TaskGrid,
    /// A power cut. Its processes meet as the others' do, at ports.
    TaskGridTcp,
    /// The end of its processes.
    TaskGridOs,
    /// A power cut.
    BeanstalkdSynced,
    /// Nothing.
    Beanstalkd,
    /// Nothing.
    Gearmand,
    /// Nothing. Its workers are those of its own library.
    GearmandUsual,
}

/// How much is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// Ten seconds or so for each measurement.
    Full,
    /// A second or so.
    Short,
    /// As little as shows that it works.
    Smoke,
}

/// Tasks a second, and microseconds of one at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) tasks_per_second: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl System {
    pub(crate) const ALL: [Self; 7] = [
        Self::TaskGrid,
        Self::TaskGridTcp,
        Self::TaskGridOs,
        Self::BeanstalkdSynced,
        Self::Beanstalkd,
        Self::Gearmand,
        Self::GearmandUsual,
    ];

    /// What a task survives once it is acknowledged.
    pub(crate) fn survives(self) -> &'static str {
        match self {
            Self::TaskGrid | Self::TaskGridTcp | Self::BeanstalkdSynced => "a power cut",
            Self::TaskGridOs => "a killed process",
            Self::Beanstalkd | Self::Gearmand | Self::GearmandUsual => "nothing",
        }
    }

    /// Its server, if it is another system's.
    pub(crate) fn server(self) -> Option<Kind> {
        match self {
            Self::TaskGrid | Self::TaskGridTcp | Self::TaskGridOs => None,
            Self::BeanstalkdSynced => Some(Kind::BeanstalkdSynced),
            Self::Beanstalkd => Some(Kind::Beanstalkd),
            Self::Gearmand | Self::GearmandUsual => Some(Kind::Gearmand),
        }
    }

    /// Many tasks as fast as they go, and then some one by one.
    pub(crate) fn measure(self, size: Size) -> Result<Figures, Failure> {
        let bulk = size.of(self.bulk());
        let single = size.of(SINGLE);
        let Some(kind) = self.server() else { return self.measure_own(bulk, single) };
        let run = |load| -> Result<Run, Failure> {
            match self {
                Self::Gearmand => gearman::run(kind.start()?, load, gearman::AHEAD),
                Self::GearmandUsual => gearman::run(kind.start()?, load, gearman::ONE_BY_ONE),
                _ => beanstalkd::run(kind.start()?, load),
            }
        };
        let many = run(Load { tasks: bulk, in_flight: IN_FLIGHT })?;
        let one_by_one = run(Load { tasks: single, in_flight: 1 })?;
        let latencies: Vec<u64> = one_by_one.latencies.into_iter().map(micros).collect();
        Ok(Figures {
            tasks_per_second: per_second(bulk, many.took),
            p50_us: work::median(&latencies),
            p99_us: quantile(&latencies, 99),
        })
    }

    fn measure_own(self, bulk: u64, single: u64) -> Result<Figures, Failure> {
        let own = match self {
            Self::TaskGridOs => "--durability os",
            Self::TaskGridTcp => "--tcp-only",
            _ => "",
        };
        let arguments = format!("{own} --size {SIZE}");
        let many = bench(&format!("{arguments} --tasks {bulk}"))?;
        let one_by_one = bench(&format!("{arguments} --tasks {single} --latency"))?;
        Ok(Figures {
            tasks_per_second: number(&many, "/tasks_per_second")?,
            p50_us: number(&one_by_one, "/latency_us/p50")?,
            p99_us: number(&one_by_one, "/latency_us/p99")?,
        })
    }

    /// Tasks that keep it busy for ten seconds or so on a small machine.
    fn bulk(self) -> u64 {
        match self {
            Self::TaskGrid | Self::TaskGridTcp | Self::TaskGridOs => 2_000_000,
            Self::BeanstalkdSynced => 15_000,
            Self::Beanstalkd => 200_000,
            Self::Gearmand => 4_000_000,
            Self::GearmandUsual => 400_000,
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TaskGrid => "TaskGrid",
            Self::TaskGridTcp => "TaskGrid, --tcp-only",
            Self::TaskGridOs => "TaskGrid, --durability os",
            Self::BeanstalkdSynced => "beanstalkd -f0",
            Self::Beanstalkd => "beanstalkd in memory",
            Self::Gearmand => "gearmand in memory, workers that ask ahead",
            Self::GearmandUsual => "gearmand in memory, its library's workers",
        })
    }
}

impl Size {
    /// So many tasks at full size.
    pub(crate) fn of(self, full: u64) -> u64 {
        match self {
            Self::Full => full,
            Self::Short => full.div_ceil(10),
            Self::Smoke => full.min(100),
        }
    }

    /// The points of a curve, some of which are enough for a smoke test.
    pub(crate) fn points<T>(self, all: &[T]) -> &[T] {
        match self {
            Self::Full | Self::Short => all,
            Self::Smoke => &all[..2],
        }
    }

    /// How often a floor is measured.
    pub(crate) fn floors(self) -> usize {
        match self {
            Self::Full => 5_000,
            Self::Short => 1_000,
            Self::Smoke => 10,
        }
    }
}

//! `network`: links are cut both ways and one way, reset, lossy, throttled and slow, and peers
//! freeze and fall silent; the nameservice goes and comes, and is away for long; a thousand
//! workers have to come back at once.
//!
//! All of it happens in a network of the campaign's own ([`own`]), where the kernel drops and
//! resets packets, so that connections live and die as they do between machines. What it cannot
//! do, delay and throttle, doors do that are in the way of every peer ([`proxy`]).

#[path = "network/herd.rs"]
mod herd;
#[path = "network/nameservices.rs"]
mod nameservices;
#[path = "network/own.rs"]
mod own;
#[path = "network/partitions.rs"]
mod partitions;
#[path = "network/place.rs"]
mod place;
#[path = "network/proxy.rs"]
mod proxy;
#[path = "network/pulse.rs"]
mod pulse;

use super::campaign::{Ran, Report, Run};

type Part = fn(&Run, &mut Report);

/// Runs it.
pub(crate) fn run(run: &Run) -> Ran {
    if !herd::may_open_files() {
        return Ran::NotRun("thousands of open files (ulimit -n)".to_owned());
    }
    let ran = own::within_own(|| {
        let mut report = Report::default();
        let parts: [(&str, Part); 3] = [
            ("partitions", partitions::run),
            ("nameservices", nameservices::run),
            ("herd", herd::run),
        ];
        for (name, part) in parts {
            let mut told = Report::default();
            part(run, &mut told);
            report.part(name, told);
        }
        report
    });
    match ran {
        Ok(report) => Ran::Done(report),
        Err(error) => Ran::NotRun(format!("{} ({error})", own::WANTED)),
    }
}

//! The product's roles, each on a host of its own. What runs is what `taskgrid` runs; only
//! the network and the disk are handed in.

use std::time::Duration;

use bytes::Bytes;
use taskgrid::dispatcher::{self, Dispatcher};
use taskgrid::nameservice::{self, Nameservice};
use taskgrid::rpc::Listen;
use taskgrid::worker::{self, Context, Failure, Worker};

use super::disk::Disk;
use super::history::{Fact, How, Recorder};
use super::network::simulated;
use super::site::Site;
use super::work::{self, Deed, Work};

pub(crate) const NAMESERVICE: &str = "nameservice";
pub(crate) const DISPATCHER: &str = "dispatcher";

/// What a handler says that was asked to panic. Every other panic is a fault.
pub(crate) const ASKED: &str = "as it was asked to";

/// A role's deadline for ending.
const DRAIN: Duration = Duration::from_secs(2);

/// The name of a worker's host, and its id.
pub(crate) fn worker_name(number: u64) -> String {
    format!("worker-{number}")
}

/// One life of the nameservice.
pub(crate) async fn nameservice(site: Site) -> turmoil::Result {
    let life = site.live(NAMESERVICE);
    let config = nameservice::Config {
        listen: everywhere(50_051),
        ttl: site.rules().ttl,
        drain_timeout: DRAIN,
        network: simulated(),
        ..nameservice::Config::default()
    };
    if let Err(error) = Nameservice::bind(config)?.run(life.end).await {
        site.complain(format!("the nameservice ended: {error}"));
    }
    Ok(())
}

/// One life of the dispatcher.
pub(crate) async fn dispatcher(site: Site, disk: Disk) -> turmoil::Result {
    let life = site.live(DISPATCHER);
    let recorder = site.recorder();
    let config = dispatcher::Config {
        listen: everywhere(50_052),
        nameservices: vec![format!("{NAMESERVICE}:50051")],
        lease: site.rules().lease,
        drain_timeout: DRAIN,
        network: simulated(),
        ..dispatcher::Config::default()
    };
    let role = match Dispatcher::bind_over(config, disk.mount()).await {
        Ok(role) => role,
        Err(error) => {
            site.complain(format!("the dispatcher could not start: {error}"));
            return Ok(());
        }
    };
    match role.run(life.end).await {
        // Its disk may have failed, as it was told to.
        Ok(()) | Err(dispatcher::Error::Store(_)) => {}
        Err(error) => site.complain(format!("the dispatcher ended: {error}")),
    }
    recorder.write(Fact::DispatcherLost);
    Ok(())
}

/// One life of a worker.
pub(crate) async fn worker(site: Site, number: u64) -> turmoil::Result {
    let host = worker_name(number);
    let life = site.live(&host);
    let recorder = site.recorder();
    let config = worker::Config {
        listen: everywhere(50_060),
        advertise: Some(format!("{host}:50060")),
        nameservices: vec![format!("{NAMESERVICE}:50051")],
        slots: Some(site.rules().slots),
        id: Some(host),
        drain_timeout: DRAIN,
        network: simulated(),
        ..worker::Config::default()
    };
    let (handled, written, process) = (site.clone(), recorder.clone(), life.process.clone());
    let role = Worker::builder()
        .handle(work::TYPE, move |context, payload| {
            let run =
                Run { site: handled.clone(), recorder: written.clone(), process: process.clone() };
            async move { run.carry_out(&context, &payload).await }
        })
        .bind(config)
        .await?;
    if let Err(error) = role.run(life.end).await {
        site.complain(format!("a worker ended: {error}"));
    }
    // What it gave back may run again.
    recorder.write(Fact::WorkerLost { worker: life.process });
    Ok(())
}

fn everywhere(port: u16) -> Listen {
    Listen { host: "0.0.0.0".to_owned(), port, insecure: true }
}

/// One execution.
struct Run {
    site: Site,
    recorder: Recorder,
    process: String,
}

impl Run {
    async fn carry_out(self, context: &Context, payload: &Bytes) -> Result<Bytes, Failure> {
        let work: Work = String::from_utf8_lossy(payload).parse()?;
        let nonce = format!("{:016x}", rand::random::<u64>());
        let token = context.token();
        self.recorder.write(Fact::Started {
            nonce: nonce.clone(),
            task: context.task_id(),
            name: work.name.clone(),
            attempt: context.attempt(),
            token: (token.epoch.boot, token.epoch.nonce, token.sequence),
            worker: self.process.clone(),
        });
        *self.site.books().running.entry(self.process.clone()).or_default() += 1;
        let ended = |how| self.recorder.write(Fact::Ended { nonce: nonce.clone(), how });
        let is_first = context.attempt() == 1;
        match work.deed {
            Deed::Take(millis) if millis > 0 => {
                let span = Duration::from_millis(millis);
                if tokio::time::timeout(span, context.cancelled()).await.is_ok() {
                    ended(How::Failed);
                    return Err(Failure::error("told to stop"));
                }
            }
            Deed::Fail(millis) if is_first => {
                ended(How::Failed);
                return Err(Failure::error(ASKED).retry_after(Duration::from_millis(millis)));
            }
            Deed::Panic if is_first => {
                ended(How::Failed);
                panic!("{ASKED}");
            }
            Deed::Take(_) | Deed::Fail(_) | Deed::Panic | Deed::Kill | Deed::Give(_) => {}
        }
        ended(How::Done);
        Ok(work::result(payload, &nonce).into())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(running) = self.site.books().running.get_mut(&self.process) {
            *running = running.saturating_sub(1);
        }
    }
}

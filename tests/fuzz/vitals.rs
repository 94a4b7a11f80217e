//! The routes by which each role tells how it is. Those of a monitor stand beside its pages.

use std::net::SocketAddr;

use taskgrid::dispatcher::{self, Dispatcher, Storage};
use taskgrid::nameservice::{self, Nameservice};
use taskgrid::rpc::Listen;
use taskgrid::shutdown::Shutdown;
use taskgrid::worker::{self, Worker};

use super::{ask_anything, ask_honestly, chance, count_panics};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_tells_how_it_is_whatever_it_was_asked_before() {
    count_panics();
    let (cases, mut dice) = chance();
    let shutdown = Shutdown::new();
    let nameservice = Nameservice::bind(nameservice::Config {
        listen: any_port(),
        http: Some(any_port()),
        ..nameservice::Config::default()
    });
    let nameservice = nameservice.unwrap();
    let nameservices = vec![nameservice.addr().to_string()];
    let dispatcher = Dispatcher::bind(dispatcher::Config {
        listen: any_port(),
        http: Some(any_port()),
        nameservices: nameservices.clone(),
        storage: Storage::Memory,
        ..dispatcher::Config::default()
    });
    let dispatcher = dispatcher.await.unwrap();
    let worker = Worker::builder().handle("any", async |_, payload| Ok(payload));
    let config = worker::Config {
        listen: any_port(),
        http: Some(any_port()),
        nameservices,
        ..worker::Config::default()
    };
    let worker = worker.bind(config).await.unwrap();
    let ports = [nameservice.http_addr(), dispatcher.http_addr(), worker.http_addr()];
    let ports: Vec<SocketAddr> = ports.into_iter().flatten().collect();
    assert_eq!(ports.len(), 3);
    let roles = (
        tokio::spawn(nameservice.run(shutdown.clone())),
        tokio::spawn(dispatcher.run(shutdown.clone())),
        tokio::spawn(worker.run(shutdown.clone())),
    );
    let asked = tokio::task::spawn_blocking(move || {
        for address in ports {
            let found = ask_anything(address, cases, &mut dice);
            assert!(found >= cases / 20, "only {found} of {cases} were more than refused");
            assert_eq!(ask_honestly(address, "/healthz"), Some(200));
        }
    });
    asked.await.unwrap();
    shutdown.begin();
    roles.0.await.unwrap().unwrap();
    roles.1.await.unwrap().unwrap();
    roles.2.await.unwrap().unwrap();
}

fn any_port() -> Listen {
    Listen { port: 0, ..Listen::default() }
}

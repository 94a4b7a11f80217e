use std::time::Duration;

use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::rpc::{ServeLimits, serve};
use crate::shutdown::Shutdown;

/// Longer than a drain without calls takes.
const DEADLINE: Duration = Duration::from_secs(10);

fn port_on(network: &Network) -> (Port, SocketAddr) {
    let listener = network.bind(&Listen::default()).unwrap();
    let addr = listener.addr();
    (listener.into_port().unwrap(), addr)
}

/// How one that dials on `dialling` comes in at a port of `serving`.
async fn comes_in(serving: &Network, dialling: &Network) -> Stream {
    let (port, addr) = port_on(serving);
    // Dials with its first call, which nobody answers here.
    let channel = dialling.channel(&addr.to_string()).unwrap();
    let call = async move { HealthClient::new(channel).check(HealthCheckRequest::default()).await };
    tokio::select! {
        stream = port.accept() => stream.unwrap(),
        answered = call => unreachable!("{answered:?}"),
    }
}

#[tokio::test]
async fn peers_on_one_machine_meet_beside_the_port_unless_one_wants_tcp() {
    let (system, tcp) = (Network::System, Network::Tcp);
    assert!(matches!(comes_in(&system, &system).await, Stream::Local(_)));
    assert!(matches!(comes_in(&system, &tcp).await, Stream::Tcp(_)));
    assert!(matches!(comes_in(&tcp, &system).await, Stream::Tcp(_)));
    assert!(matches!(comes_in(&tcp, &tcp).await, Stream::Tcp(_)));
}

#[tokio::test]
async fn a_channel_finds_who_serves_the_port_now() {
    // An address where nobody else takes the port while it is free.
    let host = "127.77.0.1".to_owned();
    let listen = Listen { host, ..Listen::default() };
    let first = Network::System.bind(&listen).unwrap();
    let addr = first.addr();
    let mut client = HealthClient::new(Network::System.channel(&addr.to_string()).unwrap());
    let mut listener = Some(first);
    for network in [Network::System, Network::Tcp, Network::System] {
        let again = Listen { port: addr.port(), ..listen.clone() };
        let listener = listener.take().unwrap_or_else(|| network.bind(&again).unwrap());
        listener.health().set_serving(true).await;
        let shutdown = Shutdown::new();
        let (routes, limits) = (Routes::default(), ServeLimits::default());
        let served = tokio::spawn(serve(listener, routes, limits, shutdown.clone(), DEADLINE));
        client.check(HealthCheckRequest::default()).await.unwrap();
        shutdown.begin();
        served.await.unwrap().unwrap();
        assert!(client.check(HealthCheckRequest::default()).await.is_err());
    }
}

//! A worker among the other roles, through the public face.

use std::time::Duration;

use taskgrid::nameservice::{self, Nameservice};
use taskgrid::rpc::{self, Listen};
use taskgrid::shutdown::Shutdown;
use taskgrid::wire::v1;
use taskgrid::wire::v1::name_service_client::NameServiceClient;
use taskgrid::worker::{Config, Worker, builtin};

const TYPES: [&str; 5] = ["reverse", "sum", "hash", "upper", "wait"];
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_worker_registers_what_it_serves_and_deregisters_when_it_leaves() {
    let all = Shutdown::new();
    let config =
        nameservice::Config { listen: Listen::default(), ..nameservice::Config::default() };
    let nameservice = Nameservice::bind(config).expect("a free port");
    let url = format!("http://{}", nameservice.addr());
    let (ended, ()) = tokio::join!(nameservice.run(all.clone()), async {
        come_and_go(url).await;
        all.begin();
    });
    ended.expect("leaves in good order");
}

async fn come_and_go(url: String) {
    let mut client = NameServiceClient::new(rpc::channel(&url).expect("a url"));
    let mut builder = Worker::builder();
    for name in TYPES {
        builder = builtin::register(builder, name).expect("a built-in type");
    }
    let config = Config { nameservices: vec![url], ..Config::default() };
    let worker = builder.bind(config).await.expect("a free port");
    let address = worker.addr().to_string();
    let leave = Shutdown::new();
    let worker = tokio::spawn(worker.run(leave.clone()));

    let endpoint = found(&mut client, "wait", 1).await.remove(0);
    let registration = endpoint.registration.expect("an endpoint has its registration");
    assert_eq!((&registration.worker_id, &registration.address), (&address, &address));
    assert!(registration.slots >= 64, "tasks that wait take no core");
    let kinds: Vec<_> = registration.types.iter().map(v1::TaskType::payload).collect();
    assert_eq!(
        kinds,
        [
            v1::PayloadKind::Text,
            v1::PayloadKind::Json,
            v1::PayloadKind::Bytes,
            v1::PayloadKind::Text,
            v1::PayloadKind::Duration,
        ]
    );

    leave.begin();
    worker.await.expect("no panic").expect("leaves in good order");
    found(&mut client, "wait", 0).await;
}

/// Asks until so many workers serve the type.
async fn found(
    client: &mut NameServiceClient<rpc::Channel>,
    name: &str,
    count: usize,
) -> Vec<v1::Endpoint> {
    let asking = async {
        loop {
            let request = v1::LookupRequest { r#type: name.to_owned() };
            if let Ok(answer) = client.lookup(request).await {
                let endpoints = answer.into_inner().endpoints;
                if endpoints.len() == count {
                    return endpoints;
                }
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("the registration changes in time")
}

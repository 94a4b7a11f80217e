//! Asks every registered worker for its health, again and again.
//!
//! A heartbeat says that a worker can reach the nameservice; a probe says that it
//! can be reached. Each probe makes a connection of its own, as a dispatcher would.

use std::time::Duration;

use futures_util::stream::{StreamExt as _, iter};
use rand::RngExt as _;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tracing::debug;

use super::keeper::Handle;
use crate::core::registry::Endpoint;
use crate::rpc::Network;
use crate::shutdown::Shutdown;

/// The time a worker has to connect and answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Probes under way at once: descriptors, and at most 32 dead workers a second.
const AT_ONCE: usize = 32;
/// Bytes of an answer: one number.
const ANSWER_BYTES: usize = 4 << 10;

/// Probes in rounds, about a third of a TTL apart, until `shutdown` begins.
pub(super) async fn run(handle: Handle, network: Network, ttl: Duration, shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.begun() => {}
        () = rounds(&handle, &network, ttl / 3) => {}
    }
}

async fn rounds(handle: &Handle, network: &Network, interval: Duration) {
    loop {
        // Jitter keeps several nameservices from probing in step.
        let pause = interval.mul_f32(rand::rng().random_range(0.8..1.2));
        sleep(pause).await;
        let Ok(snapshot) = handle.list().await else { return };
        iter(snapshot.endpoints)
            .for_each_concurrent(AT_ONCE, |endpoint| probe(handle, network, endpoint))
            .await;
    }
}

async fn probe(handle: &Handle, network: &Network, endpoint: Endpoint) {
    let registration = endpoint.registration;
    let answer = timeout(PATIENCE, answers(network, &registration.address)).await;
    let answered = answer.is_ok_and(|serving| serving);
    if !answered {
        debug!(worker = %registration.worker, address = %registration.address, "probe failed");
    }
    let worker = registration.worker.clone();
    if handle.probed(worker, registration.incarnation, answered).await.is_err() {
        debug!("a probe came back while the nameservice was ending");
    }
}

/// A worker without `grpc.health.v1` answers too, in its way.
async fn answers(network: &Network, address: &str) -> bool {
    let Ok(channel) = network.foreign_channel(address) else { return false };
    let mut client = HealthClient::new(channel)
        .max_decoding_message_size(ANSWER_BYTES)
        .max_encoding_message_size(ANSWER_BYTES);
    match client.check(HealthCheckRequest::default()).await {
        Ok(answer) => answer.into_inner().status() == ServingStatus::Serving,
        Err(status) => status.code() == Code::Unimplemented,
    }
}

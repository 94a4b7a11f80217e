//! What came of a world, as its process tells it: a line of JSON.

use serde::{Deserialize, Serialize};

/// Figures, digests, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Told {
    pub(crate) seed: u64,
    /// How long it lasted, in its own time.
    pub(crate) virtual_ms: u64,
    /// A digest of every byte on the network, with its time and its fate.
    pub(crate) network: String,
    /// A digest of all that clients and workers wrote down.
    pub(crate) history: String,
    /// Messages.
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) held: u64,
    /// What the director did.
    pub(crate) cuts: u64,
    pub(crate) holds: u64,
    pub(crate) slow_links: u64,
    pub(crate) lossy_links: u64,
    pub(crate) dispatcher_crashes: u64,
    /// With tasks open or submits under way.
    pub(crate) dispatcher_crashes_at_work: u64,
    pub(crate) disk_failures: u64,
    pub(crate) worker_crashes: u64,
    /// With handlers running.
    pub(crate) worker_crashes_at_work: u64,
    pub(crate) nameservice_crashes: u64,
    pub(crate) drains: u64,
    /// What it came to.
    pub(crate) receipted: u64,
    pub(crate) unknown: u64,
    pub(crate) executions: u64,
    pub(crate) again: u64,
    pub(crate) cancelled: u64,
    pub(crate) lost_executions: u64,
    pub(crate) stale: u64,
    pub(crate) wrong: Vec<String>,
}

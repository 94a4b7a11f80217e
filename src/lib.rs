//! TaskGrid: a distributed task system in one executable.

pub mod cli;
pub mod client;
pub mod clock;
pub mod core;
pub mod rpc;
pub mod security;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod wire;

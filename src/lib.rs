//! TaskGrid: a distributed task system in one executable.

pub mod clock;
pub mod core;
pub mod discovery;
pub mod nameservice;
pub mod rpc;
pub mod security;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod wire;
pub mod worker;

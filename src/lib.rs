//! TaskGrid: a distributed task system in one executable.

pub mod client;
pub mod clock;
pub mod core;
pub mod shutdown;
pub mod store;
pub mod wire;

//! TaskGrid: a distributed task system in one executable.
//!
//! The public face is [`client::Client`], [`worker::Worker`] with
//! [`worker::Handler`], and [`testing::Grid`]; the roles ([`nameservice`],
//! [`dispatcher`], [`monitor`]) and [`grid::Grid`] can be embedded as well. The other modules are
//! what these are made of, in reading order from the rules to the wire.

pub mod client;
pub mod worker;

pub mod grid;
pub mod testing;

pub mod dispatcher;
pub mod monitor;
pub mod nameservice;

pub mod discovery;
pub mod http;
pub mod store;

pub mod core;

pub mod metrics;

pub mod clock;
pub mod rpc;
pub mod security;
pub mod shutdown;
pub mod telemetry;
pub mod wire;

pub mod cli;

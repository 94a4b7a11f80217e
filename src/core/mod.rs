//! The rules of the grid, without a clock, a socket, a disk or a die.
//!
//! What happens to a task is decided in [`queue`] and [`task`]: `decide` turns a
//! command into an event or refuses it, `apply` folds an event in and cannot
//! fail, so that a log of events replays. Where a task goes is decided in
//! [`placement`]; who is registered in [`registry`]. Time, randomness and bytes
//! are arguments. Nothing here imports anything else of the crate, logs, waits,
//! or depends on the order of a hash map; a test enforces it.

pub mod id;
pub mod limits;
pub mod number_map;

pub mod payload;
pub mod task_type;

pub mod event;
pub mod retry;
pub mod task;

pub mod ended;
pub mod ids;
pub mod lanes;
pub mod leases;
pub mod notes;
pub mod queue;

pub mod breaker;
pub mod directory;
pub mod keys;
pub mod placement;
pub mod registry;
pub mod retention;

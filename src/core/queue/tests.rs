//! The lifecycle of tasks, told as scripts and searched for what must never be.

mod budgets;
mod cancel;
mod fencing;
mod properties;
mod restart;
mod script;
mod world;

//! The loop, driven through its handle: a real runtime and clock, a store in memory
//! whose commits a test can hold back or fail, and workers that are the two ends of
//! a pipe.

mod accepting;
mod assigning;
mod durable;
mod ending;
mod full;
mod gated;
mod leases;
mod loading;
mod restart;
mod retention;
mod settling;
mod waiting;
mod watching;
mod world;

//! The `taskgrid` executable.

fn main() {}

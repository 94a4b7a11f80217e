//! Compiles `proto/` without a `protoc`: protox is one in Rust.

use std::path::Path;

use prost::Message as _;

const PROTOS: [&str; 4] = [
    "taskgrid/v1/task.proto",
    "taskgrid/v1/nameservice.proto",
    "taskgrid/v1/dispatcher.proto",
    "taskgrid/v1/worker.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    #[expect(clippy::disallowed_methods, reason = "the only way cargo tells a build script")]
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("taskgrid.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".taskgrid.v1").compile_fds(descriptors)?;
    Ok(())
}

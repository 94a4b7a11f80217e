//! Compiles `proto/` without a `protoc`: protox is one in Rust.

use std::path::Path;

use prost::Message as _;

const PROTOS: [&str; 5] = [
    "taskgrid/v1/task.proto",
    "taskgrid/v1/nameservice.proto",
    "taskgrid/v1/dispatcher.proto",
    "taskgrid/v1/worker.proto",
    "taskgrid/v1/monitor.proto",
];

/// What the monitor shows as JSON as well.
const SHOWN: [&str; 4] = ["GridStats", "WorkerFigures", "TypeFigures", "StatsSource"];
/// Enums in them, which are numbers on the wire and names in JSON.
const NAMED: [(&str, &str); 2] = [("health", "health"), ("link", "link_state")];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    #[expect(clippy::disallowed_methods, reason = "the only way cargo tells a build script")]
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("taskgrid.v1.bin"), descriptors.encode_to_vec())?;
    let mut code = tonic_prost_build::configure().bytes(".taskgrid.v1");
    for message in SHOWN {
        code =
            code.type_attribute(format!(".taskgrid.v1.{message}"), "#[derive(::serde::Serialize)]");
    }
    for (field, function) in NAMED {
        code = code.field_attribute(
            format!(".taskgrid.v1.WorkerFigures.{field}"),
            format!("#[serde(serialize_with = \"crate::wire::json::{function}\")]"),
        );
    }
    code.compile_fds(descriptors)?;
    Ok(())
}

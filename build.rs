//! Compiles all of `proto/` without a `protoc`: protox is one in Rust.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message as _;

/// The messages of task types, which a payload may also hold as JSON.
const TYPES: &str = ".taskgrid.types";
/// What the monitor shows as JSON as well.
const SHOWN: [&str; 4] = ["GridStats", "WorkerFigures", "TypeFigures", "StatsSource"];
/// Enums in them, which are numbers on the wire and names in JSON.
const NAMED: [(&str, &str); 2] = [("health", "health"), ("link", "link_state")];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut protos = Vec::new();
    find("proto".as_ref(), &mut protos)?;
    let descriptors = protox::compile(protos, ["proto"])?;
    #[expect(clippy::disallowed_methods, reason = "the only way cargo tells a build script")]
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("taskgrid.v1.bin"), descriptors.encode_to_vec())?;
    let mut code = tonic_prost_build::configure()
        .bytes(".taskgrid")
        .codec_path("crate::wire::codec::Codec")
        .type_attribute(TYPES, "#[derive(::serde::Serialize, ::serde::Deserialize)]")
        .message_attribute(TYPES, "#[serde(default)]")
        .include_file("contract.rs");
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

fn find(folder: &Path, protos: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, protos)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            protos.push(path);
        }
    }
    protos.sort();
    Ok(())
}

//! The rules of the house, read from the source: who may import whom, what the core
//! may not touch, how long a file may grow, what a test may not do, which words a
//! name may not have, and that the contract is commented.
//!
//! Each rule is a function from a text to its complaints, and each test shows first
//! that a bad text is complained about. What the compiler and clippy see is theirs.

#[path = "house/imports.rs"]
mod imports;
#[path = "house/source.rs"]
mod source;

use source::{Code, File};

/// No file is longer: one subject fits.
const FILE_LINES: usize = 600;
/// No function has more lines of code: it fits a screen.
const FUNCTION_LINES: usize = 70;

#[test]
fn modules_import_only_from_below() {
    assert_eq!(imports::complaints(&sample("src/client/x.rs", "use crate::wire::v1;")), [""; 0]);
    for (path, bad) in [
        ("src/worker/mod.rs", "use crate::store::Store;"),
        ("src/client/call.rs", "fn f() { crate::dispatcher::run() }"),
        ("src/nameservice/mod.rs", "use crate::dispatcher::Config;"),
        ("src/nameservice/mod.rs", "use crate::store;"),
        ("src/dispatcher/mod.rs", "use super::monitor::Stats;"),
        ("src/dispatcher/a/b.rs", "use super::super::super::grid;"),
        ("src/rpc/mod.rs", "use crate::{core::id, store::{self, Error}};"),
        ("src/store/mod.rs", "mod tests { use super::super::rpc; }"),
        ("src/core/mod.rs", "use crate::clock::Clock;"),
        ("src/wire/mod.rs", "use crate::shutdown::Shutdown;"),
        ("src/worker/mod.rs", "use crate::client::Client;"),
        ("src/worker/mod.rs", "use crate::Client;"),
        ("src/rpc/mod.rs", "use crate::*;"),
        ("src/attic/mod.rs", ""),
        ("src/lib.rs", "pub mod attic;"),
        ("src/main.rs", "use taskgrid::attic;"),
    ] {
        assert_ne!(imports::complaints(&sample(path, bad)), [""; 0], "{path}: {bad}");
    }
    for (path, fine) in [
        ("src/main.rs", "mod cli; use taskgrid::{dispatcher, nameservice}; use crate::cli;"),
        ("src/lib.rs", "pub mod core; pub use client::Client;"),
        (
            "src/clock.rs",
            "// use crate::grid;\nmod tests { use super::*; use super::super::core; }",
        ),
        ("src/store/mod.rs", "const A: &str = \"crate::rpc\"; pub(crate) use super::core::id;"),
        ("src/dispatcher/a.rs", "use super::b; use crate::dispatcher::{b, c}; use crate::store;"),
    ] {
        assert_eq!(imports::complaints(&sample(path, fine)), [""; 0], "{path}: {fine}");
    }
    nothing_in(&source::rust(&["src"]), imports::complaints);
}

#[test]
fn the_core_is_pure() {
    for bad in [
        "use std::time::{Duration, Instant};",
        "fn f() -> std::time::SystemTime {}",
        "use std::{collections, fs};",
        "use std::net::SocketAddr;",
        "use std::thread;",
        "fn f() { std::env::args(); }",
        "use tokio::sync::mpsc;",
        "fn f() { tracing::info!(\"x\"); }",
        "fn f() { rand::random() }",
        "async fn f() {}",
        "fn f() { println!(); }",
    ] {
        assert_ne!(impure(&sample("src/core/x.rs", bad)), [""; 0], "{bad}");
    }
    let fine = "//! tokio\nuse std::time::Duration; // std::fs\nconst A: &str = \"async\";";
    assert_eq!(impure(&sample("src/core/x.rs", fine)), [""; 0]);
    nothing_in(&source::rust(&["src/core"]), impure);
}

#[test]
fn files_and_functions_fit() {
    let long = |lines: usize| "let a = 1;\n".repeat(lines);
    let file = sample("src/x.rs", &long(FILE_LINES + 1));
    assert_ne!(oversize(&file), [""; 0]);
    let function = |lines| sample("src/x.rs", &format!("fn f() {{\n{}}}\n", long(lines)));
    assert_ne!(oversize(&function(FUNCTION_LINES + 1)), [""; 0]);
    assert_eq!(oversize(&function(FUNCTION_LINES)), [""; 0]);
    let remarks = format!("fn f() {{\n{}}}\n", "// why\n\n".repeat(FUNCTION_LINES));
    assert_eq!(oversize(&sample("src/x.rs", &remarks)), [""; 0]);
    nothing_in(&source::rust(&["src", "tests", "examples", "benches"]), oversize);
}

#[test]
fn tests_run_all_of_them_and_wait_for_conditions() {
    for bad in [
        "#[test]\n#[ignore]\nfn f() {}",
        "#[ignore = \"slow\"]\nfn f() {}",
        "fn f() { todo!() }",
        "async fn f() { tokio::time::sleep(a).await; }",
        "use std::thread::sleep;",
    ] {
        assert_ne!(lazy(&sample("tests/x.rs", bad)), [""; 0], "{bad}");
    }
    let fine = "// sleep\nfn f() { a.ignore(); wait_until(\"#[ignore] sleep todo!\") }";
    assert_eq!(lazy(&sample("tests/x.rs", fine)), [""; 0]);
    nothing_in(&source::rust(&["src", "tests", "examples", "benches"]), lazy);
}

#[test]
fn names_say_what_a_thing_is() {
    for bad in [
        "struct QueueManager;",
        "enum JobState {}",
        "trait StoreHelper {}",
        "mod utils;",
        "pub mod common {}",
        "type Broker = ();",
    ] {
        assert_ne!(vague(&sample("src/x.rs", bad)), [""; 0], "{bad}");
    }
    for path in ["src/util.rs", "src/core/common/mod.rs", "tests/helpers.rs"] {
        assert_ne!(vague(&sample(path, "")), [""; 0], "{path}");
    }
    let fine = "struct Utility; mod commonplace; // struct Manager\nfn job() {}";
    assert_eq!(vague(&sample("src/x.rs", fine)), [""; 0]);
    nothing_in(&source::rust(&["src", "tests", "examples", "benches"]), vague);
}

#[test]
fn the_contract_is_commented_line_by_line() {
    for bad in [
        "message A {}",
        "// A.\nmessage A {\n  string b = 1;\n}",
        "// A.\nmessage A {\n  oneof b {\n    // C.\n    string c = 1;\n  }\n}",
        "// A.\nenum A {\n  A_B = 0;\n}",
        "// A.\nservice A {\n  rpc B(C) returns (D);\n}",
        "// A.\nmessage A {\n  // B.\n  string b = 1;\n  map<string, string> c = 2;\n}",
        "// Apart.\n\nmessage A {}",
    ] {
        assert_ne!(uncommented(&File::new("proto/x.proto", bad)), [""; 0], "{bad}");
    }
    let fine =
        "syntax = \"proto3\";\n// A.\nmessage A {\n  reserved 2;\n  // B.\n  string b = 1;\n}";
    assert_eq!(uncommented(&File::new("proto/x.proto", fine)), [""; 0]);
    nothing_in(&source::files(&["proto"], "proto"), uncommented);
}

/// What the core must not touch: time, randomness, the system, other threads.
fn impure(file: &File) -> Vec<String> {
    let code = Code::of(&file.text);
    let std = code.paths("std").into_iter().filter(|path| {
        let banned = ["fs", "net", "thread", "env", "process", "io", "os"];
        let first = path.names.get(1).map(String::as_str);
        let is_clock = path.names.iter().any(|name| name == "Instant" || name == "SystemTime");
        is_clock || first.is_some_and(|name| banned.contains(&name))
    });
    let std = std.map(|path| format!("{}:{}: {}", file.path, path.line, path.names.join("::")));
    let banned = [
        "tokio",
        "tracing",
        "rand",
        "async",
        "await",
        "println",
        "eprintln",
        "print",
        "eprint",
        "dbg",
        "Instant",
        "SystemTime",
    ];
    std.chain(file.words(&code, &banned)).collect()
}

fn oversize(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    let too_long = format!("{}: {lines} lines, at most {FILE_LINES}", file.path);
    let functions = Code::of(&file.text).functions().into_iter();
    let functions = functions.filter(|function| function.lines > FUNCTION_LINES).map(|function| {
        format!("{}:{}: {} has {} lines", file.path, function.line, function.name, function.lines)
    });
    (lines > FILE_LINES).then_some(too_long).into_iter().chain(functions).collect()
}

/// Tests that do not run, code that is not there, and waits that are guesses.
fn lazy(file: &File) -> Vec<String> {
    let code = Code::of(&file.text);
    let mut complaints = file.words(&code, &["todo", "unimplemented"]);
    let ignored = code.attributes("ignore");
    complaints.extend(ignored.iter().map(|line| format!("{}:{line}: ignored", file.path)));
    if file.path.starts_with("tests/") {
        complaints.extend(file.words(&code, &["sleep", "sleep_until", "sleep_ms"]));
    }
    complaints
}

/// Names of types, modules and files with a word that says nothing.
fn vague(file: &File) -> Vec<String> {
    let vague = |name: &str| {
        let words = ["manager", "helper", "util", "common", "job", "broker"];
        source::words_of(name).iter().any(|word| {
            words.iter().any(|vague| word == vague || word.strip_suffix('s') == Some(vague))
        })
    };
    let path = file.path.trim_end_matches(".rs").split('/').filter(|part| vague(part));
    let path = path.map(|part| format!("{}: {part} says nothing", file.path));
    let names = Code::of(&file.text).named(&["struct", "enum", "trait", "type", "mod", "union"]);
    let names = names.into_iter().filter(|(_, name)| vague(name));
    let names = names.map(|(line, name)| format!("{}:{line}: {name} says nothing", file.path));
    path.chain(names).collect()
}

/// Declarations of the contract without a comment right above them.
fn uncommented(file: &File) -> Vec<String> {
    let keywords = ["message ", "enum ", "service ", "rpc ", "oneof "];
    let mut complaints = Vec::new();
    let mut above = "";
    for (at, line) in file.text.lines().map(str::trim).enumerate() {
        let apart = ["syntax ", "package ", "import ", "option ", "reserved ", "//"];
        let is_field = line.contains(" = ") && line.ends_with(';');
        let declares = is_field || keywords.iter().any(|keyword| line.starts_with(keyword));
        let is_apart = apart.iter().any(|word| line.starts_with(word));
        if declares && !is_apart && !above.starts_with("//") {
            complaints.push(format!("{}:{}: {line}", file.path, at + 1));
        }
        above = line;
    }
    complaints
}

fn sample(path: &str, text: &str) -> File {
    File::new(path, text)
}

/// Checks files, of which there must be some.
fn nothing_in(files: &[File], rule: impl Fn(&File) -> Vec<String>) {
    assert!(!files.is_empty(), "nothing was read: the rule would hold of anything");
    let complaints: Vec<String> = files.iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

//! The guide to adding a type, followed to the letter in a copy of this repository: its
//! files are written, its diffs applied, the copy is built, and its commands print what
//! it says they print.
//!
//! The copy is built with the dependencies of this very build, and stays where it is.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall end it")]
#![expect(clippy::print_stderr, reason = "a test tells what it left out")]

#[path = "roles/process.rs"]
#[expect(dead_code, reason = "the other tests of processes need more of it")]
mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use process::{Answer, Process, until};

const GUIDE: &str = "docs/adding-a-type.md";
/// The section that is no step, but changes what the steps made.
const PROTOBUF: &str = "Protobuf instead of JSON";
/// How long a build may take on a slow machine.
const BUILD: Duration = Duration::from_secs(900);

#[test]
fn the_guide_to_adding_a_type_is_right_to_the_letter() {
    if let Some(why) = cannot() {
        eprintln!("NOT RUN: {why}");
        return;
    }
    let mut reader = Reader::new();
    let guide = process::of_this_repository(GUIDE);
    let (steps, rest) = guide.split_once(&format!("## {PROTOBUF}")).unwrap();
    reader.applies(&[]);
    assert_eq!(reader.follows(steps), 3, "it tries the type out");
    reader.applies(&[PROTOBUF]);
    assert_eq!(reader.follows(rest), 1, "it tries protobuf out");
}

/// Somebody who follows the guide in a fresh copy of this repository.
struct Reader {
    copy: PathBuf,
    /// Where the binaries are that the copy was built to.
    built: PathBuf,
    /// What is set beside the guide's words, so that free ports are used.
    settings: Vec<(&'static str, String)>,
    roles: Vec<Process>,
}

impl Reader {
    fn new() -> Self {
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide");
        if copy.exists() {
            fs::remove_dir_all(&copy).unwrap();
        }
        copy_tree(root(), &copy);
        // By another version cargo knows it from the original, which it would replace.
        let manifest = fs::read_to_string(copy.join("Cargo.toml")).unwrap();
        let manifest = manifest.replacen(env!("CARGO_PKG_VERSION"), "0.0.0-guide", 1);
        fs::write(copy.join("Cargo.toml"), manifest).unwrap();
        let built = copy.join("target").join(profile());
        let ports =
            ["TASKGRID_NAMESERVICE_PORT", "TASKGRID_DISPATCHER_PORT", "TASKGRID_WORKER_PORT"];
        let mut settings = ports.map(|name| (name, "0".to_owned())).to_vec();
        let data = copy.join("target/data").display().to_string();
        settings.push(("TASKGRID_DISPATCHER_DATA_DIR", data));
        Self { copy, built, settings, roles: Vec::new() }
    }

    /// Writes the files and applies the diffs of the guide.
    fn applies(&self, heading: &[&str]) {
        let mut apply = Command::new("sh");
        apply.arg(root().join("tests/apply-guide.sh")).arg(root().join(GUIDE)).arg(&self.copy);
        apply.args(heading);
        Process::spawn(apply, b"").answer().prints("");
    }

    /// Types the commands of a text, and counts the outputs that were compared.
    fn follows(&mut self, text: &str) -> usize {
        let mut compared = 0;
        let mut blocks = blocks(text).into_iter().peekable();
        while let Some((language, block)) = blocks.next() {
            if language != "sh" || block.starts_with("docker-compose ") {
                continue;
            }
            let printed: String = block.lines().map(|line| self.types(line)).collect();
            if let Some((_, said)) = blocks.next_if(|(language, _)| *language == "text") {
                assert_eq!(printed, said, "what this prints: {block}");
                compared += 1;
            }
        }
        compared
    }

    /// Types one command, and gives what it prints.
    fn types(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["cargo", "build", "--release"] => self.builds(),
            ["cargo", "run", "--example", example] => {
                self.builds();
                let path = self.built.join("examples").join(example);
                self.shell(path.to_str().unwrap())
            }
            ["taskgrid", "nameservice", ..] => self.role(line, "TASKGRID_NAMESERVICE"),
            ["taskgrid", "dispatcher", ..] => self.role(line, "TASKGRID_DISPATCHER"),
            ["taskgrid", "worker", "--type", name] => {
                let printed = self.role(line, "TASKGRID_WORKER");
                // A person is slower than a registration.
                until("known type", || {
                    let known = self.shell("taskgrid client types -o id");
                    known.lines().any(|known| known == name).then_some(())
                });
                printed
            }
            ["taskgrid", "client", ..] => self.shell(line),
            _ => panic!("the guide says {line:?}, which nobody checks"),
        }
    }

    fn shell(&self, line: &str) -> String {
        let Answer { stdout, stderr, .. } = self.start(line).answer();
        stderr + &stdout
    }

    /// Starts a role; others find it by the variable.
    fn role(&mut self, line: &str, variable: &'static str) -> String {
        let role = self.start(&format!("exec {line}"));
        self.settings.push((variable, role.addr().to_string()));
        self.roles.push(role);
        String::new()
    }

    fn start(&self, line: &str) -> Process {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("PATH='{}':$PATH; {line}", self.built.display()));
        shell.current_dir(&self.copy).env_clear().envs(self.settings.iter().cloned());
        Process::spawn(shell, b"")
    }

    /// Builds the copy as these tests were built, whose dependencies are there.
    fn builds(&self) -> String {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--offline", "--bins", "--examples"]);
        cargo.args((profile() == "release").then_some("--release"));
        cargo
            .env("CARGO_BUILD_BUILD_DIR", target)
            .env("CARGO_TARGET_DIR", self.copy.join("target"));
        cargo.current_dir(&self.copy);
        let built = Process::spawn(cargo, b"").answer_within(BUILD);
        assert_eq!(built.code, Some(0), "{}", built.stderr);
        assert!(!built.stderr.contains("warning: `taskgrid`"), "{}", built.stderr);
        String::new()
    }
}

/// Why the guide cannot be followed here, if it cannot.
fn cannot() -> Option<&'static str> {
    if Command::new("git").arg("--version").output().is_err() {
        return Some("there is no git to apply the guide's diffs with");
    }
    let was_followed = root().join("proto/taskgrid/types/v1/words.proto").exists();
    was_followed.then_some("the guide was followed here already")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

/// The blocks of a text, each with its language.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let fenced = text.split("```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').unwrap()).collect()
}

/// Copies what git would have: no builds, no data, no history.
fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        if ["target", "taskgrid-data", "logs", ".git"].iter().any(|skipped| name == *skipped) {
            continue;
        }
        if path.is_dir() {
            copy_tree(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

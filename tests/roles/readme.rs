//! What the README says to type works.

use std::net::SocketAddr;
use std::process::Command;

use super::grid::{Grid, TYPES};
use super::http::{self, http_addr};
use super::process::{Answer, Process, of_this_repository, taskgrid};

/// Of [`super`]'s manual: somebody else listens on the usual ports.
const CONFLICT: i32 = 8;

#[test]
fn the_commands_of_the_readme_succeed() {
    let readme = of_this_repository("README.md");
    let mut ran = 0;
    for block in blocks(&readme) {
        let mut reader = Reader::new();
        for command in block {
            ran += usize::from(reader.types(&command));
        }
        reader.leaves();
    }
    assert!(ran >= 8, "only {ran} commands were found in the README");
}

/// Somebody who follows one block of the README in a directory with the files that it
/// speaks of.
struct Reader {
    dir: tempfile::TempDir,
    /// What is set beside the README's words, so that free ports are used where a
    /// command does not name its port.
    settings: Vec<(&'static str, String)>,
    roles: Vec<Process>,
    /// In place of a grid on the usual ports, where those are taken.
    grid: Option<Grid>,
    /// Where the monitor answers over HTTP.
    page: Option<SocketAddr>,
}

impl Reader {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Cargo.toml"), of_this_repository("Cargo.toml")).unwrap();
        let tasks = "{\"type\":\"sum\",\"payload\":[1,2]}\n{\"type\":\"hash\",\"payload\":\"x\"}\n";
        std::fs::write(dir.path().join("tasks.ndjson"), tasks).unwrap();
        let ports = [
            "TASKGRID_NAMESERVICE_PORT",
            "TASKGRID_DISPATCHER_PORT",
            "TASKGRID_WORKER_PORT",
            "TASKGRID_MONITOR_PORT",
            "TASKGRID_MONITOR_HTTP_PORT",
        ];
        let settings = ports.map(|name| (name, "0".to_owned())).to_vec();
        Self { dir, settings, roles: Vec::new(), grid: None, page: None }
    }

    /// Types a command; false for one that is not of this program.
    fn types(&mut self, command: &[String]) -> bool {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let arguments = match &words[..] {
            ["taskgrid", arguments @ ..] | ["cargo", "run", "--release", "--", arguments @ ..] => {
                arguments
            }
            ["cargo", "test"] => return false,
            ["curl", "-s", url] => return self.reads(url),
            // Containers have a test of their own, which needs an engine.
            ["docker-compose", "up", "--build" | "test-client"] => {
                let script = of_this_repository("tests/containers.sh");
                for typed in ["\"${compose[@]}\" up -d", "up -d test-client", "build\n"] {
                    assert!(script.contains(typed), "{typed:?} is not in the containers' test");
                }
                return false;
            }
            other => panic!("the README says {other:?}, which nobody checks"),
        };
        match arguments {
            ["up", .., "--once"] => drop(self.succeeds_or_finds_ports_taken(arguments)),
            ["up", ..] => self.up(arguments),
            ["monitor", ..] => {
                self.role(arguments, "TASKGRID_MONITOR_UNUSED");
                self.page = self.roles.last().map(http_addr);
            }
            ["nameservice", ..] => self.role(arguments, "TASKGRID_NAMESERVICE"),
            ["dispatcher", ..] => self.role(arguments, "TASKGRID_DISPATCHER"),
            ["worker", ..] => self.role(arguments, "TASKGRID_WORKER_UNUSED"),
            ["client", ..] => {
                self.start(arguments).answer().succeeds();
            }
            ["store", "verify", "--data-dir", dir] => {
                // One whose dispatcher has ended.
                let dispatcher = self.start(&["dispatcher", "--data-dir", dir]);
                dispatcher.addr();
                dispatcher.terminate();
                dispatcher.answer().succeeds();
                self.start(arguments).answer().succeeds();
            }
            other => panic!("the README says taskgrid {other:?}, which nobody checks"),
        }
        true
    }

    /// Starts a role; others find it by the variable.
    fn role(&mut self, arguments: &[&str], variable: &'static str) {
        let role = self.start(arguments);
        self.settings.push((variable, role.addr().to_string()));
        self.roles.push(role);
    }

    /// Reads from the monitor, wherever it had to listen.
    fn reads(&self, url: &str) -> bool {
        let (_, path) = url.split_once("8080").unwrap();
        let Some(page) = self.page else {
            eprintln!("NOT RUN: curl -s {url}: there is no monitor");
            return false;
        };
        let (status, body) = http::get(page, path);
        assert_eq!(status, 200, "{url}: {body}");
        true
    }

    /// A grid on the usual ports, or elsewhere where those are taken.
    fn up(&mut self, arguments: &[&str]) {
        let up = self.start(arguments);
        // Its last line, whether it is up or not.
        let is_up = up.told(|text| {
            let lines = text.lines().filter(|line| text.ends_with('\n') && !line.is_empty());
            let mut ends = lines.filter_map(|line| {
                let is_up = line.starts_with("try: ");
                (is_up || line.starts_with("error: ")).then_some(is_up)
            });
            ends.next()
        });
        if is_up {
            let address = up.told(|text| {
                let mut words = text.split_whitespace().skip_while(|word| *word != "dispatcher");
                words.nth(1).map(str::to_owned)
            });
            self.settings.push(("TASKGRID_DISPATCHER", address));
            self.page = up.told(|text| {
                let (_, rest) = text.split_once("page           http://")?;
                Some(rest.split_once('/')?.0.parse().ok())
            });
            self.roles.push(up);
        } else {
            found_ports_taken(&up.answer());
            let grid = Grid::with_workers(&TYPES);
            self.settings.push(("TASKGRID_DISPATCHER", grid.dispatcher_addr.to_string()));
            self.grid = Some(grid);
        }
    }

    fn succeeds_or_finds_ports_taken(&self, arguments: &[&str]) -> Answer {
        let answer = self.start(arguments).answer();
        if answer.code != Some(0) {
            found_ports_taken(&answer);
        }
        answer
    }

    fn start(&self, arguments: &[&str]) -> Process {
        let mut command: Command = taskgrid(arguments);
        command.current_dir(self.dir.path()).envs(self.settings.iter().cloned());
        Process::spawn(command, b"")
    }

    /// Ends what runs, last started first, as Ctrl-C would.
    fn leaves(mut self) {
        while let Some(role) = self.roles.pop() {
            role.terminate();
            role.answer().succeeds();
        }
    }
}

/// The one failure that tells of the machine and not of the README.
fn found_ports_taken(answer: &Answer) {
    assert_eq!(answer.code, Some(CONFLICT), "{answer:?}");
    eprintln!("NOT RUN: taskgrid {}: {}", answer.name, answer.stderr.trim());
}

/// The commands of each block of shell.
fn blocks(text: &str) -> Vec<Vec<Vec<String>>> {
    let blocks = text.split("```sh\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap_or_default());
    let commands = |block: &str| {
        let commands = block.lines().map(words).filter(|words| !words.is_empty());
        commands.collect()
    };
    blocks.map(commands).collect()
}

/// The words of a line as a shell takes them: double quotes, and comments.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for letter in line.chars() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            '#' if !quoted && word.is_none() => break,
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[test]
fn commands_are_read_as_a_shell_reads_them() {
    assert_eq!(words(r#"a "[1, #2]"  b#c   # d"#), ["a", "[1, #2]", "b#c"]);
    assert_eq!(words("# nothing"), [""; 0]);
    let text = "```text\nx\n```\n```sh\na 1\n\nb\n```\nand\n```sh\nc\n```\n";
    assert_eq!(blocks(text), [vec![vec!["a", "1"], vec!["b"]], vec![vec!["c"]]]);
}

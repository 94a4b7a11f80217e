//! A process that is killed while it appends.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::super::{Durability, Embedded};
use crate::core::event::Event;
use crate::core::task::Change;
use crate::store::Store;
use crate::store::conformance::samples::{changed, group, submitted};

/// Where the child is to append, and how durably.
const DIRECTORY: &str = "TASKGRID_TEST_APPEND_IN";
const DURABILITY: &str = "TASKGRID_TEST_APPEND_AS";
/// Tasks in each group of the child.
const TASKS: u64 = 7;
/// Groups after which the child is killed.
const ENOUGH: usize = 40;
/// Groups after which the child gives up waiting to be killed.
const GROUPS: u64 = 100_000;

#[test]
fn a_killed_process_loses_no_group_that_was_stored_and_splits_none() {
    for durability in [Durability::Sync, Durability::Os] {
        let dir = TempDir::new().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("store::embedded::tests::crash::the_child_that_appends")
            .env(DIRECTORY, dir.path())
            .env(DURABILITY, durability.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut told: Vec<u64> = Vec::new();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            // The first one may follow the test's name on its line.
            let Some((_, group)) = line.split_once("stored ") else { continue };
            // The last one may be cut.
            told.extend(group.parse::<u64>());
            if told.len() == ENOUGH {
                child.kill().unwrap();
            }
        }
        let end = child.wait().unwrap();
        assert!(!end.success() && told.len() >= ENOUGH, "{end}, {} groups", told.len());

        let store = Embedded::open(dir.path(), durability).unwrap();
        let (mut tasks, mut events) = (0, 0);
        let recovered = store
            .scan(&mut |event| match event {
                Event::Submitted { .. } => tasks += 1,
                Event::Changed(_) => events += 1,
                other => panic!("nobody stored {other:?}"),
            })
            .unwrap();
        let last = recovered.last_id.unwrap().0;
        assert_eq!((tasks, events), (last, last), "{durability}: all there, to the last");
        assert_eq!(last % TASKS, 0, "{durability}: whole groups only");
        let last_told = told.iter().max().unwrap();
        assert!(last / TASKS >= *last_told, "{durability}: {last} tasks, told {last_told}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the environment is how a test tells its child")]
/// Runs in a process of its own, started by the test above; elsewhere it has nothing to do.
fn the_child_that_appends() {
    let Some(dir) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let durability = std::env::var(DURABILITY).unwrap().parse().unwrap();
    let store = Embedded::open(&dir, durability).unwrap();
    for number in 0..GROUPS {
        let ids = number * TASKS + 1..=(number + 1) * TASKS;
        let entries =
            ids.flat_map(|id| [submitted(id, &[1; 300]), changed(id, id, None, Change::Completed)]);
        let group = group(entries);
        // As the dispatcher does.
        let stored = store.append_at_once(&group).unwrap_or_else(|| store.append(&group));
        stored.unwrap();
        println!("stored {}", number + 1);
        std::io::stdout().flush().unwrap();
    }
}

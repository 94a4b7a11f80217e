//! `taskgrid client status`: a task, and the story of its attempts.

use std::fmt::Write as _;

use clap::Args;

use super::super::exit::{Exit, Failure};
use super::super::output::{self, Format};
use super::{Ids, print_tasks, tasks};
use crate::client::{AttemptView, Client, GetOptions, TaskView};
use crate::core::id::{Timestamp, millis};
use crate::core::task::Status;

/// Characters of a payload, a result or an error that are shown.
const SHOWN: usize = 200;

/// Show tasks and the stories of their attempts
#[derive(Debug, Args)]
pub(super) struct StatusOf {
    #[command(flatten)]
    ids: Ids,
}

impl StatusOf {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<Exit, Failure> {
        let ids = self.ids.list();
        let options = GetOptions { story: true, ..GetOptions::default() };
        let mut exit = Exit::Done;
        let tasks = tasks(client.get(&ids, options).await?, &mut exit);
        match format {
            Format::Text => {
                let shown: Vec<String> = tasks.iter().map(describe).collect();
                output::print(shown.join("\n").as_bytes())?;
            }
            Format::Json | Format::Ndjson | Format::Id => {
                print_tasks(&tasks, format, ids.len() == 1)?;
            }
        }
        Ok(exit)
    }
}

/// A task for people, several lines.
fn describe(task: &TaskView) -> String {
    let mut lines = vec![
        ("task", format!("{} {}", task.id, task.type_name)),
        ("status", status(task)),
        ("payload", output::cell(&task.payload, SHOWN)),
    ];
    if let Some(result) = &task.result {
        lines.push(("result", output::cell(result, SHOWN)));
    }
    if !task.error.is_empty() {
        lines.push(("error", output::cell(task.error.as_bytes(), SHOWN)));
    }
    lines.push(("created", output::moment(task.timestamp_created)));
    if task.status == Status::Pending && task.timestamp_run_at > task.timestamp_created {
        lines.push(("not before", output::moment(task.timestamp_run_at)));
    }
    if let Some(at) = task.timestamp_completed {
        let ms = millis(at.since(task.timestamp_created));
        lines.push(("ended", format!("{} ({ms} ms after)", output::moment(at))));
    }
    if !task.worker.is_empty() {
        lines.push(("worker", output::cell(task.worker.as_bytes(), SHOWN)));
    }
    lines.push(("priority", task.priority.to_string()));
    lines.push(("attempts", task.attempts.to_string()));
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a String cannot fail.
        writeln!(text, "{name:<12}{value}").ok();
    }
    if !task.story.is_empty() {
        text.push('\n');
        text.push_str(&story(&task.story));
        text.push('\n');
    }
    text
}

fn status(task: &TaskView) -> String {
    match task.reason {
        Some(reason) => format!("{} ({})", task.status.as_str(), reason.as_str()),
        None => task.status.as_str().to_owned(),
    }
}

fn story(story: &[AttemptView]) -> String {
    let rows = story.iter().map(|line| {
        let number = if line.attempt == 0 { String::new() } else { line.attempt.to_string() };
        let ended = match (line.timestamp_ended, line.reason) {
            (None, _) => "running".to_owned(),
            (Some(_), Some(reason)) => reason.as_str().to_owned(),
            (Some(_), None) if line.attempt == 0 => "retried".to_owned(),
            (Some(_), None) => line.status.as_str().to_owned(),
        };
        [
            number,
            output::cell(line.worker.as_bytes(), SHOWN),
            line.timestamp_started.or(line.timestamp_ended).map(output::moment).unwrap_or_default(),
            took(line.timestamp_started, line.timestamp_ended),
            ended,
            output::cell(line.error.as_bytes(), SHOWN),
        ]
    });
    output::table(["ATTEMPT", "WORKER", "WHEN", "TOOK", "END", "ERROR"], rows)
}

fn took(started: Option<Timestamp>, ended: Option<Timestamp>) -> String {
    match (started, ended) {
        (Some(started), Some(ended)) => format!("{} ms", millis(ended.since(started))),
        (None, _) | (_, None) => String::new(),
    }
}

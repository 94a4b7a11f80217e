//! `taskgrid client watch`: what happens to tasks, as it happens.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;

use super::super::exit::{Exit, Failure};
use super::super::output::{self, Format};
use crate::client::json::{Texts, some};
use crate::client::{Client, Event, GetOptions, Watch};
use crate::core::id::TaskId;
use crate::core::limits;
use crate::core::task::{Reason, Status};

/// Characters of a result or an error that are shown.
const SHOWN: usize = 80;

/// Watch what happens to tasks, until interrupted, or until the named ones have ended
#[derive(Debug, Args)]
pub(super) struct WatchFlags {
    /// Only these tasks
    #[arg(value_name = "ID")]
    ids: Vec<u64>,
    /// Only tasks submitted under this group
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    group: u64,
    /// Only events that end a task
    #[arg(long)]
    ends_only: bool,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    id: u64,
    status: &'static str,
    timestamp: u64,
    attempt: u32,
    result: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    error: Option<&'a str>,
    reason: Option<&'static str>,
    worker: Option<&'a str>,
}

impl WatchFlags {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<Exit, Failure> {
        if self.ids.len() > limits::WATCH_IDS {
            return Err(Failure::new(Exit::WrongInput, "at most 10,000 tasks can be watched")
                .hint("--group watches any number of tasks that were submitted together"));
        }
        let ids: Vec<TaskId> = self.ids.iter().copied().map(TaskId).collect();
        let watch = Watch {
            group: self.group,
            ids: ids.clone(),
            ends_only: self.ends_only,
            ..Watch::default()
        };
        let mut watching = client.watch(watch).await?;
        let mut exit = Exit::Done;
        // The watch stands: whoever has not ended by this answer will be seen to end.
        let options = GetOptions { omit_payload: true, ..GetOptions::default() };
        let tasks = super::tasks(client.get(&ids, options).await?, &mut exit);
        let mut open: BTreeSet<TaskId> = tasks.iter().map(|task| task.id).collect();
        let ended = tasks.into_iter().filter(|task| task.status.is_terminal());
        let mut events: Vec<Event> = ended.map(super::end_of).collect();
        loop {
            let mut text = Vec::new();
            for event in &events {
                if !ids.is_empty() && !open.contains(&event.id) {
                    // Its end was told, by the answer that said how it stands.
                    continue;
                }
                write_event(&mut text, event, format)?;
                if event.status.is_terminal() {
                    open.remove(&event.id);
                    let counts = event.status != Status::Completed && !ids.is_empty();
                    if counts && exit == Exit::Done {
                        exit = Exit::TaskFailed;
                    }
                }
            }
            output::print(&text)?;
            if !ids.is_empty() && open.is_empty() {
                return Ok(exit);
            }
            events = watching.next().await?.events;
        }
    }
}

fn write_event(text: &mut Vec<u8>, event: &Event, format: Format) -> Result<(), Failure> {
    let line = match format {
        Format::Text => describe(event),
        Format::Id => event.id.to_string(),
        // A stream has no end to close a document with: both are lines.
        Format::Json | Format::Ndjson => return Ok(output::push_json(text, &Row::from(event))?),
    };
    text.extend_from_slice(line.as_bytes());
    text.push(b'\n');
    Ok(())
}

fn describe(event: &Event) -> String {
    let mut words = vec![
        output::moment(event.timestamp),
        format!("task {}", event.id),
        event.status.as_str().to_owned(),
    ];
    if event.attempt > 0 {
        words.push(format!("attempt {}", event.attempt));
    }
    if !event.worker.is_empty() {
        words.push(output::cell(event.worker.as_bytes(), SHOWN));
    }
    if let Some(reason) = event.reason {
        words.push(reason.as_str().to_owned());
    }
    if !event.error.is_empty() {
        words.push(output::cell(event.error.as_bytes(), SHOWN));
    }
    if let Some(result) = &event.result {
        words.push(output::cell(result, SHOWN));
    }
    words.join("  ")
}

impl<'a> From<&'a Event> for Row<'a> {
    fn from(event: &'a Event) -> Self {
        let texts = Texts::new(None, event.result.as_deref());
        Self {
            id: event.id.0,
            status: event.status.as_str(),
            timestamp: event.timestamp.0,
            attempt: event.attempt,
            result: texts.result,
            encoding: texts.encoding,
            error: some(&event.error),
            reason: event.reason.map(Reason::as_str),
            worker: some(&event.worker),
        }
    }
}

//! `taskgrid client list`: tasks by status and type, newest first.

use clap::{Args, ValueEnum};

use super::super::exit::{Exit, Failure};
use super::super::output::{self, Format};
use crate::client::json::TaskJson;
use crate::client::{Client, ListOptions, TaskView};
use crate::core::limits;
use crate::core::task::Status;

/// List tasks, newest first
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only tasks in this status
    #[arg(long, value_enum)]
    status: Option<StatusName>,
    /// Only tasks of this type
    #[arg(long = "type", value_name = "TYPE")]
    type_name: Option<String>,
    /// At most this many; 0 for all, of which text and json are printed at the end, ndjson
    /// and id as they come
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StatusName {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl From<StatusName> for Status {
    fn from(name: StatusName) -> Self {
        match name {
            StatusName::Pending => Self::Pending,
            StatusName::Running => Self::Running,
            StatusName::Completed => Self::Completed,
            StatusName::Failed => Self::Failed,
            StatusName::Cancelled => Self::Cancelled,
        }
    }
}

impl List {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<Exit, Failure> {
        let limit = if self.limit == 0 { usize::MAX } else { self.limit };
        let with_bytes = matches!(format, Format::Json | Format::Ndjson);
        let mut kept: Vec<TaskView> = Vec::new();
        let mut listed = 0;
        let mut page_token = bytes::Bytes::new();
        // Ends with the last page: ids fall from page to page.
        loop {
            let options = ListOptions {
                status: self.status.map(Into::into),
                type_name: self.type_name.clone(),
                page_size: u32::try_from((limit - listed).min(limits::PAGE)).unwrap_or(u32::MAX),
                page_token,
                with_bytes,
            };
            let page = client.list(options).await?;
            listed += page.tasks.len();
            match format {
                // What can be written piece by piece is not kept.
                Format::Ndjson | Format::Id => print(&page.tasks, format)?,
                Format::Text | Format::Json => kept.extend(page.tasks),
            }
            page_token = page.next_page_token;
            if page_token.is_empty() || listed >= limit {
                break;
            }
        }
        if matches!(format, Format::Text | Format::Json) {
            print(&kept, format)?;
        }
        Ok(Exit::Done)
    }
}

fn print(tasks: &[TaskView], format: Format) -> Result<(), Failure> {
    match format {
        Format::Text => {
            let rows = tasks.iter().map(row);
            let header = ["ID", "TYPE", "STATUS", "PRIORITY", "ATTEMPTS", "CREATED", "WORKER"];
            Ok(output::print_line(output::table(header, rows))?)
        }
        Format::Id => super::print_ids(tasks),
        Format::Json | Format::Ndjson => {
            let rows: Vec<_> = tasks.iter().map(|task| TaskJson::new(task, true)).collect();
            output::print_json(format, &rows, false)
        }
    }
}

fn row(task: &TaskView) -> [String; 7] {
    [
        task.id.to_string(),
        task.type_name.clone(),
        task.status.as_str().to_owned(),
        task.priority.to_string(),
        task.attempts.to_string(),
        output::moment(task.timestamp_created),
        task.worker.clone(),
    ]
}

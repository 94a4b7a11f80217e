//! `taskgrid client retry`: a new round for failed and cancelled tasks.

use clap::Args;

use super::super::exit::{Exit, Failure};
use super::super::output::Format;
use super::{Ids, note, print_standing, tasks};
use crate::client::Client;
use crate::core::task::Status;

/// Give failed and cancelled tasks a new round: same ids, fresh budgets
#[derive(Debug, Args)]
#[command(after_help = "A task that is neither failed nor cancelled stays as it is.")]
pub(super) struct Retry {
    #[command(flatten)]
    ids: Ids,
}

impl Retry {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<Exit, Failure> {
        let ids = self.ids.list();
        let mut exit = Exit::Done;
        let tasks = tasks(client.retry(&ids).await?, &mut exit);
        print_standing(client, &tasks, format, ids.len() == 1).await?;
        for task in tasks {
            if task.status == Status::Completed {
                let problem = format!("task {} had completed before", task.id);
                note(&Failure::new(Exit::TaskFailed, problem), &mut exit);
            }
        }
        Ok(exit)
    }
}

//! `taskgrid client cancel`: ends tasks.

use clap::Args;

use super::super::exit::{Exit, Failure};
use super::super::output::Format;
use super::{Ids, note, print_standing, tasks};
use crate::client::Client;
use crate::core::task::Status;

/// Cancel tasks: pending ones at once, running ones by stopping their handlers
#[derive(Debug, Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    ids: Ids,
}

impl Cancel {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<Exit, Failure> {
        let ids = self.ids.list();
        let mut exit = Exit::Done;
        let tasks = tasks(client.cancel(&ids).await?, &mut exit);
        print_standing(client, &tasks, format, ids.len() == 1).await?;
        for task in tasks {
            match task.status {
                Status::Cancelled | Status::Pending | Status::Running => {}
                ended @ (Status::Completed | Status::Failed) => {
                    let problem = format!("task {} had {} before", task.id, ended.as_str());
                    note(&Failure::new(Exit::TaskFailed, problem), &mut exit);
                }
            }
        }
        Ok(exit)
    }
}

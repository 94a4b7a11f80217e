//! What happens while the disk is full: new tasks are refused, and everything else goes
//! on, on what the store had in reserve.

use std::time::Duration;

use super::{Message, Scheduler};
use crate::core::id::Timestamp;
use crate::store;

/// When it is looked again whether there is space.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whether the store has space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// It has.
    Enough,
    /// It lives on its reserve: no task comes in, and everything else goes on. When it is
    /// looked again; `None` while somebody does.
    Reserve(Option<Timestamp>),
    /// The group under way waits for some.
    None,
}

impl Space {
    /// How it is when a dispatcher starts.
    pub(super) fn at_start(has_room: bool, now: Timestamp) -> Self {
        if has_room {
            return Self::Enough;
        }
        tracing::error!("little space is left for the store: submits are refused until there is");
        Self::Reserve(Some(now))
    }

    /// When it is looked again.
    pub(super) fn look_at(self) -> Option<Timestamp> {
        match self {
            Self::Reserve(at) => at,
            Self::Enough | Self::None => None,
        }
    }
}

impl Scheduler {
    /// A group that waited for space has found some.
    pub(super) fn live_on_the_reserve(&mut self) {
        tracing::warn!("outcomes are stored, in the space that is left; submits are refused");
        self.space = Space::Reserve(Some(self.last_turn));
    }

    /// Has it looked whether there is space, if that is due.
    pub(super) fn look_for_room(&mut self, now: Timestamp) {
        if self.space.look_at().is_none_or(|at| now < at) {
            return;
        }
        let Some(inbox) = self.shared.inbox.upgrade() else { return };
        self.space = Space::Reserve(None);
        let store = self.store.clone();
        tokio::spawn(async move {
            let looked = store::apart(&store, |store| Ok(store.has_room())).await;
            let has_room = looked.unwrap_or_else(|error| {
                tracing::error!(%error, "cannot look for space");
                false
            });
            // A loop that has ended takes no tasks.
            drop(inbox.send(Message::Room { has_room }).await);
        });
    }

    pub(super) fn hear_of_room(&mut self, has_room: bool) {
        if self.space != Space::Reserve(None) {
            // It has run out meanwhile.
            return;
        }
        self.space = if has_room {
            tracing::info!("there is space for the store again");
            Space::Enough
        } else {
            Space::Reserve(Some(self.last_turn.plus(LOOK_AGAIN)))
        };
    }
}

//! Finding one another by way of nameservices: workers announce themselves, and
//! dispatchers watch who is there.
//!
//! Both talk to one or more nameservices, each by itself: losing one loses nothing
//! that another knows, and losing all stops new discovery, not running work.
//!
//! What it does not do: it calls no worker, and decides nothing; how several views
//! become one is decided in [`crate::core::directory`].

mod announcer;
mod directory;

pub use announcer::Announcer;
pub use directory::{Directory, SourceState};

pub use crate::core::directory::{Endpoint, View};

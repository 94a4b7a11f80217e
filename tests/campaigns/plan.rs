//! How much [load](super::load) a campaign wants.

/// How much load, and of what kind. The default is what most campaigns want.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) clients: u64,
    /// Tasks in the largest batch; the smallest has one.
    pub(crate) batch: u64,
    /// How many receipted tasks may be open before clients wait for ends.
    pub(crate) open: usize,
    /// Tasks a second, of all clients; `None` for as many as are taken.
    pub(crate) rate: Option<u64>,
    /// Batches in a thousand that are at most once.
    pub(crate) at_most_once: u64,
    /// Batches in a thousand of which some tasks are cancelled.
    pub(crate) cancels: u64,
    /// Tasks in a thousand that take some time; the others take none.
    pub(crate) slow: u64,
    /// How long those take, from and to, in milliseconds.
    pub(crate) slow_millis: (u64, u64),
    /// Tasks in a thousand that take one to four seconds: longer than a lease of a second.
    pub(crate) long: u64,
    /// Tasks in a thousand whose handler fails the first time, half of them by a panic.
    pub(crate) failing: u64,
    /// Bytes of padding of most tasks, at most.
    pub(crate) padding: usize,
    /// Tasks in a thousand that have up to ten thousand.
    pub(crate) large: u64,
    /// The dispatcher keeps so few ended tasks that clients may come too late.
    pub(crate) forgets: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            clients: 4,
            batch: 50,
            open: 1_000,
            rate: None,
            at_most_once: 30,
            cancels: 50,
            slow: 50,
            slow_millis: (1, 20),
            long: 0,
            failing: 5,
            padding: 100,
            large: 20,
            forgets: false,
        }
    }
}

//! The wish that a role ends, told to all its parts at once.
//!
//! Nothing waits for ever: each role gives its parts a deadline, counted from the
//! moment the shutdown began.

use tokio_util::sync::CancellationToken;

/// Begun once, seen by every clone. Dropping a clone begins nothing.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A shutdown that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that begins when this one does, or by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }

    /// Tells everyone that it is time to end. Doing it twice is the same.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }
}

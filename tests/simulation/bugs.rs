//! Bugs that the parts of a world can be given, to prove that they would be found.
//! Each breaks one promise in one place of the shell around the core.

/// One bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A batch is acknowledged before it is stored.
    ReceiptBeforeStore,
    /// A known key is answered although its first batch is not stored yet.
    DuplicateBeforeStore,
    /// Keys are not read again at a restart.
    KeysForgotten,
    /// An outcome settles whatever lease is current, by whatever token it came.
    TokenIgnored,
    /// A restart goes on under the epoch of the boot before.
    BootForgotten,
    /// A restart hands out ids that the boot before may have shown.
    IdsBeyondReserve,
    /// A worker that loses its session drops the outcomes that had no answer.
    OutboxDropped,
    /// What a worker gives back is charged as a crash.
    ReleaseCharged,
    /// A cancel is applied and acknowledged, and not stored.
    CancelNotStored,
    /// The start of an at-most-once task is pushed without its note.
    OnceUnnoted,
    /// What a hello does not list stays leased.
    HelloIgnored,
    /// An outcome is answered before it is stored.
    AnswerBeforeStore,
    /// A worker takes what an older session assigns.
    OldSessionTaken,
    /// A late result replaces the one that is there.
    ResultReplaced,
    /// A dispatcher that was away does not notice.
    PauseUnnoticed,
    /// The worker set aside for a run alone stays so when the task runs elsewhere.
    SetAsideForever,
    /// A worker that comes back with a task that runs alone gets others beside it.
    AloneForgotten,
}

/// All of them.
pub(crate) const BUGS: [Bug; 17] = [
    Bug::ReceiptBeforeStore,
    Bug::DuplicateBeforeStore,
    Bug::KeysForgotten,
    Bug::TokenIgnored,
    Bug::BootForgotten,
    Bug::IdsBeyondReserve,
    Bug::OutboxDropped,
    Bug::ReleaseCharged,
    Bug::CancelNotStored,
    Bug::OnceUnnoted,
    Bug::HelloIgnored,
    Bug::AnswerBeforeStore,
    Bug::OldSessionTaken,
    Bug::ResultReplaced,
    Bug::PauseUnnoticed,
    Bug::SetAsideForever,
    Bug::AloneForgotten,
];

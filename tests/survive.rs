//! What a task survives: lost workers, failing handlers, restarts of every role.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall end it")]

mod survive {
    pub(crate) mod handlers;

    mod budgets;
    mod one_process;
    mod restarts;
    mod sharing;
    mod unary;
    mod workers;
}

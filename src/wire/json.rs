//! How values that are numbers on the wire read in JSON.

use serde::Serializer;

use super::v1::{Health, LinkState};

/// A worker's health by its name.
#[must_use]
pub fn health_name(health: Health) -> &'static str {
    match health {
        Health::Unspecified => "unknown",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

/// The state of a circuit breaker by its name.
#[must_use]
pub fn link_name(state: LinkState) -> &'static str {
    match state {
        LinkState::Unspecified => "unknown",
        LinkState::Closed => "closed",
        LinkState::Open => "open",
        LinkState::HalfOpen => "half_open",
    }
}

/// Writes a [`Health`]; one of a later version is unknown here.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes every field so")]
pub(super) fn health<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(health_name(Health::try_from(*value).unwrap_or_default()))
}

/// Writes a [`LinkState`]; one of a later version is unknown here.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes every field so")]
pub(super) fn link_state<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(link_name(LinkState::try_from(*value).unwrap_or_default()))
}

//! Logs: `tracing` events on stderr, as text for people or JSON for programs.
//!
//! It decides nothing about what is logged and reads no environment: the caller
//! hands in the filter and whether colour was refused.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One line for people, with colour on a terminal.
    #[default]
    Text,
    /// One JSON object a line, with the event's fields at its top.
    Json,
}

/// Logging could not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is no list of levels and targets.
    #[error("{filter:?} is no log level: try info, debug, or info,taskgrid=debug")]
    BadFilter {
        /// What was given.
        filter: String,
        /// Where it stops making sense, unless it is a word that is no level.
        source: Option<ParseError>,
    },
    /// Somebody in this process set up logging before: a bug of the caller.
    #[error("logging was started before")]
    Started(#[from] TryInitError),
}

/// Sends all events that pass `filter` to stderr, for the rest of the process.
///
/// `filter` is a level (`info`) or a list of `target=level`. Colour appears only
/// in text, on a terminal, and unless `no_colour` (the `NO_COLOR` convention).
pub fn start(format: LogFormat, filter: &str, no_colour: bool) -> Result<(), Error> {
    let bad = |source| Error::BadFilter { filter: filter.to_owned(), source };
    // A single word would be taken for a target, and nothing else be logged.
    let is_level = |word: &str| {
        word.contains('=') || (!word.is_empty() && word.parse::<LevelFilter>().is_ok())
    };
    if !filter.split(',').all(|word| is_level(word.trim())) {
        return Err(bad(None));
    }
    let levels = EnvFilter::try_new(filter).map_err(|source| bad(Some(source)))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let subscriber = tracing_subscriber::registry().with(levels);
    match format {
        LogFormat::Text => {
            let colour = !no_colour && std::io::stderr().is_terminal();
            subscriber.with(lines.with_ansi(colour)).try_init()?;
        }
        LogFormat::Json => {
            subscriber.with(lines.with_ansi(false).json().flatten_event(true)).try_init()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named_and_a_second_start_refused() {
        for bad in ["taskgrid=loud", "inof", "info,debgu", ""] {
            let refused = start(LogFormat::Text, bad, true).unwrap_err();
            let told = format!("{bad:?} is no log level: try info, debug, or info,taskgrid=debug");
            assert_eq!(refused.to_string(), told);
        }
        start(LogFormat::Json, "off", true).unwrap();
        assert!(matches!(start(LogFormat::Text, "off", true), Err(Error::Started(_))));
    }
}

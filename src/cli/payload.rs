//! A payload on the command line: text, `@file`, or `-` for stdin.

use std::fs::File;
use std::io::{self, Read};

use bytes::Bytes;

use super::exit::{Exit, Failure};
use crate::core::limits;

/// What the argument stands for; nothing for no argument. `@@x` is the text `@x`.
pub(super) fn read(argument: Option<&str>) -> Result<Bytes, Failure> {
    match argument {
        None => Ok(Bytes::new()),
        Some("-") => all_of(io::stdin().lock(), "stdin"),
        Some(argument) => match argument.strip_prefix('@') {
            Some(text) if text.starts_with('@') => Ok(Bytes::from(text.to_owned())),
            Some(path) => {
                let file = File::open(path).map_err(|error| unreadable(path, &error))?;
                all_of(file, path)
            }
            None => Ok(Bytes::from(argument.to_owned())),
        },
    }
}

/// Up to the most that any dispatcher takes: what is larger is refused before it
/// fills the memory.
fn all_of(source: impl Read, name: &str) -> Result<Bytes, Failure> {
    let mut payload = Vec::new();
    source
        .take(limits::PAYLOAD_BYTES_MAX + 1)
        .read_to_end(&mut payload)
        .map_err(|error| unreadable(name, &error))?;
    let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
    if length > limits::PAYLOAD_BYTES_MAX {
        let message = format!("{name} is larger than 64 MiB, the most that a payload may have");
        return Err(Failure::new(Exit::WrongInput, message)
            .hint("put it where workers can read it, and send its address"));
    }
    Ok(payload.into())
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::WrongInput, format!("cannot read {name}: {error}"))
        .hint("@ names a file, - is stdin; text that begins with @ is written @@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_itself_and_nothing_is_empty() {
        assert_eq!(read(Some("[1,2,3]")).unwrap(), "[1,2,3]");
        assert_eq!(read(Some("-1")).unwrap(), "-1");
        assert_eq!(read(None).unwrap(), "");
    }

    #[test]
    fn at_names_a_file_and_a_second_at_is_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("payload");
        std::fs::write(&path, b"\xff\x00bytes").unwrap();
        let argument = format!("@{}", path.display());
        assert_eq!(&read(Some(&argument)).unwrap()[..], b"\xff\x00bytes");
        assert_eq!(read(Some("@@home")).unwrap(), "@home");
    }

    #[test]
    fn a_file_that_is_not_there_is_wrong_input() {
        let failure = read(Some("@/nowhere/at/all")).unwrap_err();
        assert_eq!(failure.exit, Exit::WrongInput);
        assert!(failure.message.contains("/nowhere/at/all"), "{}", failure.message);
    }
}

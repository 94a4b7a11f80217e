//! Any bytes in the variables that configure the roles, in those of the binary itself.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Command, Output, Stdio};

use super::chance;
use super::dice::Dice;

/// Each with an address that nobody here has, so that it ends before it serves anybody,
/// whatever else it was told, and writes nowhere but where it may.
const ROLES: [&[&str]; 4] = [
    &["nameservice", "--host", "192.0.2.1", "--insecure"],
    &["dispatcher", "--host", "192.0.2.1", "--insecure", "--data-dir", "data"],
    &["worker", "--host", "192.0.2.1", "--insecure", "--type", "hash"],
    &["monitor", "--host", "192.0.2.1", "--insecure"],
];

/// Wrong usage.
const WRONG: i32 = 2;
/// Said where all else was taken: the address is nobody's.
const NO_ADDRESS: &str = "cannot listen on 192.0.2.1:";

#[test]
fn any_value_of_any_variable_is_taken_or_refused_in_good_order() {
    let (cases, mut dice) = chance();
    let roles: Vec<_> = ROLES.iter().map(|role| (*role, variables(role))).collect();
    assert!(roles.iter().all(|(_, variables)| variables.len() >= 6), "{roles:?}");
    let dir = tempfile::tempdir().unwrap();
    let (mut taken, mut refused) = (0, 0);
    for case in 0..cases {
        let (role, variables) = &roles[dice.place(roles.len())];
        let mut command = taskgrid(role);
        command.current_dir(dir.path());
        let mut told = Vec::new();
        for _ in 0..dice.between(1, 3) {
            let (variable, value) = (&variables[dice.place(variables.len())], any_value(&mut dice));
            told.push(format!("{variable}={value:?}"));
            command.env(variable, value);
        }
        let ended = command.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let code = ended.status.code();
        let is_known = said.contains("error: ") && !said.contains("panicked");
        assert!(is_known, "case {case}: {told:?}: {said}");
        match code {
            Some(WRONG) if said.contains(NO_ADDRESS) => taken += 1,
            Some(WRONG) => refused += 1,
            _ => panic!("case {case}: {told:?}: {code:?}: {said}"),
        }
    }
    assert!(taken >= cases / 10, "only {taken} of {cases} were taken");
    assert!(refused >= cases / 10, "only {refused} of {cases} were refused");
}

/// The variables of a role, by what its help tells.
fn variables(role: &[&str]) -> Vec<String> {
    let Output { stdout, .. } = taskgrid(&[role[0], "--help"]).output().unwrap();
    let help = String::from_utf8(stdout).unwrap();
    let words = help.split(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
    let mut names: Vec<_> = words.filter(|word| word.starts_with("TASKGRID_")).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(str::to_owned).collect()
}

fn taskgrid(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskgrid"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// What is nearly a value, and what is none. An address is this machine's at the most.
fn any_value(dice: &mut Dice) -> OsString {
    const PIECES: [&str; 24] = [
        "1",
        "0",
        "-",
        ".",
        "10",
        "18446744073709551615",
        "s",
        "ms",
        "h",
        " ",
        "MiB",
        "GiB",
        "B",
        "http://",
        "127.0.0.1",
        ":",
        "/",
        "[::1]",
        ",",
        "=",
        "true",
        "json",
        "sync",
        "\u{fc}",
    ];
    if dice.chance(200) {
        // Whatever the system lets through: anything but an end.
        let bytes = (0..dice.between(1, 40)).map(|_| dice.roll().to_le_bytes()[0].max(1));
        return OsString::from_vec(bytes.collect());
    }
    let pieces = (0..dice.between(0, 3)).map(|_| PIECES[dice.place(PIECES.len())]);
    pieces.collect::<String>().into()
}

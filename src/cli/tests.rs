use std::fs;

use clap::{CommandFactory as _, Parser as _};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_oneof, proptest};
use proptest::sample::select;

use super::Cli;
use crate::client::fake::Fake;

#[test]
fn the_flags_do_not_contradict_each_other() {
    Cli::command().debug_assert();
}

#[test]
fn a_payload_may_be_a_negative_number_and_anything_behind_two_hyphens() {
    for line in [
        "taskgrid client send wait -1",
        "taskgrid client send wait -- -1",
        "taskgrid client send wait --detach -1",
        "taskgrid client send wait -1 --detach --priority 3",
        "taskgrid client send reverse - -o json",
        "taskgrid client send reverse -- -abc",
    ] {
        let parsed = Cli::try_parse_from(line.split(' '));
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
    let told =
        format!("{:?}", Cli::try_parse_from("taskgrid client send wait -1 --detach".split(' ')));
    assert!(told.contains(r#"payload: Some("-1"), detach: true"#), "{told}");
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "taskgrid",
        "taskgrid client send",
        "taskgrid client send sum [1] --priority 10",
        "taskgrid client send sum [1] --delay soon",
        "taskgrid client send sum [1] --timeout 0s",
        "taskgrid client send upper --detahc",
        "taskgrid client send upper --dlay=5m",
        "taskgrid client send upper -k",
        "taskgrid client result",
        "taskgrid client result seventeen",
        "taskgrid worker",
        "taskgrid up --once",
        "taskgrid dispatcher --max-payload 1GiB",
        "taskgrid dispatcher --store-cache 1KiB",
        "taskgrid dispatcher --durability never",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}

#[test]
fn an_empty_key_is_no_key_and_refused() {
    for line in ["taskgrid client send upper a --key", "taskgrid client submit - --key"] {
        let parsed = Cli::try_parse_from(line.split(' ').chain([""]));
        assert!(parsed.is_err(), "{line} ''");
    }
}

#[test]
fn no_answer_turns_a_switch_on() {
    for on in ["1", "true", "Yes", "ON"] {
        assert_eq!(super::flags::yes_or_no(on), Ok(true), "{on}");
    }
    for off in ["", "0", "false", "No", "OFF"] {
        assert_eq!(super::flags::yes_or_no(off), Ok(false), "{off:?}");
    }
    for neither in ["disabled", "never", "2", " true"] {
        assert!(super::flags::yes_or_no(neither).is_err(), "{neither:?}");
    }
}

#[test]
fn the_roles_take_their_flags() {
    for line in [
        "taskgrid nameservice --port 0 --ttl 3s --drain-timeout 1s",
        "taskgrid dispatcher --nameservice http://a:1,http://b:2 --data-dir /x --durability os \
         --lease 5s --retain 1h --retain-tasks 10 --retain-bytes 1GiB --max-payload 1MiB \
         --max-queued 5 --max-queued-bytes 1GiB --store-cache 1MiB --insecure --host 0.0.0.0",
        "taskgrid worker --type hash --type sum --port 0 --slots 4 --advertise here:1 --id w",
        "taskgrid up --demo --once --data-dir /x --log-format json --log-level debug",
        "taskgrid completions bash",
    ] {
        let parsed = Cli::try_parse_from(line.split_whitespace());
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
}

#[test]
fn every_verb_ends_as_the_manual_says() {
    let serving = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let fake = serving.block_on(async { Fake::start() });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tasks");
    fs::write(&file, "one\ntwo\n").unwrap();
    let file = file.display().to_string();
    // Tasks 1, 2 and 3, of which the last two fail and hang.
    let cases: &[(&str, u8)] = &[
        ("send echo hello", 0),
        ("send fail hello", 1),
        ("send hang hello --detach", 0),
        ("send hang hello --wait-for 0s", 4),
        ("send nope hello", 2),
        ("send echo bad", 2),
        ("send echo hello -o json", 0),
        ("result 1", 0),
        ("result 1 1 -o ndjson", 0),
        ("result 1 2", 1),
        ("result 99", 3),
        ("result 3 --wait 0s", 4),
        ("status 1 2 3", 0),
        ("status 1 -o json", 0),
        ("status 99", 3),
        ("list", 0),
        ("list --status failed --type fail -o json", 0),
        ("list -o id --limit 2", 0),
        ("types", 0),
        ("workers -o json", 0),
        ("cancel 3", 0),
        ("cancel 1", 1),
        ("retry 2", 0),
        ("retry 1", 1),
        ("submit DIR", 2),
        ("retry 99", 3),
        ("watch 1", 0),
        ("watch 1 2", 1),
        ("submit FILE --type echo", 0),
        ("submit FILE --type fail", 1),
        ("submit FILE --type nope", 2),
        ("submit FILE", 2),
        ("submit FILE --type hang --detach", 0),
    ];
    for (line, code) in cases {
        let line = format!("taskgrid client --dispatcher {} {line}", fake.url());
        let cli = Cli::try_parse_from(line.replace("FILE", &file).replace("DIR", "/").split(' '))
            .unwrap();
        let exit = cli.run().unwrap_or_else(|failure| failure.exit);
        assert_eq!(exit.code(), *code, "{line}");
    }
}

/// What is nearly the value of a flag, and what is nothing. Those of the environment are
/// read by the same parsers.
fn any_value() -> impl Strategy<Value = String> {
    let pieces = [
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
        "k",
        "B",
        "http",
        "://",
        ":",
        "a",
        "/",
        "[::1]",
        ",",
        "=",
        "true",
        "json",
        "sync",
        "\u{fc}",
    ];
    let nearly = vec(select(pieces.to_vec()), 0..5).prop_map(|pieces| pieces.concat());
    prop_oneof![nearly, ".{0,20}", any::<i64>().prop_map(|number| number.to_string())]
}

proptest! {
    #[test]
    fn any_value_of_any_flag_is_taken_or_refused_as_wrong_usage(
        value in any_value(),
        place in any::<proptest::sample::Index>(),
    ) {
        let command = Cli::command();
        let mut flags = Vec::new();
        for role in command.get_subcommands() {
            let verbs: Vec<_> = role.get_subcommands().collect();
            let path = |verb: Option<&clap::Command>| {
                let names = ["taskgrid", role.get_name()].into_iter().map(str::to_owned);
                names.chain(verb.map(|verb| verb.get_name().to_owned())).collect::<Vec<_>>()
            };
            let whole = verbs.into_iter().map(Some).chain([None]);
            for verb in whole {
                for argument in verb.unwrap_or(role).get_arguments() {
                    let Some(long) = argument.get_long() else { continue };
                    flags.push((path(verb), long.to_owned()));
                }
            }
        }
        let (mut line, flag) = place.get(&flags).clone();
        line.push(format!("--{flag}={value}"));
        if let Err(refused) = Cli::try_parse_from(&line) {
            prop_assert!(refused.exit_code() == 2 || !refused.use_stderr(), "{:?}: {}", line, refused);
        }
    }

    #[test]
    fn a_size_that_is_taken_is_within_its_limits(value in any_value()) {
        if let Ok(size) = super::roles::payload_size(&value) {
            prop_assert!((1..=64 << 20).contains(&size.as_u64()), "{}", value);
        }
    }
}

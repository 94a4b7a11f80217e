use clap::{CommandFactory as _, Parser as _};

use super::Cli;

#[test]
fn the_flags_do_not_contradict_each_other() {
    Cli::command().debug_assert();
}

#[test]
fn a_payload_may_begin_with_a_hyphen() {
    for line in [
        "taskgrid client send wait -1",
        "taskgrid client send wait -- -1",
        "taskgrid client send wait --detach -1",
        "taskgrid client send wait -1 --detach --priority 3",
        "taskgrid client send reverse - -o json",
        "taskgrid client send reverse -abc",
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
        "taskgrid client result",
        "taskgrid client result seventeen",
        "taskgrid worker",
        "taskgrid up --once",
        "taskgrid dispatcher --max-payload 1GiB",
        "taskgrid dispatcher --durability never",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}

#[test]
fn the_roles_take_their_flags() {
    for line in [
        "taskgrid nameservice --port 0 --ttl 3s --drain-timeout 1s",
        "taskgrid dispatcher --nameservice http://a:1,http://b:2 --data-dir /x --durability os \
         --lease 5s --retain 1h --retain-tasks 10 --max-payload 1MiB --max-queued 5 \
         --max-queued-bytes 1GiB --insecure --host 0.0.0.0",
        "taskgrid worker --type hash --type sum --port 0 --slots 4 --advertise here:1 --id w",
        "taskgrid up --demo --once --data-dir /x --log-format json --log-level debug",
        "taskgrid completions bash",
    ] {
        let parsed = Cli::try_parse_from(line.split_whitespace());
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
}

use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::Value;
use tokio::time::timeout;
use tonic::Status as Answer;

use super::super::super::output::Format;
use super::input::{BATCH_LINES, Batch, Batches, Options};
use super::run::{self, Settings, Summary};
use super::{printer, store};
use crate::cli::exit::{Exit, Failure};
use crate::client::Client;
use crate::client::fake::Fake;
use crate::core::limits;

/// Far beyond what anything here takes, also on a slow machine.
const LONG: Duration = Duration::from_secs(60);

const SETTINGS: Settings =
    Settings { strict: false, detach: false, patience: Duration::from_secs(20), progress: false };

// Lines.

#[test]
fn a_line_may_say_what_send_may() {
    let line = r#"{"type":"sum","payload":[1, 2],"priority":1,"delay":"10m","timeout":"30s","max_attempts":5,"max-crashes":0}"#;
    let batch = only_batch(line, Options::default());
    let told = format!("{:?}", batch.tasks);
    assert_eq!(batch.bad, []);
    for part in [
        r#"type: "sum", payload: b"[1,2]""#,
        "priority: Some(1), delay_ms: 600000, timeout_ms: 30000",
        "max_attempts: Some(5), max_crashes: Some(0)",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn payloads_are_text_bytes_or_compact_json() {
    for (json, payload) in [
        (r#""[1,2]""#, &b"[1,2]"[..]),
        (r#""a\nb""#, b"a\nb"),
        ("[1, 2.50, 1e400]", b"[1,2.50,1e400]"),
        (r#"{"b" : " \" x ", "a": null}"#, br#"{"b":" \" x ","a":null}"#),
        ("null", b"null"),
        (r#""/wA=", "encoding": "base64""#, b"\xff\x00"),
    ] {
        let line = format!(r#"{{"type": "x", "payload": {json}}}"#);
        let batch = only_batch(&line, Options::default());
        assert_eq!(batch.bad, [], "{json}");
        assert_eq!(&batch.tasks[0].payload()[..], payload, "{json}");
    }
    let batch = only_batch(r#"{"type":"x"}"#, Options::default());
    assert_eq!(&batch.tasks[0].payload()[..], b"");
}

#[test]
fn bad_lines_are_told_by_number_and_the_others_stand() {
    let input = [
        r#"{"type":"x"}"#,
        "",
        "{",
        r#"{"payload":"x"}"#,
        r#"{"type":"X"}"#,
        r#"{"type":"x","prio":1}"#,
        r#"{"type":"x","priority":10}"#,
        r#"{"type":"x","delay":"soon"}"#,
        r#"{"type":"x","payload":1,"encoding":"base64"}"#,
        r#"{"type":"x","payload":"x","encoding":"rot13"}"#,
        r#"{"type":"x","max_attempts":0}"#,
        r#"{"type":"x","timeout":"0s"}"#,
        r#"["x","one",null,null,null,null,null,null]"#,
        r#"{"type":"y"}"#,
    ]
    .join("\n");
    let batch = only_batch(&input, Options::default());
    assert_eq!(batch.lines, [1, 14]);
    let bad: Vec<u64> = batch.bad.iter().map(|bad| bad.line).collect();
    assert_eq!(bad, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], "{:?}", batch.bad);
    assert_eq!(batch.bad[1].problem, "column 15: missing field `type`");
    assert!(batch.bad[9].problem.contains("1ms or longer"), "{:?}", batch.bad[9]);
    assert!(batch.bad[10].problem.contains("not a JSON object"), "{:?}", batch.bad[10]);
}

#[test]
fn a_file_may_begin_with_a_mark_of_its_byte_order() {
    let batch = only_batch("\u{feff}{\"type\":\"x\"}\n", Options::default());
    assert_eq!((batch.tasks.len(), batch.bad.len()), (1, 0), "{:?}", batch.bad);
}

#[test]
fn with_a_type_each_line_is_a_payload() {
    let options = Options { type_name: Some("hash".to_owned()), ..Options::default() };
    let batch = only_batch("one\r\n\n{two}\nthree", options);
    let payloads: Vec<_> = batch.tasks.iter().map(|task| task.payload().clone()).collect();
    assert_eq!(payloads, ["one", "{two}", "three"]);
    assert_eq!(batch.lines, [1, 3, 4]);
}

#[test]
fn a_line_of_odd_spaces_is_told_of() {
    let batch = only_batch(" \t\r\n\u{b}\n\u{a0}\n\x0c\n\u{2028}\n", Options::default());
    assert_eq!(batch.tasks, []);
    let told: Vec<_> = batch.bad.iter().map(|bad| bad.line).collect();
    assert_eq!(told, [2, 3, 5]);
}

// Keys.

#[test]
fn batches_and_keys_depend_on_the_input_alone() {
    let input = lines(1_234);
    let at_once = batches(input.as_bytes(), Options::default());
    assert_eq!(at_once.iter().map(|batch| batch.tasks.len()).collect::<Vec<_>>(), [500, 500, 234]);
    assert_eq!(at_once[0].tasks.len(), BATCH_LINES);
    let dribbling = batches(Dribble { rest: input.as_bytes(), turn: 0 }, Options::default());
    assert_eq!(at_once, dribbling);
    // The end of the last line changes nothing.
    assert_eq!(at_once, batches(input.trim_end().as_bytes(), Options::default()));
}

#[test]
fn a_key_covers_the_options_and_everything_before() {
    let keys = |input: &str, options: Options| -> Vec<[u8; 32]> {
        batches(input.as_bytes(), options).iter().map(|batch| batch.key).collect()
    };
    let input = lines(1_000);
    let plain = keys(&input, Options::default());
    assert_ne!(plain[0], plain[1]);
    // Appended lines leave the batches before them as they are.
    let longer = keys(&(input.clone() + &lines(10)), Options::default());
    assert_eq!(longer[..2], plain[..]);
    // A bad line counts, and so does every option.
    let with_bad = keys(&input.replacen("task 3", "task \u{1}", 1), Options::default());
    assert!(with_bad[0] != plain[0] && with_bad[1] != plain[1]);
    let own = Options { key: Some("monday".to_owned()), ..Options::default() };
    let mut urgent = Options::default();
    urgent.task.priority = Some(0);
    let typed = Options { type_name: Some("echo".to_owned()), ..Options::default() };
    let all = [plain, keys(&input, own), keys(&input, urgent), keys(&input, typed)];
    let distinct: std::collections::BTreeSet<_> = all.iter().flatten().collect();
    assert_eq!(distinct.len(), 8);
}

#[test]
fn large_lines_end_a_batch_early() {
    let line = format!("{}\n", "x".repeat(3 << 20));
    let options = Options { type_name: Some("hash".to_owned()), ..Options::default() };
    let sizes: Vec<usize> =
        batches(line.repeat(5).as_bytes(), options).iter().map(|batch| batch.tasks.len()).collect();
    assert_eq!(sizes, [2, 2, 1]);
}

#[test]
fn whatever_the_size_of_lines_a_batch_fits_its_message_and_is_the_same_again() {
    let options = Options { type_name: Some("hash".to_owned()), ..Options::default() };
    for size in [9 << 10, 1 << 20, 5 << 20] {
        let count = (8 << 20) / size + 2;
        let input = format!("{}\n", "x".repeat(size)).repeat(count);
        let all = batches(input.as_bytes(), options.clone());
        assert_eq!(all.iter().map(|batch| batch.tasks.len()).sum::<usize>(), count);
        // One payload of the largest size always fits beside so many bytes.
        let most = limits::BATCH_BYTES / 2 / size + 1;
        assert!(all.iter().all(|batch| batch.tasks.len() <= most), "{size}");
        let dribbling = Dribble { rest: input.as_bytes(), turn: size };
        assert_eq!(all, batches(dribbling, options.clone()));
    }
}

#[test]
fn messages_name_a_place_in_the_batch() {
    assert_eq!(store::place("tasks[17].payload: not JSON"), Some(17));
    assert_eq!(store::place("tasks: too many"), None);
    assert_eq!(store::place("key: longer than 128 bytes"), None);
}

// Whole runs.

#[tokio::test]
async fn every_task_is_printed_once_with_its_result() {
    let fake = Fake::start();
    let (summary, printed) = submit(&fake, &lines(2_345), SETTINGS).await;
    assert_eq!(summary.unwrap(), Summary { stored: 2_345, completed: 2_345, ..Summary::default() });
    assert_eq!(printed.len(), 2_345);
    let first = printed.iter().find(|line| line["id"].as_u64() == Some(1)).unwrap();
    assert_eq!(
        first.to_string(),
        serde_json::json!({
            "id": 1, "type": "echo", "payload": "task 0", "result": "task 0!",
            "status": "completed", "timestamp_created": 1_764_000_000_000_u64,
            "timestamp_completed": 1_764_000_000_012_u64, "attempts": 1, "priority": 5,
            "error": null, "reason": null, "worker": "echo-1"
        })
        .to_string()
    );
    // No call for single tasks: five batches, one watch, no question.
    let script = fake.script();
    assert_eq!((script.submits.len(), script.watches.len(), script.gets), (5, 1, 0));
    assert!(script.submits.iter().all(|request| request.group == script.submits[0].group));
}

#[tokio::test]
async fn the_same_input_again_is_the_same_tasks() {
    let fake = Fake::start();
    let (_, mut first) = submit(&fake, &lines(700), SETTINGS).await;
    let (summary, mut second) = submit(&fake, &lines(700), SETTINGS).await;
    let summary = summary.unwrap();
    assert_eq!((summary.stored, summary.known, summary.completed), (700, 700, 700));
    let by_id = |line: &Value| line["id"].as_u64();
    first.sort_by_key(by_id);
    second.sort_by_key(by_id);
    assert_eq!(first, second);
}

#[tokio::test]
async fn lost_answers_and_broken_watches_lose_nothing() {
    let fake = Fake::start();
    {
        let mut script = fake.script();
        script.lose_answers = [Answer::unavailable("away"), Answer::unavailable("away")].into();
        script.refuse = [Answer::unavailable("away"), Answer::resource_exhausted("full")].into();
        script.cut_watches_after = [1, 0, 100].into();
    }
    let (summary, printed) = submit(&fake, &lines(1_700), SETTINGS).await;
    let summary = summary.unwrap();
    assert_eq!((summary.stored, summary.completed), (1_700, 1_700));
    let ids: std::collections::BTreeSet<_> =
        printed.iter().map(|line| line["id"].as_u64()).collect();
    assert_eq!((ids.len(), printed.len()), (1_700, 1_700));
}

#[tokio::test]
async fn a_cursor_that_is_too_old_is_made_up_for() {
    let fake = Fake::start();
    fake.script().cursors_too_old = true;
    let (summary, printed) = submit(&fake, &lines(600), SETTINGS).await;
    assert_eq!(summary.unwrap().completed, 600);
    assert_eq!(printed.len(), 600);
}

#[tokio::test]
async fn what_the_dispatcher_refuses_is_left_out() {
    let fake = Fake::start();
    let input = [
        r#"{"type":"echo","payload":"a"}"#,
        r#"{"type":"nope","payload":"b"}"#,
        r#"{"type":"echo","payload":"bad"}"#,
        r#"{"type":"nope","payload":"c"}"#,
        r#"{"type":"echo","payload":"d"}"#,
        "not json",
        r#"{"type":"fail","payload":"e"}"#,
    ]
    .join("\n");
    let (summary, printed) = submit(&fake, &input, SETTINGS).await;
    let summary = summary.unwrap();
    let told = (summary.stored, summary.completed, summary.failed, summary.bad);
    assert_eq!(told, (3, 2, 1, 4));
    assert_eq!(printed.len(), 3);
    let failed = printed.iter().find(|line| line["status"] == "failed").unwrap();
    assert_eq!((&failed["error"], &failed["reason"]), (&"no way".into(), &"permanent".into()));
    // Running again finds the same tasks, although the whole batch was never stored.
    let (again, _) = submit(&fake, &input, SETTINGS).await;
    assert_eq!(again.unwrap().known, 3);
}

#[tokio::test]
async fn strict_stops_at_the_first_bad_line() {
    let fake = Fake::start();
    let input = lines(500) + "bad\n" + &lines(2_000);
    let settings = Settings { strict: true, ..SETTINGS };
    let (summary, printed) = submit(&fake, &input, settings).await;
    let summary = summary.unwrap();
    assert_eq!((summary.stored, summary.completed, summary.bad), (500, 500, 1));
    assert_eq!(printed.len(), 500);
}

#[tokio::test]
async fn strict_stops_at_the_first_refused_line_and_corrected_each_line_runs_once() {
    let fake = Fake::start();
    let settings = Settings { strict: true, ..SETTINGS };
    let refused = lines(700) + r#"{"type":"echo","payload":"bad"}"# + "\n" + &lines(5_000);
    let (summary, _) = submit(&fake, &refused, settings).await;
    let summary = summary.unwrap();
    assert_eq!((summary.stored, summary.bad), (500, 1), "what came before is whole batches");
    let corrected = refused.replace(r#""bad""#, r#""good""#);
    let (summary, _) = submit(&fake, &corrected, settings).await;
    let summary = summary.unwrap();
    assert_eq!((summary.stored, summary.known, summary.bad), (5_701, 500, 0));
}

#[tokio::test]
async fn detached_runs_print_ids_and_watch_nothing() {
    let fake = Fake::start();
    let input = lines(1_200).replace("echo", "hang");
    let settings = Settings { detach: true, ..SETTINGS };
    let (summary, printed) = submit(&fake, &input, settings).await;
    assert_eq!(summary.unwrap().stored, 1_200);
    assert_eq!(printed.len(), 1_200);
    assert_eq!(fake.script().watches.len(), 0);
}

#[tokio::test]
async fn a_dispatcher_that_does_not_become_ready_ends_the_run() {
    let fake = Fake::start();
    fake.script().refuse = (0..100).map(|_| Answer::unavailable("starting")).collect();
    let settings = Settings { patience: Duration::from_millis(100), ..SETTINGS };
    let client = fake.client().with_patience(settings.patience);
    let (outcome, printed) = submit_with(client, &lines(10), settings).await;
    assert_eq!(outcome.unwrap_err().exit, Exit::Refused);
    assert_eq!(printed, Vec::<Value>::new());
}

#[tokio::test]
async fn a_reader_who_leaves_ends_a_run_that_is_not_whole_as_an_interruption() {
    let fake = Fake::start();
    let (client, settings) = (fake.client(), Settings { detach: true, ..SETTINGS });
    for (more_to_come, exit) in [(true, Exit::Interrupted), (false, Exit::Done)] {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        for batch in batches(lines(10).as_bytes(), Options::default()) {
            sender.send(Ok(batch)).await.unwrap();
        }
        let sender = more_to_come.then_some(sender);
        let (printer, gone) = tokio::sync::mpsc::channel(1);
        drop(gone);
        let run = run::run(&client, receiver, printer, settings);
        let failure = timeout(LONG, run).await.unwrap().unwrap_err();
        assert_eq!(failure.exit, exit, "{}", failure.message);
        drop(sender);
    }
}

async fn submit(
    fake: &Fake,
    input: &str,
    settings: Settings,
) -> (Result<Summary, Failure>, Vec<Value>) {
    submit_with(fake.client(), input, settings).await
}

/// A run from text to lines, as the command does it.
async fn submit_with(
    client: Client,
    input: &str,
    settings: Settings,
) -> (Result<Summary, Failure>, Vec<Value>) {
    let all = batches(input.as_bytes(), Options::default());
    let (sender, receiver) = tokio::sync::mpsc::channel(all.len().max(1));
    for batch in all {
        sender.send(Ok(batch)).await.unwrap();
    }
    drop(sender);
    let out = Written::default();
    let (lines, printing) = printer::start(Format::Ndjson, out.clone());
    let outcome = timeout(LONG, run::run(&client, receiver, lines, settings)).await.unwrap();
    printing.await.unwrap().unwrap();
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    (outcome, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Stdout, kept.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe whose writer is slow and irregular.
struct Dribble<'a> {
    rest: &'a [u8],
    turn: usize,
}

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        let some = (self.turn % 13 + 1).min(into.len());
        self.rest.read(&mut into[..some])
    }
}

fn batches(input: impl Read, options: Options) -> Vec<Batch> {
    let mut source = Batches::new(io::BufReader::with_capacity(64, input), options);
    let mut all = Vec::new();
    while let Some(batch) = source.next().unwrap() {
        all.push(batch);
    }
    all
}

fn only_batch(input: &str, options: Options) -> Batch {
    let mut all = batches(input.as_bytes(), options);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn lines(count: usize) -> String {
    let line = |n| format!("{{\"type\":\"echo\",\"payload\":\"task {n}\"}}\n");
    (0..count).map(line).collect::<Vec<_>>().concat()
}

// Anything at all.

/// Lines that are nearly right, and bytes that are nothing.
fn any_input() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "{",
        "}",
        "\"type\":",
        "\"sum\"",
        ",",
        "\"payload\":",
        "[1,2]",
        "\"x\"",
        "null",
        "1e999",
        "\"encoding\":\"base64\"",
        "\"delay\":\"10m\"",
        "\"delay\":\"-1s\"",
        "\"priority\":99",
        "\"max_attempts\":1.5",
        "\n",
        "\r\n",
        "\u{feff}",
        " ",
        "\\ud800",
        "\u{0}",
        "[[[[[[[[",
    ];
    let piece = proptest::sample::select(pieces.map(str::as_bytes).to_vec());
    let nearly = proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat());
    let nothing = proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![nearly, nothing]
}

proptest! {
    #[test]
    fn whatever_is_in_an_input_each_line_is_a_task_or_told_of(input in any_input()) {
        let options = Options { type_name: Some("sum".to_owned()), ..Options::default() };
        for options in [Options::default(), options] {
            let mut batches = Batches::new(&input[..], options);
            let mut told = Vec::new();
            while let Some(batch) = batches.next().unwrap() {
                prop_assert_eq!(batch.tasks.len(), batch.lines.len());
                told.extend(batch.lines);
                told.extend(batch.bad.into_iter().map(|bad| bad.line));
            }
            told.sort_unstable();
            told.dedup();
            let lines = input.split(|byte| *byte == b'\n');
            let is_blank = |line: &[u8]| line.iter().all(|byte| b" \r\t\n\x0c".contains(byte));
            let filled = lines.filter(|line| !is_blank(line)).count();
            prop_assert!(told.len() >= filled, "{} of {}", told.len(), filled);
        }
    }
}

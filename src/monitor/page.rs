//! The page: what a person wants to see first. Rendered here, readable without
//! JavaScript; a small script of our own replaces its changing part as events come.

use std::time::Duration;

use humantime::format_duration;
use maud::{DOCTYPE, Markup, html};

use crate::client::TaskView;
use crate::wire::json::{health_name, link_name};
use crate::wire::v1::{GridStats, TypeFigures, WorkerFigures};

/// The whole page.
pub(super) fn whole(stats: &GridStats, failures: &[TaskView]) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "TaskGrid" }
                link rel="stylesheet" href="/assets/style.css";
                link rel="icon" href="data:,";
                noscript { meta http-equiv="refresh" content="5"; }
                script type="module" src="/assets/live.js" {}
            }
            body {
                header {
                    h1 { "TaskGrid" }
                    p #connection role="status" {}
                }
                main #live { (live(stats, failures)) }
                footer {
                    a href="/stats" { "stats" } " · "
                    a href="/workers" { "workers" } " · "
                    a href="/metrics" { "metrics" }
                }
            }
        }
    }
}

/// The part that changes.
pub(super) fn live(stats: &GridStats, failures: &[TaskView]) -> Markup {
    html! {
        @if stats.missing.is_empty() {
            p.state.fine { "All is well." }
        } @else {
            ul.state.missing { @for problem in &stats.missing { li { (problem) } } }
        }
        dl.tiles {
            (tile("Active workers", &stats.active_workers.to_string()))
            (tile("Pending", &stats.pending_tasks.to_string()))
            (tile("Running", &stats.running_tasks.to_string()))
            (tile("Completed", &stats.completed_tasks.to_string()))
            (tile("Failed", &stats.failed_tasks.to_string()))
            (tile("Tasks per second", &rate(stats.tasks_per_second)))
            (tile("Average time", &millis(stats.average_processing_time_ms)))
            (tile("Oldest pending", &age(stats.oldest_pending_ms)))
        }
        (workers(&stats.workers))
        (types(&stats.types))
        (failed(failures))
        (sources(stats))
    }
}

fn tile(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn workers(workers: &[WorkerFigures]) -> Markup {
    let header =
        ["Worker", "Types", "Address", "Standing", "Busy", "Completed", "Failed", "Average"];
    html! {
        section {
            h2 { "Workers" }
            (table(&header, workers.len(), "No worker is registered.", &html! {
                @for worker in workers {
                    tr.away[!worker.connected] {
                        td { (worker.id) }
                        td { (worker.types.join(", ")) }
                        td { (worker.address) }
                        td title=(worker.link_error) { (standing(worker)) }
                        td.number { (worker.busy) " / " (worker.slots) }
                        td.number { (worker.completed) }
                        td.number { (worker.failed) }
                        td.number { (millis(worker.average_processing_time_ms)) }
                    }
                }
            }))
        }
    }
}

fn standing(worker: &WorkerFigures) -> String {
    match (worker.connected, worker.draining) {
        (true, true) => "draining".to_owned(),
        (true, false) => "connected".to_owned(),
        (false, _) => {
            format!("{}, link {}", health_name(worker.health()), link_name(worker.link()))
        }
    }
}

fn types(types: &[TypeFigures]) -> Markup {
    let header = [
        "Type",
        "Workers",
        "Pending",
        "Running",
        "Completed",
        "Failed",
        "Per second",
        "Average",
        "Oldest",
    ];
    html! {
        section {
            h2 { "Queue" }
            (table(&header, types.len(), "No task type is known.", &html! {
                @for of_type in types {
                    tr.away[of_type.workers == 0] {
                        td { (of_type.r#type) }
                        td.number { (of_type.workers) }
                        td.number { (of_type.pending) }
                        td.number { (of_type.running) }
                        td.number { (of_type.completed) }
                        td.number { (of_type.failed) }
                        td.number { (rate(of_type.tasks_per_second)) }
                        td.number { (millis(of_type.average_processing_time_ms)) }
                        td.number { (age(of_type.oldest_pending_ms)) }
                    }
                }
            }))
        }
    }
}

fn failed(failures: &[TaskView]) -> Markup {
    let header = ["Task", "Type", "Reason", "Error", "Attempts", "Worker"];
    html! {
        section {
            h2 { "Failed last" }
            (table(&header, failures.len(), "No task has failed.", &html! {
                @for task in failures {
                    tr {
                        td { a href={ "/tasks/" (task.id) } { (task.id) } }
                        td { (task.type_name) }
                        td { (task.reason.map_or("", |reason| reason.as_str())) }
                        td.error { (task.error) }
                        td.number { (task.attempts) }
                        td { (task.worker) }
                    }
                }
            }))
        }
    }
}

fn sources(stats: &GridStats) -> Markup {
    html! {
        section {
            h2 { "Sources" }
            (table(&["Role", "Address", "Age", "Problem"], stats.sources.len(), "", &html! {
                @for source in &stats.sources {
                    tr.away[!source.reachable] {
                        td { (source.role) }
                        td { (source.url) }
                        td.number { (age(source.age_ms)) }
                        td { (source.error) }
                    }
                }
            }))
        }
    }
}

fn table(header: &[&str], rows: usize, none: &str, body: &Markup) -> Markup {
    html! {
        @if rows == 0 {
            p { (none) }
        } @else {
            div.scroll {
                table {
                    thead { tr { @for name in header { th scope="col" { (name) } } } }
                    tbody { (body) }
                }
            }
        }
    }
}

fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "–".to_owned(),
        Some(rate) if rate >= 100.0 => format!("{rate:.0}"),
        Some(rate) => format!("{rate:.1}"),
    }
}

fn millis(millis: Option<f64>) -> String {
    match millis {
        None => "–".to_owned(),
        Some(millis) if millis >= 1_000.0 => format!("{:.1} s", millis / 1_000.0),
        Some(millis) if millis >= 1.0 => format!("{millis:.1} ms"),
        Some(millis) => format!("{:.0} µs", millis * 1_000.0),
    }
}

fn age(age_ms: Option<u64>) -> String {
    match age_ms {
        None => "–".to_owned(),
        Some(age_ms) if age_ms < 1_000 => format!("{age_ms} ms"),
        Some(age_ms) => format_duration(Duration::from_secs(age_ms / 1_000)).to_string(),
    }
}

//! Who may call what: one table with every RPC of every service and every HTTP route,
//! default deny.
//!
//! It finds out nothing about who a caller is: until callers authenticate, a
//! listener that was let open (on loopback, or with `--insecure`) takes everyone
//! for every principal, and the table only says which paths exist at all.

/// What a caller is to the grid. One caller may be several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// Submits tasks, reads and cancels them.
    Client,
    /// Registers itself and keeps its registration alive.
    Worker,
    /// Reads the registry and gives work to workers.
    Dispatcher,
    /// Reads numbers and who is there; no task and no payload.
    Monitor,
    /// A person who looks after the grid: what a client may, and what changes
    /// how others are served.
    Operator,
}

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The path of an RPC, `/package.Service/Method`, or a route, `GET /path/{name}`.
    pub path: &'static str,
    /// Whoever is one of these may call it.
    pub principals: &'static [Principal],
}

impl Rule {
    /// Whether a caller who is `principal` may call it.
    #[must_use]
    pub fn admits(&self, principal: Principal) -> bool {
        self.principals.contains(&principal)
    }
}

/// The rule of the RPC or route at `path`; `None` means that nobody may call it.
#[must_use]
pub fn policy(path: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.path == path)
}

/// Every rule, for the tests of roles and for documentation.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    RULES.iter()
}

use Principal::{Client, Dispatcher, Monitor, Operator, Worker};

/// Frequent calls first: the table is searched from its top.
static RULES: [Rule; 28] = [
    // Submitting, and reading what was submitted.
    rule("/taskgrid.v1.Dispatcher/Submit", &[Client, Operator]),
    rule("/taskgrid.v1.Dispatcher/Get", &[Client, Operator]),
    rule("/taskgrid.v1.Dispatcher/Watch", &[Client, Operator]),
    rule("/taskgrid.v1.Dispatcher/List", &[Client, Operator]),
    rule("/taskgrid.v1.Dispatcher/Cancel", &[Client, Operator]),
    // Retrying overrides a budget that a client chose, so it takes a person.
    rule("/taskgrid.v1.Dispatcher/Retry", &[Operator]),
    // Numbers, types and workers; no task.
    rule("/taskgrid.v1.Dispatcher/Stats", &[Client, Monitor, Operator]),
    // A worker's port runs what it is sent: dispatchers only.
    rule("/taskgrid.v1.Worker/Execute", &[Dispatcher]),
    rule("/taskgrid.v1.Worker/Session", &[Dispatcher]),
    // A worker writes its own registration.
    rule("/taskgrid.v1.NameService/Heartbeat", &[Worker]),
    rule("/taskgrid.v1.NameService/Register", &[Worker]),
    rule("/taskgrid.v1.NameService/Deregister", &[Worker]),
    // The addresses of workers are for those who dial or show them.
    rule("/taskgrid.v1.NameService/Lookup", &[Dispatcher, Operator]),
    rule("/taskgrid.v1.NameService/List", &[Dispatcher, Monitor, Operator]),
    rule("/taskgrid.v1.NameService/Watch", &[Dispatcher, Monitor, Operator]),
    // The grid in numbers: what the monitor collected.
    rule("/taskgrid.v1.Monitor/GetStats", &[Client, Monitor, Operator]),
    rule("/taskgrid.v1.Monitor/WatchStats", &[Client, Monitor, Operator]),
    // The same for browsers and collectors, and one task by its id.
    rule("GET /stats", &[Client, Monitor, Operator]),
    rule("GET /workers", &[Client, Monitor, Operator]),
    rule("GET /tasks/{id}", &[Client, Operator]),
    rule("GET /", &[Client, Operator]),
    rule("GET /events", &[Client, Operator]),
    rule("GET /assets/{name}", &[Client, Operator]),
    rule("GET /metrics", &[Monitor, Operator]),
    rule("GET /readyz", &[Client, Worker, Dispatcher, Monitor, Operator]),
    rule("GET /healthz", &[Client, Worker, Dispatcher, Monitor, Operator]),
    // Probes come from whoever keeps the role running.
    rule("/grpc.health.v1.Health/Check", &[Client, Worker, Dispatcher, Monitor, Operator]),
    rule("/grpc.health.v1.Health/Watch", &[Client, Worker, Dispatcher, Monitor, Operator]),
];

const fn rule(path: &'static str, principals: &'static [Principal]) -> Rule {
    Rule { path, principals }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    #[test]
    fn every_rpc_has_a_rule_and_every_rule_an_rpc() {
        let served: BTreeSet<String> =
            [crate::wire::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET]
                .into_iter()
                .flat_map(paths)
                .collect();
        let ruled: BTreeSet<String> = rules().map(|rule| rule.path.to_owned()).collect();
        assert_eq!(ruled.len(), rules().count(), "a path has two rules");
        // Of HTTP routes, none is served without a rule: `http::route` sees to it.
        let rpcs: BTreeSet<String> =
            ruled.into_iter().filter(|path| !path.starts_with("GET ")).collect();
        assert_eq!(served, rpcs, "left: what is served, right: what the table names");
    }

    #[test]
    fn nobody_may_call_what_the_table_does_not_name() {
        for path in ["", "/", "/taskgrid.v1.Dispatcher/", "/taskgrid.v1.Dispatcher/submit"] {
            assert_eq!(policy(path), None, "{path}");
        }
    }

    #[test]
    fn only_dispatchers_give_work_to_workers() {
        for rule in rules().filter(|rule| rule.path.starts_with("/taskgrid.v1.Worker/")) {
            assert_eq!(rule.principals, [Dispatcher], "{}", rule.path);
        }
    }

    #[test]
    fn a_monitor_reads_no_task() {
        let readable: Vec<&str> =
            rules().filter(|rule| rule.admits(Monitor)).map(|rule| rule.path).collect();
        assert_eq!(
            readable,
            [
                "/taskgrid.v1.Dispatcher/Stats",
                "/taskgrid.v1.NameService/List",
                "/taskgrid.v1.NameService/Watch",
                "/taskgrid.v1.Monitor/GetStats",
                "/taskgrid.v1.Monitor/WatchStats",
                "GET /stats",
                "GET /workers",
                "GET /metrics",
                "GET /readyz",
                "GET /healthz",
                "/grpc.health.v1.Health/Check",
                "/grpc.health.v1.Health/Watch",
            ]
        );
    }

    fn paths(descriptors: &[u8]) -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(descriptors).unwrap();
        let mut paths = Vec::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    paths.push(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
        paths
    }
}

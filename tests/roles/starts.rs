//! In which order the roles are started does not matter.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use super::grid::{Grid, dispatcher, nameservice, reserved, worker};
use super::process::{Process, taskgrid};

#[derive(Debug, Clone, Copy)]
enum Role {
    Nameservice,
    Dispatcher,
    Worker,
}

#[test]
fn roles_started_in_any_order_find_one_another() {
    use Role::{Dispatcher, Nameservice, Worker};
    let orders = [
        [Nameservice, Dispatcher, Worker],
        [Nameservice, Worker, Dispatcher],
        [Dispatcher, Nameservice, Worker],
        [Worker, Nameservice, Dispatcher],
        [Dispatcher, Worker, Nameservice],
        [Worker, Dispatcher, Nameservice],
    ];
    thread::scope(|scope| {
        for order in orders {
            scope.spawn(move || works(order));
        }
    });
}

/// Starts the client before everybody else, and each role once the one before it
/// listens.
fn works(order: [Role; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let at = [reserved(), reserved()];
    let patient = ["client", "--patience", "1m", "--dispatcher", &at[1].to_string()];
    let mut command = taskgrid(&patient);
    command.args(["send", "upper", "order"]);
    let call = Process::spawn(command, b"");
    let roles = order.map(|role| {
        let role = start(role, at, dir.path());
        role.addr();
        role
    });
    let answer = call.answer();
    assert_eq!((answer.code, &*answer.stdout), (Some(0), "ORDER\n"), "{order:?}: {answer:?}");
    drop(roles);
}

fn start(role: Role, [names, tasks]: [SocketAddr; 2], dir: &Path) -> Process {
    match role {
        Role::Nameservice => nameservice(names),
        Role::Dispatcher => dispatcher(tasks, names, dir, &[]),
        Role::Worker => worker("upper", names, &[]),
    }
}

#[test]
fn a_task_of_a_known_type_waits_for_a_worker() {
    let mut grid = Grid::with_workers(&["hash"]);
    let worker = grid.workers.remove(0);
    worker.terminate();
    assert_eq!(worker.answer().code, Some(0));
    grid.wait_for_workers("hash", 0);

    let id = grid.send(&["hash", "text"]);
    let waited = grid.call(&["result", &id, "--wait", "100ms"]);
    waited.is_refused_call(4, &[&format!("task {id}"), "100ms"]);
    assert_eq!(grid.json(&["status", &id])["status"], "pending");

    // Also after a restart nobody need be there for its type to be known.
    grid.crash_dispatcher();
    let later = grid.send(&["hash", "text"]);
    grid.worker("hash", &[]);
    for id in [id, later] {
        grid.call(&["result", &id]).prints(super::HASH_OF_TEXT);
        assert_eq!(grid.json(&["status", &id])["attempts"], 1);
    }
}

/// The sockets that have the name of the one beside this port: that of its role, and one for
/// each peer that came in there.
fn beside(port: SocketAddr) -> usize {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let name = format!("@taskgrid/{port}");
    sockets.lines().filter(|socket| socket.ends_with(&name)).count()
}

#[test]
fn roles_on_one_machine_meet_beside_their_ports() {
    let grid = Grid::with_workers(&["upper"]);
    grid.call(&["send", "upper", "near"]).prints("NEAR\n");
    let worker = grid.workers[0].addr();
    assert!(beside(grid.dispatcher_addr) > 0, "it listens at its port alone");
    assert!(beside(grid.nameservice_addr) > 2, "the dispatcher or the worker came in by the port");
    assert!(beside(worker) > 1, "the dispatcher came in by the port");
    grid.call(&["--tcp-only", "send", "upper", "port"]).prints("PORT\n");
}

#[test]
fn who_is_told_to_meets_at_the_port_alone() {
    let mut grid = Grid::start(&["--tcp-only"]);
    grid.worker("upper", &["--tcp-only"]);
    grid.wait_for_workers("upper", 1);
    grid.call(&["send", "upper", "far"]).prints("FAR\n");
    assert_eq!((beside(grid.dispatcher_addr), beside(grid.workers[0].addr())), (0, 0));
}

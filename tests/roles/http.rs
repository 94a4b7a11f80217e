//! A reader of HTTP/1.1 that asks once on each connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::process::{PATIENCE, Process};

/// Where a role tells over HTTP how it is, once it does.
pub(crate) fn http_addr(role: &Process) -> SocketAddr {
    role.told(|text| {
        let (_, rest) = text.split_once("listening for HTTP address=")?;
        rest.split_once('\n')?.0.trim().parse().ok()
    })
}

/// The status and the body of an answer.
pub(crate) fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut peer = TcpStream::connect(addr).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    peer.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// The body of a good answer as JSON.
pub(crate) fn json(addr: SocketAddr, path: &str) -> Value {
    let (status, body) = get(addr, path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

fn me() -> Uid {
    rustix::process::geteuid()
}

fn name_of(addr: &str) -> Option<String> {
    name(addr.parse().unwrap())
}

#[test]
fn only_ports_of_the_loopback_have_a_name() {
    assert_eq!(name_of("127.0.0.1:7"), Some("taskgrid/127.0.0.1:7".to_owned()));
    assert_eq!(name_of("0.0.0.0:7"), name_of("127.0.0.1:7"));
    assert_eq!(name_of("[::1]:7"), Some("taskgrid/[::1]:7".to_owned()));
    assert_eq!(name_of("[::]:7"), name_of("[::1]:7"));
    assert_ne!(name_of("127.0.0.2:7"), name_of("127.0.0.1:7"));
    assert_eq!(name_of("192.0.2.1:7"), None);
    assert_eq!(name_of("[2001:db8::1]:7"), None);
}

#[test]
fn a_host_is_on_this_machine_by_its_address_or_as_localhost() {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    assert_eq!(loopbacks("127.0.0.1"), [v4]);
    assert_eq!(loopbacks("::1"), [v6]);
    assert_eq!(loopbacks("LocalHost"), [v6, v4]);
    assert!(loopbacks("192.0.2.1").is_empty());
    assert!(loopbacks("localhost.example").is_empty());
    assert!(loopbacks("").is_empty());
}

/// A port, whose listener is held so that nobody else has its number, and the socket beside it.
fn beside_a_port() -> (std::net::TcpListener, SocketAddr, UnixListener) {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = tcp.local_addr().unwrap();
    let local = bind(addr).unwrap();
    (tcp, addr, local)
}

#[tokio::test]
async fn who_listens_is_found_until_it_listens_no_more() {
    let (_tcp, addr, local) = beside_a_port();
    let local = tokio::net::UnixListener::from_std(local).unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let mut stream = connect(host, addr.port(), me()).await.unwrap();
        let (mut peer, _) = local.accept().await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut said = [0; 5];
        peer.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
    }
    drop(local);
    assert!(connect("127.0.0.1", addr.port(), me()).await.is_none());
    assert!(TcpStream::connect(addr).await.is_ok());
}

#[tokio::test]
async fn the_socket_of_another_user_is_left_alone() {
    let (_tcp, addr, _local) = beside_a_port();
    let another = Uid::from_raw(me().as_raw() + 1);
    assert!(connect("127.0.0.1", addr.port(), another).await.is_none());
    assert!(connect("127.0.0.1", addr.port(), me()).await.is_some());
}

#[test]
fn a_name_that_is_taken_leaves_the_port_alone() {
    let (_tcp, addr, _local) = beside_a_port();
    assert!(bind(addr).is_none());
}

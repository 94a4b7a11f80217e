//! The address by which others reach this worker, where nobody said it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};

use super::Error;
use crate::wire::registration::dialable;

/// What to register: what was said, or the bound address if that is one, or the
/// address from which this host reaches the nameservice. Resolves names, which may
/// block for as long as the system's resolver takes.
pub(super) fn advertised(
    said: Option<String>,
    bound: SocketAddr,
    nameservices: &[String],
) -> Result<String, Error> {
    if let Some(address) = said {
        let is_one = dialable(address.clone()).is_ok();
        return if is_one { Ok(address) } else { Err(Error::BadAddress(address)) };
    }
    if !bound.ip().is_unspecified() {
        return Ok(bound.to_string());
    }
    let outward = nameservices.iter().find_map(|url| outward(url));
    // Without a nameservice nobody reads it but those who dial this very host.
    let here = if bound.is_ipv4() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        IpAddr::V6(Ipv6Addr::LOCALHOST)
    };
    match outward.or_else(|| nameservices.is_empty().then_some(here)) {
        Some(ip) => Ok(SocketAddr::new(ip, bound.port()).to_string()),
        None => Err(Error::NoAddress),
    }
}

/// The address from which this host would send to that server. Connecting a UDP
/// socket chooses the route and sends nothing.
fn outward(url: &str) -> Option<IpAddr> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let server = authority.to_socket_addrs().ok()?.next()?;
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(server).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(said: Option<&str>, bound: &str, nameservices: &[&str]) -> Result<String, Error> {
        let nameservices: Vec<String> = nameservices.iter().copied().map(Into::into).collect();
        advertised(said.map(Into::into), bound.parse().unwrap(), &nameservices)
    }

    #[test]
    fn a_bound_address_is_advertised_as_it_is() {
        assert_eq!(
            of(None, "127.0.0.1:50062", &["http://127.0.0.1:9"]).unwrap(),
            "127.0.0.1:50062"
        );
        assert_eq!(of(Some("box:1"), "127.0.0.1:50062", &[]).unwrap(), "box:1");
    }

    #[test]
    fn a_worker_on_all_addresses_advertises_the_one_that_faces_the_nameservice() {
        let address = of(None, "0.0.0.0:7", &["http://127.0.0.1:9"]).unwrap();
        assert_eq!(address, "127.0.0.1:7");
        assert_eq!(of(None, "[::]:7", &[]).unwrap(), "[::1]:7");
        assert!(matches!(of(None, "0.0.0.0:7", &["no port"]), Err(Error::NoAddress)));
    }

    proptest::proptest! {
        #[test]
        fn what_is_advertised_may_be_registered(
            host in "[a-z0-9.@?#%_\\[\\]:-]{0,8}",
            port in 0..70_000_u32,
        ) {
            let said = format!("{host}:{port}");
            let advertised = advertised(Some(said.clone()), "127.0.0.1:1".parse().unwrap(), &[]);
            let registered = dialable(said);
            proptest::prop_assert_eq!(advertised.is_ok(), registered.is_ok());
        }
    }

    #[test]
    fn an_advertised_address_needs_a_host_and_a_port() {
        for bad in ["box", ":1", "box:0", "box:99999", "http://box:1", "a b:1"] {
            assert!(
                matches!(of(Some(bad), "127.0.0.1:1", &[]), Err(Error::BadAddress(_))),
                "{bad}"
            );
        }
    }
}

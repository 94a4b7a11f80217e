//! A worker's registration on the wire.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Malformed, v1};
use crate::core::directory;
use crate::core::id::{Timestamp, millis};
use crate::core::limits;
use crate::core::registry::{Endpoint, Health, Registration};
use crate::core::task_type::TaskType;

impl TryFrom<v1::Registration> for Registration {
    type Error = Malformed;

    fn try_from(message: v1::Registration) -> Result<Self, Malformed> {
        let v1::Registration { worker_id, incarnation, address, types, slots, version } = message;
        if !(1..=limits::SLOTS).contains(&slots) {
            return Err(Malformed::new("slots", format!("{slots} is not within 1 to 65,536")));
        }
        if version.len() > limits::VERSION_BYTES {
            return Err(Malformed::new("version", "longer than 64 bytes"));
        }
        Ok(Self {
            worker: worker_name(worker_id)?,
            incarnation,
            address: dialable(address)?,
            types: distinct(types)?,
            slots,
            version,
        })
    }
}

impl From<&Registration> for v1::Registration {
    fn from(registration: &Registration) -> Self {
        Self {
            worker_id: registration.worker.as_ref().to_owned(),
            incarnation: registration.incarnation,
            address: registration.address.as_ref().to_owned(),
            types: registration.types.iter().map(v1::TaskType::from).collect(),
            slots: registration.slots,
            version: registration.version.clone(),
        }
    }
}

impl From<Health> for v1::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::Unknown => Self::Unspecified,
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
        }
    }
}

/// The health a message names.
#[must_use]
pub fn health(message: v1::Health) -> Health {
    match message {
        v1::Health::Unspecified => Health::Unknown,
        v1::Health::Healthy => Health::Healthy,
        v1::Health::Unhealthy => Health::Unhealthy,
    }
}

/// A registration as it is told at `now`.
#[must_use]
pub fn endpoint(endpoint: &Endpoint, now: Timestamp) -> v1::Endpoint {
    v1::Endpoint {
        registration: Some(endpoint.registration.as_ref().into()),
        health: v1::Health::from(endpoint.health).into(),
        registered_ms_ago: millis(now.since(endpoint.registered)),
        heartbeat_ms_ago: millis(now.since(endpoint.heartbeat)),
    }
}

impl TryFrom<v1::Endpoint> for directory::Endpoint {
    type Error = Malformed;

    fn try_from(message: v1::Endpoint) -> Result<Self, Malformed> {
        let health = health(message.health());
        let registration =
            message.registration.ok_or_else(|| Malformed::new("registration", "missing"))?;
        Ok(Self { registration: Arc::new(registration.try_into()?), health })
    }
}

/// The id of a worker, when it is one.
pub fn worker_name(id: String) -> Result<Arc<str>, Malformed> {
    let fine = (1..=limits::WORKER_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_graphic());
    if fine {
        Ok(id.into())
    } else {
        Err(Malformed::new("worker_id", "not 1 to 128 printable ASCII characters without spaces"))
    }
}

/// An address that others can dial, when it is one.
pub fn dialable(address: String) -> Result<Arc<str>, Malformed> {
    let bad = |problem: &str| Err(Malformed::new("address", problem));
    if address.len() > limits::ADDRESS_BYTES {
        return bad("longer than 261 bytes");
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return bad("not of the form host:port");
    };
    if port.parse::<u16>().is_ok_and(|port| port > 0) {
        match host {
            "0.0.0.0" | "[::]" => {
                bad("where the worker listens, not where others reach it: use --advertise")
            }
            _ if is_host(host) => Ok(address.into()),
            _ => bad("its host is neither a name, an IPv4 address, nor an IPv6 address in []"),
        }
    } else {
        bad("its port is not within 1 to 65,535")
    }
}

fn is_host(host: &str) -> bool {
    let in_a_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    in_brackets.map_or_else(
        || !host.is_empty() && host.bytes().all(in_a_name),
        |address| address.parse::<std::net::Ipv6Addr>().is_ok(),
    )
}

fn distinct(messages: Vec<v1::TaskType>) -> Result<Vec<TaskType>, Malformed> {
    if !(1..=limits::WORKER_TYPES).contains(&messages.len()) {
        return Err(Malformed::new("types", format!("{} is not within 1 to 64", messages.len())));
    }
    let mut names = BTreeSet::new();
    let mut types = Vec::with_capacity(messages.len());
    for (place, message) in messages.into_iter().enumerate() {
        let within = |field: &str| format!("types[{place}].{field}");
        let task_type = TaskType::try_from(message)
            .map_err(|bad| Malformed::new(within(&bad.field), bad.problem))?;
        if !names.insert(task_type.name.clone()) {
            return Err(Malformed::new(within("name"), "named twice"));
        }
        types.push(task_type);
    }
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_survives_the_wire() {
        let message = registration();
        let parsed = Registration::try_from(message.clone()).unwrap();
        assert_eq!(v1::Registration::from(&parsed), message);
    }

    #[test]
    fn what_is_wrong_with_a_registration_is_named() {
        type Change = fn(&mut v1::Registration);
        let cases: [(&str, Change); 11] = [
            ("worker_id", |r| r.worker_id.clear()),
            ("worker_id", |r| r.worker_id = "a b".into()),
            ("worker_id", |r| r.worker_id = "x".repeat(129)),
            ("address", |r| r.address = "localhost".into()),
            ("address", |r| r.address = "localhost:0".into()),
            ("address", |r| r.address = "0.0.0.0:1".into()),
            ("address", |r| r.address = "::1:1".into()),
            ("slots", |r| r.slots = 0),
            ("types", |r| r.types.clear()),
            ("types[1].name", |r| r.types.push(r.types[0].clone())),
            ("version", |r| r.version = "x".repeat(65)),
        ];
        for (field, change) in cases {
            let mut message = registration();
            change(&mut message);
            let refused = Registration::try_from(message).unwrap_err();
            assert_eq!(refused.field, field, "{refused}");
        }
    }

    #[test]
    fn names_and_addresses_of_both_families_can_be_dialled() {
        for fine in ["worker-1.example:50062", "10.0.0.1:1", "[::1]:65535"] {
            assert!(dialable(fine.to_owned()).is_ok(), "{fine}");
        }
        for bad in ["", ":1", "[::1:1", "a/b:1", "a@b:1", "[x]:1", "[::]:1"] {
            assert!(dialable(bad.to_owned()).is_err(), "{bad}");
        }
    }

    fn registration() -> v1::Registration {
        v1::Registration {
            worker_id: "w1".into(),
            incarnation: 7,
            address: "localhost:50062".into(),
            types: vec![v1::TaskType {
                name: "hash".into(),
                payload: v1::PayloadKind::Bytes.into(),
                ..v1::TaskType::default()
            }],
            slots: 2,
            version: "0.1.0".into(),
        }
    }
}

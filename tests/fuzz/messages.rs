//! Any message of the contract: each field there or not, with values at the edges and
//! others, and now and then bytes that are no message any more.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use taskgrid::wire::DESCRIPTORS;

use super::dice::Dice;

/// How deep messages are nested. What recurs would never end.
const DEPTH: u32 = 6;

/// Strings that mean something somewhere. None names a host that is not this one.
const TEXTS: [&str; 18] = [
    "",
    "sum",
    "hash",
    "wait",
    "reverse",
    "taskgrid",
    "w1",
    "key",
    "127.0.0.1:1",
    "127.0.0.1:0",
    "[::1]:99999",
    "no address",
    "\u{0}",
    "ß\u{308}🇩🇪",
    "{",
    "[1,2,3]",
    "{\"type\":\"array\"}",
    "../x",
];

/// The messages and methods of `proto/`.
pub(crate) struct Contract {
    messages: BTreeMap<String, DescriptorProto>,
    methods: Vec<Method>,
}

/// One method.
#[derive(Debug, Clone)]
pub(crate) struct Method {
    pub(crate) service: String,
    pub(crate) path: String,
    pub(crate) input: String,
    pub(crate) client_streams: bool,
}

impl Contract {
    pub(crate) fn read() -> Self {
        let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let (mut messages, mut methods) = (BTreeMap::new(), Vec::new());
        for file in set.file {
            let package = format!(".{}", file.package());
            for message in file.message_type {
                collect(&package, message, &mut messages);
            }
            for service in file.service {
                for method in &service.method {
                    methods.push(Method {
                        service: service.name().to_owned(),
                        path: format!("/{}.{}/{}", &package[1..], service.name(), method.name()),
                        input: method.input_type().to_owned(),
                        client_streams: method.client_streaming(),
                    });
                }
            }
        }
        Self { messages, methods }
    }

    pub(crate) fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// A message of this type, as bytes.
    pub(crate) fn any_message(&self, name: &str, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.message(name, dice, DEPTH);
        if dice.chance(150) {
            spoil(&mut bytes, dice);
        }
        bytes
    }

    fn message(&self, name: &str, dice: &mut Dice, depth: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(message) = self.messages.get(name) else { return bytes };
        for field in &message.field {
            let count = match field.label() {
                Label::Repeated => dice.between(0, 3),
                Label::Optional | Label::Required => u64::from(dice.chance(700)),
            };
            for _ in 0..count {
                self.field(field, dice, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(&self, field: &FieldDescriptorProto, dice: &mut Dice, depth: u32, out: &mut Vec<u8>) {
        let number = u64::try_from(field.number()).unwrap();
        let mut tag = |wire: u64| varint(number << 3 | wire, out);
        match field.r#type() {
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                tag(1);
                out.extend(any_number(dice).to_le_bytes());
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                tag(5);
                out.extend(&any_number(dice).to_le_bytes()[..4]);
            }
            Type::Int64
            | Type::Uint64
            | Type::Int32
            | Type::Uint32
            | Type::Sint32
            | Type::Sint64
            | Type::Bool
            | Type::Enum => {
                tag(0);
                varint(any_number(dice), out);
            }
            Type::String | Type::Bytes => {
                tag(2);
                delimited(&any_text(dice), out);
            }
            Type::Message | Type::Group => {
                if depth > 0 {
                    tag(2);
                    delimited(&self.message(field.type_name(), dice, depth - 1), out);
                }
            }
        }
    }
}

fn collect(scope: &str, message: DescriptorProto, into: &mut BTreeMap<String, DescriptorProto>) {
    let name = format!("{scope}.{}", message.name());
    for nested in message.nested_type.clone() {
        collect(&name, nested, into);
    }
    into.insert(name, message);
}

/// Makes something else of it: other bits, fewer bytes, more of them.
pub(crate) fn spoil(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..dice.between(1, 4) {
        if bytes.is_empty() {
            bytes.push(dice.roll().to_le_bytes()[0]);
        }
        let place = dice.place(bytes.len());
        match dice.between(0, 2) {
            0 => bytes[place] ^= 1 << dice.between(0, 7),
            1 => bytes.truncate(place),
            _ => bytes.insert(place, dice.roll().to_le_bytes()[0]),
        }
    }
}

fn any_number(dice: &mut Dice) -> u64 {
    const EDGES: [u64; 10] = [0, 1, 2, 9, 10, 10_001, 1 << 31, 1 << 32, u64::MAX >> 1, u64::MAX];
    match dice.between(0, 3) {
        0 => EDGES[dice.place(EDGES.len())],
        1 => dice.roll(),
        _ => dice.between(0, 20),
    }
}

fn any_text(dice: &mut Dice) -> Vec<u8> {
    match dice.between(0, 9) {
        0 => vec![b'x'; dice.place(70_000)],
        1 => (0..dice.between(1, 40)).map(|_| dice.roll().to_le_bytes()[0]).collect(),
        _ => TEXTS[dice.place(TEXTS.len())].as_bytes().to_vec(),
    }
}

fn delimited(bytes: &[u8], out: &mut Vec<u8>) {
    varint(u64::try_from(bytes.len()).unwrap(), out);
    out.extend(bytes);
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

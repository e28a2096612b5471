//! What the kernel holds of our table, read over a plain netlink socket.

use std::collections::{BTreeMap, BTreeSet};

use crate::netlink::attr::{self, Attributes};
use crate::netlink::{Netlink, Refusal, Request};

use super::message::{INET, SUBSYSTEM, general_header};
use super::spec::{Base, ChainSpec, Element, SetSpec};

const GETTABLE: u16 = SUBSYSTEM | 1;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const GETRULE: u16 = SUBSYSTEM | 7;
const GETSET: u16 = SUBSYSTEM | 10;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const HEADER: usize = 4;
const RANGE_END: u32 = 1;

/// Our table as it is.
#[derive(Debug, Default)]
pub(crate) struct ActualTable {
    pub(crate) chains: BTreeMap<String, ActualChain>,
    pub(crate) sets: BTreeMap<String, ActualSet>,
}

/// A chain: its hook and the comments of its rules in order.
#[derive(Debug, Default)]
pub(crate) struct ActualChain {
    hook: Option<(u32, i32, String)>,
    pub(crate) rules: Vec<String>,
}

impl ActualChain {
    /// True where it hooks in at the same place with the same type.
    pub(crate) fn same_base(&self, spec: &ChainSpec) -> bool {
        let wanted =
            spec.base.map(|Base { hook, priority, kind }| (hook as u32, priority, kind.name().to_owned()));
        self.hook == wanted
    }
}

/// A set: definition and elements.
#[derive(Debug, Default)]
pub(crate) struct ActualSet {
    flags: u32,
    key_type: u32,
    key_length: u32,
    value: Option<(u32, u32)>,
    pub(crate) elements: BTreeSet<Element>,
}

impl ActualSet {
    /// True where the definition is the same, whatever the elements.
    pub(crate) fn same_definition(&self, spec: &SetSpec) -> bool {
        (self.flags, self.key_type, self.key_length) == (spec.flags(), spec.key_type(), spec.key_length())
            && self.value == spec.value_definition()
    }
}

/// Reads the table; `None` where there is none.
pub(crate) fn read(netlink: &mut Netlink, table: &str) -> Result<Option<ActualTable>, Refusal> {
    let request = Request { kind: GETTABLE, flags: 0, body: general_header(INET) };
    let tables = netlink.dump(&request)?;
    if !tables.iter().any(|reply| text(&reply.body, 1).as_deref() == Some(table)) {
        return Ok(None);
    }
    let mut actual = ActualTable { chains: chains(netlink, table)?, sets: sets(netlink, table)? };
    for (chain, comment) in rules(netlink, table)? {
        actual.chains.entry(chain).or_default().rules.push(comment);
    }
    let names: Vec<String> = actual.sets.keys().cloned().collect();
    for name in names {
        let elements = elements(netlink, table, &name)?;
        actual.sets.entry(name).or_default().elements = elements;
    }
    Ok(Some(actual))
}

fn chains(netlink: &mut Netlink, table: &str) -> Result<BTreeMap<String, ActualChain>, Refusal> {
    let request = Request { kind: GETCHAIN, flags: 0, body: general_header(INET) };
    let mut chains = BTreeMap::new();
    for reply in netlink.dump(&request)? {
        if text(&reply.body, 1).as_deref() != Some(table) {
            continue;
        }
        let attributes = reply.body.get(HEADER..).unwrap_or_default();
        let hook = attr::find(attributes, 4).map(|hook| {
            let kind = attr::find(attributes, 7).map(attr::text).unwrap_or_default();
            let number = attr::find_be32(hook, 1).unwrap_or_default();
            (number, attr::find_be32(hook, 2).unwrap_or_default().cast_signed(), kind)
        });
        if let Some(name) = text(&reply.body, 3) {
            chains.insert(name, ActualChain { hook, rules: Vec::new() });
        }
    }
    Ok(chains)
}

fn rules(netlink: &mut Netlink, table: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut body = general_header(INET);
    body.extend(Attributes::default().put_text(1, table).bytes());
    let replies = netlink.dump(&Request { kind: GETRULE, flags: 0, body })?;
    let ours = replies.iter().filter(|reply| text(&reply.body, 1).as_deref() == Some(table));
    Ok(ours
        .filter_map(|reply| {
            let attributes = reply.body.get(HEADER..)?;
            // Userdata is a list of type, length, value in single bytes; type 0 is the comment.
            let comment = attr::find(attributes, 7).and_then(|userdata| match userdata {
                [0, length, rest @ ..] => rest.get(..usize::from(*length)).map(attr::text),
                _ => None,
            });
            Some((text(&reply.body, 2)?, comment.unwrap_or_default()))
        })
        .collect())
}

fn sets(netlink: &mut Netlink, table: &str) -> Result<BTreeMap<String, ActualSet>, Refusal> {
    let mut body = general_header(INET);
    body.extend(Attributes::default().put_text(1, table).bytes());
    let replies = netlink.dump(&Request { kind: GETSET, flags: 0, body })?;
    let ours = replies.iter().filter(|reply| text(&reply.body, 1).as_deref() == Some(table));
    Ok(ours
        .filter_map(|reply| {
            let attributes = reply.body.get(HEADER..)?;
            let set = ActualSet {
                flags: attr::find_be32(attributes, 3).unwrap_or_default(),
                key_type: attr::find_be32(attributes, 4).unwrap_or_default(),
                key_length: attr::find_be32(attributes, 5).unwrap_or_default(),
                value: attr::find_be32(attributes, 6).zip(attr::find_be32(attributes, 7)),
                elements: BTreeSet::new(),
            };
            Some((text(&reply.body, 2)?, set))
        })
        .collect())
}

fn elements(netlink: &mut Netlink, table: &str, set: &str) -> Result<BTreeSet<Element>, Refusal> {
    let mut body = general_header(INET);
    body.extend(Attributes::default().put_text(1, table).put_text(2, set).bytes());
    let replies = netlink.dump(&Request { kind: GETSETELEM, flags: 0, body })?;
    let mut found = BTreeSet::new();
    for reply in &replies {
        let list =
            reply.body.get(HEADER..).and_then(|attributes| attr::find(attributes, 3)).unwrap_or_default();
        found.extend(attr::iter(list).filter_map(|(_, element)| decode(element)));
    }
    Ok(found)
}

fn decode(element: &[u8]) -> Option<Element> {
    let value = |nested: &[u8]| attr::find(nested, 1).map(<[u8]>::to_vec);
    Some(Element {
        key: attr::find(element, 1).and_then(value)?,
        key_end: attr::find(element, 10).and_then(value),
        range_end: attr::find_be32(element, 3).unwrap_or_default() & RANGE_END != 0,
        value: attr::find(element, 2).and_then(value),
    })
}

fn text(body: &[u8], kind: u16) -> Option<String> {
    attr::find(body.get(HEADER..)?, kind).map(attr::text)
}

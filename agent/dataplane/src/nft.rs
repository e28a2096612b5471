//! Driver for nftables: one table of ours, brought to a [`TableSpec`] by difference, each time in
//! one transaction. A transaction with nothing to change is not sent. Other tables are never named.

mod actual;
mod expr;
mod generation;
mod host_ports;
mod message;
mod ranges;
mod rules;
mod spec;

use std::collections::BTreeSet;
use std::ffi::CString;

use nftnl::{Batch, Chain, ChainType, MsgType, Policy, ProtoFamily, Rule, Table};
use turnpike_model::desired::{DesiredState, Endpoint};

use crate::DataplaneError;
use crate::netlink::{Netlink, Refusal, attr};

use actual::{ActualChain, ActualSet, ActualTable};
use message::Message;
pub(crate) use ranges::protocol_number;
use spec::{Base, BaseKind, ChainSpec, Element, Hook, SetKind, SetSpec, TableSpec};

/// Our nftables table.
#[derive(Debug)]
pub(crate) struct Nftables {
    netlink: Netlink,
    table: String,
    /// The generation of the namespace's rules at which our table was known to be like this: while nobody writes rules,
    /// a pod that comes or goes is compared with this, and not with a dump of all pods'.
    known: Option<(u32, TableSpec)>,
}

/// What a transaction is made of, before it is one: counted, so that nothing is sent for nothing.
#[derive(Default)]
struct Changes<'a> {
    /// The table goes and, unless the new one is empty, comes back: some definition changed its shape.
    rebuild: bool,
    create_table: bool,
    new_sets: Vec<&'a SetSpec>,
    elements: Vec<Message>,
    new_chains: Vec<&'a ChainSpec>,
    /// Chains whose rules are written anew, and whether they hold any now.
    refill: Vec<(&'a ChainSpec, bool)>,
    /// Chains and sets that nothing asks for any more.
    old_chains: Vec<String>,
    old_sets: Vec<String>,
}

impl Changes<'_> {
    fn is_empty(&self) -> bool {
        !self.rebuild
            && !self.create_table
            && self.new_sets.is_empty()
            && self.elements.is_empty()
            && self.new_chains.is_empty()
            && self.refill.is_empty()
            && self.old_chains.is_empty()
            && self.old_sets.is_empty()
    }
}

impl Nftables {
    /// Opens a socket in the namespace of the calling thread.
    pub(crate) fn open(table: &str) -> Result<Self, DataplaneError> {
        let netlink = Netlink::open(libc::NETLINK_NETFILTER).map_err(|source| DataplaneError::Nftables {
            what: "open a netfilter socket".to_owned(),
            source,
        })?;
        Ok(Self { netlink, table: table.to_owned(), known: None })
    }

    /// What the kernel calls the socket that writes.
    pub(crate) fn port(&self) -> u32 {
        self.netlink.port()
    }

    /// Brings the table to what `desired` asks for; answers whether anything was written.
    pub(crate) fn apply(&mut self, desired: &DesiredState) -> Result<bool, DataplaneError> {
        self.reconcile(rules::table(desired))
    }

    /// Host ports of an endpoint that lead nowhere, or elsewhere.
    pub(crate) fn missing_host_ports(&mut self, endpoint: &Endpoint) -> Result<Vec<String>, DataplaneError> {
        if endpoint.host_ports.is_empty() {
            return Ok(Vec::new());
        }
        let actual = actual::read(&mut self.netlink, &self.table)
            .map_err(|refusal| refused("read our table", &refusal))?
            .unwrap_or_default();
        let is_there = |set: &str, element: &Element| {
            actual.sets.get(set).is_some_and(|present| present.elements.contains(element))
        };
        Ok(host_ports::elements(endpoint)
            .filter(|(set, element, _)| !is_there(set, element))
            .map(|(_, _, words)| words)
            .collect())
    }

    /// Removes the table, if it is there.
    pub(crate) fn remove(&mut self) -> Result<bool, DataplaneError> {
        self.reconcile(TableSpec::default())
    }

    fn reconcile(&mut self, wanted: TableSpec) -> Result<bool, DataplaneError> {
        let before = generation::read(&mut self.netlink);
        let known = self.known.take().filter(|(then, _)| before == Some(*then));
        let written = match known.and_then(|(_, known)| self.write_since(&known, &wanted)) {
            Some(written) => written,
            None => self.compare_and_write(&wanted)?,
        };
        // Each transaction is a generation: with one more than ours, somebody else has written, too.
        let ours = before.map(|before| before.wrapping_add(written.into()));
        let now = generation::read(&mut self.netlink).filter(|now| ours == Some(*now));
        self.known = now.map(|now| (now, wanted));
        Ok(written)
    }

    /// Writes what has changed since the table was known to be like this. `None` where that is not all: the shape changes, or
    /// the kernel has refused what should have been possible.
    fn write_since(&mut self, known: &TableSpec, wanted: &TableSpec) -> Option<bool> {
        let changes = since(&self.table, known, wanted)?;
        self.write(&changes, true, false)
            .inspect_err(|error| tracing::info!(%error, "the whole table is compared"))
            .ok()
    }

    fn compare_and_write(&mut self, wanted: &TableSpec) -> Result<bool, DataplaneError> {
        let actual = actual::read(&mut self.netlink, &self.table)
            .map_err(|refusal| refused("read our table", &refusal))?;
        let changes = match &actual {
            None if wanted.is_empty() => return Ok(false),
            None => all_new(&self.table, wanted),
            Some(actual) => differences(&self.table, actual, wanted),
        };
        self.write(&changes, actual.is_some(), wanted.is_empty())
    }

    /// One transaction, unless nothing changes; answers whether there was one.
    fn write(&mut self, changes: &Changes<'_>, exists: bool, empty: bool) -> Result<bool, DataplaneError> {
        if changes.is_empty() {
            return Ok(false);
        }
        let batch = encode(&self.table, changes, exists, empty).finalize();
        let bytes: Vec<u8> = batch.iter().flatten().copied().collect();
        self.netlink
            .transaction(&bytes, batch.sequence_numbers().collect())
            .map_err(|refusal| refused("write our table", &refusal))?;
        Ok(true)
    }
}

/// The table that a notification says something was removed from; `None` for other notifications.
pub(crate) fn removed_from(kind: u16, body: &[u8]) -> Option<String> {
    /// DELTABLE, DELCHAIN, DELRULE, DELSET, DELSETELEM.
    const REMOVALS: [u16; 5] = [2, 5, 8, 11, 14];
    let is_inet = body.first() == Some(&message::INET);
    let removal = REMOVALS.contains(&(kind & 0xff)) && kind & 0xff00 == message::SUBSYSTEM && is_inet;
    // The table's name is the first attribute of all of them.
    removal.then(|| attr::find(body.get(4..)?, 1).map(attr::text)).flatten()
}

fn refused(what: &str, refusal: &Refusal) -> DataplaneError {
    let source = refusal
        .errno()
        .map_or_else(|| std::io::Error::other(refusal.words()), std::io::Error::from_raw_os_error);
    DataplaneError::Nftables { what: what.to_owned(), source }
}

fn all_new<'a>(table: &str, wanted: &'a TableSpec) -> Changes<'a> {
    Changes {
        create_table: true,
        new_sets: wanted.sets.iter().collect(),
        elements: wanted.sets.iter().flat_map(|set| add_elements(table, set, set.elements.iter())).collect(),
        new_chains: wanted.chains.iter().collect(),
        refill: wanted.chains.iter().map(|chain| (chain, false)).collect(),
        ..Changes::default()
    }
}

fn differences<'a>(table: &str, actual: &ActualTable, wanted: &'a TableSpec) -> Changes<'a> {
    if wanted.is_empty() || changes_shape(actual, wanted) {
        return Changes { rebuild: true, ..all_new(table, wanted) };
    }
    let surplus_chains = actual.chains.keys().filter(|name| wanted.chain(name).is_none());
    let surplus_sets = actual.sets.keys().filter(|name| wanted.set(name).is_none());
    let mut changes = Changes {
        old_chains: surplus_chains.cloned().collect(),
        old_sets: surplus_sets.cloned().collect(),
        ..Changes::default()
    };
    for set in &wanted.sets {
        match actual.sets.get(set.name) {
            Some(present) => changes.elements.extend(element_changes(table, set, &present.elements)),
            None => {
                changes.new_sets.push(set);
                changes.elements.extend(add_elements(table, set, set.elements.iter()));
            }
        }
    }
    for chain in &wanted.chains {
        let present = actual.chains.get(chain.name);
        if present.is_none() {
            changes.new_chains.push(chain);
        }
        let held = present.map(|present| present.rules.as_slice()).unwrap_or_default();
        if !chain.rules.iter().map(spec::RuleSpec::comment).eq(held.iter().cloned()) {
            changes.refill.push((chain, !held.is_empty()));
        }
    }
    changes
}

/// What leads from one table of ours to another that has the same sets and chains; `None` where it has others.
fn since<'a>(table: &str, known: &TableSpec, wanted: &'a TableSpec) -> Option<Changes<'a>> {
    if known == wanted {
        return Some(Changes::default());
    }
    let set_shape = |set: &SetSpec| (set.name, set.kind, set.fields.clone());
    let chain_shape = |chain: &ChainSpec| (chain.name, chain.base);
    let same_shape = !wanted.is_empty()
        && known.sets.iter().map(set_shape).eq(wanted.sets.iter().map(set_shape))
        && known.chains.iter().map(chain_shape).eq(wanted.chains.iter().map(chain_shape));
    if !same_shape {
        return None;
    }
    let mut changes = Changes::default();
    for (before, set) in known.sets.iter().zip(&wanted.sets).filter(|(before, set)| before != set) {
        let present = before.elements.iter().cloned().collect();
        changes.elements.extend(element_changes(table, set, &present));
    }
    for (before, chain) in known.chains.iter().zip(&wanted.chains).filter(|(before, chain)| before != chain) {
        changes.refill.push((chain, !before.rules.is_empty()));
    }
    Some(changes)
}

/// True where something must change its definition: then the table is replaced as a whole, in one transaction.
fn changes_shape(actual: &ActualTable, wanted: &TableSpec) -> bool {
    let set_differs = |(name, present): (&String, &ActualSet)| {
        wanted.set(name).is_some_and(|set| !present.same_definition(set))
    };
    let chain_differs = |(name, present): (&String, &ActualChain)| {
        wanted.chain(name).is_some_and(|chain| !present.same_base(chain))
    };
    actual.sets.iter().any(set_differs) || actual.chains.iter().any(chain_differs)
}

fn add_elements<'a>(table: &str, set: &SetSpec, elements: impl Iterator<Item = &'a Element>) -> Vec<Message> {
    message::set_elements(message::NEWSETELEM, table, set.name, &elements.collect::<Vec<_>>())
}

fn element_changes(table: &str, set: &SetSpec, present: &BTreeSet<Element>) -> Vec<Message> {
    let wanted: BTreeSet<&Element> = set.elements.iter().collect();
    let surplus: Vec<&Element> = present.iter().filter(|element| !wanted.contains(element)).collect();
    let missing: Vec<&Element> = set.elements.iter().filter(|element| !present.contains(element)).collect();
    match set.kind {
        SetKind::Dynamic { .. } => Vec::new(),
        SetKind::Hash | SetKind::Map(_) => {
            let mut messages = message::set_elements(message::DELSETELEM, table, set.name, &surplus);
            messages.extend(message::set_elements(message::NEWSETELEM, table, set.name, &missing));
            messages
        }
        // Ranges that move into each other cannot be changed one boundary at a time.
        SetKind::Ranges | SetKind::ConcatRanges if surplus.is_empty() && missing.is_empty() => Vec::new(),
        SetKind::Ranges | SetKind::ConcatRanges => {
            let mut messages = vec![message::flush_set(table, set.name)];
            messages.extend(add_elements(table, set, set.elements.iter()));
            messages
        }
    }
}

/// The transaction. Order matters: sets before the rules that look them up, chains before the rules that jump, and
/// what goes the other way round.
fn encode(name: &str, changes: &Changes<'_>, exists: bool, empty: bool) -> Batch {
    let mut batch = Batch::new();
    let table = Table::new(c_string(name), ProtoFamily::Inet);
    if changes.rebuild && exists {
        batch.add(&table, MsgType::Del);
    }
    if empty {
        return batch;
    }
    if changes.create_table {
        batch.add(&table, MsgType::Add);
    }
    for (id, set) in (1..).zip(&changes.new_sets) {
        message::new_set(name, set, id).add_to(&mut batch);
    }
    for message in &changes.elements {
        message.add_to(&mut batch);
    }
    for spec in &changes.new_chains {
        batch.add(&chain(&table, spec), MsgType::Add);
    }
    for (spec, holds_rules) in &changes.refill {
        if *holds_rules {
            message::flush_chain(name, spec.name).add_to(&mut batch);
        }
        let chain = Chain::new(c_string(spec.name), &table);
        for rule in &spec.rules {
            let mut raw = Rule::new(&chain);
            // Purposes are short constants: a comment that did not fit would make the rule look foreign and be
            // written again, which a test would show.
            let _ = raw.set_comment(c_string(&rule.comment()));
            for expression in &rule.expressions {
                raw.add_expr(expression);
            }
            batch.add(&raw, MsgType::Add);
        }
    }
    for chain in &changes.old_chains {
        message::flush_chain(name, chain).add_to(&mut batch);
    }
    for chain in &changes.old_chains {
        message::delete_chain(name, chain).add_to(&mut batch);
    }
    for set in &changes.old_sets {
        message::delete_set(name, set).add_to(&mut batch);
    }
    batch
}

fn chain<'a>(table: &'a Table, spec: &ChainSpec) -> Chain<'a> {
    let mut chain = Chain::new(c_string(spec.name), table);
    if let Some(Base { hook, priority, kind }) = spec.base {
        chain.set_hook(hook_of(hook), priority);
        chain.set_type(match kind {
            BaseKind::Filter => ChainType::Filter,
            BaseKind::Nat => ChainType::Nat,
        });
        chain.set_policy(Policy::Accept);
    }
    chain
}

fn hook_of(hook: Hook) -> nftnl::Hook {
    match hook {
        Hook::Prerouting => nftnl::Hook::PreRouting,
        Hook::Forward => nftnl::Hook::Forward,
        Hook::Output => nftnl::Hook::Out,
        Hook::Postrouting => nftnl::Hook::PostRouting,
    }
}

/// Our names and comments are constants without NUL; the table's name was checked when it was configured.
fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

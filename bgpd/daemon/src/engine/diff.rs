//! What a file would change: sessions, and what every table would come to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value};
use turnpike_bgp_core::config::Config as CoreConfig;
use turnpike_bgp_core::{Comparison, PeerTable, SessionEffect, TableChange, session_changes};
use turnpike_bgpd_api::view::{DiffView, Effect, PrefixChange, SessionChange, TableDiff};
use turnpike_bgpd_api::{Config, Reply, Table};

use super::Engine;
use super::change::{Job, Planned, Waiting};
use crate::merge::FILE;
use crate::views::{self, Names};

/// Parts of the file that are told by peer, by table or not at all.
const TOLD_ELSEWHERE: [&str; 1] = ["peer"];

impl Engine {
    /// Works the difference out beside the engine, from a copy of what peers have announced.
    pub(super) fn diff(&mut self, file: Config, limit: usize, waiting: Waiting) {
        let planned = match self.plan(file) {
            Ok(planned) => planned,
            Err(error) => {
                let _ = waiting.reply.send(Reply::Error(error));
                return;
            }
        };
        let mut view = DiffView { sessions: self.session_changes(&planned), ..DiffView::default() };
        view.notes = self.notes(&planned);
        let (Some(speaker), Some(core)) = (&self.speaker, planned.merged.core) else {
            view.notes.push("there is no speaker yet: tables are not compared".to_owned());
            let _ = waiting.reply.send(Reply::Diff(Box::new(view)));
            return;
        };
        let snapshot = speaker.snapshot();
        let names = super::requests::names(speaker);
        let by_address = speaker.peers().into_iter().map(|peer| (peer.remote, peer.name)).collect();
        self.jobs.spawn_blocking(move || {
            let comparison = snapshot.compare(&core, limit);
            add_tables(&mut view, comparison, &names, &by_address);
            let _ = waiting.reply.send(Reply::Diff(Box::new(view)));
            Job::Nothing
        });
    }

    fn session_changes(&self, planned: &Planned) -> Vec<SessionChange> {
        let nobody = |core: &CoreConfig| CoreConfig::new(core.asn, core.router_id);
        let new = planned.merged.core.as_ref();
        let old = self.merged.core.as_ref();
        let (old, new) = match (old, new) {
            (Some(old), Some(new)) => (old.clone(), new.clone()),
            (Some(old), None) => (old.clone(), nobody(old)),
            (None, Some(new)) => (nobody(new), new.clone()),
            (None, None) => return Vec::new(),
        };
        let mut changes: BTreeMap<IpAddr, SessionChange> = BTreeMap::new();
        for change in session_changes(&old, &new) {
            let effect = match change.effect {
                SessionEffect::Start => Effect::Start,
                SessionEffect::Stop => Effect::Stop,
                SessionEffect::Reset => Effect::Reset,
                SessionEffect::ShutDown => Effect::ShutDown,
                SessionEffect::Stays => Effect::Stays,
            };
            changes.insert(change.remote, self.session_change(planned, change.remote, change.name, effect));
        }
        for (address, transport) in &planned.merged.transports {
            let before = self.merged.transports.get(address);
            if before.is_some_and(|before| before != transport) {
                let name = planned.merged.peers.get(address).map(|peer| peer.label()).unwrap_or_default();
                let change = self.session_change(planned, *address, name, Effect::NextConnection);
                let held = changes.entry(*address).or_insert(change);
                if held.effect == Effect::Stays {
                    held.effect = Effect::NextConnection;
                }
            }
        }
        changes.into_values().collect()
    }

    fn session_change(
        &self,
        planned: &Planned,
        address: IpAddr,
        name: String,
        effect: Effect,
    ) -> SessionChange {
        let (before, after) = (self.merged.peers.get(&address), planned.merged.peers.get(&address));
        let fields = match (before, after) {
            (Some(before), Some(after)) => differing(before, after),
            _ => Vec::new(),
        };
        let peers = self.speaker.as_ref().map(|speaker| speaker.peers()).unwrap_or_default();
        let established = peers.iter().any(|peer| peer.remote == address && peer.session.is_some());
        SessionChange { name, address, effect, fields, established }
    }

    fn notes(&self, planned: &Planned) -> Vec<String> {
        let mut notes = Vec::new();
        if !planned.fixed.is_empty() {
            notes.push(format!("{}: takes effect at the next start only", planned.fixed.join(", ")));
        }
        let mut sections = differing(&self.file, &planned.file);
        sections.retain(|section| !TOLD_ELSEWHERE.contains(&section.as_str()));
        if !sections.is_empty() {
            notes.push(format!("changed sections: {}", sections.join(", ")));
        }
        notes.extend(planned.merged.missing.clone());
        let refused = planned.merged.parts.iter().flat_map(|part| {
            let owner = if part.owner == FILE {
                "the file".to_owned()
            } else {
                format!("the part of {}", part.owner)
            };
            part.refused.iter().map(move |piece| format!("not taken from {owner}: {piece}"))
        });
        notes.extend(refused);
        notes
    }
}

/// Fields of two values of one kind that differ, by name.
fn differing<T: Serialize>(before: &T, after: &T) -> Vec<String> {
    let fields = |value: &T| match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (before, after) = (fields(before), fields(after));
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

fn add_tables(
    view: &mut DiffView,
    comparison: Comparison,
    names: &Names,
    by_address: &BTreeMap<IpAddr, String>,
) {
    let name = |remote: &IpAddr| by_address.get(remote).cloned().unwrap_or_else(|| remote.to_string());
    if !comparison.loc.is_empty() {
        view.tables.push(table(Table::Loc, comparison.loc, names, true));
    }
    for PeerTable { remote, change } in comparison.received {
        view.tables.push(table(Table::In(name(&remote)), change, names, true));
    }
    for PeerTable { remote, change } in comparison.sent {
        view.tables.push(table(Table::Out(name(&remote)), change, names, false));
    }
    if !comparison.assumed.is_empty() {
        let hops: Vec<String> = comparison.assumed.iter().map(ToString::to_string).collect();
        view.notes.push(format!("next hops not asked about yet, taken for reachable: {}", hops.join(", ")));
    }
}

fn table(table: Table, change: TableChange, names: &Names, effective: bool) -> TableDiff {
    let prefixes = change.prefixes.into_iter().map(|one| PrefixChange {
        prefix: one.prefix,
        before: one.before.map(|path| views::path(path, names, effective)),
        after: one.after.map(|path| views::path(path, names, effective)),
    });
    TableDiff {
        table,
        added: change.added,
        removed: change.removed,
        changed: change.changed,
        prefixes: prefixes.collect(),
    }
}

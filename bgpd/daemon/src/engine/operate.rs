//! What operators do by hand: announce, withdraw, hold peers down, ask again.

use std::net::IpAddr;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use turnpike_bgp_core::Input;
use turnpike_bgpd_api::config::OPERATOR;
use turnpike_bgpd_api::view::{Caller, EventKind};
use turnpike_bgpd_api::{Code, ErrorReply, Network, Part, Prefix, Reply};

use super::Engine;
use super::requests::{conflict, find_peer, invalid, not_found, when_written};
use crate::audit::Change;
use crate::disk::Done;
use crate::merge::FILE;

/// What a request for a change has come to.
type Changed = Result<(Vec<String>, Option<Done>), ErrorReply>;

impl Engine {
    /// Sends the answer once everything is on disk.
    pub(super) fn answer(changed: Changed, to: oneshot::Sender<Reply>) {
        match changed {
            Ok((refused, Some(done))) => when_written(done, Reply::Pushed { refused }, to),
            Ok((refused, None)) => {
                let _ = to.send(Reply::Pushed { refused });
            }
            Err(error) => {
                let _ = to.send(Reply::Error(error));
            }
        }
    }

    /// Writes a change down and tells watchers.
    pub(super) fn note(&mut self, who: Option<Caller>, change: Change<'_>) {
        let text = format!("{}: {}", change.what, change.detail);
        let what = change.what.to_owned();
        self.audit.note(&self.disk, who, change);
        self.tell(EventKind::Change { what }, text);
    }

    fn operator_part(&self) -> Part {
        let held = self.store.parts().get(OPERATOR).cloned();
        held.unwrap_or_else(|| Part { owner: OPERATOR.to_owned(), ..Part::default() })
    }

    fn push_operator_part(&mut self, part: Part) -> Changed {
        let problems = |problems: Vec<String>| match invalid(&problems) {
            Reply::Error(error) => error,
            _ => ErrorReply { code: Code::Invalid, message: problems.join("; ") },
        };
        let empty = Part { owner: part.owner.clone(), ..Part::default() };
        if part == empty {
            let done = self.forget(OPERATOR).map_err(problems)?;
            return Ok((Vec::new(), done));
        }
        let (refused, done) = self.push(part).map_err(problems)?;
        Ok((refused, Some(done)))
    }

    pub(super) fn announce(&mut self, network: Network, who: Option<Caller>) -> Changed {
        let prefix = network.prefix;
        if let Some(owner) = self.merged.network_owners.get(&prefix).filter(|owner| *owner != OPERATOR) {
            let owner = if owner == FILE { "the file".to_owned() } else { format!("the part of {owner}") };
            return Err(conflict(format!("{owner} announces {prefix} already; change it there")));
        }
        let mut part = self.operator_part();
        let before = part.networks.iter().position(|held| held.prefix == prefix);
        let before = before.map(|index| part.networks.remove(index));
        let after = json!(network);
        part.networks.push(network);
        let changed = self.push_operator_part(part)?;
        let before = before.map_or(Value::Null, |before| json!(before));
        self.note(who, Change { what: "announce", detail: prefix.to_string(), before, after });
        Ok(changed)
    }

    pub(super) fn withdraw(&mut self, prefix: Prefix, who: Option<Caller>) -> Changed {
        let mut part = self.operator_part();
        let Some(index) = part.networks.iter().position(|held| held.prefix == prefix) else {
            return Err(match self.merged.network_owners.get(&prefix) {
                Some(owner) if owner == FILE => {
                    conflict(format!("{prefix} stands in the file; take it out there"))
                }
                Some(owner) => conflict(format!("{prefix} is in the part of {owner}; take it out there")),
                None => not_found(format!("we do not announce {prefix}")),
            });
        };
        let before = json!(part.networks.remove(index));
        let changed = self.push_operator_part(part)?;
        let after = Value::Null;
        self.note(who, Change { what: "withdraw", detail: prefix.to_string(), before, after });
        Ok(changed)
    }

    /// Keeps a peer down, or lets it up again.
    pub(super) fn hold(&mut self, peer: &str, message: Option<String>, who: Option<Caller>) -> Changed {
        let speaker = self.speaker()?;
        let id = find_peer(speaker, peer)?;
        let Some(view) = speaker.peer(id) else {
            return Err(not_found(format!("there is no peer `{peer}`")));
        };
        let (name, address): (String, IpAddr) = (view.name, view.remote);
        let mut part = self.operator_part();
        let before = match &message {
            Some(text) => part.held.insert(address, text.clone()),
            None => part.held.remove(&address),
        };
        if message.is_none() && before.is_none() {
            let down = self.merged.peers.get(&address).is_some_and(|peer| peer.shutdown.is_some());
            let owner = self.merged.owners.get(&address).map_or(FILE, String::as_str);
            return Err(conflict(match down {
                true if owner == FILE => format!("the file keeps {name} down; take `shutdown` out there"),
                true => format!("the part of {owner} keeps {name} down; change it there"),
                false => format!("{name} is not kept down"),
            }));
        }
        let what = if message.is_some() { "shutdown-peer" } else { "enable-peer" };
        let after = json!(message);
        let changed = self.push_operator_part(part)?;
        self.note(who, Change { what, detail: name, before: json!(before), after });
        Ok(changed)
    }

    /// Asks for everything again, or tells everything again.
    pub(super) fn soft_reset(
        &mut self,
        peer: &str,
        (inbound, outbound): (bool, bool),
        who: Option<Caller>,
    ) -> Result<Reply, ErrorReply> {
        let speaker = self.speaker()?;
        let id = find_peer(speaker, peer)?;
        let Some(view) = speaker.peer(id) else {
            return Err(not_found(format!("there is no peer `{peer}`")));
        };
        let Some(session) = &view.session else {
            return Err(conflict(format!(
                "{} is {}: there is nothing to ask or tell",
                view.name, view.state
            )));
        };
        let refresh = session.capabilities.iter().any(|capability| capability == "route refresh");
        if inbound && !refresh {
            return Err(conflict(format!(
                "{} has no route refresh (RFC 2918); what it sent is judged anew whenever policies change",
                view.name
            )));
        }
        let mut notes = Vec::new();
        if inbound {
            notes.push(format!("asked {} for everything again", view.name));
        }
        if outbound {
            notes.push(format!("telling {} everything again", view.name));
        }
        self.hand_in(Input::SoftReset { remote: view.remote, inbound, outbound });
        let detail = notes.join(", ");
        self.note(who, Change { what: "soft-reset", detail, before: Value::Null, after: Value::Null });
        Ok(Reply::Done { notes })
    }
}

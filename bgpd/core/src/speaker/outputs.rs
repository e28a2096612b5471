//! What the RIBs want done.

use turnpike_bgp_wire::{Family, RouteRefresh, RouteRefreshKind};

use super::Speaker;
use super::peer::Peer;
use crate::event::Event;
use crate::output::Output;
use crate::query::PeerId;
use crate::rib::RibOutput;

impl Speaker {
    /// Hands everything that the RIBs have queued on; `false` if that was nothing.
    pub(super) fn take_rib_outputs(&mut self) -> bool {
        let mut any = false;
        while let Some(wish) = self.rib.shared.out.pop_front() {
            any = true;
            self.grant(wish);
        }
        any
    }

    /// Asks a peer to tell everything of a family again, where it can.
    pub(super) fn ask_again(&mut self, peer: PeerId, family: Family) {
        let refresh = RouteRefresh { family: family.code(), kind: RouteRefreshKind::Request };
        let can = self.peer_ref(peer).and_then(|held| held.agreed.as_ref());
        if can.is_some_and(|agreed| agreed.route_refresh) {
            self.on_session(peer, |session, context| session.send_refresh(refresh, context));
        }
    }

    fn grant(&mut self, wish: RibOutput) {
        match wish {
            RibOutput::Send { peer, bytes, messages } => {
                let now = self.now;
                let Some(held) = self.peer_mut(peer) else { return };
                if let Some(conn) = held.session.note_sent(bytes.len(), messages, now) {
                    self.outputs.push_back(Output::Send { conn, bytes });
                    self.rearm(peer);
                }
            }
            RibOutput::EndOfRibSent { peer, family } => {
                if let Some(held) = self.peer_mut(peer) {
                    *held.end_of_rib_sent.get_mut(family) = true;
                }
            }
            RibOutput::Route(change) => self.outputs.push_back(Output::Route(change)),
            RibOutput::Track(nexthop) => self.outputs.push_back(Output::TrackNexthop(nexthop)),
            RibOutput::Untrack(nexthop) => self.outputs.push_back(Output::UntrackNexthop(nexthop)),
            RibOutput::Fail { peer, notification } => {
                self.on_session(peer, |session, context| session.expel(&notification, context));
            }
            RibOutput::OverLimit { peer, family, limit } => {
                if let Some(name) = self.peer_ref(peer).map(Peer::name) {
                    self.event(Event::PrefixLimit { peer, name, family, limit });
                }
            }
            RibOutput::Crowded { peer, prefix, limit } => {
                if let Some(name) = self.peer_ref(peer).map(Peer::name) {
                    self.event(Event::PathLimit { peer, name, prefix, limit });
                }
            }
            RibOutput::AskAgain { peer, family } => self.ask_again(peer, family),
            RibOutput::Best(prefix) => self.event(Event::Best { prefix }),
            RibOutput::TooLarge { peer, prefix } => {
                if let Some(name) = self.peer_ref(peer).map(Peer::name) {
                    self.event(Event::TooLarge { peer, name, prefix });
                }
            }
        }
    }
}

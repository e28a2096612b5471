//! Two connections at a time: which one stays.
//!
//! RFC 4271 §6.8 compares BGP identifiers once both connections have their OPEN. We compare as soon as one has and
//! the other has sent ours: waiting longer lets one side reach Established on a connection that the other is about
//! to close, which costs the session. A peer that connects again while its session is Established has restarted, if
//! graceful restart is in force (RFC 4724 §4.2); but not in the first seconds, when it is only the loser of a
//! collision coming in late.

use std::time::Duration;

use turnpike_bgp_wire::{Cease, Open};

use super::negotiate::our_asn;
use super::{Context, Effect, Phase, Session};
use crate::event::DownReason;
use crate::input::ConnId;

/// So long a new connection is the late half of a collision and not a restart.
const COLLISION_WINDOW: Duration = Duration::from_secs(5);

impl Session {
    /// Decides between the connection in `slot`, whose OPEN has just come, and the other one.
    /// `false`: it lost and is closed.
    pub(super) fn survives_collision(
        &mut self,
        slot: usize,
        theirs: &Open,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(this) = self.conns.get(slot).and_then(Option::as_ref).map(|conn| conn.id) else {
            return false;
        };
        let Some(other) = self.conns.get(1 - slot).and_then(Option::as_ref) else { return true };
        let (other_id, other_phase) = (other.id, other.phase);
        let keep_this = match other_phase {
            Phase::Connecting => {
                self.drop_connection(other_id, None, context);
                return true;
            }
            Phase::OpenSent | Phase::OpenConfirm => {
                let asn = our_asn(&self.config, &self.local);
                let outgoing_wins =
                    (self.local.router_id.to_u32(), asn) > (theirs.router_id.to_u32(), theirs.asn);
                matches!(this, ConnId::Outgoing(_)) == outgoing_wins
            }
            Phase::Established => {
                if self.is_restart_of(1 - slot, context) {
                    context.effects.push(Effect::Close { conn: other_id });
                    self.end(1 - slot, DownReason::Replaced, context);
                    return true;
                }
                false
            }
        };
        let loser = if keep_this { other_id } else { this };
        self.drop_connection(loser, Some(Cease::ConnectionCollision), context);
        keep_this
    }

    fn is_restart_of(&self, established: usize, context: &Context<'_>) -> bool {
        let conn = self.conns.get(established).and_then(Option::as_ref);
        let graceful = conn.is_some_and(|conn| conn.graceful().is_some());
        let settled = self.established_at().is_some_and(|at| context.now.since(at) >= COLLISION_WINDOW);
        graceful && settled
    }
}

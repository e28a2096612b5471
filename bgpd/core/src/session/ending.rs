//! How connections and sessions end, and what comes after.

use std::time::Duration;

use turnpike_bgp_wire::{Cause, Cease, Notification};

use super::{Connection, Context, Effect, Phase, Session, Timer, Timers};
use crate::event::DownReason;
use crate::input::ConnId;
use crate::time::Time;

/// First rest after an error; doubled with each further one.
const FIRST_REST: Duration = Duration::from_secs(5);
/// Longest rest after errors.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// A session that has lived so long has made up for earlier errors.
const GOOD_LIFE: Duration = Duration::from_secs(60);
/// Wait before the first new attempt after a session or connection ended without an error.
const SOON: Duration = Duration::from_secs(1);

impl Session {
    /// Ends a connection over a mistake of the peer or a timer: NOTIFICATION, then a rest.
    pub(super) fn fail(&mut self, slot: usize, notification: Notification, context: &mut Context<'_>) {
        let words = notification.to_string();
        self.last_notification = Some(format!("sent {words}"));
        let Some(conn) = self.conns.get(slot).and_then(Option::as_ref).map(|held| held.id) else { return };
        self.notify(slot, &notification, context);
        context.effects.push(Effect::Close { conn });
        self.errors += 1;
        self.end(slot, DownReason::Sent(words), context);
    }

    fn notify(&mut self, slot: usize, notification: &Notification, context: &mut Context<'_>) {
        let mut bytes = Vec::new();
        notification.encode(&mut bytes);
        self.notification_message = bytes.clone().into();
        self.send(slot, bytes, 1, context);
    }

    /// Closes a connection that is not the session, with a CEASE where the peer has an OPEN of ours.
    pub(super) fn drop_connection(&mut self, conn: ConnId, cease: Option<Cease>, context: &mut Context<'_>) {
        let Some(slot) = self.slot_of(conn) else { return };
        if let Some(cease) = cease {
            self.notify(slot, &Notification::new(Cause::Cease(cease)), context);
        }
        context.effects.push(Effect::Close { conn });
        self.forget(slot);
    }

    pub(super) fn forget(&mut self, slot: usize) -> Option<Connection> {
        let held = self.conns.get_mut(slot)?.take()?;
        self.timers.clear(Timer::hold(slot));
        self.timers.clear(Timer::keepalive(slot));
        if held.phase == Phase::Established {
            self.timers.clear(Timer::SendHold);
        }
        if held.phase == Phase::Connecting {
            self.timers.clear(Timer::ConnectRetry);
        }
        Some(held)
    }

    /// A connection has ended: says so, and arranges for the next.
    pub(super) fn end(&mut self, slot: usize, reason: DownReason, context: &mut Context<'_>) {
        let Some(held) = self.forget(slot) else { return };
        self.last_error = Some(reason.to_string());
        if held.phase == Phase::Established {
            let lived = self.established_at.take().map_or(Duration::ZERO, |at| context.now.since(at));
            let ours = matches!(reason, DownReason::Sent(_));
            if lived >= GOOD_LIFE {
                self.errors = u32::from(ours);
            }
            self.flaps += 1;
            let kept = held.keeps_paths(&reason);
            self.ended_with = std::mem::take(&mut self.notification_message);
            context.effects.push(Effect::Down { reason: reason.clone(), kept });
        } else {
            context.effects.push(Effect::ConnectionFailed { reason: reason.clone() });
        }
        self.arrange_next(&reason, context.now);
    }

    fn arrange_next(&mut self, reason: &DownReason, now: Time) {
        if self.config.shutdown.is_some() || self.conns.iter().any(Option::is_some) {
            return;
        }
        if matches!(reason, DownReason::Sent(_)) && self.errors > 0 {
            let rest = FIRST_REST * (1 << (self.errors - 1).min(6));
            let rest = self.jitter.spread(rest.min(LONGEST_REST));
            self.timers.clear(Timer::ConnectRetry);
            self.timers.set(Timer::Rest, now + rest);
            return;
        }
        let wait = match reason {
            DownReason::Transport(_) | DownReason::Replaced => SOON,
            _ => self.config.connect_retry,
        };
        self.connect_after(wait, now);
    }

    /// Ends everything with one CEASE on each connection that the peer can hear. For good (`hard`), the peer must
    /// not keep our paths.
    pub(crate) fn stop(&mut self, notification: &Notification, hard: bool, context: &mut Context<'_>) {
        let words = notification.to_string();
        for slot in [0, 1] {
            let Some(held) = self.conns.get(slot).and_then(Option::as_ref) else { continue };
            let (conn, phase) = (held.id, held.phase);
            let wrap = hard && held.graceful().is_some_and(|graceful| graceful.notification);
            if phase != Phase::Connecting {
                let message =
                    if wrap { notification.clone().into_hard_reset() } else { notification.clone() };
                self.last_notification = Some(format!("sent {message}"));
                self.notify(slot, &message, context);
            }
            context.effects.push(Effect::Close { conn });
            self.forget(slot);
            if phase == Phase::Established {
                self.established_at = None;
                self.flaps += 1;
                self.last_error = Some(format!("sent {words}"));
                self.ended_with = std::mem::take(&mut self.notification_message);
                let reason = DownReason::Sent(words.clone());
                context.effects.push(Effect::Down { reason, kept: false });
            }
        }
        self.timers = Timers::default();
        self.errors = 0;
    }

    /// Ends the session over what the peer has done, and keeps it down for the longest rest.
    pub(crate) fn expel(&mut self, notification: &Notification, context: &mut Context<'_>) {
        self.stop(notification, true, context);
        self.timers.set(Timer::Rest, context.now + LONGEST_REST);
    }

    /// Closes without a word, so that a helper keeps our paths (RFC 4724 §4).
    pub(crate) fn vanish(&mut self, context: &mut Context<'_>) {
        for slot in [0, 1] {
            let Some(held) = self.forget(slot) else { continue };
            context.effects.push(Effect::Close { conn: held.id });
            if held.phase == Phase::Established {
                context.effects.push(Effect::Down { reason: DownReason::Restarting, kept: true });
            }
        }
        self.timers = Timers::default();
        // Nothing begins anew in this process.
        self.config.shutdown = Some(String::new());
    }
}

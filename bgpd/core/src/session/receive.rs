//! Messages, by the state of the connection they came in on (RFC 4271 §8.2.2).

use turnpike_bgp_wire::{
    Cause, Cease, DecodeContext, EncodeContext, Family, Framer, FsmError, MAX_EXTENDED_MESSAGE, MessageType,
    Nlri, Notification, Open, RouteRefresh, RouteRefreshKind, Update, encode_keepalive, encode_message,
    encode_reach, encode_unreach,
};

use super::negotiate::{check, negotiate};
use super::{Context, Effect, Phase, Session, Timer};
use crate::event::DownReason;
use crate::input::ConnId;

impl Session {
    /// Takes in bytes of the stream.
    pub(crate) fn received(&mut self, conn: ConnId, bytes: &[u8], context: &mut Context<'_>) {
        let Some(slot) = self.slot_of(conn) else { return };
        let Some(held) = self.get_mut(slot) else { return };
        // The framer stands aside while its messages act on the session.
        let mut framer = std::mem::take(&mut held.framer);
        framer.push(bytes);
        while self.still(slot, conn) {
            match framer.next_frame() {
                Ok(Some(frame)) => {
                    self.counters.messages_in += 1;
                    if let Err(notification) = self.message(slot, frame.kind, frame.body, context) {
                        self.fail(slot, notification, context);
                    }
                }
                Ok(None) => break,
                Err(notification) => self.fail(slot, notification, context),
            }
            self.allow_extended(slot, &mut framer);
        }
        if self.still(slot, conn)
            && let Some(held) = self.get_mut(slot)
        {
            held.framer = framer;
        }
    }

    fn still(&self, slot: usize, conn: ConnId) -> bool {
        self.slot_of(conn) == Some(slot)
    }

    fn allow_extended(&self, slot: usize, framer: &mut Framer) {
        let negotiated =
            self.conns.get(slot).and_then(Option::as_ref).and_then(|conn| conn.negotiated.as_ref());
        if negotiated.is_some_and(|negotiated| negotiated.encode.max_message == MAX_EXTENDED_MESSAGE) {
            framer.allow_extended();
        }
    }

    fn message(
        &mut self,
        slot: usize,
        kind: MessageType,
        body: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), Notification> {
        let Some(phase) = self.conns.get(slot).and_then(Option::as_ref).map(|conn| conn.phase) else {
            return Ok(());
        };
        if phase >= Phase::OpenConfirm {
            self.heard(slot, context);
        }
        match (phase, kind) {
            (_, MessageType::Notification) => {
                self.notified(slot, body, context);
                Ok(())
            }
            (Phase::OpenSent, MessageType::Open) => self.opened(slot, body, context),
            (Phase::OpenConfirm, MessageType::Keepalive) => {
                self.establish(slot, context);
                Ok(())
            }
            (Phase::Established, MessageType::Keepalive) => {
                context.effects.push(Effect::Keepalive);
                Ok(())
            }
            (Phase::Established, MessageType::Update) => self.update(slot, body, context),
            (Phase::Established, MessageType::RouteRefresh) => self.refresh(slot, body, context),
            (phase, kind) => Err(unexpected(phase, kind)),
        }
    }

    /// The peer lives.
    fn heard(&mut self, slot: usize, context: &Context<'_>) {
        let hold = self.conns.get(slot).and_then(Option::as_ref).and_then(|conn| conn.hold_time());
        if let Some(hold) = hold {
            self.timers.set(Timer::hold(slot), context.now + hold);
        }
    }

    fn opened(&mut self, slot: usize, body: &[u8], context: &mut Context<'_>) -> Result<(), Notification> {
        let theirs = &Open::decode(body)?;
        check(theirs, &self.config, &self.local)?;
        let Some(conn) = self.conns.get(slot).and_then(Option::as_ref) else { return Ok(()) };
        let received = encode_message(MessageType::Open, body).into();
        let negotiated = negotiate(theirs, &self.config, &self.local, (conn, received))?;
        if !self.survives_collision(slot, theirs, context) {
            return Ok(());
        }
        let hold_time = negotiated.hold_time;
        if let Some(conn) = self.get_mut(slot) {
            conn.phase = Phase::OpenConfirm;
            conn.negotiated = Some(Box::new(negotiated));
        }
        match hold_time.is_zero() {
            true => self.timers.clear(Timer::hold(slot)),
            false => self.timers.set(Timer::hold(slot), context.now + hold_time),
        }
        let mut bytes = Vec::with_capacity(19);
        encode_keepalive(&mut bytes);
        self.send(slot, bytes, 1, context);
        self.arm_keepalive(slot, context.now);
        Ok(())
    }

    fn establish(&mut self, slot: usize, context: &mut Context<'_>) {
        let other = self.conns.get(1 - slot).and_then(Option::as_ref);
        if let Some((other, phase)) = other.map(|other| (other.id, other.phase)) {
            let cease = (phase != Phase::Connecting).then_some(Cease::ConnectionCollision);
            self.drop_connection(other, cease, context);
        }
        let Some(conn) = self.get_mut(slot) else { return };
        conn.phase = Phase::Established;
        let negotiated = conn.negotiated.clone();
        self.established_at = Some(context.now);
        self.ever_established = true;
        self.timers.clear(Timer::ConnectRetry);
        if let Some(negotiated) = negotiated {
            context.effects.push(Effect::Up(negotiated));
        }
    }

    fn update(&mut self, slot: usize, body: &[u8], context: &mut Context<'_>) -> Result<(), Notification> {
        let negotiated =
            self.conns.get(slot).and_then(Option::as_ref).and_then(|conn| conn.negotiated.as_ref());
        let Some(negotiated) = negotiated else { return Ok(()) };
        let update = Update::decode(body, &negotiated.decode)?;
        if context.monitored {
            let messages = match update.problems.is_empty() {
                true => vec![encode_message(MessageType::Update, body)],
                false => as_taken(&update, &negotiated.decode),
            };
            context.effects.extend(messages.into_iter().map(|message| Effect::Received(message.into())));
        }
        self.counters.updates_in += 1;
        self.counters.prefixes_in += update.announced().count() as u64;
        self.counters.withdraws_in += update.unreach.len() as u64;
        self.counters.malformed_in += u64::from(!update.problems.is_empty());
        context.effects.push(Effect::Update(Box::new(update)));
        Ok(())
    }

    fn refresh(&self, slot: usize, body: &[u8], context: &mut Context<'_>) -> Result<(), Notification> {
        let negotiated =
            self.conns.get(slot).and_then(Option::as_ref).and_then(|conn| conn.negotiated.as_ref());
        let enhanced = negotiated.is_some_and(|negotiated| negotiated.enhanced_refresh);
        let Some(refresh) = RouteRefresh::decode(body)? else { return Ok(()) };
        // Without RFC 7313 on both sides the octet of the subtype is reserved (RFC 2918 §3).
        let kind = if enhanced { refresh.kind } else { RouteRefreshKind::Request };
        context.effects.push(Effect::Refresh(RouteRefresh { kind, ..refresh }));
        Ok(())
    }

    fn notified(&mut self, slot: usize, body: &[u8], context: &mut Context<'_>) {
        let Some(notification) = Notification::decode(body) else { return };
        let words = notification.to_string();
        self.last_notification = Some(format!("received {words}"));
        self.notification_message = encode_message(MessageType::Notification, body).into();
        let Some(conn) = self.conns.get(slot).and_then(Option::as_ref).map(|conn| conn.id) else { return };
        context.effects.push(Effect::Close { conn });
        let reason = match notification.cause {
            // RFC 8538 §4: for good.
            Cause::Cease(Cease::HardReset) => DownReason::Ended(words),
            // The peer chose another connection than we: nobody has restarted, and nothing is lost.
            Cause::Cease(Cease::ConnectionCollision) => DownReason::Replaced,
            _ => DownReason::Received(words),
        };
        self.end(slot, reason, context);
    }
}

/// An UPDATE with mistakes as it was taken (RFC 7606): what is treated as withdrawn is withdrawn, what is discarded is
/// not there.
fn as_taken(update: &Update, decode: &DecodeContext) -> Vec<Vec<u8>> {
    let context = EncodeContext {
        four_octet_as: decode.four_octet_as,
        add_path_ipv4: decode.add_path.ipv4,
        add_path_ipv6: decode.add_path.ipv6,
        max_message: MAX_EXTENDED_MESSAGE,
    };
    let mut messages = Vec::new();
    for family in Family::ALL {
        let gone = update.unreach.iter().copied().filter(|nlri| nlri.prefix.family() == family);
        let gone: Vec<Nlri> = gone.collect();
        if !gone.is_empty() {
            let mut message = Vec::new();
            encode_unreach(family, &gone, &context, &mut message);
            messages.push(message);
        }
    }
    for reach in &update.reach {
        let mut message = Vec::new();
        let attributes = &update.attributes;
        let encoded =
            encode_reach(attributes, reach.family, reach.next_hop, &reach.nlri, &context, &mut message);
        if encoded.is_ok() && !message.is_empty() {
            messages.push(message);
        }
    }
    messages
}

/// RFC 6608.
fn unexpected(phase: Phase, kind: MessageType) -> Notification {
    let error = match phase {
        Phase::Connecting | Phase::OpenSent => FsmError::InOpenSent,
        Phase::OpenConfirm => FsmError::InOpenConfirm,
        Phase::Established => FsmError::InEstablished,
    };
    Notification::with_data(Cause::Fsm(error), vec![kind.code()])
}

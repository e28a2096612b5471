//! NOTIFICATION (RFC 4271 §4.5): why a session ends, as codes and in words.
//!
//! Covers the base codes, CEASE subcodes (RFC 4486), the shutdown communication (RFC 9003), the hard reset
//! (RFC 8538), ROUTE-REFRESH errors (RFC 7313) and the send hold timer (RFC 9687). Unknown codes are kept.

mod cause;

use std::fmt;

use bytes::Bytes;

pub use cause::{Cause, Cease, FsmError, HeaderError, OpenError, RouteRefreshError, UpdateError};

use crate::message::{Header, MessageType};
use crate::reader::Reader;

/// Longest shutdown communication, in octets of UTF-8 (RFC 9003 §2).
pub const MAX_SHUTDOWN_TEXT: usize = 255;

/// A NOTIFICATION message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notification {
    /// Code and subcode.
    pub cause: Cause,
    /// Data; its meaning depends on the cause.
    pub data: Bytes,
}

impl Notification {
    /// Without data.
    pub const fn new(cause: Cause) -> Self {
        Self { cause, data: Bytes::new() }
    }

    /// With data.
    pub fn with_data(cause: Cause, data: impl Into<Bytes>) -> Self {
        Self { cause, data: data.into() }
    }

    /// CEASE with a text for the peer's operators, cut at a character so that it fits (RFC 9003 §2).
    pub fn shutdown(cease: Cease, text: &str) -> Self {
        let mut end = text.len().min(MAX_SHUTDOWN_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.get(..end).unwrap_or_default();
        let mut data = Vec::with_capacity(1 + text.len());
        if !text.is_empty() {
            data.push(text.len() as u8);
            data.extend_from_slice(text.as_bytes());
        }
        Self::with_data(Cause::Cease(cease), data)
    }

    /// Wraps the notification so that the receiver does not keep our paths (RFC 8538 §3.1).
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let (code, subcode) = self.cause.codes();
        let mut data = vec![code, subcode];
        data.extend_from_slice(&self.data);
        Self::with_data(Cause::Cease(Cease::HardReset), data)
    }

    /// The notification inside a hard reset.
    pub fn inside_hard_reset(&self) -> Option<Notification> {
        if self.cause != Cause::Cease(Cease::HardReset) {
            return None;
        }
        let mut reader = Reader::new(&self.data);
        let cause = Cause::from_codes(reader.u8()?, reader.u8()?);
        Some(Notification { cause, data: self.data.slice(2..) })
    }

    /// The shutdown communication, where there is a well-formed one.
    pub fn shutdown_text(&self) -> Option<&str> {
        if !matches!(self.cause, Cause::Cease(Cease::AdministrativeShutdown | Cease::AdministrativeReset)) {
            return None;
        }
        let mut reader = Reader::new(&self.data);
        let len = reader.u8()?;
        let text = reader.take(usize::from(len))?;
        std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    /// Decodes a message body. Any body of two octets or more is a notification.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let cause = Cause::from_codes(reader.u8()?, reader.u8()?);
        Some(Self { cause, data: Bytes::copy_from_slice(reader.rest()) })
    }

    /// Appends the whole message; data beyond what a message of 4096 octets holds is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let room = usize::from(crate::MAX_MESSAGE) - Header::LEN - 2;
        let data = self.data.get(..room).unwrap_or(&self.data);
        let (code, subcode) = self.cause.codes();
        let at = Header::begin(out, MessageType::Notification);
        out.extend_from_slice(&[code, subcode]);
        out.extend_from_slice(data);
        Header::end(out, at);
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)?;
        if let Some(inside) = self.inside_hard_reset() {
            return write!(f, " ({inside})");
        }
        if let Some(text) = self.shutdown_text() {
            // The text is a stranger's: control characters must not reach a terminal or a log line.
            return write!(f, ": \"{}\"", text.escape_debug());
        }
        if !self.data.is_empty() && !matches!(self.cause, Cause::Cease(_)) {
            f.write_str(", data")?;
            for byte in self.data.iter().take(32) {
                write!(f, " {byte:02x}")?;
            }
            if self.data.len() > 32 {
                f.write_str(" …")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(notification: &Notification) -> Notification {
        let mut bytes = Vec::new();
        notification.encode(&mut bytes);
        Notification::decode(&bytes[19..]).unwrap()
    }

    #[test]
    fn a_shutdown_communication_is_shown_in_words() {
        let sent = Notification::shutdown(Cease::AdministrativeShutdown, "maintenance until 06:00");
        let got = round_trip(&sent);
        assert_eq!(got, sent);
        assert_eq!(got.to_string(), "Cease / Administrative Shutdown: \"maintenance until 06:00\"");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = "é".repeat(200);
        let sent = Notification::shutdown(Cease::AdministrativeShutdown, &text);
        assert_eq!(sent.shutdown_text().unwrap().len(), 254);
    }

    #[test]
    fn terminal_escapes_in_a_text_are_defused() {
        let got = Notification::shutdown(Cease::AdministrativeReset, "\u{1b}[2J");
        assert_eq!(got.to_string(), "Cease / Administrative Reset: \"\\u{1b}[2J\"");
    }

    #[test]
    fn a_hard_reset_shows_what_it_wraps() {
        let inner = Notification::shutdown(Cease::AdministrativeShutdown, "gone");
        let got = round_trip(&inner.clone().into_hard_reset());
        assert_eq!(got.inside_hard_reset(), Some(inner));
        assert_eq!(got.to_string(), "Cease / Hard Reset (Cease / Administrative Shutdown: \"gone\")");
    }

    #[test]
    fn unknown_codes_survive() {
        for (code, subcode) in [(1, 9), (2, 200), (3, 7), (4, 0), (5, 9), (6, 77), (7, 3), (8, 0), (99, 1)] {
            assert_eq!(Cause::from_codes(code, subcode).codes(), (code, subcode));
        }
        let got = Notification::with_data(Cause::from_codes(3, 5), vec![0x40, 1]);
        assert_eq!(got.to_string(), "UPDATE Message Error / Attribute Length Error, data 40 01");
        assert_eq!(Notification::new(Cause::from_codes(99, 1)).to_string(), "code 99 / subcode 1");
    }
}

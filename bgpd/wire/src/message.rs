//! The message header and the stream of messages (RFC 4271 §4.1).

use crate::notification::{Cause, HeaderError, Notification};
use crate::reader::Reader;

/// Longest message without, and of an OPEN or KEEPALIVE even with, the extended message capability.
pub const MAX_MESSAGE: u16 = 4096;
/// Longest message with the extended message capability (RFC 8654).
pub const MAX_EXTENDED_MESSAGE: u16 = 65535;

/// Message types.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum MessageType {
    /// RFC 4271 §4.2.
    Open = 1,
    /// RFC 4271 §4.3.
    Update = 2,
    /// RFC 4271 §4.5.
    Notification = 3,
    /// RFC 4271 §4.4.
    Keepalive = 4,
    /// RFC 2918.
    RouteRefresh = 5,
}

impl MessageType {
    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(MessageType::Open),
            2 => Some(MessageType::Update),
            3 => Some(MessageType::Notification),
            4 => Some(MessageType::Keepalive),
            5 => Some(MessageType::RouteRefresh),
            _ => None,
        }
    }

    /// The number on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Lengths that the type allows, header included (RFC 4271 §6.1, RFC 8654 §4).
    const fn lengths(self, max: u16) -> (u16, u16) {
        match self {
            MessageType::Open => (29, MAX_MESSAGE),
            MessageType::Update => (23, max),
            MessageType::Notification => (21, max),
            MessageType::Keepalive => (19, 19),
            MessageType::RouteRefresh => (23, max),
        }
    }
}

/// The fixed header.
pub(crate) struct Header;

impl Header {
    pub(crate) const LEN: usize = 19;

    /// Appends a header whose length is not yet known; the answer goes to [`Header::end`].
    pub(crate) fn begin(out: &mut Vec<u8>, kind: MessageType) -> usize {
        let at = out.len();
        out.extend_from_slice(&[0xff; 16]);
        out.extend_from_slice(&[0, 0, kind.code()]);
        at
    }

    /// Writes the length of the message that began at `at` and ends here.
    pub(crate) fn end(out: &mut [u8], at: usize) {
        let len = (out.len() - at) as u16;
        if let Some(field) = out.get_mut(at + 16..at + 18) {
            field.copy_from_slice(&len.to_be_bytes());
        }
    }
}

/// Appends a KEEPALIVE message.
pub fn encode_keepalive(out: &mut Vec<u8>) {
    let at = Header::begin(out, MessageType::Keepalive);
    Header::end(out, at);
}

/// The message with this body, as it is on the wire.
pub fn encode_message(kind: MessageType, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(Header::LEN + body.len());
    let at = Header::begin(&mut out, kind);
    out.extend_from_slice(body);
    Header::end(&mut out, at);
    out
}

/// A message cut out of the stream, its body not yet looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: MessageType,
    /// What follows the header.
    pub body: &'a [u8],
}

/// Cuts a byte stream into messages.
#[derive(Clone, Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    start: usize,
    extended: bool,
}

impl Framer {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows messages up to [`MAX_EXTENDED_MESSAGE`], once both sides have announced RFC 8654.
    pub const fn allow_extended(&mut self) {
        self.extended = true;
    }

    /// Takes in more of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Octets waiting for the rest of their message.
    pub const fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The next whole message, `None` if it is not all there yet, or the notification that a broken stream earns.
    /// After an error the stream has lost its frame: nothing more can be read from it.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Notification> {
        let max = if self.extended { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE };
        let waiting = self.buffer.get(self.start..).unwrap_or_default();
        let Some((kind, len)) = parse_header(waiting, max)? else { return Ok(None) };
        let Some(body) = waiting.get(Header::LEN..len) else { return Ok(None) };
        self.start += len;
        Ok(Some(Frame { kind, body }))
    }
}

fn parse_header(waiting: &[u8], max: u16) -> Result<Option<(MessageType, usize)>, Notification> {
    let mut reader = Reader::new(waiting);
    // The marker is checked as far as it has come: garbage need not fill a header to be refused.
    if waiting.iter().take(16).any(|byte| *byte != 0xff) {
        return Err(Notification::new(Cause::Header(HeaderError::NotSynchronized)));
    }
    let (Some(_marker), Some(len), Some(code)) = (reader.array::<16>(), reader.u16(), reader.u8()) else {
        return Ok(None);
    };
    let bad_length =
        || Notification::with_data(Cause::Header(HeaderError::BadLength), len.to_be_bytes().to_vec());
    if usize::from(len) < Header::LEN || len > max {
        return Err(bad_length());
    }
    let Some(kind) = MessageType::from_code(code) else {
        return Err(Notification::with_data(Cause::Header(HeaderError::BadType), vec![code]));
    };
    let (shortest, longest) = kind.lengths(max);
    if len < shortest || len > longest {
        return Err(bad_length());
    }
    Ok(Some((kind, usize::from(len))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepalives(count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            encode_keepalive(&mut bytes);
        }
        bytes
    }

    fn header(len: u16, code: u8) -> Vec<u8> {
        let mut bytes = vec![0xff; 16];
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.push(code);
        bytes
    }

    fn error_of(bytes: &[u8]) -> Notification {
        let mut framer = Framer::new();
        framer.push(bytes);
        framer.next_frame().unwrap_err()
    }

    #[test]
    fn any_slicing_of_the_stream_gives_the_same_messages() {
        let bytes = keepalives(5);
        for size in 1..=bytes.len() {
            let mut framer = Framer::new();
            let mut count = 0;
            for chunk in bytes.chunks(size) {
                framer.push(chunk);
                while let Some(frame) = framer.next_frame().unwrap() {
                    assert_eq!(frame, Frame { kind: MessageType::Keepalive, body: &[] });
                    count += 1;
                }
            }
            assert_eq!((count, framer.pending()), (5, 0), "slices of {size}");
        }
    }

    #[test]
    fn header_errors_name_the_field() {
        // RFC 4271 §6.1.
        assert_eq!(error_of(b"SSH-2.0-OpenSSH").cause, Cause::Header(HeaderError::NotSynchronized));
        for (len, code) in [(18, 4), (4097, 2), (20, 4), (28, 1), (22, 2), (20, 3), (22, 5)] {
            let error = error_of(&header(len, code));
            assert_eq!(error.cause, Cause::Header(HeaderError::BadLength), "length {len}, type {code}");
            assert_eq!(&error.data[..], len.to_be_bytes());
        }
        let error = error_of(&header(19, 9));
        assert_eq!((error.cause, &error.data[..]), (Cause::Header(HeaderError::BadType), &[9][..]));
    }

    #[test]
    fn extended_messages_are_not_for_open_and_keepalive() {
        let mut framer = Framer::new();
        framer.allow_extended();
        framer.push(&header(5000, 2));
        assert_eq!(framer.next_frame(), Ok(None));
        let mut framer = Framer::new();
        framer.allow_extended();
        framer.push(&header(5000, 1));
        assert!(framer.next_frame().is_err());
    }
}

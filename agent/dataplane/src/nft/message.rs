//! nftables messages that the nftnl crate cannot build (interval and dynamic sets, their elements, flushes), and one
//! transaction that mixes them with its tables, chains and rules.
#![expect(unsafe_code, reason = "nftnl's NlMsg trait writes into libnftnl's batch buffer")]

use std::ffi::c_void;
use std::ptr;

use nftnl::{Batch, MsgType, NlMsg};

use crate::netlink::attr::Attributes;

use super::spec::{Element, SetKind, SetSpec};

/// `NFNL_SUBSYS_NFTABLES`, the high byte of every message type.
pub(crate) const SUBSYSTEM: u16 = 10 << 8;
/// `NFPROTO_INET`.
pub(crate) const INET: u8 = 1;
pub(crate) const NEWSET: u16 = SUBSYSTEM | 9;
pub(crate) const NEWSETELEM: u16 = SUBSYSTEM | 12;
pub(crate) const DELSETELEM: u16 = SUBSYSTEM | 14;
pub(crate) const DELCHAIN: u16 = SUBSYSTEM | 5;
pub(crate) const DELSET: u16 = SUBSYSTEM | 11;
pub(crate) const DELRULE: u16 = SUBSYSTEM | 8;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const HEADER_LEN: usize = 16;
/// Elements in one message: a nested attribute's length is 16 bits.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// A message body made by ourselves: `nfgenmsg` and attributes.
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16, attributes: &Attributes) -> Self {
        let mut body = general_header(INET);
        body.extend(attributes.bytes());
        Self { kind, flags, body }
    }

    /// Appends this message to a transaction.
    pub(crate) fn add_to(&self, batch: &mut Batch) {
        batch.add(self, MsgType::Add);
    }
}

/// `struct nfgenmsg`: family, version 0, resource 0.
pub(crate) fn general_header(family: u8) -> Vec<u8> {
    vec![family, 0, 0, 0]
}

// SAFETY: `write` stays below nft_nlmsg_maxsize() (64 KiB and a page): bodies are bounded by ELEMENTS_PER_MESSAGE
// elements of at most 88 bytes, and a larger one is not written at all.
unsafe impl NlMsg for Message {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, _kind: MsgType) {
        let length = HEADER_LEN.saturating_add(self.body.len());
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(u32::try_from(length).unwrap_or_default().to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_ACK | self.flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(&self.body);
        if bytes.len() > usize::from(u16::MAX) {
            // A header without body: the kernel refuses the transaction.
            bytes.truncate(HEADER_LEN);
            bytes.splice(0..4, 16_u32.to_ne_bytes());
        }
        // SAFETY: the caller grants nft_nlmsg_maxsize() bytes at `buffer`, and `bytes` is no longer than 64 KiB.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast::<u8>(), bytes.len()) };
    }
}

/// Creates a set.
pub(crate) fn new_set(table: &str, set: &SetSpec, id: u32) -> Message {
    let mut attributes = Attributes::default()
        .put_text(1, table)
        .put_text(2, set.name)
        .put_be32(3, set.flags())
        .put_be32(4, set.key_type())
        .put_be32(5, set.key_length())
        .put_be32(10, id);
    if let Some((datatype, length)) = set.value_definition() {
        attributes = attributes.put_be32(6, datatype).put_be32(7, length);
    }
    let mut description = Attributes::default();
    if let SetKind::Dynamic { timeout_ms, size } = set.kind {
        attributes = attributes.put(11, &timeout_ms.to_be_bytes());
        description = description.put_be32(1, size);
    }
    if set.kind == SetKind::ConcatRanges {
        let fields = set.fields.iter().fold(Attributes::default(), |list, field| {
            list.nest(1, &Attributes::default().put_be32(1, field.length()))
        });
        description = description.nest(2, &fields);
    }
    if !description.bytes().is_empty() {
        attributes = attributes.nest(9, &description);
    }
    Message::new(NEWSET, NLM_F_CREATE, &attributes)
}

/// Adds or removes elements.
pub(crate) fn set_elements(kind: u16, table: &str, set: &str, elements: &[&Element]) -> Vec<Message> {
    let flags = if kind == NEWSETELEM { NLM_F_CREATE } else { 0 };
    elements
        .chunks(ELEMENTS_PER_MESSAGE)
        .map(|chunk| {
            let list = chunk
                .iter()
                .fold(Attributes::default(), |list, element| list.nest(1, &encode(element, kind)));
            let attributes = Attributes::default().put_text(1, table).put_text(2, set).nest(3, &list);
            Message::new(kind, flags, &attributes)
        })
        .collect()
}

/// Removes all elements of a set.
pub(crate) fn flush_set(table: &str, set: &str) -> Message {
    Message::new(DELSETELEM, 0, &Attributes::default().put_text(1, table).put_text(2, set))
}

/// Removes all rules of a chain.
pub(crate) fn flush_chain(table: &str, chain: &str) -> Message {
    Message::new(DELRULE, 0, &Attributes::default().put_text(1, table).put_text(2, chain))
}

/// Removes an empty chain.
pub(crate) fn delete_chain(table: &str, chain: &str) -> Message {
    Message::new(DELCHAIN, 0, &Attributes::default().put_text(1, table).put_text(3, chain))
}

/// Removes a set that no rule names.
pub(crate) fn delete_set(table: &str, set: &str) -> Message {
    Message::new(DELSET, 0, &Attributes::default().put_text(1, table).put_text(2, set))
}

fn encode(element: &Element, kind: u16) -> Attributes {
    let value = |bytes: &[u8]| Attributes::default().put(1, bytes);
    let mut attributes = Attributes::default().nest(1, &value(&element.key));
    // A key is enough to remove an element.
    if let Some(bytes) = element.value.as_ref().filter(|_| kind == NEWSETELEM) {
        attributes = attributes.nest(2, &value(bytes));
    }
    if element.range_end {
        attributes = attributes.put_be32(3, 1);
    }
    if let Some(end) = &element.key_end {
        attributes = attributes.nest(10, &value(end));
    }
    attributes
}

//! Our rule steps as libnftnl expressions.
//!
//! The nftnl crate's safe layer reads and writes register 1 only and lacks notrack, dynamic sets, negated lookups,
//! masquerade flags; its `Expression` trait is the door for the rest.
#![expect(unsafe_code, reason = "the Expression trait hands over raw libnftnl objects")]

use std::ffi::{CStr, CString};
use std::process;
use std::ptr::NonNull;

use nftnl::expr::Expression;
use nftnl_sys as sys;

use super::spec::{Expr, Header, Meta, Reg};

const NFT_REG_VERDICT: u32 = 0;
const NFT_PAYLOAD_NETWORK: u32 = 1;
const NFT_PAYLOAD_TRANSPORT: u32 = 2;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATE: u32 = 0;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_LOOKUP_INVERTED: u32 = 1;
const NFT_DYNSET_UPDATE: u32 = 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const NAT_RANDOM_FULLY: u32 = 1 << 4;
const NFT_NAT_DNAT: u32 = 1;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 2;
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_RETURN: i32 = -5;
const NFT_JUMP: i32 = -3;

/// An expression under construction. It belongs to the rule that it is added to; nothing here frees it.
struct Raw(NonNull<sys::nftnl_expr>);

impl Raw {
    fn new(name: &CStr) -> Self {
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        let raw = unsafe { sys::nftnl_expr_alloc(name.as_ptr()) };
        let Some(raw) = NonNull::new(raw) else {
            // libnftnl knows every name used below, so that this is out of memory for a few bytes: std aborts then too.
            process::abort();
        };
        Self(raw)
    }

    fn set_u32(self, attribute: u32, value: u32) -> Self {
        // SAFETY: `self.0` came from nftnl_expr_alloc and was not freed; the attribute is one of this expression.
        unsafe { sys::nftnl_expr_set_u32(self.0.as_ptr(), attribute_number(attribute), value) };
        self
    }

    fn set_text(self, attribute: u32, value: &str) -> Self {
        // Names are our own constants and hold no NUL.
        let value = CString::new(value).unwrap_or_default();
        // SAFETY: as above; libnftnl copies the string.
        unsafe { sys::nftnl_expr_set_str(self.0.as_ptr(), attribute_number(attribute), value.as_ptr()) };
        self
    }

    fn set_bytes(self, attribute: u32, value: &[u8]) -> Self {
        let length = u32::try_from(value.len()).unwrap_or_default();
        // SAFETY: as above; pointer and length are of one slice, which libnftnl copies.
        unsafe {
            sys::nftnl_expr_set(self.0.as_ptr(), attribute_number(attribute), value.as_ptr().cast(), length);
        }
        self
    }

    fn verdict(code: i32) -> Self {
        Self::new(c"immediate")
            .set_u32(sys::NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT)
            .set_u32(sys::NFTNL_EXPR_IMM_VERDICT, code.cast_unsigned())
    }
}

fn attribute_number(attribute: u32) -> u16 {
    u16::try_from(attribute).unwrap_or_default()
}

impl Expression for Expr {
    fn to_expr(&self, _rule: &nftnl::Rule<'_>) -> NonNull<sys::nftnl_expr> {
        let raw = match self {
            Self::Meta(key, Reg(reg)) => Raw::new(c"meta")
                .set_u32(sys::NFTNL_EXPR_META_KEY, meta_key(*key))
                .set_u32(sys::NFTNL_EXPR_META_DREG, *reg),
            Self::Payload { header, offset, length, into } => Raw::new(c"payload")
                .set_u32(sys::NFTNL_EXPR_PAYLOAD_BASE, payload_base(*header))
                .set_u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, *offset)
                .set_u32(sys::NFTNL_EXPR_PAYLOAD_LEN, *length)
                .set_u32(sys::NFTNL_EXPR_PAYLOAD_DREG, into.0),
            Self::CtState(Reg(reg)) => Raw::new(c"ct")
                .set_u32(sys::NFTNL_EXPR_CT_KEY, NFT_CT_STATE)
                .set_u32(sys::NFTNL_EXPR_CT_DREG, *reg),
            Self::Mask { reg, mask } => Raw::new(c"bitwise")
                .set_u32(sys::NFTNL_EXPR_BITWISE_SREG, reg.0)
                .set_u32(sys::NFTNL_EXPR_BITWISE_DREG, reg.0)
                .set_u32(sys::NFTNL_EXPR_BITWISE_LEN, u32::try_from(mask.len()).unwrap_or_default())
                .set_bytes(sys::NFTNL_EXPR_BITWISE_MASK, mask)
                .set_bytes(sys::NFTNL_EXPR_BITWISE_XOR, &vec![0; mask.len()]),
            Self::Cmp { reg, equal, bytes } => Raw::new(c"cmp")
                .set_u32(sys::NFTNL_EXPR_CMP_SREG, reg.0)
                .set_u32(sys::NFTNL_EXPR_CMP_OP, if *equal { NFT_CMP_EQ } else { NFT_CMP_NEQ })
                .set_bytes(sys::NFTNL_EXPR_CMP_DATA, bytes),
            Self::Lookup { reg, set, found } => Raw::new(c"lookup")
                .set_u32(sys::NFTNL_EXPR_LOOKUP_SREG, reg.0)
                .set_text(sys::NFTNL_EXPR_LOOKUP_SET, set)
                .set_u32(sys::NFTNL_EXPR_LOOKUP_FLAGS, if *found { 0 } else { NFT_LOOKUP_INVERTED }),
            Self::Remember { reg, set } => Raw::new(c"dynset")
                .set_u32(sys::NFTNL_EXPR_DYNSET_SREG_KEY, reg.0)
                .set_u32(sys::NFTNL_EXPR_DYNSET_OP, NFT_DYNSET_UPDATE)
                .set_text(sys::NFTNL_EXPR_DYNSET_SET_NAME, set),
            Self::Translate { reg, map } => Raw::new(c"lookup")
                .set_u32(sys::NFTNL_EXPR_LOOKUP_SREG, reg.0)
                .set_u32(sys::NFTNL_EXPR_LOOKUP_DREG, reg.0)
                .set_text(sys::NFTNL_EXPR_LOOKUP_SET, map),
            Self::DestinationType(Reg(reg)) => Raw::new(c"fib")
                .set_u32(sys::NFTNL_EXPR_FIB_DREG, *reg)
                .set_u32(sys::NFTNL_EXPR_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE)
                .set_u32(sys::NFTNL_EXPR_FIB_FLAGS, NFTA_FIB_F_DADDR),
            Self::Dnat { nfproto, address, port } => Raw::new(c"nat")
                .set_u32(sys::NFTNL_EXPR_NAT_TYPE, NFT_NAT_DNAT)
                .set_u32(sys::NFTNL_EXPR_NAT_FAMILY, u32::from(*nfproto))
                .set_u32(sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, address.0)
                .set_u32(sys::NFTNL_EXPR_NAT_REG_PROTO_MIN, port.0),
            Self::Counter => Raw::new(c"counter"),
            Self::Notrack => Raw::new(c"notrack"),
            Self::Masquerade => Raw::new(c"masq").set_u32(sys::NFTNL_EXPR_MASQ_FLAGS, NAT_RANDOM_FULLY),
            Self::Accept => Raw::verdict(NF_ACCEPT),
            Self::Drop => Raw::verdict(NF_DROP),
            Self::Return => Raw::verdict(NFT_RETURN),
            Self::Jump(chain) => Raw::verdict(NFT_JUMP).set_text(sys::NFTNL_EXPR_IMM_CHAIN, chain),
        };
        raw.0
    }
}

fn meta_key(key: Meta) -> u32 {
    match key {
        Meta::NfProto => NFT_META_NFPROTO,
        Meta::L4Proto => NFT_META_L4PROTO,
        Meta::InputName => NFT_META_IIFNAME,
        Meta::OutputName => NFT_META_OIFNAME,
    }
}

fn payload_base(header: Header) -> u32 {
    match header {
        Header::Network => NFT_PAYLOAD_NETWORK,
        Header::Transport => NFT_PAYLOAD_TRANSPORT,
    }
}

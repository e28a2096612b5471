//! The generation of a namespace's nftables rules: it goes up with every transaction of anybody (`base_seq` of
//! net/netfilter/nf_tables_api.c).

use crate::netlink::attr;
use crate::netlink::{Netlink, Request};

use super::message::{SUBSYSTEM, general_header};

const GETGEN: u16 = SUBSYSTEM | 16;
const HEADER: usize = 4;
/// `NFTA_GEN_ID`
const ID: u16 = 1;

/// The present one; `None` where the kernel does not tell.
pub(crate) fn read(netlink: &mut Netlink) -> Option<u32> {
    let reply = netlink.get(&Request { kind: GETGEN, flags: 0, body: general_header(0) }).ok()?;
    attr::find_be32(reply.body.get(HEADER..)?, ID)
}

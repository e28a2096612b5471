// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! What the eBPF programs and user space agree on: map names, keys, values, limits.
//!
//! Owner: `ebpf/`. `no_std` and without dependencies, so that it compiles for the BPF target as for the host. Every
//! value is `#[repr(C)]`, has no padding, no `bool` and no `Option`; its size is asserted at compile time, and its
//! field offsets by the tests below. Multi-byte fields are in host byte order unless their name ends in `_be`.
//!
//! Left out: anything that only one of the two sides needs.

#![no_std]

pub mod addr;
pub mod bypass;
pub mod counter;
pub mod lb;
pub mod mark;
pub mod names;
pub mod plain;
pub mod toa;
pub mod uoa;

pub use addr::{Addr, ExemptKey, LpmKey};
pub use bypass::{LbSource, PodEntry, PortKey, Uplink, Veth};
pub use counter::Counter;
pub use lb::{LbPath, LbStats, Tally};
pub use mark::{FlowTable, MarkConfig, MarkState};
pub use plain::Plain;
pub use toa::{Nat64Peer, ToaConfig, ToaEvent, ToaFormat, ToaOutcome, ToaSock, ToaTally};

/// Version of every layout in this crate. Maps are pinned in a folder of this number, so that programs of two
/// versions never share a map whose layout they see differently.
pub const ABI_VERSION: u32 = 3;

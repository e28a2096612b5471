//! The interop matrix: what turnpike-bgpd and other BGP daemons do together, feature by feature, each cell proved with
//! the real daemon and by what both sides themselves say. The table is `docs/interop.md`.
//!
//! Plain runs prove each feature with one peer; `TURNPIKE_TEST_FULL=1` proves every cell, `TURNPIKE_INTEROP_PEER=FRR` one
//! column. `TURNPIKE_WRITE_DOCS=1` writes
//! the document anew.

#![cfg(test)]

mod matrix;
mod ours;
mod peers;
mod proofs;
mod terms;

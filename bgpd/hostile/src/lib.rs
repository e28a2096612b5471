//! What a hostile or broken peer sends: the corpus of malformed messages, and the bodies of the fuzz targets.
//!
//! [`corpus`] reads the cases under `bgpd/wire/tests/corpus`, each with the action that an RFC demands. They are
//! replayed against the codec (`tests/corpus.rs` here) and against the live daemon (the testbed's `bgp_hostile`).
//! [`fuzz`] holds what `bgpd/fuzz` hands to libFuzzer; `tests/replay.rs` gives the same functions the committed inputs
//! on a stable compiler. Test support: nothing that ships depends on this crate.

pub mod corpus;
pub mod fuzz;

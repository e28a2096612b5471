//! The embedded eBPF object.

/// The object that `build.rs` found; empty when there was none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/turnpike-ebpf"));

/// The object, or `None` when this build has none.
pub(crate) fn bytes() -> Option<&'static [u8]> {
    (!OBJECT.is_empty()).then_some(OBJECT)
}

/// Whether this build holds the eBPF programs.
#[must_use]
pub fn is_embedded() -> bool {
    bytes().is_some()
}

//! A BGP speaker reads what strangers send: it keeps the three capabilities that it works with, and no more.
//!
//! capabilities(7): they belong to threads and are inherited by new ones, so this comes before the first thread.

use anyhow::{Context as _, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use tracing::warn;

/// Routes, TCP-MD5 and socket buffers; port 179; sockets bound to an interface.
const KEPT: CapabilitySet =
    CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_BIND_SERVICE).union(CapabilitySet::NET_RAW);

/// Gives the other capabilities up, for good. Fewer than [`KEPT`] at the start stay fewer, and are named in the log.
///
/// # Errors
/// The kernel refuses. Running on with everything that root may do is not an answer to that.
pub(crate) fn drop_others() -> Result<()> {
    let has = capabilities(None).context("cannot read our capabilities")?;
    if has.effective.contains(CapabilitySet::SETPCAP) {
        for other in has.permitted.difference(KEPT) {
            remove_capability_from_bounding_set(other)
                .with_context(|| format!("cannot give {other:?} up for good"))?;
        }
    }
    let keep = has.permitted.intersection(KEPT);
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot give capabilities up")?;
    set_no_new_privs(true).context("cannot set no_new_privs")?;
    let missing = KEPT.difference(keep);
    if !missing.is_empty() {
        warn!(?missing, "started without capabilities: kernel routes, TCP-MD5 or port 179 may fail");
    }
    Ok(())
}

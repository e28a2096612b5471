//! The agent runs as root and keeps of root's capabilities those that it works with.
//!
//! capabilities(7): they belong to threads and are inherited by new ones, so this comes before the first thread.

use anyhow::{Context as _, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// Each with its reason; deploy/systemd names the same.
const KEPT: [(CapabilitySet, &str); 8] = [
    (CapabilitySet::NET_ADMIN, "links, addresses, routes, nftables, tc, sysctls"),
    (CapabilitySet::NET_RAW, "echoes that prove gateways"),
    (CapabilitySet::SYS_ADMIN, "pods' namespaces (setns), bpffs; eBPF before Linux 5.8"),
    (CapabilitySet::BPF, "eBPF programs and maps"),
    (CapabilitySet::PERFMON, "eBPF programs that compare pointers"),
    (CapabilitySet::SYS_RESOURCE, "memory for eBPF maps before Linux 5.11"),
    (CapabilitySet::SYS_PTRACE, "which processes are in a pod's namespace: `toa check`, GC"),
    (CapabilitySet::DAC_OVERRIDE, "resource files of an operator's own user: `pool drain`, `bw apply`"),
];

/// Gives the other capabilities up, for good. Fewer than [`KEPT`] at the start stay fewer, and are named in the log.
///
/// # Errors
/// The kernel refuses. Running on with everything that root may do is not an answer to that.
pub(crate) fn drop_others() -> Result<()> {
    let kept = KEPT.iter().fold(CapabilitySet::empty(), |all, (one, _)| all.union(*one));
    let has = capabilities(None).context("cannot read our capabilities")?;
    if has.effective.contains(CapabilitySet::SETPCAP) {
        for other in has.permitted.difference(kept) {
            remove_capability_from_bounding_set(other)
                .with_context(|| format!("cannot give {other:?} up for good"))?;
        }
    }
    let keep = has.permitted.intersection(kept);
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot give capabilities up")?;
    set_no_new_privs(true).context("cannot set no_new_privs")?;
    for (missing, what_for) in KEPT.iter().filter(|(one, _)| !keep.contains(*one)) {
        tracing::info!(?missing, what_for, "started without a capability");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_keeps_what_we_keep() {
        let unit = include_str!("../../../deploy/systemd/turnpike-agent.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
        let mut named: Vec<&str> = line.split(' ').filter(|name| *name != "CAP_SETPCAP").collect();
        let mut kept: Vec<String> = KEPT.iter().map(|(one, _)| format!("{one:?}")).collect();
        let bare = |text: &str| text.trim_start_matches("CapabilitySet(").trim_end_matches(')').to_owned();
        kept.iter_mut().for_each(|name| *name = format!("CAP_{}", bare(name)));
        named.sort_unstable();
        kept.sort();
        assert_eq!(named, kept);
    }
}

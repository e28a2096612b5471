//! Checks of the machine below the network: its clock, the kernel's features, and packets that its CPUs lose.

use super::{Outcome, Verdict, bad, good, warn};
use crate::doctor::facts::{Facts, Queues};

/// 2026-01-01 in seconds since 1970: a machine that is before this release has no clock to speak of.
const RELEASED: u64 = 1_767_225_600;
/// Drops in a million packets that are worth a word.
const PER_MILLION: u64 = 10;

/// Cooldowns and trials survive jumps; certificates, logs and BGP's TCP-MD5 peers' patience do not.
pub(super) fn clock(facts: &Facts) -> Outcome {
    let remedy = "timedatectl set-ntp true, or run chrony; then timedatectl status";
    match (facts.clock.unix_s, facts.clock.synchronised) {
        (now, _) if now < RELEASED => bad("it is years behind: logs and certificates make no sense", remedy),
        (_, Some(false)) => warn("nobody sets it: logs of several nodes cannot be compared", remedy),
        (_, Some(true)) => good("synchronised"),
        (_, None) => good("plausible; no systemd here to say whether it is synchronised"),
    }
}

/// What the agent found missing when it loaded its programs.
pub(super) fn features(facts: &Facts) -> Outcome {
    let Some(agent) = &facts.agent else {
        return (Verdict::Unknown, "the agent was not asked".to_owned(), None);
    };
    if agent.missing_features.is_empty() {
        return good("eBPF, nftables and tc do all that is asked of them");
    }
    warn(
        agent.missing_features.join("; "),
        "boot a newer kernel, or one with these options; docs/load-balancers.md says which kernels were tried",
    )
}

/// net/core/net-procfs.c: a CPU's backlog was full.
pub(super) fn softnet(facts: &Facts) -> Outcome {
    let softnet = &facts.softnet;
    let dropped: u64 = softnet.iter().map(|cpu| cpu.dropped).sum();
    let processed: u64 = softnet.iter().map(|cpu| cpu.processed).sum();
    if dropped.saturating_mul(1_000_000) <= processed.saturating_mul(PER_MILLION) {
        return good(format!("{dropped} of {processed} packets dropped at a CPU's backlog since boot"));
    }
    let worst = softnet.iter().enumerate().max_by_key(|(_, cpu)| cpu.dropped).map_or(0, |(index, _)| index);
    warn(
        format!(
            "{dropped} of {processed} packets dropped at a CPU's backlog since boot, most on CPU {worst}"
        ),
        "sysctl -w net.core.netdev_max_backlog=10000 net.core.netdev_budget=600; spread the load (next check)",
    )
}

/// One queue, one interrupt, one CPU: it is full before the uplink is.
pub(super) fn receive_queues(facts: &Facts) -> Outcome {
    let narrow = |queues: &&Queues| queues.hardware && queues.receive == 1 && !queues.steered;
    let found: Vec<&str> = facts.queues.iter().filter(narrow).map(|queues| queues.link.as_str()).collect();
    if facts.softnet.len() < 2 || found.is_empty() {
        return good("no uplink leaves its packets to one CPU of several");
    }
    let first = found.first().copied().unwrap_or_default();
    warn(
        format!("{} has one receive queue: one CPU of {} does it all", found.join(", "), facts.softnet.len()),
        format!(
            "ethtool -L {first} combined {0} where the card can; else RPS: \
             echo ff > /sys/class/net/{first}/queues/rx-0/rps_cpus",
            facts.softnet.len()
        ),
    )
}

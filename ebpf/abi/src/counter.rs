// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! What the programs count.

/// Index into the per-CPU counters.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Packets that went from an uplink straight into a pod.
    UplinkBypassed = 0,
    /// The same, through the host veth because of a to-workload limit.
    UplinkBypassedLimited,
    /// Packets of a bypassing source to a pod that took the stack (fragment, options, TTL, size, no port rule).
    UplinkToStack,
    /// Packets of a bypassing source that came through an uplink not named for it.
    UplinkWrongLink,
    /// Packets that went from a pod straight to an uplink.
    PodBypassed,
    /// Packets that match the bypass but took the stack.
    PodToStack,
    /// Connections that pods opened to a bypassing source's address.
    PodConnects,
    /// IPv4 packets dropped because of their source address.
    SpoofedV4,
    /// IPv6 packets dropped because of their source address.
    SpoofedV6,
    /// ARP messages dropped because of their sender.
    SpoofedArp,
    /// Neighbour discovery messages dropped: foreign target, router advertisement or redirect.
    SpoofedNd,
    /// Frames dropped that are neither IPv4, IPv6 nor ARP, or malformed, or tagged.
    PodOtherFrame,
    /// Frames dropped because their veth has no entry yet.
    PodNoConfig,
    /// Connections whose client address was found.
    ToaHit,
    /// Connections from a TOA source without the option.
    ToaMiss,
    /// Connections from elsewhere that carried something like a TOA option.
    ToaUntrusted,
    /// Options of the right kind with a wrong length or content.
    ToaMalformed,
    /// Connections whose client address came in a later packet than the one that established them; also hits.
    ToaLate,
    /// Connections from a TOA source to a pod that wants none of it.
    ToaOptedOut,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 19;

    /// All, in index order, with the names that metrics and people see.
    pub const ALL: [(Self, &'static str); Self::COUNT as usize] = [
        (Self::UplinkBypassed, "uplink_bypassed"),
        (Self::UplinkBypassedLimited, "uplink_bypassed_limited"),
        (Self::UplinkToStack, "uplink_to_stack"),
        (Self::UplinkWrongLink, "uplink_wrong_link"),
        (Self::PodBypassed, "pod_bypassed"),
        (Self::PodToStack, "pod_to_stack"),
        (Self::PodConnects, "pod_connects"),
        (Self::SpoofedV4, "spoofed_v4"),
        (Self::SpoofedV6, "spoofed_v6"),
        (Self::SpoofedArp, "spoofed_arp"),
        (Self::SpoofedNd, "spoofed_nd"),
        (Self::PodOtherFrame, "pod_other_frame"),
        (Self::PodNoConfig, "pod_no_config"),
        (Self::ToaHit, "toa_hit"),
        (Self::ToaMiss, "toa_miss"),
        (Self::ToaUntrusted, "toa_untrusted"),
        (Self::ToaMalformed, "toa_malformed"),
        (Self::ToaLate, "toa_late"),
        (Self::ToaOptedOut, "toa_opted_out"),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_dense() {
        for (index, (counter, _)) in (0u32..).zip(Counter::ALL) {
            assert_eq!(counter as u32, index);
        }
    }
}

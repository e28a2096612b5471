//! Reasons in words.

use turnpike_dataplane::{LbPath, ToaEvent, ToaFormat, ToaOutcome};

/// Why a packet took the way that it took.
pub(super) fn path(path: LbPath) -> &'static str {
    match path {
        LbPath::Bypassed => "past netfilter and conntrack",
        LbPath::BypassedQueued => "past netfilter and conntrack, through the pod's queue",
        LbPath::WrongUplink => "its route goes over a link that spec.uplinks does not name",
        LbPath::PodLimited => "the pod's sending is limited: the queue must see it",
        LbPath::PodExcluded => "the pod is left out of the bypass, or its namespace out of this source",
        LbPath::Fragment => "fragments have no ports to match",
        LbPath::IpOptions => "IP options",
        LbPath::TtlExpired => "TTL used up; the sender gets an ICMP error",
        LbPath::OtherProtocol => "neither TCP nor UDP (ICMP errors, ping)",
        LbPath::PortNotListed => "spec.ports does not list this port and protocol",
        LbPath::PodsOwn => "a connection that the pod itself opened",
        LbPath::TooBig => "larger than the next link's MTU; the sender gets an ICMP error or fragments",
        LbPath::NoRoute => "no route to the load balancer over an uplink",
        LbPath::Malformed => "headers cut short",
    }
}

/// The outcome's name in counters and metrics.
pub(super) fn outcome(event: &ToaEvent) -> &'static str {
    match known(event.outcome) {
        Some(ToaOutcome::Pending) => "pending",
        Some(ToaOutcome::Hit | ToaOutcome::HitSyn) => "hit",
        Some(ToaOutcome::HitLate) => "late",
        Some(ToaOutcome::Miss) => "miss",
        Some(ToaOutcome::Untrusted) => "untrusted",
        Some(ToaOutcome::Malformed) => "malformed",
        Some(ToaOutcome::OptedOut) => "opted_out",
        None => "unknown",
    }
}

/// Why a connection did or did not get its client's address; `is_ipv4`: it came over IPv4.
pub(super) fn connection(event: &ToaEvent, is_ipv4: bool) -> String {
    let words = search(event);
    let client = std::net::Ipv6Addr::from(event.client);
    if is_ipv4 && !client.is_unspecified() && client.to_ipv4_mapped().is_none() {
        return format!(
            "{words}; an IPv4 socket shows the director: servers see an IPv6 client if they listen on `::`, or ask \
             getsockopt(IPPROTO_IP, 4096), which spec.toaNat64 answers"
        );
    }
    words
}

/// How the search for the option ended.
fn search(event: &ToaEvent) -> String {
    let kind = ToaFormat::kind(event.format.into());
    let other = match event.seen_kind {
        0 => String::new(),
        seen => format!("; it carried option {seen} instead: set spec.toa to that format"),
    };
    match known(event.outcome) {
        Some(ToaOutcome::Hit) => "the option came with the packet that established it".to_owned(),
        Some(ToaOutcome::HitSyn) => "the option came with the SYN".to_owned(),
        Some(ToaOutcome::HitLate) => {
            "the option came late: accept() showed the director, getpeername() the client".to_owned()
        }
        Some(ToaOutcome::Pending) => {
            format!("no option {kind} yet, {} more packets are searched{other}", event.tries)
        }
        Some(ToaOutcome::Miss) => format!("no option {kind} in any packet searched{other}"),
        Some(ToaOutcome::Untrusted) => format!(
            "it carried option {}, but no LoadBalancerSource with a toa format lists its peer",
            event.seen_kind
        ),
        Some(ToaOutcome::Malformed) => {
            format!("option {kind} had a wrong length, or a zero address or port{other}")
        }
        Some(ToaOutcome::OptedOut) => {
            "the pod's annotation turnpike.io/toa is \"off\", or the source is not for its namespace"
                .to_owned()
        }
        None => format!("outcome {} is not known here", event.outcome),
    }
}

fn known(outcome: u8) -> Option<ToaOutcome> {
    [
        ToaOutcome::Pending,
        ToaOutcome::Hit,
        ToaOutcome::HitSyn,
        ToaOutcome::HitLate,
        ToaOutcome::Miss,
        ToaOutcome::Untrusted,
        ToaOutcome::Malformed,
        ToaOutcome::OptedOut,
    ]
    .into_iter()
    .find(|known| *known as u8 == outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_with_another_format_says_which_one_to_set() {
        let event = ToaEvent {
            outcome: ToaOutcome::Miss as u8,
            format: ToaFormat::Toa254 as u8,
            seen_kind: 200,
            ..ToaEvent::default()
        };
        assert_eq!(
            connection(&event, true),
            "no option 254 in any packet searched; it carried option 200 instead: set spec.toa to that format"
        );
        assert_eq!(outcome(&event), "miss");
    }

    #[test]
    fn an_ipv6_client_of_an_ipv4_connection_is_explained() {
        let event = ToaEvent { outcome: ToaOutcome::Hit as u8, client: [0x20; 16], ..ToaEvent::default() };
        assert!(connection(&event, true).contains("spec.toaNat64"));
        assert!(!connection(&event, false).contains("spec.toaNat64"));
        let mapped =
            ToaEvent { client: std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets(), ..event };
        assert!(!connection(&mapped, true).contains("spec.toaNat64"));
    }
}

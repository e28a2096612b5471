//! Peers.

use std::fmt::Write as _;

use turnpike_bgpd_api::view::{PeerView, SessionView};
use turnpike_bgpd_api::{Families, PerFamily};

use super::text::counted;
use crate::table::{duration, table};

/// All peers, one a line.
pub(super) fn list(peers: &[PeerView]) -> String {
    let heading =
        ["Peer", "Address", "AS", "State", "Since", "Received", "Accepted", "Sent", "Owner", "Remark"];
    let mut rows = Vec::new();
    for peer in peers {
        let numbers = |value: &PerFamily<usize>| {
            if peer.session.is_none() && peer.stale_for.is_none() { "-".to_owned() } else { total(value) }
        };
        rows.push([
            peer.name.clone(),
            peer.address.to_string(),
            peer.autonomous_system(),
            peer.state.clone(),
            duration(peer.since),
            numbers(&peer.received),
            numbers(&peer.accepted),
            numbers(&peer.advertised),
            peer.owner.clone(),
            remark(peer),
        ]);
    }
    let established = peers.iter().filter(|peer| peer.session.is_some()).count();
    format!("{}\n{}, {established} established\n", table(heading, &rows), counted(peers.len(), "peer"))
}

fn total(value: &PerFamily<usize>) -> String {
    (value.ipv4 + value.ipv6).to_string()
}

/// What one should know about a peer without asking further.
fn remark(peer: &PeerView) -> String {
    if let Some(left) = peer.stale_for {
        return format!("paths kept for its restart, {left} s left");
    }
    match &peer.session {
        Some(_) => String::new(),
        None => peer.last_error.clone().unwrap_or_default(),
    }
}

/// Everything about one peer.
pub(super) fn detail(peer: &PeerView) -> String {
    let client = if peer.rr_client { ", route reflector client" } else { "" };
    let mut text = format!(
        "Peer {}: {}, AS {} ({}{client}), from {}\n",
        peer.name,
        peer.address,
        peer.autonomous_system(),
        peer.kind(),
        peer.owner
    );
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<18}{value}");
    };
    line("State", format!("{} for {}", peer.state, duration(peer.since)));
    if let Some(session) = &peer.session {
        session_lines(session, &mut line);
    }
    if let Some(left) = peer.stale_for {
        line("Restart", format!("its paths are stale and are kept for {left} s more"));
    }
    for (family, received) in peer.received.iter() {
        let (accepted, sent) = (peer.accepted.get(family), peer.advertised.get(family));
        line(&format!("{family} paths"), format!("{received} received, {accepted} accepted, {sent} sent"));
    }
    line("Messages", format!("{} in, {} out", peer.messages_in, peer.messages_out));
    line(
        "Updates",
        format!("{} in ({} malformed), {} out", peer.updates_in, peer.malformed_in, peer.updates_out),
    );
    line("Flaps", peer.flaps.to_string());
    if let Some(error) = &peer.last_error {
        line("Last error", error.clone());
    }
    if let Some(notification) = &peer.last_notification {
        line("Last notification", notification.clone());
    }
    text
}

fn session_lines(session: &SessionView, line: &mut dyn FnMut(&str, String)) {
    line("Connection", format!("{} to {}", session.local, session.remote));
    line("Router ID", session.router_id.to_string());
    line(
        "Hold time",
        if session.hold_time == 0 { "none".to_owned() } else { format!("{} s", session.hold_time) },
    );
    line("Families", families(&session.families));
    line("Capabilities", session.capabilities.join(", "));
    if let Some(time) = session.peer_restart_time {
        line("Graceful restart", format!("peer asks for {time} s"));
    }
    let (received, sent) = (families(&session.end_of_rib_received), families(&session.end_of_rib_sent));
    line("End-of-RIB", format!("received {received}; sent {sent}"));
    if session.unsent > 0 {
        line("Unsent", format!("{} octets", session.unsent));
    }
}

fn families(set: &Families) -> String {
    let names: Vec<String> = set.members().map(|family| family.to_string()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
pub(super) mod tests {
    use turnpike_bgpd_api::config::RemoteAs;

    use super::*;

    pub(in crate::bgp) fn sample(name: &str, established: bool) -> PeerView {
        let session = SessionView {
            local: "10.1.1.11:41000".parse().unwrap(),
            remote: "10.1.3.21:179".parse().unwrap(),
            router_id: "10.1.3.21".parse::<std::net::Ipv4Addr>().unwrap().into(),
            hold_time: 90,
            families: Families::BOTH,
            capabilities: vec!["multiprotocol ipv4".to_owned(), "graceful restart".to_owned()],
            peer_restart_time: Some(120),
            end_of_rib_received: Families::BOTH,
            end_of_rib_sent: Families::NONE,
            unsent: 0,
        };
        PeerView {
            name: name.to_owned(),
            address: "10.1.3.21".parse().unwrap(),
            remote_as: 65001.into(),
            configured_as: RemoteAs::Internal,
            owner: "turnpike-agent".to_owned(),
            internal: true,
            rr_client: false,
            state: if established { "Established" } else { "Active" }.to_owned(),
            since: 754,
            session: established.then_some(session),
            flaps: 0,
            last_error: (!established).then(|| "connection refused".to_owned()),
            last_notification: None,
            stale_for: None,
            messages_in: 30,
            messages_out: 31,
            updates_in: 4,
            updates_out: 3,
            malformed_in: 0,
            received: PerFamily { ipv4: 12, ipv6: 3 },
            accepted: PerFamily { ipv4: 11, ipv6: 3 },
            advertised: PerFamily { ipv4: 1, ipv6: 1 },
        }
    }

    #[test]
    fn peers_line_up_and_the_broken_one_says_why() {
        let text = list(&[sample("rr1", true), sample("rr2", false)]);
        let expected =
            "  Peer  Address    AS     State        Since   Received  Accepted  Sent  Owner           Remark
  rr1   10.1.3.21  65001  Established  12m34s  15        14        2     turnpike-agent
  rr2   10.1.3.21  65001  Active       12m34s  -         -         -     turnpike-agent  connection refused

2 peers, 1 established
";
        assert_eq!(text, expected);
    }

    #[test]
    fn one_peer_is_shown_whole() {
        let expected = "\
Peer rr1: 10.1.3.21, AS 65001 (internal), from turnpike-agent
  State             Established for 12m34s
  Connection        10.1.1.11:41000 to 10.1.3.21:179
  Router ID         10.1.3.21
  Hold time         90 s
  Families          ipv4, ipv6
  Capabilities      multiprotocol ipv4, graceful restart
  Graceful restart  peer asks for 120 s
  End-of-RIB        received ipv4, ipv6; sent none
  ipv4 paths        12 received, 11 accepted, 1 sent
  ipv6 paths        3 received, 3 accepted, 1 sent
  Messages          30 in, 31 out
  Updates           4 in (0 malformed), 3 out
  Flaps             0
";
        assert_eq!(detail(&sample("rr1", true)), expected);
    }
}

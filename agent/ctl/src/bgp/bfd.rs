//! BFD sessions.

use std::time::Duration;

use turnpike_bgpd_api::bfd::BfdView;

use super::text::counted;
use crate::table::{duration, table};

/// All sessions, one a line, then what is wrong.
pub(super) fn render(sessions: &[BfdView]) -> String {
    let rows: Vec<[String; 9]> = sessions.iter().map(row).collect();
    let heading = ["Peer", "Name", "Hops", "State", "For", "Remote", "Interval", "Detection", "Downs"];
    let mut text = table(heading, &rows);
    for session in sessions {
        let peer = session.key.peer;
        if let Some(problem) = &session.problem {
            text.push_str(&format!("{peer}: cannot send: {problem}\n"));
        }
        if session.downs > 0 {
            text.push_str(&format!("{peer}: last down: {}\n", session.diagnostic));
        }
        if let Some(seconds) = session.orphaned_for {
            let left = duration(seconds);
            text.push_str(&format!("{peer}: {} is away; the session ends in {left}\n", session.owner));
        }
    }
    let up = sessions.iter().filter(|session| session.state.to_string() == "Up").count();
    text.push_str(&format!("{}, {up} up\n", counted(sessions.len(), "session")));
    text
}

fn row(session: &BfdView) -> [String; 9] {
    let interface = session.key.interface.as_ref().map(|name| format!("%{name}")).unwrap_or_default();
    let micros = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), milliseconds);
    [
        format!("{}{interface}", session.key.peer),
        session.name.clone(),
        if session.key.multihop { "many" } else { "one" }.to_owned(),
        session.state.to_string(),
        duration(session.since),
        session.remote_state.to_string(),
        micros(session.tx_interval_us),
        micros(session.detection_us),
        session.downs.to_string(),
    ]
}

fn milliseconds(micros: u64) -> String {
    format!("{}ms", Duration::from_micros(micros).as_millis())
}

#[cfg(test)]
mod tests {
    use turnpike_bgpd_api::bfd::{BfdKey, BfdState};

    use super::*;

    fn session(peer: &str, state: BfdState) -> BfdView {
        BfdView {
            key: BfdKey { peer: peer.parse().unwrap(), local: None, interface: None, multihop: false },
            name: "tor".to_owned(),
            owner: "turnpike-bgpd".to_owned(),
            orphaned_for: None,
            state,
            remote_state: state,
            diagnostic: "control detection time expired".to_owned(),
            remote_independent: false,
            since: 75,
            downs: 0,
            local_discriminator: 7,
            remote_discriminator: Some(9),
            tx_interval_us: Some(300_000),
            detection_us: Some(900_000),
            packets_out: 250,
            packets_in: 250,
            problem: None,
        }
    }

    #[test]
    fn sessions_are_lines_and_troubles_sentences() {
        let mut down = session("10.1.2.1", BfdState::Down);
        down.downs = 2;
        down.detection_us = None;
        down.problem = Some("Network is unreachable (os error 101)".to_owned());
        let text = render(&[session("10.1.1.1", BfdState::Up), down]);
        assert_eq!(
            text,
            "  Peer      Name  Hops  State  For    Remote  Interval  Detection  Downs\n  \
               10.1.1.1  tor   one   Up     1m15s  Up      300ms     900ms      0\n  \
               10.1.2.1  tor   one   Down   1m15s  Down    300ms     -          2\n\
             10.1.2.1: cannot send: Network is unreachable (os error 101)\n\
             10.1.2.1: last down: control detection time expired\n\
             2 sessions, 1 up\n"
        );
    }
}

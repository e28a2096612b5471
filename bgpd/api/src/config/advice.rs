//! What a file may say and seldom means.

use super::{Config, Peer, PolicyChoice, Problem, RemoteAs};

impl Config {
    /// Oddities, without line numbers. None of them keeps the file from being used.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        for (index, peer) in self.peers.iter().enumerate() {
            let place = |field: &str| format!("peer[{index}].{field}");
            if self.is_external(peer) && peer.shutdown.is_none() {
                for (direction, choice, verb) in
                    [("import", &peer.import, "takes"), ("export", &peer.export, "gives")]
                {
                    if *choice == PolicyChoice::Default {
                        let message = format!(
                            "external peer {} {verb} nothing without a policy (RFC 8212)",
                            peer.label()
                        );
                        let remedy = format!("set {direction} to a policy, to accept-all, or to reject-all");
                        found.push(warning(place(direction), message, remedy));
                    }
                }
            }
            if let Some(path) = &peer.password_file
                && let Err(error) = std::fs::metadata(path)
            {
                let message = format!("{}: {error}; on this host the peer would stay out", path.display());
                found.push(warning(
                    place("password_file"),
                    message,
                    "create it, readable by root only".to_owned(),
                ));
            }
        }
        for name in self.policies.keys() {
            let choice = PolicyChoice::Named(name.clone());
            if self.peers.iter().all(|peer| peer.import != choice && peer.export != choice) {
                let message = "no peer of this file uses it".to_owned();
                let remedy = "name it in a peer's import or export, unless a pushed peer does".to_owned();
                found.push(warning(format!("policies.{name}"), message, remedy));
            }
        }
        found
    }

    /// Or may be.
    fn is_external(&self, peer: &Peer) -> bool {
        peer.remote_as == RemoteAs::Auto || peer.remote_as.is_internal(self.asn) == Some(false)
    }
}

fn warning(field: String, message: String, remedy: String) -> Problem {
    Problem { line: None, field, message, remedy: Some(remedy) }
}

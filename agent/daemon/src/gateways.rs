//! Do the node's gateways answer? Looked at every few seconds; shown in status, metrics and `/readyz`, asked for at
//! `/readyz/network`. Never a reason for CNI STATUS to fail: the runtime would evict pods that serve their neighbours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use turnpike_agent_api::GatewayStatus;
use turnpike_calc::Time;
use turnpike_dataplane::{Gateway, Reach};

use crate::agent::Agent;

/// Between two looks: longer than the kernel takes to find out that nobody answers (3 s).
const LOOK: Duration = Duration::from_secs(5);

/// Looks until the agent ends.
pub(crate) async fn follow(agent: Arc<Agent>) {
    let mut interval = tokio::time::interval(LOOK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let agent = Arc::clone(&agent);
        if tokio::task::spawn_blocking(move || agent.look_at_gateways()).await.is_err() {
            tracing::error!("a look at the gateways failed");
        }
    }
}

/// What is known of each gateway.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gateways {
    known: BTreeMap<(String, IpAddr), (Reach, Time)>,
}

impl Gateways {
    /// Takes a look in. A gateway that is being asked keeps its former verdict until the answer is there.
    pub(crate) fn heard(&mut self, found: Vec<Gateway>, now: Time) {
        let mut known = BTreeMap::new();
        for Gateway { link, address, reach } in found {
            let key = (link, address);
            let entry = match (self.known.get(&key), reach) {
                (Some(before), Reach::Unproved) => *before,
                (Some(before), reach) if before.0 == reach => *before,
                (_, reach) => {
                    let (link, address) = &key;
                    match reach {
                        Reach::Silent => tracing::warn!(link, %address, "the gateway does not answer"),
                        Reach::Answers => tracing::info!(link, %address, "the gateway answers"),
                        Reach::Unproved => {}
                    }
                    (reach, now)
                }
            };
            known.insert(key, entry);
        }
        self.known = known;
    }

    /// For people.
    pub(crate) fn report(&self, now: Time) -> Vec<GatewayStatus> {
        let words = |reach: Reach| match reach {
            Reach::Answers => "answers",
            Reach::Silent => "silent",
            Reach::Unproved => "not proved yet",
        };
        self.known
            .iter()
            .map(|((link, address), (reach, since))| GatewayStatus {
                link: link.clone(),
                address: *address,
                state: words(*reach).to_owned(),
                age_s: now.saturating_sub(*since).as_secs(),
            })
            .collect()
    }

    /// All of them, whether they answer or not.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.known.keys().map(|(_, address)| *address).collect()
    }

    /// Why the node cannot be said to reach its network: it has gateways, and none has answered.
    pub(crate) fn lost(&self) -> Option<String> {
        let answers = self.known.values().any(|(reach, _)| *reach == Reach::Answers);
        if answers || self.known.is_empty() {
            return None;
        }
        let names: Vec<String> =
            self.known.keys().map(|(link, address)| format!("{address} on {link}")).collect();
        Some(format!("no gateway answers ARP or ND: {}", names.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(address: &str, reach: Reach) -> Gateway {
        Gateway { link: "eth0".into(), address: address.parse().unwrap(), reach }
    }

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn one_gateway_that_answers_is_enough_and_a_question_changes_no_verdict() {
        let mut gateways = Gateways::default();
        assert_eq!(gateways.lost(), None, "a node without gateways reaches what BGP taught it");
        gateways.heard(vec![gateway("10.0.0.1", Reach::Unproved)], at(0));
        assert!(gateways.lost().is_some(), "not before the first answer");
        gateways.heard(vec![gateway("10.0.0.1", Reach::Answers), gateway("10.0.0.2", Reach::Silent)], at(10));
        assert_eq!(gateways.lost(), None);
        gateways.heard(vec![gateway("10.0.0.1", Reach::Unproved)], at(20));
        assert_eq!(gateways.lost(), None);
        assert_eq!(gateways.report(at(25))[0].age_s, 15);
        gateways.heard(vec![gateway("10.0.0.1", Reach::Silent)], at(30));
        assert!(gateways.lost().unwrap().contains("10.0.0.1 on eth0"));
    }
}

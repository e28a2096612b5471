//! Do the node's gateways answer: by ARP or ND and, where agent.toml asks for it, to pings? Looked at every few seconds;
//! shown in status, metrics and `/readyz`, asked for at `/readyz/network`. Never a reason for CNI STATUS to fail: the
//! runtime would evict pods that serve their neighbours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use turnpike_agent_api::{GatewayStatus, PingStatus};
use turnpike_calc::Time;
use turnpike_dataplane::{Gateway, Reach, probe};

use crate::agent::Agent;
use crate::gates::Mode;

/// Between two looks: longer than the kernel takes to find out that nobody answers (3 s).
const LOOK: Duration = Duration::from_secs(5);
/// How long a gateway may take to answer a ping, of which it is sent ten meanwhile.
const PING: Duration = Duration::from_secs(1);

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

/// Asks all of them at once for an echo, unless that is off; what each did then.
pub(crate) fn ping(found: Vec<Gateway>, mode: Mode) -> Vec<(Gateway, Option<bool>)> {
    if mode == Mode::Off {
        return found.into_iter().map(|gateway| (gateway, None)).collect();
    }
    let ask = |gateway: &Gateway| match probe::answers_ping(gateway, PING) {
        Ok(answers) => answers,
        Err(error) => {
            tracing::debug!(link = gateway.link, address = %gateway.address, %error, "it cannot be pinged");
            false
        }
    };
    let ask = &ask;
    let answers: Vec<Option<bool>> = std::thread::scope(|scope| {
        let asked: Vec<_> = found.iter().map(|gateway| scope.spawn(move || ask(gateway))).collect();
        asked.into_iter().map(|answer| answer.join().ok()).collect()
    });
    found.into_iter().zip(answers).collect()
}

/// What is known of each gateway.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gateways {
    known: BTreeMap<(String, IpAddr), Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    reach: Reach,
    since: Time,
    ping: Option<Ping>,
}

/// A verdict on echoes.
#[derive(Debug, Clone, Copy)]
struct Ping {
    answers: bool,
    since: Time,
    /// The latest look found it silent, which does not count before the next one has, too.
    doubted: bool,
}

impl Gateways {
    /// Takes a look in. A gateway that is being asked keeps its former verdict until the answer is there.
    pub(crate) fn heard(&mut self, found: Vec<(Gateway, Option<bool>)>, now: Time) {
        let mut known = BTreeMap::new();
        for (Gateway { link, address, reach, .. }, echo) in found {
            let key = (link, address);
            let before = self.known.get(&key);
            let (reach, since) = proved(&key, before, reach, now);
            let ping = echo.map(|answers| pinged(&key, before.and_then(|before| before.ping), answers, now));
            known.insert(key, Known { reach, since, ping });
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
        let ping = |ping: Ping| PingStatus {
            state: if ping.answers { "answers" } else { "silent" }.to_owned(),
            age_s: now.saturating_sub(ping.since).as_secs(),
        };
        self.known
            .iter()
            .map(|((link, address), known)| GatewayStatus {
                link: link.clone(),
                address: *address,
                state: words(known.reach).to_owned(),
                age_s: now.saturating_sub(known.since).as_secs(),
                ping: known.ping.map(ping),
            })
            .collect()
    }

    /// All of them, whether they answer or not.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.known.keys().map(|(_, address)| *address).collect()
    }

    /// Why the node cannot be said to reach its network: it has gateways, and none has answered; with pings enforced,
    /// none has answered both.
    pub(crate) fn lost(&self, pings: Mode) -> Option<String> {
        let proved = |known: &&Known| known.reach == Reach::Answers;
        let echoes = |known: &Known| known.ping.is_some_and(|ping| ping.answers);
        let enforced = pings == Mode::Enforce;
        if self.known.is_empty() || self.known.values().filter(proved).any(|known| !enforced || echoes(known))
        {
            return None;
        }
        let names: Vec<String> =
            self.known.keys().map(|(link, address)| format!("{address} on {link}")).collect();
        let what = if self.known.values().any(|known| proved(&known)) {
            "no gateway answers pings (readiness.ping = \"enforce\" in agent.toml)"
        } else {
            "no gateway answers ARP or ND"
        };
        Some(format!("{what}: {}", names.join(", ")))
    }
}

fn proved(
    (link, address): &(String, IpAddr),
    before: Option<&Known>,
    reach: Reach,
    now: Time,
) -> (Reach, Time) {
    match before {
        Some(before) if reach == Reach::Unproved || before.reach == reach => (before.reach, before.since),
        _ => {
            match reach {
                Reach::Silent => tracing::warn!(link, %address, "the gateway does not answer"),
                Reach::Answers => tracing::info!(link, %address, "the gateway answers"),
                Reach::Unproved => {}
            }
            (reach, now)
        }
    }
}

/// Routers let pings wait or drop them when they are busy: who has answered before is silent after two looks only.
fn pinged((link, address): &(String, IpAddr), before: Option<Ping>, answers: bool, now: Time) -> Ping {
    match before {
        Some(before) if before.answers == answers => Ping { doubted: false, ..before },
        Some(before) if before.answers && !before.doubted => Ping { doubted: true, ..before },
        _ => {
            if answers {
                tracing::info!(link, %address, "the gateway answers pings");
            } else {
                tracing::warn!(link, %address, "the gateway does not answer pings");
            }
            Ping { answers, since: now, doubted: false }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(address: &str, reach: Reach) -> Gateway {
        Gateway { link: "eth0".into(), index: 2, address: address.parse().unwrap(), reach }
    }

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn one_gateway_that_answers_is_enough_and_a_question_changes_no_verdict() {
        let mut gateways = Gateways::default();
        let lost = |gateways: &Gateways| gateways.lost(Mode::Off);
        let one = |reach| vec![(gateway("10.0.0.1", reach), None)];
        assert_eq!(lost(&gateways), None, "a node without gateways reaches what BGP taught it");
        gateways.heard(one(Reach::Unproved), at(0));
        assert!(lost(&gateways).is_some(), "not before the first answer");
        let two = [gateway("10.0.0.1", Reach::Answers), gateway("10.0.0.2", Reach::Silent)];
        gateways.heard(two.into_iter().map(|gateway| (gateway, None)).collect(), at(10));
        assert_eq!(lost(&gateways), None);
        gateways.heard(one(Reach::Unproved), at(20));
        assert_eq!(lost(&gateways), None);
        let report = gateways.report(at(25));
        assert_eq!((report[0].age_s, &report[0].ping), (15, &None));
        gateways.heard(one(Reach::Silent), at(30));
        assert!(lost(&gateways).unwrap().contains("ARP or ND: 10.0.0.1 on eth0"));
    }

    #[test]
    fn pings_count_where_they_are_enforced_and_one_lost_answer_is_none() {
        let mut gateways = Gateways::default();
        let mut heard = |reach, answers, seconds| {
            gateways.heard(vec![(gateway("10.0.0.1", reach), Some(answers))], at(seconds));
            let ping = gateways.report(at(seconds))[0].ping.clone().unwrap();
            (ping.state, ping.age_s, gateways.lost(Mode::Warn), gateways.lost(Mode::Enforce))
        };
        let (state, _, warned, enforced) = heard(Reach::Answers, false, 0);
        assert_eq!((state.as_str(), warned), ("silent", None), "nobody has answered yet");
        assert!(enforced.unwrap().contains("answers pings"));
        assert_eq!(heard(Reach::Answers, true, 5), ("answers".to_owned(), 0, None, None));
        assert_eq!(heard(Reach::Answers, false, 10), ("answers".to_owned(), 5, None, None));
        assert_eq!(heard(Reach::Answers, true, 15), ("answers".to_owned(), 10, None, None));
        assert_eq!(heard(Reach::Answers, false, 20).3, None, "one answer between two losses");
        let (state, age, warned, enforced) = heard(Reach::Answers, false, 25);
        assert_eq!((state.as_str(), age, warned, enforced.is_some()), ("silent", 0, None, true));
        let (.., warned, enforced) = heard(Reach::Silent, true, 30);
        assert!(warned.unwrap().contains("ARP or ND") && enforced.unwrap().contains("ARP or ND"));
    }
}

//! Firewalls of the host that forwarded packets meet beside our own rules.

use super::super::facts::{Facts, Zone};
use super::{OURS, Outcome, Verdict, bad, good, holds, warn};

const RELOAD: &str = "firewall-cmd --reload";

/// Chains that drop what nobody accepts.
pub(super) fn forward_policy(facts: &Facts) -> Outcome {
    let deaf: Vec<&str> =
        facts.dropping.iter().filter(|chain| !chain.names_ours).map(|chain| chain.name.as_str()).collect();
    if deaf.is_empty() {
        return good("no chain drops forwarded packets");
    }
    bad(
        format!("{} drops what no rule accepts, and none names our links", deaf.join(", ")),
        "iptables -I FORWARD -i tpk+ -j ACCEPT; iptables -I FORWARD -o tpk+ -j ACCEPT (ip6tables, too), and keep it \
         over a reboot",
    )
}

/// It rejects what is forwarded between zones, and within those that do not accept everything.
pub(super) fn firewalld(facts: &Facts) -> Outcome {
    let Some(firewall) = &facts.firewalld else {
        return good("it does not run");
    };
    if firewall.zones.is_empty() {
        return (
            Verdict::Unknown,
            "it has run since boot, but does not tell its zones".to_owned(),
            Some("systemctl status firewalld".to_owned()),
        );
    }
    let Some(agent) = &facts.agent else {
        return (Verdict::Unknown, "it runs; the agent was not asked for its pools".to_owned(), None);
    };
    let accepting: Vec<&Zone> = firewall.zones.iter().filter(|zone| zone.accepts).collect();
    // Links of pods come and go: only a pattern names them all.
    let all_ours = format!("{OURS}+");
    if let Some(zone) = accepting.iter().find(|zone| zone.interfaces.contains(&all_ours)) {
        return to_pods(facts, &[zone.name.as_str()]);
    }
    let home = |pool: &(String, std::net::IpAddr, u8)| {
        let covers = |source: &(std::net::IpAddr, u8)| source.1 <= pool.2 && holds(*source, pool.1);
        accepting.iter().find(|zone| zone.sources.iter().any(covers)).map(|zone| zone.name.as_str())
    };
    let homeless: Vec<_> = agent.pools.iter().filter(|pool| home(pool).is_none()).collect();
    if homeless.is_empty() {
        return to_pods(facts, &agent.pools.iter().filter_map(home).collect::<Vec<_>>());
    }
    let names: Vec<&str> = homeless.iter().map(|(name, _, _)| name.as_str()).collect();
    let sources = homeless.iter().map(|(_, ip, length)| {
        format!("firewall-cmd --permanent --zone=trusted --add-source={ip}/{length}; ")
    });
    bad(
        format!("it rejects what pods of {} send, to each other and beyond", names.join(", ")),
        format!("{}{RELOAD} (docs/cni.md)", sources.collect::<String>()),
    )
}

/// What others send to pods, which are in these zones.
fn to_pods(facts: &Facts, homes: &[&str]) -> Outcome {
    let policies = facts.firewalld.as_ref().map(|firewall| firewall.policies.as_slice()).unwrap_or_default();
    let any = |zones: &[String], zone: &str| zones.iter().any(|other| other == "ANY" || other == zone);
    let open = |home: &&str| {
        policies
            .iter()
            .any(|policy| policy.accepts && any(&policy.ingress, "ANY") && any(&policy.egress, home))
    };
    match homes.iter().find(|home| !open(home)) {
        None => good("it runs and accepts what is from and to pods"),
        Some(home) => warn(
            format!(
                "it accepts what pods send, and rejects what others open to zone {home}: only host ports are reached"
            ),
            format!(
                "unless that is wanted: firewall-cmd --permanent --new-policy=to-pods; firewall-cmd --permanent \
                 --policy=to-pods --add-ingress-zone=ANY; firewall-cmd --permanent --policy=to-pods \
                 --add-egress-zone={home}; firewall-cmd --permanent --policy=to-pods --set-target=ACCEPT; {RELOAD}"
            ),
        ),
    }
}

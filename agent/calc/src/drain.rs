//! Load-balancer sources that were taken out go on bypassing for a while.
//!
//! A flow that bypassed for long has no conntrack entry; one that goes back to conntrack is picked up in mid-stream,
//! with windows that conntrack has not seen. Most connections end by themselves meanwhile, so a range drains before it
//! goes. Only the bypass drains: options are not believed any more at once.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use turnpike_model::desired::LbSource;

use crate::Time;

/// A source, or part of one, that was taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining<T> {
    /// The resource's name.
    pub name: String,
    /// What goes on bypassing.
    pub source: LbSource,
    /// When it was taken out.
    pub since: T,
}

/// What was in force, and what drains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drain {
    /// Sources in force last.
    pub last: BTreeMap<String, LbSource>,
    /// What was taken out and is not over.
    pub draining: Vec<Draining<Time>>,
}

impl Drain {
    /// Takes in what is wanted `now`; answers whether anything changed that a restart must know.
    pub fn step(&mut self, wanted: &BTreeMap<String, LbSource>, now: Time) -> bool {
        let before = self.draining.len();
        self.draining.retain(|one| one.ends() > now);
        let mut changed = before != self.draining.len();
        if self.last == *wanted {
            return changed;
        }
        changed = true;
        for (name, old) in &self.last {
            let rest = rest_of(old, wanted.get(name));
            if old.drain_s > 0 && !rest.is_empty() {
                let source = LbSource {
                    cidrs: rest,
                    toa: None,
                    toa_in_syn: false,
                    toa_nat64: false,
                    uoa: false,
                    ..old.clone()
                };
                self.draining.push(Draining { name: name.clone(), source, since: now });
            }
        }
        self.last.clone_from(wanted);
        changed
    }

    /// What is to be in force: `wanted`, and what drains under names of its own.
    #[must_use]
    pub fn in_force(&self, wanted: &BTreeMap<String, LbSource>) -> BTreeMap<String, LbSource> {
        let mut sources = wanted.clone();
        for (number, one) in self.draining.iter().enumerate() {
            sources.insert(format!("{} (draining {number})", one.name), one.source.clone());
        }
        sources
    }
}

impl Draining<Time> {
    /// When it is over.
    #[must_use]
    pub fn ends(&self) -> Time {
        self.since.saturating_add(Time::from_secs(self.source.drain_s.into()))
    }
}

/// Prefixes of `old` whose traffic bypassed and would not any more.
fn rest_of(old: &LbSource, new: Option<&LbSource>) -> BTreeSet<ipnetwork::IpNetwork> {
    if !old.bypass {
        return BTreeSet::new();
    }
    match new.filter(|new| new.bypass && covers_ports(new, old)) {
        Some(new) => old.cidrs.difference(&new.cidrs).copied().collect(),
        None => old.cidrs.clone(),
    }
}

/// No port names are every TCP port.
fn covers_ports(new: &LbSource, old: &LbSource) -> bool {
    let any_tcp = new.ports.is_empty();
    let tcp =
        |port: &turnpike_model::desired::ServicePort| port.protocol == turnpike_model::desired::Protocol::Tcp;
    if old.ports.is_empty() {
        return any_tcp;
    }
    old.ports.iter().all(|port| new.ports.contains(port) || (any_tcp && tcp(port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_model::desired::{Protocol, ServicePort, ToaFormat};

    fn source(cidrs: &[&str]) -> LbSource {
        LbSource {
            cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            bypass: true,
            toa: Some(ToaFormat::Toa254),
            drain_s: 900,
            ..LbSource::default()
        }
    }

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    fn named(source: LbSource) -> BTreeMap<String, LbSource> {
        BTreeMap::from([("lvs".to_owned(), source)])
    }

    #[test]
    fn a_removed_source_bypasses_until_its_time_is_over_but_its_options_are_not_believed() {
        let (wanted, nothing) = (named(source(&["10.9.1.0/24"])), BTreeMap::new());
        let mut drain = Drain::default();
        assert!(drain.step(&wanted, at(10)) && !drain.step(&wanted, at(20)));
        assert!(drain.step(&nothing, at(100)));
        let in_force = drain.in_force(&nothing);
        let one = in_force.values().next().unwrap();
        assert!(one.bypass && one.toa.is_none());
        assert!(!drain.step(&nothing, at(999)) && drain.in_force(&nothing).len() == 1);
        assert!(drain.step(&nothing, at(1000)) && drain.in_force(&nothing).is_empty());
    }

    #[test]
    fn only_the_range_that_was_taken_out_drains() {
        let mut drain = Drain::default();
        drain.step(&named(source(&["10.9.1.0/24", "10.9.2.0/24"])), at(0));
        let smaller = named(source(&["10.9.1.0/24"]));
        drain.step(&smaller, at(1));
        assert_eq!(drain.draining[0].source.cidrs, source(&["10.9.2.0/24"]).cidrs);
        assert_eq!(drain.in_force(&smaller).len(), 2);
    }

    #[test]
    fn a_source_with_no_drain_time_goes_at_once_and_so_does_one_that_never_bypassed() {
        let mut drain = Drain::default();
        let at_once = LbSource { drain_s: 0, ..source(&["10.9.1.0/24"]) };
        let toa_only = LbSource { bypass: false, ..source(&["10.8.1.0/24"]) };
        drain.step(&BTreeMap::from([("a".to_owned(), at_once), ("b".to_owned(), toa_only)]), at(0));
        drain.step(&BTreeMap::new(), at(1));
        assert!(drain.draining.is_empty());
    }

    #[test]
    fn fewer_ports_drain_too_and_more_ports_do_not() {
        let port = |port| ServicePort { protocol: Protocol::Tcp, port };
        let with = |ports: &[u16]| LbSource {
            ports: ports.iter().map(|number| port(*number)).collect(),
            ..source(&["10.9.1.0/24"])
        };
        let mut drain = Drain::default();
        drain.step(&named(with(&[80])), at(0));
        drain.step(&named(with(&[80, 443])), at(1));
        drain.step(&named(with(&[])), at(2));
        assert!(drain.draining.is_empty(), "every TCP port is more");
        drain.step(&named(with(&[80])), at(3));
        assert_eq!(drain.draining.len(), 1);
    }
}

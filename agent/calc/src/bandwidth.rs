//! What limit a pod asks for, and what it gets.
//!
//! Bursts in runtimeConfig are never looked at: containerd sends 4294967295 and CRI-O 34359738359 for "unset", which
//! turns a 10 Mbit/s limit into seconds of line rate. The data plane computes queues from the rate.

mod explain;
mod extras;
mod grants;
mod meter;
mod plan;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use turnpike_model::bandwidth::{DirectionRates, NodeBandwidthSpec};
use turnpike_model::burst::BurstError;
use turnpike_model::cidr::CidrError;
use turnpike_model::desired::{BitsPerSecond, Limits};
use turnpike_model::rate::{Rate, RateError};
use turnpike_model::resource::Resources;

use crate::node::{Node, selects};

/// Annotation for what the pod receives.
pub const INGRESS_ANNOTATION: &str = "kubernetes.io/ingress-bandwidth";
/// Annotation for what the pod sends.
pub const EGRESS_ANNOTATION: &str = "kubernetes.io/egress-bandwidth";

pub use explain::{Decision, LimitSource, explain, explain_shadow};
pub(crate) use extras::Bounds;
pub use extras::{
    AskedBursts, BurstSource, EGRESS_BURST_ANNOTATION, EXEMPT_ANNOTATION, Extras, INGRESS_BURST_ANNOTATION,
    explain_extras,
};
pub(crate) use grants::NamespaceGrants;
pub use meter::{HISTORY_SECONDS, Meter, Past, Reading, Series};
pub use plan::{Demand, Throttled, tree_throttles};
pub(crate) use tree::grants;
pub use tree::{class_of, node_tree};
pub(crate) use tree::{mistakes, tree_issues};

/// Annotation for the pod's class in the node tree.
pub const CLASS_ANNOTATION: &str = "turnpike.io/bandwidth-class";

/// What a pod asks for, kept with the pod: `None` asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedLimits {
    /// What the pod receives.
    pub to_workload: Option<BitsPerSecond>,
    /// What the pod sends.
    pub from_workload: Option<BitsPerSecond>,
    /// Directions (`to_workload`, `from_workload`) that runtimeConfig asked for, not an annotation.
    #[serde(default, skip_serializing_if = "FromRuntime::is_none")]
    pub from_runtime: FromRuntime,
    /// Class in the node tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How much may pass at once.
    #[serde(default, skip_serializing_if = "AskedBursts::is_none")]
    pub bursts: AskedBursts,
    /// Ranges that its limits shall not count.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub exempt: BTreeSet<IpNetwork>,
}

/// Which directions of an [`AskedLimits`] come from runtimeConfig.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromRuntime {
    /// What the pod receives.
    pub to_workload: bool,
    /// What the pod sends.
    pub from_workload: bool,
}

impl FromRuntime {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Limits> for AskedLimits {
    fn from(limits: Limits) -> Self {
        let Limits { to_workload, from_workload } = limits;
        Self { to_workload, from_workload, ..Self::default() }
    }
}

/// runtimeConfig's rates in bits per second; 0 is "not set".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuntimeBandwidth {
    /// What the pod receives.
    pub ingress_rate: u64,
    /// What the pod sends.
    pub egress_rate: u64,
}

/// A limit that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {source}")]
pub struct BandwidthError {
    /// The annotation or runtimeConfig field.
    pub origin: &'static str,
    /// Why.
    #[source]
    pub source: BadWish,
}

/// What is wrong with a wish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWish {
    /// A rate.
    #[error(transparent)]
    Rate(RateError),
    /// A burst.
    #[error(transparent)]
    Burst(BurstError),
    /// A range.
    #[error(transparent)]
    Range(CidrError),
    /// More ranges than a pod may name.
    #[error("{count} ranges; {most} are the most")]
    TooManyRanges {
        /// As many.
        count: usize,
        /// As many as may be.
        most: usize,
    },
}

/// Reads a pod's wishes. An annotation goes before runtimeConfig, which runtimes derive from it.
///
/// # Errors
/// A rate is malformed or out of bounds: better no pod than a pod without the limit that was asked for.
pub fn asked_limits(
    annotations: &BTreeMap<String, String>,
    runtime: Option<RuntimeBandwidth>,
) -> Result<AskedLimits, BandwidthError> {
    let runtime = runtime.unwrap_or_default();
    let one = |annotation: &'static str, field: &'static str, rate: u64| {
        let (origin, parsed) = match annotations.get(annotation) {
            Some(text) => (annotation, text.parse::<Rate>()),
            None if rate == 0 => return Ok((None, false)),
            None => (field, Rate::new(rate)),
        };
        let by_runtime = origin == field;
        parsed
            .map(|rate| (Some(rate.bits()), by_runtime))
            .map_err(|error| BandwidthError { origin, source: BadWish::Rate(error) })
    };
    let to = one(INGRESS_ANNOTATION, "runtimeConfig.bandwidth.ingressRate", runtime.ingress_rate)?;
    let from = one(EGRESS_ANNOTATION, "runtimeConfig.bandwidth.egressRate", runtime.egress_rate)?;
    Ok(AskedLimits {
        to_workload: to.0,
        from_workload: from.0,
        from_runtime: FromRuntime { to_workload: to.1, from_workload: from.1 },
        class: annotations.get(CLASS_ANNOTATION).map(|class| class.trim().to_owned()),
        bursts: extras::asked_bursts(annotations)?,
        exempt: extras::asked_exempt(annotations)?,
    })
}

/// Defaults and ceilings of one node, from all resources that select it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// For pods that ask for nothing.
    pub defaults: Limits,
    /// For all pods.
    pub ceilings: Limits,
}

impl NodeLimits {
    /// The strictest of all specs, so that a further resource never widens a limit.
    pub fn strictest<'a>(specs: impl IntoIterator<Item = &'a NodeBandwidthSpec>) -> Self {
        specs.into_iter().fold(Self::default(), |so_far, spec| Self {
            defaults: strictest(so_far.defaults, limits_of(spec.defaults)),
            ceilings: strictest(so_far.ceilings, limits_of(spec.limits)),
        })
    }

    /// Those in force on a node, and those that would be if resources in shadow were, too.
    pub(crate) fn of_node(resources: &Resources, node: &Node) -> (Self, Self) {
        let specs =
            || resources.node_bandwidths.values().filter(|spec| selects(spec.node_selector.as_ref(), node));
        (Self::strictest(specs().filter(|spec| spec.is_enforced())), Self::strictest(specs()))
    }

    /// What a pod gets that asks for `asked` and whose namespace may have `granted`: where there is a default, more only
    /// by a grant; where there is none, all that the ceiling lets it have.
    #[must_use]
    pub fn grant(&self, asked: &AskedLimits, granted: Limits) -> Limits {
        let wish = |asked: Option<BitsPerSecond>, default, granted| match (asked, default) {
            (Some(asked), Some(default)) => Some(asked.min(grants::bound(default, granted))),
            (asked, default) => asked.or(default),
        };
        let wish = Limits {
            to_workload: wish(asked.to_workload, self.defaults.to_workload, granted.to_workload),
            from_workload: wish(asked.from_workload, self.defaults.from_workload, granted.from_workload),
        };
        strictest(wish, self.ceilings)
    }
}

/// The directions in which `would_be` is another limit than `in_force`: resources in shadow only ever lower one.
pub(crate) fn in_shadow(in_force: Limits, would_be: Limits) -> Limits {
    Limits {
        to_workload: would_be.to_workload.filter(|_| would_be.to_workload != in_force.to_workload),
        from_workload: would_be.from_workload.filter(|_| would_be.from_workload != in_force.from_workload),
    }
}

fn limits_of(rates: DirectionRates) -> Limits {
    Limits { to_workload: rates.ingress.map(Rate::bits), from_workload: rates.egress.map(Rate::bits) }
}

fn strictest(a: Limits, b: Limits) -> Limits {
    fn lower(a: Option<BitsPerSecond>, b: Option<BitsPerSecond>) -> Option<BitsPerSecond> {
        a.into_iter().chain(b).min()
    }
    Limits {
        to_workload: lower(a.to_workload, b.to_workload),
        from_workload: lower(a.from_workload, b.from_workload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    const M: u64 = 1_000_000;

    #[test]
    fn annotations_go_before_the_runtimes_numbers() {
        let runtime = RuntimeBandwidth { ingress_rate: 5 * M, egress_rate: 20 * M };
        let asked = asked_limits(&annotations(&[(INGRESS_ANNOTATION, "10M")]), Some(runtime)).unwrap();
        assert_eq!(asked.to_workload, Some(BitsPerSecond(10 * M)));
        assert_eq!(asked.from_workload, Some(BitsPerSecond(20 * M)));
        assert_eq!(asked.from_runtime, FromRuntime { to_workload: false, from_workload: true });
    }

    #[test]
    fn nothing_asked_is_nothing_granted_unless_the_node_says_so() {
        let asked = asked_limits(&BTreeMap::new(), Some(RuntimeBandwidth::default())).unwrap();
        assert_eq!(asked, AskedLimits::default());
        assert_eq!(NodeLimits::default().grant(&asked, Limits::default()), Limits::default());
    }

    #[test]
    fn a_limit_that_is_not_understood_is_an_error_that_names_it() {
        let error = asked_limits(&annotations(&[(EGRESS_ANNOTATION, "10MB")]), None).unwrap_err();
        assert!(error.to_string().starts_with("kubernetes.io/egress-bandwidth: `10MB`"), "{error}");
        let tiny = RuntimeBandwidth { ingress_rate: 7, egress_rate: 0 };
        assert!(asked_limits(&BTreeMap::new(), Some(tiny)).is_err());
    }

    #[test]
    fn a_resource_in_shadow_changes_nothing_and_tells_what_it_would() {
        let mut resources = Resources::default();
        for (name, json) in [
            ("base", r#"{"limits":{"ingress":"100M"}}"#),
            ("try", r#"{"mode":"Shadow","defaults":{"egress":"20M"},"limits":{"ingress":"50M"}}"#),
        ] {
            resources.node_bandwidths.insert(name.to_owned(), serde_json::from_str(json).unwrap());
        }
        let (force, all) = NodeLimits::of_node(&resources, &Node::default());
        let none = Limits::default();
        let shadow = |asked: AskedLimits| in_shadow(force.grant(&asked, none), all.grant(&asked, none));
        let nothing = AskedLimits::default();
        assert_eq!(
            force.grant(&nothing, none),
            Limits { to_workload: Some(BitsPerSecond(100 * M)), from_workload: None }
        );
        let both = |to, from| Limits {
            to_workload: Some(BitsPerSecond(to)),
            from_workload: Some(BitsPerSecond(from)),
        };
        assert_eq!(shadow(nothing), both(50 * M, 20 * M));
        // Who asks for less than the shadow anyway has none.
        assert_eq!(shadow(both(10 * M, 15 * M).into()), none);
        // Who asks for more than a default in shadow would need a grant.
        let more = Limits { to_workload: None, from_workload: Some(BitsPerSecond(20 * M)) };
        assert_eq!(shadow(both(10 * M, 30 * M).into()), more);
    }

    #[test]
    fn a_pod_can_lower_its_limit_and_raise_it_within_its_grant() {
        let spec: NodeBandwidthSpec = serde_json::from_str(
            r#"{"defaults":{"ingress":"50M"},"limits":{"ingress":"100M","egress":"1G"}}"#,
        )
        .unwrap();
        let stricter: NodeBandwidthSpec = serde_json::from_str(r#"{"limits":{"egress":"200M"}}"#).unwrap();
        let node = NodeLimits::strictest([&spec, &stricter]);
        let ask =
            |to: Option<u64>| AskedLimits { to_workload: to.map(BitsPerSecond), ..AskedLimits::default() };
        for (asked, granted, got) in [
            (None, None, 50),
            (None, Some(500), 50),
            (Some(10), None, 10),
            (Some(10), Some(5), 10),
            (Some(80), None, 50),
            (Some(80), Some(20), 50),
            (Some(80), Some(70), 70),
            (Some(80), Some(90), 80),
            (Some(500), Some(500), 100),
        ] {
            let most = Limits {
                to_workload: granted.map(|granted: u64| BitsPerSecond(granted * M)),
                from_workload: None,
            };
            let limits = node.grant(&ask(asked.map(|asked: u64| asked * M)), most);
            assert_eq!(limits.to_workload, Some(BitsPerSecond(got * M)), "{asked:?} {granted:?}");
            assert_eq!(limits.from_workload, Some(BitsPerSecond(200 * M)), "nobody has a default for it");
        }
        // Without a default there is nothing to raise: the ceiling alone counts.
        let egress = AskedLimits { from_workload: Some(BitsPerSecond(150 * M)), ..AskedLimits::default() };
        assert_eq!(node.grant(&egress, Limits::default()).from_workload, Some(BitsPerSecond(150 * M)));
    }
}

//! Bursts and exempt ranges: what a pod asks for, what it gets, and who decided.
//!
//! Both widen what a pod may do, so an operator bounds them: bursts by `spec.maxBurst` (50 ms unless given), exempt
//! ranges by `spec.exemptible` (none unless given). Of several `NodeBandwidth` the strictest counts, as with limits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use turnpike_model::bandwidth::NodeBandwidthSpec;
use turnpike_model::burst::Burst;
use turnpike_model::cidr::Cidr;
use turnpike_model::desired::Bursts;
use turnpike_model::resource::Resources;

use super::{AskedLimits, BadWish, BandwidthError};
use crate::node::{Node, selects};

/// Annotation for the burst of what the pod receives.
pub const INGRESS_BURST_ANNOTATION: &str = "turnpike.io/ingress-burst";
/// Annotation for the burst of what the pod sends.
pub const EGRESS_BURST_ANNOTATION: &str = "turnpike.io/egress-burst";
/// Annotation for ranges that the pod's limits do not count, separated by commas.
pub const EXEMPT_ANNOTATION: &str = "turnpike.io/bandwidth-exempt-cidrs";
/// Ranges that one pod may name: each is an entry of a map in the kernel.
const MOST_RANGES: usize = 16;

/// Bursts that a pod asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedBursts {
    /// Of what it receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_workload: Option<Burst>,
    /// Of what it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_workload: Option<Burst>,
}

impl AskedBursts {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads both annotations.
pub(super) fn asked_bursts(annotations: &BTreeMap<String, String>) -> Result<AskedBursts, BandwidthError> {
    let one = |origin: &'static str| {
        let text = annotations.get(origin).map(|text| text.parse::<Burst>()).transpose();
        text.map_err(|error| BandwidthError { origin, source: BadWish::Burst(error) })
    };
    Ok(AskedBursts {
        to_workload: one(INGRESS_BURST_ANNOTATION)?,
        from_workload: one(EGRESS_BURST_ANNOTATION)?,
    })
}

/// Reads the annotation.
pub(super) fn asked_exempt(
    annotations: &BTreeMap<String, String>,
) -> Result<BTreeSet<IpNetwork>, BandwidthError> {
    let refused = |source: BadWish| BandwidthError { origin: EXEMPT_ANNOTATION, source };
    let text = annotations.get(EXEMPT_ANNOTATION).map(String::as_str).unwrap_or_default();
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let ranges: BTreeSet<IpNetwork> = words
        .map(|word| word.parse::<Cidr>().map(Cidr::network))
        .collect::<Result<_, _>>()
        .map_err(|error| refused(BadWish::Range(error)))?;
    if ranges.len() > MOST_RANGES {
        return Err(refused(BadWish::TooManyRanges { count: ranges.len(), most: MOST_RANGES }));
    }
    Ok(ranges)
}

/// Who decided a burst.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BurstSource {
    /// The pod's annotation of this name.
    Annotation(&'static str),
    /// Nobody asked for another.
    Default,
    /// `spec.maxBurst` of this `NodeBandwidth`.
    Max(String),
    /// No `NodeBandwidth` has a `maxBurst`.
    UsualMax,
}

impl fmt::Display for BurstSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Annotation(name) => write!(f, "annotation {name}"),
            Self::Default => f.write_str("default"),
            Self::Max(name) => write!(f, "NodeBandwidth/{name} spec.maxBurst"),
            Self::UsualMax => f.write_str("the longest without a spec.maxBurst"),
        }
    }
}

/// What a pod gets besides its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extras {
    /// Bursts in force.
    pub bursts: Bursts,
    /// Who decided that of what it receives, and that of what it sends.
    pub decided_by: [BurstSource; 2],
    /// Ranges that its limits do not count.
    pub exempt: BTreeSet<IpNetwork>,
    /// Ranges that it asks for and does not get, not as a whole.
    pub refused: BTreeSet<IpNetwork>,
}

/// A node's bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    max_burst: Option<(Burst, String)>,
    exemptible: BTreeSet<IpNetwork>,
}

impl Bounds {
    /// From all resources in force that select the node.
    pub(crate) fn of(resources: &Resources, node: &Node) -> Self {
        let counts =
            |spec: &NodeBandwidthSpec| spec.is_enforced() && selects(spec.node_selector.as_ref(), node);
        let specs = || resources.node_bandwidths.iter().filter(|(_, spec)| counts(spec));
        let ranges = |spec: &NodeBandwidthSpec| spec.exemptible.iter().map(|cidr| cidr.network()).collect();
        let lists = specs().map(|(_, spec)| ranges(spec)).filter(|ranges: &BTreeSet<_>| !ranges.is_empty());
        Self {
            max_burst: specs().filter_map(|(name, spec)| Some((spec.max_burst?, name.clone()))).min(),
            exemptible: lists.reduce(|a, b| common(&a, &b)).unwrap_or_default(),
        }
    }

    /// What a pod gets.
    pub(crate) fn grant(&self, asked: &AskedLimits) -> Extras {
        let (to, to_by) = self.burst(asked.bursts.to_workload, INGRESS_BURST_ANNOTATION);
        let (from, from_by) = self.burst(asked.bursts.from_workload, EGRESS_BURST_ANNOTATION);
        let within = |range: &IpNetwork| self.exemptible.iter().any(|allowed| contains(*allowed, *range));
        Extras {
            bursts: Bursts { to_workload: to, from_workload: from },
            decided_by: [to_by, from_by],
            exempt: common(&asked.exempt, &self.exemptible),
            refused: asked.exempt.iter().copied().filter(|range| !within(range)).collect(),
        }
    }

    fn burst(&self, asked: Option<Burst>, annotation: &'static str) -> (Burst, BurstSource) {
        let wish = asked.unwrap_or_default();
        let source = if asked.is_some() { BurstSource::Annotation(annotation) } else { BurstSource::Default };
        match &self.max_burst {
            Some((max, name)) if wish > *max => (*max, BurstSource::Max(name.clone())),
            None if wish > Burst::USUAL_MAX => (Burst::USUAL_MAX, BurstSource::UsualMax),
            _ => (wish, source),
        }
    }
}

/// What a pod gets on this node besides its limits, for people.
#[must_use]
pub fn explain_extras(resources: &Resources, node: &Node, asked: &AskedLimits) -> Extras {
    Bounds::of(resources, node).grant(asked)
}

fn contains(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// What both have: of two prefixes one contains the other, or they are apart.
fn common(a: &BTreeSet<IpNetwork>, b: &BTreeSet<IpNetwork>) -> BTreeSet<IpNetwork> {
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (*a, *b)));
    pairs
        .filter_map(|(a, b)| match (contains(a, b), contains(b, a)) {
            (true, _) => Some(b),
            (_, true) => Some(a),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<AskedLimits, BandwidthError> {
        let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        super::super::asked_limits(&annotations, None)
    }

    fn bounds(specs: &[(&str, &str)]) -> Bounds {
        let mut resources = Resources::default();
        for (name, json) in specs {
            resources.node_bandwidths.insert((*name).to_owned(), serde_json::from_str(json).unwrap());
        }
        Bounds::of(&resources, &Node::default())
    }

    fn texts(ranges: &BTreeSet<IpNetwork>) -> Vec<String> {
        ranges.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_burst_is_the_annotations_up_to_the_strictest_max() {
        let asks = |text| asked(&[(INGRESS_BURST_ANNOTATION, text)]).unwrap();
        let burst = |text: &str| text.parse::<Burst>().unwrap();
        let annotation = BurstSource::Annotation(INGRESS_BURST_ANNOTATION);
        for (specs, text, granted, source) in [
            (&[][..], "20ms", "20ms", annotation.clone()),
            (&[][..], "200ms", "50ms", BurstSource::UsualMax),
            (&[("wide", r#"{"maxBurst":"500ms"}"#)][..], "200ms", "200ms", annotation),
            (
                &[("wide", r#"{"maxBurst":"500ms"}"#), ("tight", r#"{"maxBurst":"5ms"}"#)][..],
                "200ms",
                "5ms",
                BurstSource::Max("tight".to_owned()),
            ),
        ] {
            let extras = bounds(specs).grant(&asks(text));
            assert_eq!((extras.bursts.to_workload, &extras.decided_by[0]), (burst(granted), &source));
        }
        // Who asks for nothing has the usual one, and is cut down like the others.
        let none = AskedLimits::default();
        assert_eq!(bounds(&[]).grant(&none).decided_by, [BurstSource::Default, BurstSource::Default]);
        let tight = bounds(&[("tight", r#"{"maxBurst":"5ms"}"#)]).grant(&none);
        assert_eq!(tight.bursts.from_workload, burst("5ms"));
    }

    #[test]
    fn ranges_are_exempt_as_far_as_every_resource_allows() {
        let asks = asked(&[(EXEMPT_ANNOTATION, "10.1.0.0/16, 192.168.0.0/16,fd00::/8")]).unwrap();
        assert_eq!(texts(&bounds(&[]).grant(&asks).exempt), Vec::<String>::new());
        let one = ("one", r#"{"exemptible":["10.0.0.0/8","192.168.7.0/24","fd00::/8"]}"#);
        let extras = bounds(&[one, ("silent", "{}")]).grant(&asks);
        assert_eq!(texts(&extras.exempt), ["10.1.0.0/16", "192.168.7.0/24", "fd00::/8"]);
        assert_eq!(texts(&extras.refused), ["192.168.0.0/16"]);
        let extras = bounds(&[one, ("two", r#"{"exemptible":["10.1.2.0/24"]}"#)]).grant(&asks);
        assert_eq!(texts(&extras.exempt), ["10.1.2.0/24"]);
        let shadow = ("one", r#"{"mode":"Shadow","exemptible":["10.0.0.0/8"]}"#);
        assert!(bounds(&[shadow]).grant(&asks).exempt.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused_and_named() {
        for (annotation, text, says) in [
            (EGRESS_BURST_ANNOTATION, "10M", "`10M` is not a burst"),
            (EXEMPT_ANNOTATION, "10.0.0.1/8", "write `10.0.0.0/8`"),
            (EXEMPT_ANNOTATION, "everything", "`everything` is not a prefix"),
        ] {
            let error = asked(&[(annotation, text)]).unwrap_err().to_string();
            assert!(error.starts_with(annotation) && error.contains(says), "{error}");
        }
        let many: Vec<String> = (0..17).map(|number| format!("10.{number}.0.0/16")).collect();
        let error = asked(&[(EXEMPT_ANNOTATION, &many.join(","))]).unwrap_err().to_string();
        assert!(error.contains("17 ranges; 16 are the most"), "{error}");
    }
}

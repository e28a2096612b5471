//! Which source decided a pod's limit: what `turnpike bw show` answers.

use std::fmt;

use turnpike_model::bandwidth::{DirectionRates, NodeBandwidthSpec};
use turnpike_model::desired::BitsPerSecond;
use turnpike_model::resource::Resources;

use super::{AskedLimits, EGRESS_ANNOTATION, INGRESS_ANNOTATION};
use crate::node::{Node, selects};

/// What a limit comes from, from the first in precedence to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitSource {
    /// `spec.limits` of this `NodeBandwidth`: no pod gets more.
    Ceiling(String),
    /// The pod's annotation of this name.
    Annotation(&'static str),
    /// runtimeConfig of the CNI call.
    RuntimeConfig,
    /// `spec.defaults` of this `NodeBandwidth`.
    Default(String),
    /// Nothing: there is no limit.
    Nothing,
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ceiling(name) => write!(f, "NodeBandwidth/{name} spec.limits"),
            Self::Annotation(name) => write!(f, "annotation {name}"),
            Self::RuntimeConfig => f.write_str("runtimeConfig.bandwidth"),
            Self::Default(name) => write!(f, "NodeBandwidth/{name} spec.defaults"),
            Self::Nothing => f.write_str("nobody"),
        }
    }
}

/// One direction's limit, who decided it, and what it was chosen from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The limit in force; `None` is unlimited.
    pub limit: Option<BitsPerSecond>,
    /// Who decided.
    pub source: LimitSource,
    /// Every source that has something to say, in order of precedence, the decisive one among them.
    pub candidates: Vec<(LimitSource, BitsPerSecond)>,
}

/// Decisions about what a pod receives and what it sends; they agree with [`super::NodeLimits::grant`].
#[must_use]
pub fn explain(resources: &Resources, node: &Node, asked: &AskedLimits) -> [Decision; 2] {
    both(resources, node, asked, NodeBandwidthSpec::is_enforced)
}

/// Decisions that would differ if resources in shadow were in force, too.
#[must_use]
pub fn explain_shadow(resources: &Resources, node: &Node, asked: &AskedLimits) -> [Option<Decision>; 2] {
    let [to, from] = explain(resources, node, asked);
    let [shadow_to, shadow_from] = both(resources, node, asked, |_| true);
    [(to, shadow_to), (from, shadow_from)]
        .map(|(now, shadow)| if now.limit == shadow.limit { None } else { Some(shadow) })
}

/// Which resources have a say.
type Counts = fn(&NodeBandwidthSpec) -> bool;

/// One direction of a pair of rates.
trait Direction: Fn(&DirectionRates) -> Option<BitsPerSecond> {}
impl<F: Fn(&DirectionRates) -> Option<BitsPerSecond>> Direction for F {}

fn both(resources: &Resources, node: &Node, asked: &AskedLimits, counts: Counts) -> [Decision; 2] {
    let to = (asked.to_workload, asked.from_runtime.to_workload, INGRESS_ANNOTATION);
    let from = (asked.from_workload, asked.from_runtime.from_workload, EGRESS_ANNOTATION);
    let ingress = |rates: &DirectionRates| rates.ingress.map(turnpike_model::rate::Rate::bits);
    let egress = |rates: &DirectionRates| rates.egress.map(turnpike_model::rate::Rate::bits);
    [decide(resources, node, to, (counts, &ingress)), decide(resources, node, from, (counts, &egress))]
}

fn decide(
    resources: &Resources,
    node: &Node,
    (asked, by_runtime, annotation): (Option<BitsPerSecond>, bool, &'static str),
    (counts, rate): (Counts, &dyn Direction),
) -> Decision {
    let selected = |spec: &NodeBandwidthSpec| counts(spec) && selects(spec.node_selector.as_ref(), node);
    let specs = || resources.node_bandwidths.iter().filter(|(_, spec)| selected(spec));
    let lowest = |part: fn(&NodeBandwidthSpec) -> &DirectionRates| {
        specs().filter_map(|(name, spec)| Some((rate(part(spec))?, name.clone()))).min()
    };
    let ceiling = lowest(|spec| &spec.limits);
    let default = lowest(|spec| &spec.defaults);
    let asked_source =
        if by_runtime { LimitSource::RuntimeConfig } else { LimitSource::Annotation(annotation) };
    let mut candidates = Vec::new();
    candidates.extend(ceiling.clone().map(|(rate, name)| (LimitSource::Ceiling(name), rate)));
    candidates.extend(asked.map(|rate| (asked_source.clone(), rate)));
    candidates.extend(default.clone().map(|(rate, name)| (LimitSource::Default(name), rate)));
    let wish = match (asked, default) {
        (Some(rate), _) => Some((rate, asked_source)),
        (None, Some((rate, name))) => Some((rate, LimitSource::Default(name))),
        (None, None) => None,
    };
    let (limit, source) = match (wish, ceiling) {
        (Some((rate, source)), Some((most, _))) if rate <= most => (Some(rate), source),
        (_, Some((most, name))) => (Some(most), LimitSource::Ceiling(name)),
        (Some((rate, source)), None) => (Some(rate), source),
        (None, None) => (None, LimitSource::Nothing),
    };
    Decision { limit, source, candidates }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{FromRuntime, NodeLimits};
    use super::*;

    const M: u64 = 1_000_000;

    fn resources(specs: &[(&str, &str)]) -> Resources {
        let spec = |(name, json): &(&str, &str)| ((*name).to_owned(), serde_json::from_str(json).unwrap());
        Resources {
            node_bandwidths: specs.iter().map(spec).collect::<BTreeMap<_, _>>(),
            ..Resources::default()
        }
    }

    fn asks(rate: Option<u64>, runtime: bool) -> AskedLimits {
        AskedLimits {
            to_workload: rate.map(BitsPerSecond),
            from_workload: None,
            from_runtime: FromRuntime { to_workload: runtime, from_workload: false },
            ..AskedLimits::default()
        }
    }

    #[test]
    fn a_shadow_is_explained_where_it_would_change_something() {
        let all = resources(&[
            ("base", r#"{"limits":{"ingress":"100M"}}"#),
            ("try", r#"{"mode":"Shadow","limits":{"ingress":"50M"}}"#),
        ]);
        let node = Node::default();
        let [to, _] = explain(&all, &node, &asks(None, false));
        assert_eq!((to.limit, to.candidates.len()), (Some(BitsPerSecond(100 * M)), 1));
        let [to, from] = explain_shadow(&all, &node, &asks(None, false));
        let to = to.unwrap();
        assert_eq!((to.limit, to.source), (Some(BitsPerSecond(50 * M)), LimitSource::Ceiling("try".into())));
        assert_eq!(from, None);
        assert_eq!(explain_shadow(&all, &node, &asks(Some(20 * M), false)), [None, None]);
    }

    #[test]
    fn the_decisive_source_is_named_and_agrees_with_the_grant() {
        let all = resources(&[
            ("base", r#"{"defaults":{"ingress":"50M"},"limits":{"ingress":"100M"}}"#),
            ("strict", r#"{"limits":{"ingress":"80M"}}"#),
            ("elsewhere", r#"{"nodeSelector":{"matchLabels":{"rack":"z"}},"limits":{"ingress":"1M"}}"#),
        ]);
        let node = Node::default();
        let limits = NodeLimits::strictest(
            all.node_bandwidths.iter().filter(|(name, _)| *name != "elsewhere").map(|(_, spec)| spec),
        );
        for (asked, source) in [
            (asks(None, false), LimitSource::Default("base".into())),
            (asks(Some(10 * M), false), LimitSource::Annotation(INGRESS_ANNOTATION)),
            (asks(Some(10 * M), true), LimitSource::RuntimeConfig),
            (asks(Some(90 * M), false), LimitSource::Ceiling("strict".into())),
        ] {
            let [to, from] = explain(&all, &node, &asked);
            assert_eq!(to.source, source);
            assert_eq!(to.limit, limits.grant(&asked).to_workload);
            assert_eq!((from.limit, from.source), (None, LimitSource::Nothing));
        }
        let [to, _] = explain(&all, &node, &asks(Some(90 * M), false));
        let shown: Vec<String> = to.candidates.iter().map(|(source, _)| source.to_string()).collect();
        assert_eq!(
            shown,
            [
                "NodeBandwidth/strict spec.limits",
                "annotation kubernetes.io/ingress-bandwidth",
                "NodeBandwidth/base spec.defaults"
            ]
        );
    }
}

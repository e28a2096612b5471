//! Which source decided a pod's limit: what `turnpike bw show` answers.

use std::fmt;

use turnpike_model::bandwidth::{DirectionRates, NodeBandwidthSpec};
use turnpike_model::desired::BitsPerSecond;
use turnpike_model::resource::Resources;

use super::grants::{NamespaceGrants, bound};
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
    /// `spec.maxRate` of this `NamespaceGrant`: its namespaces may not ask for more.
    Grant(String),
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
            Self::Grant(name) => write!(f, "NamespaceGrant/{name} spec.maxRate"),
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
pub fn explain(resources: &Resources, node: &Node, asked: &AskedLimits, namespace: &str) -> [Decision; 2] {
    both(resources, node, (asked, namespace), NodeBandwidthSpec::is_enforced)
}

/// Decisions that would differ if resources in shadow were in force, too.
#[must_use]
pub fn explain_shadow(
    resources: &Resources,
    node: &Node,
    asked: &AskedLimits,
    namespace: &str,
) -> [Option<Decision>; 2] {
    let [to, from] = explain(resources, node, asked, namespace);
    let [shadow_to, shadow_from] = both(resources, node, (asked, namespace), |_| true);
    [(to, shadow_to), (from, shadow_from)]
        .map(|(now, shadow)| if now.limit == shadow.limit { None } else { Some(shadow) })
}

/// Which resources have a say.
type Counts = fn(&NodeBandwidthSpec) -> bool;

/// One direction of a pair of rates.
trait Direction: Fn(&DirectionRates) -> Option<BitsPerSecond> {}
impl<F: Fn(&DirectionRates) -> Option<BitsPerSecond>> Direction for F {}

/// One direction's wish.
struct Wish<'a> {
    rate: Option<BitsPerSecond>,
    by_runtime: bool,
    annotation: &'static str,
    /// What the pod's namespace may ask for, and by which resource.
    granted: Option<(BitsPerSecond, &'a str)>,
}

fn both(
    resources: &Resources,
    node: &Node,
    (asked, namespace): (&AskedLimits, &str),
    counts: Counts,
) -> [Decision; 2] {
    let grant = NamespaceGrants::of(resources).find(namespace);
    let to = Wish {
        rate: asked.to_workload,
        by_runtime: asked.from_runtime.to_workload,
        annotation: INGRESS_ANNOTATION,
        granted: grant.and_then(|grant| Some((grant.most.to_workload?, grant.name))),
    };
    let from = Wish {
        rate: asked.from_workload,
        by_runtime: asked.from_runtime.from_workload,
        annotation: EGRESS_ANNOTATION,
        granted: grant.and_then(|grant| Some((grant.most.from_workload?, grant.name))),
    };
    let ingress = |rates: &DirectionRates| rates.ingress.map(turnpike_model::rate::Rate::bits);
    let egress = |rates: &DirectionRates| rates.egress.map(turnpike_model::rate::Rate::bits);
    [decide(resources, node, &to, (counts, &ingress)), decide(resources, node, &from, (counts, &egress))]
}

fn decide(
    resources: &Resources,
    node: &Node,
    wish: &Wish<'_>,
    (counts, rate): (Counts, &dyn Direction),
) -> Decision {
    let selected = |spec: &NodeBandwidthSpec| counts(spec) && selects(spec.node_selector.as_ref(), node);
    let specs = || resources.node_bandwidths.iter().filter(|(_, spec)| selected(spec));
    let lowest = |part: fn(&NodeBandwidthSpec) -> &DirectionRates, source: fn(String) -> LimitSource| {
        let lowest = specs().filter_map(|(name, spec)| Some((rate(part(spec))?, name))).min();
        lowest.map(|(rate, name)| (source(name.clone()), rate))
    };
    let ceiling = lowest(|spec| &spec.limits, LimitSource::Ceiling);
    let default = lowest(|spec| &spec.defaults, LimitSource::Default);
    let asked_source =
        if wish.by_runtime { LimitSource::RuntimeConfig } else { LimitSource::Annotation(wish.annotation) };
    let asked = wish.rate.map(|rate| (asked_source, rate));
    // Where there is no default, no grant is needed, and none counts.
    let grant = wish.granted.filter(|_| asked.is_some()).zip(default.as_ref());
    let grant = grant.filter(|((most, _), (_, default))| bound(*default, Some(*most)) > *default);
    let grant = grant.map(|((most, name), _)| (LimitSource::Grant(name.to_owned()), most));
    let most = grant.clone().or_else(|| default.clone()).filter(|_| asked.is_some());
    let candidates = [ceiling.clone(), grant, asked.clone(), default.clone()];
    // Of equal ones the pod's own wish decides, then the ceiling.
    let deciding = [asked.or(default), ceiling, most].into_iter().flatten().min_by_key(|(_, rate)| *rate);
    let (limit, source) = match deciding {
        Some((source, rate)) => (Some(rate), source),
        None => (None, LimitSource::Nothing),
    };
    Decision { limit, source, candidates: candidates.into_iter().flatten().collect() }
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
        let [to, _] = explain(&all, &node, &asks(None, false), "shop");
        assert_eq!((to.limit, to.candidates.len()), (Some(BitsPerSecond(100 * M)), 1));
        let [to, from] = explain_shadow(&all, &node, &asks(None, false), "shop");
        let to = to.unwrap();
        assert_eq!((to.limit, to.source), (Some(BitsPerSecond(50 * M)), LimitSource::Ceiling("try".into())));
        assert_eq!(from, None);
        assert_eq!(explain_shadow(&all, &node, &asks(Some(20 * M), false), "shop"), [None, None]);
    }

    #[test]
    fn the_decisive_source_is_named_and_agrees_with_the_grant() {
        let mut all = resources(&[
            ("base", r#"{"defaults":{"ingress":"50M"},"limits":{"ingress":"100M"}}"#),
            ("strict", r#"{"limits":{"ingress":"80M"}}"#),
            ("elsewhere", r#"{"nodeSelector":{"matchLabels":{"rack":"z"}},"limits":{"ingress":"1M"}}"#),
        ]);
        for (name, namespace, rate) in
            [("big", "bank", "1G"), ("small", "shop", "60M"), ("tiny", "web", "5M")]
        {
            let grant = format!(r#"{{"namespaces":["{namespace}"],"maxRate":{{"ingress":"{rate}"}}}}"#);
            all.namespace_grants.insert(name.into(), serde_json::from_str(&grant).unwrap());
        }
        let node = Node::default();
        let limits = NodeLimits::strictest(
            all.node_bandwidths.iter().filter(|(name, _)| *name != "elsewhere").map(|(_, spec)| spec),
        );
        let grants = NamespaceGrants::of(&all);
        for (asked, namespace, source) in [
            (asks(None, false), "bank", LimitSource::Default("base".into())),
            (asks(Some(10 * M), false), "bank", LimitSource::Annotation(INGRESS_ANNOTATION)),
            (asks(Some(10 * M), true), "nobodys", LimitSource::RuntimeConfig),
            (asks(Some(90 * M), false), "bank", LimitSource::Ceiling("strict".into())),
            (asks(Some(70 * M), false), "bank", LimitSource::Annotation(INGRESS_ANNOTATION)),
            (asks(Some(70 * M), false), "shop", LimitSource::Grant("small".into())),
            (asks(Some(70 * M), false), "web", LimitSource::Default("base".into())),
            (asks(Some(70 * M), true), "nobodys", LimitSource::Default("base".into())),
        ] {
            let [to, from] = explain(&all, &node, &asked, namespace);
            assert_eq!(to.source, source, "{asked:?} {namespace}");
            assert_eq!(to.limit, limits.grant(&asked, grants.most(namespace)).to_workload);
            assert_eq!((from.limit, from.source), (None, LimitSource::Nothing));
        }
        let [to, _] = explain(&all, &node, &asks(Some(90 * M), false), "shop");
        let shown: Vec<String> = to.candidates.iter().map(|(source, _)| source.to_string()).collect();
        assert_eq!(
            shown,
            [
                "NodeBandwidth/strict spec.limits",
                "NamespaceGrant/small spec.maxRate",
                "annotation kubernetes.io/ingress-bandwidth",
                "NodeBandwidth/base spec.defaults"
            ]
        );
    }
}

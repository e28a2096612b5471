//! Who may ask for more than the default: a `NamespaceGrant` of the pod's namespace says so.

use std::collections::BTreeMap;

use turnpike_model::desired::{BitsPerSecond, Limits};
use turnpike_model::grant::NamespaceGrantSpec;
use turnpike_model::resource::{Kind, ResourceId, Resources};

use super::{AskedLimits, EGRESS_ANNOTATION, INGRESS_ANNOTATION, NodeLimits, limits_of};
use crate::validate::Issue;

/// A namespace's grant, by the name of its resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted<'a> {
    pub(crate) name: &'a str,
    pub(crate) most: Limits,
}

/// All grants, by namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NamespaceGrants<'a> {
    named: BTreeMap<&'a str, Granted<'a>>,
    others: Option<Granted<'a>>,
}

impl<'a> NamespaceGrants<'a> {
    pub(crate) fn of(resources: &'a Resources) -> Self {
        let mut grants = Self::default();
        for (name, spec) in &resources.namespace_grants {
            let granted = Granted { name, most: limits_of(spec.max_rate) };
            if spec.is_for_all() {
                grants.others.get_or_insert(granted);
            }
            for namespace in spec.namespaces.iter().filter(|word| *word != NamespaceGrantSpec::EVERY) {
                grants.named.entry(namespace).or_insert(granted);
            }
        }
        grants
    }

    /// That of a namespace, or else that of all which have none.
    pub(crate) fn find(&self, namespace: &str) -> Option<Granted<'a>> {
        self.named.get(namespace).copied().or(self.others)
    }

    /// What pods of a namespace may ask for.
    pub(crate) fn most(&self, namespace: &str) -> Limits {
        self.find(namespace).map(|granted| granted.most).unwrap_or_default()
    }

    /// A pod that asks for more than its namespace may, and gets less for no other reason.
    pub(crate) fn refused(
        &self,
        limits: &NodeLimits,
        asked: &AskedLimits,
        namespace: &str,
        container: &str,
    ) -> Vec<Issue> {
        let granted = self.find(namespace);
        let most = self.most(namespace);
        let got = limits.grant(asked, most);
        let to = Direction {
            field: "spec.maxRate.ingress",
            annotation: INGRESS_ANNOTATION,
            verb: "receive",
            asked: asked.to_workload,
            default: limits.defaults.to_workload,
            most: most.to_workload,
            got: got.to_workload,
        };
        let from = Direction {
            field: "spec.maxRate.egress",
            annotation: EGRESS_ANNOTATION,
            verb: "send",
            asked: asked.from_workload,
            default: limits.defaults.from_workload,
            most: most.from_workload,
            got: got.from_workload,
        };
        let of = |direction: &Direction| direction.refused(granted.map(|it| it.name), namespace, container);
        [to, from].iter().filter_map(of).collect()
    }
}

/// The most that a pod may ask for where its node has a default.
pub(super) fn bound(default: BitsPerSecond, granted: Option<BitsPerSecond>) -> BitsPerSecond {
    granted.map_or(default, |granted| granted.max(default))
}

struct Direction {
    field: &'static str,
    annotation: &'static str,
    verb: &'static str,
    asked: Option<BitsPerSecond>,
    default: Option<BitsPerSecond>,
    most: Option<BitsPerSecond>,
    got: Option<BitsPerSecond>,
}

impl Direction {
    fn refused(&self, grant: Option<&str>, namespace: &str, container: &str) -> Option<Issue> {
        let (asked, default) = (self.asked?, self.default?);
        let bound = bound(default, self.most);
        // What the node's ceiling takes away no grant would give.
        if asked <= bound || self.got != Some(bound) {
            return None;
        }
        let (name, why, remedy) = match (grant, self.most) {
            (Some(name), Some(most)) if most >= default => (
                name,
                format!("which NamespaceGrant/{name} does not give to namespace `{namespace}`"),
                "raise it",
            ),
            (Some(name), _) => (
                name,
                format!(
                    "more than the default, and NamespaceGrant/{name} gives no more to namespace `{namespace}`"
                ),
                "set it",
            ),
            (None, _) => (
                "?",
                format!("more than the default, and namespace `{namespace}` has no NamespaceGrant"),
                "write one for the namespace",
            ),
        };
        Some(Issue {
            resource: ResourceId { kind: Kind::NamespaceGrant, name: name.to_owned() },
            field: self.field.to_owned(),
            message: format!("container {container} asks to {} {asked}, {why}; it has {bound}", self.verb),
            remedy: format!("{remedy}, or lower the pod's annotation {}", self.annotation),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1_000_000;

    fn resources(grants: &[(&str, &str)]) -> Resources {
        let mut resources = Resources::default();
        for (name, json) in grants {
            resources.namespace_grants.insert((*name).to_owned(), serde_json::from_str(json).unwrap());
        }
        resources
    }

    fn limits(ingress: u64) -> Limits {
        Limits { to_workload: Some(BitsPerSecond(ingress)), from_workload: None }
    }

    #[test]
    fn a_namespaces_own_grant_goes_before_that_of_all() {
        let all = resources(&[
            ("a", r#"{"namespaces":["*"],"maxRate":{"ingress":"100M"}}"#),
            ("b", r#"{"namespaces":["bank","shop"],"maxRate":{"ingress":"50M"}}"#),
        ]);
        let grants = NamespaceGrants::of(&all);
        assert_eq!(grants.find("shop"), Some(Granted { name: "b", most: limits(50 * M) }));
        assert_eq!(grants.find("web").map(|granted| granted.name), Some("a"));
        assert_eq!(grants.find("").map(|granted| granted.name), Some("a"), "the runtime named none");
        assert_eq!(NamespaceGrants::of(&resources(&[])).find("shop"), None);
    }

    #[test]
    fn who_asks_for_too_much_is_named_with_what_it_has() {
        let node = NodeLimits { defaults: limits(20 * M), ceilings: limits(100 * M) };
        let said = |grants: &[(&str, &str)], asked: u64| -> Vec<String> {
            let all = resources(grants);
            let refused = NamespaceGrants::of(&all).refused(&node, &limits(asked).into(), "shop", "c1");
            refused.iter().map(ToString::to_string).collect()
        };
        let grant = |rates: &str| format!(r#"{{"namespaces":["shop"],"maxRate":{rates}}}"#);
        assert_eq!(said(&[], 20 * M), [] as [&str; 0]);
        assert_eq!(
            said(&[], 80 * M),
            [
                "NamespaceGrant/? spec.maxRate.ingress: container c1 asks to receive 80M, more than the default, and \
              namespace `shop` has no NamespaceGrant; it has 20M; write one for the namespace, or lower the pod's \
              annotation kubernetes.io/ingress-bandwidth"
            ]
        );
        assert_eq!(said(&[("g", &grant(r#"{"ingress":"80M"}"#))], 80 * M), [] as [&str; 0]);
        let some = said(&[("g", &grant(r#"{"ingress":"50M"}"#))], 80 * M);
        assert!(
            some[0].contains("NamespaceGrant/g does not give") && some[0].contains("it has 50M"),
            "{some:?}"
        );
        let other = said(&[("g", &grant(r#"{"egress":"50M"}"#))], 80 * M);
        assert!(other[0].contains("gives no more") && other[0].contains("it has 20M; set it"), "{other:?}");
        let ceiling = said(&[("g", &grant(r#"{"ingress":"1G"}"#))], 500 * M);
        assert_eq!(ceiling, [] as [&str; 0], "the node's ceiling is no matter of grants");
    }
}

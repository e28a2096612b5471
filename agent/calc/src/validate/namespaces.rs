//! Whom grants are for: lists of namespaces, in whatever resource.

use turnpike_model::grant::NamespaceGrantSpec;
use turnpike_model::resource::{Kind, Resources};

use super::Findings;

/// Longest name of a namespace (RFC 1123 label).
const LONGEST: usize = 63;

impl Findings {
    pub(super) fn namespaces(&mut self, resources: &Resources) {
        for (name, pool) in &resources.pools {
            self.names(Kind::IpPool, name, "spec.namespaces", &pool.namespaces);
            for (index, reservation) in pool.reservations.iter().enumerate() {
                let field = format!("spec.reservations[{index}].namespaces");
                self.names(Kind::IpPool, name, &field, &reservation.namespaces);
            }
        }
        for (name, spec) in &resources.node_bandwidths {
            for (class, share) in spec.tree.iter().flat_map(|tree| &tree.classes) {
                let field = format!("spec.tree.classes.{class}.namespaces");
                self.names(Kind::NodeBandwidth, name, &field, &share.namespaces);
            }
        }
        for (name, spec) in &resources.lb_sources {
            self.names(Kind::LoadBalancerSource, name, "spec.namespaces", &spec.namespaces);
            self.names(Kind::LoadBalancerSource, name, "spec.exceptNamespaces", &spec.except_namespaces);
        }
        for (name, spec) in &resources.namespace_grants {
            self.grant(resources, name, spec);
        }
    }

    fn grant(&mut self, resources: &Resources, name: &str, spec: &NamespaceGrantSpec) {
        let kind = Kind::NamespaceGrant;
        let field = "spec.namespaces";
        if spec.namespaces.is_empty() {
            let message = "no namespace".to_owned();
            self.add(kind, name, field, message, "list those that it is for, or \"*\" for all others");
        }
        if !spec.is_for_all() {
            self.names(kind, name, field, &spec.namespaces);
        } else if spec.namespaces.len() > 1 {
            let message = "`*` stands for all that have no grant, and others are listed beside it".to_owned();
            self.add(kind, name, field, message, "write a second NamespaceGrant for those others");
        }
        if spec.max_rate.ingress.is_none() && spec.max_rate.egress.is_none() {
            let message = "it grants nothing".to_owned();
            self.add(
                kind,
                name,
                "spec.maxRate",
                message,
                "give ingress, egress or both, or remove the grant",
            );
        }
        let earlier = resources.namespace_grants.iter().take_while(|(other, _)| other.as_str() != name);
        for (other, granted) in earlier {
            for (index, namespace) in spec.namespaces.iter().enumerate() {
                if granted.namespaces.contains(namespace) {
                    let message = format!("NamespaceGrant/{other} is for `{namespace}`, too");
                    let field = format!("spec.namespaces[{index}]");
                    self.add(kind, name, &field, message, "keep it in one of the two");
                }
            }
        }
    }

    fn names(&mut self, kind: Kind, resource: &str, field: &str, names: &[String]) {
        for (index, name) in names.iter().enumerate() {
            let field = format!("{field}[{index}]");
            if !is_namespace(name) {
                let message = format!("`{name}` is no name of a namespace");
                let remedy = format!(
                    "write it as `kubectl get namespaces` does: lower-case letters, digits and `-`, at most {LONGEST}"
                );
                self.add(kind, resource, &field, message, remedy);
            } else if names.iter().take(index).any(|earlier| earlier == name) {
                self.add(kind, resource, &field, format!("`{name}` is listed twice"), "keep it once");
            }
        }
    }
}

/// RFC 1123 label.
fn is_namespace(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=LONGEST).contains(&name.len())
        && name.starts_with(inner)
        && name.ends_with(inner)
        && name.chars().all(|c| inner(c) || c == '-')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::validate::validate;

    fn put<S: for<'de> serde::Deserialize<'de>>(value: Value) -> S {
        serde_json::from_value(value).unwrap()
    }

    fn grants(list: &[(&str, Value)]) -> Vec<String> {
        let mut resources = Resources::default();
        for (name, value) in list {
            resources.namespace_grants.insert((*name).to_owned(), put(value.clone()));
        }
        validate(&resources).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_grant_is_for_somebody_of_something_and_the_only_one() {
        let rate = json!({"egress": "1G"});
        let good = json!({"namespaces": ["bank", "shop-2"], "maxRate": rate});
        let all = json!({"namespaces": ["*"], "maxRate": rate});
        assert_eq!(grants(&[("a", good.clone()), ("b", all.clone())]), [] as [&str; 0]);
        for (list, wanted) in [
            (vec![("a", json!({"namespaces": [], "maxRate": rate}))], "a spec.namespaces: no namespace"),
            (vec![("a", json!({"namespaces": ["x"], "maxRate": {}}))], "a spec.maxRate: it grants nothing"),
            (vec![("a", json!({"namespaces": ["*", "x"], "maxRate": rate}))], "others are listed beside it"),
            (
                vec![("a", json!({"namespaces": ["x", "x"], "maxRate": rate}))],
                "spec.namespaces[1]: `x` is listed twice",
            ),
            (
                vec![("a", good.clone()), ("b", good)],
                "b spec.namespaces[0]: NamespaceGrant/a is for `bank`, too",
            ),
            (vec![("a", all.clone()), ("b", all)], "NamespaceGrant/a is for `*`, too"),
        ] {
            let found = grants(&list).join("\n");
            assert!(found.contains(wanted), "{wanted}: {found}");
        }
    }

    #[test]
    fn names_of_namespaces_are_looked_at_wherever_they_stand() {
        let mut resources = Resources::default();
        let reservations = json!([{"cidr": "10.0.0.8/29", "namespaces": ["db", "*"]}]);
        let pool = json!({"cidr": "10.0.0.0/16", "namespaces": ["Bank"], "reservations": reservations});
        resources.pools.insert("p".to_owned(), put(pool));
        let classes = json!({"gold": {"guarantee": "1M", "namespaces": [""]}});
        let tree = json!({"tree": {"host": {"guarantee": "1M"}, "classes": classes}});
        resources.node_bandwidths.insert("n".to_owned(), put(tree));
        let source =
            json!({"cidrs": ["10.9.1.0/24"], "namespaces": ["Web"], "exceptNamespaces": ["db", "db"]});
        resources.lb_sources.insert("lvs".to_owned(), put(source));
        let long = "a".repeat(64);
        let grant = json!({"namespaces": [long, "a.b", "-a"], "maxRate": {"egress": "1M"}});
        resources.namespace_grants.insert("g".to_owned(), put(grant));
        let found: Vec<String> = validate(&resources).iter().map(ToString::to_string).collect();
        let wanted = [
            "IPPool/p spec.namespaces[0]: `Bank` is no name of a namespace",
            "IPPool/p spec.reservations[0].namespaces[1]: `*` is no name",
            "NodeBandwidth/n spec.tree.classes.gold.namespaces[0]: `` is no name",
            "LoadBalancerSource/lvs spec.namespaces[0]: `Web` is no name",
            "LoadBalancerSource/lvs spec.exceptNamespaces[1]: `db` is listed twice",
            "NamespaceGrant/g spec.namespaces[0]: `aaa",
            "NamespaceGrant/g spec.namespaces[1]: `a.b` is no name",
            "NamespaceGrant/g spec.namespaces[2]: `-a` is no name",
        ];
        assert_eq!(found.len(), wanted.len(), "{found:#?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.starts_with(wanted), "{found}");
            assert!(found.contains("kubectl get namespaces") || found.contains("twice"), "{found}");
        }
    }
}

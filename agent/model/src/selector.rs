//! Label selectors, with Kubernetes' meaning.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Labels of a node.
pub type Labels = BTreeMap<String, String>;

/// Which nodes a resource is for; all parts must hold, and an empty selector selects every node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels that must be there with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labels,
    /// Further conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// Values for In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// Comparison of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// The label's value is one of the values.
    In,
    /// The label is absent, or its value is none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl Selector {
    /// True when a node with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: &str) -> Selector {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn operators_follow_kubernetes() {
        let labels: Labels = [("rack".to_owned(), "a".to_owned())].into();
        assert!(Selector::default().matches(&labels));
        assert!(selector(r#"{"matchLabels":{"rack":"a"}}"#).matches(&labels));
        assert!(!selector(r#"{"matchLabels":{"rack":"b"}}"#).matches(&labels));
        let holds = |operator: &str, key: &str| {
            let json = format!(
                r#"{{"matchExpressions":[{{"key":"{key}","operator":"{operator}","values":["a","c"]}}]}}"#
            );
            selector(&json).matches(&labels)
        };
        assert!(holds("In", "rack") && !holds("In", "zone"));
        assert!(!holds("NotIn", "rack") && holds("NotIn", "zone"));
        assert!(holds("Exists", "rack") && !holds("Exists", "zone"));
        assert!(!holds("DoesNotExist", "rack") && holds("DoesNotExist", "zone"));
    }
}

//! JSON schema of all resources, for editors and for checks before a file reaches a node.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::bandwidth::NodeBandwidthSpec;
use crate::bgp::{BgpConfigurationSpec, BgpPeerSpec};
use crate::grant::NamespaceGrantSpec;
use crate::lb::LoadBalancerSourceSpec;
use crate::pool::{IpBlockSpec, IpPoolSpec};
use crate::resource::{API_VERSION, Kind, Object};

/// One schema that accepts a resource of any kind.
#[must_use]
pub fn json_schema() -> Value {
    let kinds: Vec<Value> = Kind::ALL
        .into_iter()
        .map(|kind| match kind {
            Kind::IpPool => schema_of::<IpPoolSpec>(kind),
            Kind::IpBlock => schema_of::<IpBlockSpec>(kind),
            Kind::BgpConfiguration => schema_of::<BgpConfigurationSpec>(kind),
            Kind::BgpPeer => schema_of::<BgpPeerSpec>(kind),
            Kind::NodeBandwidth => schema_of::<NodeBandwidthSpec>(kind),
            Kind::LoadBalancerSource => schema_of::<LoadBalancerSourceSpec>(kind),
            Kind::NamespaceGrant => schema_of::<NamespaceGrantSpec>(kind),
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Resources of {API_VERSION}"),
        "oneOf": kinds,
    })
}

fn schema_of<S: JsonSchema>(kind: Kind) -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let schema: Schema = settings.into_generator().into_root_schema_for::<Object<S>>();
    let mut value = schema.to_value();
    if let Some(object) = value.as_object_mut() {
        object.insert("title".to_owned(), json!(kind.name()));
    }
    for (pointer, constant) in [("/properties/kind", kind.name()), ("/properties/apiVersion", API_VERSION)] {
        if let Some(property) = value.pointer_mut(pointer) {
            *property = json!({ "const": constant });
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_schema_with_fixed_kind_and_version() {
        let schema = json_schema();
        let kinds = schema["oneOf"].as_array().unwrap();
        assert_eq!(kinds.len(), Kind::ALL.len());
        for (kind, schema) in Kind::ALL.into_iter().zip(kinds) {
            assert_eq!(schema["properties"]["kind"]["const"], kind.name());
            assert_eq!(schema["properties"]["apiVersion"]["const"], API_VERSION);
            assert_eq!(schema["additionalProperties"], false, "{kind}");
            assert_eq!(schema["properties"]["spec"]["additionalProperties"], false, "{kind}");
        }
    }
}

//! The network configuration on stdin. Fields that are not ours are left alone: runtimes add their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use turnpike_agent_api::{Attachment, Bandwidth, DEFAULT_SOCKET, DEFAULT_SPOOL, PortMapping, code};

use crate::error::CniError;
use crate::version::CniVersion;

/// What we read of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetConf {
    cni_version: Option<String>,
    name: Option<String>,
    /// The agent's socket; for nodes that keep it elsewhere.
    socket: Option<PathBuf>,
    /// Where DELs wait while the agent is down.
    spool: Option<PathBuf>,
    #[serde(default)]
    runtime_config: Option<RuntimeConfig>,
    pub(crate) prev_result: Option<Value>,
    pub(crate) dns: Option<Value>,
    mac: Option<String>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
}

/// Go's JSON reads keys in any case; containerd sends them capitalised, CRI-O and cnitool in camelCase.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct RuntimeConfig {
    bandwidth: Option<RuntimeBandwidth>,
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(rename = "cgroupPath", alias = "CgroupPath")]
    cgroup_path: Option<String>,
    #[serde(rename = "portMappings", alias = "PortMappings")]
    port_mappings: Option<Vec<RuntimePort>>,
    #[serde(default, alias = "Ips", alias = "IPs")]
    ips: Option<Vec<String>>,
    #[serde(default, alias = "Mac", alias = "MAC")]
    mac: Option<String>,
    #[serde(default, alias = "DNS", alias = "Dns")]
    dns: Option<RuntimeDns>,
}

/// The runtime's names for what a result calls nameservers, search and options.
#[derive(Debug, Clone, Default, Deserialize)]
struct RuntimeDns {
    #[serde(default, alias = "Servers")]
    servers: Option<Vec<String>>,
    #[serde(default, alias = "Searches")]
    searches: Option<Vec<String>>,
    #[serde(default, alias = "Options")]
    options: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct RuntimePort {
    #[serde(default, alias = "HostPort", rename = "hostPort")]
    host_port: Option<u16>,
    #[serde(default, alias = "ContainerPort", rename = "containerPort")]
    container_port: Option<u16>,
    #[serde(default, alias = "Protocol", rename = "protocol")]
    protocol: Option<String>,
    #[serde(default, alias = "HostIP", rename = "hostIP")]
    host_ip: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct RuntimeBandwidth {
    #[serde(default, alias = "IngressRate", rename = "ingressRate")]
    ingress_rate: Option<u64>,
    #[serde(default, alias = "IngressBurst", rename = "ingressBurst")]
    ingress_burst: Option<u64>,
    #[serde(default, alias = "EgressRate", rename = "egressRate")]
    egress_rate: Option<u64>,
    #[serde(default, alias = "EgressBurst", rename = "egressBurst")]
    egress_burst: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl NetConf {
    pub(crate) fn parse(stdin: &[u8]) -> Result<Self, CniError> {
        serde_json::from_slice(stdin).map_err(|error| {
            // Not the text itself: stdin may hold secrets.
            CniError::new(code::DECODE, "stdin is no network configuration", error.to_string())
        })
    }

    pub(crate) fn version(&self) -> Result<CniVersion, CniError> {
        let text = self.cni_version.as_deref().filter(|text| !text.is_empty()).unwrap_or("0.1.0");
        CniVersion::parse(text).ok_or_else(|| {
            let supported: Vec<_> = CniVersion::ALL.into_iter().map(CniVersion::as_str).collect();
            let details = format!("the configuration is {text}; supported: {}", supported.join(", "));
            CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI version", details)
        })
    }

    /// The network's name: mandatory, and safe to show and to store.
    pub(crate) fn name(&self) -> Result<&str, CniError> {
        let name = self.name.as_deref().unwrap_or_default();
        if crate::environment::is_container_id(name) {
            return Ok(name);
        }
        Err(CniError::new(
            code::INVALID_CONFIG,
            "the network configuration has no usable name",
            format!("name is `{name}`; use letters, digits, `_`, `.` and `-`"),
        ))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.spool.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_SPOOL))
    }

    pub(crate) fn bandwidth(&self) -> Option<Bandwidth> {
        let given = self.runtime_config.as_ref()?.bandwidth?;
        Some(Bandwidth {
            ingress_rate: given.ingress_rate.unwrap_or(0),
            ingress_burst: given.ingress_burst.unwrap_or(0),
            egress_rate: given.egress_rate.unwrap_or(0),
            egress_burst: given.egress_burst.unwrap_or(0),
        })
    }

    /// Only the annotations that the agent acts on travel on.
    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        let all = self.runtime_config.as_ref().and_then(|config| config.annotations.as_ref());
        let ours = |key: &str| {
            matches!(key, "kubernetes.io/ingress-bandwidth" | "kubernetes.io/egress-bandwidth")
                || key.contains("turnpike.io/")
        };
        let chosen = all.into_iter().flatten().filter(|(key, _)| ours(key));
        chosen.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(crate) fn cgroup_path(&self) -> Option<String> {
        self.runtime_config.as_ref()?.cgroup_path.clone()
    }

    /// Ports of the node that shall lead to the pod. None where the configuration lacks the capability: then another
    /// plugin of the chain maps them.
    pub(crate) fn port_mappings(&self) -> Vec<PortMapping> {
        let given = self.runtime_config.as_ref().and_then(|config| config.port_mappings.as_ref());
        let own = |port: &RuntimePort| PortMapping {
            host_port: port.host_port.unwrap_or(0),
            container_port: port.container_port.unwrap_or(0),
            protocol: port.protocol.clone().unwrap_or_default(),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        };
        given.into_iter().flatten().map(own).collect()
    }

    /// Addresses that the runtime asks for.
    pub(crate) fn ips(&self) -> Vec<String> {
        self.runtime_config.as_ref().and_then(|config| config.ips.clone()).unwrap_or_default()
    }

    /// The MAC address asked for: by the runtime, else by the network configuration.
    pub(crate) fn mac(&self) -> Option<String> {
        self.runtime_config.as_ref().and_then(|config| config.mac.clone()).or_else(|| self.mac.clone())
    }

    /// The runtime's resolver, in the words of a result; `None` where it says nothing of one.
    pub(crate) fn runtime_dns(&self) -> Option<Value> {
        let dns = self.runtime_config.as_ref()?.dns.as_ref()?;
        let parts = [("nameservers", &dns.servers), ("search", &dns.searches), ("options", &dns.options)];
        let given = parts.into_iter().filter_map(|(name, list)| {
            let list = list.as_ref().filter(|list| !list.is_empty())?;
            Some((name.to_owned(), Value::from(list.clone())))
        });
        let fields: serde_json::Map<String, Value> = given.collect();
        (!fields.is_empty()).then_some(Value::Object(fields))
    }

    /// GC's list. `None` when the runtime sent none (or null), which never means "nothing is valid".
    pub(crate) fn valid_attachments(&self) -> Option<Vec<Attachment>> {
        let given = self.valid_attachments.as_ref()?;
        let own = |valid: &ValidAttachment| Attachment {
            container_id: valid.container_id.clone(),
            ifname: valid.ifname.clone(),
        };
        Some(given.iter().map(own).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> NetConf {
        NetConf::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn both_spellings_of_runtime_config_are_read() {
        let containerd = r#"{"runtimeConfig":{"bandwidth":{"IngressRate":10000000,"IngressBurst":4294967295,
            "EgressRate":20000000,"EgressBurst":4294967295},"dns":{"Servers":["10.96.0.10"],"Options":null},
            "portMappings":[{"HostPort":8080,"HostIP":""}]}}"#;
        let crio = containerd.replace("IngressRate", "ingressRate").replace("EgressRate", "egressRate");
        for text in [containerd, &crio] {
            let bandwidth = parse(text).bandwidth().unwrap();
            assert_eq!((bandwidth.ingress_rate, bandwidth.egress_rate), (10_000_000, 20_000_000));
            assert_eq!(parse(text).port_mappings()[0].host_port, 8080);
        }
    }

    #[test]
    fn mac_and_dns_come_from_the_runtime_first_and_aliases_do_no_harm() {
        let config = parse(
            r#"{"mac":"02:00:00:00:00:01","runtimeConfig":{"mac":"02:00:00:00:00:02","aliases":["db"],
               "dns":{"Servers":["10.96.0.10"],"Searches":["svc.local"],"Options":null}}}"#,
        );
        assert_eq!(config.mac().as_deref(), Some("02:00:00:00:00:02"));
        let dns = config.runtime_dns().unwrap();
        assert_eq!(dns, serde_json::json!({"nameservers": ["10.96.0.10"], "search": ["svc.local"]}));
        assert_eq!(parse(r#"{"mac":"02:00:00:00:00:01"}"#).mac().as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(parse(r#"{"runtimeConfig":{"dns":{"servers":[]}}}"#).runtime_dns(), None);
    }

    #[test]
    fn nulls_and_absent_parts_are_nothing_given() {
        for text in [
            "{}",
            r#"{"runtimeConfig":null}"#,
            r#"{"runtimeConfig":{"bandwidth":null,"io.kubernetes.cri.pod-annotations":null}}"#,
            r#"{"cni.dev/valid-attachments":null}"#,
        ] {
            let config = parse(text);
            assert!(config.bandwidth().is_none() && config.annotations().is_empty(), "{text}");
            assert!(config.valid_attachments().is_none(), "{text}");
        }
        let empty = parse(r#"{"cni.dev/valid-attachments":[]}"#);
        assert_eq!(empty.valid_attachments(), Some(Vec::new()));
    }

    #[test]
    fn a_version_that_we_do_not_speak_is_code_1() {
        assert_eq!(parse(r#"{"cniVersion":"2.0.0"}"#).version().unwrap_err().code, 1);
        assert_eq!(parse("{}").version().unwrap_err().code, 1);
        assert_eq!(parse(r#"{"cniVersion":"0.3.1"}"#).version(), Ok(CniVersion::V0_3_1));
    }

    #[test]
    fn only_annotations_that_matter_travel_on() {
        let config = parse(
            r#"{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":
               {"example.io/token":"secret","kubernetes.io/ingress-bandwidth":"10M"}}}"#,
        );
        assert_eq!(config.annotations().keys().collect::<Vec<_>>(), ["kubernetes.io/ingress-bandwidth"]);
    }

    #[test]
    fn an_error_about_stdin_does_not_show_it() {
        let error = NetConf::parse(br#"{"token":"s3cret""#).unwrap_err();
        assert_eq!(error.code, 6);
        assert!(!error.to_string().contains("s3cret"));
    }
}

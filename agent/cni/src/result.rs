//! ADD's result in the caller's dialect.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use turnpike_agent_api::AddReply;

use crate::config::NetConf;
use crate::version::CniVersion;

/// RT_SCOPE_LINK: the gateway's own route.
const SCOPE_LINK: u8 = 253;

/// Our interfaces, addresses and routes behind those of `prevResult`, if there is one.
pub(crate) fn build(
    version: CniVersion,
    config: &NetConf,
    ifname: &str,
    netns: &str,
    reply: &AddReply,
) -> Value {
    let previous = config.prev_result.as_ref();
    let list = |key: &str| -> Vec<Value> {
        previous.and_then(|result| result.get(key)).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut interfaces = list("interfaces");
    let pod_index = interfaces.len() + 1;
    interfaces.push(interface(version, &reply.host_link, &reply.host_mac, reply.mtu, None));
    interfaces.push(interface(version, ifname, &reply.pod_mac, reply.mtu, Some(netns)));

    let mut ips: Vec<Value> = list("ips");
    ips.extend(reply.addresses.iter().map(
        |address| json!({"address": format!("{address}/{}", full_length(*address)), "interface": pod_index}),
    ));
    for ip in &mut ips {
        in_dialect(version, ip);
    }

    let mut routes = list("routes");
    for gateway in &reply.gateways {
        routes.extend(gateway_routes(version, *gateway));
    }
    let asked = config.runtime_dns();
    let own = asked.as_ref().or(config.dns.as_ref());
    let dns = previous.and_then(|result| result.get("dns")).filter(|dns| **dns != json!({})).or(own);
    json!({
        "cniVersion": version.as_str(),
        "interfaces": interfaces,
        "ips": ips,
        "routes": routes,
        "dns": dns.cloned().unwrap_or_else(|| json!({})),
    })
}

fn interface(version: CniVersion, name: &str, mac: &str, mtu: u32, sandbox: Option<&str>) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), json!(name));
    fields.insert("mac".to_owned(), json!(mac));
    if version >= CniVersion::V1_1_0 {
        fields.insert("mtu".to_owned(), json!(mtu));
    }
    if let Some(sandbox) = sandbox {
        fields.insert("sandbox".to_owned(), json!(sandbox));
    }
    Value::Object(fields)
}

/// Until 0.4.0 an address says its version; from 1.0.0 on it does not.
fn in_dialect(version: CniVersion, ip: &mut Value) {
    let is_ipv6 = ip.get("address").and_then(Value::as_str).is_some_and(|text| text.contains(':'));
    if let Some(fields) = ip.as_object_mut() {
        if version < CniVersion::V1_0_0 {
            fields.insert("version".to_owned(), json!(if is_ipv6 { "6" } else { "4" }));
        } else {
            fields.remove("version");
        }
    }
}

/// The gateway is on the link, and everything else behind it.
fn gateway_routes(version: CniVersion, gateway: IpAddr) -> [Value; 2] {
    let everything = if gateway.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
    let mut on_link = json!({"dst": format!("{gateway}/{}", full_length(gateway))});
    if let (true, Some(fields)) = (version >= CniVersion::V1_1_0, on_link.as_object_mut()) {
        fields.insert("scope".to_owned(), json!(SCOPE_LINK));
    }
    [on_link, json!({"dst": everything, "gw": gateway})]
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

/// Addresses that prevResult gives to `ifname` inside the sandbox; all of them where it does not say whose they are.
pub(crate) fn addresses_of(previous: &Value, ifname: &str) -> Vec<IpAddr> {
    let interfaces = previous.get("interfaces").and_then(Value::as_array);
    let own = |index: usize| {
        interfaces.and_then(|all| all.get(index)).is_some_and(|interface| {
            interface.get("name").and_then(Value::as_str) == Some(ifname)
                && interface.get("sandbox").and_then(Value::as_str).is_some_and(|sandbox| !sandbox.is_empty())
        })
    };
    let ips = previous.get("ips").and_then(Value::as_array).into_iter().flatten();
    ips.filter(|ip| {
        let index = ip.get("interface").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
        index.is_none_or(own)
    })
    .filter_map(|ip| ip.get("address")?.as_str()?.split('/').next()?.parse().ok())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> AddReply {
        AddReply {
            host_link: "tpk0123456789".to_owned(),
            host_mac: "ee:ee:ee:ee:ee:ee".to_owned(),
            pod_mac: "02:00:00:00:00:01".to_owned(),
            mtu: 1500,
            addresses: vec!["10.244.1.2".parse().unwrap(), "fd00:244::2".parse().unwrap()],
            gateways: vec!["169.254.1.1".parse().unwrap(), "fe80::ecee:eeff:feee:eeee".parse().unwrap()],
        }
    }

    fn result(version: &str, extra: &str) -> Value {
        let config = format!(r#"{{"cniVersion":"{version}","name":"n"{extra}}}"#);
        let config = NetConf::parse(config.as_bytes()).unwrap();
        build(config.version().unwrap(), &config, "eth0", "/run/netns/x", &reply())
    }

    #[test]
    fn the_latest_dialect_tells_mtu_and_scope_and_no_address_version() {
        let result = result("1.1.0", "");
        assert_eq!(
            result,
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    {"name": "tpk0123456789", "mac": "ee:ee:ee:ee:ee:ee", "mtu": 1500},
                    {"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "sandbox": "/run/netns/x"}
                ],
                "ips": [
                    {"address": "10.244.1.2/32", "interface": 1},
                    {"address": "fd00:244::2/128", "interface": 1}
                ],
                "routes": [
                    {"dst": "169.254.1.1/32", "scope": 253},
                    {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
                    {"dst": "fe80::ecee:eeff:feee:eeee/128", "scope": 253},
                    {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"}
                ],
                "dns": {}
            })
        );
    }

    #[test]
    fn old_dialects_tell_the_address_version_and_nothing_newer() {
        for version in ["0.3.0", "0.3.1", "0.4.0"] {
            let result = result(version, "");
            assert_eq!(result["ips"][0]["version"], "4");
            assert_eq!(result["ips"][1]["version"], "6");
            assert_eq!(result["cniVersion"], version);
            assert!(
                result["interfaces"][0].get("mtu").is_none() && result["routes"][0].get("scope").is_none()
            );
        }
        assert!(result("1.0.0", "")["ips"][0].get("version").is_none());
    }

    #[test]
    fn an_earlier_plugins_result_stays_and_ours_is_added() {
        let previous = r#","prevResult":{"interfaces":[{"name":"a"},{"name":"b","sandbox":"/x"}],
            "ips":[{"address":"192.0.2.1/24","interface":1}],"routes":[{"dst":"192.0.2.0/24"}],
            "dns":{"nameservers":["192.0.2.53"]}}"#;
        let result = result("0.4.0", previous);
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 4);
        assert_eq!(result["ips"][0], json!({"address": "192.0.2.1/24", "interface": 1, "version": "4"}));
        assert_eq!(result["ips"][1]["interface"], 3);
        assert_eq!(result["routes"][0]["dst"], "192.0.2.0/24");
        assert_eq!(result["dns"]["nameservers"][0], "192.0.2.53");
    }

    #[test]
    fn check_finds_our_addresses_in_a_chained_result() {
        let previous = result("1.0.0", "");
        let found: Vec<String> = addresses_of(&previous, "eth0").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.244.1.2", "fd00:244::2"]);
        assert!(addresses_of(&previous, "net1").is_empty());
    }
}

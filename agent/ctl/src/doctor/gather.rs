//! Reads the facts. Everything is optional: what cannot be read is left empty, and its check says so.

mod firewalld;
mod machine;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use turnpike_agent_api::Health;

use super::DoctorArgs;
use super::facts::{AgentFacts, Cni, DroppingChain, Facts, Kernel, Link, Managers, Route};
use crate::{Global, agent};

/// Longest wait for bgpd.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Folders of systemd's configuration.
const SYSTEMD: [&str; 4] = ["/etc/systemd", "/run/systemd", "/usr/lib/systemd", "/lib/systemd"];

/// Reads everything.
pub(super) fn gather(global: &Global, args: &DoctorArgs) -> Facts {
    let links = links();
    let asked = agent::status(&global.agent_socket);
    let agent_error = asked.as_ref().err().map(|error| format!("{error:#}"));
    Facts {
        sysctls: sysctls(&links),
        routes: [false, true].into_iter().flat_map(routes).collect(),
        links,
        kernel: kernel(),
        managers: managers(),
        cni: cni(args),
        dropping: dropping(),
        firewalld: firewalld::gather(),
        agent: asked.ok().map(agent_facts),
        agent_error,
        peers_down: peers_down(global),
        route_protocol: args.route_protocol,
        clock: machine::clock(),
        softnet: machine::softnet(),
        queues: machine::queues(),
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn json(program: &str, args: &[&str]) -> Value {
    let output = Command::new(program).args(args).output();
    output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or(Value::Null)
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn sysctls(links: &[Link]) -> BTreeMap<String, String> {
    let mut keys = vec!["net/ipv4/ip_forward".to_owned(), "net/ipv6/conf/all/forwarding".to_owned()];
    let names = links.iter().map(|link| link.name.as_str()).chain(["all"]);
    for name in names {
        keys.push(format!("net/ipv4/conf/{name}/rp_filter"));
        keys.push(format!("net/ipv6/conf/{name}/accept_ra"));
    }
    keys.into_iter()
        .filter_map(|key| read(Path::new("/proc/sys").join(&key)).map(|value| (key, value)))
        .collect()
}

fn links() -> Vec<Link> {
    let found = json("ip", &["-j", "addr", "show"]);
    let link = |link: &Value| Link {
        name: text(link, "ifname").to_owned(),
        mtu: link.get("mtu").and_then(Value::as_u64).and_then(|mtu| mtu.try_into().ok()).unwrap_or(0),
        up: list(link, "flags").any(|flag| flag == "UP"),
        addresses: list(link, "addr_info")
            .filter_map(|address| {
                let length = address.get("prefixlen")?.as_u64()?.try_into().ok()?;
                Some((text(address, "local").parse().ok()?, length))
            })
            .collect(),
    };
    found.as_array().into_iter().flatten().map(link).collect()
}

fn routes(is_ipv6: bool) -> Vec<Route> {
    /// RTN_UNICAST (also when not told) and RTN_BLACKHOLE; the others are not ways to anywhere.
    const KINDS: [&str; 3] = ["", "1", "6"];
    let family = if is_ipv6 { "-6" } else { "-4" };
    let found = json("ip", &["-N", "-j", family, "route", "show", "table", "all"]);
    let routes = found.as_array().into_iter().flatten();
    routes.filter(|route| KINDS.contains(&text(route, "type"))).map(|found| route(found, is_ipv6)).collect()
}

fn route(route: &Value, is_ipv6: bool) -> Route {
    let destination = match text(route, "dst") {
        "default" => None,
        other => {
            let (ip, length) = other.split_once('/').unwrap_or((other, if is_ipv6 { "128" } else { "32" }));
            ip.parse().ok().zip(length.parse().ok())
        }
    };
    let hops = list(route, "nexthops");
    let gateway = |value: &Value| text(value, "gateway").parse::<IpAddr>().ok();
    Route {
        destination,
        is_ipv6,
        gateways: hops.chain([route]).filter_map(gateway).collect(),
        device: text(route, "dev").to_owned(),
        protocol: text(route, "protocol").parse().unwrap_or(0),
        blackhole: text(route, "type") == "6",
    }
}

fn kernel() -> Kernel {
    let mounts = read("/proc/self/mounts").unwrap_or_default();
    let mounted = |place: &str, kind: &str| {
        mounts.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(place) && words.next() == Some(kind)
        })
    };
    Kernel {
        release: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        bpffs: mounted("/sys/fs/bpf", "bpf"),
        cgroup2: mounted("/sys/fs/cgroup", "cgroup2"),
    }
}

fn managers() -> Managers {
    let in_any = |file: &str| SYSTEMD.iter().any(|folder| Path::new(folder).join(file).exists());
    Managers {
        networkd: Path::new("/run/systemd/netif/state").exists(),
        networkd_snippets: in_any("networkd.conf.d/10-turnpike.conf")
            && in_any("network/10-turnpike.network"),
        network_manager: Path::new("/run/NetworkManager/NetworkManager.pid").exists()
            || Path::new("/run/NetworkManager/devices").exists(),
        network_manager_snippet: ["/etc", "/run", "/usr/lib"]
            .iter()
            .any(|folder| Path::new(folder).join("NetworkManager/conf.d/10-turnpike.conf").exists()),
    }
}

fn cni(args: &DoctorArgs) -> Cni {
    let mut names: Vec<String> = fs::read_dir(&args.cni_conf_dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| [".conf", ".conflist", ".json"].iter().any(|ending| name.ends_with(ending)))
        .collect();
    names.sort();
    let mut maps_ports = false;
    let files = names
        .into_iter()
        .map(|name| {
            let content = read(args.cni_conf_dir.join(&name)).unwrap_or_default();
            let config: Value = serde_json::from_str(&content).unwrap_or(Value::Null);
            // A .conf is one plugin by itself.
            let plugins: Vec<&Value> = list(&config, "plugins").chain([&config]).collect();
            maps_ports |= plugins.iter().any(|plugin| {
                text(plugin, "type") == "turnpike-cni"
                    && plugin.pointer("/capabilities/portMappings") == Some(&Value::Bool(true))
            });
            let kinds = plugins.iter().map(|plugin| text(plugin, "type").to_owned());
            (name, kinds.filter(|kind| !kind.is_empty()).collect())
        })
        .collect();
    Cni {
        folder: args.cni_conf_dir.display().to_string(),
        files,
        binary: args.cni_bin_dir.join("turnpike-cni").exists(),
        maps_ports,
    }
}

fn dropping() -> Vec<DroppingChain> {
    let found = json("nft", &["-j", "list", "chains"]);
    list(&found, "nftables")
        .filter_map(|item| item.get("chain"))
        .filter(|chain| text(chain, "hook") == "forward" && text(chain, "policy") == "drop")
        // What firewalld accepts is asked of firewalld.
        .filter(|chain| text(chain, "table") != "firewalld")
        .map(|chain| {
            let (family, table, name) = (text(chain, "family"), text(chain, "table"), text(chain, "name"));
            let rules = Command::new("nft").args(["list", "chain", family, table, name]).output();
            let rules = rules.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            DroppingChain {
                name: format!("{family} {table} {name}"),
                names_ours: rules.is_ok_and(|rules| rules.contains("\"tpk")),
            }
        })
        .collect()
}

fn range(cidr: &str) -> Option<(IpAddr, u8)> {
    let (ip, length) = cidr.split_once('/')?;
    Some((ip.parse().ok()?, length.parse().ok()?))
}

fn agent_facts(report: turnpike_agent_api::StatusReport) -> AgentFacts {
    AgentFacts {
        pools: report
            .pools
            .iter()
            .filter_map(|pool| range(&pool.cidr).map(|(ip, length)| (pool.name.clone(), ip, length)))
            .collect(),
        pod_mtu: report.pods.iter().map(|pod| pod.mtu).max(),
        not_ready: match report.health {
            Health::Ready => None,
            Health::NotReady(reason) => Some(reason),
        },
        missing_features: report
            .problems
            .iter()
            .filter(|problem| problem.subject == "ebpf")
            .map(|problem| problem.message.clone())
            .collect(),
        source_errors: report.source.errors,
    }
}

fn peers_down(global: &Global) -> Vec<(String, IpAddr, String)> {
    let peers = turnpike_bgpd_api::Client::connect(&global.bgpd_socket, TIMEOUT)
        .and_then(|mut client| client.peers(None))
        .unwrap_or_default();
    let down = peers.into_iter().filter(|peer| !peer.state.eq_ignore_ascii_case("established"));
    down.map(|peer| (peer.name, peer.address, peer.last_error.unwrap_or(peer.state))).collect()
}

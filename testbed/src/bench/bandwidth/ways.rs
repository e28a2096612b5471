//! The nodes whose limits are compared: one with Turnpike, the others with routes and a limiter set by hand.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::super::pod;
use crate::{Lab, Node, TurnpikeConfig, TurnpikeNode, poll_result};

/// The other end of every transfer.
pub(super) const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 255, 1));
/// "No limit" in the runtime's eyes: the burst that kubelet's and containerd's users get, in bits.
const RUNTIME_BURST: u64 = 2_147_483_647;
const DEADLINE: Duration = Duration::from_secs(30);
/// The ifb of limiters that have none of their own.
const IFB: &str = "ifbpod";

/// How traffic is limited.
#[derive(Debug)]
enum Limiter {
    Ours(TurnpikeNode),
    /// The plugin's, with this burst in bits; without one 10 ms of the rate, at least ten frames.
    Plugin {
        burst: Option<u64>,
    },
    Tbf,
    Htb,
    Policer,
}

/// A node with a pod behind it.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) name: &'static str,
    /// The wire's link to it.
    pub(super) link: String,
    pub(super) node: Node,
    pub(super) pod: IpAddr,
    limiter: Limiter,
    /// In Mbit/s.
    limit: Option<u64>,
}

/// All of them; ours is the first.
pub(super) fn build(lab: &Lab, outside: &Node, wire: &Node) -> Result<Vec<Way>> {
    lab.link(wire, "outside", outside, "eth0")?;
    outside.addr("eth0", "10.1.255.1/24")?;
    wire.addr("outside", "10.1.255.254/24")?;
    wire.forward()?;
    outside.route("default via 10.1.255.254")?;
    quiet(outside, &[])?;
    let mut ways = vec![ours(lab, wire)?];
    for (number, (name, limiter)) in (1..).zip([
        ("CNI plugin", Limiter::Plugin { burst: Some(RUNTIME_BURST) }),
        ("CNI, 10 ms burst", Limiter::Plugin { burst: None }),
        ("tbf 64K/25 ms", Limiter::Tbf),
        ("htb", Limiter::Htb),
        ("policer 1 s", Limiter::Policer),
    ]) {
        let node = attach_node(lab, wire, number)?;
        let (gateway, pod) = (format!("10.245.{number}.1"), format!("10.245.{number}.2"));
        pod::make(&node, &gateway, &pod)?;
        ways.push(finish(wire, node, name, limiter, number, pod.parse()?)?);
    }
    Ok(ways)
}

fn ours(lab: &Lab, wire: &Node) -> Result<Way> {
    let node = attach_node(lab, wire, 0)?;
    let config = TurnpikeConfig::default().with_blocks(
        "way0",
        ("10.244.0.0/16", "10.244.0.0/26"),
        ("fd00:244::/48", "fd00:244::/122"),
    );
    let turnpike = TurnpikeNode::start(&node, &config)?;
    let pod = pod::attach(&node)?;
    finish(wire, node, "ours", Limiter::Ours(turnpike), 0, pod)
}

fn attach_node(lab: &Lab, wire: &Node, number: u8) -> Result<Node> {
    let name = format!("way{number}");
    let node = lab.node(&name)?;
    lab.link(&node, "eth0", wire, &name)?;
    node.addr("eth0", &format!("10.1.{number}.11/24"))?;
    wire.addr(&name, &format!("10.1.{number}.1/24"))?;
    node.route(&format!("default via 10.1.{number}.1"))?;
    node.forward()?;
    node.run(&["ip", "netns", "add", "pod"])?;
    Ok(node)
}

fn finish(
    wire: &Node,
    node: Node,
    name: &'static str,
    limiter: Limiter,
    number: u8,
    pod: IpAddr,
) -> Result<Way> {
    wire.route(&format!("{pod}/32 via 10.1.{number}.11"))?;
    quiet(&node, &["ip", "netns", "exec", "pod"])?;
    Ok(Way { name, link: format!("way{number}"), node, pod, limiter, limit: None })
}

/// A transfer shall not know what the one before it found out.
fn quiet(node: &Node, prefix: &[&str]) -> Result<()> {
    node.run(&[prefix, &["sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1"]].concat()).map(drop)
}

impl Way {
    pub(super) const fn is_ours(&self) -> bool {
        matches!(self.limiter, Limiter::Ours(_))
    }

    /// Whether TCP of the pod and of the outside asks for ECN.
    pub(super) fn set_ecn(&self, outside: &Node, ecn: bool) -> Result<()> {
        let setting = format!("net.ipv4.tcp_ecn={}", u8::from(ecn));
        let argv = ["sysctl", "-qw", &setting];
        outside.run(&argv)?;
        self.node.run(&[&["ip", "netns", "exec", "pod"], argv.as_slice()].concat()).map(drop)
    }

    /// Sets a limit in Mbit/s for both directions, or none. Buckets are full then.
    pub(super) fn limit(&mut self, mbit: Option<u64>) -> Result<()> {
        let before = std::mem::replace(&mut self.limit, mbit);
        match &self.limiter {
            // Its bucket is as good as new after 10 ms.
            Limiter::Ours(_) if before == mbit => Ok(()),
            Limiter::Ours(turnpike) => limit_ours(turnpike, mbit),
            peer => {
                clear(&self.node)?;
                mbit.map_or(Ok(()), |mbit| limit_peer(&self.node, peer, mbit))
            }
        }
        .with_context(|| format!("limit {} to {mbit:?} Mbit/s", self.name))
    }
}

fn limit_ours(turnpike: &TurnpikeNode, mbit: Option<u64>) -> Result<()> {
    let limits = mbit.map_or_else(String::new, |mbit| format!("ingress: {mbit}M, egress: {mbit}M"));
    let yaml = format!(
        "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: {{ name: bench }}\n\
         spec: {{ limits: {{ {limits} }} }}\n"
    );
    turnpike.set_resource("bandwidth.yaml", &yaml)?;
    poll_result(DEADLINE, "the limit to be in force", || {
        let all = turnpike.node().json(&["tc", "-j", "qdisc", "show"])?;
        let rates: Vec<u64> = all
            .as_array()
            .into_iter()
            .flatten()
            .filter(|qdisc| qdisc["kind"] == "tbf")
            .filter_map(|qdisc| qdisc.pointer("/options/rate")?.as_u64())
            .collect();
        let wanted = mbit.map_or_else(Vec::new, |mbit| vec![mbit * 125_000; 2]);
        ensure!(rates == wanted, "the rates are {rates:?} bytes a second, not {wanted:?}");
        Ok(())
    })
}

/// Takes every limiter away that [`limit_peer`] may have set.
fn clear(node: &Node) -> Result<()> {
    let script = format!(
        "tc qdisc del dev vpod root; tc qdisc del dev vpod ingress; ip link del {IFB}\n\
         for link in $(ip -o link show type ifb | cut -d: -f2); do ip link del $link; done\n\
         nft delete table inet police; true"
    );
    node.run(&["sh", "-c", &script]).map(drop)
}

fn limit_peer(node: &Node, limiter: &Limiter, mbit: u64) -> Result<()> {
    // 64 ns ticks and timers that come late: at rates above this, 64 KiB would hold them back.
    let tbf_burst = (mbit * 1_000_000 / 8 / 250).max(65_536);
    let queue = match limiter {
        Limiter::Ours(_) => return Ok(()),
        Limiter::Plugin { burst } => return plugin(node, mbit, *burst),
        Limiter::Policer => {
            let bytes = mbit * 125_000;
            let limit = format!("limit rate over {bytes} bytes/second burst {bytes} bytes drop");
            let rules = format!(
                "table inet police {{\n  chain forward {{\n    type filter hook forward priority 0;\n\
                 \x20   oifname \"vpod\" {limit}\n    iifname \"vpod\" {limit}\n  }}\n}}\n"
            );
            node.write_file("/tmp/police.nft", rules)?;
            return node.run(&["nft", "-f", "/tmp/police.nft"]).map(drop);
        }
        Limiter::Tbf => {
            format!("tc qdisc add dev LINK root tbf rate {mbit}mbit burst {tbf_burst} latency 25ms")
        }
        Limiter::Htb => format!(
            "tc qdisc add dev LINK root handle 1: htb default 1\n\
             tc class add dev LINK parent 1: classid 1:1 htb rate {mbit}mbit ceil {mbit}mbit"
        ),
    };
    let script = format!(
        "ip link add {IFB} type ifb\nip link set {IFB} up\n{}\n{}\n\
         tc qdisc add dev vpod ingress\n\
         tc filter add dev vpod parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev {IFB}",
        queue.replace("LINK", "vpod"),
        queue.replace("LINK", IFB),
    );
    node.run(&["sh", "-ec", &script]).map(drop)
}

/// Calls Debian's plugin as a runtime does.
fn plugin(node: &Node, mbit: u64, burst: Option<u64>) -> Result<()> {
    let rate = mbit * 1_000_000;
    let burst = burst.unwrap_or_else(|| (rate / 100).max(10 * 1514 * 8));
    let configuration: Value = json!({
        "cniVersion": "1.0.0", "name": "bench", "type": "bandwidth",
        "runtimeConfig": { "bandwidth": {
            "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst } },
        "prevResult": { "cniVersion": "1.0.0", "ips": [], "interfaces": [
            { "name": "vpod" }, { "name": "eth0", "sandbox": "/run/netns/pod" }] },
    });
    node.write_file("/tmp/plugin.json", configuration.to_string())?;
    let script = "CNI_COMMAND=ADD CNI_CONTAINERID=pod CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 \
                  CNI_PATH=/usr/lib/cni exec /usr/lib/cni/bandwidth </tmp/plugin.json";
    node.run(&["sh", "-c", script]).map(drop)
}

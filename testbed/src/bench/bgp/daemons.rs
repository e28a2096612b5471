//! The daemons of the comparison, each with the configuration that an engineer would give it for the case: sessions
//! that wait for the peer, everything accepted, timers that send at once where a default would hold back.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use turnpike_bgpd_api::config::{Config, PolicyChoice, RemoteAs};
use turnpike_bgpd_api::{Asn, Family, Peer, RouterId};

use super::talker::HOLD_TIME;
use crate::{Node, Process, binary};

/// The daemon's AS: one that is in no path of the real table.
pub(super) const ASN: u32 = 4_200_300_000;

/// A peer of the daemon.
pub(super) struct Neighbour {
    pub(super) address: Ipv4Addr,
    pub(super) asn: u32,
}

/// What the daemon is told.
pub(super) struct Task {
    pub(super) address: Ipv4Addr,
    pub(super) neighbours: Vec<Neighbour>,
    /// Peers are clients of a reflector.
    pub(super) reflect: bool,
    /// Best paths go into the kernel.
    pub(super) kernel: bool,
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    Turnpike,
    Bird,
    Frr,
    OpenBgpd,
    GoBgp,
}

impl Contender {
    pub(super) const ALL: [Contender; 5] =
        [Contender::Turnpike, Contender::Bird, Contender::Frr, Contender::OpenBgpd, Contender::GoBgp];

    /// Starts it; processes in the order in which they shall end.
    pub(super) fn start(self, node: &Node, task: &Task) -> Result<Vec<Process>> {
        match self {
            Contender::Turnpike => turnpike(node, task),
            Contender::Bird => bird(node, task),
            Contender::Frr => frr(node, task),
            Contender::OpenBgpd => openbgpd(node, task),
            Contender::GoBgp => gobgp(node, task),
        }
    }

    /// Can it do the case at all here? OpenBGPD and GoBGP write no kernel routes on Linux by themselves.
    pub(super) const fn can(self, kernel: bool) -> bool {
        !kernel || matches!(self, Contender::Turnpike | Contender::Bird | Contender::Frr)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Contender::Turnpike => "turnpike-bgpd",
            Contender::Bird => "BIRD 2",
            Contender::Frr => "FRR",
            Contender::OpenBgpd => "OpenBGPD",
            Contender::GoBgp => "GoBGP",
        })
    }
}

fn turnpike(node: &Node, task: &Task) -> Result<Vec<Process>> {
    let peer = |from: &Neighbour| {
        let mut peer = Peer::new(from.address.into(), RemoteAs::Number(Asn(from.asn)));
        peer.passive = true;
        peer.hold_time = HOLD_TIME;
        peer.rr_client = task.reflect;
        peer.families = vec![Family::Ipv4];
        (peer.import, peer.export) = (PolicyChoice::AcceptAll, PolicyChoice::AcceptAll);
        peer
    };
    let mut config = Config {
        asn: Some(Asn(ASN)),
        router_id: Some(RouterId(task.address)),
        peers: task.neighbours.iter().map(peer).collect(),
        ..Config::default()
    };
    config.kernel.enabled = task.kernel;
    let file = "/etc/turnpike/bgpd.toml";
    node.write_file(file, toml::to_string(&config).context("write the configuration as TOML")?)?;
    let mut command = node.command(binary("turnpike-bgpd")?)?;
    command.args(["--config", file]).env("RUST_LOG", "warn");
    Ok(vec![node.spawn("turnpike-bgpd", command)?])
}

fn bird(node: &Node, task: &Task) -> Result<Vec<Process>> {
    let mut text = format!(
        "log stderr {{ warning, error, fatal, bug }};\nrouter id {};\nprotocol device {{}}\nprotocol direct {{ ipv4; }}\n",
        task.address
    );
    if task.kernel {
        text.push_str("protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }\n");
    }
    for (number, neighbour) in task.neighbours.iter().enumerate() {
        let client = if task.reflect { "rr client; " } else { "" };
        let _ = writeln!(
            text,
            "protocol bgp peer{number} {{ local {} as {ASN}; neighbor {} as {}; passive on; hold time {HOLD_TIME}; \
             {client}ipv4 {{ import all; export all; }}; }}",
            task.address, neighbour.address, neighbour.asn
        );
    }
    node.write_file("/run/bird/bird.conf", text)?;
    let mut command = node.command("bird")?;
    command.args(["-f", "-c", "/run/bird/bird.conf", "-s", "/run/bird/bird.ctl"]);
    Ok(vec![node.spawn("bird", command)?])
}

fn frr(node: &Node, task: &Task) -> Result<Vec<Process>> {
    let mut text = format!(
        "router bgp {ASN}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n",
        task.address
    );
    for Neighbour { address, asn } in &task.neighbours {
        let _ = writeln!(
            text,
            " neighbor {address} remote-as {asn}\n neighbor {address} passive\n \
             neighbor {address} timers {} {HOLD_TIME}\n neighbor {address} advertisement-interval 0",
            HOLD_TIME / 3
        );
    }
    text.push_str(" address-family ipv4 unicast\n");
    for Neighbour { address, .. } in &task.neighbours {
        let _ = writeln!(text, "  neighbor {address} activate");
        if task.reflect {
            let _ = writeln!(text, "  neighbor {address} route-reflector-client");
        }
    }
    node.write_file("/run/frr/zebra.conf", "")?;
    node.write_file("/run/frr/bgpd.conf", text)?;
    node.run(&["chown", "-R", "frr:frr", "/run/frr"])?;
    let mut zebra = node.command("/usr/lib/frr/zebra")?;
    zebra.args(["-f", "/run/frr/zebra.conf", "--log", "stdout"]);
    let zebra = node.spawn("zebra", zebra)?;
    let mut bgpd = node.command("/usr/lib/frr/bgpd")?;
    bgpd.args(["-f", "/run/frr/bgpd.conf", "--log", "stdout"]);
    if !task.kernel {
        bgpd.arg("--no_kernel");
    }
    Ok(vec![node.spawn("bgpd", bgpd)?, zebra])
}

fn openbgpd(node: &Node, task: &Task) -> Result<Vec<Process>> {
    let mut text = format!(
        "AS {ASN}\nrouter-id {0}\nlisten on {0}\nfib-update no\nholdtime {HOLD_TIME}\n",
        task.address
    );
    for Neighbour { address, asn } in &task.neighbours {
        let client = if task.reflect { "\n  route-reflector" } else { "" };
        let _ = writeln!(
            text,
            "neighbor {address} {{\n  remote-as {asn}\n  passive\n  announce IPv4 unicast{client}\n}}"
        );
    }
    text.push_str("allow from any\nallow to any\n");
    let file = "/run/openbgpd/bgpd.conf";
    node.write_file(file, text)?;
    node.run(&["chmod", "600", file])?;
    let mut command = node.command("/usr/sbin/bgpd")?;
    command.args(["-d", "-f", file]);
    Ok(vec![node.spawn("openbgpd", command)?])
}

fn gobgp(node: &Node, task: &Task) -> Result<Vec<Process>> {
    let mut text = format!("[global.config]\nas = {ASN}\nrouter-id = \"{}\"\n", task.address);
    for Neighbour { address, asn } in &task.neighbours {
        let _ = writeln!(
            text,
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}\n\
             [neighbors.transport.config]\npassive-mode = true\n\
             [neighbors.timers.config]\nhold-time = {HOLD_TIME}.0\nkeepalive-interval = {}.0\n\
             [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"",
            HOLD_TIME / 3
        );
        if task.reflect {
            let _ = writeln!(
                text,
                "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
                 route-reflector-cluster-id = \"{}\"",
                task.address
            );
        }
    }
    let file = "/run/gobgpd.toml";
    node.write_file(file, text)?;
    let mut command = node.command("gobgpd")?;
    command.args(["-f", file, "-l", "warn", "--api-hosts", "127.0.0.1:50051"]);
    Ok(vec![node.spawn("gobgpd", command)?])
}

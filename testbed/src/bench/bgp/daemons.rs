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
    /// Seconds; a third of it between KEEPALIVEs.
    pub(super) hold_time: u16,
    /// It is told what the daemon knows.
    pub(super) told: bool,
}

/// What the daemon is told.
pub(super) struct Task {
    pub(super) address: Ipv4Addr,
    pub(super) neighbours: Vec<Neighbour>,
    /// Peers are clients of a reflector.
    pub(super) reflect: bool,
    /// Best paths go into the kernel.
    pub(super) kernel: bool,
    /// Restarts keep what the kernel has (RFC 4724).
    pub(super) graceful: bool,
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

    /// SIGKILL, and a start as whoever keeps it running would have it.
    pub(super) fn restart(self, node: &Node, task: &Task, processes: &mut Vec<Process>) -> Result<()> {
        match self {
            // zebra goes on.
            Contender::Frr => {
                if !processes.is_empty() {
                    drop(processes.remove(0));
                }
                processes.insert(0, frr_bgpd(node, task)?);
            }
            Contender::Bird => {
                processes.clear();
                processes.push(bird_process(node, true)?);
            }
            _ => {
                processes.clear();
                processes.extend(self.start(node, task)?);
            }
        }
        Ok(())
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
        peer.hold_time = from.hold_time;
        peer.rr_client = task.reflect;
        peer.families = vec![Family::Ipv4];
        let export = if from.told { PolicyChoice::AcceptAll } else { PolicyChoice::RejectAll };
        (peer.import, peer.export) = (PolicyChoice::AcceptAll, export);
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
        let graceful = if task.graceful { "graceful restart on; " } else { "" };
        let export = if neighbour.told { "all" } else { "none" };
        let _ = writeln!(
            text,
            "protocol bgp peer{number} {{ local {} as {ASN}; neighbor {} as {}; passive on; hold time {}; \
             {client}{graceful}ipv4 {{ import all; export {export}; }}; }}",
            task.address, neighbour.address, neighbour.asn, neighbour.hold_time
        );
    }
    node.write_file("/run/bird/bird.conf", text)?;
    Ok(vec![bird_process(node, false)?])
}

fn bird_process(node: &Node, recover: bool) -> Result<Process> {
    let mut command = node.command("bird")?;
    command.args(["-f", "-c", "/run/bird/bird.conf", "-s", "/run/bird/bird.ctl"]);
    if recover {
        command.arg("-R");
    }
    node.spawn("bird", command)
}

fn frr(node: &Node, task: &Task) -> Result<Vec<Process>> {
    let mut text = format!(
        "router bgp {ASN}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n",
        task.address
    );
    if task.graceful {
        text.push_str(" bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n");
    }
    for Neighbour { address, asn, hold_time, .. } in &task.neighbours {
        let _ = writeln!(
            text,
            " neighbor {address} remote-as {asn}\n neighbor {address} passive\n \
             neighbor {address} timers {} {hold_time}\n neighbor {address} advertisement-interval 0",
            hold_time / 3
        );
    }
    text.push_str(" address-family ipv4 unicast\n");
    for Neighbour { address, told, .. } in &task.neighbours {
        let _ = writeln!(text, "  neighbor {address} activate");
        if !told {
            let _ = writeln!(text, "  neighbor {address} route-map NOTHING out");
        }
        if task.reflect {
            let _ = writeln!(text, "  neighbor {address} route-reflector-client");
        }
    }
    text.push_str(" exit-address-family\nexit\nroute-map NOTHING deny 10\nexit\n");
    node.write_file("/run/frr/zebra.conf", "")?;
    node.write_file("/run/frr/bgpd.conf", text)?;
    node.run(&["chown", "-R", "frr:frr", "/run/frr"])?;
    let mut zebra = node.command("/usr/lib/frr/zebra")?;
    zebra.args(["-f", "/run/frr/zebra.conf", "--log", "stdout"]);
    let zebra = node.spawn("zebra", zebra)?;
    Ok(vec![frr_bgpd(node, task)?, zebra])
}

fn frr_bgpd(node: &Node, task: &Task) -> Result<Process> {
    let mut bgpd = node.command("/usr/lib/frr/bgpd")?;
    bgpd.args(["-f", "/run/frr/bgpd.conf", "--log", "stdout"]);
    if !task.kernel {
        bgpd.arg("--no_kernel");
    }
    node.spawn("bgpd", bgpd)
}

fn openbgpd(node: &Node, task: &Task) -> Result<Vec<Process>> {
    let mut text = format!(
        "AS {ASN}\nrouter-id {0}\nlisten on {0}\nfib-update no\nholdtime {HOLD_TIME}\nholdtime min 3\n",
        task.address
    );
    let mut rules = "allow from any\nallow to any\n".to_owned();
    for Neighbour { address, asn, hold_time, told } in &task.neighbours {
        let client = if task.reflect { "\n  route-reflector" } else { "" };
        let _ = writeln!(
            text,
            "neighbor {address} {{\n  remote-as {asn}\n  passive\n  holdtime {hold_time}\n  announce IPv4 unicast{client}\n}}"
        );
        if !told {
            let _ = writeln!(rules, "deny to {address}");
        }
    }
    text.push_str(&rules);
    let file = "/run/openbgpd/bgpd.conf";
    node.write_file(file, text)?;
    node.run(&["chmod", "600", file])?;
    let mut command = node.command("/usr/sbin/bgpd")?;
    command.args(["-d", "-f", file]);
    Ok(vec![node.spawn("openbgpd", command)?])
}

fn gobgp(node: &Node, task: &Task) -> Result<Vec<Process>> {
    let mut text = format!("[global.config]\nas = {ASN}\nrouter-id = \"{}\"\n", task.address);
    for Neighbour { address, asn, hold_time, .. } in &task.neighbours {
        let _ = writeln!(
            text,
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}\n\
             [neighbors.transport.config]\npassive-mode = true\n\
             [neighbors.timers.config]\nhold-time = {hold_time}.0\nkeepalive-interval = {}.0\n\
             [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"",
            hold_time / 3
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

//! FRR: zebra and bgpd, asked through `vtysh`.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow, ensure};
use turnpike_testbed::{Node, Process, poll_result};

use super::{Peer, Word};
use crate::terms::{DEADLINE, Terms, is_v4};

pub(super) struct Frr {
    node: Node,
    terms: Terms,
    bgpd: Option<Process>,
    /// After bgpd, so that they end after it.
    _others: Vec<Process>,
}

impl Frr {
    pub(super) fn start(node: &Node, terms: &Terms) -> Result<Self> {
        let mut others = vec![launch(node, "zebra", "", &["--retain"])?];
        if terms.bfd {
            others.push(launch(node, "bfdd", "", &[])?);
        }
        let bgpd = Some(launch(node, "bgpd", &text(terms), &["--no_kernel"])?);
        let shows =
            ["show bgp neighbors", "show bgp ipv4 unicast", "show bgp ipv6 unicast", "show running-config"];
        let argv: Vec<&str> =
            ["vtysh"].into_iter().chain(shows.iter().flat_map(|show| ["-c", *show])).collect();
        node.on_failure("frr.txt", &argv);
        Ok(Self { node: node.clone(), terms: terms.clone(), bgpd, _others: others })
    }

    fn vtysh(&self, lines: &[&str]) -> Result<String> {
        let words = lines.iter().flat_map(|line| ["-c", *line]);
        self.node.text(&["vtysh"].into_iter().chain(words).collect::<Vec<_>>())
    }

    fn configure(&self, lines: &[&str]) -> Result<()> {
        let asn = format!("router bgp {}", self.terms.their_as);
        let said = self.vtysh(&[&["configure terminal", &asn], lines].concat())?;
        ensure!(!said.contains('%'), "FRR refuses: {said}");
        Ok(())
    }
}

/// Starts a daemon and waits until it answers, with every line of its file taken.
fn launch(node: &Node, daemon: &str, config: &str, args: &[&str]) -> Result<Process> {
    let file = format!("/run/frr/{daemon}.conf");
    node.write_file(&file, config)?;
    node.run(&["chown", "-R", "frr:frr", "/run/frr"])?;
    let mut command = node.command(format!("/usr/lib/frr/{daemon}"))?;
    command.args(["-f", &file, "--log", "stdout"]).args(args);
    let process = node.spawn(daemon, command)?;
    poll_result(DEADLINE, daemon, || match process.try_wait()? {
        Some(status) => Ok(Err(anyhow!("{daemon} ended, {status}:\n{}", process.log()))),
        None => node.run(&["vtysh", "-d", daemon, "-c", "show version"]).map(|_| Ok(())),
    })??;
    let log = process.log();
    let refused: Vec<&str> = log.lines().filter(|line| line.contains("on config line")).collect();
    ensure!(refused.is_empty(), "{daemon} refuses {}", refused.join(", "));
    Ok(process)
}

impl Peer for Frr {
    fn neighbor(&self) -> Result<String> {
        let mut said = self.vtysh(&[&format!("show bgp neighbors {}", self.terms.ours())])?;
        let log = self.bgpd.as_ref().map(Process::log).unwrap_or_default();
        let about_us =
            log.lines().filter(|line| line.contains("NOTIFICATION") || line.contains("rcvd End-of-RIB"));
        about_us.for_each(|line| _ = writeln!(said, "{line}"));
        Ok(said)
    }

    fn spells(&self, word: Word) -> Option<&'static str> {
        Some(match word {
            Word::Established => "BGP state = Established",
            Word::ExtendedNextHop => "Extended nexthop: advertised and received",
            Word::AddPath => "RX advertised and received",
            Word::FourOctetAs => "4 Byte AS: advertised and received",
            Word::GracefulRestart => "Graceful Restart Capability: advertised and received",
            Word::LongLived => "Long-lived Graceful Restart: advertised and received",
            Word::RouteRefresh => "Route refresh: advertised and received",
            Word::ExtendedMessage => "Extended Message: advertised and received",
            Word::BfdUp => "Status: Up",
            Word::MaxPrefix => {
                "received from neighbor 10.1.3.1 6/1 (Cease/Maximum Number of Prefixes Reached)"
            }
            Word::Shutdown => "Cease/Administrative Shutdown",
            Word::HoldReceived => "received from neighbor 10.1.3.1 4/0 (Hold Timer Expired)",
            Word::HoldSent => "sent to neighbor 10.1.3.1 4/0 (Hold Timer Expired)",
        })
    }

    fn route(&self, prefix: &str) -> Result<String> {
        let family = if is_v4(prefix) { "ipv4" } else { "ipv6" };
        let said = self.vtysh(&[&format!("show bgp {family} unicast {prefix}")])?;
        Ok(if said.contains("Network not in table") { String::new() } else { said })
    }

    fn withdraw(&mut self, prefix: &str) -> Result<()> {
        let family = if is_v4(prefix) { "ipv4" } else { "ipv6" };
        self.terms.prefixes.retain(|other| *other != prefix);
        self.configure(&[
            &format!("address-family {family} unicast"),
            &format!("no network {prefix} route-map OWN"),
        ])
    }

    fn ask_again(&mut self) -> Result<()> {
        let family = if self.terms.ipv4 { "ipv4" } else { "ipv6" };
        self.vtysh(&[&format!("clear bgp {family} unicast {} soft in", self.terms.ours())]).map(drop)
    }

    fn shut_down(&mut self, message: &str) -> Result<()> {
        self.configure(&[&format!("neighbor {} shutdown message {message}", self.terms.ours())])
    }

    fn process(&self) -> Result<&Process> {
        self.bgpd.as_ref().context("bgpd does not run")
    }

    fn kill(&mut self) -> Result<()> {
        self.bgpd.take().context("bgpd does not run").map(drop)
    }

    fn start_again(&mut self) -> Result<()> {
        self.bgpd = Some(launch(&self.node, "bgpd", &text(&self.terms), &["--no_kernel"])?);
        Ok(())
    }
}

fn text(terms: &Terms) -> String {
    let large = terms.their_large().map(|number| number.to_string()).join(":");
    let mut out = format!(
        "log stdout debugging\ndebug bgp neighbor-events\n\
         route-map OWN permit 10\n set large-community {large}\nexit\n\
         router bgp {}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         no bgp default ipv4-unicast\n coalesce-time 0\n bgp log-neighbor-changes\n",
        terms.their_as, terms.their_id
    );
    if terms.restarting {
        let time = if terms.long_lived { 1 } else { 60 };
        let _ = writeln!(
            out,
            " bgp graceful-restart restart-time {time}\n bgp graceful-restart preserve-fw-state"
        );
    }
    if terms.long_lived {
        out.push_str(" bgp long-lived-graceful-restart stale-time 60\n");
    }
    out.push_str(&neighbor(terms, terms.ours()));
    if terms.they_reflect {
        out.push_str(&neighbor(terms, terms.third()));
    }
    for prefix in &terms.prefixes {
        let family = if is_v4(prefix) { "ipv4" } else { "ipv6" };
        let _ = writeln!(
            out,
            " address-family {family} unicast\n  network {prefix} route-map OWN\n exit-address-family"
        );
    }
    out
}

fn neighbor(terms: &Terms, address: IpAddr) -> String {
    let name = format!(" neighbor {address}");
    let mut out = format!(
        "{name} remote-as {}\n{name} timers {} {}\n{name} timers connect {}\n{name} advertisement-interval 0\n",
        terms.our_as,
        terms.hold_time / 3,
        terms.hold_time,
        terms.their_patience.unwrap_or(1)
    );
    if let Some(role) = terms.their_role {
        let _ = writeln!(out, "{name} local-role {role}");
    }
    if let Some(password) = terms.password {
        let _ = writeln!(out, "{name} password {password}");
    }
    let switches = [
        (terms.gtsm, "ttl-security hops 1"),
        (terms.restarting, "graceful-restart"),
        (terms.next_hop_v6, "capability extended-nexthop"),
        (terms.bfd, "bfd 3 100 100"),
    ];
    switches.iter().filter(|(on, _)| *on).for_each(|(_, line)| _ = writeln!(out, "{name} {line}"));
    for family in terms.families() {
        let _ = writeln!(out, " address-family {family} unicast\n {name} activate");
        if let Some(limit) = terms.their_limit {
            let _ = writeln!(out, " {name} maximum-prefix {limit}");
        }
        let switches =
            [(terms.they_reflect, "route-reflector-client"), (terms.add_path, "addpath-tx-all-paths")];
        switches.iter().filter(|(on, _)| *on).for_each(|(_, line)| _ = writeln!(out, " {name} {line}"));
        out.push_str(" exit-address-family\n");
    }
    out
}

//! OpenBGPD: bgpd with its two engines, asked through `bgpctl`.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow};
use turnpike_testbed::{Node, Process, poll_result};

use super::{Peer, Word};
use crate::terms::{DEADLINE, Terms};

const CONFIG: &str = "/run/openbgpd/bgpd.conf";

pub(super) struct OpenBgpd {
    node: Node,
    terms: Terms,
    process: Option<Process>,
}

impl OpenBgpd {
    pub(super) fn start(node: &Node, terms: &Terms) -> Result<Self> {
        let mut openbgpd = Self { node: node.clone(), terms: terms.clone(), process: None };
        openbgpd.launch()?;
        node.on_failure("openbgpd-neighbor.txt", &["bgpctl", "show", "neighbor"]);
        node.on_failure("openbgpd-rib.txt", &["bgpctl", "show", "rib", "detail"]);
        Ok(openbgpd)
    }

    fn launch(&mut self) -> Result<()> {
        self.node.write_file(CONFIG, text(&self.terms))?;
        // It refuses a file with passwords that others may read.
        self.node.run(&["chmod", "600", CONFIG])?;
        let mut command = self.node.command("/usr/sbin/bgpd")?;
        command.args(["-d", "-v", "-f", CONFIG]);
        let process = self.node.spawn("openbgpd", command)?;
        poll_result(DEADLINE, "OpenBGPD", || match process.try_wait()? {
            Some(status) => Ok(Err(anyhow!("OpenBGPD ended, {status}:\n{}", process.log()))),
            None => self.bgpctl(&["show", "neighbor", &self.terms.ours().to_string()]).map(|_| Ok(())),
        })??;
        self.process = Some(process);
        Ok(())
    }

    fn bgpctl(&self, words: &[&str]) -> Result<String> {
        self.node.text(&[&["bgpctl"], words].concat())
    }
}

impl Peer for OpenBgpd {
    /// Without what it says of itself alone.
    fn neighbor(&self) -> Result<String> {
        let said = self.bgpctl(&["show", "neighbor", &self.terms.ours().to_string()])?;
        let mut kept = String::new();
        let mut own = false;
        for line in said.lines() {
            own = match line.trim() {
                "Neighbor capabilities:" | "Negotiated capabilities:" => false,
                "Announced capabilities:" => true,
                _ => own && !line.trim().is_empty() && line.starts_with("    "),
            };
            if !own {
                let _ = writeln!(kept, "{line}");
            }
        }
        kept.push_str(&self.process.as_ref().map(Process::log).unwrap_or_default());
        Ok(kept)
    }

    fn spells(&self, word: Word) -> Option<&'static str> {
        Some(match word {
            Word::Established => "BGP state = Established",
            Word::AddPath => "Add-path",
            Word::FourOctetAs => "4-byte AS numbers",
            Word::GracefulRestart => "Graceful Restart",
            Word::RouteRefresh => "Route Refresh",
            Word::MaxPrefix => "received notification: Cease, received max-prefix exceeded",
            Word::Shutdown => "received notification: Cease, administratively down",
            Word::HoldReceived => "received notification: HoldTimer expired",
            Word::HoldSent => "sending notification: HoldTimer expired",
            Word::ExtendedNextHop | Word::ExtendedMessage | Word::LongLived | Word::BfdUp => return None,
        })
    }

    fn route(&self, prefix: &str) -> Result<String> {
        let said = self.bgpctl(&["show", "rib", "detail", prefix])?;
        Ok(if said.contains("BGP routing table entry") { said } else { String::new() })
    }

    fn otc(&self, asn: u32) -> String {
        format!("OTC: {asn}")
    }

    fn withdraw(&mut self, prefix: &str) -> Result<()> {
        self.terms.prefixes.retain(|other| *other != prefix);
        self.bgpctl(&["network", "delete", prefix]).map(drop)
    }

    fn ask_again(&mut self) -> Result<()> {
        self.bgpctl(&["neighbor", &self.terms.ours().to_string(), "refresh"]).map(drop)
    }

    fn shut_down(&mut self, message: &str) -> Result<()> {
        self.bgpctl(&["neighbor", &self.terms.ours().to_string(), "down", message]).map(drop)
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("OpenBGPD does not run")
    }

    /// The parent and its engines: what speaks with us is a child.
    fn pids(&self) -> Result<Vec<u32>> {
        let parent = self.process()?.pid();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let children = children.split_whitespace().map(|pid| Ok(pid.parse()?));
        [Ok(parent)].into_iter().chain(children).collect()
    }

    fn kill(&mut self) -> Result<()> {
        self.process.take().context("OpenBGPD does not run").map(drop)
    }

    fn start_again(&mut self) -> Result<()> {
        self.launch()
    }
}

fn text(terms: &Terms) -> String {
    let mut out = format!(
        "AS {}\nrouter-id {}\nlisten on {}\nfib-update no\nholdtime {}\nconnect-retry {}\n",
        terms.their_as,
        terms.their_id,
        terms.theirs(),
        terms.hold_time,
        terms.their_patience.unwrap_or(1)
    );
    let large = terms.their_large().map(|number| number.to_string()).join(":");
    for prefix in &terms.prefixes {
        let _ = writeln!(out, "network {prefix} set large-community {large}");
    }
    out.push_str(&neighbor(terms, terms.ours()));
    if terms.they_reflect {
        out.push_str(&neighbor(terms, terms.third()));
    }
    out.push_str("allow from any\nallow to any\n");
    out
}

fn neighbor(terms: &Terms, address: IpAddr) -> String {
    let mut out =
        format!("neighbor {address} {{\n  remote-as {}\n  local-address {}\n", terms.our_as, terms.theirs());
    for (family, on) in [("IPv4", terms.ipv4), ("IPv6", terms.ipv6)] {
        let _ = writeln!(out, "  announce {family} {}", if on { "unicast" } else { "none" });
    }
    if let Some(role) = terms.their_role {
        let _ = writeln!(out, "  announce policy {role}");
    }
    if let Some(password) = terms.password {
        let _ = writeln!(out, "  tcp md5sig password \"{password}\"");
    }
    if let Some(limit) = terms.their_limit {
        let _ = writeln!(out, "  max-prefix {limit}");
    }
    let switches = [
        (terms.gtsm, "ttl-security yes"),
        (terms.they_reflect, "route-reflector"),
        (terms.add_path, "announce add-path recv yes\n  announce add-path send all"),
    ];
    switches.iter().filter(|(on, _)| *on).for_each(|(_, line)| _ = writeln!(out, "  {line}"));
    out.push_str("}\n");
    out
}

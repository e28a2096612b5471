//! BIRD 2.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, anyhow, ensure};
use turnpike_testbed::{Node, Process, poll_result};

use super::{Peer, Word};
use crate::terms::{DEADLINE, Terms, is_v4};

const CONFIG: &str = "/run/bird/bird.conf";
const SOCKET: &str = "/run/bird/bird.ctl";

pub(super) struct Bird {
    node: Node,
    terms: Terms,
    process: Option<Process>,
}

impl Bird {
    pub(super) fn start(node: &Node, terms: &Terms) -> Result<Self> {
        let mut bird = Self { node: node.clone(), terms: terms.clone(), process: None };
        bird.launch(false)?;
        for what in ["protocols", "route"] {
            node.on_failure(&format!("bird-{what}.txt"), &["birdc", "-s", SOCKET, "show", what, "all"]);
        }
        Ok(bird)
    }

    fn launch(&mut self, recover: bool) -> Result<()> {
        self.node.write_file(CONFIG, text(&self.terms))?;
        let mut command = self.node.command("bird")?;
        command.args(["-f", "-c", CONFIG, "-s", SOCKET]);
        if recover {
            command.arg("-R");
        }
        let process = self.node.spawn("bird", command)?;
        poll_result(DEADLINE, "BIRD", || match process.try_wait()? {
            Some(status) => Ok(Err(anyhow!("BIRD ended, {status}:\n{}", process.log()))),
            None => self.birdc(&["show", "status"]).map(|_| Ok(())),
        })??;
        self.process = Some(process);
        Ok(())
    }

    fn birdc(&self, words: &[&str]) -> Result<String> {
        self.node.text(&[&["birdc", "-s", SOCKET], words].concat())
    }
}

impl Peer for Bird {
    /// Without what BIRD says of itself.
    fn neighbor(&self) -> Result<String> {
        let all = self.birdc(&["show", "protocols", "all", "ours"])?;
        let (mut own, mut kept) = (false, String::new());
        for line in all.lines() {
            own = match line.trim() {
                "Local capabilities" => true,
                "Neighbor capabilities" => false,
                _ => own && line.starts_with("      "),
            };
            if !own {
                let _ = writeln!(kept, "{line}");
            }
        }
        let log = self.process.as_ref().map(Process::log).unwrap_or_default();
        let about_us =
            log.lines().filter(|line| line.contains("ours: Received") || line.contains("ours: Error"));
        about_us.for_each(|line| _ = writeln!(kept, "{line}"));
        if self.terms.bfd {
            kept.push_str(&self.birdc(&["show", "bfd", "sessions"])?);
        }
        Ok(kept)
    }

    fn spells(&self, word: Word) -> Option<&'static str> {
        Some(match word {
            Word::Established => "Established",
            Word::ExtendedNextHop => "Extended next hop",
            Word::AddPath => "ADD-PATH",
            Word::FourOctetAs => "4-octet AS numbers",
            Word::GracefulRestart => "Graceful restart",
            Word::LongLived => "Long-lived graceful restart",
            Word::RouteRefresh => "Route refresh",
            Word::ExtendedMessage => "Extended message",
            Word::BfdUp => " Up ",
            Word::MaxPrefix => "Received: Maximum number of prefixes reached",
            Word::Shutdown => "Received: Administrative shutdown",
            Word::HoldReceived => "Received: Hold timer expired",
            Word::HoldSent => "Error: Hold timer expired",
        })
    }

    fn route(&self, prefix: &str) -> Result<String> {
        // birdc fails where there is none.
        let output = self.node.run_unchecked(&["birdc", "-s", SOCKET, "show", "route", prefix, "all"])?;
        let said = String::from_utf8(output.stdout)?;
        if said.contains("Network not found") {
            return Ok(String::new());
        }
        ensure!(output.status.success(), "{said}");
        Ok(said.lines().filter(|line| !line.starts_with("BIRD ")).collect::<Vec<_>>().join("\n"))
    }

    fn large(&self, [global, first, second]: [u32; 3]) -> String {
        format!("({global}, {first}, {second})")
    }

    fn community(&self, high: u16, low: u16) -> String {
        format!("({high},{low})")
    }

    fn otc(&self, asn: u32) -> String {
        format!("BGP.otc: {asn}")
    }

    fn withdraw(&mut self, prefix: &str) -> Result<()> {
        self.terms.prefixes.retain(|other| *other != prefix);
        self.node.write_file(CONFIG, text(&self.terms))?;
        let answer = self.birdc(&["configure"])?;
        ensure!(answer.contains("Reconfigur"), "{answer}");
        Ok(())
    }

    fn ask_again(&mut self) -> Result<()> {
        self.birdc(&["reload", "in", "ours"]).map(drop)
    }

    fn shut_down(&mut self, message: &str) -> Result<()> {
        self.birdc(&["disable", "ours", &format!("\"{message}\"")]).map(drop)
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("BIRD does not run")
    }

    fn kill(&mut self) -> Result<()> {
        // Dropping the guard kills and reaps.
        self.process.take().context("BIRD does not run").map(drop)
    }

    fn start_again(&mut self) -> Result<()> {
        self.launch(self.terms.restarting)
    }
}

fn text(terms: &Terms) -> String {
    let mut out = format!("log stderr all;\nrouter id {};\nprotocol device {{}}\n", terms.their_id);
    let [global, first, second] = terms.their_large();
    for (family, v4) in [("ipv4", true), ("ipv6", false)] {
        let _ = writeln!(out, "protocol static own_{family} {{ {family};");
        for prefix in terms.prefixes.iter().filter(|prefix| is_v4(prefix) == v4) {
            let _ = writeln!(
                out,
                "  route {prefix} blackhole {{ bgp_large_community.add(({global},{first},{second})); }};"
            );
        }
        out.push_str("}\n");
    }
    if terms.bfd {
        out.push_str("protocol bfd { interface \"eth0\" { interval 100 ms; multiplier 3; }; }\n");
    }
    out.push_str(&protocol(terms, "ours", terms.ours(), terms.our_as));
    if terms.they_reflect {
        out.push_str(&protocol(terms, "third", terms.third(), terms.our_as));
    }
    out
}

fn protocol(terms: &Terms, name: &str, address: std::net::IpAddr, asn: u32) -> String {
    let mut out = format!(
        "protocol bgp {name} {{\n  local {} as {};\n  neighbor {address} as {asn};\n  hold time {};\n\
         \x20 connect delay time 1; connect retry time {}; error wait time 1, 4; error forget time 30;\n\
         \x20 enable extended messages on;\n",
        terms.theirs(),
        terms.their_as,
        terms.hold_time,
        terms.their_patience.unwrap_or(2)
    );
    if let Some(role) = terms.their_role {
        let _ = writeln!(out, "  local role {role};");
    }
    if let Some(password) = terms.password {
        let _ = writeln!(out, "  password \"{password}\";");
    }
    let switches = [
        (terms.gtsm, "ttl security on;"),
        (terms.restarting, "graceful restart on;"),
        (terms.restarting && !terms.long_lived, "graceful restart time 60;"),
        (terms.long_lived, "graceful restart time 1; long lived stale time 60;"),
        (terms.long_lived, "long lived graceful restart on;"),
        (terms.they_reflect, "rr client;"),
        (terms.bfd, "bfd on;"),
    ];
    switches.iter().filter(|(on, _)| *on).for_each(|(_, line)| _ = writeln!(out, "  {line}"));
    for family in terms.families() {
        let _ = write!(out, "  {family} {{ import all; export all;");
        if let Some(limit) = terms.their_limit {
            let _ = write!(out, " import limit {limit} action restart;");
        }
        for (on, word) in [(terms.next_hop_v6, " extended next hop on;"), (terms.add_path, " add paths on;")]
        {
            out.push_str(if on { word } else { "" });
        }
        out.push_str(" };\n");
    }
    out.push_str("}\n");
    out
}

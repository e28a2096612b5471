//! GoBGP: gobgpd, asked and told its prefixes by gobgp.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow};
use turnpike_testbed::{Node, Process, poll_result};

use super::{Peer, Word};
use crate::terms::{DEADLINE, Terms, is_v4};

const CONFIG: &str = "/run/gobgp/gobgpd.toml";

pub(super) struct GoBgp {
    node: Node,
    terms: Terms,
    process: Option<Process>,
}

impl GoBgp {
    pub(super) fn start(node: &Node, terms: &Terms) -> Result<Self> {
        let mut gobgp = Self { node: node.clone(), terms: terms.clone(), process: None };
        gobgp.launch(false)?;
        node.on_failure("gobgp.txt", &["gobgp", "neighbor", &terms.ours().to_string()]);
        Ok(gobgp)
    }

    fn launch(&mut self, restarted: bool) -> Result<()> {
        self.node.write_file(CONFIG, text(&self.terms))?;
        let mut command = self.node.command("gobgpd")?;
        command.args(["-f", CONFIG, "-p", "--pprof-disable"]);
        if restarted {
            command.arg("-r");
        }
        let process = self.node.spawn("gobgpd", command)?;
        poll_result(DEADLINE, "gobgpd", || match process.try_wait()? {
            Some(status) => Ok(Err(anyhow!("gobgpd ended, {status}:\n{}", process.log()))),
            None => self.gobgp(&["neighbor", &self.terms.ours().to_string()]).map(|_| Ok(())),
        })??;
        self.process = Some(process);
        let large = self.large(self.terms.their_large());
        for prefix in &self.terms.prefixes {
            let family = if is_v4(prefix) { "ipv4" } else { "ipv6" };
            self.gobgp(&["-a", family, "global", "rib", "add", prefix, "large-community", &large])?;
        }
        Ok(())
    }

    fn gobgp(&self, words: &[&str]) -> Result<String> {
        self.node.text(&[&["gobgp"], words].concat())
    }
}

impl Peer for GoBgp {
    fn neighbor(&self) -> Result<String> {
        let mut said = self.gobgp(&["neighbor", &self.terms.ours().to_string()])?;
        said.push_str(&self.process.as_ref().map(Process::log).unwrap_or_default());
        Ok(said)
    }

    fn spells(&self, word: Word) -> Option<&'static str> {
        Some(match word {
            Word::Established => "BGP state = ESTABLISHED",
            Word::ExtendedNextHop => "extended-nexthop:\tadvertised and received",
            Word::AddPath => "add-path:\tadvertised and received",
            Word::FourOctetAs => "4-octet-as:\tadvertised and received",
            Word::GracefulRestart => "graceful-restart:\tadvertised and received",
            Word::LongLived => "long-lived-graceful-restart:\tadvertised and received",
            Word::RouteRefresh => "route-refresh:\tadvertised and received",
            Word::MaxPrefix => "code 6(cease) subcode 1",
            Word::Shutdown => "subcode 2(administrative shutdown)",
            Word::HoldReceived => "code 4(hold timer expired)",
            Word::HoldSent => "hold timer expired",
            Word::ExtendedMessage | Word::BfdUp => return None,
        })
    }

    fn route(&self, prefix: &str) -> Result<String> {
        let family = if is_v4(prefix) { "ipv4" } else { "ipv6" };
        let said = self.gobgp(&["-a", family, "global", "rib", prefix])?;
        Ok(if said.contains("Network not in table") { String::new() } else { said })
    }

    fn withdraw(&mut self, prefix: &str) -> Result<()> {
        let family = if is_v4(prefix) { "ipv4" } else { "ipv6" };
        self.terms.prefixes.retain(|other| *other != prefix);
        self.gobgp(&["-a", family, "global", "rib", "del", prefix]).map(drop)
    }

    fn ask_again(&mut self) -> Result<()> {
        self.gobgp(&["neighbor", &self.terms.ours().to_string(), "softresetin"]).map(drop)
    }

    fn shut_down(&mut self, message: &str) -> Result<()> {
        self.gobgp(&["neighbor", &self.terms.ours().to_string(), "shutdown", "--reason", message]).map(drop)
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("gobgpd does not run")
    }

    fn kill(&mut self) -> Result<()> {
        self.process.take().context("gobgpd does not run").map(drop)
    }

    fn start_again(&mut self) -> Result<()> {
        self.launch(self.terms.restarting)
    }
}

fn text(terms: &Terms) -> String {
    let mut out = format!("[global.config]\nas = {}\nrouter-id = \"{}\"\n", terms.their_as, terms.their_id);
    out.push_str(&neighbor(terms, terms.ours()));
    if terms.they_reflect {
        out.push_str(&neighbor(terms, terms.third()));
    }
    out
}

fn neighbor(terms: &Terms, address: IpAddr) -> String {
    let mut out = format!(
        "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {}\n",
        terms.our_as
    );
    if let Some(password) = terms.password {
        let _ = writeln!(out, "auth-password = \"{password}\"");
    }
    let _ = writeln!(
        out,
        "[neighbors.timers.config]\nconnect-retry = {}\nhold-time = {}\nkeepalive-interval = {}\n\
         idle-hold-time-after-reset = 1\n[neighbors.transport.config]\nlocal-address = \"{}\"",
        terms.their_patience.unwrap_or(1),
        terms.hold_time,
        terms.hold_time / 3,
        terms.theirs()
    );
    let id = terms.their_id;
    let tables = [
        (terms.gtsm, "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n".to_owned()),
        (
            terms.restarting,
            format!(
                "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = {}\nlong-lived-enabled = {}\n",
                if terms.long_lived { 1 } else { 60 },
                terms.long_lived
            ),
        ),
        (
            terms.they_reflect,
            format!(
                "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
                 route-reflector-cluster-id = \"{id}\"\n"
            ),
        ),
    ];
    tables.iter().filter(|(on, _)| *on).for_each(|(_, table)| out.push_str(table));
    for family in terms.families() {
        let _ = writeln!(
            out,
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}-unicast\""
        );
        let limit = terms.their_limit.unwrap_or_default();
        let tables = [
            (terms.restarting, "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n".to_owned()),
            (
                terms.long_lived,
                "[neighbors.afi-safis.long-lived-graceful-restart.config]\nenabled = true\nrestart-time = 60\n"
                    .to_owned(),
            ),
            (limit > 0, format!("[neighbors.afi-safis.prefix-limit.config]\nmax-prefixes = {limit}\n")),
            (
                terms.add_path,
                "[neighbors.afi-safis.add-paths.config]\nreceive = true\nsend-max = 8\n".to_owned(),
            ),
        ];
        tables.iter().filter(|(on, _)| *on).for_each(|(_, table)| out.push_str(table));
    }
    out
}

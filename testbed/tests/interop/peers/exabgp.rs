//! ExaBGP: it keeps no table. What it hears goes as JSON to a program of ours, which also gives it its orders.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;
use turnpike_testbed::{Node, Process, poll_result};

use super::{Peer, Word};
use crate::terms::{DEADLINE, Terms, is_v4};

const CONFIG: &str = "/run/exabgp/exabgp.conf";
const PROGRAM: &str = "/run/exabgp/program";
const HEARD: &str = "/run/exabgp/heard";
const ORDERS: &str = "/run/exabgp/orders";

pub(super) struct ExaBgp {
    node: Node,
    terms: Terms,
    process: Option<Process>,
}

impl ExaBgp {
    pub(super) fn start(node: &Node, terms: &Terms) -> Result<Self> {
        let mut exabgp = Self { node: node.clone(), terms: terms.clone(), process: None };
        exabgp.launch()?;
        node.on_failure("exabgp.txt", &["cat", HEARD]);
        Ok(exabgp)
    }

    fn launch(&mut self) -> Result<()> {
        // While its standard output is open, ExaBGP takes a program to be alive.
        let program = format!("#!/bin/sh\ntail -n +1 -f {ORDERS} &\ncat >> {HEARD}\n");
        for (file, text) in [(CONFIG, text(&self.terms)), (PROGRAM, program), (HEARD, String::new())] {
            self.node.write_file(file, text)?;
        }
        self.node.write_file(ORDERS, "")?;
        self.node.run(&["chmod", "755", PROGRAM])?;
        let mut command = self.node.command("exabgp")?;
        command.arg(CONFIG).envs([
            ("exabgp.daemon.user", "root"),
            ("exabgp.api.cli", "false"),
            ("exabgp.api.ack", "false"),
            ("exabgp.tcp.bind", &self.terms.theirs().to_string()),
        ]);
        let process = self.node.spawn("exabgp", command)?;
        poll_result(DEADLINE, "ExaBGP", || match process.try_wait()? {
            Some(status) => Ok(Err(anyhow!("ExaBGP ended, {status}:\n{}", process.log()))),
            None if process.log().contains("loaded new configuration") => Ok(Ok(())),
            None => bail!("it has not read its configuration"),
        })??;
        self.process = Some(process);
        Ok(())
    }

    fn order(&self, words: &str) -> Result<()> {
        let line = format!("echo 'neighbor {} {words}' >> {ORDERS}", self.terms.ours());
        self.node.run(&["sh", "-c", &line]).map(drop)
    }

    /// Everything heard, in order. What it says of route refresh is no JSON, and is left out.
    fn heard(&self) -> Result<Vec<Value>> {
        let text = self.node.text(&["cat", HEARD])?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

/// What an event says at a place.
fn at<'v>(event: &'v Value, path: &[&str]) -> &'v Value {
    path.iter().fold(event, |value, key| value.get(key).unwrap_or(&Value::Null))
}

impl Peer for ExaBgp {
    fn neighbor(&self) -> Result<String> {
        let heard = self.heard()?;
        let last = |kind: &str| heard.iter().rfind(|event| event["type"] == kind);
        let mut out = String::new();
        let state = last("state").map(|event| at(event, &["neighbor", "state"]).clone());
        let _ = writeln!(out, "state {}", state.unwrap_or_default().as_str().unwrap_or("unknown"));
        let open = last("open").map(|event| at(event, &["neighbor", "open"]).to_string());
        let _ = writeln!(out, "{}", open.unwrap_or_default());
        for reason in heard.iter().filter_map(|event| at(event, &["neighbor", "reason"]).as_str()) {
            let _ = writeln!(out, "{reason}");
        }
        for event in heard.iter().filter(|event| event["type"] == "notification") {
            let said = at(event, &["neighbor", "notification"]);
            let _ = writeln!(out, "received {}/{}", said["code"], said["subcode"]);
        }
        out.push_str(&self.process.as_ref().map(Process::log).unwrap_or_default());
        Ok(out)
    }

    fn spells(&self, word: Word) -> Option<&'static str> {
        Some(match word {
            Word::Established => "state up",
            Word::FourOctetAs => "\"name\":\"asn4\"",
            Word::RouteRefresh => "\"name\":\"route-refresh\"",
            Word::ExtendedMessage => "\"name\":\"extended-message\"",
            Word::MaxPrefix => "received 6/1",
            Word::Shutdown => "received 6/2",
            Word::HoldReceived => "received 4/",
            Word::HoldSent => "notification sent (4,0)",
            Word::ExtendedNextHop | Word::AddPath | Word::GracefulRestart | Word::LongLived | Word::BfdUp => {
                return None;
            }
        })
    }

    /// Made of the UPDATEs of the present session.
    fn route(&self, prefix: &str) -> Result<String> {
        let family = if is_v4(prefix) { "ipv4 unicast" } else { "ipv6 unicast" };
        let mut routes: BTreeMap<String, String> = BTreeMap::new();
        for event in self.heard()? {
            if event["type"] == "state" {
                routes.clear();
            }
            let update = at(&event, &["neighbor", "message", "update"]);
            for (next_hop, all) in at(update, &["announce", family]).as_object().into_iter().flatten() {
                for nlri in all.as_array().into_iter().flatten().filter_map(|one| one["nlri"].as_str()) {
                    routes.insert(nlri.to_owned(), describe(next_hop, &update["attribute"]));
                }
            }
            for gone in at(update, &["withdraw", family]).as_array().into_iter().flatten() {
                routes.remove(gone["nlri"].as_str().unwrap_or_default());
            }
        }
        Ok(routes.remove(prefix).unwrap_or_default())
    }

    fn withdraw(&mut self, prefix: &str) -> Result<()> {
        self.terms.prefixes.retain(|other| *other != prefix);
        self.order(&format!("withdraw route {prefix} next-hop {}", self.terms.theirs()))
    }

    fn ask_again(&mut self) -> Result<()> {
        let families: Vec<&str> = self.terms.families().collect();
        families.iter().try_for_each(|family| self.order(&format!("announce route-refresh {family} unicast")))
    }

    fn shut_down(&mut self, _message: &str) -> Result<()> {
        self.order("teardown 2")
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("ExaBGP does not run")
    }

    fn kill(&mut self) -> Result<()> {
        self.process.take().context("ExaBGP does not run").map(drop)
    }

    fn start_again(&mut self) -> Result<()> {
        self.launch()
    }
}

/// A path in words: next hop, AS_PATH as people write it, communities, and the rest as it came.
fn describe(next_hop: &str, attributes: &Value) -> String {
    let numbers = |value: &Value, between: &str| {
        let numbers = value.as_array().into_iter().flatten().map(Value::to_string);
        numbers.collect::<Vec<_>>().join(between)
    };
    let mut out = format!("next hop {next_hop}, AS path {}", numbers(&attributes["as-path"], " "));
    for name in ["community", "large-community"] {
        for community in attributes[name].as_array().into_iter().flatten() {
            let _ = write!(out, ", {}", numbers(community, ":"));
        }
    }
    let _ = write!(out, "\n{attributes}");
    out
}

fn text(terms: &Terms) -> String {
    let large = terms.their_large().map(|number| number.to_string()).join(":");
    let mut out = format!(
        "process program {{\n  run {PROGRAM};\n  encoder json;\n}}\nneighbor {} {{\n  router-id {};\n  local-address {};\n\
         \x20 local-as {};\n  peer-as {};\n  hold-time {};\n  passive false;\n",
        terms.ours(),
        terms.their_id,
        terms.theirs(),
        terms.their_as,
        terms.our_as,
        terms.hold_time
    );
    if let Some(password) = terms.password {
        let _ = writeln!(out, "  md5-password '{password}';");
    }
    if terms.gtsm {
        out.push_str("  outgoing-ttl 255;\n  incoming-ttl 255;\n");
    }
    out.push_str("  capability { route-refresh; asn4; extended-message; }\n");
    let families: String = terms.families().map(|family| format!(" {family} unicast;")).collect();
    let _ = writeln!(out, "  family {{{families} }}");
    out.push_str(
        "  api { processes [ program ]; neighbor-changes; receive { parsed; open; update; notification; } }\n  announce {\n",
    );
    for prefix in &terms.prefixes {
        let family = if is_v4(prefix) { "ipv4" } else { "ipv6" };
        let next_hop = terms.theirs();
        let _ = writeln!(
            out,
            "    {family} {{ unicast {prefix} next-hop {next_hop} large-community [ {large} ]; }}"
        );
    }
    out.push_str("  }\n}\n");
    out
}

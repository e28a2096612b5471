//! What operators do with `turnpike bgp`, through the real command line and the real daemon.
//!
//! ```text
//! near 10.1.3.1 AS 65001 ── switch ── far 10.1.3.2 AS 65002
//! ```

use std::io::BufRead as _;

use crate::daemon::{DEADLINE, Daemon};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use turnpike_bgpd_api::view::PathView;
use turnpike_bgpd_api::{DEFAULT_CONFIG, RibQuery, Select, Table};
use turnpike_testbed::{Lab, Node, WallClock, binary, poll_result};

const NEAR: &str = "\
asn = 65001
router_id = \"10.0.0.1\"
[kernel]
enabled = false
[[peer]]
name = \"far\"
address = \"10.1.3.2\"
remote_as = 65002
connect_retry = 1
import = \"in\"
export = \"accept-all\"
[prefix_sets]
vips = [\"10.9.0.0/16 le 32\"]
[community_sets]
gold = [\"65002:7\"]
[as_path_sets]
transit = [\"65002 65002+\"]
[[policies.in.rule]]
name = \"gold\"
when = { community_sets = [\"gold\"] }
set = { local_pref = 200 }
[[policies.in.rule]]
name = \"vips\"
when = { prefix_sets = [\"vips\"] }
verdict = \"accept\"
";

const FAR: &str = "\
asn = 65002
router_id = \"10.0.0.2\"
[kernel]
enabled = false
[[peer]]
name = \"near\"
address = \"10.1.3.1\"
remote_as = 65001
connect_retry = 1
import = \"accept-all\"
export = \"accept-all\"
[[network]]
prefix = \"10.9.0.1/32\"
communities = [\"65002:7\"]
[[network]]
prefix = \"10.8.0.0/16\"
";

struct Pair {
    near_node: Node,
    near: Daemon,
    far: Daemon,
}

impl Pair {
    fn start(lab: &Lab) -> Result<Self> {
        let (near_node, far_node) = (lab.node("near")?, lab.node("far")?);
        lab.link(&near_node, "eth0", &far_node, "eth0")?;
        near_node.addr("eth0", "10.1.3.1/24")?;
        far_node.addr("eth0", "10.1.3.2/24")?;
        let near = Daemon::start(&near_node, NEAR)?;
        let far = Daemon::start(&far_node, FAR)?;
        near.wait_established("far")?;
        let pair = Self { near_node, near, far };
        pair.wait_path("10.9.0.1/32", |path| path.local_pref == Some(200))?;
        Ok(pair)
    }

    /// `turnpike bgp …` on the near node, which must succeed.
    fn run(&self, args: &[&str]) -> Result<String> {
        self.near_node.text(&command(args)?)
    }

    /// The same, which must fail; what it says.
    fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.near_node.run_unchecked(&command(args)?)?;
        ensure!(
            !output.status.success(),
            "`{args:?}` went well: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(String::from_utf8(output.stdout)? + std::str::from_utf8(&output.stderr)?)
    }

    fn wait_path(&self, prefix: &str, good: impl Fn(&PathView) -> bool) -> Result<()> {
        wait(&self.near, prefix, |path| path.is_some_and(&good))
    }
}

fn command(args: &[&str]) -> Result<Vec<String>> {
    let program = binary("turnpike")?.display().to_string();
    let all = [program.as_str(), "bgp"];
    Ok(all.iter().chain(args).map(|word| (*word).to_owned()).collect())
}

fn wait(daemon: &Daemon, prefix: &str, good: impl Fn(Option<&PathView>) -> bool) -> Result<()> {
    poll_result(DEADLINE, prefix, || {
        let select = Select::Exact(prefix.parse()?);
        let query = RibQuery { table: Table::Loc, select, after: None, limit: 100 };
        let paths = daemon.client()?.rib(query)?;
        ensure!(good(paths.iter().find(|path| path.best)), "{paths:?}");
        Ok(())
    })
}

/// Verifies: `check` names every mistake of a file with line, field and remedy and needs no daemon; `diff` foretells
/// sessions and prefixes; `apply --confirm` is rolled back by itself, by request and by a restart; `confirm` keeps it;
/// `reload` says which sessions end; the audit tells who did what.
#[test]
fn a_change_is_checked_compared_applied_and_rolled_back() {
    let lab = Lab::new("bgp-change").unwrap();
    let mut pair = Pair::start(&lab).unwrap();
    let node = pair.near_node.clone();
    let file = |name: &str, text: &str| {
        let path = format!("/etc/turnpike/{name}");
        node.write_file(&path, text).unwrap();
        path
    };
    let in_file = || node.read_file(DEFAULT_CONFIG).unwrap();

    let bad = file("bad.toml", &NEAR.replace("remote_as = 65002", "remote_as = 0\nholdtime = 3"));
    let said = pair.refused(&["check", &bad]).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("/etc/turnpike/bad.toml:8: peer[0].remote_as: "), "{said}");
    assert!(lines[1].starts_with("/etc/turnpike/bad.toml:9: peer[0].holdtime: unknown field"), "{said}");
    assert!(lines[1].ends_with("did you mean `hold_time`?"), "{said}");
    assert_eq!(lines.last(), Some(&"/etc/turnpike/bad.toml: 2 mistakes"));
    assert!(pair.run(&["check"]).unwrap().ends_with("bgpd.toml: in order\n"));
    let said = pair.refused(&["apply", &bad]).unwrap();
    assert!(said.contains("bad.toml:8: peer[0].remote_as"), "{said}");
    assert_eq!(in_file(), NEAR);

    let better = file("better.toml", &NEAR.replace("local_pref = 200", "local_pref = 300"));
    assert_eq!(
        pair.run(&["diff", &better]).unwrap(),
        "Sessions: none is touched\n\
         Best paths: +0 -0 ~1\n\
         \x20 ~ 10.9.0.1/32 from far via 10.1.3.2 path 65002 local-pref 200 communities 65002:7\n\
         \x20   becomes     from far via 10.1.3.2 path 65002 local-pref 300 communities 65002:7\n\
         Taken from far: +0 -0 ~1\n\
         \x20 ~ 10.9.0.1/32 from far via 10.1.3.2 path 65002 local-pref 200 communities 65002:7\n\
         \x20   becomes     from far via 10.1.3.2 path 65002 local-pref 300 communities 65002:7\n\
         Note: changed sections: policies\n"
    );
    let reset = file("reset.toml", &NEAR.replace("connect_retry = 1", "connect_retry = 1\nhold_time = 30"));
    let said = pair.run(&["diff", &reset]).unwrap();
    assert!(said.starts_with("Sessions\n  far 10.1.3.2, established: resets (hold_time)\n"), "{said}");
    let gone =
        pair.run(&["-o", "json", "diff", &file("gone.toml", "asn = 65001\n[kernel]\nenabled = false\n")]);
    let gone: serde_json::Value = serde_json::from_str(&gone.unwrap()).unwrap();
    assert_eq!((&gone["sessions"][0]["effect"], &gone["tables"][0]["removed"]), (&"stop".into(), &1.into()));
    pair.wait_path("10.9.0.1/32", |path| path.local_pref == Some(200)).unwrap();

    // Nobody confirms: rolled back in time.
    let said = pair.run(&["apply", &better, "--confirm", "2s"]).unwrap();
    assert!(said.contains("unless `turnpike bgp confirm` comes"), "{said}");
    pair.wait_path("10.9.0.1/32", |path| path.local_pref == Some(200)).unwrap();
    poll_result(DEADLINE, "the former file", || {
        ensure!(in_file() == NEAR && pair.near.status()?.pending.is_none(), "{}", in_file());
        Ok(())
    })
    .unwrap();
    assert_eq!(node.read_file("/etc/turnpike/bgpd.rolled-back").unwrap().matches("300").count(), 1);

    // A restart inside the window, even a kill, rolls back.
    pair.run(&["apply", &better, "--confirm", "1h"]).unwrap();
    pair.wait_path("10.9.0.1/32", |path| path.local_pref == Some(300)).unwrap();
    let said = pair.refused(&["apply", &reset]).unwrap();
    assert!(said.contains("waits for its confirmation"), "{said}");
    pair.near.end(Signal::SIGKILL).unwrap();
    pair.near.start_again().unwrap();
    assert_eq!(in_file(), NEAR);
    pair.wait_path("10.9.0.1/32", |path| path.local_pref == Some(200)).unwrap();

    // By request; and a confirmation holds over a restart.
    pair.run(&["apply", &better, "--confirm", "1h"]).unwrap();
    pair.run(&["rollback"]).unwrap();
    assert_eq!(in_file(), NEAR);
    pair.run(&["apply", &better, "--confirm", "1h"]).unwrap();
    pair.run(&["confirm"]).unwrap();
    assert!(pair.refused(&["confirm"]).unwrap().contains("nothing waits for a confirmation"));
    pair.near.end(Signal::SIGTERM).unwrap();
    pair.near.start_again().unwrap();
    pair.wait_path("10.9.0.1/32", |path| path.local_pref == Some(300)).unwrap();
    assert!(pair.run(&["reload"]).unwrap().starts_with("no session ends\n"));

    let audit = pair.run(&["-o", "json", "audit"]).unwrap();
    let audit: Vec<serde_json::Value> = serde_json::from_str(&audit).unwrap();
    let what: Vec<&str> = audit.iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["apply", "rollback", "apply", "rollback", "apply", "rollback", "apply", "confirm"]);
    assert_eq!((&audit[0]["who"]["uid"], &audit[0]["who"]["program"]), (&0.into(), &"turnpike".into()));
    assert_eq!((&audit[0]["before"], &audit[1]["after"]), (&NEAR.into(), &NEAR.into()));
    assert!(audit[3]["who"].is_null(), "the restarted daemon did that");
    lab.finish().unwrap();
}

/// Verifies: `announce` and `withdraw` own their prefixes, over restarts too, and leave others' alone; `peer
/// --shutdown` holds over a restart and its text arrives; `soft-reset` keeps the session; `policy test` names the rule;
/// `watch` tells what happens.
#[test]
fn operators_announce_hold_ask_again_and_watch() {
    let lab = Lab::new("bgp-operate").unwrap();
    let mut pair = Pair::start(&lab).unwrap();
    let mut watching = pair.near_node.command(binary("turnpike").unwrap()).unwrap();
    watching.args(["-o", "json", "bgp", "watch"]);
    let watcher = pair.near_node.spawn("watch", watching).unwrap();
    let events = |watcher: &turnpike_testbed::Process| -> Vec<serde_json::Value> {
        let log = watcher.log();
        log.as_bytes().lines().filter_map(|line| serde_json::from_str(&line.ok()?).ok()).collect()
    };
    // A first event shows that it watches.
    poll_result(DEADLINE, "the watcher", || {
        pair.run(&["soft-reset", "far", "--out"])?;
        ensure!(!events(&watcher).is_empty(), "nothing yet");
        Ok(())
    })
    .unwrap();

    let announce = ["announce", "10.5.0.0/16", "--community", "65001:5", "--med", "3"];
    assert_eq!(pair.run(&announce).unwrap(), "announcing 10.5.0.0/16\n");
    let marked = |path: Option<&PathView>| {
        path.is_some_and(|path| path.med == Some(3) && path.communities == ["65001:5".parse().unwrap()])
    };
    wait(&pair.far, "10.5.0.0/16", marked).unwrap();
    assert!(pair.run(&["rib", "10.5.0.0/16"]).unwrap().contains("ourselves (operator)"));
    pair.near.end(Signal::SIGTERM).unwrap();
    pair.near.start_again().unwrap();
    wait(&pair.far, "10.5.0.0/16", marked).unwrap();
    assert!(pair.run(&["status"]).unwrap().contains("operator: 0 peers, 1 network"));
    assert_eq!(pair.run(&["withdraw", "10.5.0.0/16"]).unwrap(), "no longer announcing 10.5.0.0/16\n");
    wait(&pair.far, "10.5.0.0/16", |path| path.is_none()).unwrap();
    assert!(pair.refused(&["withdraw", "10.5.0.0/16"]).unwrap().contains("we do not announce 10.5.0.0/16"));

    pair.near.wait_established("far").unwrap();
    let flaps = pair.near.peer("far").unwrap().flaps;
    assert_eq!(pair.run(&["soft-reset", "far", "--in"]).unwrap(), "asked far for everything again\n");
    pair.run(&["soft-reset", "far"]).unwrap();
    assert_eq!(pair.near.peer("far").unwrap().flaps, flaps);

    let trace = pair.run(&["policy", "test", "--peer", "far", "--prefix", "10.9.0.1/32"]).unwrap();
    assert_eq!(
        trace,
        "10.9.0.1/32 next hop 10.1.3.2, AS path 65002, local preference none, MED none, communities 65002:7\n\
         \x20 rule gold             match: goes on\n\
         \x20 rule vips             match: accept\n\
         accepted by rule vips of `in`\n\
         becomes next hop 10.1.3.2, AS path 65002, local preference 200, MED none, communities 65002:7\n"
    );
    let trace =
        pair.refused(&["policy", "test", "in", "--prefix", "10.8.0.0/16", "--as-path", "65002"]).unwrap();
    assert!(trace.contains("rule vips             no match: prefixes\n"), "{trace}");
    assert!(trace.contains("refused by the default of the policy, reject of `in`\n"), "{trace}");

    pair.run(&["peer", "far", "--shutdown", "--message", "new line card"]).unwrap();
    let told = |daemon: &Daemon, name: &str| -> Result<()> {
        let peer = daemon.peer(name)?;
        let words = peer.last_notification.context("no NOTIFICATION")?;
        ensure!(words.contains("new line card") && peer.session.is_none(), "{words}");
        Ok(())
    };
    poll_result(DEADLINE, "the text at the far end", || told(&pair.far, "near")).unwrap();
    pair.near.end(Signal::SIGTERM).unwrap();
    pair.near.start_again().unwrap();
    assert_eq!(pair.near.peer("far").unwrap().state, "Idle");
    pair.run(&["peer", "far", "--enable"]).unwrap();
    pair.near.wait_established("far").unwrap();
    assert!(pair.refused(&["peer", "far", "--enable"]).unwrap().contains("far is not kept down"));

    let seen = events(&watcher);
    let has = |good: &dyn Fn(&serde_json::Value) -> bool| seen.iter().any(good);
    assert!(has(&|event| event["event"] == "change" && event["what"] == "announce"), "{seen:#?}");
    assert!(has(&|event| event["event"] == "best" && event["prefix"] == "10.5.0.0/16"), "{seen:#?}");
    assert!(watcher.wait_exit(DEADLINE).is_ok(), "it ended with the daemon that it watched");
    lab.finish().unwrap();
}

/// Verifies: a drain goes on over SIGKILL and over an upgrade: what a peer is told until End-of-RIB carries the mark, and a
/// wall clock that was set ahead meanwhile does not end the wait; called off, it stays off over a restart.
#[test]
fn a_drain_goes_on_after_a_restart() {
    let lab = Lab::new("bgp-drain-restart").unwrap();
    let mut pair = Pair::start(&lab).unwrap();
    pair.run(&["announce", "10.5.0.0/16"]).unwrap();
    wait(&pair.far, "10.5.0.0/16", |path| path.is_some()).unwrap();
    pair.run(&["drain", "--wait", "1h"]).unwrap();
    let marked =
        |path: &PathView| path.communities.contains(&turnpike_bgpd_api::Community::GRACEFUL_SHUTDOWN);
    wait(&pair.far, "10.5.0.0/16", |path| path.is_some_and(marked)).unwrap();
    let clock = WallClock::new(&pair.near_node).unwrap();
    clock.set("+10y").unwrap();
    for (signal, environment) in
        [(Signal::SIGKILL, &[][..]), (Signal::SIGTERM, &clock.environment()), (Signal::SIGTERM, &[])]
    {
        let flaps = pair.far.peer("near").unwrap().flaps;
        pair.near.end(signal).unwrap();
        pair.near.start_again_with(environment).unwrap();
        poll_result(DEADLINE, "the session to come back", || {
            let peer = pair.far.peer("near")?;
            ensure!(peer.flaps > flaps && peer.session.is_some(), "{} {}", peer.flaps, peer.state);
            ensure!(peer.session.is_some_and(|session| session.end_of_rib_received.ipv4), "no End-of-RIB");
            Ok(())
        })
        .unwrap();
        wait(&pair.far, "10.5.0.0/16", |path| path.is_some_and(marked)).unwrap();
        let status = pair.run(&["status"]).unwrap();
        assert!(status.contains("Draining") && status.contains("withdrawing in 3"), "{status}");
    }
    pair.run(&["drain", "--cancel"]).unwrap();
    wait(&pair.far, "10.5.0.0/16", |path| path.is_some_and(|path| !marked(path))).unwrap();
    pair.near.end(Signal::SIGKILL).unwrap();
    pair.near.start_again().unwrap();
    pair.near.wait_established("far").unwrap();
    assert!(!pair.run(&["status"]).unwrap().contains("Draining"));
    wait(&pair.far, "10.5.0.0/16", |path| path.is_some_and(|path| !marked(path))).unwrap();
    lab.finish().unwrap();
}

/// Verifies: `why` names the policy and the rule that refused a path, or that its default did.
#[test]
fn why_names_the_rule_that_refused() {
    let lab = Lab::new("bgp-why-rule").unwrap();
    let pair = Pair::start(&lab).unwrap();
    let why = || pair.run(&["why", "10.8.0.0/16"]);
    let says = |words: &str| {
        poll_result(DEADLINE, words, || {
            let said = why()?;
            ensure!(said.contains(words), "{said}");
            Ok(())
        })
    };
    says("refused by import policy `in`: the default of the policy, reject").unwrap();
    let rule = "[[policies.in.rule]]\nname = \"no-eights\"\nwhen = { prefixes = [\"10.8.0.0/16\"] }\nverdict = \"reject\"\n";
    pair.near_node.write_file(DEFAULT_CONFIG, format!("{NEAR}{rule}")).unwrap();
    pair.run(&["reload"]).unwrap();
    says("refused by import policy `in`: rule no-eights").unwrap();
    pair.near_node
        .write_file(DEFAULT_CONFIG, NEAR.replace("import = \"in\"", "import = \"reject-all\""))
        .unwrap();
    pair.run(&["reload"]).unwrap();
    says("refused by import policy `reject-all`").unwrap();
    lab.finish().unwrap();
}

/// Verifies: `drain` marks everything with GRACEFUL_SHUTDOWN, keeps it announced meanwhile, then withdraws and ends the
/// sessions with its message and without graceful restart; it can be called off.
#[test]
fn a_drain_marks_waits_withdraws_and_ends_with_a_message() {
    let lab = Lab::new("bgp-drain").unwrap();
    let pair = Pair::start(&lab).unwrap();
    pair.run(&["announce", "10.5.0.0/16"]).unwrap();
    wait(&pair.far, "10.5.0.0/16", |path| path.is_some()).unwrap();
    let going = |path: Option<&PathView>| {
        path.is_some_and(|path| {
            path.communities.contains(&turnpike_bgpd_api::Community::GRACEFUL_SHUTDOWN)
                && path.local_pref == Some(0)
        })
    };
    let said = pair.run(&["drain", "--wait", "1h", "--message", "rack 7"]).unwrap();
    assert!(
        said.contains("GRACEFUL_SHUTDOWN") && said.contains("in 3600 s: networks are withdrawn"),
        "{said}"
    );
    wait(&pair.far, "10.5.0.0/16", going).unwrap();
    assert!(pair.run(&["status"]).unwrap().contains("Draining  everything carries GRACEFUL_SHUTDOWN"));
    pair.run(&["drain", "--cancel"]).unwrap();
    wait(&pair.far, "10.5.0.0/16", |path| path.is_some() && !going(path)).unwrap();
    assert!(pair.refused(&["drain", "--cancel"]).unwrap().contains("nothing is being drained"));

    pair.run(&["drain", "--wait", "1s", "--message", "rack 7"]).unwrap();
    wait(&pair.far, "10.5.0.0/16", |path| path.is_none()).unwrap();
    poll_result(DEADLINE, "the end", || {
        let peer = pair.far.peer("near")?;
        let words = peer.last_notification.unwrap_or_default();
        ensure!(words.contains("rack 7") && peer.session.is_none(), "{words}");
        ensure!(peer.stale_for.is_none(), "its paths are kept");
        Ok(())
    })
    .unwrap();
    lab.finish().unwrap();
}

//! What an operator asks when something is wrong, and what the agent says and gives up of itself.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::{Lab, Node, binary, poll_result};

use super::bench::{Bench, DEADLINE};

const BALANCER: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs-a}
spec:
  cidrs: [10.9.1.0/24]
  bypass: true
  ports: [{protocol: TCP, port: 80}]
";
fn turnpike(node: &Node, args: &[&str]) -> Result<(i32, String)> {
    let program = binary("turnpike")?.to_string_lossy().into_owned();
    let argv: Vec<&str> = [program.as_str()].into_iter().chain(args.iter().copied()).collect();
    let output = node.run_unchecked(&argv)?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code().context("killed by a signal")?, String::from_utf8(text)?))
}

/// Verifies: `trace` shows the real programs' and routes' word: out by the default route, into another pod, a bypassed
/// answer and a port that is not listed, a liar refused by the anti-spoof map, a blackhole; names what decides; its
/// exit code says which; and it leaves no memory of a connection behind.
#[test]
fn a_traced_packet_is_told_what_decides_about_it() -> Result<()> {
    let lab = Lab::new("agent-trace")?;
    let bench = Bench::start(&lab)?;
    bench.set_resource("lb.yaml", BALANCER)?;
    let pools = bench.resource("pools.yaml")?;
    let range = "{cidr: 10.244.0.0/16";
    bench.set_resource(
        "pools.yaml",
        &pools.replace(range, &format!("{range}, masquerade: {{exceptTo: [10.0.0.0/8]}}")),
    )?;
    ["p", "q"].iter().try_for_each(|name| bench.netns(name))?;
    let pod = bench.attach("pod-one", "p")?.addresses;
    let other = bench.attach("pod-two", "q")?.addresses;
    let (v4, other) =
        (pod.first().context("an address")?.to_string(), other.first().context("one")?.to_string());
    let trace = |args: &[&str]| turnpike(&bench.node, &[&["trace", &v4], args].concat());
    bench.node.run(&["ip", "route", "add", "blackhole", "192.0.2.0/24"])?;
    bench.node.run(&["ip", "route", "add", "198.51.100.0/24", "via", "10.1.1.1"])?;

    let text = poll_result(DEADLINE, "the masquerade", || {
        let (code, text) = trace(&["203.0.113.7"])?;
        ensure!(code == 0 && text.contains("masquerade applies"), "{code}: {text}");
        Ok::<_, anyhow::Error>(text)
    })?;
    for part in [
        "TCP SYN",
        "anti-spoofing",
        "default route via 10.1.1.1 dev eth0",
        "LEAVES, decided by: default route",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let (code, text) = trace(&["198.51.100.9", "--proto", "udp", "--port", "53"])?;
    assert!(code == 0 && text.contains("decided by: route 198.51.100.0/24"), "{text}");
    let (code, text) = trace(&[&other])?;
    assert!(code == 0 && text.contains("into pod pod-two") && text.contains("DELIVERED"), "{text}");
    let (code, text) = trace(&["10.1.1.11"])?;
    assert!(code == 0 && text.contains("node n1"), "{text}");
    let (code, text) = trace(&["192.0.2.1"])?;
    assert!(code == 3 && text.contains("UNREACHABLE"), "{text}");
    let (code, text) = trace(&["203.0.113.7", "--source", "10.1.1.99"])?;
    assert!(
        code == 2 && text.contains("REFUSED, decided by: anti-spoof map") && text.contains("10.1.1.99"),
        "{text}"
    );

    // The bypass is in force once the source is; the way in and the way of the answer.
    let bypassed = || -> Result<String> {
        let (code, text) = trace(&["10.9.1.5", "--reverse"])?;
        ensure!(
            code == 0 && text.matches("BYPASSED, decided by: LoadBalancerSource lvs-a").count() == 2,
            "{text}"
        );
        Ok(text)
    };
    poll_result(DEADLINE, "the bypass", bypassed)?;
    let (code, text) = trace(&["10.9.1.5", "--reverse", "--port", "81"])?;
    assert!(code == 0 && text.contains("no bypass") && text.contains("DELIVERED"), "{text}");
    let (code, text) = trace(&["-o", "json", "10.9.1.5"])?;
    let report: Value = serde_json::from_str(&text)?;
    assert!(code == 0 && report["ways"][0]["verdict"] == "leaves", "the pod's own connection: {text}");
    let (code, text) = turnpike(&bench.node, &["trace", "no-such-pod", "10.9.1.5"])?;
    assert!(code == 1 && text.contains("no-such-pod"), "{text}");
    lab.finish()
}

/// Verifies: `routes export` is what FRR and BIRD themselves take for good configuration, for every block of every
/// node and both families; without a next hop it names the node.
#[test]
fn exported_routes_are_read_by_real_routers() -> Result<()> {
    let lab = Lab::new("agent-routes")?;
    let bench = Bench::start(&lab)?;
    bench.set_resource(
        "more.yaml",
        "apiVersion: turnpike.io/v1alpha1\nkind: IPBlock\nmetadata: {name: n2-v4}\n\
         spec: {cidr: 10.244.2.0/26, pool: v4, node: n2}\n",
    )?;
    let node = &bench.node;
    poll_result(DEADLINE, "the block of n2", || {
        let (code, text) =
            turnpike(node, &["routes", "export", "--format", "frr", "--node", "n1=10.1.1.11"])?;
        ensure!(code == 1 && text.contains("n1 (IPv6)") && text.contains("n2 (IPv4)"), "{text}");
        Ok(())
    })?;
    let places = ["--node", "n1=10.1.1.11", "--node", "n1=fd00:1::11", "--node", "n2=10.1.1.12"];
    let export = |format: &str| -> Result<String> {
        let (code, text) =
            turnpike(node, &[&["routes", "export", "--format", format], &places[..]].concat())?;
        ensure!(code == 0, "{text}");
        Ok(text)
    };
    let frr = export("frr")?;
    assert!(
        frr.contains("ip route 10.244.2.0/26 10.1.1.12") && frr.contains("ipv6 route fd00:244::100/122"),
        "{frr}"
    );
    assert_eq!(frr, export("frr")?, "it is the same each time");
    node.write_file("/tmp/frr.conf", &frr)?;
    node.run(&["vtysh", "-C", "-f", "/tmp/frr.conf"])?;
    let bad = frr.replace("ip route", "ip rout3");
    node.write_file("/tmp/bad.conf", bad)?;
    let refused = node.run_unchecked(&["vtysh", "-C", "-f", "/tmp/bad.conf"])?;
    let said = String::from_utf8([refused.stdout, refused.stderr].concat())?;
    assert!(
        !refused.status.success() || said.contains("Unknown"),
        "the parser looks at what it is given: {said}"
    );
    node.write_file(
        "/tmp/bird.conf",
        format!("router id 10.1.1.1;\nprotocol device {{}}\n{}", export("bird")?),
    )?;
    node.run(&["bird", "-p", "-c", "/tmp/bird.conf"])?;
    lab.finish()
}

/// Verifies: `support-bundle` holds state and configuration, no secret of either (in a configuration, or in a file that
/// it names, wherever else it shows), and comes about in time without any daemon, saying what could not be had.
#[test]
fn a_support_bundle_holds_no_secret_and_waits_for_nobody() -> Result<()> {
    let lab = Lab::new("agent-bundle")?;
    let bench = Bench::start(&lab)?;
    let node = &bench.node;
    bench.netns("p")?;
    bench.attach("pod-one", "p")?;
    node.write_file("/etc/turnpike/md5", "tops3cret-of-a-file\n")?;
    node.write_file(
        "/etc/turnpike/bgpd.toml",
        "[[peers]]\naddress = \"10.1.1.1\"\npassword_file = \"/etc/turnpike/md5\"\n# authToken = \"inl1ne-s3cret\"\n",
    )?;
    // Something that a collector sees, with the secret in it.
    node.run(&["nft", "add table ip leak { comment \"tops3cret-of-a-file\"; }"])?;
    let unpack = |file: &str| -> Result<String> {
        node.run(&[
            "sh",
            "-c",
            &format!("mkdir -p {file}.d && tar -xzf {file} -C {file}.d --strip-components=1"),
        ])?;
        node.text(&[
            "sh",
            "-c",
            &format!("find {file}.d -type f | sort | while read f; do echo \"== $f\"; cat $f; done"),
        ])
    };
    let (code, text) = turnpike(node, &["support-bundle", "-f", "/tmp/one.tar.gz"])?;
    assert_eq!(code, 0, "{text}");
    let all = unpack("/tmp/one.tar.gz")?;
    for secret in ["tops3cret-of-a-file", "inl1ne-s3cret"] {
        assert!(!all.contains(secret), "{secret} is in the bundle");
    }
    for part in ["pod-one", "10.244.1.0/26", "INDEX.txt", "table ip leak", "<removed>", "agent.toml"] {
        assert!(all.contains(part), "{part} is not in the bundle");
    }
    bench.crash()?;
    let (code, text) = turnpike(node, &["support-bundle", "-f", "/tmp/two.tar.gz", "--timeout", "5"])?;
    assert_eq!(code, 0, "{text}");
    let index = node.text(&["sh", "-c", "tar -xzOf /tmp/two.tar.gz --wildcards '*/INDEX.txt'"])?;
    let status =
        index.lines().find(|line| line.starts_with("turnpike/status ")).context("a line of status")?;
    assert!(status.contains("FAILED"), "{index}");
    assert!(index.lines().any(|line| line.starts_with("ip/link") && line.contains(" ok ")), "{index}");
    bench.restart()?;
    lab.finish()
}

/// Verifies: the agent holds no capability but those that it works with, cannot get any back, has its socket to itself;
/// `/healthz` tells of its loops, pods see readiness and nothing else at an address of the node, and what an operator
/// changes is written down with the process that asked.
#[test]
fn the_agent_gives_up_what_it_does_not_need_and_tells_how_it_is() -> Result<()> {
    let lab = Lab::new("agent-privileges")?;
    let bench = Bench::start_with(&lab, "[listen]\npods = \"10.1.1.11:9473\"\n")?;
    let node = &bench.node;
    bench.netns("p")?;
    bench.attach("pod-one", "p")?;
    let pid = node.text(&["pidof", "turnpike-agent"])?;
    let status = node.text(&["cat", &format!("/proc/{}/status", pid.trim())])?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context(name.to_owned())?;
        Ok(u64::from_str_radix(line.trim_start_matches(':').trim(), 16)?)
    };
    // capability.h: DAC_OVERRIDE 1, NET_ADMIN 12, NET_RAW 13, SYS_PTRACE 19, SYS_ADMIN 21, SYS_RESOURCE 24, PERFMON 38, BPF 39.
    let allowed = [1, 12, 13, 19, 21, 24, 38, 39].iter().fold(0_u64, |all, bit| all | 1 << bit);
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(field(set)? & !allowed, 0, "{set} in\n{status}");
    }
    assert_eq!((field("CapInh")?, field("CapAmb")?, field("NoNewPrivs")?), (0, 0, 1), "{status}");
    assert!(field("CapEff")? & 1 << 12 != 0, "it has what it needs");
    assert_eq!(node.text(&["stat", "-c", "%a %u", "/run/turnpike/agent.sock"])?.trim(), "600 0");

    let health = http(node, &["--net=/proc/self/ns/net"], "127.0.0.1:9471", "/healthz")?;
    assert!(health.contains("200 OK") && health.contains("dataplane: turns"), "{health}");
    let inside = ["--net=/run/netns/p"];
    let ready = http(node, &inside, "10.1.1.11:9473", "/readyz")?;
    assert!(ready.contains("200 OK") && ready.ends_with("ok\n"), "{ready}");
    assert!(http(node, &inside, "10.1.1.11:9473", "/metrics")?.contains("404"), "no metrics for pods");
    poll_result(DEADLINE, "the gateway's answer", || {
        let ready = http(node, &inside, "10.1.1.11:9473", "/readyz/network")?;
        ensure!(ready.contains("200 OK"), "{ready}");
        Ok(())
    })?;
    let (code, text) = turnpike(node, &["pool", "drain", "v4", "--force"])?;
    assert_eq!(code, 0, "{text}");
    let log = node.read_file("/var/lib/turnpike/audit.log")?;
    let line: Value = serde_json::from_str(log.lines().last().context("a line")?)?;
    assert!(line["caller"]["uid"] == 0 && line["caller"]["pid"].as_i64().unwrap_or(0) > 0, "{line}");
    lab.finish()
}

/// Verifies: every metric that the alert rules and the dashboard in deploy/ use is in a scrape of a node with a limited
/// pod and a load balancer in front.
#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() -> Result<()> {
    let lab = Lab::new("agent-metrics")?;
    let bench = Bench::start_with(&lab, "[readiness]\nping = \"warn\"\n")?;
    bench.set_resource("lb.yaml", BALANCER)?;
    bench.netns("p")?;
    let mut request = bench.add_request("pod-one", "p");
    request.annotations.insert("kubernetes.io/egress-bandwidth".to_owned(), "10M".to_owned());
    bench.add(request)??;
    // Somebody whose rules look at conntrack, and an entry that names the pod.
    bench.node.write_file(
        "/tmp/ct.nft",
        "table ip foreign { chain f { type filter hook forward priority 0; ct state invalid drop; }; }\n",
    )?;
    bench.node.run(&["nft", "-f", "/tmp/ct.nft"])?;
    let deploy = [
        include_str!("../../../deploy/prometheus/turnpike-alerts.yaml"),
        include_str!("../../../deploy/grafana/turnpike.json"),
    ];
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let used: BTreeSet<&str> = deploy
        .iter()
        .flat_map(|text| text.split(|c| !is_name(c)))
        .filter(|word| word.starts_with("turnpike_"))
        .collect();
    ensure!(used.len() > 25, "{used:?}");
    poll_result(DEADLINE, "every metric", || {
        // The gateway knows no way back: the question alone makes the entry.
        bench.inside("p", &["sh", "-c", "ping -c 1 -W 1 10.1.1.1 || true"])?;
        let scrape = http(&bench.node, &["--net=/proc/self/ns/net"], "127.0.0.1:9471", "/metrics")?;
        let there: BTreeSet<&str> = scrape.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
        let missing: Vec<_> = used.difference(&there).collect();
        ensure!(missing.is_empty(), "not in a scrape: {missing:?}");
        Ok(())
    })?;
    let dashboard: Value = serde_json::from_str(deploy[1])?;
    ensure!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 20), "panels");
    lab.finish()
}

/// GET in the network namespace named; the whole answer.
pub(crate) fn http(node: &Node, netns: &[&str], address: &str, path: &str) -> Result<String> {
    let script = format!(
        "import socket,sys\nh,p='{address}'.split(':')\ns=socket.create_connection((h,int(p)),10)\n\
         s.sendall(b'GET {path} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n')\n\
         d=b''\nwhile True:\n b=s.recv(65536)\n if not b: break\n d+=b\nsys.stdout.write(d.decode())\n"
    );
    let argv: Vec<&str> =
        ["nsenter"].iter().chain(netns).chain(&["python3", "-c", &script]).copied().collect();
    node.text(&argv)
}

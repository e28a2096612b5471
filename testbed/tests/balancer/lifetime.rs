//! Pods that want none of it, sources that come, drain and go.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::{ContainerSpec, Image, Lab, PodSpec, poll_result};

use super::{DEADLINE, KeptAlive, LOCAL, Rig, VIP, address, ask};

/// One source drains as usual, the other goes at once.
const SOURCES: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs}
spec: {cidrs: [10.9.1.0/24], bypass: true, toa: Toa254}
---
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs6}
spec: {cidrs: ['fd00:9:1::/64'], bypass: true, toa: Toa254, drainSeconds: 0}
";

/// Waits for the one answer of a command that is as wanted.
fn wait(rig: &Rig, words: &[&str], what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    poll_result(DEADLINE, what, || {
        let answer = rig.turnpike(words)?;
        ensure!(wanted(&answer), "{answer:#}");
        Ok(answer)
    })
}

/// Verifies: a pod with `turnpike.io/toa: "off"` shows the director, its neighbour the client, and the check says why;
/// `toaNat64` attaches the program for it, and ends it;
/// a source that is taken out drains (its options are not believed any more, its traffic stays out of conntrack, over
/// a restart of the agent too), and one with a drain time of 0 goes at once; established connections of both go on.
#[test]
fn a_pod_may_opt_out_and_a_source_that_is_removed_drains() -> Result<()> {
    let lab = Lab::new("lb-lifetime")?;
    let rig = Rig::new(&lab, SOURCES)?;
    let on = rig.turnpike.run_pod(PodSpec::nginx("on"))?;
    let off = rig.turnpike.run_pod(PodSpec::nginx("off").annotation("turnpike.io/toa", "off"))?;
    let director = rig.direct(&[(&on, 80), (&off, 81)])?;
    let seen = |vip: &str, port: u16| -> Result<_> {
        let (own, body) = poll_result(DEADLINE, "nginx to answer", || ask(&rig.client, vip, port))?;
        let seen = body.split_whitespace().next().and_then(address).context("an address")?;
        Ok((own.ip(), seen))
    };
    let mut established = Vec::new();
    for (vip, local) in VIP.iter().zip(LOCAL) {
        let (own, shown) = seen(vip, 80)?;
        assert_eq!(shown, own);
        assert_eq!(seen(vip, 81)?.1.to_string(), local, "the pod opted out");
        let mut connection = KeptAlive::open(&rig.client, vip, 80)?;
        let first = connection.ask()?;
        established.push((connection, first));
    }
    let check = rig.turnpike(&["toa", "check", "off"])?;
    assert_eq!(check["opted_out"], true, "{check:#}");
    assert!(check["counters"]["opted_out"].as_u64() >= Some(2) && check["counters"]["hit"] == 0, "{check:#}");
    assert!(check["findings"][0].as_str().is_some_and(|text| text.contains("turnpike.io/toa")), "{check:#}");

    assert_eq!(check["nat64"], false, "{check:#}");
    let asking = SOURCES.replacen("toa: Toa254}", "toa: Toa254, toaNat64: true}", 1);
    rig.turnpike.set_resource("balancer.yaml", &asking)?;
    wait(&rig, &["toa", "check", "on"], "getsockopt() to be answered", |check| check["nat64"] == true)?;
    rig.turnpike.set_resource("balancer.yaml", SOURCES)?;
    wait(&rig, &["toa", "check", "on"], "getsockopt() to be left alone", |check| check["nat64"] == false)?;

    rig.turnpike.set_resource("balancer.yaml", "# all sources are gone\n")?;
    let draining = |flows: &Value| {
        let sources = flows["sources"].as_array().map(Vec::as_slice).unwrap_or_default();
        matches!(sources, [one] if one["name"] == "lvs" && one["draining_s"].as_u64().is_some())
    };
    wait(&rig, &["lb", "flows"], "one source to drain, the other to be gone", draining)?;
    for (vip, local) in VIP.iter().zip(LOCAL) {
        poll_result(DEADLINE, "options not to be believed any more", || {
            let shown = seen(vip, 80)?.1.to_string();
            ensure!(shown == local, "nginx still sees {shown}");
            Ok(())
        })?;
    }
    let [tracked4, tracked6] = rig.tracked()?;
    assert_eq!(tracked4, 0, "what drains stays out of conntrack");
    assert!(tracked6 > 0, "what went at once is back in conntrack");
    for (connection, first) in &mut established {
        assert_eq!(&connection.ask()?, first, "an established connection goes on and keeps its client");
        assert!(first.starts_with(&connection.own.ip().to_string()), "{first}");
    }
    rig.turnpike.stop_agent()?;
    rig.turnpike.start_agent()?;
    wait(&rig, &["lb", "flows"], "the source to drain after a restart", draining)?;
    assert_eq!(seen(VIP[0], 80)?.1.to_string(), LOCAL[0]);
    assert_eq!(rig.tracked()?[0], 0, "a restart changes nothing");
    drop((established, director, on, off));
    lab.finish()
}

/// Leaves one namespace out.
const NOT_FOR_BANK: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs}
spec: {cidrs: [10.9.1.0/24, 'fd00:9:1::/64'], bypass: true, toa: Toa254, exceptNamespaces: [bank]}
";

/// Verifies: what a pod with `turnpike.io/lb-bypass: "off"` exchanges with directors is tracked, and its server sees
/// clients all the same; a pod of a namespace that the source is not for is tracked and sees the director; the tools
/// say so; that changes with the resource, and established connections go on.
#[test]
fn pods_are_left_out_of_the_bypass_by_annotation_and_by_namespace() -> Result<()> {
    let lab = Lab::new("lb-left-out")?;
    let rig = Rig::new(&lab, NOT_FOR_BANK)?;
    let on = rig.turnpike.run_pod(PodSpec::nginx("on"))?;
    let off = rig.turnpike.run_pod(PodSpec::nginx("off").annotation("turnpike.io/lb-bypass", "off"))?;
    let bank = rig.turnpike.run_pod(PodSpec::nginx("bank").namespace("bank"))?;
    let director = rig.direct(&[(&on, 80), (&off, 81), (&bank, 82)])?;
    let mut established = Vec::new();
    for (vip, local) in VIP.iter().zip(LOCAL) {
        for (port, sees_client) in [(80, true), (81, true), (82, false)] {
            let (own, body) = poll_result(DEADLINE, "nginx to answer", || ask(&rig.client, vip, port))?;
            let shown = body.split_whitespace().next().and_then(address).context("an address")?;
            let wanted = if sees_client { own.ip() } else { local.parse()? };
            assert_eq!(shown, wanted, "port {port} of {vip}");
            let mut connection = KeptAlive::open(&rig.client, vip, port)?;
            let first = connection.ask()?;
            established.push((connection, first));
        }
    }
    let tracked_of = |pod: &turnpike_testbed::Pod| -> Result<[bool; 2]> {
        let list = |family: &str| rig.turnpike.node().text(&["conntrack", "-L", "-f", family]);
        let has = |text: &str, ip: std::net::IpAddr| text.contains(&format!("={ip} "));
        Ok([has(&list("ipv4")?, pod.ipv4()?), has(&list("ipv6")?, pod.ipv6()?)])
    };
    assert_eq!(tracked_of(&on)?, [false, false]);
    assert_eq!(tracked_of(&off)?, [true, true]);
    assert_eq!(tracked_of(&bank)?, [true, true]);
    let flows = rig.turnpike(&["lb", "flows"])?;
    for source in flows["sources"].as_array().context("sources")? {
        for direction in ["to_pods", "from_pods"] {
            let reasons = source[direction]["fell_back"].as_array().context("reasons")?;
            assert!(reasons.iter().any(|one| one["reason"] == "pod_excluded"), "{source:#}");
        }
    }
    for (pod, words) in [("off", "turnpike.io/lb-bypass"), ("bank/bank", "not for namespace `bank`")] {
        let why = rig.turnpike(&["why", pod])?;
        let facts = why["facts"].as_array().context("facts")?;
        assert!(
            facts.iter().any(|fact| fact["text"].as_str().is_some_and(|text| text.contains(words))),
            "{why:#}"
        );
    }
    let check = rig.turnpike(&["toa", "check", "bank/bank"])?;
    assert!(check["findings"].to_string().contains("exceptNamespaces"), "{check:#}");
    assert!(check["counters"]["opted_out"].as_u64() >= Some(2), "{check:#}");

    // The other way round: what was tracked bypasses, what bypassed is tracked, and nothing breaks.
    let turned = NOT_FOR_BANK.replace("exceptNamespaces", "namespaces");
    rig.turnpike.set_resource("balancer.yaml", &turned)?;
    poll_result(DEADLINE, "the bank to bypass, and nobody else", || {
        rig.turnpike.node().run(&["conntrack", "-F"])?;
        for (connection, first) in &mut established {
            ensure!(connection.ask()? == *first, "an established connection goes on and keeps its client");
        }
        ensure!(tracked_of(&bank)? == [false, false], "the bank is still tracked");
        ensure!(tracked_of(&on)? == [true, true], "the others still bypass");
        Ok(())
    })?;
    drop((established, director, on, off, bank));
    lab.finish()
}

/// Names clients of UDP sessions; DNS and a port of its own.
const UOA: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: dpvs}
spec: {cidrs: [10.9.1.0/24, 'fd00:9:1::/64'], bypass: true, uoa: true, ports: [{protocol: UDP, port: 5353}]}
";

/// Says whom each datagram is from, to whom it is from.
const UDP_SERVER: &str = "\
import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind(('::', 5353))
while True:
    data, peer = server.recvfrom(2000)
    server.sendto(data + b' from %s %d' % (peer[0].encode(), peer[1]), peer)
";

/// A director's part by hand, as DPVS does it: the first datagram of a session in protocol 248 with the client, the second
/// plain. Prints the answers.
const DPVS: &str = "\
import socket, struct, sys
local, pod, client, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
family = socket.AF_INET6 if ':' in pod else socket.AF_INET
answers = socket.socket(family, socket.SOCK_DGRAM)
answers.bind((local, port))
answers.settimeout(20)
address = socket.inet_pton(family, client)
option = struct.pack('!BBH', 31, 4 + len(address), 40000) + address
header = struct.pack('!BBH', 0x20 if family == socket.AF_INET6 else 0x10, 17, 4 + len(option))
payload = b'first'
udp = struct.pack('!HHHH', port, 5353, 8 + len(payload), 0) + payload
if family == socket.AF_INET6:
    words = socket.inet_pton(family, local) + socket.inet_pton(family, pod) + struct.pack('!II', len(udp), 17) + udp
    words += bytes(len(words) % 2)
    total = sum(struct.unpack('!%dH' % (len(words) // 2), words))
    while total > 0xffff:
        total = (total & 0xffff) + (total >> 16)
    udp = udp[:6] + struct.pack('!H', ~total & 0xffff or 0xffff) + udp[8:]
raw = socket.socket(family, socket.SOCK_RAW, 248)
raw.bind((local, 0))
raw.sendto(header + option + udp, (pod, 0))
print(answers.recv(2000).decode())
answers.sendto(b'second', (pod, 5353))
print(answers.recv(2000).decode())
";

/// Verifies: a UDP server in a pod sees the clients that a director names by UOA, its answers reach the director, on both
/// families; a pod that opted out sees the director; taken out of the resource it ends; none of it is in conntrack.
#[test]
fn udp_servers_see_the_clients_that_a_director_names() -> Result<()> {
    let lab = Lab::new("lb-uoa")?;
    let rig = Rig::new(&lab, UOA)?;
    let container = || ContainerSpec::new(Image::Python).command(&["python3", "-c", UDP_SERVER]);
    let pod = rig.turnpike.run_pod(PodSpec::new("udp", container()))?;
    let off = rig.turnpike.run_pod(PodSpec::new("off", container()).annotation("turnpike.io/toa", "off"))?;
    for (local, length) in LOCAL.iter().zip([32, 128]) {
        rig.director.addr("lo", &format!("{local}/{length}"))?;
    }
    let mut port = 5000;
    let mut ask = |pod: &turnpike_testbed::Pod, v6: bool| -> Result<Vec<String>> {
        let (local, to, client) = if v6 {
            (LOCAL[1], pod.ipv6()?.to_string(), "fd00:c::10")
        } else {
            (LOCAL[0], pod.ipv4()?.to_string(), "192.0.2.10")
        };
        port += 1;
        let text = rig.director.text(&["python3", "-c", DPVS, local, &to, client, &port.to_string()])?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    for (v6, client) in [(false, "::ffff:192.0.2.10"), (true, "fd00:c::10")] {
        let answers = poll_result(DEADLINE, "the server to answer", || ask(&pod, v6))?;
        assert_eq!(answers, [format!("first from {client} 40000"), format!("second from {client} 40000")]);
    }
    let answers = poll_result(DEADLINE, "the other server to answer", || ask(&off, false))?;
    assert!(answers.iter().all(|line| line.contains("from ::ffff:10.9.1.1 ")), "{answers:?}");
    let check = rig.turnpike(&["toa", "check", "default/udp"])?;
    assert_eq!(
        (&check["uoa"], &check["uoa_sources"][0]),
        (&Value::from(true), &Value::from("dpvs")),
        "{check:#}"
    );
    assert_eq!(check["findings"], Value::from(Vec::<Value>::new()), "{check:#}");
    assert_eq!(rig.tracked()?, [0, 0], "the datagram with the option, too, stays out of conntrack");

    rig.turnpike.set_resource("balancer.yaml", &UOA.replace("uoa: true, ", ""))?;
    wait(&rig, &["toa", "check", "default/udp"], "the programs to go", |check| check["uoa"] == false)?;
    let plain = "import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('10.9.1.1', 5001))\n\
                 s.settimeout(20)\ns.sendto(b'plain', (sys.argv[1], 5353))\nprint(s.recv(2000).decode())";
    let text = rig.director.text(&["python3", "-c", plain, &pod.ipv4()?.to_string()])?;
    assert_eq!(
        text.trim(),
        "plain from ::ffff:10.9.1.1 5001",
        "a session that was told about shows its director"
    );
    drop((pod, off));
    lab.finish()
}

//! Ports of the node that lead to pods, through the agent's own nftables table or through a portmap plugin beside it.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use turnpike_testbed::containerd::{CNI_BIN_DIR, PortMapping, REFERENCE_PLUGINS};
use turnpike_testbed::{Lab, Node, PodSpec, poll_result};

use super::verbs::{call, plugin, stdin};
use super::{DEADLINE, NODE, OUTSIDE, host, start};

/// What nginx in the pod behind a URL sees as its client, asked from a box.
fn seen_by_node(place: &Node, url: &str) -> Result<String> {
    let body = poll_result(DEADLINE, url, || place.text(&["timeout", "5", "busybox", "wget", "-qO-", url]))?;
    Ok(body.split_whitespace().next().context("an address")?.to_owned())
}

/// One try that must fail.
fn refused(place: &Node, url: &str) -> Result<()> {
    let output = place.run_unchecked(&["timeout", "5", "busybox", "wget", "-qO-", url])?;
    ensure!(!output.status.success(), "{url} still leads somewhere");
    Ok(())
}

fn url(address: &str, port: u16) -> Result<String> {
    Ok(format!("http://{}:{port}/", host(address.parse()?)))
}

/// Verifies: a host port leads to the pod from outside with the client's own address, from another pod, from the pod
/// itself (who then sees his node), from the node at its addresses and at 127.0.0.1; over the agent's death too; and
/// no longer once the pod is gone. The pod reaches nothing on the node's loopback.
#[test]
fn a_host_port_leads_to_its_pod_from_everywhere() -> Result<()> {
    let lab = Lab::new("cni-hostport")?;
    let (turnpike, outside) = start(&lab)?;
    let n1 = turnpike.node();
    let mut server = turnpike.run_pod(PodSpec::nginx("server").host_port(18080, 80))?;
    let mut other = turnpike.run_pod(PodSpec::busybox("other"))?;
    for (node, outer) in NODE.iter().zip(OUTSIDE) {
        let url = url(node, 18080)?;
        assert_eq!(seen_by_node(&outside, &url)?, outer, "from outside");
        assert_eq!(seen_by_node(n1, &url)?, *node, "from the node");
        let of_family = |ip: &&std::net::IpAddr| ip.is_ipv6() == node.contains(':');
        let own = other.ips().iter().find(of_family).context("an address")?.to_string();
        let seen = |pod: &turnpike_testbed::containerd::Pod| -> Result<String> {
            let body = poll_result(DEADLINE, &url, || pod.exec(&["timeout", "5", "wget", "-qO-", &url]))?;
            Ok(body.split_whitespace().next().context("an address")?.to_owned())
        };
        assert_eq!(seen(&other)?, own, "from another pod");
        assert_eq!(seen(&server)?, *node, "from the pod itself");
    }
    assert_eq!(seen_by_node(n1, "http://127.0.0.1:18080/")?, NODE[0], "from the node's loopback");
    let guarded = n1.text(&["nft", "list", "chain", "inet", "turnpike", "host_ports_guard"])?;
    assert!(guarded.contains("drop"), "{guarded}");

    turnpike.kill_agent()?;
    assert_eq!(seen_by_node(&outside, &url(NODE[0], 18080)?)?, OUTSIDE[0], "without an agent");
    n1.run(&["nft", "delete", "table", "inet", "turnpike"])?;
    turnpike.start_agent()?;
    assert_eq!(seen_by_node(&outside, &url(NODE[0], 18080)?)?, OUTSIDE[0], "put back from the books");

    server.remove()?;
    for node in NODE {
        refused(&outside, &url(node, 18080)?)?;
        refused(n1, &url(node, 18080)?)?;
    }
    other.remove()?;
    let tables = n1.text(&["nft", "list", "tables"])?;
    assert!(!tables.contains("turnpike"), "nothing asks for a table any more: {tables}");
    lab.finish()
}

/// Verifies: a port that a pod has is refused to another, which hears who has it; the same number of the other
/// protocol is not; and the port is free again once its holder is gone.
#[test]
fn a_host_port_has_one_holder_who_is_named() -> Result<()> {
    let lab = Lab::new("cni-hostport-taken")?;
    let (turnpike, _outside) = start(&lab)?;
    let mut first = turnpike.run_pod(PodSpec::busybox("first").host_port(18080, 80))?;
    let error = turnpike.run_pod(PodSpec::busybox("second").host_port(18080, 80)).map(drop);
    let error = format!("{:#}", error.expect_err("the port is taken"));
    assert!(error.contains("default/first") && error.contains("18080"), "{error}");
    let mut udp = PodSpec::busybox("udp");
    udp.port_mappings.push(PortMapping { host_port: 18080, container_port: 80, udp: true });
    let mut udp = turnpike.run_pod(udp)?;
    first.remove()?;
    let mut second = turnpike.run_pod(PodSpec::busybox("second").host_port(18080, 80))?;
    second.remove()?;
    udp.remove()?;
    lab.finish()
}

/// A socket that gives up in time.
fn socket(bound: std::io::Result<UdpSocket>) -> Result<UdpSocket> {
    let socket = bound?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    Ok(socket)
}

/// A client's datagram reaches the server and is answered; repeated, because datagrams may be lost.
fn talk(client: &UdpSocket, server: &UdpSocket, words: &str) -> Result<SocketAddr> {
    poll_result(DEADLINE, words, || {
        client.send(words.as_bytes())?;
        let mut buffer = [0; 64];
        let (length, from) = server.recv_from(&mut buffer)?;
        ensure!(buffer.get(..length) == Some(words.as_bytes()), "an older datagram");
        server.send_to(words.as_bytes(), from)?;
        let length = client.recv(&mut buffer)?;
        ensure!(buffer.get(..length) == Some(words.as_bytes()), "an older answer");
        Ok(from)
    })
}

/// Verifies: UDP, IPv4 and IPv6: a client that talks all the time reaches the pod that has the port, and the next one
/// after it: neither the node's nor the old pod's conntrack entry holds the flow.
#[test]
fn a_udp_flow_follows_its_host_port_to_the_next_pod() -> Result<()> {
    let lab = Lab::new("cni-hostport-udp")?;
    let (turnpike, outside) = start(&lab)?;
    let mut clients = Vec::new();
    for (node, any) in NODE.iter().zip(["0.0.0.0:0", "[::]:0"]) {
        let client = socket(outside.in_netns(|| UdpSocket::bind(any))?)?;
        client.connect(SocketAddr::new(node.parse()?, 15353))?;
        // Before the port is mapped: an entry of the node's own, if its conntrack looks at all.
        client.send(b"early")?;
        clients.push(client);
    }
    for name in ["one", "two"] {
        let mut spec = PodSpec::busybox(name);
        spec.port_mappings.push(PortMapping { host_port: 15353, container_port: 53, udp: true });
        let mut pod = turnpike.run_pod(spec)?;
        for (client, any) in clients.iter().zip(["0.0.0.0:53", "[::]:53"]) {
            let server = socket(pod.in_netns(|| UdpSocket::bind(any))?)?;
            let from = talk(client, &server, name)?;
            assert!(OUTSIDE.iter().any(|outer| from.ip().to_string() == *outer), "{from}");
        }
        pod.remove()?;
        if name == "two" {
            poll_result(Duration::from_secs(10), "the flows of a pod that is gone to go", || {
                let list = ["sh", "-c", "conntrack -L -p udp --dport 15353 2>/dev/null"];
                let entries = turnpike.node().text(&list)?;
                ensure!(!entries.contains("10.244."), "{entries}");
                Ok(())
            })?;
        }
    }
    lab.finish()
}

/// Verifies: SCTP is refused with words; CHECK notices a port that leads elsewhere, and the agent puts it back.
#[test]
fn sctp_is_refused_and_check_sees_a_lost_port() -> Result<()> {
    let lab = Lab::new("cni-hostport-check")?;
    let (turnpike, _outside) = start(&lab)?;
    let n1 = turnpike.node();
    n1.run(&["ip", "netns", "add", "p1"])?;
    let with_ports = |ports: serde_json::Value| -> Result<serde_json::Value> {
        let mut config = stdin(&turnpike, "1.0.0")?;
        config["runtimeConfig"] = json!({ "portMappings": ports });
        Ok(config)
    };
    let sctp = with_ports(json!([{ "hostPort": 9, "containerPort": 9, "protocol": "sctp" }]))?;
    let (code, answer) = plugin(&turnpike, &call("ADD", "p1"), &sctp)?;
    assert!(code != 0 && answer["code"] == 7, "{answer}");
    assert!(answer["msg"].as_str().unwrap_or_default().contains("SCTP"), "{answer}");

    let config = with_ports(json!([
        { "HostPort": 18081, "ContainerPort": 80, "Protocol": "TCP", "HostIP": NODE[0] },
        { "HostPort": 18081, "ContainerPort": 81, "Protocol": "TCP", "HostIP": NODE[1] }
    ]))?;
    let (code, result) = plugin(&turnpike, &call("ADD", "p1"), &config)?;
    assert_eq!(code, 0, "{result}");
    let mut check = config.clone();
    check["prevResult"] = result;
    assert_eq!(plugin(&turnpike, &call("CHECK", "p1"), &check)?.0, 0);
    let set = ["nft", "list", "map", "inet", "turnpike", "host_ports_at4"];
    assert!(n1.text(&set)?.contains("18081"), "{}", n1.text(&set)?);
    n1.run(&["nft", "flush", "map", "inet", "turnpike", "host_ports_at4"])?;
    poll_result(DEADLINE, "the port to be put back", || {
        ensure!(n1.text(&set)?.contains("18081"), "it is not there");
        Ok(())
    })?;
    assert_eq!(plugin(&turnpike, &call("CHECK", "p1"), &check)?.0, 0);
    assert_eq!(plugin(&turnpike, &call("DEL", "p1"), &config)?.0, 0);
    n1.run(&["ip", "netns", "del", "p1"])?;
    lab.finish()
}

/// Verifies: beside a portmap plugin in the chain (and without the capability on ours) the port leads to the pod, and
/// our table has no part in it.
#[test]
fn a_portmap_plugin_in_the_chain_does_it_just_as_well() -> Result<()> {
    let lab = Lab::new("cni-portmap")?;
    let (turnpike, outside) = start(&lab)?;
    let n1 = turnpike.node();
    n1.run(&["ip", "netns", "add", "p1"])?;
    let config = stdin(&turnpike, "1.0.0")?;
    let (code, result) = plugin(&turnpike, &call("ADD", "p1"), &config)?;
    assert_eq!(code, 0, "{result}");
    let portmap = json!({
        "cniVersion": "1.0.0", "name": "turnpike", "type": "portmap", "prevResult": result,
        "runtimeConfig": { "portMappings": [{ "hostPort": 18082, "containerPort": 80, "protocol": "tcp" }] }
    });
    let run = |verb: &'static str| -> Result<()> {
        n1.write_file("/run/portmap", portmap.to_string())?;
        let mut argv = vec!["env".to_owned(), format!("CNI_PATH={CNI_BIN_DIR}")];
        argv.extend(call(verb, "p1").iter().map(|(key, value)| format!("{key}={value}")));
        let program = Path::new(REFERENCE_PLUGINS).join("portmap");
        argv.extend(["sh".into(), "-c".into(), format!("exec {} < /run/portmap", program.display())]);
        n1.run(&argv).map(drop)
    };
    run("ADD")?;
    let mut command = n1.command("ip")?;
    command.args(["netns", "exec", "p1", "busybox", "nc", "-ll", "-p", "80", "-e", "/bin/echo", "here"]);
    let server = n1.spawn("server", command)?;
    poll_result(DEADLINE, "the server behind the port", || {
        let line = format!("timeout 5 busybox nc {} 18082 </dev/null", NODE[0]);
        let answer = outside.text(&["sh", "-c", &line])?;
        ensure!(answer.starts_with("here"), "{answer:?}");
        Ok(())
    })?;
    let tables = n1.text(&["nft", "list", "tables"])?;
    assert!(!tables.contains("inet turnpike"), "{tables}");
    run("DEL")?;
    assert_eq!(plugin(&turnpike, &call("DEL", "p1"), &config)?.0, 0);
    drop(server);
    n1.run(&["ip", "netns", "del", "p1"])?;
    lab.finish()
}

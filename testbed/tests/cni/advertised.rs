//! Uplinks whose IPv6 default route comes from router advertisements.
//!
//! ```text
//!   outside (radvd) eth0 ─── eth0 n1 (accept_ra=1) ── tpk… ── pod
//!                   eth1 ─── eth1 n1 (accept_ra=0)
//! ```

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::turnpike_node::TurnpikeNode;
use turnpike_testbed::{Lab, Node, PodSpec, binary, poll_result};

use super::{DEADLINE, NODE, OUTSIDE, V6, config, wire_links};

/// The router says every few seconds that it is there, to whoever has an address of these networks.
const RADVD: &str = "\
interface eth0 {
  AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 60;
  prefix fd00:1:1::/64 {};
};
interface eth1 {
  AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 60;
  prefix fd00:1:2::/64 {};
};
";

/// The default routes that routers have advertised: the interface, and the seconds until the route ends.
fn advertised(node: &Node) -> Result<Vec<(String, u64)>> {
    let text = node.text(&["ip", "-6", "-j", "route", "show", "default", "proto", "ra"])?;
    let routes: Value = serde_json::from_str(&text).context(text)?;
    let routes = routes.as_array().context("routes")?.iter();
    let parsed = routes.map(|route| {
        let dev = route["dev"].as_str().context("dev")?;
        Ok((dev.to_owned(), route["expires"].as_u64().context("expires")?))
    });
    parsed.collect()
}

fn accept_ra(node: &Node, interface: &str) -> Result<String> {
    Ok(node.read_file(format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra"))?.trim().to_owned())
}

/// Verifies: an uplink that listens to router advertisements keeps its default route when the agent switches forwarding on,
/// goes on listening (the route is renewed, and goes when the router says so), and carries pods' traffic; the agent says what
/// it has set, and doctor finds nothing wrong. An uplink that does not listen is left alone; one that comes later and wants to
/// does.
#[test]
fn an_uplink_keeps_the_default_route_that_its_router_advertises() -> Result<()> {
    let lab = Lab::new("cni-advertised")?;
    let (n1, outside) = wire_links(&lab)?;
    lab.link(&n1, "eth1", &outside, "eth1")?;
    n1.run(&["sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=1", "net.ipv6.conf.eth1.accept_ra=0"])?;
    assert_eq!(n1.read_file("/proc/sys/net/ipv6/conf/all/forwarding")?.trim(), "0", "nobody was here before");
    n1.addr("eth0", &format!("{}/24", NODE[0]))?;
    outside.addr("eth0", &format!("{}/24", OUTSIDE[0]))?;
    n1.route(&format!("default via {}", OUTSIDE[0]))?;
    n1.addr("eth0", &format!("{}/64", NODE[1]))?;
    outside.addr("eth0", &format!("{}/64", OUTSIDE[1]))?;
    // Beyond what is on the link: only a default route leads there.
    outside.addr("lo", "fd00:99::1/128")?;
    outside.route(&format!("{} via {}", V6.1, NODE[1]))?;
    outside.write_file("/etc/radvd.conf", RADVD)?;
    let mut command = outside.command("radvd")?;
    command.args(["-n", "-m", "stderr", "-C", "/etc/radvd.conf", "-p", "/run/radvd.pid"]);
    let radvd = outside.spawn("radvd", command)?;
    poll_result(DEADLINE, "the default route", || {
        let routes = advertised(&n1)?;
        ensure!(routes.iter().any(|(dev, _)| dev == "eth0"), "{routes:?}; {}", radvd.log());
        Ok(())
    })?;

    let turnpike = TurnpikeNode::start(&n1, &config())?;
    assert_eq!(n1.read_file("/proc/sys/net/ipv6/conf/all/forwarding")?.trim(), "1");
    assert_eq!((accept_ra(&n1, "eth0")?.as_str(), accept_ra(&n1, "eth1")?.as_str()), ("2", "0"));
    let log = turnpike.agent_log();
    ensure!(log.lines().any(|line| line.contains("accept_ra") && line.contains("eth0")), "{log}");
    let mut left = advertised(&n1)?.first().context("the default route is gone")?.1;
    poll_result(DEADLINE, "the default route to be renewed", || {
        let routes = advertised(&n1)?;
        ensure!(routes.iter().all(|(dev, _)| dev == "eth0"), "{routes:?}");
        let before = std::mem::replace(&mut left, routes.first().context("the default route is gone")?.1);
        ensure!(left > before, "{before} s left, then {left} s");
        Ok(())
    })?;
    let mut pod = turnpike.run_pod(PodSpec::busybox("far"))?;
    pod.exec(&["ping", "-c", "1", "-W", "5", "fd00:99::1"])?;
    let doctor = n1.run_unchecked(&[binary("turnpike")?.as_os_str(), "doctor".as_ref()])?;
    let doctor = String::from_utf8(doctor.stdout)?;
    for check in ["accept_ra", "default route"] {
        let line = doctor.lines().find(|line| line.contains(check)).with_context(|| doctor.clone())?;
        assert!(line.starts_with("good"), "{doctor}");
    }
    pod.remove()?;

    // Links that come when forwarding is on already: an uplink has an address, and what leads to somebody's container none.
    lab.link(&n1, "late0", &outside, "late0")?;
    lab.link(&n1, "inner0", &outside, "inner0")?;
    n1.addr("late0", "10.1.9.1/24")?;
    n1.run(&["sysctl", "-qw", "net.ipv6.conf.late0.accept_ra=1", "net.ipv6.conf.inner0.accept_ra=1"])?;
    poll_result(DEADLINE * 3, "the late uplink to listen", || {
        let value = accept_ra(&n1, "late0")?;
        ensure!(value == "2", "accept_ra is {value}");
        Ok(())
    })?;
    assert_eq!(accept_ra(&n1, "inner0")?, "1", "nobody asked for that one");

    // A router that ends takes its word back; who had gone deaf would believe it for the rest of a minute.
    radvd.stop()?;
    poll_result(DEADLINE, "the default route to go with its router", || {
        let routes = advertised(&n1)?;
        ensure!(routes.is_empty(), "{routes:?}");
        Ok(())
    })?;
    lab.finish()
}

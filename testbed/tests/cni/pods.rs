//! What a pod can do once ADD has returned, and what is left once it is gone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use ipnetwork::IpNetwork;
use turnpike_testbed::containerd::Pod;
use turnpike_testbed::{ContainerSpec, Image, Lab, PodSpec, poll_result};

use super::{DEADLINE, NODE, OUTSIDE, V4, V6, host, start};

/// A pod with nginx, and with a shell that has wget and ping.
fn server(name: &str) -> PodSpec {
    PodSpec::nginx(name)
}

/// The source address that nginx in a pod sees of a client in another.
fn seen_by(client: &Pod, server: IpAddr) -> Result<String> {
    let url = format!("http://{}/", host(server));
    let body = poll_result(DEADLINE, &url, || client.exec(&["timeout", "5", "wget", "-qO-", &url]))?;
    Ok(body.split_whitespace().next().context("an address")?.to_owned())
}

/// Verifies: an address of each family out of the node's blocks, and every pair that must talk: pod to pod, to itself,
/// to its host and back, to the outside and back; the server always sees the pod's own address.
#[test]
fn pods_reach_each_other_themselves_their_host_and_the_outside() -> Result<()> {
    let lab = Lab::new("cni-matrix")?;
    let (turnpike, outside) = start(&lab)?;
    let mut a = turnpike.run_pod(server("a"))?;
    let mut b = turnpike.run_pod(server("b"))?;
    for pod in [&a, &b] {
        let blocks: [IpNetwork; 2] = [V4.1.parse()?, V6.1.parse()?];
        assert!(blocks[0].contains(pod.ipv4()?) && blocks[1].contains(pod.ipv6()?), "{:?}", pod.ips());
    }
    for (from, to) in [(a.ipv4()?, b.ipv4()?), (a.ipv6()?, b.ipv6()?)] {
        assert_eq!(seen_by(&a, to)?, from.to_string(), "pod to pod");
        assert_eq!(seen_by(&a, from)?, from.to_string(), "pod to itself");
        a.exec(&["ping", "-c", "1", "-W", "5", &to.to_string()])?;
    }
    for (node, outer) in NODE.iter().zip(OUTSIDE) {
        a.exec(&["ping", "-c", "1", "-W", "5", node])?;
        a.exec(&["ping", "-c", "1", "-W", "5", outer])?;
    }
    for (place, sources) in [(turnpike.node(), NODE), (&outside, OUTSIDE)] {
        for (pod, source) in [a.ipv4()?, a.ipv6()?].into_iter().zip(sources) {
            let url = format!("http://{}/", host(pod));
            let body = place.text(&["timeout", "5", "busybox", "wget", "-qO-", &url])?;
            assert!(body.starts_with(&format!("{source} ")), "{body:?} at {url} from {}", place.name());
        }
    }
    a.remove()?;
    b.remove()?;
    lab.finish()
}

/// Verifies: the pod's link is what the design says: own MAC of the host side, permanent neighbours, /32 and /128.
#[test]
fn a_pods_link_needs_no_arp_from_the_host() -> Result<()> {
    let lab = Lab::new("cni-link")?;
    let (turnpike, _outside) = start(&lab)?;
    let pod = turnpike.run_pod(PodSpec::busybox("a"))?;
    let addresses = pod.exec(&["ip", "addr", "show", "dev", "eth0"])?;
    for ip in pod.ips() {
        let length = if ip.is_ipv4() { 32 } else { 128 };
        assert!(addresses.contains(&format!("{ip}/{length}")), "{addresses}");
    }
    let neighbours = pod.exec(&["ip", "neigh", "show", "dev", "eth0"])?;
    for line in ["169.254.1.1 lladdr ee:ee:ee:ee:ee:ee", "fe80::ecee:eeff:feee:eeee lladdr ee:ee:ee:ee:ee:ee"]
    {
        let found = neighbours.lines().any(|text| text.starts_with(line) && text.ends_with("PERMANENT"));
        assert!(found, "{neighbours}");
    }
    let links = turnpike.node().links()?;
    assert_eq!(links.iter().filter(|name| name.starts_with("tpk")).count(), 1, "{links:?}");
    drop(pod);
    lab.finish()
}

/// Verifies: the bandwidth annotations arrive through containerd's capitalised runtimeConfig, and its burst of
/// 4294967295 is not taken for one.
#[test]
fn bandwidth_annotations_reach_the_agent() -> Result<()> {
    let lab = Lab::new("cni-bandwidth")?;
    let (turnpike, _outside) = start(&lab)?;
    let limited = turnpike.run_pod(PodSpec::busybox("limited").bandwidth("10M", "20M"))?;
    let free = turnpike.run_pod(PodSpec::busybox("free"))?;
    let of = |pod: &Pod| -> Result<(Option<u64>, Option<u64>)> {
        let status = turnpike.pod_status(pod)?.context("the agent does not know the pod")?;
        Ok((status.to_workload, status.from_workload))
    };
    assert_eq!(of(&limited)?, (Some(10_000_000), Some(20_000_000)));
    assert_eq!(of(&free)?, (None, None));
    drop((limited, free));
    lab.finish()
}

/// Verifies: three DELs for each pod are three successes, and 30 pods that came and went side by side leave no link,
/// route, rule, reservation or namespace.
#[test]
fn thirty_pods_come_and_go_and_leave_nothing() -> Result<()> {
    let lab = Lab::new("cni-thirty")?;
    let (turnpike, _outside) = start(&lab)?;
    let node = turnpike.node();
    // The first pod's coming and going makes what stays: tables, qdiscs of the uplink, the blocks' routes.
    turnpike.run_pod(PodSpec::busybox("first"))?.remove()?;
    // DEL cuts a pod off, and its link is deleted a little later.
    poll_result(DEADLINE, "the first pod's link to go", || -> Result<()> {
        let links = node.links()?;
        ensure!(!links.iter().any(|link| link.starts_with("tpk")), "{links:?}");
        Ok(())
    })?;
    let before = footprint(&turnpike)?;
    let mut pods = thread::scope(|scope| {
        let starters: Vec<_> = (0..3)
            .map(|worker| {
                let turnpike = &turnpike;
                scope.spawn(move || -> Result<Vec<Pod>> {
                    (0..10).map(|number| turnpike.run_pod(pause(&format!("p{worker}-{number}")))).collect()
                })
            })
            .collect();
        let mut pods = Vec::new();
        for starter in starters {
            pods.extend(starter.join().expect("a starter panicked")?);
        }
        Ok::<_, anyhow::Error>(pods)
    })?;
    let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.ips().to_vec()).collect();
    assert_eq!(addresses.len(), 60);
    assert_eq!(turnpike.status()?.pods.len(), 30);
    thread::scope(|scope| {
        let enders: Vec<_> = pods.iter_mut().map(|pod| scope.spawn(|| pod.remove())).collect();
        enders.into_iter().try_for_each(|ender| ender.join().expect("an ender panicked").map(drop))
    })?;
    assert_eq!(turnpike.status()?.pods, []);
    poll_result(DEADLINE, "nothing to be left", || -> Result<()> {
        let after = footprint(&turnpike)?;
        ensure!(after == before, "{after}\ninstead of\n{before}");
        Ok(())
    })?;
    assert_eq!(node.text(&["ls", "/run/netns"])?, "");
    lab.finish()
}

/// A pod without any container but its sandbox's own.
fn pause(name: &str) -> PodSpec {
    let mut spec = PodSpec::new(name, ContainerSpec::new(Image::Pause));
    spec.containers.clear();
    spec
}

/// What pods may leave in the kernel of a node.
pub(super) fn footprint(turnpike: &turnpike_testbed::turnpike_node::TurnpikeNode) -> Result<String> {
    let node = turnpike.node();
    let mut text = node.links()?.join("\n");
    for command in [
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip neigh show nud permanent",
        "tc filter show dev eth0 egress",
    ] {
        text.push_str(&format!("\n# {command}\n{}", node.text(&command.split(' ').collect::<Vec<_>>())?));
    }
    // Sets list the pods; counters and handles change.
    let rules = node.text(&["nft", "-s", "list", "ruleset"])?;
    Ok(format!("{text}\n# nft\n{rules}"))
}

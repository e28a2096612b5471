//! Three data centres and one cluster stretched over all of them; what they are configured with is
//! `deploy/examples/multi-idc`, with the numbers of each data centre put in.
//!
//! ```text
//!   node1, rr1a, rr1b ─┐              ┌─ gw2a ── node2, rr2a, rr2b    AS 65002, 10.2.0.0/24
//!   AS 65001           ├─ gw1a ─ core ┤
//!   10.1.0.0/24        └─ gw1b ─  │   └─ gw3a ── node3, rr3a, rr3b    AS 65003, 10.3.0.0/24
//!                          172.16.0.0/24
//! ```
//!
//! Inside a data centre BGP, between gateways OSPF, and every gateway hands each to the other. The trap is set: the gateways'
//! default routes lead in a circle (gw1 → gw2 → gw3 → gw1), and those of the nodes to the first gateway.

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use turnpike_bgpd_api::view::PathView;
use turnpike_bgpd_api::{DEFAULT_CONFIG, Request, RibQuery, Select, Table};
use turnpike_testbed::{Lab, Link, Node, Process, poll_result};

use crate::daemon::{DEADLINE, Daemon};

const REFLECTOR: &str = include_str!("../../../deploy/examples/multi-idc/reflector.toml");
const NODE: &str = include_str!("../../../deploy/examples/multi-idc/node.toml");
const GATEWAY: &str = include_str!("../../../deploy/examples/multi-idc/gateway.conf");

const SITES: [u8; 3] = [1, 2, 3];

/// The example for another data centre.
fn at(site: u8, example: &str) -> String {
    example
        .replace("65001", &format!("6500{site}"))
        .replace("10.1.0.", &format!("10.{site}.0."))
        .replace("10.244.1.", &format!("10.244.{site}."))
}

/// The second one of a pair: it has an identifier of its own.
fn second(example: &str, first: &str, second: &str) -> Result<String> {
    ensure!(example.contains(first), "no {first:?} in the example");
    Ok(example.replace(first, second))
}

/// A gateway: zebra, staticd, ospfd and bgpd of FRR.
struct Gateway {
    node: Node,
    _daemons: Vec<Process>,
}

impl Gateway {
    fn start(node: &Node, config: &str) -> Result<Self> {
        node.write_file("/run/frr/empty.conf", "")?;
        node.run(&["chown", "-R", "frr:frr", "/run/frr"])?;
        let mut daemons = Vec::new();
        for name in ["zebra", "staticd", "ospfd", "bgpd"] {
            let mut command = node.command(format!("/usr/lib/frr/{name}"))?;
            command.args(["-f", "/run/frr/empty.conf", "--log", "stdout"]);
            let process = node.spawn(name, command)?;
            poll_result(DEADLINE, name, || match process.try_wait()? {
                Some(status) => Ok(Err(anyhow!("{name} ended, {status}:\n{}", process.log()))),
                None => node.run(&["vtysh", "-d", name, "-c", "show version"]).map(|_| Ok(())),
            })??;
            daemons.push(process);
        }
        node.write_file("/etc/frr/gateway.conf", config)?;
        let said = node.text(&["vtysh", "-f", "/etc/frr/gateway.conf"])?;
        ensure!(!said.contains('%'), "FRR refuses: {said}");
        let shows = ["show ip route", "show ip ospf neighbor", "show ip ospf database external", "show bgp"];
        let argv: Vec<&str> =
            ["vtysh"].into_iter().chain(shows.into_iter().flat_map(|s| ["-c", s])).collect();
        node.on_failure("frr.txt", &argv);
        Ok(Self { node: node.clone(), _daemons: daemons })
    }

    fn configure(&self, lines: &[&str]) -> Result<()> {
        let words = ["configure terminal"].iter().chain(lines).flat_map(|line| ["-c", *line]);
        let said = self.node.text(&["vtysh"].into_iter().chain(words).collect::<Vec<_>>())?;
        ensure!(!said.contains('%'), "FRR refuses: {said}");
        Ok(())
    }

    /// What its kernel got for exactly this prefix: protocol and tag.
    fn route(&self, prefix: &str) -> Result<Option<(String, u64)>> {
        let said = self.node.json(&["vtysh", "-c", &format!("show ip route {prefix} json")])?;
        let all = said.get(prefix).and_then(Value::as_array).cloned().unwrap_or_default();
        let chosen = all.iter().find(|one| one["installed"] == true);
        Ok(chosen.map(|one| {
            (one["protocol"].as_str().unwrap_or_default().to_owned(), one["tag"].as_u64().unwrap_or(0))
        }))
    }

    fn wait_route(&self, prefix: &str, wanted: Option<(&str, u64)>) -> Result<()> {
        poll_result(DEADLINE, &format!("{wanted:?} for {prefix} at {}", self.node.name()), || {
            let found = self.route(prefix)?;
            let same = found.as_ref().map(|(protocol, tag)| (protocol.as_str(), *tag)) == wanted;
            ensure!(same, "it is {found:?}");
            Ok(())
        })
    }
}

struct Site {
    node: Node,
    bgpd: Daemon,
    reflectors: Vec<Daemon>,
    gateways: Vec<Gateway>,
}

fn block(site: u8) -> String {
    format!("10.244.{site}.0/26")
}

/// An address of a node's block that the node itself holds.
fn pod(site: u8) -> String {
    format!("10.244.{site}.1")
}

struct Lan {
    node: Node,
    reflectors: Vec<Node>,
    gateways: Vec<Node>,
}

/// The wires of a data centre; those into the core come in with `core`.
fn wire(lab: &Lab, site: u8, core: &mut Vec<(Node, String)>, links: &mut Vec<Link>) -> Result<Lan> {
    let switch = lab.node(&format!("lan{site}"))?;
    let mut ports = Vec::new();
    let mut member = |name: &str, host: u8| -> Result<Node> {
        let node = lab.node(name)?;
        links.push(lab.link(&switch, name, &node, "eth0")?);
        node.addr("eth0", &format!("10.{site}.0.{host}/24"))?;
        ports.push(name.to_owned());
        Ok(node)
    };
    let node = member(&format!("node{site}"), 21)?;
    node.forward()?;
    node.addr("lo", &format!("{}/32", pod(site)))?;
    node.route(&format!("default via 10.{site}.0.1"))?;
    let reflectors = vec![member(&format!("rr{site}a"), 11)?, member(&format!("rr{site}b"), 12)?];
    // Where a data centre has two gateways, each hears through OSPF what the other has let out of BGP.
    let letters: &[(&str, u8)] = if site == 1 { &[("a", 1), ("b", 2)] } else { &[("a", 1)] };
    let mut gateways = Vec::new();
    for (letter, host) in letters {
        let gateway = member(&format!("gw{site}{letter}"), *host)?;
        gateway.forward()?;
        core.push((gateway.clone(), format!("172.16.0.{site}{host}/24")));
        gateways.push(gateway);
    }
    switch.bridge("br0", &ports.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(Lan { node, reflectors, gateways })
}

/// Every router counts the echo requests that come to it.
fn count_visits(node: &Node) -> Result<()> {
    node.run(&[
        "nft",
        "add table ip probe; add counter ip probe visits; \
                add chain ip probe in { type filter hook prerouting priority -300; }",
    ])?;
    node.run(&["nft", "add rule ip probe in icmp type echo-request counter name visits"]).map(drop)
}

fn build(lab: &Lab) -> Result<(Vec<Site>, Vec<Link>)> {
    let (mut core, mut links, mut lans) = (Vec::new(), Vec::new(), Vec::new());
    for site in SITES {
        lans.push(wire(lab, site, &mut core, &mut links)?);
    }
    let switch = lab.node("core")?;
    let mut ports = Vec::new();
    for (gateway, address) in &core {
        links.push(lab.link(&switch, gateway.name(), gateway, "eth1")?);
        gateway.addr("eth1", address)?;
        ports.push(gateway.name().to_owned());
    }
    switch.bridge("br0", &ports.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut prepared = Vec::new();
    for (site, lan) in SITES.into_iter().zip(lans) {
        for gateway in &lan.gateways {
            gateway.route(&format!("default via 172.16.0.{}1", site % 3 + 1))?;
        }
        for router in lan.gateways.iter().chain([&lan.node]) {
            count_visits(router)?;
        }
        prepared.push((site, lan));
    }
    // Daemons of different data centres know nothing of each other while they start.
    let sites = std::thread::scope(|scope| {
        let started: Vec<_> =
            prepared.into_iter().map(|(site, lan)| scope.spawn(move || start(site, lan))).collect();
        started
            .into_iter()
            .map(|one| one.join().map_err(|_| anyhow!("panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    Ok((sites, links))
}

fn start(site: u8, lan: Lan) -> Result<Site> {
    let (one, two) = (format!("router-id 10.{site}.0.1\n"), format!("router-id 10.{site}.0.2\n"));
    let gateway = at(site, GATEWAY);
    let configs = [gateway.clone(), second(&gateway, &one, &two)?];
    let gateways = lan.gateways.iter().zip(&configs).map(|(node, config)| Gateway::start(node, config));
    let gateways = gateways.collect::<Result<Vec<_>>>()?;
    let (one, two) = (format!("router_id = \"10.{site}.0.11\""), format!("router_id = \"10.{site}.0.12\""));
    let reflector = at(site, REFLECTOR);
    let configs = [reflector.clone(), second(&reflector, &one, &two)?];
    let reflectors = lan.reflectors.iter().zip(&configs).map(|(node, config)| Daemon::start(node, config));
    let reflectors = reflectors.collect::<Result<Vec<_>>>()?;
    let bgpd = Daemon::start(&lan.node, &at(site, NODE))?;
    Ok(Site { node: lan.node, bgpd, reflectors, gateways })
}

/// One echo request, with so many routers allowed on the way.
fn ping(from: &Site, source: &str, to: &str, routers: u8) -> Result<bool> {
    let ttl = (routers + 1).to_string();
    let argv = ["ping", "-n", "-c", "1", "-W", "1", "-t", &ttl, "-I", source, to];
    Ok(from.node.run_unchecked(&argv)?.status.success())
}

/// How often each router has seen the echo request that `probe` sends; only those that have.
fn visits(sites: &[Site], probe: impl FnOnce() -> Result<()>) -> Result<Vec<(String, u64)>> {
    let routers: Vec<&Node> = sites
        .iter()
        .flat_map(|site| site.gateways.iter().map(|gateway| &gateway.node).chain([&site.node]))
        .collect();
    counts(&routers)?;
    probe()?;
    let found = routers.iter().map(|router| router.name().to_owned()).zip(counts(&routers)?);
    Ok(found.filter(|(_, count)| *count > 0).collect())
}

/// What the routers have counted since this was asked last.
fn counts(routers: &[&Node]) -> Result<Vec<u64>> {
    let ask = |router: &Node| -> Result<u64> {
        let said = router.json(&["nft", "-j", "reset", "counters", "table", "ip", "probe"])?;
        let counters = said["nftables"].as_array().context("no counters")?;
        counters.iter().find_map(|one| one["counter"]["packets"].as_u64()).context("no counter")
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = routers.iter().map(|router| scope.spawn(move || ask(router))).collect();
        asked.into_iter().map(|one| one.join().map_err(|_| anyhow!("panicked"))?).collect()
    })
}

/// What a reflector has in one of its tables for a prefix.
fn path(reflector: &Daemon, table: Table, prefix: &str) -> Result<Option<PathView>> {
    let query = RibQuery { table, select: Select::Exact(prefix.parse()?), after: None, limit: 10 };
    Ok(reflector.client()?.rib(query)?.pop())
}

fn from(peer: &str) -> Table {
    Table::In(peer.to_owned())
}

fn to(peer: &str) -> Table {
    Table::Out(peer.to_owned())
}

/// Every block is reached from every data centre, by way of two routers and no more.
fn reach(sites: &[Site]) -> Result<()> {
    for (a, here) in SITES.into_iter().zip(sites) {
        for b in SITES.into_iter().filter(|b| *b != a) {
            poll_result(DEADLINE, &format!("{} from {}", pod(b), pod(a)), || {
                ensure!(ping(here, &pod(a), &pod(b), 2)?, "no answer");
                Ok(())
            })?;
            let seen = visits(sites, || ping(here, &pod(a), &pod(b), 64).map(drop))?;
            ensure!(seen.len() == 3 && seen.iter().all(|(_, count)| *count == 1), "{a} to {b}: {seen:?}");
        }
    }
    Ok(())
}

/// Nobody sees an echo request to an address twice.
fn ends_somewhere(sites: &[Site], here: &Site, source: &str, to: &str) -> Result<()> {
    let seen = visits(sites, || {
        ensure!(!ping(here, source, to, 64)?, "{to} answers");
        Ok(())
    })?;
    ensure!(!seen.is_empty() && seen.iter().all(|(_, count)| *count == 1), "{source} to {to}: {seen:?}");
    Ok(())
}

/// Verifies: blocks of a stretched cluster cross BGP → OSPF → BGP with their tags and are reached from everywhere over two
/// routers; what a gateway brings in goes to no other gateway; blocks that come back are refused by tag and, from
/// a gateway that forgets its rules, by the reflectors; a packet for an address without a pod, or out of a block that
/// is withdrawn, is seen once by each router although default routes lead in a circle.
#[test]
fn three_data_centres_share_a_cluster_without_a_loop() {
    let lab = Lab::new("bgp-idcs").unwrap();
    let (sites, _links) = build(&lab).unwrap();
    reach(&sites).unwrap();
    tags_and_tables(&sites).unwrap();
    forgetful_gateway(&sites[0]).unwrap();

    // The trap works: what nobody owns goes round until its TTL is used up.
    let lost = visits(&sites, || ping(&sites[1], &pod(2), "10.99.0.1", 62).map(drop)).unwrap();
    assert!(lost.iter().any(|(_, count)| *count > 10), "{lost:?}");
    // An address of a block without a pod.
    ends_somewhere(&sites, &sites[1], &pod(2), "10.244.1.9").unwrap();
    let end = visits(&sites, || ping(&sites[1], &pod(2), "10.244.1.9", 64).map(drop)).unwrap();
    assert!(end.iter().any(|(name, _)| name == "node1"), "the node's own blackhole ends it: {end:?}");
    // A block that is withdrawn.
    let start = NODE.find("[[network]]").unwrap();
    let without = format!("{}{}", &NODE[..start], &NODE[NODE.find("[[peer]]").unwrap()..]);
    sites[0].node.write_file(DEFAULT_CONFIG, without).unwrap();
    sites[0].bgpd.client().unwrap().request(&Request::Reload).unwrap();
    for gateway in sites.iter().flat_map(|site| &site.gateways) {
        gateway.wait_route(&block(1), None).unwrap();
    }
    for (site, here) in SITES.into_iter().zip(&sites).skip(1) {
        ends_somewhere(&sites, here, &pod(site), "10.244.1.9").unwrap();
    }
    for site in &sites {
        site.bgpd.end(Signal::SIGTERM).unwrap();
    }
    drop(sites);
    lab.finish().unwrap();
}

fn tags_and_tables(sites: &[Site]) -> Result<()> {
    for (site, here) in SITES.into_iter().zip(sites) {
        for gateway in &here.gateways {
            for other in SITES {
                let tag = 65_000 + u64::from(other);
                let protocol = if other == site { "bgp" } else { "ospf" };
                gateway.wait_route(&block(other), Some((protocol, tag)))?;
            }
        }
    }
    let [first, ..] = sites else { return Err(anyhow!("no sites")) };
    let [a, b] = first.gateways.as_slice() else { return Err(anyhow!("not two gateways")) };
    for (gateway, other) in [(a, "10.1.0.2"), (b, "10.1.0.1")] {
        let own = gateway.node.text(&["vtysh", "-c", "show ip ospf database external 10.244.1.0"])?;
        ensure!(own.contains(&format!("Advertising Router: {other}")), "it does not come back: {own}");
    }
    for reflector in &first.reflectors {
        for gateway in ["gateway-a", "gateway-b"] {
            let path = |table, prefix: &str| path(reflector, table, prefix);
            let theirs = path(from(gateway), &block(2))?.context("the other site's block")?;
            let tags: Vec<String> = theirs.large_communities.iter().map(ToString::to_string).collect();
            ensure!(tags == ["65001:2:0"], "{tags:?}");
            ensure!(path(from(gateway), &block(1))?.is_none(), "{gateway} brings back our own");
            ensure!(path(to(gateway), &block(1))?.is_some(), "{gateway} is not told our own");
            ensure!(path(to(gateway), &block(2))?.is_none(), "{gateway} is told another's");
        }
    }
    Ok(())
}

/// A gateway that lets everything into BGP: the reflectors refuse our own, by its prefix.
fn forgetful_gateway(site: &Site) -> Result<()> {
    let [_, gateway] = site.gateways.as_slice() else { return Err(anyhow!("not two gateways")) };
    let family = ["router bgp 65001", "no bgp network import-check", "address-family ipv4 unicast"];
    let announced = format!("network {}", block(1));
    gateway.configure(
        &[&family[..], &["no neighbor REFLECTORS route-map TO-REFLECTOR out", &announced]].concat(),
    )?;
    for reflector in &site.reflectors {
        let path = poll_result(DEADLINE, "our own block to come back", || {
            path(reflector, from("gateway-b"), &block(1))?.context("it has not")
        })?;
        let why = path.why.clone().unwrap_or_default();
        ensure!(!path.best && why == "refused by import policy", "{path:?}");
        let query =
            RibQuery { table: Table::Loc, select: Select::Exact(block(1).parse()?), after: None, limit: 10 };
        let best = reflector.client()?.rib(query)?.into_iter().find(|path| path.best).context("no best")?;
        ensure!(best.from_name.as_deref() == Some("node1"), "{best:?}");
    }
    let undo = format!("no {announced}");
    gateway.configure(&[&family[..], &[&undo, "neighbor REFLECTORS route-map TO-REFLECTOR out"]].concat())?;
    gateway.wait_route(&block(1), Some(("bgp", 65_001)))
}

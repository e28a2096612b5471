//! Chapter 4: load-balancer traffic reaches an unmodified nginx past conntrack, and with the client's true address.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::pods::Pods;
use super::probe::ask;
use super::story::Story;
use super::topology::{LOCAL, LOCAL6, Network, ROGUE_LOCAL, ROGUE_VIP, VIP, VIP6};
use crate::director::{Director, DirectorConfig, Protocol, Real, Service, Toa, ToaFormat, ToaInsertion};
use crate::images::NGINX_ACCESS_LOG;
use crate::{Node, Pod};

/// Requests through each virtual service.
const REQUESTS: usize = 20;
/// Where the pod that echoes datagrams listens, as resources.rs lists it.
const UDP_PORT: u16 = 9000;

pub(super) fn chapter(story: &mut Story, network: &Network, pods: &Pods) -> Result<()> {
    story.chapter("Load-balancer traffic: no conntrack, and nginx sees the true client");
    let _trusted = trusted(network, pods)?;
    let _rogue = rogue(network, pods)?;
    let node = &network.node2;
    for (family, rule, vip) in
        [("IPv4", "Alibaba's", (VIP, 80)), ("IPv4", "DPVS's", (VIP, 8080)), ("IPv6", "DPVS's", (VIP6, 80))]
    {
        let vip = SocketAddr::new(vip.0.parse()?, vip.1);
        story.prove(&format!("{family}, {rule} insertion: nginx logs the client's address and port"), || {
            through(network, vip, &pods.www2)
        });
    }
    story.prove("UDP: every datagram comes back through the director", || {
        let answers = echo(&network.client, SocketAddr::new(VIP.parse()?, UDP_PORT))?;
        Ok((format!("{answers} of {REQUESTS} echoed"), answers == REQUESTS))
    });
    story.prove("conntrack on the node holds nothing of it", || {
        let found = [conntrack(node, LOCAL)?, conntrack(node, LOCAL6)?].concat();
        Ok((format!("{} entries with the director's local addresses", found.len()), found.is_empty()))
    });
    story.prove("a director that nobody configured gets no bypass and its option is not believed", || {
        let answer = ask(&network.client, SocketAddr::new(ROGUE_VIP.parse()?, 80), "/")?;
        let logged = answer.body.split_whitespace().next().unwrap_or_default().to_owned();
        let tracked = conntrack(node, ROGUE_LOCAL)?.len();
        Ok((
            format!("nginx sees {logged}, conntrack has {tracked} of its flows"),
            logged == ROGUE_LOCAL && tracked > 0,
        ))
    });
    Ok(())
}

/// Each request's answer and log line name the client's own socket.
fn through(network: &Network, vip: SocketAddr, pod: &Pod) -> Result<(String, bool)> {
    let mut right = 0;
    let mut last = String::new();
    for _ in 0..REQUESTS {
        let answer = ask(&network.client, vip, "/")?;
        let own = format!("{} {}", answer.asked_from.ip(), answer.asked_from.port());
        right += usize::from(answer.body == own);
        last = own;
    }
    let log = pod.exec(&["cat", NGINX_ACCESS_LOG])?;
    let line = log.lines().rev().find(|line| line.starts_with(&last)).unwrap_or("no such line");
    Ok((format!("{right} of {REQUESTS} right; {line}"), right == REQUESTS && line != "no such line"))
}

/// Datagrams that come back, of [`REQUESTS`] that are sent one after the other.
fn echo(from: &Node, vip: SocketAddr) -> Result<usize> {
    from.in_netns(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut echoed = 0;
        for number in 0..REQUESTS {
            let sent = format!("datagram {number}");
            socket.send_to(sent.as_bytes(), vip)?;
            let mut answer = [0; 64];
            let (length, source) = socket.recv_from(&mut answer)?;
            echoed += usize::from(source == vip && answer.get(..length) == Some(sent.as_bytes()));
        }
        Ok(echoed)
    })?
}

/// Conntrack entries of a node that name an address.
fn conntrack(node: &Node, address: &str) -> Result<Vec<String>> {
    let wanted: IpAddr = address.parse()?;
    let family = if wanted.is_ipv6() { "ipv6" } else { "ipv4" };
    let list = node.text(&["conntrack", "-L", "-f", family, "-o", "extended"])?;
    let names = |line: &&str| {
        line.split_whitespace().any(|word| word.split_once('=').is_some_and(|(_, a)| a == address))
    };
    Ok(list.lines().filter(names).map(str::to_owned).collect())
}

fn trusted(network: &Network, pods: &Pods) -> Result<Director> {
    let toa = |insertion| Some(Toa { format: ToaFormat::Dpvs, insertion });
    let services = vec![
        service(VIP, 80, pods.www2.ipv4()?, toa(ToaInsertion::Alibaba))?,
        service(VIP, 8080, pods.www2.ipv4()?, toa(ToaInsertion::Dpvs))?,
        service(VIP6, 80, pods.www2.ipv6()?, toa(ToaInsertion::Dpvs))?,
        Service {
            protocol: Protocol::Udp,
            vip: SocketAddr::new(VIP.parse()?, UDP_PORT),
            reals: vec![Real { address: SocketAddr::new(pods.echo2.ipv4()?, UDP_PORT), weight: 1 }],
            toa: None,
        },
    ];
    let local_addresses = vec![LOCAL.parse()?, LOCAL6.parse()?];
    Director::start(
        &network.director,
        &DirectorConfig { local_addresses, services, ..DirectorConfig::default() },
    )
}

/// The same director program with a local address that is in no LoadBalancerSource; it writes the same option.
fn rogue(network: &Network, pods: &Pods) -> Result<Director> {
    let toa = Some(Toa { format: ToaFormat::Dpvs, insertion: ToaInsertion::Alibaba });
    let config = DirectorConfig {
        tun: "rogue0".into(),
        control: "/run/rogue.sock".into(),
        local_addresses: vec![ROGUE_LOCAL.parse()?],
        services: vec![service(ROGUE_VIP, 80, pods.www2.ipv4()?, toa)?],
        ..DirectorConfig::default()
    };
    Director::start(&network.director, &config)
}

fn service(vip: &str, port: u16, real: IpAddr, toa: Option<Toa>) -> Result<Service> {
    let vip = SocketAddr::new(vip.parse()?, port);
    ensure!(vip.is_ipv4() == real.is_ipv4(), "{vip} and {real} are not of one family");
    let reals = vec![Real { address: SocketAddr::new(real, 80), weight: 1 }];
    Ok(Service { protocol: Protocol::Tcp, vip, reals, toa })
}

//! Chapter 2: every way of reaching a pod works, and the pod's own address is on the wire.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::pods::Pods;
use super::probe::{ask, ask_from_pod};
use super::story::Story;
use super::topology::Network;
use crate::{Node, Pod};

pub(super) fn chapter(story: &mut Story, network: &Network, pods: &Pods) {
    story.chapter("Every way to a pod works, and the pod's own address is on the wire");
    for family in ["IPv4", "IPv6"] {
        let pick = |pod: &Pod| if family == "IPv4" { pod.ipv4() } else { pod.ipv6() };
        between_pods(story, family, "pod → pod on one node", &pods.tool1, &pods.www1, pick);
        between_pods(story, family, "pod → pod across nodes", &pods.tool1, &pods.www2, pick);
        between_pods(story, family, "pod → itself", &pods.www1, &pods.www1, pick);
        story.prove(&format!("{family}: pod → host, by its node's address"), || {
            let host: IpAddr =
                if family == "IPv4" { "10.1.1.11".parse()? } else { "fd00:1:1::11".parse()? };
            pods.tool1.exec(&["ping", "-c", "1", "-W", "5", &host.to_string()])?;
            Ok((format!("{} answers", host), true))
        });
        from_node(story, &format!("{family}: host → pod on it"), &network.node1, &pods.www1, pick);
        from_node(
            story,
            &format!("{family}: outside client → pod by its own address"),
            &network.client,
            &pods.www2,
            pick,
        );
    }
    on_the_wire(story, network, pods);
}

fn between_pods(
    story: &mut Story,
    family: &str,
    way: &str,
    from: &Pod,
    to: &Pod,
    pick: impl Fn(&Pod) -> Result<IpAddr>,
) {
    story.prove(&format!("{family}: {way}"), || {
        let (source, target) = (pick(from)?, pick(to)?);
        let seen: IpAddr = address_of(&ask_from_pod(from, target)?)?;
        Ok((format!("{target} was asked by {seen}"), seen == source))
    });
}

fn from_node(story: &mut Story, way: &str, from: &Node, to: &Pod, pick: impl Fn(&Pod) -> Result<IpAddr>) {
    story.prove(way, || {
        let target = pick(to)?;
        let answer = ask(from, SocketAddr::new(target, 80), "/")?;
        let seen = address_of(&answer.body)?;
        Ok((format!("{target} was asked by {seen}"), seen == answer.asked_from.ip()))
    });
}

/// nginx answers with `ADDRESS PORT` of its client.
fn address_of(body: &str) -> Result<IpAddr> {
    Ok(body.split_whitespace().next().unwrap_or(body).parse()?)
}

fn on_the_wire(story: &mut Story, network: &Network, pods: &Pods) {
    story.prove("on the wire between the nodes, packets carry the pods' addresses and no tunnel", || {
        let (source, target) = (pods.tool1.ipv4()?, pods.www2.ipv4()?);
        let capture = network.tor.capture("node2", "not arp and not tcp port 179 and not icmp6")?;
        ask_from_pod(&pods.tool1, target)?;
        let count = |filter: String| Ok::<_, anyhow::Error>(capture.lines(&filter)?.len());
        let there = count(format!("src host {source} and dst host {target}"))?;
        let back = count(format!("src host {target} and dst host {source}"))?;
        let other = count(format!("not (host {source} and host {target})"))?;
        Ok((
            format!("{there} packets {source} → {target}, {back} back, {other} others"),
            there > 0 && back > 0,
        ))
    });
}

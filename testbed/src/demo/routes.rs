//! Chapter 3: real routers hold the nodes' blocks, and traffic follows them in and out.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use ipnetwork::IpNetwork;

use super::pods::Pods;
use super::probe::{ask, source_seen_by};
use super::resources::BLOCKS;
use super::routers::Routers;
use super::story::Story;
use super::topology::{CLIENT, CLIENT6, FAR, FAR6, Network};
use crate::speakers::{Speaker, wait_best};

/// Waits until the farthest gateway has every block: the chapters after this one need the way back.
pub(super) fn wait(routers: &Routers) -> Result<()> {
    for (_, v4, v6) in BLOCKS {
        wait_best(&*routers.gw2, v4.parse()?)?;
        wait_best(&*routers.gw2, v6.parse()?)?;
    }
    Ok(())
}

pub(super) fn chapter(story: &mut Story, network: &Network, routers: &Routers, pods: &Pods) -> Result<()> {
    story.chapter("Route reflectors and gateways hold the nodes' blocks");
    let next_hops = [["10.1.1.11", "fd00:1:1::11"], ["10.1.2.12", "fd00:1:2::12"]];
    for ((node, v4, v6), hops) in BLOCKS.into_iter().zip(next_hops) {
        for (block, hop) in [v4, v6].into_iter().zip(hops) {
            let (block, hop): (IpNetwork, IpAddr) = (block.parse()?, hop.parse()?);
            for router in [&routers.rr1, &routers.rr2, &routers.tor, &routers.gw1] {
                holds(story, node, &**router, block, hop, "");
            }
            let outside = if block.is_ipv4() { "10.3.0.1" } else { "fd00:3::1" };
            holds(story, node, &*routers.gw2, block, outside.parse()?, "65001");
        }
    }
    story.prove("the other data centre reaches a pod by its own address", || {
        let answer = ask(&network.far, SocketAddr::new(pods.www1.ipv4()?, 80), "/")?;
        Ok((format!("nginx was asked by {}", answer.body), answer.body.starts_with(FAR)))
    });
    for (family, far, outside, node) in
        [("IPv4", FAR, CLIENT, "10.1.1.11"), ("IPv6", FAR6, CLIENT6, "fd00:1:1::11")]
    {
        story.prove(&format!("{family}: towards the other data centre a pod keeps its address"), || {
            let seen = source_seen_by(&network.far, far.parse()?, &pods.tool1)?;
            Ok((format!("{far} saw {seen}"), pods.tool1.ips().contains(&seen)))
        });
        story.prove(&format!("{family}: towards an outside address it is masqueraded as its node"), || {
            let seen = source_seen_by(&network.client, outside.parse()?, &pods.tool1)?;
            Ok((format!("{outside} saw {seen}"), seen == node.parse::<IpAddr>()?))
        });
    }
    Ok(())
}

fn holds(story: &mut Story, node: &str, router: &dyn Speaker, block: IpNetwork, hop: IpAddr, path: &str) {
    story.prove(&format!("{} ({}) has {node}'s {block}", router.node().name(), router.kind()), || {
        let best = wait_best(router, block)?;
        let via = best.next_hop.map_or("nothing".to_owned(), |h| h.to_string());
        let seen = format!("via {via}, AS path [{}]", best.as_path);
        Ok((seen, best.next_hop == Some(hop) && best.as_path == path))
    });
}

//! Chapter 7: everything is deleted, and nothing of ours is left on the nodes.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::pods::Pods;
use super::story::Story;
use crate::{Node, TurnpikeNode, poll_result};

const DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn chapter(story: &mut Story, turnpikes: [&TurnpikeNode; 2], mut pods: Pods) -> Result<()> {
    story.chapter("Everything is deleted, and nothing is left");
    for pod in [
        &mut pods.tool1,
        &mut pods.www1,
        &mut pods.www2,
        &mut pods.echo2,
        &mut pods.limited1,
        &mut pods.free1,
        &mut pods.free2,
    ] {
        pod.remove()?;
    }
    for turnpike in turnpikes {
        let node = turnpike.node();
        let name = node.name();
        story.prove(&format!("{name}: no address is taken"), || {
            let left = turnpike.status()?.pods.len();
            Ok((format!("{left} pods known"), left == 0))
        });
        turnpike.uninstall_agent()?;
        // bgpd has no peers any more; it ends when the kernel holds nothing of it.
        let routes = "for f in -4 -6; do ip $f route show table all proto 202; done";
        story.prove(&format!("{name}: bgpd takes back its routes"), || {
            poll_result(DEADLINE, "no route of bgpd", || {
                let left = node.text(&["sh", "-c", routes])?;
                ensure!(left.is_empty(), "there is {left}");
                Ok(())
            })?;
            turnpike.kill_bgpd()?;
            Ok(("none is left".to_owned(), true))
        });
        left(story, node, "link", "ip -o link show | grep -v -e ': lo:' -e ': eth0@' || true");
        left(
            story,
            node,
            "route",
            "for f in -4 -6; do ip $f route show table all proto 201; ip $f route show table all proto 202; done",
        );
        left(story, node, "nexthop object", "ip nexthop show | grep -i 'id 195' || true");
        left(story, node, "nft object", "nft list tables | grep turnpike || true");
        left(story, node, "pin", "find /sys/fs/bpf -mindepth 1 ! -name '*.debug'");
        left(story, node, "process", "ps -eo args | grep '[t]urnpike-\\(agent\\|bgpd\\|cni\\)' || true");
    }
    Ok(())
}

fn left(story: &mut Story, node: &Node, what: &str, command: &str) {
    story.prove(&format!("{}: no {what} is left", node.name()), || {
        let text = node.text(&["sh", "-c", command])?;
        let lines: Vec<&str> = text.lines().collect();
        let seen = if lines.is_empty() { "none".to_owned() } else { lines.join(" | ") };
        Ok((seen, lines.is_empty()))
    });
}

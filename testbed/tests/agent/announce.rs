//! When this node's blocks are announced: the agent with a real turnpike-bgpd beside it.

use std::time::Duration;

use anyhow::{Result, ensure};
use turnpike_bgpd_api::{Client, DEFAULT_CONFIG, DEFAULT_SOCKET};
use turnpike_testbed::{Lab, binary, poll_result};

use crate::bench::{Bench, DEADLINE};

const BGPD: &str = "asn = 65001\nrouter_id = \"10.1.1.11\"\n";

/// Verifies: bgpd hears of a block only when the data plane's first round is over, so that no traffic comes before
/// routes, rules and programs stand (calico#11523): an agent that dies just before has told nothing, and the next one
/// tells when the block's blackhole route is there. Taken away, the block is withdrawn at once.
#[test]
fn blocks_are_announced_when_the_data_plane_stands() -> Result<()> {
    let lab = Lab::new("agent-announce")?;
    let bench = Bench::start(&lab)?;
    let node = &bench.node;
    bench.crash()?;
    // As after a boot: nothing of ours is in the kernel.
    node.run(&["ip", "route", "flush", "table", "main", "proto", "201"])?;
    node.write_file(DEFAULT_CONFIG, BGPD)?;
    let mut command = node.command(binary("turnpike-bgpd")?)?;
    command.args(["--config", DEFAULT_CONFIG]);
    let bgpd = node.spawn("turnpike-bgpd", command)?;
    let networks = || -> Result<usize> {
        let parts = Client::connect(&node.path(DEFAULT_SOCKET)?, Duration::from_secs(10))?.status()?.parts;
        Ok(parts.iter().filter(|part| part.owner == "turnpike-agent").map(|part| part.networks).sum())
    };
    poll_result(DEADLINE, "bgpd", || networks().map(drop))?;

    bench.configure("[bgpd]\nenabled = true\n")?;
    bench.die_at("applied-first")?;
    assert_eq!(networks()?, 0, "told before the data plane stands");

    bench.restart()?;
    poll_result(DEADLINE, "the part", || {
        ensure!(networks()? == 2);
        Ok(())
    })?;
    let route = node.text(&["ip", "route", "show", "10.244.1.0/26"])?;
    assert!(route.contains("blackhole"), "{route}");

    let pools = bench.resource("pools.yaml")?;
    let (rest, _) = pools.rsplit_once("---").unwrap_or_default();
    bench.set_resource("pools.yaml", rest)?;
    poll_result(DEADLINE, "one block less", || {
        ensure!(networks()? == 1);
        Ok(())
    })?;
    bench.crash()?;
    bgpd.stop()?;
    lab.finish()
}

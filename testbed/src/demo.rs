//! The main job, told as a story on real parts: `cargo xtask demo`.

mod balancer;
mod limits;
mod pods;
mod probe;
mod reach;
mod resources;
mod restarts;
mod routers;
mod routes;
mod story;
mod teardown;
mod topology;

use std::thread;

use anyhow::{Result, anyhow};

use self::routers::Routers;
use self::story::Story;
use self::topology::Network;
use crate::{Image, Lab, Node, TurnpikeConfig, TurnpikeNode};

/// Tells the story.
///
/// # Errors
/// When the data centre cannot be built, when a claim does not hold, or when something is left behind.
pub fn tell() -> Result<()> {
    let mut story = Story::begin("Turnpike: two nodes, two reflectors, two data centres, a load balancer");
    let lab = Lab::new("demo")?;
    let network = Network::build(&lab)?;
    let routers = Routers::start(&network)?;
    let [one, two] = install(&network)?;
    chapters(&mut story, &network, &routers, [&one, &two])?;
    drop((one, two, routers));
    let told = story.end();
    if told.is_err() {
        lab.diagnose();
        eprintln!("logs, captures and the state of each node are in {}", lab.folder().display());
        return told;
    }
    drop(network);
    lab.finish()
}

fn chapters(
    story: &mut Story,
    network: &Network,
    routers: &Routers,
    nodes: [&TurnpikeNode; 2],
) -> Result<()> {
    let mut pods = pods::chapter(story, nodes)?;
    routes::wait(routers)?;
    reach::chapter(story, network, &pods);
    routes::chapter(story, network, routers, &pods)?;
    balancer::chapter(story, network, &pods)?;
    limits::chapter(story, &pods);
    restarts::chapter(story, network, routers, nodes, &mut pods)?;
    teardown::chapter(story, nodes, pods)
}

/// Both nodes at a time: most of it is waiting for containerd.
fn install(network: &Network) -> Result<[TurnpikeNode; 2]> {
    let start = |node: &Node| {
        let config = TurnpikeConfig {
            resources: resources::files().into_iter().collect(),
            bgpd: Some(String::new()),
            images: vec![Image::Busybox, Image::Nginx, Image::Iperf3, Image::Python],
            ..TurnpikeConfig::default()
        };
        TurnpikeNode::start(node, &config)
    };
    thread::scope(|scope| {
        let one = scope.spawn(|| start(&network.node1));
        let two = start(&network.node2);
        let one = one.join().unwrap_or_else(|_| Err(anyhow!("node1's start panicked")));
        Ok([one?, two?])
    })
}

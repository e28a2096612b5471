//! The host goes down.

use anyhow::{Context as _, Result, ensure};
use turnpike_testbed::Lab;
use turnpike_testbed::speakers::{Speaker as _, wait_best, wait_gone, wait_rib};

use crate::site::{BLOCKS, NODE, Site};

const GRACEFUL_SHUTDOWN: &str = "65535:0";

/// Verifies: with turnpike-drain enabled, a host that is shut down first marks its blocks (RFC 8326), then ends its sessions
/// so that nobody keeps its paths for a restart; a restart of bgpd alone drains nothing.
#[test]
fn a_host_that_is_shut_down_drains_first() -> Result<()> {
    let lab = Lab::new("systemd-drain")?;
    let (site, _) = Site::install(&lab)?;
    site.shell("systemctl enable --now turnpike-drain")?;
    let block = BLOCKS[0].parse()?;
    let marked = |paths: &[turnpike_testbed::speakers::RibEntry]| {
        let mut own = paths.iter().filter(|path| path.prefix == block);
        own.any(|path| path.communities.iter().any(|community| community == GRACEFUL_SHUTDOWN))
    };
    for reflector in &site.reflectors {
        wait_best(reflector, block)?;
    }
    site.machine.run(&["systemctl", "restart", "turnpike-bgpd"])?;
    for reflector in &site.reflectors {
        reflector.wait_established(NODE.into())?;
        let path = wait_best(reflector, block)?;
        ensure!(!marked(std::slice::from_ref(&path)), "a restart of bgpd drains: {path}");
    }
    let [first, second] = site.reflectors.as_slice() else { anyhow::bail!("two reflectors") };
    std::thread::scope(|scope| -> Result<()> {
        let down = scope.spawn(|| site.machine.power_off());
        wait_rib(first, "the mark of a drain", marked)?;
        down.join().expect("no panic").context("the machine's end")
    })?;
    for reflector in [first, second] {
        // A peer in the course of a restart would be waited for, with its paths.
        wait_gone(reflector, block)?;
        ensure!(!reflector.session(NODE.into())?.established);
    }
    lab.finish()
}

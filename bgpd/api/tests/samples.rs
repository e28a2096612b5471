//! The sample configurations that users begin with are read as bgpd reads them.

use std::path::Path;

use turnpike_bgpd_api::config::load;

#[test]
fn the_samples_in_deploy_are_good_configurations() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let node = load(&deploy.join("bgpd.toml")).unwrap();
    assert!(node.parts.expect.contains("turnpike-agent"));
    let reflector = load(&deploy.join("bgpd-reflector.toml")).unwrap();
    assert!(reflector.peers.iter().all(|peer| peer.rr_client) && reflector.peers.len() == 2);
    assert!(!reflector.kernel.enabled);
    let example = deploy.join("examples/multi-idc");
    let reflector = load(&example.join("reflector.toml")).unwrap();
    assert!(reflector.peers.iter().all(|peer| peer.rr_client) && !reflector.kernel.enabled);
    let node = load(&example.join("node.toml")).unwrap();
    assert!(node.networks.iter().all(|network| network.blackhole) && node.node.is_some());
}

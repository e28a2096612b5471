//! The sample configurations that users begin with are read as bgpd reads them.

use std::path::Path;

use turnpike_bgpd_api::config::{load, parse};

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

/// Every block of the page that says it is TOML.
#[test]
fn every_configuration_in_the_documentation_is_a_good_one() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bgp.md");
    let text = std::fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> =
        text.split("\n```toml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect();
    assert!(blocks.len() >= 4, "{} blocks", blocks.len());
    for block in blocks {
        let read = parse(block);
        assert!(read.is_ok(), "{:#?}\n{block}", read.unwrap_err());
    }
}

/// Fields and sections of the reference are those of the types, as the program writes them.
#[test]
fn the_reference_names_every_section_and_what_policies_can_do() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bgp.md");
    let text = std::fs::read_to_string(page).unwrap();
    let complaint = |text: &str| {
        let mut messages = parse(text).unwrap_err().into_iter().map(|problem| problem.message);
        messages.find(|message| message.starts_with("unknown field")).unwrap()
    };
    for (unknown, place) in [
        ("no-such-field = 1", "the file"),
        ("[kernel]\nno-such-field = 1", "kernel"),
        ("[[network]]\nno-such-field = 1", "network"),
        ("[[policies.a.rule]]\nwhen = { no-such-field = 1 }", "when"),
        ("[[policies.a.rule]]\nset = { no-such-field = 1 }", "set"),
    ] {
        let message = complaint(unknown);
        let known: Vec<&str> =
            message.split("expected").nth(1).unwrap().split('`').skip(1).step_by(2).collect();
        assert!(known.len() >= 4, "{message}");
        for field in known {
            let named = [format!("`{field}`"), format!("`[{field}]`"), format!("`[[{field}]]`")];
            let named = named.iter().any(|name| text.contains(name.as_str()))
                || text.contains(&format!("[[{field}."));
            assert!(named, "docs/bgp.md does not name `{field}` of {place}");
        }
    }
}

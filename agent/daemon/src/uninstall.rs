//! Gives the node up: removes every object of ours from the kernel, and our state from the disk.

use std::io;
use std::path::Path;

use anyhow::Context;
use turnpike_agent_api::heartbeat_path;
use turnpike_dataplane::Dataplane;

use crate::bandwidth::{history_path, trial_path};
use crate::bgp;
use crate::config::Config;
use crate::drain;
use crate::events;
use crate::replace;
use crate::store::Store;

/// Removes all; goes on after errors, and fails at the end if anything is left.
pub(crate) fn uninstall(config: &Config) -> anyhow::Result<()> {
    let state = &config.paths.state;
    // Taking the lock shows that no agent runs, which would put everything back.
    let store = Store::open(state)
        .with_context(|| format!("cannot open {}; stop turnpike-agent first", state.display()))?;
    let mut left = Vec::new();
    if config.bgpd.enabled {
        match bgp::withdraw(&config.bgpd.socket) {
            Ok(()) => println!("bgpd: the node's part is withdrawn"),
            // A bgpd that does not run announces nothing; its kept part is its own uninstall's.
            Err(error) => println!("bgpd: not asked to withdraw: {error}"),
        }
    }
    let mut dataplane = Dataplane::new(config.dataplane()).context("cannot open the data plane")?;
    left.extend(dataplane.teardown().iter().map(ToString::to_string));
    drop(store);
    for folder in [state.join("pods"), config.spool()] {
        note(&mut left, &folder, std::fs::remove_dir_all(&folder));
    }
    if trial_path(state).exists() {
        println!("bandwidth: the change that was on trial stays as it is");
    }
    let socket = &config.paths.socket;
    let files = [
        state.join("resources.json"),
        state.join("lock"),
        drain::path(state),
        events::path(state),
        trial_path(state),
        socket.clone(),
        heartbeat_path(socket),
        history_path(socket),
    ];
    for file in files.iter().flat_map(|file| [file.clone(), replace::draft(file)]) {
        note(&mut left, &file, std::fs::remove_file(&file));
    }
    for line in &left {
        println!("left: {line}");
    }
    anyhow::ensure!(left.is_empty(), "{} objects could not be removed", left.len());
    println!("nothing of turnpike-agent is left on this node; {} is kept", config.paths.resources.display());
    Ok(())
}

fn note(left: &mut Vec<String>, path: &Path, result: io::Result<()>) {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            left.push(format!("{}: {error}", path.display()))
        }
        _ => {}
    }
}

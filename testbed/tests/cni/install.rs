//! `turnpike-agent install-cni` beside a running containerd.

use anyhow::{Result, ensure};
use turnpike_testbed::containerd::{CNI_BIN_DIR, CNI_CONF_DIR};
use turnpike_testbed::turnpike_node::AGENT_CONFIG;
use turnpike_testbed::{Lab, PodSpec, binary, poll_result};

use super::{DEADLINE, start};

/// Verifies: plugin and conflist are put in place under a running containerd, which loads them (and the command sees
/// it), so that pods start; done twice, nothing is written; an operator's own conflist is kept; and both outlive the
/// agent.
#[test]
fn the_runtime_loads_what_install_cni_puts_in_place() -> Result<()> {
    let lab = Lab::new("cni-install")?;
    let (turnpike, _outside) = start(&lab)?;
    let n1 = turnpike.node();
    let (plugin, conflist) =
        (format!("{CNI_BIN_DIR}/turnpike-cni"), format!("{CNI_CONF_DIR}/10-turnpike.conflist"));
    n1.run(&["rm", &plugin, &conflist])?;
    poll_result(DEADLINE, "containerd to have no network", || {
        ensure!(turnpike.containerd().network_problem()?.is_some(), "it still has one");
        Ok(())
    })?;
    let install = || -> Result<String> {
        let agent = binary("turnpike-agent")?;
        let bin_dir = binary("turnpike-cni")?;
        let words = ["--config", AGENT_CONFIG, "install-cni", "--wait", "30", "--plugin"];
        let mut argv = vec![agent.to_string_lossy().into_owned()];
        argv.extend(words.map(str::to_owned));
        argv.push(bin_dir.to_string_lossy().into_owned());
        n1.text(&argv)
    };
    let said = install()?;
    assert!(said.contains("loaded: somebody has read"), "{said}");
    poll_result(DEADLINE, "containerd's network", || {
        let problem = turnpike.containerd().network_problem()?;
        ensure!(problem.is_none(), "{problem:?}");
        Ok(())
    })?;
    turnpike.run_pod(PodSpec::busybox("a"))?.remove()?;
    let again = install()?;
    assert!(!again.contains("written"), "{again}");

    let own = n1.read_file(&conflist)?.replace("\"portMappings\": true", "\"portMappings\": false");
    n1.write_file(&conflist, &own)?;
    let kept = install()?;
    assert!(kept.contains("--replace"), "{kept}");
    assert_eq!(n1.read_file(&conflist)?, own);
    turnpike.stop_agent()?;
    n1.run(&["test", "-x", &plugin, "-a", "-f", &conflist])?;
    lab.finish()
}

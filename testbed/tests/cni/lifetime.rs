//! What is not ours stays as it is, and what is ours goes: uninstall, reboot, pods that die without a DEL.

use anyhow::{Result, ensure};
use turnpike_testbed::containerd::Pod;
use turnpike_testbed::{Lab, Node, PodSpec, TurnpikeNode};

use super::{config, start, wire};

/// Load balancers whose draining is remembered.
const SOURCE: &str = "
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: { name: lvs }
spec: { cidrs: [10.9.1.0/24], bypass: true }
";

/// What the kernel of a node holds that an agent could have made or spoilt.
fn kernel(node: &Node) -> Result<String> {
    let commands = [
        "ip -o -details link show",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip neigh show nud permanent",
        "nft list ruleset",
        "tc qdisc show",
        "find /sys/fs/bpf -mindepth 1",
    ];
    let run = |command: &&str| -> Result<String> {
        let text = node.text(&["sh", "-c", command])?;
        Ok(format!("# {command}\n{text}"))
    };
    commands.iter().map(run).collect()
}

/// Files of the agent on a node: its state, and what it has beside its socket. The log of operators' changes is kept, and
/// bgpd's are its own.
fn files(node: &Node) -> Result<Vec<String>> {
    let all =
        node.text(&["sh", "-c", "find /var/lib/turnpike /run/turnpike -mindepth 1 2>/dev/null | sort"])?;
    let of_agent = |path: &&str| !["audit.log", "bgpd", "bfdd"].iter().any(|other| path.contains(other));
    Ok(all.lines().filter(of_agent).map(str::to_owned).collect())
}

/// Verifies: a table of somebody else, counters and all, is the same byte for byte after pods came and went, the agent
/// died and came back, and was uninstalled; and after that nothing of the agent is left in the kernel, in
/// its state folder and in its run folder, what an interrupted write left there included.
#[test]
fn uninstall_leaves_nothing_and_a_foreign_table_is_never_touched() -> Result<()> {
    let lab = Lab::new("cni-uninstall")?;
    let (n1, _outside) = wire(&lab)?;
    n1.write_file(
        "/run/foreign.nft",
        "table inet foreign {\n set s { type ipv4_addr; elements = { 192.0.2.1 } }\n \
         chain c { type filter hook forward priority 0; policy accept; ip saddr @s counter packets 7 bytes 42 drop; }\n}\n",
    )?;
    n1.run(&["nft", "-f", "/run/foreign.nft"])?;
    let foreign = n1.text(&["nft", "-a", "list", "table", "inet", "foreign"])?;
    // Forwarding is what a node of a routed network has anyway; uninstall leaves such switches alone.
    n1.forward()?;
    let before = kernel(&n1)?;
    ensure!(files(&n1)?.is_empty(), "{:?}", files(&n1)?);
    let config = config().with_resource("lb.yaml", SOURCE);
    let turnpike = TurnpikeNode::start(&n1, &config)?;
    let mut pod = turnpike.run_pod(PodSpec::busybox("a").bandwidth("10M", "10M"))?;
    assert_eq!(n1.text(&["nft", "-a", "list", "table", "inet", "foreign"])?, foreign);
    turnpike.kill_agent()?;
    turnpike.start_agent()?;
    pod.remove()?;
    // As an agent leaves it that was killed while it wrote.
    n1.write_file("/var/lib/turnpike/.drain.json.new", "{")?;
    turnpike.stop_agent()?;
    let there = files(&n1)?;
    for file in
        ["/var/lib/turnpike/drain.json", "/var/lib/turnpike/pods", "/run/turnpike/bandwidth-history.json"]
    {
        ensure!(there.iter().any(|path| path == file), "{file} is not among {there:?}");
    }
    turnpike.uninstall_agent()?;
    ensure!(files(&n1)?.is_empty(), "uninstall has left {:?}", files(&n1)?);
    assert_eq!(n1.text(&["nft", "-a", "list", "table", "inet", "foreign"])?, foreign);
    assert_eq!(kernel(&n1)?, before);
    lab.finish()
}

/// Ends a pod's processes and its network namespace behind the runtime's back.
fn vanish(turnpike: &TurnpikeNode, pod: &Pod) -> Result<()> {
    let netns = pod.netns_path()?.to_string_lossy().into_owned();
    let cgroup = turnpike.node().cgroup_path().join("pods").join(format!("pod{}", pod.spec().uid));
    std::fs::write(cgroup.join("cgroup.kill"), "1")?;
    turnpike.node().run(&["sh", "-c", &format!("umount {netns} && rm {netns}")])?;
    let links = || -> Result<()> {
        let links = turnpike.node().links()?;
        ensure!(!links.iter().any(|name| name.starts_with("tpk")), "{links:?}");
        Ok(())
    };
    turnpike_testbed::poll_result(super::DEADLINE, "the end of the pod's namespace", links)
}

fn wait_forgotten(turnpike: &TurnpikeNode) -> Result<()> {
    turnpike.wait_status("the dead pod's addresses", |status| {
        let used: u64 = status.blocks.iter().map(|block| block.used).sum();
        ensure!(status.pods.is_empty() && used == 0, "{used} addresses in use, pods {:?}", status.pods);
        Ok(())
    })
}

/// Verifies: a pod whose DEL never came is given up, but only when two looks at the kernel have missed it.
#[test]
fn a_pod_that_died_without_a_del_is_reclaimed() -> Result<()> {
    let lab = Lab::new("cni-no-del")?;
    let (turnpike, _outside) = start(&lab)?;
    let pod = turnpike.run_pod(PodSpec::busybox("dead"))?;
    vanish(&turnpike, &pod)?;
    wait_forgotten(&turnpike)?;
    drop(pod);
    lab.finish()
}

/// Verifies: after a reboot (another boot ID, no namespaces, the same disk) no address is lost.
#[test]
fn a_reboot_leaks_no_address() -> Result<()> {
    let lab = Lab::new("cni-reboot")?;
    let (turnpike, _outside) = start(&lab)?;
    let pod = turnpike.run_pod(PodSpec::busybox("before"))?;
    turnpike.kill_agent()?;
    vanish(&turnpike, &pod)?;
    let reboot = "cat /proc/sys/kernel/random/uuid > /run/boot_id && \
                  mount --bind /run/boot_id /proc/sys/kernel/random/boot_id";
    turnpike.node().run(&["sh", "-c", reboot])?;
    turnpike.start_agent()?;
    wait_forgotten(&turnpike)?;
    drop(pod);
    lab.finish()
}

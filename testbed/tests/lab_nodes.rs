//! Nodes, links, processes and captures of the lab.

#![cfg(test)]

use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::signal::Signal;
use turnpike_testbed::{Lab, Node, poll};

const DEADLINE: Duration = Duration::from_secs(20);

/// ```text
/// a 10.1.1.2/24 ── 10.1.1.1 router 10.1.2.1 ── 10.1.2.2/24 b
///   fd00:1:1::2/64      (forwards)        fd00:1:2::2/64
/// ```
fn two_subnets(lab: &Lab) -> anyhow::Result<(Node, Node, Node)> {
    let (a, router, b) = (lab.node("a")?, lab.node("router")?, lab.node("b")?);
    lab.link(&a, "eth0", &router, "eth1")?;
    lab.link(&b, "eth0", &router, "eth2")?;
    router.forward()?;
    for (node, interface, number) in [(&a, "eth1", 1), (&b, "eth2", 2)] {
        node.addr("eth0", &format!("10.1.{number}.2/24"))?;
        node.addr("eth0", &format!("fd00:1:{number}::2/64"))?;
        router.addr(interface, &format!("10.1.{number}.1/24"))?;
        router.addr(interface, &format!("fd00:1:{number}::1/64"))?;
        node.route(&format!("default via 10.1.{number}.1"))?;
        node.route(&format!("default via fd00:1:{number}::1 dev eth0"))?;
    }
    Ok((a, router, b))
}

/// Verifies: links, addresses, routes and forwarding of both families; the capture sees what passes.
#[test]
fn a_ping_crosses_a_router_and_is_captured_there() {
    let lab = Lab::new("router").unwrap();
    let (a, router, b) = two_subnets(&lab).unwrap();
    let capture = router.capture("eth2", "icmp or icmp6").unwrap();
    a.run(&["ping", "-c", "1", "-W", "5", "10.1.2.2"]).unwrap();
    a.run(&["ping", "-c", "1", "-W", "5", "fd00:1:2::2"]).unwrap();
    assert_eq!(capture.lines("icmp[icmptype] == icmp-echo and src 10.1.1.2").unwrap().len(), 1);
    assert_eq!(capture.lines("icmp6[icmp6type] == icmp6-echo and src fd00:1:1::2").unwrap().len(), 1);
    let to_b = b.mac("eth0").unwrap();
    let frames = capture.finish().unwrap();
    assert!(frames.iter().any(|frame| frame.bytes.starts_with(&to_b)), "{frames:?}");
    lab.finish().unwrap();
}

/// Verifies: a capture can be asked at any time, on any interface, with or without a filter, and then holds everything that
/// has passed: nothing less, and nothing of the lab's own.
#[test]
fn a_capture_is_complete_whenever_it_is_asked() {
    let lab = Lab::new("capture").unwrap();
    let (a, router, _) = two_subnets(&lab).unwrap();
    let filtered = router.capture("eth1", "udp dst port 5000").unwrap();
    let (loopback, any, silent) = (
        a.capture("lo", "udp").unwrap(),
        a.capture("any", "udp").unwrap(),
        router.capture("eth2", "tcp").unwrap(),
    );
    let sender = a.in_netns(|| UdpSocket::bind("10.1.1.2:4000")).unwrap().unwrap();
    for round in 1..=20 {
        for port in [5000, 5001] {
            sender.send_to(b"x", ("10.1.2.2", port)).unwrap();
        }
        assert_eq!(filtered.lines("").unwrap().len(), round);
        assert_eq!(any.frames().unwrap().len(), 2 * round);
    }
    sender.send_to(b"to myself", "10.1.1.2:4000").unwrap();
    assert_eq!(loopback.lines("src port 4000").unwrap().len(), 1);
    let frames = filtered.finish().unwrap();
    assert!(frames.iter().all(|frame| frame.bytes.get(12..14) == Some(&[8, 0])), "{frames:?}");
    assert_eq!((frames.len(), silent.finish().unwrap().len()), (20, 0));
    lab.finish().unwrap();
}

/// Verifies: what is private to a node is neither the host's nor another node's.
#[test]
fn a_node_has_its_own_files_processes_links_and_name() {
    let lab = Lab::new("private").unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    for folder in
        ["/run", "/var/run", "/var/lib", "/var/log", "/tmp", "/etc/cni/net.d", "/opt/cni/bin", "/etc"]
    {
        let file = format!("{folder}/turnpike-lab-test");
        a.write_file(&file, "mine").unwrap();
        assert_eq!(a.read_file(&file).unwrap(), "mine");
        assert_eq!(a.text(&["cat", &file]).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(a.path(&file).unwrap()).unwrap(), "mine");
        assert!(b.read_file(&file).is_err(), "{file} is shared with another node");
        assert!(!std::path::Path::new(&file).exists(), "{file} is the host's");
    }
    assert!(a.write_file("/usr/turnpike-lab-test", "").is_err());
    assert_eq!(a.text(&["hostname"]).unwrap(), "a\n");
    assert_eq!(a.links().unwrap(), ["lo"]);
    a.bridge("d0", &[]).unwrap();
    assert_eq!(a.links().unwrap(), ["d0", "lo"]);
    assert_eq!(a.text(&["ls", "/sys/class/net"]).unwrap(), "d0\nlo\n");
    assert_eq!(a.text(&["stat", "-f", "-c", "%T", "/sys/fs/bpf"]).unwrap(), "bpf_fs\n");
    assert_eq!(
        a.text(&["stat", "-f", "-c", "%T", a.cgroup_path().to_str().unwrap()]).unwrap(),
        "cgroup2fs\n"
    );
    let groups = a.text(&["cat", "/proc/self/cgroup"]).unwrap();
    assert!(groups.contains(&format!("0::{}/host\n", a.cgroup())), "{groups}");
    // pid 1, ps itself, and nobody else.
    assert_eq!(a.text(&["ps", "axo", "comm="]).unwrap(), "lab-init\nps\n");
    a.sysctl("net.ipv4.ip_forward", "1").unwrap();
    assert_eq!(a.text(&["cat", "/proc/sys/net/ipv4/ip_forward"]).unwrap(), "1\n");
    assert_eq!(b.text(&["cat", "/proc/sys/net/ipv4/ip_forward"]).unwrap(), "0\n");
    lab.finish().unwrap();
}

/// Verifies: a process is known by its host pid, logs to the folder, heeds signals, and dies with its guard; a daemon that
/// forked away dies with the node.
#[test]
fn processes_are_supervised() {
    let lab = Lab::new("process").unwrap();
    let node = lab.node("n1").unwrap();
    let mut command = node.command("sh").unwrap();
    command.args(["-c", "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.05; done"]);
    let shell = node.spawn("shell", command).unwrap();
    shell.wait_log("hello", DEADLINE).unwrap();
    let seen = std::fs::read_to_string(format!("/proc/{}/comm", shell.pid())).unwrap();
    assert_eq!(seen, "sh\n");
    shell.kill(Signal::SIGTERM).unwrap();
    assert_eq!(shell.wait_exit(DEADLINE).unwrap().code(), Some(3));
    assert!(shell.log().ends_with("bye\n"));

    let mut command = node.command("sleep").unwrap();
    command.arg("1000");
    let sleeper = node.spawn("sleeper", command).unwrap();
    let pid = sleeper.pid();
    drop(sleeper);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());

    node.run(&["sh", "-c", "setsid sleep 1000 & exit 0"]).unwrap();
    poll(DEADLINE, "the daemon", || node.text(&["pgrep", "-x", "sleep"]).ok()).unwrap();
    let missing = node.run(&["no-such-program"]).unwrap_err();
    assert!(format!("{missing:#}").contains("exec no-such-program"), "{missing:#}");
    lab.finish().unwrap();
}

/// Verifies: a socket opened by a closure in a node's network namespace belongs to that node.
#[test]
fn sockets_of_a_closure_stay_in_its_node() {
    let lab = Lab::new("sockets").unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    lab.link(&a, "eth0", &b, "eth0").unwrap();
    a.addr("eth0", "10.1.1.1/24").unwrap();
    b.addr("eth0", "10.1.1.2/24").unwrap();
    let listener = b.in_netns(|| UdpSocket::bind("10.1.1.2:4000")).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    let sender = a.in_netns(|| UdpSocket::bind("10.1.1.1:0")).unwrap().unwrap();
    sender.send_to(b"hello", "10.1.1.2:4000").unwrap();
    let mut buffer = [0; 16];
    let (length, from) = poll(DEADLINE, "the datagram", || listener.recv_from(&mut buffer).ok()).unwrap();
    assert_eq!((&buffer[..length], from.ip().to_string().as_str()), (&b"hello"[..], "10.1.1.1"));
    lab.finish().unwrap();
}

/// ```text
/// h1 10.1.3.1/24 ─┐
///                 ├─ br0 10.1.3.254/24 (switch)
/// h2 10.1.3.2/24 ─┘
/// ```
/// Verifies: a bridge joins links to one LAN; a pulled cable carries nothing until it is back; a cut one is gone.
#[test]
fn a_bridge_is_a_lan_and_cables_can_be_pulled() {
    let lab = Lab::new("lan").unwrap();
    let (switch, h1, h2) = (lab.node("switch").unwrap(), lab.node("h1").unwrap(), lab.node("h2").unwrap());
    let cable = lab.link(&switch, "p1", &h1, "eth0").unwrap();
    lab.link(&switch, "p2", &h2, "eth0").unwrap();
    switch.bridge("br0", &["p1", "p2"]).unwrap();
    switch.addr("br0", "10.1.3.254/24").unwrap();
    h1.addr("eth0", "10.1.3.1/24").unwrap();
    h2.addr("eth0", "10.1.3.2/24").unwrap();
    let reach = |target: &str| h1.run(&["ping", "-c", "1", "-W", "1", target]);
    poll(DEADLINE, "the LAN", || reach("10.1.3.2").ok()).unwrap();
    reach("10.1.3.254").unwrap();
    cable.down().unwrap();
    reach("10.1.3.2").unwrap_err();
    cable.up().unwrap();
    poll(DEADLINE, "the LAN after the cable was pulled", || reach("10.1.3.2").ok()).unwrap();
    cable.cut().unwrap();
    assert_eq!(h1.links().unwrap(), ["lo"]);
    lab.finish().unwrap();
}

/// Verifies: a clone and build folder under `/tmp`, which is private to a node, can be used there all the same.
#[test]
fn programs_under_a_private_folder_can_be_run_in_a_node() {
    const ROLE: &str = "TURNPIKE_LAB_TEST_BIN_UNDER_TMP";
    if std::env::var_os(ROLE).is_some() {
        let lab = Lab::new("visible").unwrap();
        let node = lab.node("n1").unwrap();
        let program = turnpike_testbed::binary("lab-init").unwrap();
        let listing = node.text(&["ls", "-A", "/tmp"]).unwrap();
        assert_eq!(listing.lines().count(), 1, "only the way to the programs is visible: {listing}");
        let output = node.run_unchecked(&["sh", "-c", &format!("{} 2>&1", program.display())]).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("usage: lab-init"), "{said}");
        lab.finish().unwrap();
        return;
    }
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::copy(turnpike_testbed::binary("lab-init").unwrap(), bin.join("lab-init")).unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "programs_under_a_private_folder_can_be_run_in_a_node", "--nocapture"])
        .env(ROLE, "1")
        .env("TURNPIKE_BIN_DIR", &bin)
        .env("TURNPIKE_LAB_DIR", folder.path().join("labs"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

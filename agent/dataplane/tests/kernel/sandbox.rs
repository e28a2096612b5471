//! A host of its own for each test: network and mount namespace, a bpffs, pods, and snapshots of what the kernel holds.
//!
//! Everything in it goes away with the test's process.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use turnpike_dataplane::{Dataplane, DataplaneConfig};
use turnpike_model::desired::{BitsPerSecond, DesiredState, Endpoint, EndpointId, Limits};

/// The calling thread's private namespaces: a node with one uplink, `eth0`, and a world behind it.
pub(crate) struct Host {
    folder: tempfile::TempDir,
    /// The namespace behind the uplink.
    pub(crate) world: Pod,
}

impl Host {
    /// Moves the calling thread, and what it starts from now on, into new namespaces.
    pub(crate) fn enter() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make namespaces and links: run them as root");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("new namespaces");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        let folder = tempfile::tempdir().expect("a folder");
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), none).expect("a bpffs");
        let host = Self { folder, world: Pod::new() };
        run("ip link set lo up");
        run("ip link add eth0 type veth peer name world0");
        host.world.take_link("world0");
        for line in ["ip addr add 10.1.1.11/24 dev eth0", "ip -6 addr add fd00:1:1::11/64 dev eth0 nodad"] {
            run(line);
        }
        run("ip link set eth0 up");
        run("ip route add default via 10.1.1.1");
        run("ip -6 route add default via fd00:1:1::1");
        host.world.run("ip addr add 10.1.1.1/24 dev world0");
        host.world.run("ip -6 addr add fd00:1:1::1/64 dev world0 nodad");
        host.world.run("ip link set lo up");
        host.world.run("ip link set world0 up");
        poll("the uplink to be up", || text("ip -br link show eth0").contains(" UP ").then_some(()));
        host.world.run("ip route add 10.244.0.0/16 via 10.1.1.11");
        host.world.run("ip -6 route add fd00:244::/48 via fd00:1:1::11");
        host
    }

    /// The configuration of this host's data plane.
    pub(crate) fn config(&self) -> DataplaneConfig {
        DataplaneConfig { bpffs: self.folder.path().join("turnpike"), ..DataplaneConfig::default() }
    }

    /// A data plane, as at the start of an agent.
    pub(crate) fn open(&self) -> Dataplane {
        Dataplane::new(self.config()).expect("a data plane")
    }

    /// The folder of pins.
    pub(crate) fn pins(&self) -> PathBuf {
        self.folder.path().join("turnpike")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let unmounted = nix::mount::umount(self.folder.path());
        if !thread::panicking() {
            unmounted.expect("nothing uses the bpffs any more");
        }
    }
}

/// A network namespace that this value keeps alive.
pub(crate) struct Pod {
    netns: File,
}

impl Pod {
    /// A path that leads to the namespace.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&self.netns))
    }

    /// A new, empty namespace.
    pub(crate) fn new() -> Self {
        let open = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("its file")
        };
        Self { netns: thread::spawn(open).join().expect("a thread") }
    }

    /// The namespace's descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// Runs something on a thread inside.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.netns, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                work()
            });
            worker.join().expect("work inside")
        })
    }

    /// Runs a command line inside and expects it to succeed.
    pub(crate) fn run(&self, line: &str) -> Output {
        self.inside(|| run(line))
    }

    /// The command's exit status, inside.
    pub(crate) fn succeeds(&self, line: &str) -> bool {
        self.inside(|| output(line).status.success())
    }

    /// Standard output of a command inside, as JSON.
    pub(crate) fn json(&self, line: &str) -> Value {
        self.inside(|| json(line))
    }

    /// Moves a link of the calling thread's namespace into this one.
    pub(crate) fn take_link(&self, name: &str) {
        // iproute2 takes a path: that of our own descriptor.
        let path = self.path();
        run(&format!("ip link set {name} netns {path}"));
    }
}

/// Runs a command line (split at spaces).
pub(crate) fn output(line: &str) -> Output {
    let mut words = line.split_whitespace();
    Command::new(words.next().expect("a program")).args(words).output().expect("start")
}

/// Runs a command line and expects it to succeed.
pub(crate) fn run(line: &str) -> Output {
    let output = output(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Standard output of a command.
pub(crate) fn text(line: &str) -> String {
    String::from_utf8(run(line).stdout).expect("text")
}

/// Standard output of a command as JSON.
pub(crate) fn json(line: &str) -> Value {
    let text = text(line);
    if text.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&text).expect("JSON") }
}

/// Endpoint number `n`: addresses 10.244.0.n and fd00:244::n.
pub(crate) fn endpoint(n: u8) -> Endpoint {
    Endpoint {
        id: EndpointId { container_id: format!("pod{n}"), ifname: "eth0".to_owned() },
        host_link: format!("tpk{n:011x}"),
        addresses: vec![
            format!("10.244.0.{n}").parse::<IpAddr>().expect("IPv4"),
            format!("fd00:244::{n:x}").parse::<IpAddr>().expect("IPv6"),
        ],
        mtu: 1500,
        limits: Limits::default(),
        class: None,
        host_ports: Vec::new(),
        toa_off: false,
        bypass_off: false,
        namespace: String::new(),
        shadow: Limits::default(),
        bursts: Default::default(),
        exempt: Default::default(),
        mac: None,
        netns_path: String::new(),
    }
}

/// With limits in Mbit/s; 0 is none.
pub(crate) fn limited(mut endpoint: Endpoint, to_workload: u64, from_workload: u64) -> Endpoint {
    let limit = |mbit: u64| (mbit > 0).then(|| BitsPerSecond(mbit * 1_000_000));
    endpoint.limits = Limits { to_workload: limit(to_workload), from_workload: limit(from_workload) };
    endpoint
}

/// A desired state of these endpoints only.
pub(crate) fn state(endpoints: &[Endpoint]) -> DesiredState {
    DesiredState {
        endpoints: endpoints.iter().map(|endpoint| (endpoint.id.clone(), endpoint.clone())).collect(),
        ..DesiredState::default()
    }
}

/// Applies and expects no problem but what an older kernel lacks.
pub(crate) fn apply(plane: &mut Dataplane, desired: &DesiredState) {
    let mut problems = plane.apply(desired);
    problems.retain(|problem| !problem.message.starts_with("this kernel has no "));
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Attaches and expects no problem.
pub(crate) fn attach(plane: &mut Dataplane, endpoint: &Endpoint, pod: &Pod) {
    let report = plane.attach(endpoint, pod.fd()).expect("attach");
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

/// A text for each subsystem.
pub(crate) type Snapshot = BTreeMap<&'static str, String>;

/// What the kernel holds, without numbers that differ from run to run: a text for each subsystem.
pub(crate) fn snapshot() -> Snapshot {
    let mut all = BTreeMap::new();
    all.insert("links", links());
    for (name, line) in [
        ("routes4", "ip route show table main"),
        ("routes6", "ip -6 route show table main"),
        ("neighbours", "ip neigh show nud permanent"),
        ("nftables", "nft -s list ruleset"),
    ] {
        all.insert(name, sorted(name, &text(line)));
    }
    all
}

/// Fails with the lines that differ.
pub(crate) fn same(found: &Snapshot, wanted: &Snapshot, when: &str) {
    let lines = |snapshot: &Snapshot| -> Vec<String> {
        snapshot
            .iter()
            .flat_map(|(name, text)| text.lines().map(move |line| format!("{name}: {line}")))
            .collect()
    };
    let (found, wanted) = (lines(found), lines(wanted));
    let surplus: Vec<&String> = found.iter().filter(|line| !wanted.contains(line)).collect();
    let missing: Vec<&String> = wanted.iter().filter(|line| !found.contains(line)).collect();
    assert!(surplus.is_empty() && missing.is_empty(), "{when}: surplus {surplus:#?}, missing {missing:#?}");
    assert_eq!(found.len(), wanted.len(), "{when}: lines repeat");
}

/// Tables list sets and chains in the order in which they were made: each becomes a paragraph, in order of names.
fn sorted(name: &str, text: &str) -> String {
    if name == "nftables" {
        let mut paragraphs: Vec<&str> =
            text.split("\n\n").map(|part| part.trim_end_matches(['\n', '}'])).collect();
        paragraphs.sort_unstable_by_key(|part| part.trim_start_matches("table inet turnpike {\n"));
        return paragraphs.join("\n");
    }
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Every link with what matters of it: addresses, qdiscs, classes, filters.
fn links() -> String {
    let mut lines = Vec::new();
    for link in json("ip -j -d addr show").as_array().expect("links") {
        let name = link["ifname"].as_str().expect("a name");
        let kind = link["linkinfo"]["info_kind"].as_str().unwrap_or("-");
        let addresses: Vec<String> = link["addr_info"]
            .as_array()
            .expect("addresses")
            .iter()
            .map(|address| format!("{}/{}", address["local"].as_str().unwrap_or("-"), address["prefixlen"]))
            .collect();
        let mac = if name.starts_with("tpk") && kind == "veth" { link["address"].as_str() } else { None };
        lines.push(format!(
            "{name} {kind} mtu {} {} {} {}",
            link["mtu"],
            mac.unwrap_or("-"),
            if link["flags"].as_array().expect("flags").contains(&"UP".into()) { "UP" } else { "DOWN" },
            addresses.join(" ")
        ));
        if name.starts_with("tpk") {
            for line in [
                format!("tc qdisc show dev {name}"),
                format!("tc class show dev {name}"),
                format!("tc filter show dev {name} ingress"),
                format!("tc filter show dev {name} egress"),
            ] {
                lines.extend(text(&line).lines().map(|line| format!("{name}: {}", traffic_control(line))));
            }
        }
    }
    lines.sort_unstable();
    lines.join("\n")
}

/// Names of the links of ours, in order.
pub(crate) fn links_of_ours() -> Vec<String> {
    let links = json("ip -j link show");
    let names = links.as_array().expect("links").iter().filter_map(|link| link["ifname"].as_str());
    let mut ours: Vec<String> = names.filter(|name| name.starts_with("tpk")).map(str::to_owned).collect();
    ours.sort();
    ours
}

/// Without numbers of the run.
fn traffic_control(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    for word in ["index", "refcnt", "direct_packets_stat", "id"] {
        if let Some(at) = words.iter().position(|found| *found == word) {
            words.drain(at..(at + 2).min(words.len()));
        }
    }
    words.join(" ")
}

/// The nftables generation: it moves with every transaction that changes anything.
pub(crate) fn nft_generation() -> u32 {
    use netlink_sys::{Socket, SocketAddr};
    let mut socket = Socket::new(12).expect("a netfilter socket");
    socket.bind_auto().expect("bind");
    socket.connect(&SocketAddr::new(0, 0)).expect("connect");
    // NFT_MSG_GETGEN with an empty nfgenmsg.
    let mut message = Vec::new();
    message.extend(20_u32.to_ne_bytes());
    message.extend(((10_u16 << 8) | 16).to_ne_bytes());
    message.extend(1_u16.to_ne_bytes());
    message.extend([0; 12]);
    socket.send(&message, 0).expect("ask");
    let (reply, _) = socket.recv_from_full().expect("answer");
    // Behind both headers, NFTA_GEN_ID is the first attribute.
    u32::from_be_bytes(reply[24..28].try_into().expect("four bytes"))
}

/// Waits for something that another process or the kernel is about to bring about.
pub(crate) fn poll<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(std::time::Instant::now() < deadline, "timed out: {what}");
        thread::yield_now();
    }
}

//! What benches do in and for a pod that is a namespace called `pod` of a lab node.

use std::fs::File;
use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::Node;

const CONF: &str = r#"{"cniVersion":"1.0.0","name":"turnpike","type":"turnpike-cni"}"#;
/// Datagrams of one measurement, and those before it.
const DATAGRAMS: u32 = 20_000;
const WARM_UP: u32 = 500;

/// Runs something on a thread in the pod's network namespace.
pub(super) fn in_pod<T: Send>(node: &Node, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = node.path("/run/netns/pod")?;
    let netns = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    thread::scope(|scope| {
        let inside = scope.spawn(move || -> Result<T> {
            setns(netns, CloneFlags::CLONE_NEWNET).context("join the pod's network namespace")?;
            Ok(work())
        });
        inside.join().map_err(|_| anyhow!("work in the pod panicked"))?
    })
}

/// Has turnpike-cni attach the pod; answers its IPv4 address.
pub(super) fn attach(node: &Node) -> Result<IpAddr> {
    node.write_file("/tmp/conf.json", CONF)?;
    let script = "CNI_COMMAND=ADD CNI_CONTAINERID=pod CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 \
                  CNI_PATH=/opt/cni/bin exec /opt/cni/bin/turnpike-cni </tmp/conf.json";
    let result: serde_json::Value = serde_json::from_str(&node.text(&["sh", "-c", script])?)?;
    let addresses = result.get("ips").and_then(serde_json::Value::as_array);
    let addresses = addresses.context("addresses in the result")?;
    let addresses =
        addresses.iter().filter_map(|one| one.get("address")?.as_str()?.split('/').next()?.parse().ok());
    addresses.into_iter().find(IpAddr::is_ipv4).context("an IPv4 address")
}

/// Makes the pod by hand, behind a link `vpod` of the node, the node's end having `gateway`.
pub(super) fn make(node: &Node, gateway: &str, pod: &str) -> Result<()> {
    for line in [
        "ip link add vpod type veth peer name eth0 netns pod".to_owned(),
        format!("ip addr add {gateway}/24 dev vpod"),
        "ip link set vpod up".to_owned(),
        format!("ip -n pod addr add {pod}/24 dev eth0"),
        "ip -n pod link set eth0 up".to_owned(),
        format!("ip -n pod route add default via {gateway}"),
    ] {
        node.run(&line.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Nanoseconds of one call that sends 64 bytes through a connected socket, on the first CPU: what forwards the packet runs
/// there, in the call.
pub(super) fn send_cost(sender: &UdpSocket) -> Result<f64> {
    let send = |count: u32| -> Duration {
        let begun = Instant::now();
        for _ in 0..count {
            // A receiver that does not read, and a node that drops, are no errors.
            let _ = sender.send(&[7; 64]);
        }
        begun.elapsed()
    };
    thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<f64> {
            pin()?;
            // Neighbours and routes are found with the first ones.
            send(WARM_UP);
            Ok(send(DATAGRAMS).as_nanos() as f64 / f64::from(DATAGRAMS))
        });
        worker.join().map_err(|_| anyhow!("the sender panicked"))?
    })
}

fn pin() -> Result<()> {
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(0)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus).context("pin the sender")
}

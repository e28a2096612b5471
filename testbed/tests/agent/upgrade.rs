//! Another release of the agent takes over under traffic, and hands back.
//!
//! ```text
//!   outside 10.1.1.1, 10.9.1.5 (director) ─── eth0 n1 (turnpike-agent) ── tpk… ── p (echo, UDP 7000)
//! ```

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::{Lab, binary, poll_result};

use super::bench::{Bench, DEADLINE};

const BALANCER: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs-a}
spec:
  cidrs: [10.9.1.0/24]
  bypass: true
  ports: [{protocol: UDP, port: 7000}]
";
const ECHO: &str = "\
import socket
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
s.bind(('0.0.0.0',7000))
while True:
    data,peer=s.recvfrom(2048)
    s.sendto(data,peer)
";
/// One question at a time on each way, until told to stop; a question without an answer in ten seconds is lost.
const ASK: &str = "\
import os,socket,sys,time
ways={}
for name,own in (('bypass','10.9.1.5'),('plain','10.1.1.1')):
    s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
    s.bind((own,0)); s.connect((sys.argv[1],7000)); s.settimeout(10)
    ways[name]=[s,0,0]
while not os.path.exists('/tmp/stop'):
    for way in ways.values():
        way[1]+=1
        question=str(way[1]).encode()
        try:
            way[0].send(question)
            while way[0].recv(2048)!=question: pass
        except OSError:
            way[2]+=1
    time.sleep(0.0005)
for name,(s,sent,lost) in ways.items(): print(name,sent,'lost',lost)
";

/// Verifies: an agent whose eBPF maps have another version (this build with its pins in another folder, so that nothing
/// pinned by one fits the other) takes over from this one, and this one takes over from it, while a pod answers on the
/// bypass and on the plain path: both stay in force, and no packet is lost.
#[test]
fn another_release_takes_over_and_hands_back_without_a_lost_packet() -> Result<()> {
    let lab = Lab::new("agent-upgrade")?;
    let bench = Bench::start(&lab)?;
    let node = &bench.node;
    let outside = lab.nodes().into_iter().find(|node| node.name() == "outside").context("the outside")?;
    bench.set_resource("lb.yaml", BALANCER)?;
    outside.addr("lo", "10.9.1.5/32")?;
    outside.route("10.244.1.0/26 via 10.1.1.11")?;
    bench.netns("p")?;
    let pod = bench.attach("pod-one", "p")?.addresses.first().context("an address")?.to_string();
    let mut echo = node.command("ip")?;
    echo.args(["netns", "exec", "p", "python3", "-c", ECHO]);
    let echo = node.spawn("echo", echo)?;
    let other = other_release(&bench)?;

    bypassing(&bench, "not before traffic", false)?;
    poll_result(DEADLINE, "the pod to answer", || outside.run(&["sh", "-c", &one_question(&pod)]))?;
    let mut ask = outside.command("python3")?;
    ask.args(["-c", ASK, &pod]);
    let ask = outside.spawn("ask", ask)?;
    bypassing(&bench, "the bypass of this release", true)?;
    for (release, folder) in [(Path::new(&other), "maps-w"), (&binary("turnpike-agent")?, "maps-v")] {
        bench.replace(release)?;
        // Its own maps: they count from where they were made.
        bypassing(&bench, "the bypass of the other release", true)?;
        let pins = node.text(&["ls", "/sys/fs/bpf/turnpike"])?;
        ensure!(pins.contains(folder), "{release:?} has no maps in {folder}…:\n{pins}");
        assert_eq!(bench.check("pod-one", "p")?, Ok(()));
    }
    outside.write_file("/tmp/stop", "")?;
    ensure!(ask.wait_exit(DEADLINE)?.success(), "{}", ask.log());
    let log = ask.log();
    for way in ["bypass", "plain"] {
        let words: Vec<&str> = log
            .lines()
            .find_map(|line| line.strip_prefix(way))
            .context(log.clone())?
            .split_whitespace()
            .collect();
        let sent: u64 = words.first().context("a number")?.parse()?;
        ensure!(sent > 100 && words.last() == Some(&"0"), "{log}");
    }
    drop(echo);
    lab.finish()
}

/// This build, but for the name of the folder with its pinned maps.
fn other_release(bench: &Bench) -> Result<String> {
    const PATH: &str = "/tmp/turnpike-agent-other";
    let mut bytes = std::fs::read(binary("turnpike-agent")?)?;
    let places: Vec<usize> =
        bytes.windows(6).enumerate().filter(|(_, window)| window == b"maps-v").map(|(at, _)| at).collect();
    ensure!(!places.is_empty(), "the agent does not name its folder of maps");
    for at in places {
        bytes[at + 5] = b'w';
    }
    bench.node.write_file(PATH, bytes)?;
    bench.node.run(&["chmod", "+x", PATH])?;
    Ok(PATH.to_owned())
}

/// Packets of the director go past netfilter, both ways, and more of them all the time.
fn bypassing(bench: &Bench, what: &str, wanted: bool) -> Result<()> {
    let program = binary("turnpike")?.to_string_lossy().into_owned();
    let counts = || -> Result<(u64, u64)> {
        let flows: Value = bench.node.json(&[program.as_str(), "-o", "json", "lb", "flows"])?;
        let count = |direction: &str| flows["sources"][0][direction]["bypassed"]["packets"].as_u64();
        Ok((count("to_pods").context(flows.to_string())?, count("from_pods").unwrap_or_default()))
    };
    let first = poll_result(DEADLINE, what, &counts)?;
    if !wanted {
        ensure!(first == (0, 0), "{first:?}");
        return Ok(());
    }
    poll_result(DEADLINE, what, || {
        let now = counts()?;
        ensure!(now.0 > first.0 + 50 && now.1 > first.1 + 50, "{first:?} then {now:?}");
        Ok(())
    })
}

fn one_question(pod: &str) -> String {
    format!(
        "python3 -c \"import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(1); \
         s.sendto(b'x',('{pod}',7000)); s.recv(9)\""
    )
}

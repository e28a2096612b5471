//! The parts of a bundle: configuration files, and what commands print.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::secrets::Secrets;
use crate::Global;

/// Bytes of one part at the most: the end of a longer one is what matters.
const LARGEST: usize = 8 << 20;
/// Between two looks whether a command has ended.
const LOOK: Duration = Duration::from_millis(10);

/// How a part came about.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) name: String,
    /// The command or file.
    pub(super) what: String,
    pub(super) took_ms: u128,
    pub(super) failure: Option<String>,
}

/// What `turnpike` itself is asked.
const OURS: [(&str, &[&str]); 14] = [
    ("turnpike/status", &["-o", "json", "status"]),
    ("turnpike/status-text", &["status"]),
    ("turnpike/doctor", &["doctor"]),
    ("turnpike/pods", &["-o", "json", "pods"]),
    ("turnpike/ipam-show", &["-o", "json", "ipam", "show"]),
    ("turnpike/ipam-check", &["ipam", "check"]),
    ("turnpike/bw", &["-o", "json", "bw", "show"]),
    ("turnpike/lb-flows", &["-o", "json", "lb", "flows"]),
    ("turnpike/conntrack", &["-o", "json", "conntrack"]),
    ("turnpike/routes", &["routes", "export", "--format", "frr"]),
    ("bgp/status", &["-o", "json", "bgp", "status"]),
    ("bgp/peers", &["-o", "json", "bgp", "peers"]),
    ("bgp/rib", &["bgp", "rib", "--limit", "500"]),
    ("bgp/audit", &["bgp", "audit"]),
];

/// What the system is asked. The first word is the program.
const SYSTEM: [(&str, &str); 19] = [
    ("system/kernel", "uname -a"),
    (
        "system/sysctl-net",
        "sysctl -a -r ^net.(ipv4.(ip_forward|conf)|ipv6.conf.*(forwarding|accept_ra)|netfilter)",
    ),
    ("system/softnet", "cat /proc/net/softnet_stat"),
    ("system/memory", "cat /proc/meminfo"),
    ("system/processes", "ps -eo pid,stat,rss,etime,comm"),
    ("ip/link", "ip -d -s link show"),
    ("ip/address", "ip address show"),
    ("ip/rule-4", "ip -4 rule show"),
    ("ip/rule-6", "ip -6 rule show"),
    ("ip/route-4", "ip -4 route show table all"),
    ("ip/route-6", "ip -6 route show table all"),
    ("ip/nexthop", "ip nexthop show"),
    ("ip/neighbour", "ip neighbour show"),
    ("nft/ruleset", "nft list ruleset"),
    ("tc/qdisc", "tc -s qdisc show"),
    ("bpf/programs", "bpftool prog show"),
    ("bpf/net", "bpftool net show"),
    ("bpf/pins", "find /sys/fs/bpf/turnpike"),
    (
        "journal",
        "journalctl --no-pager -n 5000 -u turnpike-agent -u turnpike-bgpd -u turnpike-bfdd -u containerd",
    ),
];

/// Files of the configuration folder and of the runtime's, without their secrets.
pub(super) fn configuration(folder: &Path, config: &Path, secrets: &mut Secrets) -> Vec<Outcome> {
    let places = [config, &config.join("resources"), Path::new("/etc/cni/net.d")];
    let mut outcomes = Vec::new();
    for place in places {
        let mut files: Vec<_> =
            fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        // What a configuration says is read; a file that only holds a secret is not.
        let read = |path: &Path| {
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            path.is_file() && ["toml", "yaml", "yml", "json", "conf", "conflist"].contains(&extension)
        };
        for file in files.iter().filter(|file| read(file)) {
            let started = Instant::now();
            let name = format!("config{}", file.display());
            let written = fs::read_to_string(file)
                .map(|text| secrets.learn(&text))
                .and_then(|text| write(folder, &name, text.as_bytes()));
            outcomes.push(Outcome {
                name,
                what: file.display().to_string(),
                took_ms: started.elapsed().as_millis(),
                failure: written.err().map(|error| error.to_string()),
            });
        }
    }
    outcomes
}

/// What commands print, each within `timeout` seconds.
pub(super) fn commands(folder: &Path, global: &Global, timeout: u64, secrets: &Secrets) -> Vec<Outcome> {
    let ourselves = std::env::current_exe().unwrap_or_else(|_| "turnpike".into());
    let ours = OURS.iter().map(|(name, args)| {
        let mut command = Command::new(&ourselves);
        command.arg("--agent-socket").arg(&global.agent_socket);
        command.arg("--bgpd-socket").arg(&global.bgpd_socket).args(*args);
        (*name, format!("turnpike {}", args.join(" ")), command)
    });
    let system = SYSTEM.iter().map(|(name, line)| {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        (*name, (*line).to_owned(), command)
    });
    let deadline = Duration::from_secs(timeout);
    ours.chain(system)
        .map(|(name, what, command)| part(folder, name, what, command, deadline, secrets))
        .collect()
}

fn part(
    folder: &Path,
    name: &str,
    what: String,
    command: Command,
    deadline: Duration,
    secrets: &Secrets,
) -> Outcome {
    let started = Instant::now();
    let raw = folder.join(".part");
    let failure = run(command, &raw, deadline).err();
    let bytes = fs::read(&raw).unwrap_or_default();
    let tail = bytes.get(bytes.len().saturating_sub(LARGEST)..).unwrap_or_default();
    let text = secrets.scrub(&String::from_utf8_lossy(tail));
    let written = write(folder, &format!("{name}.txt"), text.as_bytes()).err().map(|error| error.to_string());
    drop(fs::remove_file(&raw));
    let took_ms = started.elapsed().as_millis();
    Outcome { name: name.to_owned(), what, took_ms, failure: failure.or(written) }
}

/// Runs a command with both outputs in a file; a command that takes too long is ended.
fn run(mut command: Command, output: &Path, deadline: Duration) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let out = File::create(output).map_err(words)?;
    let both = out.try_clone().map_err(words)?;
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(both).spawn().map_err(words)?;
    let started = Instant::now();
    loop {
        match child.try_wait().map_err(words)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(status.to_string()),
            None if started.elapsed() > deadline => {
                child.kill().and_then(|()| child.wait()).map_err(words)?;
                return Err(format!("it took longer than {deadline:?} and was ended"));
            }
            None => thread::sleep(LOOK),
        }
    }
}

fn write(folder: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content)
}

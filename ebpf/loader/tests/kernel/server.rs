//! An unmodified server in a cgroup of its own: python3, which prints whom it believes to be talking to.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const SCRIPT: &str = r#"
import socket, sys
def nat64(room):
    try:
        return connection.getsockopt(socket.IPPROTO_IP, 4096, room)
    except OSError:
        return b""
family = socket.AF_INET if sys.argv[1] == "4" else socket.AF_INET6
IPPROTO_MPTCP = 262
listener = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if sys.argv[2] == "mptcp" else 0)
if sys.argv[2] == "deferring":
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if family == socket.AF_INET6:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.bind(("" if family == socket.AF_INET else "::", 80))
listener.listen(64)
print("ready", flush=True)
while True:
    connection, accepted = listener.accept()
    peer = connection.getpeername()
    print("accept", accepted[0], accepted[1], "peer", peer[0], peer[1], flush=True)
    data = connection.recv(1000)
    peer = connection.getpeername()
    client = nat64(64)
    assert nat64(16) == b""
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    words = ["after", len(data), "bytes", peer[0], peer[1]]
    if client:
        address = socket.inet_ntop(socket.AF_INET6, client[:16])
        words += ["asked", address, int.from_bytes(client[16:18], "big"), len(client)]
    print(*words, flush=True)
    connection.close()
"#;

/// A cgroup below the machine's own; removed at the end.
pub(crate) struct Cgroup {
    pub(crate) path: PathBuf,
}

impl Cgroup {
    pub(crate) fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let root = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4))
            .expect("a cgroup v2 mount");
        let thread = nix::unistd::gettid();
        let path = Path::new(root).join(format!("turnpike-test-{thread}"));
        std::fs::create_dir(&path).expect("a cgroup");
        Self { path }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process leaves its cgroup a moment after it was waited for.
        let started = Instant::now();
        while std::fs::remove_dir(&self.path).is_err() {
            if started.elapsed() > Duration::from_secs(20) {
                assert!(std::thread::panicking(), "{} is still in use", self.path.display());
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// How the server listens.
#[derive(Clone, Copy)]
pub(crate) enum Listener {
    /// TCP.
    Plain,
    /// MPTCP, which serves clients of plain TCP, too.
    Mptcp,
    /// Woken by data only (TCP_DEFER_ACCEPT): the kernel ignores the third ACK.
    Deferring,
}

/// The running server.
pub(crate) struct Server {
    child: Child,
    lines: Receiver<String>,
}

impl Server {
    /// Starts it in the calling thread's network namespace; `family` is 4, or 6 for both families.
    pub(crate) fn start(cgroup: &Cgroup, family: u8, listener: Listener) -> Self {
        let kind = match listener {
            Listener::Plain => "plain",
            Listener::Mptcp => "mptcp",
            Listener::Deferring => "deferring",
        };
        Self::run(cgroup, SCRIPT, &[&family.to_string(), kind])
    }

    /// Starts another script, which says `ready` when it is.
    pub(crate) fn run(cgroup: &Cgroup, script: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", r#"echo $$ > "$1/cgroup.procs" && shift && exec python3 -c "$@""#, "sh"])
            .arg(&cgroup.path)
            .arg(script)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let server = Self { child, lines };
        assert_eq!(server.line(), "ready");
        server
    }

    /// Its next line.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(20)).expect("a line of the server")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("kill the server");
        self.child.wait().expect("wait for the server");
    }
}

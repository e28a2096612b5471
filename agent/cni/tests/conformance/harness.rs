//! Runs turnpike-cni as a runtime does, and plays the agent.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tempfile::TempDir;
use turnpike_agent_api::{AddReply, Receiver, Reply, Request, SpoolEntry, read_spool, write_frame};

/// A folder with socket and spool, and a network namespace that stands for the pod's.
pub(crate) struct Bench {
    folder: TempDir,
    netns: PathBuf,
    inode: u64,
    // Dropping it ends the thread that lives in the namespace.
    _release: mpsc::Sender<()>,
    cni: Mutex<Option<u32>>,
}

/// One call of the program.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    env: BTreeMap<String, String>,
    config: Value,
    stdin: Option<String>,
    open_stdin: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
}

type Seen = Arc<Mutex<Vec<(Request, Option<u64>)>>>;

/// The other side of the socket: answers in order, and remembers requests and namespaces' inodes.
pub(crate) struct Agent {
    seen: Seen,
    _thread: JoinHandle<()>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let (release, wait) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
            let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            tell.send(PathBuf::from(path)).unwrap();
            // Ends when the bench is dropped.
            let _ = wait.recv();
        });
        let netns = told.recv().unwrap();
        let inode = std::fs::metadata(&netns).unwrap().ino();
        Self { folder: tempfile::tempdir().unwrap(), netns, inode, _release: release, cni: Mutex::new(None) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    pub(crate) fn netns_path(&self) -> String {
        self.netns.display().to_string()
    }

    pub(crate) fn netns_inode(&self) -> u64 {
        self.inode
    }

    /// A good call of a verb.
    pub(crate) fn call(&self, verb: &str) -> Call {
        let mut call = Call::new(verb)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", &self.netns_path())
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=default");
        call.config = json!({"cniVersion": "1.1.0", "name": "turnpike", "type": "turnpike-cni"});
        self.here(call)
    }

    /// The same call with this bench's socket and spool.
    pub(crate) fn here(&self, call: Call) -> Call {
        call.field("socket", json!(self.socket())).field("spool", json!(self.folder.path().join("spool")))
    }

    pub(crate) fn agent(&self, replies: Vec<Reply>) -> Agent {
        self.listen(replies, false)
    }

    pub(crate) fn agent_that_drops_the_first(&self, replies: Vec<Reply>) -> Agent {
        self.listen(replies, true)
    }

    fn listen(&self, replies: Vec<Reply>, drop_first: bool) -> Agent {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let seen = Seen::default();
        let thread = std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                let mut drop_next = drop_first;
                let mut replies = replies.into_iter();
                for stream in listener.incoming() {
                    let stream = stream.unwrap();
                    let Ok((request, files)) = Receiver::new().read_frame::<Request>(&stream) else {
                        continue;
                    };
                    seen.lock().unwrap().push((request, files.first().map(inode)));
                    if std::mem::take(&mut drop_next) {
                        continue;
                    }
                    let Some(reply) = replies.next() else { return };
                    write_frame(&stream, &reply, &[]).unwrap();
                }
            }
        });
        Agent { seen, _thread: thread }
    }

    pub(crate) fn spooled(&self) -> Vec<SpoolEntry> {
        let Ok(files) = std::fs::read_dir(self.folder.path().join("spool")) else { return Vec::new() };
        files.map(|file| read_spool(&file.unwrap().path()).unwrap()).collect()
    }

    /// The program has opened the namespace and sleeps: it waits for the agent.
    pub(crate) fn cni_is_waiting(&self) -> bool {
        let Some(pid) = *self.cni.lock().unwrap() else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        stat.contains(") S ") && files > 3
    }

    pub(crate) fn run(&self, call: &Call) -> Outcome {
        let mut child = Command::new(env!("CARGO_BIN_EXE_turnpike-cni"))
            .env_clear()
            .envs(&call.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        *self.cni.lock().unwrap() = Some(child.id());
        let mut stdin = child.stdin.take().unwrap();
        if !call.open_stdin {
            let text = call.stdin.clone().unwrap_or_else(|| call.config.to_string());
            // A call that fails early does not read it all.
            let _ = stdin.write_all(text.as_bytes());
            drop(stdin);
            return Outcome::of(child);
        }
        let outcome = Outcome::of(child);
        drop(stdin);
        outcome
    }
}

impl Agent {
    pub(crate) fn seen(&self) -> Vec<(Request, Option<u64>)> {
        self.seen.lock().unwrap().clone()
    }
}

impl Call {
    pub(crate) fn new(verb: &str) -> Self {
        let env = [("CNI_COMMAND".to_owned(), verb.to_owned())].into();
        Self { env, config: json!({}), stdin: None, open_stdin: false }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    pub(crate) fn field(mut self, name: &str, value: Value) -> Self {
        self.config.as_object_mut().unwrap().insert(name.to_owned(), value);
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.config.as_object_mut().unwrap().remove(name);
        self
    }

    pub(crate) fn version(self, version: &str) -> Self {
        self.field("cniVersion", json!(version))
    }

    pub(crate) fn stdin(mut self, text: &str) -> Self {
        self.stdin = Some(text.to_owned());
        self
    }

    /// stdin stays open and silent, as a runtime without configuration may leave it.
    pub(crate) fn with_open_stdin(mut self) -> Self {
        self.open_stdin = true;
        self
    }
}

impl Outcome {
    fn of(child: std::process::Child) -> Self {
        let output = child.wait_with_output().unwrap();
        Self {
            exit: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap().trim().to_owned(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: `{}`", self.stdout))
    }
}

/// What an agent answers to ADD.
pub(crate) fn added() -> AddReply {
    AddReply {
        host_link: "tpk3c5e3ea48c40".to_owned(),
        host_mac: "ee:ee:ee:ee:ee:ee".to_owned(),
        pod_mac: "02:00:00:00:00:01".to_owned(),
        mtu: 1500,
        addresses: vec!["10.244.1.2".parse().unwrap()],
        gateways: vec!["169.254.1.1".parse().unwrap()],
    }
}

fn inode(file: &OwnedFd) -> u64 {
    std::fs::metadata(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap().ino()
}

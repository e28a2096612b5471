//! A node: net, mount, pid, uts and ipc namespaces of its own, and what can be done inside them.
//!
//! Private to a node: `/run`, `/var/lib`, `/var/log` and `/tmp` (empty at first), `/etc` and `/opt` (the host's, with
//! private changes), `/proc`, `/sys` of its network namespace with a bpffs of its own. Everything else is the host's file
//! system, writable. The cgroup hierarchies are the host's; the node has a sub-cgroup in the v2 one.

mod init;
mod net;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use self::init::Init;
use crate::capture::Capture;
use crate::leak::{Held, Leak, released};
use crate::place::binary;
use crate::process::{Process, Running};

/// How long [`Node::run`] lets a command run.
const RUN_DEADLINE: Duration = Duration::from_secs(60);

/// A handle on a node. Clones are handles on the same node; it ends with its [`crate::Lab`], or by [`Node::stop`].
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    /// Logs and captures of this node, on the host.
    folder: PathBuf,
    /// Relative to the root of any cgroup hierarchy, with a leading slash.
    cgroup: String,
    cgroup2_root: PathBuf,
    init: Mutex<Option<Init>>,
    children: Mutex<Vec<Arc<Running>>>,
    /// What held on to its namespaces when it was stopped.
    leaks: Mutex<Vec<Leak>>,
    diagnostics: Mutex<Vec<(String, Vec<String>)>>,
}

impl Node {
    /// Starts a node. `cgroup` is its path below the roots of the cgroup hierarchies.
    pub(crate) fn start(name: &str, folder: &Path, cgroup: String, cgroup2_root: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let host = cgroup2_root.join(cgroup.trim_start_matches('/')).join("host");
        let init = Init::start(name, &folder.join("init.log"), &host)
            .with_context(|| format!("start node {name}"))?;
        let node = Self {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                folder: folder.to_path_buf(),
                cgroup,
                cgroup2_root: cgroup2_root.to_path_buf(),
                init: Mutex::new(Some(init)),
                children: Mutex::default(),
                leaks: Mutex::default(),
                diagnostics: Mutex::default(),
            }),
        };
        node.link_up("lo")?;
        Ok(node)
    }

    /// Its name, which is also its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The host pid of its pid 1.
    ///
    /// # Errors
    /// When the node was stopped.
    pub fn pid(&self) -> Result<u32> {
        self.with_init(|init| Ok(init.pid()))
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// When the node was stopped, or no descriptor is left.
    pub fn netns(&self) -> Result<OwnedFd> {
        self.with_init(|init| Ok(init.net.try_clone()?))
    }

    /// Where the host sees its network namespace.
    ///
    /// # Errors
    /// When the node was stopped.
    pub fn netns_path(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/ns/net", self.pid()?)))
    }

    /// The folder on the host that keeps its logs and captures.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// The node's sub-cgroup, as a path from the root of any hierarchy: what a CRI sandbox gets as `cgroup_parent`.
    /// The node's own processes are in its child `host`, so that controllers can be delegated to its other children.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.inner.cgroup
    }

    /// The node's sub-cgroup in the v2 hierarchy, as a path that is valid on the host and in the node.
    #[must_use]
    pub fn cgroup_path(&self) -> PathBuf {
        self.inner.cgroup2_root.join(self.inner.cgroup.trim_start_matches('/'))
    }

    /// A path of the node as the host sees it. Symbolic links with absolute targets on the way would lead to the
    /// host's own files: prefer [`Node::read_file`] and [`Node::write_file`]; `/var/run` is taken care of.
    ///
    /// # Errors
    /// When the node was stopped, or the path is not absolute.
    pub fn path(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        ensure!(path.is_absolute(), "{} is not an absolute path", path.display());
        let inside = match path.strip_prefix("/var/run") {
            Ok(rest) => Path::new("run").join(rest),
            Err(_) => path.strip_prefix("/").unwrap_or(path).to_path_buf(),
        };
        Ok(PathBuf::from(format!("/proc/{}/root", self.pid()?)).join(inside))
    }

    /// Writes a file, making its folders. Only where the node's files are not the host's.
    ///
    /// # Errors
    /// When the path is outside of the private folders, or cannot be written.
    pub fn write_file(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
        let (path, content) = (path.as_ref(), content.as_ref());
        let private = ["/run", "/var/run", "/var/lib", "/var/log", "/tmp", "/etc", "/opt", "/sys", "/proc"];
        ensure!(
            private.iter().any(|folder| path.starts_with(folder)),
            "{} is the host's own file system: a lab does not write there",
            path.display()
        );
        self.inside(|| {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
            }
            fs::write(path, content).with_context(|| format!("write {} in {}", path.display(), self.name()))
        })?
    }

    /// Reads a file of the node.
    ///
    /// # Errors
    /// When it cannot be read as text.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<String> {
        let path = path.as_ref();
        self.inside(|| fs::read_to_string(path))?
            .with_context(|| format!("read {} in {}", path.display(), self.name()))
    }

    /// Sets a sysctl by its dotted name, or with slashes where a name has dots in it.
    ///
    /// # Errors
    /// When it does not exist or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let key = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
        let path = Path::new("/proc/sys").join(&key);
        self.in_netns(|| fs::write(&path, value))?
            .with_context(|| format!("set {key} to {value:?} in {}", self.name()))
    }

    /// A command that will run in all namespaces of the node when given to [`Node::spawn`]. Arguments, environment and
    /// working folder can be set on it; stdin, stdout and stderr are the lab's.
    ///
    /// # Errors
    /// When the node was stopped, or `lab-init` is not built.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.command_below(&self.cgroup_path().join("host"), program)
    }

    /// Like [`Node::command`], in a cgroup other than the one of the node's own processes.
    pub(crate) fn command_below(&self, cgroup: &Path, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new(binary("lab-init")?);
        command.arg("enter").arg(self.pid()?.to_string()).arg(cgroup).arg(program);
        Ok(command)
    }

    /// Starts a command made by [`Node::command`]. Its output goes to `<name>.log` in the node's folder.
    ///
    /// # Errors
    /// When it cannot be started. That the program is missing shows as its exit code 127 and in its log.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        let log = self.inner.folder.join(format!("{name}.log"));
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let both = out.try_clone()?;
        let running = self.launch(command, out.into(), both.into())?;
        Ok(Process::new(name, log, running))
    }

    /// Runs a command to its end, for at most a minute, and demands success.
    ///
    /// # Errors
    /// When it cannot be run, takes too long, or exits with anything but 0; the error holds its output.
    pub fn run<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<Output> {
        let output = self.run_unchecked(argv)?;
        ensure!(
            output.status.success(),
            "`{}` in {}: {}\n{}{}",
            spell(argv),
            self.name(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        Ok(output)
    }

    /// Like [`Node::run`], but any exit code will do.
    ///
    /// # Errors
    /// When it cannot be run or takes more than a minute.
    pub fn run_unchecked<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<Output> {
        let [program, args @ ..] = argv else { bail!("an empty command") };
        let mut command = self.command(program)?;
        command.args(args);
        let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let running = self.launch(command, out.try_clone()?.into(), err.try_clone()?.into())?;
        let status = running
            .wait(RUN_DEADLINE, &format!("`{}` in {}", spell(argv), self.name()))
            .inspect_err(|_| {
                drop(running.end());
            })?;
        Ok(Output {
            status: checked_start(status, &mut err)?,
            stdout: whole(&mut out)?,
            stderr: whole(&mut err)?,
        })
    }

    /// The standard output of [`Node::run`] as text.
    ///
    /// # Errors
    /// As [`Node::run`], or when the output is not UTF-8.
    pub fn text<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<String> {
        Ok(String::from_utf8(self.run(argv)?.stdout)?)
    }

    /// The standard output of [`Node::run`] as JSON.
    ///
    /// # Errors
    /// As [`Node::run`], or when the output is not JSON.
    pub fn json<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<serde_json::Value> {
        let output = self.run(argv)?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("JSON of `{}`", spell(argv)))
    }

    /// Runs a closure on a fresh thread in the node's network namespace; sockets opened there stay there. The files are
    /// the host's.
    ///
    /// # Errors
    /// When the node was stopped or the namespace cannot be joined.
    pub fn in_netns<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let net = self.netns()?;
        on_thread(|| {
            setns(net, CloneFlags::CLONE_NEWNET).context("join the network namespace")?;
            Ok(work())
        })
    }

    /// Runs a closure on a fresh thread in the node's network, mount, uts and ipc namespaces: its paths are the node's.
    /// A process started from there would still be in the host's pid namespace.
    ///
    /// # Errors
    /// When the node was stopped or a namespace cannot be joined.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.within(&["net", "uts", "ipc", "mnt"], work)
    }

    /// Like [`Node::inside`], and processes started from there are the node's in every way. Threads cannot be started.
    ///
    /// # Errors
    /// As [`Node::inside`].
    pub fn inside_with_children<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.within(&["net", "uts", "ipc", "pid", "mnt"], work)
    }

    fn within<T: Send>(&self, namespaces: &[&str], work: impl FnOnce() -> T + Send) -> Result<T> {
        let folder = PathBuf::from(format!("/proc/{}/ns", self.pid()?));
        on_thread(|| {
            // A thread that shares its file system context with others may not change its mount namespace.
            unshare(CloneFlags::CLONE_FS).context("unshare the file system context")?;
            for name in namespaces {
                let file = File::open(folder.join(name)).with_context(|| format!("open {name} namespace"))?;
                setns(file, CloneFlags::empty()).with_context(|| format!("join {name} namespace"))?;
            }
            Ok(work())
        })
    }

    /// Captures packets of an interface (or `any`) that match a tcpdump filter, from the return of this call on.
    ///
    /// # Errors
    /// When tcpdump cannot be started or does not begin to listen.
    pub fn capture(&self, interface: &str, filter: &str) -> Result<Capture> {
        Capture::start(self, interface, filter)
    }

    /// Has `argv` run in the node and its output kept as `file` in the node's folder if the lab fails.
    pub fn on_failure<S: Into<String> + Clone>(&self, file: &str, argv: &[S]) {
        let argv = argv.iter().cloned().map(Into::into).collect();
        lock(&self.inner.diagnostics).push((file.to_owned(), argv));
    }

    /// Ends the node: every process in it is killed, its links disappear from the other nodes.
    ///
    /// # Errors
    /// When a process or a namespace does not go away; the lab will complain of it too.
    pub fn stop(&self) -> Result<()> {
        let left = released(self.end()?);
        let text: Vec<String> = left.iter().map(ToString::to_string).collect();
        lock(&self.inner.leaks).extend(left);
        ensure!(text.is_empty(), "node {} has stopped, but {}", self.name(), text.join(", "));
        Ok(())
    }

    /// Ends the node and holds its namespaces, so that whoever else holds them can be found.
    pub(crate) fn end(&self) -> Result<Vec<Held>> {
        let Some(init) = lock(&self.inner.init).take() else { return Ok(Vec::new()) };
        let held = init.hold(self.name());
        // A pid namespace ends only when the processes that were put into it from outside have been reaped.
        let children = std::mem::take(&mut *lock(&self.inner.children));
        let ended: Vec<Result<()>> = children.iter().map(|child| child.end()).collect();
        init.stop().with_context(|| format!("stop node {}", self.name()))?;
        ended.into_iter().collect::<Result<()>>()?;
        held
    }

    pub(crate) fn leaks(&self) -> Vec<Leak> {
        lock(&self.inner.leaks).clone()
    }

    pub(crate) fn diagnostics(&self) -> Vec<(String, Vec<String>)> {
        lock(&self.inner.diagnostics).clone()
    }

    pub(crate) fn launch(&self, mut command: Command, out: Stdio, err: Stdio) -> Result<Arc<Running>> {
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let pids = self.with_init(|init| Ok(init.pids.try_clone()?))?;
        let child = on_thread(|| {
            // This concerns the children of this thread only: the command is born in the node's pid namespace.
            setns(pids, CloneFlags::CLONE_NEWPID).context("join the pid namespace")?;
            command.spawn().context("start lab-init")
        })?;
        let running = Arc::new(Running::new(child));
        let mut children = lock(&self.inner.children);
        children.retain(|child| matches!(child.try_wait(), Ok(None)));
        children.push(Arc::clone(&running));
        Ok(running)
    }

    fn with_init<T>(&self, work: impl FnOnce(&Init) -> Result<T>) -> Result<T> {
        match &*lock(&self.inner.init) {
            Some(init) => work(init),
            None => bail!("node {} was stopped", self.inner.name),
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on a thread that ends with it, so that its namespaces do not stick to a thread of the caller.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn spell<S: AsRef<OsStr>>(argv: &[S]) -> String {
    argv.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn whole(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `lab-init` exits with 127 when it could not become the program: that is no result of the program.
fn checked_start(status: ExitStatus, err: &mut File) -> Result<ExitStatus> {
    if status.code() == Some(127) {
        let said = String::from_utf8_lossy(&whole(err)?).into_owned();
        ensure!(!said.starts_with("lab-init: "), "{}", said.trim_end());
    }
    Ok(status)
}

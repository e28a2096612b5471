//! The small program behind every lab node.
//!
//! `lab-init init NAME CGROUP VISIBLE…` becomes pid 1 of a node: the lab starts it from a thread whose children
//! land in a new pid namespace; it makes the other namespaces, gives the node its private folders, says `ready`
//! on stdout, and then only reaps orphans. It exits when its stdin closes, so a node never outlives the process
//! that made it, however that process died; the kernel then kills everything in the pid namespace.
//!
//! `lab-init enter PID CGROUP PROGRAM ARGS…` joins the namespaces of the node whose pid 1 is PID (a host pid) and
//! becomes PROGRAM. The pid namespace is joined by whoever starts it, since that only concerns children.
//!
//! `lab-init boot` makes a machine with systemd of pid 1 of further namespaces in a node: see [`boot`].
//!
//! It is a program of its own because mount namespaces and pid namespaces want a single-threaded process, which
//! a test under libtest is not.

mod boot;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{getpid, setsid};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let outcome = match args.split_first() {
        Some((verb, rest)) if verb == "init" => init(rest),
        Some((verb, rest)) if verb == "enter" => enter(rest),
        Some((verb, [])) if verb == "boot" => boot::boot(),
        _ => Err(anyhow::anyhow!(
            "usage: lab-init init NAME CGROUP VISIBLE… | enter PID CGROUP PROGRAM ARGS… | boot"
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-init: {error:#}");
            ExitCode::from(127)
        }
    }
}

fn init(args: &[OsString]) -> Result<()> {
    let [name, cgroup, visible @ ..] = args else { bail!("init needs a name and a cgroup") };
    ensure!(getpid().as_raw() == 1, "init must be started as pid 1 of a new pid namespace");
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().context("block SIGCHLD")?;
    let orphans = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    setsid().context("setsid")?;
    join_cgroup(Path::new(cgroup))?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .context("unshare")?;
    nix::unistd::sethostname(name).context("sethostname")?;
    private_folders(visible)?;
    sysctls()?;
    std::io::stdout().write_all(b"ready\n").context("say ready")?;
    serve(&orphans)
}

/// Reaps orphans until stdin closes.
fn serve(orphans: &SignalFd) -> Result<()> {
    let stdin = std::io::stdin();
    loop {
        let mut fds =
            [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(orphans.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other.context("poll")?,
        };
        let [lifeline, children] = fds;
        if children.any().unwrap_or(false) {
            while orphans.read_signal()?.is_some() {}
            while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                if status == WaitStatus::StillAlive {
                    break;
                }
            }
        }
        if lifeline.any().unwrap_or(false) {
            return Ok(());
        }
    }
}

/// What a node does not share with the host. `/etc` and `/opt` are the host's with private changes; the others
/// begin empty. Paths in `visible` that lie under a folder made private are bound back at the same place.
fn private_folders(visible: &[OsString]) -> Result<()> {
    mount_at(None, "/", None, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None)?;
    let cgroups = hold(Path::new("/sys/fs/cgroup"))?;
    let kept = visible
        .iter()
        .map(PathBuf::from)
        .filter(|path| PRIVATE.iter().any(|(private, _)| path.starts_with(private)))
        .map(|path| hold(&path).map(|fd| (path, fd)))
        .collect::<Result<Vec<_>>>()?;

    let nosuid = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_at(Some("proc"), "/proc", Some("proc"), nosuid | MsFlags::MS_NOEXEC, None)?;
    mount_at(Some("sysfs"), "/sys", Some("sysfs"), nosuid | MsFlags::MS_NOEXEC, None)?;
    rebind(&cgroups, Path::new("/sys/fs/cgroup"))?;
    mount_at(Some("bpffs"), "/sys/fs/bpf", Some("bpf"), nosuid, Some("mode=0700"))?;
    mount_at(Some("tmpfs"), "/tmp", Some("tmpfs"), nosuid, None)?;
    for path in ["/etc", "/opt"] {
        overlay(path)?;
    }
    for (path, mode) in PRIVATE {
        mount_at(Some("tmpfs"), path, Some("tmpfs"), nosuid, Some(&format!("mode={mode}")))?;
    }
    for (path, fd) in &kept {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        rebind(fd, path)?;
    }
    for path in
        ["/run/lock", "/run/netns", "/etc/cni/net.d", "/etc/turnpike", "/opt/cni/bin", "/var/lib/misc"]
    {
        fs::create_dir_all(path).with_context(|| format!("make {path}"))?;
    }
    fs::set_permissions("/run/lock", fs::Permissions::from_mode(0o1777))?;
    if !Path::new("/etc/mtab").exists() {
        symlink("/proc/self/mounts", "/etc/mtab").context("link /etc/mtab")?;
    }
    Ok(())
}

/// Folders that begin empty in a node, with their modes.
const PRIVATE: [(&str, &str); 4] =
    [("/run", "0755"), ("/var/lib", "0755"), ("/var/log", "0755"), ("/tmp", "1777")];

/// Mounts the host's `path` with a private upper layer. The layer lives on the tmpfs that is at `/tmp` now and
/// is hidden by the next one, so that no path leads to it.
fn overlay(path: &str) -> Result<()> {
    let base = format!("/tmp{path}");
    for part in ["upper", "work"] {
        fs::create_dir_all(format!("{base}/{part}")).with_context(|| format!("make {base}/{part}"))?;
    }
    fs::set_permissions(format!("{base}/upper"), fs::Permissions::from_mode(0o755))?;
    let options = format!("lowerdir={path},upperdir={base}/upper,workdir={base}/work");
    mount_at(Some("overlay"), path, Some("overlay"), MsFlags::empty(), Some(&options))
}

fn hold(path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("open {}", path.display()))
}

fn rebind(fd: &OwnedFd, path: &Path) -> Result<()> {
    let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
    mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("bind {}", path.display()))
}

fn mount_at(
    source: Option<&str>,
    target: &str,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<()> {
    mount(source, target, kind, flags, data)
        .with_context(|| format!("mount {} at {target}", kind.unwrap_or("propagation")))
}

/// A lab has no duplicate addresses, and a test should not wait a second for the kernel to find that out.
fn sysctls() -> Result<()> {
    for scope in ["all", "default"] {
        let folder = format!("/proc/sys/net/ipv6/conf/{scope}");
        if Path::new(&folder).exists() {
            fs::write(format!("{folder}/accept_dad"), "0").context("accept_dad")?;
            fs::write(format!("{folder}/disable_ipv6"), "0").context("disable_ipv6")?;
        }
    }
    Ok(())
}

fn enter(args: &[OsString]) -> Result<()> {
    let [pid, cgroup, program, rest @ ..] = args else { bail!("enter needs a pid, a cgroup and a program") };
    let folder = Path::new("/proc").join(pid).join("ns");
    let namespaces = [
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ]
    .map(|(name, flag)| (File::open(folder.join(name)), name, flag));
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    join_cgroup(Path::new(cgroup))?;
    // Not a part of the caller's session: Ctrl-C in its terminal is for the caller, who then decides.
    setsid().context("setsid")?;
    for (file, name, flag) in namespaces {
        let file = file.with_context(|| format!("open the node's {name} namespace"))?;
        setns(file, flag).with_context(|| format!("join the node's {name} namespace"))?;
    }
    if std::env::set_current_dir(&cwd).is_err() {
        std::env::set_current_dir("/").context("chdir /")?;
    }
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("exec {}", OsStr::new(program).display()))
}

fn join_cgroup(folder: &Path) -> Result<()> {
    fs::write(folder.join("cgroup.procs"), "0").with_context(|| format!("join cgroup {}", folder.display()))
}

//! `lab-init boot`: from pid 1 of new pid, mount and cgroup namespaces inside a node to systemd, as a machine's first program.
//!
//! What belongs to the machine that the lab runs on cannot be changed from here: its root is read-only, and so are the
//! parts of /proc/sys that no namespace has of its own. systemd finds its own units, a private /etc/systemd/system, and
//! nothing of what the host would start at boot.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::getpid;

use super::{hold, mount_at, rebind};

const SYSTEMD: &str = "/lib/systemd/systemd";
const UNITS: &str = "/etc/systemd/system";
/// Where units and their `.wants` come from, beside [`UNITS`].
const VENDORS: [&str; 2] = ["/lib/systemd/system", "/usr/local/lib/systemd/system"];
/// What the machine boots into: everything that a service with the default dependencies needs, and no more.
const TARGET: &str = "lab.target";
/// Device nodes that programs need; the host's own.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/net/tun"];
/// Not of any namespace.
const HOST_KNOBS: [&str; 5] =
    ["/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/fs", "/proc/sys/dev", "/proc/sysrq-trigger"];

pub(super) fn boot() -> Result<()> {
    ensure!(getpid().as_raw() == 1, "boot must be started as pid 1 of a new pid namespace");
    ensure!(Path::new(SYSTEMD).exists(), "there is no {SYSTEMD}; run: cargo xtask setup");
    mount_at(None, "/", None, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None)?;
    let nosuid = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_at(Some("proc"), "/proc", Some("proc"), nosuid | MsFlags::MS_NOEXEC, None)?;
    cgroups()?;
    devices()?;
    for path in ["/usr/local/bin", "/var/tmp", UNITS] {
        mount_at(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755"))?;
    }
    units()?;
    for path in HOST_KNOBS.iter().filter(|path| Path::new(path).exists()) {
        let here = hold(Path::new(path))?;
        rebind(&here, Path::new(path))?;
        read_only(path)?;
    }
    read_only("/")?;
    // As systemd does where it is a machine's first program and no container's.
    mount_at(None, "/", None, MsFlags::MS_SHARED | MsFlags::MS_REC, None)?;
    let mut systemd = Command::new(SYSTEMD);
    systemd.env_clear().env("container", "turnpike-lab").arg(format!("--unit={TARGET}"));
    Err(systemd.exec()).context(SYSTEMD)
}

fn read_only(path: &str) -> Result<()> {
    mount_at(None, path, None, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, None)
}

/// The v2 hierarchy alone, as on a machine that boots today; its root is the cgroup that we were started in.
fn cgroups() -> Result<()> {
    let root = "/sys/fs/cgroup";
    umount2(root, MntFlags::MNT_DETACH).context("take the host's cgroups away")?;
    mount_at(Some("cgroup2"), root, Some("cgroup2"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, None)
}

/// A /dev of its own, with stdout as the console.
fn devices() -> Result<()> {
    let held = DEVICES.iter().map(|path| Ok((*path, hold(Path::new(path))?))).collect::<Result<Vec<_>>>()?;
    // By its name: what was opened outside of our mount namespace cannot be mounted in it.
    let console = fs::read_link("/proc/self/fd/1").context("the name of stdout")?;
    let console = hold(&console)?;
    mount_at(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755"))?;
    for folder in ["/dev/net", "/dev/pts", "/dev/shm"] {
        fs::create_dir(folder).with_context(|| format!("make {folder}"))?;
    }
    for (path, fd) in held.iter().map(|(path, fd)| (*path, fd)).chain([("/dev/console", &console)]) {
        fs::write(path, "").with_context(|| format!("make {path}"))?;
        rebind(fd, Path::new(path))?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_at(Some("devpts"), "/dev/pts", Some("devpts"), quiet, Some("newinstance,ptmxmode=0666,mode=620"))?;
    mount_at(Some("tmpfs"), "/dev/shm", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None)?;
    for (target, link) in [("pts/ptmx", "/dev/ptmx"), ("/proc/self/fd", "/dev/fd")] {
        symlink(target, link).with_context(|| format!("link {link}"))?;
    }
    Ok(())
}

/// Nothing starts by itself but the journal: all else that the host's packages want at boot is masked.
fn units() -> Result<()> {
    fs::write("/etc/fstab", "").context("empty /etc/fstab")?;
    // systemd sets the host name, which is the node's too, from this file.
    let name = nix::unistd::gethostname().context("the node's name")?;
    fs::write("/etc/hostname", name.as_encoded_bytes()).context("/etc/hostname")?;
    let folders = VENDORS.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let wanting = folders
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "wants" || kind == "requires"));
    for unit in wanting.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten()) {
        let name = unit.file_name();
        let link = Path::new(UNITS).join(&name);
        if !name.to_string_lossy().starts_with("systemd-journald") && link.symlink_metadata().is_err() {
            symlink("/dev/null", &link).with_context(|| format!("mask {}", name.display()))?;
        }
    }
    let target = "[Unit]\nDescription=Lab machine\nRequires=basic.target\nAfter=basic.target\n";
    fs::write(Path::new(UNITS).join(TARGET), target).context(TARGET)
}

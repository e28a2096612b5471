//! Debian packages, each with its reason.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{self, need_root, output};

/// A package and why we want it.
pub(super) type Package = (&'static str, &'static str);

/// For compiling.
pub(super) const BUILD: &[Package] = &[
    ("gcc", "links the programs"),
    ("libc6-dev", "static libc for turnpike-cni"),
    ("pkg-config", "finds libnftnl and libmnl"),
    ("libnftnl-dev", "nftables from Rust"),
    ("libmnl-dev", "netlink below libnftnl"),
    ("protobuf-compiler", "the CRI client of the lab"),
];

/// For the eBPF programs where no nightly with rust-src is at hand.
pub(super) const BPF: &[Package] =
    &[("rustc-web", "a rustc with its core source"), ("rust-web-src", "core, built for the BPF target")];

/// For the lab: the real programs that Turnpike works with.
pub(super) const LAB: &[Package] = &[
    ("bird2", "BGP peer"),
    ("frr", "BGP peer"),
    ("gobgpd", "BGP peer of the interop matrix"),
    ("openbgpd", "BGP peer of the interop matrix, and to measure beside"),
    ("exabgp", "BGP peer of the interop matrix"),
    ("containerd", "container runtime that calls our CNI binary"),
    ("runc", "runs the containers"),
    ("containernetworking-plugins", "the loopback plugin, and ptp to compare with"),
    ("podman", "another caller of our CNI binary"),
    ("conmon", "podman's monitor of a container"),
    ("firewalld", "a firewall that the host may have"),
    ("dbus-daemon", "a bus of firewalld's own"),
    ("libfaketime", "a wall clock that jumps"),
    ("radvd", "a router that advertises itself"),
    ("busybox-static", "pod image"),
    ("nginx-light", "pod image: the unmodified server behind TOA"),
    ("iperf3", "pod image: traffic for the limits"),
    ("python3", "pod image: small servers, with the standard library"),
    ("golang-go", "compiles a small Go server for the tests of client addresses"),
    ("default-jdk-headless", "a small Java server for the tests of client addresses"),
    ("conntrack", "shows conntrack entries"),
    ("nftables", "shows rules"),
    ("tcpdump", "captures"),
    ("e2fsprogs", "disks that fill up and fail"),
    ("iproute2", "shows links and routes when a test fails"),
    ("iputils-ping", "ping"),
    ("ethtool", "link features"),
    ("procps", "process lists"),
    ("prometheus", "promtool, which checks the alert rules"),
    ("systemd", "starts the units of deploy/ as a host does"),
];

/// For the guests of `cargo xtask lab kernels`; no other command asks for them.
pub(super) const KERNELS: &[Package] = &[
    (QEMU, "runs other kernels, without KVM"),
    ("busybox-static", "the guests' first program"),
    ("xz-utils", "unpacks the kernels' modules"),
];
const QEMU: &str = "qemu-system-x86";

/// Installs what is missing. Daemons that come along are neither started nor enabled.
pub(super) fn install(wanted: &[Package]) -> Result<()> {
    let missing: Vec<&Package> = wanted.iter().filter(|(name, _)| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if output(Command::new("apt-get").arg("--version")).is_none() {
        let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
        bail!("there is no apt-get here; install what stands for these Debian packages: {}", names.join(" "));
    }
    need_root("installing packages")?;
    for (name, why) in &missing {
        println!("setup: installing {name}: {why}");
    }
    let units_before = enabled_units();
    let guard = NoServiceStarts::set()?;
    run::run(apt_get().args(["update", "-qq"]))?;
    let mut apt = apt_get();
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-qq", "--no-install-recommends"]);
    run::run(apt.args(missing.iter().map(|(name, _)| from_backports(name))))?;
    drop(guard);
    disable(&enabled_units() - &units_before)
}

/// The emulator comes from the release's backports where apt knows them: beside other packages from there, the release's
/// own would have to remove those.
fn from_backports(name: &str) -> String {
    let known = (name == QEMU).then(|| output(Command::new("apt-cache").args(["madison", name]))).flatten();
    let suites = known.iter().flat_map(|text| text.split_whitespace());
    match suites.filter_map(|word| word.split('/').next()).find(|suite| suite.ends_with("-backports")) {
        Some(suite) => format!("{name}/{suite}"),
        None => name.to_owned(),
    }
}

/// Patient with a mirror that hiccups, and with another apt that is at work.
fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["-o", "Acquire::Retries=5", "-o", "DPkg::Lock::Timeout=300"]);
    apt
}

fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    output(query.args(["-W", "-f", "${Status}", package])).is_some_and(|s| s.ends_with("ok installed"))
}

/// Units that would start at the next boot.
fn enabled_units() -> BTreeSet<PathBuf> {
    let wants = fs::read_dir("/etc/systemd/system").into_iter().flatten().flatten();
    let folders = wants.map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "wants"));
    folders.flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten()).map(|e| e.path()).collect()
}

/// The lab starts its own copies in namespaces; the host's stay off unless its owner enables them.
fn disable(new: BTreeSet<PathBuf>) -> Result<()> {
    for link in new {
        println!("setup: leaving {} disabled", link.file_name().unwrap_or_default().to_string_lossy());
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    Ok(())
}

/// Debian asks /usr/sbin/policy-rc.d before it starts a service; 101 means no. What was there comes back on drop.
struct NoServiceStarts {
    before: Option<Vec<u8>>,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServiceStarts {
    fn set() -> Result<Self> {
        let before = fs::read(POLICY).ok();
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self { before })
    }
}

impl Drop for NoServiceStarts {
    fn drop(&mut self) {
        let restored = match &self.before {
            Some(text) => fs::write(POLICY, text),
            None => fs::remove_file(POLICY),
        };
        if let Err(error) = restored {
            eprintln!("setup: could not restore {}: {error}", Path::new(POLICY).display());
        }
    }
}

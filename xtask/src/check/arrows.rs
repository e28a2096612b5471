//! Dependencies between our crates run down only, and pure crates stay free of I/O, clocks and runtimes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, Package};

/// Each package and the ones of ours that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("turnpike-bgp-wire", &[]),
    ("turnpike-bgp-core", &["turnpike-bgp-wire"]),
    ("turnpike-bgp-hostile", &["turnpike-bgp-core", "turnpike-bgp-wire"]),
    ("turnpike-kroute", &[]),
    ("turnpike-bgpd-api", &["turnpike-bgp-wire"]),
    ("turnpike-bfd", &[]),
    ("turnpike-bfdd", &["turnpike-bfd", "turnpike-bgpd-api"]),
    ("turnpike-bgpd", &["turnpike-bgpd-api", "turnpike-bgp-core", "turnpike-bgp-wire", "turnpike-kroute"]),
    ("turnpike-ebpf-abi", &[]),
    ("turnpike-ebpf-loader", &["turnpike-ebpf-abi"]),
    ("turnpike-model", &[]),
    ("turnpike-calc", &["turnpike-model"]),
    (
        "turnpike-dataplane",
        &["turnpike-model", "turnpike-kroute", "turnpike-ebpf-abi", "turnpike-ebpf-loader"],
    ),
    ("turnpike-agent-api", &[]),
    ("turnpike-cni", &["turnpike-agent-api"]),
    ("turnpike-ctl", &["turnpike-agent-api", "turnpike-bgpd-api"]),
    (
        "turnpike-agent",
        &["turnpike-agent-api", "turnpike-bgpd-api", "turnpike-calc", "turnpike-dataplane", "turnpike-model"],
    ),
    (
        "turnpike-testbed",
        &["turnpike-agent-api", "turnpike-bgp-hostile", "turnpike-bgp-wire", "turnpike-bgpd-api"],
    ),
    ("xtask", &[]),
];

/// Crates in which time and bytes are inputs.
const PURE: &[&str] = &[
    "turnpike-bfd",
    "turnpike-bgp-wire",
    "turnpike-bgp-core",
    "turnpike-model",
    "turnpike-calc",
    "turnpike-ebpf-abi",
];

/// Dependencies that bring I/O or a runtime.
const IMPURE_CRATES: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "libc",
    "nix",
    "rustix",
    "notify",
    "netlink-sys",
    "rtnetlink",
    "kube",
    "axum",
    "aya",
];

/// What a pure crate may not name in its sources.
const IMPURE_WORDS: &[&str] = &[
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "Instant::now",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
];

/// Arrows that the table does not know.
pub(super) fn upward(metadata: &Metadata) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata.workspace_packages() {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name.as_str()) else {
            found.push(format!("{}: not in the arrow table of xtask/src/check/arrows.rs", package.name));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| d.path.is_some()) {
            if !allowed.contains(&dependency.name.as_str()) {
                found.push(format!("{} must not depend on {}", package.name, dependency.name));
            }
        }
    }
    found
}

/// Impure dependencies, and impure words in the sources, of pure crates.
pub(super) fn impure(metadata: &Metadata) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for package in metadata.workspace_packages().into_iter().filter(|p| PURE.contains(&p.name.as_str())) {
        let normal = package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
        for dependency in normal.filter(|d| IMPURE_CRATES.contains(&d.name.as_str())) {
            found.push(format!("{} is pure and must not depend on {}", package.name, dependency.name));
        }
        words(package, &mut found)?;
    }
    Ok(found)
}

fn words(package: &Package, found: &mut Vec<String>) -> Result<()> {
    let folder = package.manifest_path.parent().context("a manifest lies in a folder")?.join("src");
    for file in rust_files(folder.as_std_path())? {
        let text = fs::read_to_string(&file)?;
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            for word in IMPURE_WORDS.iter().filter(|w| code.contains(**w)) {
                found.push(format!(
                    "{}:{}: {} is pure, yet it names {word}",
                    file.display(),
                    number + 1,
                    package.name
                ));
            }
        }
    }
    Ok(())
}

/// All `.rs` files below a folder, sorted.
pub(super) fn rust_files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_none_or(|n| n != "target") {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|x| x == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

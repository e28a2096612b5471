//! Where things lie in a checkout.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace's top folder.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's output folder of the workspace.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Tools that setup builds for this checkout alone.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The compiled eBPF programs.
pub(crate) fn ebpf_object() -> PathBuf {
    target().join("bpf").join("turnpike-ebpf")
}

/// One folder with every program, as links: what tests and the demo call (`TURNPIKE_BIN_DIR`).
pub(crate) fn bin() -> PathBuf {
    target().join("turnpike").join("bin")
}

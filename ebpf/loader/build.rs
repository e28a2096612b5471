//! Brings the eBPF object into the build: `TURNPIKE_EBPF_OBJECT`, or `target/bpf/turnpike-ebpf` of the workspace.
//!
//! A missing object becomes an empty one, so that the workspace builds without the BPF toolchain; loading it then
//! fails with the command that makes it.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=TURNPIKE_EBPF_OBJECT");
    let source = match env::var_os("TURNPIKE_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        // Asked when it runs: a target folder that was copied from elsewhere has a program compiled there.
        None => {
            let folder =
                env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).ok_or(io::ErrorKind::NotFound)?;
            folder.join("../../target/bpf/turnpike-ebpf")
        }
    };
    println!("cargo::rerun-if-changed={}", source.display());
    let object = match fs::read(&source) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or(io::ErrorKind::NotFound)?;
    fs::write(out.join("turnpike-ebpf"), object)
}

//! Errors of this crate.

use std::io;
use std::path::PathBuf;

/// What can go wrong with programs, maps, links and pins.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The crate was compiled before the programs were.
    #[error("this build holds no eBPF programs: run `cargo xtask build`, then build again")]
    NoObject,
    /// The pin folder is not on a bpffs.
    #[error(
        "{path} is not on a bpffs: mount one with `mount -t bpf bpf {path}` or name a folder under /sys/fs/bpf"
    )]
    NotBpffs {
        /// The folder.
        path: PathBuf,
    },
    /// The object could not be parsed, or its maps not be made.
    #[error("cannot load the eBPF object")]
    Object(#[source] Box<aya::EbpfError>),
    /// The kernel refused a program.
    #[error("the kernel refused the eBPF program {program}")]
    Program {
        /// Name of the program.
        program: &'static str,
        /// The verifier's or the system's words.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A program that this kernel refused when it was loaded is needed.
    #[error("the eBPF program {program} is not available on this kernel: {reason}")]
    Unavailable {
        /// Name of the program.
        program: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// A pinned map was made by another version.
    #[error(
        "the pinned map {path} has keys of {key} and values of {value} bytes; expected {want_key} and {want_value}"
    )]
    Layout {
        /// The pin.
        path: PathBuf,
        /// Key size found.
        key: u32,
        /// Value size found.
        value: u32,
        /// Key size expected.
        want_key: usize,
        /// Value size expected.
        want_value: usize,
    },
    /// A network interface does not exist.
    #[error("no network interface {name}")]
    NoInterface {
        /// Its name or index.
        name: String,
    },
    /// A system call failed.
    #[error("{action}")]
    System {
        /// What was being done.
        action: String,
        /// The error.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// A failed system call with what was being done.
    pub(crate) fn system(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { action: action.into(), source: source.into() }
    }
}

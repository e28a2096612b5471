//! A place where a test may do as it likes: its own network and mount namespace, with a bpffs of its own.
//!
//! Everything in it goes away with the test's thread.

use std::path::PathBuf;
use std::process::{Command, Output};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use turnpike_ebpf_loader::{OpenOptions, Programs};

/// The calling thread's private namespaces.
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    /// Moves the calling thread, and what it starts from now on, into new namespaces.
    pub(crate) fn enter() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests load eBPF programs: run them as root");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("new namespaces");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        let folder = tempfile::tempdir().expect("a folder");
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), none).expect("a bpffs");
        run("ip link set lo up");
        Self { folder }
    }

    /// A folder on the bpffs that does not exist yet.
    pub(crate) fn pins(&self) -> PathBuf {
        self.folder.path().join("turnpike")
    }

    /// The loaded programs.
    pub(crate) fn open(&self) -> Programs {
        let programs = Programs::open(&OpenOptions::new(self.pins())).expect("programs");
        assert_eq!(programs.unavailable().iter().collect::<Vec<_>>(), [], "the verifier refused a program");
        programs
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let unmounted = nix::mount::umount(self.folder.path());
        if !std::thread::panicking() {
            unmounted.expect("nothing uses the bpffs any more");
        }
    }
}

/// Runs a command line (split at spaces) and expects it to succeed.
pub(crate) fn run(line: &str) -> Output {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output().expect("start");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The index of a link of this namespace.
pub(crate) fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect(name)
}

/// The MAC address of a link of this namespace.
pub(crate) fn mac(name: &str) -> [u8; 6] {
    // /sys is the machine's; ip speaks of the namespace it runs in.
    let output = run(&format!("ip -o link show {name}"));
    let text = String::from_utf8(output.stdout).expect("text");
    let text =
        text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC address");
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
    bytes.try_into().expect("six bytes")
}

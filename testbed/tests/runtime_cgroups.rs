//! That cgroup hooks of one node see the pods of that node, and nothing else on the machine: the agent's TOA programs
//! hang on this.
#![expect(unsafe_code, reason = "a bpf(2) program of two instructions needs no loader")]

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use turnpike_testbed::containerd::CniNetwork;
use turnpike_testbed::{Containerd, Lab, Node, Pod, PodSpec, RuntimeConfig};

const DEADLINE: Duration = Duration::from_secs(30);

// Numbers of linux/bpf.h.
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_INET4_CONNECT: u32 = 10;

/// `bpf_attr` of BPF_PROG_LOAD up to `expected_attach_type`.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `bpf_attr` of BPF_LINK_CREATE up to `flags`.
#[repr(C)]
#[derive(Default)]
struct LinkAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<A>(command: libc::c_long, attr: &A) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is a live, padding-free prefix of bpf_attr, and its size goes with it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<A>()) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn unsigned(fd: &impl std::os::fd::AsRawFd) -> Result<u32> {
    Ok(u32::try_from(fd.as_raw_fd())?)
}

/// Refuses every IPv4 connect() in a cgroup and below, until the returned link is closed.
fn refuse_connects(cgroup: &Path) -> Result<OwnedFd> {
    // r0 = 0; exit
    let program: [u64; 2] = [0xb7, 0x95];
    let program_fd = bpf(
        PROG_LOAD,
        &LoadAttr {
            prog_type: PROG_TYPE_CGROUP_SOCK_ADDR,
            insn_cnt: 2,
            insns: program.as_ptr() as u64,
            license: c"Dual MIT/GPL".as_ptr() as u64,
            expected_attach_type: CGROUP_INET4_CONNECT,
            ..LoadAttr::default()
        },
    )
    .context("load the program")?;
    let folder = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
    let attr = LinkAttr {
        prog_fd: unsigned(&program_fd)?,
        target_fd: unsigned(&folder)?,
        attach_type: CGROUP_INET4_CONNECT,
        flags: 0,
    };
    bpf(LINK_CREATE, &attr).context("attach the program")
}

fn start(node: &Node) -> Result<Pod> {
    let containerd = Containerd::start(node, &RuntimeConfig::new(CniNetwork::reference(&["10.66.0.0/24"])))?;
    containerd.run_pod(PodSpec::busybox("web-0"))
}

/// What connect() to a port of the pod itself says where nobody listens: refused by TCP, or not permitted by a hook.
fn connect(pod: &Pod) -> Result<String> {
    let output = pod.exec_unchecked(&["nc", "-w", "5", "127.0.0.1", "9"], DEADLINE)?;
    Ok(output.stderr)
}

/// Verifies: the processes of a pod are below its node's cgroup; a program attached there acts on that pod, and not
/// on a pod of another node, nor on the node's own daemons; and no longer once it is detached.
#[test]
fn a_cgroup_hook_of_a_node_sees_its_pods_and_no_others() -> Result<()> {
    let lab = Lab::new("runtime-cgroups")?;
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    let (pod, other) = (start(&n1)?, start(&n2)?);
    let membership = n1.read_file(format!("/proc/{}/cgroup", pod.pid()?))?;
    let unified = membership.lines().find_map(|line| line.strip_prefix("0::")).context("a v2 membership")?;
    assert!(unified.starts_with(&pod.cgroup()), "{unified} is not below {}", pod.cgroup());

    assert!(connect(&pod)?.contains("refused"));
    let hook = refuse_connects(&n1.cgroup_path().join("pods"))?;
    assert!(connect(&pod)?.contains("not permitted"), "{}", connect(&pod)?);
    assert!(connect(&other)?.contains("refused"));
    let daemon = n1.run_unchecked(&["busybox", "nc", "-w", "5", "127.0.0.1", "9"])?;
    assert!(String::from_utf8_lossy(&daemon.stderr).contains("refused"));
    drop(hook);
    assert!(connect(&pod)?.contains("refused"));
    drop((pod, other));
    lab.finish()
}

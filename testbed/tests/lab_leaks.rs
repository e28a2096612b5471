//! The guard at the end of a lab: every kind of leak is planted, and must be named.
//!
//! "The host" is what the testing thread sees, so each leak is planted in namespaces of that thread: neither this machine
//! nor a lab running next to this one is touched.

#![cfg(test)]
#![expect(unsafe_code, reason = "a BPF object can be made without a loader only by the raw system call")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use turnpike_testbed::{Lab, Node, poll};

const DEADLINE: Duration = Duration::from_secs(20);

fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
}

fn own_mounts() {
    unshare(CloneFlags::CLONE_FS).unwrap();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
}

/// The lab's complaint; its folder is removed, as it is expected.
fn complaint(lab: Lab) -> String {
    let folder = lab.folder().to_path_buf();
    let error = lab.finish().expect_err("the guard saw nothing");
    assert_eq!(
        fs::read_to_string(folder.join("leaks.txt")).unwrap().lines().count() + 1,
        error.to_string().lines().count()
    );
    fs::remove_dir_all(folder).unwrap();
    error.to_string()
}

/// A process of the test, ended whatever happens.
struct Planted(Child);

impl Planted {
    fn sleep_in_netns_of(node: &Node) -> Self {
        let path = node.netns_path().unwrap();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", path.display())).args(["sleep", "1000"]);
        let planted = Self(command.spawn().unwrap());
        let (own, target) = (format!("/proc/{}/ns/net", planted.0.id()), fs::read_link(path).unwrap());
        poll(DEADLINE, "the process to join the namespace", || {
            (fs::read_link(&own).ok()? == target && planted.name() == "sleep").then_some(())
        })
        .unwrap();
        planted
    }

    fn name(&self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.0.id())).unwrap_or_default().trim_end().to_owned()
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_link_left_on_the_host_fails_the_guard() {
    own_network();
    let lab = Lab::new("leak-link").unwrap();
    lab.node("n1").unwrap();
    let status = Command::new("ip").args(["link", "add", "leak0", "type", "veth", "peer", "leak1"]).status();
    assert!(status.unwrap().success());
    let text = complaint(lab);
    assert!(text.contains("link leak0 on the host") && text.contains("link leak1 on the host"), "{text}");
}

#[test]
fn a_pin_left_in_a_bpffs_of_the_host_fails_the_guard() {
    own_mounts();
    let folder = tempfile::tempdir().unwrap();
    mount(None::<&str>, folder.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    let earlier = folder.path().join("earlier");
    pin_a_map(&earlier);
    let lab = Lab::new("leak-pin").unwrap();
    lab.node("n1").unwrap();
    let pin = folder.path().join("turnpike/map");
    fs::create_dir(pin.parent().unwrap()).unwrap();
    pin_a_map(&pin);
    let text = complaint(lab);
    nix::mount::umount(folder.path()).unwrap();
    assert!(text.contains(&format!("BPF pin {}", pin.display())), "{text}");
    assert!(!text.contains("earlier"), "what was there before is nobody's leak: {text}");
}

#[test]
fn a_process_left_in_a_namespace_fails_the_guard() {
    let lab = Lab::new("leak-process").unwrap();
    let node = lab.node("n1").unwrap();
    let planted = Planted::sleep_in_netns_of(&node);
    let text = complaint(lab);
    let expected = format!("process {} (sleep) holds the net namespace of node n1", planted.0.id());
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn a_process_left_in_the_cgroup_of_a_node_fails_the_guard() {
    let lab = Lab::new("leak-cgroup").unwrap();
    let node = lab.node("n1").unwrap();
    let planted = Planted(Command::new("sleep").arg("1000").spawn().unwrap());
    fs::write(node.cgroup_path().join("host/cgroup.procs"), planted.0.id().to_string()).unwrap();
    let text = complaint(lab);
    assert!(text.contains(&format!("{} (sleep)", planted.0.id())) && text.contains("cgroup"), "{text}");
}

#[test]
fn a_namespace_held_by_a_mount_or_a_descriptor_fails_the_guard() {
    own_mounts();
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::new("leak-netns").unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let point = folder.path().join("netns");
    fs::write(&point, "").unwrap();
    mount(Some(&a.netns_path().unwrap()), &point, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let descriptor = b.netns().unwrap();
    let text = complaint(lab);
    nix::mount::umount(&point).unwrap();
    assert!(text.contains(&format!("mount {} on the host", point.display())), "{text}");
    let expected = format!(
        "holds the net namespace of node b through /proc/{}/fd/{}",
        std::process::id(),
        descriptor.as_raw_fd()
    );
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn a_lab_dropped_with_a_leak_panics_and_keeps_the_state_of_its_nodes() {
    let lab = Lab::new("leak-drop").unwrap();
    let folder = lab.folder().to_path_buf();
    let node = lab.node("n1").unwrap();
    node.bridge("br7", &[]).unwrap();
    node.on_failure("asked.txt", &["echo", "this too"]);
    let planted = Planted::sleep_in_netns_of(&node);
    let panic = catch_unwind(AssertUnwindSafe(|| drop(lab))).expect_err("the guard saw nothing");
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains(&format!("process {} (sleep)", planted.0.id())), "{text}");
    let kept = |file: &str| fs::read_to_string(folder.join("n1").join(file)).unwrap();
    assert!(kept("links.json").contains("br7"));
    assert_eq!(kept("asked.txt"), "this too\n");
    for file in ["addresses.json", "routes4.json", "routes6.json", "nft.txt", "pins.txt", "processes.txt"] {
        assert!(folder.join("n1").join(file).is_file(), "{file} was not kept");
    }
    fs::remove_dir_all(folder).unwrap();
}

/// Verifies: what a panicking test drops before its lab is still there when the lab asks the daemons for their state.
#[test]
fn a_panic_keeps_processes_until_the_state_is_kept() {
    let folder = catch_unwind(|| {
        let lab = Lab::new("panic").unwrap();
        let node = lab.node("n1").unwrap();
        let mut command = node.command("sleep").unwrap();
        command.arg("1000");
        let _sleeper = node.spawn("sleeper", command).unwrap();
        std::panic::panic_any(lab.folder().to_path_buf());
    })
    .expect_err("it panics");
    let folder = folder.downcast_ref::<std::path::PathBuf>().unwrap();
    let processes = fs::read_to_string(folder.join("n1/processes.txt")).unwrap();
    assert!(processes.contains("sleep 1000"), "{processes}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_finished_lab_leaves_no_folder_and_no_cgroup() {
    let lab = Lab::new("leak-none").unwrap();
    let node = lab.node("n1").unwrap();
    let (folder, cgroup, pid) = (lab.folder().to_path_buf(), node.cgroup_path(), node.pid().unwrap());
    node.run(&["mkdir", cgroup.join("pods").to_str().unwrap()]).unwrap();
    lab.finish().unwrap();
    assert!(!folder.exists() && !cgroup.exists() && !Path::new(&format!("/proc/{pid}")).exists());
    node.run(&["true"]).expect_err("a node after its lab");
}

/// Verifies: a node can be stopped before its lab: its cables are gone, and who holds on to it is named then and at the end.
#[test]
fn a_node_stopped_early_is_guarded_too() {
    let lab = Lab::new("leak-early").unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.node(name).unwrap());
    lab.link(&a, "eth0", &b, "eth0").unwrap();
    lab.link(&a, "eth1", &c, "eth0").unwrap();
    b.stop().unwrap();
    poll(DEADLINE, "the cable to go", || (a.links().unwrap() == ["eth1", "lo"]).then_some(())).unwrap();
    let descriptor = c.netns().unwrap();
    let expected = format!("({})", fs::read_to_string("/proc/self/comm").unwrap().trim_end());
    let text = c.stop().unwrap_err().to_string();
    assert!(text.contains(&expected) && text.contains("net namespace of node c"), "{text}");
    drop(descriptor);
    let text = complaint(lab);
    assert!(text.contains("net namespace of node c") && !text.contains("node a"), "{text}");
}

/// Verifies: when the process that made a lab is killed, its nodes end by themselves, and the next lab removes and names
/// what the kernel does not.
#[test]
fn a_killed_test_leaves_no_node_behind() {
    const ROLE: &str = "TURNPIKE_LAB_TEST_VICTIM";
    if std::env::var_os(ROLE).is_some() {
        be_killed();
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_leaves_no_node_behind", "--nocapture"])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let facts = lines.find_map(|line| Some(line.strip_prefix("facts: ")?.to_owned())).unwrap();
    let [folder, cgroup, init, sleeper] = facts.split(' ').collect::<Vec<_>>()[..] else { panic!("{facts}") };
    assert!(Path::new(&format!("/proc/{init}")).exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    for pid in [init, sleeper] {
        let path = format!("/proc/{pid}/exe");
        poll(DEADLINE, "the node to end", || fs::read_link(&path).is_err().then_some(())).unwrap();
    }
    // The next lab may be one of a test that runs beside this one; then there is nothing left to do for ours.
    poll(DEADLINE, "the cgroup to be swept", || {
        Lab::new("after").ok()?.finish().ok()?;
        (!Path::new(cgroup).exists()).then_some(())
    })
    .unwrap();
    fs::remove_dir_all(folder).unwrap();
}

fn be_killed() {
    let lab = Lab::new("victim").unwrap();
    let node = lab.node("n1").unwrap();
    let mut command = node.command("sleep").unwrap();
    command.arg("1000");
    let sleeper = node.spawn("sleeper", command).unwrap();
    let (folder, cgroup) = (lab.folder().display(), node.cgroup_path());
    println!("\nfacts: {folder} {} {} {}", cgroup.display(), node.pid().unwrap(), sleeper.pid());
    std::io::stdout().flush().unwrap();
    // Until killed, or until the other one is gone.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    sleeper.wait_exit(DEADLINE).unwrap();
}

/// Makes an array map and pins it.
fn pin_a_map(path: &Path) {
    const MAP_CREATE: i32 = 0;
    const OBJ_PIN: i32 = 6;
    const ARRAY: u32 = 2;
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // union bpf_attr: map_type, key_size, value_size, max_entries.
    let create: [u32; 4] = [ARRAY, 4, 4, 1];
    // SAFETY: the attribute is a live buffer of the given size; the kernel only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, create.as_ptr(), size_of_val(&create)) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that the kernel has just made for us.
    let map = unsafe { OwnedFd::from_raw_fd(fd.try_into().unwrap()) };
    // union bpf_attr: pathname (64 bits), bpf_fd.
    let pin: [u64; 2] = [path.as_ptr() as u64, map.as_raw_fd().try_into().unwrap()];
    // SAFETY: as above, and the path is a live string that ends in NUL.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, OBJ_PIN, pin.as_ptr(), size_of_val(&pin)) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

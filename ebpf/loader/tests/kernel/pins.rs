//! Pins: what is in force outlives the process and is adopted by the next one.
//!
//! Verifies: links and maps stay when [`Programs`] is dropped; the next one finds the maps' contents, replaces the
//! program in place (the same link), and detaches what an earlier one attached; a link whose number is used again is
//! not mistaken; nothing is left after [`remove_all`].

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use turnpike_ebpf_loader::abi::{Addr, PodEntry, Veth};
use turnpike_ebpf_loader::{
    AttachMode, Attachment, Changes, Error, Hook, OpenOptions, Programs, probe, remove_all,
};

use crate::frames::ip;
use crate::sandbox::{Sandbox, ifindex, run};
use crate::space::Space;

fn veth_pair() -> u32 {
    run("ip link add tpk0 type veth peer name pod0");
    run("ip link set tpk0 up");
    ifindex("tpk0")
}

/// The programs that run at a link's ingress, by TCX.
fn at_ingress(link: &str) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(link, TcAttachType::Ingress).expect("query");
    programs.iter().map(|info| info.id()).collect()
}

fn tcx(sandbox: &Sandbox) -> OpenOptions {
    OpenOptions { mode: AttachMode::Tcx, ..OpenOptions::new(sandbox.pins()) }
}

/// Verifies: of a map that is read many entries at a time, none is left out or read twice, whether there are none, a few, or
/// more than one batch holds; and what is to go goes.
#[test]
fn all_entries_of_a_map_are_read_however_many() {
    let sandbox = Sandbox::enter();
    let programs = Programs::open(&OpenOptions::new(sandbox.pins())).expect("programs");
    let pods = &programs.maps().pods;
    let entry =
        |number: u32| PodEntry { ifindex: number, mtu: 1500, flags: 0, pod_mac: [1; 6], host_mac: [2; 6] };
    let key = |number: u32| Addr::from(std::net::IpAddr::from((0x0af4_0000 + number).to_be_bytes()));
    for count in [0, 3, 1024, 4000, 7] {
        let wanted: BTreeMap<_, _> = (0..count).map(|number| (key(number), entry(number))).collect();
        pods.reconcile(&wanted).expect("reconcile");
        assert_eq!(pods.entries().expect("read"), wanted, "{count}");
    }
}

#[test]
fn links_and_maps_outlive_the_loader_and_are_adopted() {
    let sandbox = Sandbox::enter();
    let index = veth_pair();
    let open = || Programs::open(&tcx(&sandbox)).expect("programs");
    let mut first = open();
    let pod = PodEntry { ifindex: index, mtu: 1500, flags: 0, pod_mac: [1; 6], host_mac: [2; 6] };
    first.maps().pods.insert(&Addr::from(ip("10.244.1.5")), &pod).expect("insert");
    let attachment = first.attach(Hook::FromPod, "tpk0").expect("attach");
    assert_eq!(attachment, Attachment::Link { hook: Hook::FromPod, ifindex: index, mode: AttachMode::Tcx });
    let before = at_ingress("tpk0");
    assert_eq!(before.len(), 1);
    drop(first);
    assert_eq!(at_ingress("tpk0"), before, "still in force");

    let mut second = open();
    assert_eq!(second.maps().pods.get(&Addr::from(ip("10.244.1.5"))).expect("read"), Some(pod));
    assert_eq!(second.attachments().expect("attachments"), std::slice::from_ref(&attachment));
    assert_eq!(at_ingress("tpk0"), before, "opening changes nothing yet");
    assert_eq!(second.attach(Hook::FromPod, "tpk0").expect("attach"), attachment);
    let after = at_ingress("tpk0");
    assert_eq!(after.len(), 1);
    assert_ne!(after, before, "the new process's program");
    assert_eq!(second.attach(Hook::FromPod, "tpk0").expect("again"), attachment);
    assert_eq!(at_ingress("tpk0"), after);

    assert!(second.detach(Hook::FromPod, index).expect("detach"));
    assert!(!second.detach(Hook::FromPod, index).expect("detach"));
    assert_eq!(at_ingress("tpk0"), []);
    assert_eq!(second.attachments().expect("attachments"), []);
}

#[test]
fn a_program_is_replaced_under_traffic_without_a_gap() {
    replaced_under_traffic(AttachMode::Tcx);
}

#[test]
fn a_filter_is_replaced_under_traffic_without_a_gap() {
    replaced_under_traffic(AttachMode::Clsact);
}

fn replaced_under_traffic(mode: AttachMode) {
    let sandbox = Sandbox::enter();
    let options = OpenOptions { mode, ..OpenOptions::new(sandbox.pins()) };
    let open = || Programs::open(&options).expect("programs");
    let pod = Space::new();
    run("ip link add tpk0 type veth peer name pod0");
    pod.adopt("pod0");
    run("ip link set tpk0 up");
    run("ip addr add 10.244.1.1/24 dev tpk0");
    pod.ip("link set pod0 up");
    pod.ip("addr add 10.244.1.5/24 dev pod0");
    let index = ifindex("tpk0");
    // The veth's entry names another address: as long as a program is there, nothing passes.
    let mut programs = open();
    let entry = Veth {
        ip4: [10, 244, 1, 99],
        flags: 0,
        ip6: [0; 16],
        link_local: [0; 16],
        pod_mac: [0; 6],
        class: 0,
        queue: 0,
    };
    programs.maps().veths.insert(&index, &entry).expect("insert");
    programs.attach(Hook::FromPod, "tpk0").expect("attach");
    let mac = crate::sandbox::mac("tpk0").map(|byte| format!("{byte:02x}")).join(":");
    pod.ip(&format!("neigh replace 10.244.1.1 lladdr {mac} dev pod0 nud permanent"));
    let receiver = UdpSocket::bind("10.244.1.1:9").expect("bind");
    receiver.set_read_timeout(Some(Duration::from_millis(1))).expect("timeout");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let sender = pod.enter(|| UdpSocket::bind("10.244.1.5:9").expect("bind"));
    let traffic = std::thread::spawn(move || {
        let mut sent = 0u64;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            sender.send_to(b"spoofed", "10.244.1.1:9").expect("send");
            sent += 1;
        }
        sent
    });
    for _ in 0..8 {
        drop(programs);
        programs = open();
        programs.attach(Hook::FromPod, "tpk0").expect("adopt");
    }
    stop.send(()).expect("the traffic runs");
    let sent = traffic.join().expect("traffic");
    assert!(sent > 1000, "only {sent} packets were sent");
    assert_eq!(
        programs.maps().counters().expect("counters")["spoofed_v4"],
        sent,
        "every packet met a program"
    );
    assert!(receiver.recv(&mut [0; 64]).is_err(), "a packet came through");
}

#[test]
fn a_link_that_went_away_leaves_a_record_that_does_no_harm() {
    let sandbox = Sandbox::enter();
    let old = veth_pair();
    let mut programs = Programs::open(&tcx(&sandbox)).expect("programs");
    programs.attach(Hook::FromPod, "tpk0").expect("attach");
    run("ip link del tpk0");
    assert_eq!(programs.attachments().expect("attachments").len(), 1);
    // The number comes back for another link.
    run(&format!("ip link add tpk1 index {old} type veth peer name pod1"));
    programs.attach(Hook::FromPod, "tpk1").expect("attach");
    assert_eq!(at_ingress("tpk1").len(), 1);
    run("ip link del tpk1");
    assert!(programs.detach(Hook::FromPod, old).expect("detach"));
    assert_eq!(programs.attachments().expect("attachments"), []);
    let error = programs.attach(Hook::FromPod, "tpk1").expect_err("no such link");
    assert!(matches!(error, Error::NoInterface { .. }), "{error}");
}

#[test]
fn clsact_filters_are_adopted_and_removed_too() {
    let sandbox = Sandbox::enter();
    let index = veth_pair();
    let options = OpenOptions { mode: AttachMode::Clsact, ..OpenOptions::new(sandbox.pins()) };
    let filters = |direction: &str| {
        let output = run(&format!("tc filter show dev tpk0 {direction}")).stdout;
        String::from_utf8_lossy(&output).matches("direct-action").count()
    };
    let mut first = Programs::open(&options).expect("programs");
    let wanted = Attachment::Link { hook: Hook::FromPod, ifindex: index, mode: AttachMode::Clsact };
    assert_eq!(first.attach(Hook::FromPod, "tpk0").expect("attach"), wanted);
    first.attach(Hook::Mark, "tpk0").expect("attach");
    drop(first);
    assert_eq!((filters("ingress"), filters("egress")), (1, 1));
    let mut second = Programs::open(&options).expect("programs");
    assert_eq!(second.attach(Hook::FromPod, "tpk0").expect("adopt"), wanted);
    assert_eq!((filters("ingress"), filters("egress")), (1, 1));
    // Somebody else removes our filter: it comes back.
    run("tc filter del dev tpk0 ingress");
    assert_eq!(second.attach(Hook::FromPod, "tpk0").expect("again"), wanted);
    assert_eq!((filters("ingress"), filters("egress")), (1, 1));
    // Who asks for TCX gets the link, and the filter goes.
    let mut third = Programs::open(&tcx(&sandbox)).expect("programs");
    third.attach(Hook::FromPod, "tpk0").expect("attach");
    assert_eq!((filters("ingress"), at_ingress("tpk0").len()), (0, 1));
    assert!(third.detach(Hook::Mark, index).expect("detach"));
    assert_eq!(filters("egress"), 0);
}

#[test]
fn the_record_of_a_filter_goes_after_its_link() {
    let sandbox = Sandbox::enter();
    let index = veth_pair();
    let mut programs = sandbox.open();
    programs.attach(Hook::FromPod, "tpk0").expect("attach");
    run("ip link del tpk0");
    assert!(programs.detach(Hook::FromPod, index).expect("detach"));
    assert_eq!(programs.attachments().expect("attachments"), []);
}

#[test]
fn on_links_of_our_own_a_filter_is_the_choice_and_a_tcx_link_from_before_stays() {
    let sandbox = Sandbox::enter();
    let index = veth_pair();
    let mut programs = sandbox.open();
    let attached = |hook, mode| Attachment::Link { hook, ifindex: index, mode };
    run("tc qdisc add dev tpk0 root handle 7471: htb");
    for hook in [Hook::FromPod, Hook::Queue, Hook::Mark] {
        assert_eq!(programs.attach(hook, "tpk0").expect("attach"), attached(hook, AttachMode::Clsact));
    }
    for hook in [Hook::Uplink, Hook::Classify] {
        assert_eq!(programs.attach(hook, "tpk0").expect("attach"), attached(hook, AttachMode::Tcx));
    }
    for hook in Hook::ALL {
        assert!(programs.detach(hook, index).expect("detach"));
    }
    let mut earlier = Programs::open(&tcx(&sandbox)).expect("programs");
    earlier.attach(Hook::FromPod, "tpk0").expect("attach");
    let before = at_ingress("tpk0");
    let adopted = sandbox.open().attach(Hook::FromPod, "tpk0").expect("adopt");
    assert_eq!(adopted, attached(Hook::FromPod, AttachMode::Tcx));
    assert_eq!(at_ingress("tpk0").len(), 1);
    assert_ne!(at_ingress("tpk0"), before, "the new process's program");
}

#[test]
fn everything_can_be_removed_and_removing_nothing_is_fine() {
    let sandbox = Sandbox::enter();
    veth_pair();
    let mut programs = Programs::open(&tcx(&sandbox)).expect("programs");
    run("tc qdisc add dev tpk0 root handle 7471: htb");
    for hook in Hook::ALL {
        programs.attach(hook, "tpk0").expect("attach");
    }
    drop(programs);
    let clsact = OpenOptions { mode: AttachMode::Clsact, ..OpenOptions::new(sandbox.pins()) };
    Programs::open(&clsact).expect("programs").attach(Hook::Mark, "tpk0").expect("attach");
    remove_all(&sandbox.pins()).expect("remove");
    assert!(!sandbox.pins().exists());
    assert_eq!(at_ingress("tpk0"), []);
    for hook in ["egress", "parent 7471:"] {
        let filters = run(&format!("tc filter show dev tpk0 {hook}")).stdout;
        assert!(!String::from_utf8_lossy(&filters).contains("bpf"), "{hook}");
    }
    remove_all(&sandbox.pins()).expect("remove nothing");
}

#[test]
fn a_map_is_reconciled_by_its_differences() {
    let sandbox = Sandbox::enter();
    let programs = sandbox.open();
    let pods = &programs.maps().pods;
    let entry = |ifindex| PodEntry { ifindex, mtu: 1500, ..PodEntry::default() };
    let key =
        |last: u32| Addr::from(std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(0x0af4_0000 + last)));
    let desired: BTreeMap<_, _> = (0..1000).map(|number| (key(number), entry(number))).collect();
    assert_eq!(pods.reconcile(&desired).expect("fill"), Changes { written: 1000, removed: 0 });
    assert_eq!(pods.entries().expect("entries"), desired);
    assert_eq!(pods.reconcile(&desired).expect("again"), Changes::default());
    let mut other: BTreeMap<_, _> = (500..1001).map(|number| (key(number), entry(number))).collect();
    other.insert(key(600), entry(7));
    assert_eq!(pods.reconcile(&other).expect("change"), Changes { written: 2, removed: 500 });
    assert_eq!(pods.entries().expect("entries"), other);
    assert_eq!(pods.reconcile(&BTreeMap::new()).expect("empty"), Changes { written: 0, removed: 501 });
}

#[test]
fn a_folder_that_is_no_bpffs_is_refused_with_the_remedy() {
    let _sandbox = Sandbox::enter();
    let folder = tempfile::tempdir().expect("a folder");
    let error = Programs::open(&OpenOptions::new(folder.path().join("pins"))).expect_err("no bpffs");
    assert!(error.to_string().contains("mount -t bpf"), "{error}");
}

#[test]
fn the_kernels_features_are_told_in_words() {
    let _sandbox = Sandbox::enter();
    for feature in probe() {
        assert_eq!(feature.available, Ok(true), "{} (since {})", feature.name, feature.since);
        assert!(!feature.without.is_empty());
    }
}

#[test]
fn programs_go_when_nothing_holds_them() {
    let sandbox = Sandbox::enter();
    let programs = sandbox.open();
    let mut ids = vec![];
    let mut programs = programs;
    for name in turnpike_ebpf_loader::abi::names::PROGRAMS {
        ids.push(programs.ebpf_mut().program_mut(name).expect(name).info().expect("information").id());
    }
    drop(programs);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    // The kernel frees programs a grace period after the last descriptor.
    while loaded_programs().flatten().any(|info| ids.contains(&info.id())) {
        assert!(std::time::Instant::now() < deadline, "programs are still loaded");
        std::thread::yield_now();
    }
}

//! mark: the virtual queue.
//!
//! Verifies: no mark while the target holds, CE above the ceiling for packets that can carry it, none for others;
//! counters; a link without a law passes untouched.

use turnpike_ebpf_loader::abi::{MarkConfig, names};

use crate::frames::{ACK, Frame};
use crate::sandbox::Sandbox;
use crate::testrun::{Context, PASS, run};

const LINK: u32 = 1;
const ECT0: u8 = 2;
const ECT1: u8 = 1;
const CE: u8 = 3;

fn frame(ecn: u8, six: bool) -> Vec<u8> {
    let (source, destination) = if six { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
    Frame::tcp(source, 1, destination, 2, ACK).with(|frame| frame.tos = 0xb8 | ecn).sized(1000).bytes()
}

/// A law by which one frame already fills the queue for an hour.
fn full() -> MarkConfig {
    MarkConfig {
        ns_per_byte_q20: 3_600_000_000 << 20,
        target_ns: 1000,
        interval_ns: 1_000_000,
        ceiling_ns: 1000,
    }
}

/// A law that no frame offends.
fn empty() -> MarkConfig {
    MarkConfig { ns_per_byte_q20: 1, target_ns: 1 << 40, interval_ns: 1 << 31, ceiling_ns: 1 << 41 }
}

#[test]
fn above_the_ceiling_capable_packets_are_marked_and_others_are_not() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for six in [false, true] {
        for (ecn, marked) in [(0, 0), (ECT0, CE), (ECT1, CE), (CE, CE)] {
            programs.maps().clear_mark(LINK).expect("clear");
            programs.maps().set_mark(LINK, &full()).expect("set");
            let bytes = frame(ecn, six);
            let first = run(&mut programs, names::PROG_MARK, &bytes, Context::on(LINK));
            assert_eq!((first.verdict, first.frame), (PASS, bytes.clone()), "the queue was empty");
            let second = run(&mut programs, names::PROG_MARK, &bytes, Context::on(LINK));
            assert_eq!(second.verdict, PASS);
            assert_eq!(second.frame, frame(marked, six), "ECN field {ecn}, IPv6 {six}");
            let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
            assert_eq!((state.packets, state.bytes), (2, 2 * u64::try_from(bytes.len()).expect("short")));
            let capable = u64::from(ecn != 0);
            assert_eq!((state.capable, state.marked, state.not_capable), (2 * capable, capable, 1 - capable));
            assert!(state.max_delay_ns > 1000);
        }
    }
}

#[test]
fn below_the_target_nothing_is_marked() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    programs.maps().set_mark(LINK, &empty()).expect("set");
    let bytes = frame(ECT0, false);
    for _ in 0..1000 {
        let ran = run(&mut programs, names::PROG_MARK, &bytes, Context::on(LINK));
        assert_eq!((ran.verdict, ran.frame), (PASS, bytes.clone()));
    }
    let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
    assert_eq!((state.packets, state.capable, state.marked), (1000, 1000, 0));
}

#[test]
fn a_delay_between_target_and_ceiling_is_marked_after_an_interval_and_then_more_often() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let interval_ns = 50_000;
    // One frame fills the queue for a tenth of the ceiling's hour: above the target, below the ceiling.
    let law = MarkConfig {
        ns_per_byte_q20: (1 << 33) << 20,
        target_ns: 1000,
        interval_ns,
        ceiling_ns: u64::MAX >> 8,
    };
    programs.maps().set_mark(LINK, &law).expect("set");
    let bytes = frame(ECT0, false);
    run(&mut programs, names::PROG_MARK, &bytes, Context::on(LINK));
    let law = MarkConfig { ns_per_byte_q20: 1, ..law };
    programs.maps().set_mark(LINK, &law).expect("set");
    let started = std::time::Instant::now();
    let ran = run(&mut programs, names::PROG_MARK, &bytes, Context::on(LINK));
    assert_eq!(ran.frame, bytes, "an interval has to pass first");
    let marked = frame(CE, false);
    let mut marks = 0;
    let mut runs = 0u64;
    while marks < 20 {
        let ran = run(&mut programs, names::PROG_MARK, &bytes, Context::on(LINK));
        assert!(ran.frame == bytes || ran.frame == marked);
        marks += u32::from(ran.frame == marked);
        runs += 1;
        assert!(started.elapsed().as_secs() < 30, "{marks} marks in {runs} packets");
    }
    // CoDel's spacing is interval/√n: twenty marks cannot come in less than Σ interval/√n.
    let least: f64 = (1..20u32).map(|n| f64::from(50_000u32) / f64::from(n).sqrt()).sum();
    assert!(started.elapsed().as_nanos() as f64 > least, "{:?} for 20 marks", started.elapsed());
    let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
    assert_eq!(state.marked, 20);
    assert_eq!(state.episode, 20);
}

#[test]
fn a_link_without_a_law_passes_everything_uncounted() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let bytes = frame(ECT0, false);
    let ran = run(&mut programs, names::PROG_MARK, &bytes, Context::on(LINK));
    assert_eq!((ran.verdict, ran.frame), (PASS, bytes));
    assert_eq!(programs.maps().mark_stats(LINK).expect("read"), None);
}

#[test]
fn the_lengths_of_large_packets_are_those_on_the_wire() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    programs.maps().set_mark(LINK, &empty()).expect("set");
    let bytes = frame(ECT0, false);
    run(&mut programs, names::PROG_MARK, &bytes, Context { wire_len: 3210, ..Context::on(LINK) });
    let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
    assert_eq!(state.bytes, 3210);
}

//! Limits in shadow: counted, and nothing else.
//!
//! Verifies: packets pass untouched whatever is counted; marks and packets without ECN are told apart; what bucket and
//! queue cannot hold counts as dropped and does not lengthen the queue; the two directions of a veth have a count of
//! their own; without a shadow limit nothing is counted.

use turnpike_ebpf_loader::abi::{MarkConfig, names};

use crate::frames::{ACK, Frame};
use crate::sandbox::Sandbox;
use crate::testrun::{Context, PASS, run};

const LINK: u32 = 1;

fn frame(ecn: u8) -> Vec<u8> {
    Frame::tcp("10.0.0.1", 1, "10.0.0.2", 2, ACK).with(|frame| frame.tos = ecn).sized(1000).bytes()
}

/// A limit by which a frame of 1000 bytes and its header takes hours; `frames` of them fit.
fn limit(frames: u64) -> MarkConfig {
    let ns_per_byte = 3_600_000_000;
    let bytes = u64::try_from(frame(0).len()).expect("short");
    MarkConfig {
        ns_per_byte_q20: ns_per_byte << 20,
        bucket_ns: 1000,
        target_ns: 1000,
        interval_ns: 1_000_000,
        ceiling_ns: 1000,
        early_ns: 1000,
        // Half a frame more, for the time that passes during the test.
        hold_ns: (frames * bytes + bytes / 2) * ns_per_byte,
        flags: 0,
    }
}

#[test]
fn packets_are_counted_and_pass_untouched() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    programs.maps().set_shadow(LINK, &limit(3)).expect("set");
    for ecn in [2, 2, 0, 2, 2] {
        let ran = run(&mut programs, names::PROG_MARK, &frame(ecn), Context::on(LINK));
        assert_eq!((ran.verdict, ran.frame), (PASS, frame(ecn)));
    }
    let state = programs.maps().shadow_stats(LINK).expect("read").expect("state");
    assert_eq!((state.packets, state.marked, state.not_capable, state.dropped), (5, 3, 1, 2));
    // Its virtual queue was never longer than what it holds.
    assert!(state.max_delay_ns <= limit(3).bucket_ns + limit(3).hold_ns, "{state:?}");
    let other = MarkConfig::shadow_from_pod_key(LINK);
    assert_eq!(programs.maps().shadow_stats(other).expect("read"), None);
    assert_eq!(programs.maps().mark_stats(LINK).expect("read"), None, "nothing is in force");
}

#[test]
fn a_shadow_that_is_taken_away_counts_no_more() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    programs.maps().set_shadow(LINK, &limit(1)).expect("set");
    programs.maps().keep_shadows(&[(LINK + 1, limit(1))].into()).expect("keep");
    let ran = run(&mut programs, names::PROG_MARK, &frame(2), Context::on(LINK));
    assert_eq!(ran.verdict, PASS);
    assert_eq!(programs.maps().shadow_stats(LINK).expect("read"), None);
    assert!(programs.maps().shadow_stats(LINK + 1).expect("read").is_some());
    programs.maps().keep_shadows(&Default::default()).expect("keep");
    assert_eq!(programs.maps().shadow_stats(LINK + 1).expect("read"), None);
}

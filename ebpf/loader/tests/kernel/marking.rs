//! The limiter: the virtual queue, and the law of each flow in it.
//!
//! Verifies, for HTB's classifier and for fq's departure times: nothing happens while most of the bucket is left; of a
//! busy flow packets that can carry it are marked above the ceiling, and after an interval above the target, ever more
//! often; those that cannot are dropped by the same law, once as soon as they have a window, and all above the longest
//! wait, which is longer where a window is; flows that share the link have so much less of it; a flow that sends little
//! passes beside it; more flows than places share them; a link without a law passes untouched.

use turnpike_ebpf_loader::Programs;
use turnpike_ebpf_loader::abi::{MarkConfig, names};

use crate::frames::{ACK, Frame};
use crate::sandbox::Sandbox;
use crate::testrun::{Context, DROP, PASS, Ran, run};

const LINK: u32 = 1;
const ECT0: u8 = 2;
const ECT1: u8 = 1;
const CE: u8 = 3;
/// So many frames of 1000 bytes are a sparse flow's.
const SPARSE: usize = 4;
/// Longer than any test.
const HOURS: u64 = 1 << 50;

fn frame(ecn: u8, six: bool) -> Vec<u8> {
    of_flow(1, ecn, six)
}

fn of_flow(port: u16, ecn: u8, six: bool) -> Vec<u8> {
    let (source, destination) = if six { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
    Frame::tcp(source, port, destination, 2, ACK).with(|frame| frame.tos = 0xb8 | ecn).sized(1000).bytes()
}

/// A law by which one byte takes a second, so that whatever comes waits; nothing offends it.
fn slow() -> MarkConfig {
    MarkConfig {
        ns_per_byte_q20: 1_000_000_000 << 20,
        bucket_ns: 0,
        target_ns: HOURS,
        interval_ns: 1_000_000,
        ceiling_ns: HOURS,
        early_ns: HOURS,
        hold_ns: HOURS,
        flags: 0,
    }
}

/// The same, but a queue is full when so many frames wait in it, each for as many seconds as it has bytes.
fn full_of(frames: u64) -> MarkConfig {
    let bytes = u64::try_from(frame(0, false).len()).expect("short");
    MarkConfig { early_ns: 1, hold_ns: (frames * bytes - 1) * 1_000_000_000, ..slow() }
}

/// Both forms of the limiter: the program, its flags, and its verdict for what goes on.
const FORMS: [(&str, u64, i32); 2] = [(names::PROG_QUEUE, 0, 0), (names::PROG_MARK, MarkConfig::PACED, PASS)];

/// Sends what a sparse flow may; the next packet is a busy one's.
fn make_busy(programs: &mut Programs, form: (&str, u64, i32), law: MarkConfig, bytes: &[u8]) {
    let (program, flags, goes_on) = form;
    programs.maps().clear_mark(LINK).expect("clear");
    programs.maps().set_mark(LINK, &MarkConfig { flags, ..slow() }).expect("set");
    // The first finds nothing that waits, and is nobody's.
    for _ in 0..=SPARSE {
        let ran = run(programs, program, bytes, Context::on(LINK));
        assert_eq!((ran.verdict, ran.frame.as_slice(), ran.departure), (goes_on, bytes, 0), "{program}");
    }
    programs.maps().set_mark(LINK, &MarkConfig { flags, ..law }).expect("set");
}

fn send(programs: &mut Programs, form: (&str, u64, i32), bytes: &[u8]) -> Ran {
    run(programs, form.0, bytes, Context::on(LINK))
}

#[test]
fn above_the_ceiling_a_busy_flow_is_marked() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for form in FORMS {
        for six in [false, true] {
            for ecn in [ECT0, ECT1, CE] {
                let law = MarkConfig { ceiling_ns: 1, early_ns: 1, ..slow() };
                make_busy(&mut programs, form, law, &frame(ecn, six));
                let first = send(&mut programs, form, &frame(ecn, six));
                assert_eq!(first.frame, frame(ecn, six), "nothing of its own waits in front of it");
                let marked = send(&mut programs, form, &frame(ecn, six));
                assert_eq!(
                    (marked.verdict, marked.frame),
                    (form.2, frame(CE, six)),
                    "ECN field {ecn}, IPv6 {six}"
                );
                assert_eq!(marked.departure > 0, form.1 == MarkConfig::PACED);
                let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
                assert_eq!((state.packets, state.marked, state.not_capable, state.dropped), (7, 1, 0, 0));
                assert_eq!(state.bytes, 7 * u64::try_from(frame(ecn, six).len()).expect("short"));
            }
        }
    }
}

#[test]
fn without_ecn_few_are_dropped_early() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let bytes = frame(0, false);
    for form in FORMS {
        // What may stand is a nanosecond; marks at once would be for others.
        let law = MarkConfig { target_ns: 1, early_ns: 1, ceiling_ns: 1, flags: form.1, ..slow() };
        make_busy(&mut programs, form, law, &bytes);
        assert_ne!(send(&mut programs, form, &bytes).verdict, DROP);
        assert_eq!(send(&mut programs, form, &bytes).verdict, DROP, "one at once: it ends slow start");
        // What waits by now stays; what comes takes no time.
        programs.maps().set_mark(LINK, &MarkConfig { ns_per_byte_q20: 1, ..law }).expect("set");
        let started = std::time::Instant::now();
        let (mut passed, mut dropped) = (0, 1);
        while dropped < 3 {
            let ran = send(&mut programs, form, &bytes);
            match ran.verdict {
                DROP => dropped += 1,
                verdict => {
                    assert_eq!((verdict, ran.frame), (form.2, bytes.clone()), "never marked");
                    passed += 1;
                }
            }
            assert!(started.elapsed().as_secs() < 30, "{dropped} dropped, {passed} passed");
        }
        assert!(passed > 0, "an interval has to pass in between");
        let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
        assert_eq!((state.marked, state.not_capable, state.dropped), (0, 3, 0));
    }
}

#[test]
fn at_the_longest_wait_everything_busy_is_dropped_and_takes_no_time() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for form in FORMS {
        let bytes = frame(0, false);
        make_busy(&mut programs, form, full_of(5), &bytes);
        let verdicts: Vec<bool> =
            (0..12).map(|_| send(&mut programs, form, &bytes).verdict == DROP).collect();
        let passed = verdicts.iter().take_while(|dropped| !**dropped).count();
        assert_eq!(passed, 5);
        assert!(verdicts[passed..].iter().all(|dropped| *dropped), "{verdicts:?}");
        let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
        assert_eq!(usize::try_from(state.dropped).expect("few"), 12 - passed);
        let let_in = u64::try_from(bytes.len() * (1 + SPARSE + passed)).expect("short") * 1_000_000_000;
        let ahead = state.clock_ns.saturating_sub(state.max_delay_ns);
        assert!(state.max_delay_ns <= let_in && ahead > 0, "{state:?}");
    }
}

#[test]
fn who_takes_no_notice_of_marks_loses_one_before_all() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for form in FORMS {
        let bytes = frame(ECT0, false);
        make_busy(&mut programs, form, MarkConfig { ceiling_ns: 1, ..full_of(40) }, &bytes);
        let dropped: Vec<usize> =
            (1..60).filter(|_| send(&mut programs, form, &bytes).verdict == DROP).collect();
        // What waits is three quarters of the longest wait with the 31st; the one that is lost makes room for another.
        assert_eq!(dropped.iter().take(3).copied().collect::<Vec<_>>(), [31, 42, 43], "{dropped:?}");
        assert_eq!(dropped.last(), Some(&59), "at the longest wait all are");
        let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
        assert_eq!((state.marked, state.not_capable), (39, 0));
    }
}

#[test]
fn flows_share_a_link_and_each_has_so_much_less_of_it() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for form in FORMS {
        let law = full_of(40);
        make_busy(&mut programs, form, slow(), &frame(0, false));
        for port in [2, 3] {
            (0..SPARSE).for_each(|_| drop(send(&mut programs, form, &of_flow(port, 0, false))));
        }
        programs.maps().set_mark(LINK, &MarkConfig { flags: form.1, ..law }).expect("set");
        let let_in = |programs: &mut Programs, port| {
            let sent = std::iter::repeat_with(|| send(programs, form, &of_flow(port, 0, false)).verdict);
            sent.take(100).take_while(|verdict| *verdict != DROP).count()
        };
        let alone = let_in(&mut programs, 1);
        let second = let_in(&mut programs, 2);
        let third = let_in(&mut programs, 3);
        assert_eq!((alone, second, third), (40, 20, 14), "the half, a third");
    }
}

#[test]
fn a_queue_is_longer_where_a_window_is() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for form in FORMS {
        for (window, expected) in [(2, 5), (4, 8), (30, 20)] {
            // A window of frames without ECN may stand, and twice as much may come; four times the usual is the most.
            let law = MarkConfig { early_ns: full_of(window).hold_ns, ..full_of(5) };
            make_busy(&mut programs, form, law, &frame(0, false));
            let sent = std::iter::repeat_with(|| send(&mut programs, form, &frame(0, false)).verdict);
            let let_in = sent.take(50).take_while(|verdict| *verdict != DROP).count();
            assert_eq!(let_in, expected, "a window of {window}");
        }
    }
}

#[test]
fn while_most_of_the_bucket_is_left_nothing_happens() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for (program, flags, goes_on) in FORMS {
        let law = MarkConfig { bucket_ns: HOURS, ceiling_ns: 0, hold_ns: 0, flags, ..slow() };
        programs.maps().clear_mark(LINK).expect("clear");
        programs.maps().set_mark(LINK, &law).expect("set");
        let bytes = frame(ECT0, false);
        for _ in 0..100 {
            let ran = run(&mut programs, program, &bytes, Context::on(LINK));
            assert_eq!((ran.verdict, ran.frame, ran.departure), (goes_on, bytes.clone(), 0));
        }
        let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
        assert_eq!((state.packets, state.marked, state.dropped), (100, 0, 0));
        let table = programs.maps().mark_flows(LINK).expect("read").expect("table");
        assert!(table.flows.iter().all(|flow| flow.tag == 0), "nobody asked whose packets they are");
    }
}

#[test]
fn a_standing_wait_is_marked_after_an_interval_and_then_more_often() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let interval_ns = 50_000;
    for form in FORMS {
        let bytes = frame(ECT0, false);
        let law = MarkConfig { target_ns: 1000, early_ns: 1, interval_ns, flags: form.1, ..slow() };
        make_busy(&mut programs, form, law, &bytes);
        send(&mut programs, form, &bytes);
        // What waits by now stays; what comes takes no time.
        programs.maps().set_mark(LINK, &MarkConfig { ns_per_byte_q20: 1, ..law }).expect("set");
        let started = std::time::Instant::now();
        assert_eq!(send(&mut programs, form, &bytes).frame, bytes, "an interval has to pass first");
        let marked = frame(CE, false);
        let mut marks = 0;
        while marks < 20 {
            let ran = send(&mut programs, form, &bytes);
            assert!(ran.frame == bytes || ran.frame == marked);
            marks += u32::from(ran.frame == marked);
            assert!(started.elapsed().as_secs() < 30, "{marks} marks");
        }
        // CoDel's spacing is interval/√n: twenty marks cannot come in less than Σ interval/√n.
        let least: f64 = (1..20u32).map(|n| f64::from(50_000u32) / f64::from(n).sqrt()).sum();
        assert!(started.elapsed().as_nanos() as f64 > least, "{:?} for 20 marks", started.elapsed());
        let table = programs.maps().mark_flows(LINK).expect("read").expect("table");
        assert_eq!(table.flows.iter().map(|flow| flow.codel.episode).max(), Some(20));
    }
}

#[test]
fn who_sends_little_passes_beside_a_full_queue() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for form in FORMS {
        let law = MarkConfig { ceiling_ns: 1, ..full_of(50) };
        make_busy(&mut programs, form, law, &frame(ECT0, false));
        while send(&mut programs, form, &frame(ECT0, false)).verdict != DROP {}
        let other = of_flow(7, ECT0, false);
        let ran = send(&mut programs, form, &other);
        assert_eq!((ran.verdict, ran.frame, ran.departure), (form.2, other, 0));
    }
}

#[test]
fn more_flows_than_places_share_them() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for form in FORMS {
        // More of them than may go first.
        make_busy(&mut programs, form, slow(), &frame(0, false));
        for _ in 0..2 * SPARSE {
            for port in 10..110 {
                let ran = send(&mut programs, form, &of_flow(port, 0, false));
                assert_eq!(ran.verdict, form.2);
            }
        }
        let table = programs.maps().mark_flows(LINK).expect("read").expect("table");
        // Whoever came first stays, and shares his queue.
        assert!(table.flows.iter().all(|flow| flow.tag != 0 && flow.busy == 1), "{:?}", table.flows);
    }
}

#[test]
fn a_link_without_a_law_passes_everything_uncounted() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let bytes = frame(ECT0, false);
    for (program, _, goes_on) in FORMS {
        let ran = run(&mut programs, program, &bytes, Context::on(LINK));
        assert_eq!((ran.verdict, ran.frame), (goes_on, bytes.clone()));
    }
    assert_eq!(programs.maps().mark_stats(LINK).expect("read"), None);
}

#[test]
fn each_form_leaves_the_others_limits_alone() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for (program, flags, goes_on) in FORMS {
        let law = MarkConfig { hold_ns: 0, flags: MarkConfig::PACED - flags, ..slow() };
        programs.maps().set_mark(LINK, &law).expect("set");
        for _ in 0..10 {
            assert_eq!(run(&mut programs, program, &frame(0, false), Context::on(LINK)).verdict, goes_on);
        }
        let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
        assert_eq!(state.packets, 0);
    }
}

#[test]
fn the_lengths_of_large_packets_are_those_on_the_wire() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    programs.maps().set_mark(LINK, &slow()).expect("set");
    let bytes = frame(ECT0, false);
    run(&mut programs, names::PROG_QUEUE, &bytes, Context { wire_len: 3210, ..Context::on(LINK) });
    let state = programs.maps().mark_stats(LINK).expect("read").expect("state");
    assert_eq!(state.bytes, 3210);
}

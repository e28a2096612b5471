//! Ranges whose traffic a pod's limits do not count.
//!
//! Verifies: on a host veth without a queue of its own what comes from an exempt range ends the filters' run, and all else
//! goes on to the redirect; ranges belong to one link and to one family; a limited link asks for no ranges.

use turnpike_ebpf_loader::abi::{ExemptKey, LpmKey, MarkConfig, names};

use crate::frames::{ACK, Frame};
use crate::sandbox::Sandbox;
use crate::testrun::{Context, PASS, run};

const LINK: u32 = 1;
/// `TC_ACT_OK`: filters behind ours do not run.
const END: i32 = 0;

fn key(link: u32, prefix: &str, len: u8) -> ExemptKey {
    ExemptKey::new(link, LpmKey::new(prefix.parse().expect("an address"), len).expect("a prefix"))
}

#[test]
fn what_comes_from_an_exempt_range_passes_by_the_redirect() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for (key, one) in [(key(LINK, "10.1.0.0", 16), 1), (key(LINK, "fd00:1::", 32), 1)] {
        programs.maps().exempt.insert(&key, &one).expect("insert");
    }
    programs.maps().exempt.insert(&key(LINK + 1, "10.2.0.0", 16), &1).expect("insert");
    for (source, pod, verdict) in [
        ("10.1.9.9", "10.244.0.1", END),
        ("10.2.0.1", "10.244.0.1", PASS),
        ("10.244.0.9", "10.1.0.1", PASS),
        ("fd00:1::9", "fd00:244::1", END),
        ("fd00:2::9", "fd00:244::1", PASS),
        ("::ffff:10.1.9.9", "fd00:244::1", PASS),
    ] {
        let frame = Frame::tcp(source, 1, pod, 2, ACK).bytes();
        let ran = run(&mut programs, names::PROG_MARK, &frame, Context::on(LINK));
        assert_eq!((ran.verdict, ran.frame), (verdict, frame), "{source}");
    }
    let limit = MarkConfig::for_rate(1_000_000_000, 10_000_000).expect("a rate");
    programs.maps().set_mark(LINK, &MarkConfig { flags: MarkConfig::PACED, ..limit }).expect("set");
    let frame = Frame::tcp("10.1.9.9", 1, "10.244.0.1", 2, ACK).bytes();
    let ran = run(&mut programs, names::PROG_MARK, &frame, Context::on(LINK));
    assert_eq!(ran.verdict, PASS, "the queue is here");
}

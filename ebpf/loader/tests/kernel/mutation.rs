//! Mutated packets through each tc program: the verdict is the one that a model in Rust predicts, nothing is redirected
//! that should pass, and what passes is unchanged.
//!
//! Maps, links and routes are those of `towards_pod` and `from_pod`. 4,000 frames for each program; 100,000 with
//! `TURNPIKE_TEST_FULL=1` (`cargo xtask test --full`).

use turnpike_ebpf_loader::abi::bypass::FlowKey;
use turnpike_ebpf_loader::abi::{Addr, MarkConfig, names};

use crate::frames::{ACK, Frame, ICMP, ICMP6, SYN, Transport, arp, ip, nd};
use crate::sandbox::{Sandbox, ifindex, run as command};
use crate::testrun::{Context, DROP, PASS, REDIRECT, run};
use crate::{from_pod, mutation_model as model, towards_pod};

use model::Verdict;

pub(crate) const POD: &str = "10.244.1.5";
pub(crate) const POD6: &str = "fd00:244::5";
pub(crate) const LINK_LOCAL: &str = "fe80::ff:fe00:105";
pub(crate) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 5];
/// The link that `towards_pod` calls its uplink.
const UPLINK: u32 = 1;
/// The shortest frame that the kernel's test run takes: Ethernet and a byte.
const SHORTEST: usize = 15;

/// The longest one: the kernel wants it in a page, with its own head and tail.
const LONGEST: usize = 3000;

fn rounds() -> usize {
    if std::env::var_os("TURNPIKE_TEST_FULL").is_some() { 100_000 } else { 4_000 }
}

/// A small generator, the same for everybody (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).expect("small")).expect("small")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

/// Changes a frame in one to four places; now and then not at all.
fn mutate(numbers: &mut Numbers, frame: &mut Vec<u8>, words: &[Vec<u8>]) {
    for _ in 0..numbers.below(5) {
        let length = frame.len();
        match numbers.below(8) {
            0 => {
                let at = numbers.below(length);
                frame[at] = numbers.byte();
            }
            1 => {
                let at = numbers.below(length);
                frame[at] ^= 1 << numbers.below(8);
            }
            // Headers are where it matters.
            2 | 3 => {
                let at = numbers.below(length.min(78));
                frame[at] = [0, 1, 2, 4, 6, 17, 44, 58, 0x45, 0x46, 0x60, 0xfe, 0xff][numbers.below(13)];
            }
            4 => frame.truncate(SHORTEST + numbers.below(length.saturating_sub(SHORTEST) + 1)),
            5 => frame.extend(std::iter::repeat_n(numbers.byte(), numbers.below(1600))),
            // An address or port that means something, where addresses and ports are.
            _ => {
                let word = &words[numbers.below(words.len())];
                let at = [0, 6, 12, 22, 26, 30, 34, 36, 38, 54, 56, 62][numbers.below(12)];
                if let Some(place) = frame.get_mut(at..at + word.len()) {
                    place.copy_from_slice(word);
                }
            }
        }
    }
}

/// A mutated frame that the kernel's test run accepts: newer kernels refuse IP packets without a whole base header.
fn frame(numbers: &mut Numbers, seeds: &[Vec<u8>], words: &[Vec<u8>]) -> Vec<u8> {
    loop {
        let mut frame = seeds[numbers.below(seeds.len())].clone();
        mutate(numbers, &mut frame, words);
        let base = match frame[12..14] {
            [0x08, 0x00] => 14 + 20,
            [0x86, 0xdd] => 14 + 40,
            _ => SHORTEST,
        };
        if (base..=LONGEST).contains(&frame.len()) {
            return frame;
        }
    }
}

/// Addresses, ports and types that the maps know.
fn words() -> Vec<Vec<u8>> {
    let addresses =
        [POD, "10.244.1.6", "10.244.1.7", "10.1.3.30", "10.1.4.30", "10.1.5.30", "10.1.6.30", POD6]
            .into_iter()
            .chain([LINK_LOCAL, "fd00:1:3::30", "::ffff:10.1.3.30", "::", "ff02::1"]);
    let mut words: Vec<Vec<u8>> = addresses
        .map(|text| match ip(text) {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        })
        .collect();
    words.extend([80u16, 53, 443, 0x0800, 0x86dd, 0x0806, 0x8100].map(|word| word.to_be_bytes().to_vec()));
    words.push(POD_MAC.to_vec());
    words
}

/// Well-formed frames in both directions, of which the mutated ones are made.
fn seeds() -> Vec<Vec<u8>> {
    let director = ["10.1.3.30", "fd00:1:3::30"];
    let mut frames = Vec::new();
    for (pod, director) in [POD, POD6].into_iter().zip(director) {
        frames.extend([
            Frame::tcp(director, 4000, pod, 80, ACK),
            Frame::tcp(director, 4000, pod, 80, SYN),
            Frame::udp(director, 4000, pod, 53),
            Frame::tcp(pod, 80, director, 4000, ACK),
            Frame::tcp(pod, 80, director, 4000, SYN | ACK),
            Frame::udp(pod, 53, director, 4000),
            Frame::tcp(pod, 40_000, director, 443, SYN),
        ]);
    }
    frames.extend([
        Frame::tcp("10.1.4.30", 4000, POD, 8443, ACK),
        Frame::tcp(POD, 8443, "10.1.4.30", 4000, ACK),
        Frame::tcp(POD, 8443, "10.1.4.30", 4000, SYN),
        Frame::tcp("10.1.5.30", 4000, POD, 80, ACK),
        Frame::tcp(POD, 80, "10.1.5.30", 4000, ACK),
        Frame::tcp("10.1.3.30", 4000, "10.244.1.6", 80, ACK),
        Frame::tcp("10.1.3.30", 4000, "10.244.1.7", 80, ACK),
        Frame::udp("10.1.3.30", 4000, POD, 53).with(|frame| frame.fragment = 0x2000),
        Frame::tcp("10.1.3.30", 4000, POD, 80, ACK).with(|frame| frame.ip_options = vec![1; 4]),
        Frame::udp(POD, 53, "10.1.3.30", 4000).sized(1372),
        Frame::udp("10.1.3.30", 4000, POD, 53).sized(1472),
        Frame::new(POD, "10.1.3.30", Transport::Other(ICMP, vec![8, 0, 0, 0, 0, 0, 0, 0])),
        Frame::new(POD6, "fd00:1:3::30", Transport::Other(ICMP6, vec![128, 0, 0, 0, 0, 0, 0, 0])),
    ]);
    let mut bytes: Vec<Vec<u8>> = frames.iter().map(Frame::bytes).collect();
    bytes.push(arp(1, POD_MAC, [10, 244, 1, 5], [169, 254, 1, 1]));
    bytes.extend([135, 136, 134].map(|kind| Frame::new(LINK_LOCAL, "ff02::1", nd(kind, POD6)).bytes()));
    bytes
}

/// What the kernel said, in the model's words.
fn verdict(number: i32) -> Verdict {
    match number {
        PASS => Verdict::Pass,
        DROP => Verdict::Drop,
        REDIRECT => Verdict::Redirect,
        other => panic!("verdict {other}"),
    }
}

/// How often each verdict must be seen for the run to mean something.
fn assert_varied(counts: &[usize; 3], wanted: &[Verdict]) {
    for one in wanted {
        let count = counts[*one as usize];
        assert!(count * 50 > rounds(), "only {count} of {} frames end in {one:?}: {counts:?}", rounds());
    }
}

#[test]
fn mutated_frames_from_an_uplink_end_as_the_model_says() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    towards_pod::fill(&programs);
    let (seeds, words) = (seeds(), words());
    let mut numbers = Numbers(0x0074_7572_6e70_696b);
    let mut counts = [0; 3];
    for round in 0..rounds() {
        let frame = frame(&mut numbers, &seeds, &words);
        let expected = model::uplink(&frame);
        let ran = run(&mut programs, names::PROG_UPLINK, &frame, Context::on(UPLINK));
        assert_eq!(verdict(ran.verdict), expected, "round {round}: {frame:02x?}");
        let wanted = match expected {
            Verdict::Redirect => model::forwarded(&frame, true),
            _ => frame.clone(),
        };
        assert!(model::same_frame(&ran.frame, &wanted), "round {round}: {frame:02x?} → {:02x?}", ran.frame);
        counts[expected as usize] += 1;
    }
    assert_varied(&counts, &[Verdict::Pass, Verdict::Redirect]);
}

#[test]
fn mutated_frames_from_a_pod_end_as_the_model_says() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let veth = from_pod::node(&programs);
    let (seeds, words) = (seeds(), words());
    let mut numbers = Numbers(0x0065_6270_6620_6f6b);
    let mut counts = [0; 3];
    for round in 0..rounds() {
        let frame = frame(&mut numbers, &seeds, &words);
        let expected = model::from_pod(&frame);
        let ran = run(&mut programs, names::PROG_FROM_POD, &frame, Context::on(veth));
        assert_eq!(verdict(ran.verdict), expected, "round {round}: {frame:02x?}");
        let wanted = match expected {
            Verdict::Redirect => model::forwarded(&frame, false),
            _ => frame.clone(),
        };
        assert!(model::same_frame(&ran.frame, &wanted), "round {round}: {frame:02x?} → {:02x?}", ran.frame);
        counts[expected as usize] += 1;
        if let Some((pod, peer, pod_port, peer_port)) = model::opens(&frame) {
            let flow = FlowKey {
                pod: Addr::from(pod),
                peer: Addr::from(peer),
                pod_port_be: pod_port.to_be(),
                peer_port_be: peer_port.to_be(),
            };
            // A connection that the pod opened is remembered, where any port qualifies; each frame begins anew.
            programs.maps().pod_flows.remove(&flow).expect("remove");
        }
    }
    assert_varied(&counts, &[Verdict::Pass, Verdict::Drop, Verdict::Redirect]);
}

#[test]
fn mutated_frames_are_marked_or_dropped_only_where_there_is_a_limit() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    let limit = MarkConfig::for_rate(1_000_000, 10_000_000).expect("a rate");
    let (seeds, words) = (seeds(), words());
    let mut numbers = Numbers(0x006d_6172_6b20_6974);
    command("ip link add unmarked type veth peer name other");
    let unmarked = ifindex("unmarked");
    for (program, flags, goes_on) in [(names::PROG_QUEUE, 0, 0), (names::PROG_MARK, MarkConfig::PACED, PASS)]
    {
        programs.maps().set_mark(UPLINK, &MarkConfig { flags, ..limit }).expect("set");
        let (mut dropped, mut passed) = (0, 0);
        for round in 0..rounds() / 2 {
            let frame = frame(&mut numbers, &seeds, &words);
            let link = if numbers.below(4) == 0 { unmarked } else { UPLINK };
            let ran = run(&mut programs, program, &frame, Context::on(link));
            if link != UPLINK {
                assert_eq!((ran.verdict, &ran.frame), (goes_on, &frame), "round {round}");
            } else if ran.verdict == DROP {
                dropped += 1;
            } else {
                assert_eq!(ran.verdict, goes_on, "round {round}: {frame:02x?}");
                assert!(model::same_but_for_ecn(&ran.frame, &frame), "round {round}: {frame:02x?}");
                passed += 1;
            }
        }
        assert!(dropped > 0 && passed > 0, "{program}: {dropped} dropped, {passed} passed");
    }
}

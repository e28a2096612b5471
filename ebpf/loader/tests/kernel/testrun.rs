//! Runs a tc program on one frame (BPF_PROG_TEST_RUN): the redirect is not carried out, its verdict is told.

use aya::programs::{Program, TestRun, TestRunOptions};
use turnpike_ebpf_loader::Programs;

/// Go on.
pub(crate) const PASS: i32 = -1;
/// Drop.
pub(crate) const DROP: i32 = 2;
/// Redirect.
pub(crate) const REDIRECT: i32 = 7;

/// What a program said, and the frame as it left it.
pub(crate) struct Ran {
    pub(crate) verdict: i32,
    pub(crate) frame: Vec<u8>,
    /// When it may leave, monotonic nanoseconds; 0 for now.
    pub(crate) departure: u64,
}

/// The parts of `struct __sk_buff` that a test may set (linux/bpf.h).
#[derive(Clone, Copy, Default)]
pub(crate) struct Context {
    pub(crate) ifindex: u32,
    pub(crate) gso_size: u32,
    pub(crate) wire_len: u32,
}

impl Context {
    /// A frame that came in, or goes out, through a link.
    pub(crate) fn on(ifindex: u32) -> Self {
        Self { ifindex, ..Self::default() }
    }

    fn bytes(self) -> [u8; 192] {
        let mut bytes = [0; 192];
        bytes[40..44].copy_from_slice(&self.ifindex.to_ne_bytes());
        bytes[160..164].copy_from_slice(&self.wire_len.to_ne_bytes());
        bytes[176..180].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes
    }
}

/// Runs a program once.
pub(crate) fn run(programs: &mut Programs, name: &str, frame: &[u8], context: Context) -> Ran {
    let Some(Program::SchedClassifier(program)) = programs.ebpf_mut().program_mut(name) else {
        panic!("{name} is no tc program");
    };
    let mut out = vec![0; frame.len() + 256];
    let context = context.bytes();
    let mut after = [0; 192];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        })
        .expect("BPF_PROG_TEST_RUN");
    out.truncate(usize::try_from(result.data_size_out).expect("a size"));
    let departure = u64::from_ne_bytes(after[152..160].try_into().expect("eight bytes"));
    Ran { verdict: result.return_value.cast_signed(), frame: out, departure }
}

//! Runs a loaded tc program on one frame (BPF_PROG_TEST_RUN), with the maps that are in force: what would become of
//! such a packet now. The verdict is told and not carried out, but the program writes to its maps as always: it counts
//! the packet, and remembers a connection that a pod opens.

use aya::programs::{Program, TestRun as _, TestRunOptions};

use crate::attach::Hook;
use crate::error::Error;
use crate::programs::Programs;

/// What a tc program says of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on: other programs, then the stack.
    GoesOn,
    /// Dropped.
    Dropped,
    /// Past the stack, to another interface.
    Redirected,
    /// Another number of linux/pkt_cls.h.
    Other(i32),
}

impl Programs {
    /// What the program of `hook` says of `frame` on the interface.
    ///
    /// # Errors
    /// The kernel has no such program, or cannot run it on a frame.
    pub fn try_frame(&mut self, hook: Hook, ifindex: u32, frame: &[u8]) -> Result<Verdict, Error> {
        let name = hook.program();
        let refusal = |reason: String| Error::Unavailable { program: name, reason };
        let Program::SchedClassifier(program) = self.program(name)? else {
            return Err(refusal("it is no tc program".to_owned()));
        };
        let mut out = vec![0; frame.len().saturating_add(256)];
        let context = context(ifindex);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result =
            program.test_run(options).map_err(|error| refusal(format!("BPF_PROG_TEST_RUN: {error}")))?;
        Ok(match result.return_value.cast_signed() {
            -1 | 0 => Verdict::GoesOn,
            2 => Verdict::Dropped,
            7 => Verdict::Redirected,
            other => Verdict::Other(other),
        })
    }
}

/// `struct __sk_buff` (linux/bpf.h) with nothing set but `ifindex`.
fn context(ifindex: u32) -> [u8; 192] {
    const IFINDEX: usize = 40;
    let mut bytes = [0; 192];
    for (to, from) in bytes.iter_mut().skip(IFINDEX).zip(ifindex.to_ne_bytes()) {
        *to = from;
    }
    bytes
}

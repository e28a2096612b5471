//! The embedded eBPF object.

/// The object that `build.rs` found; empty when there was none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/turnpike-ebpf"));

/// The object, or `None` when this build has none.
pub(crate) fn bytes() -> Option<&'static [u8]> {
    (!OBJECT.is_empty()).then_some(OBJECT)
}

/// Whether this build holds the eBPF programs.
#[must_use]
pub fn is_embedded() -> bool {
    bytes().is_some()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aya_obj::generated::{BPF_CALL, BPF_EXIT, BPF_JA, BPF_JMP, BPF_JMP32, bpf_insn};

    use super::*;

    /// Numbers of the helpers in `include/uapi/linux/bpf.h`.
    const LOCK: i32 = 93;
    const UNLOCK: i32 = 94;

    /// Kernels before 6.9 refuse every call under a spin lock, those of a program's own functions, too; the compiler
    /// makes a call of what the source does not show, as memset of two words that are set to zero.
    #[test]
    fn nothing_is_called_under_a_lock() {
        let Some(bytes) = bytes() else { panic!("cargo xtask build makes the programs") };
        let object = aya_obj::Object::parse(bytes).unwrap();
        let mut holders = 0;
        for function in object.functions.values() {
            let code = &function.instructions;
            let locks = (0..code.len()).filter(|at| helper(&code[*at]) == Some(LOCK));
            for lock in locks {
                holders += 1;
                assert_eq!(calls_before_unlock(code, lock + 1), [], "{} locks at {lock}", function.name);
            }
        }
        assert!(holders > 0, "the limiter has a lock");
    }

    #[test]
    fn a_call_under_a_lock_is_found_on_every_path() {
        let call = |source: u8, number: i32| instruction(0x85, source, 0, number);
        let jump_if = |over: i16| instruction(0x15, 0, over, 0);
        let (lock, unlock, own) = (call(0, LOCK), call(0, UNLOCK), call(1, -1));
        assert_eq!(calls_before_unlock(&[lock, unlock, own], 1), []);
        assert_eq!(calls_before_unlock(&[lock, own, unlock], 1), [1]);
        assert_eq!(calls_before_unlock(&[lock, jump_if(1), unlock, own, unlock], 1), [3]);
        let back = instruction(0x05, 0, -3, 0);
        assert_eq!(calls_before_unlock(&[lock, jump_if(2), call(0, 5), back, unlock], 1), [2]);
    }

    fn instruction(code: u8, source: u8, off: i16, imm: i32) -> bpf_insn {
        let registers = bpf_insn::new_bitfield_1(0, source);
        bpf_insn { code, _bitfield_align_1: [], _bitfield_1: registers, off, imm }
    }

    fn helper(instruction: &bpf_insn) -> Option<i32> {
        (is_call(instruction) && instruction.src_reg() == 0).then_some(instruction.imm)
    }

    fn is_call(instruction: &bpf_insn) -> bool {
        u32::from(instruction.code) == BPF_JMP | BPF_CALL
    }

    /// Calls, and ends of the program, that can be reached from an instruction without an unlock.
    fn calls_before_unlock(code: &[bpf_insn], start: usize) -> Vec<usize> {
        let (mut seen, mut open, mut found) = (BTreeSet::new(), vec![start], Vec::new());
        while let Some(at) = open.pop() {
            if !seen.insert(at) || helper(&code[at]) == Some(UNLOCK) {
                continue;
            }
            let instruction = &code[at];
            let operation = u32::from(instruction.code);
            let is_jump = matches!(operation & 0x07, BPF_JMP | BPF_JMP32);
            let target = || (at + 1).strict_add_signed(instruction.off.into());
            match operation & 0xf0 {
                BPF_CALL | BPF_EXIT if is_jump => found.push(at),
                BPF_JA if is_jump => open.push(target()),
                _ if is_jump => open.extend([at + 1, target()]),
                // A load of 64 bits takes two places.
                _ if operation == 0x18 => open.push(at + 2),
                _ => open.push(at + 1),
            }
        }
        found
    }
}

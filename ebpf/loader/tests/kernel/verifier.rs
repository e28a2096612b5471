//! Verifies: the kernel accepts every program, with room to spare.

use turnpike_ebpf_loader::abi::names;

use crate::sandbox::Sandbox;

/// The verifier gives up at a million instructions; other kernels count differently.
const BUDGET: u32 = 100_000;

#[test]
fn every_program_passes_the_verifier_within_a_tenth_of_its_budget() {
    let sandbox = Sandbox::enter();
    let mut programs = sandbox.open();
    for name in names::PROGRAMS {
        let program = programs.ebpf_mut().program_mut(name).expect(name);
        let info = program.info().expect("information");
        let instructions = info.verified_instruction_count().expect("a count");
        println!("{name}: {instructions} instructions verified");
        assert!(instructions < BUDGET, "{name} took the verifier {instructions} instructions");
    }
}

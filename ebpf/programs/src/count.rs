// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! Per-CPU counters.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use turnpike_ebpf_abi::Counter;

#[map(name = "TPK_COUNTERS")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Adds one.
#[inline(always)]
pub fn add(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a valid slot of this CPU; programs are not preempted by themselves on one CPU.
        unsafe { *value = (*value).wrapping_add(1) };
    }
}

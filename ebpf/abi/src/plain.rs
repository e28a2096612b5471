// SPDX-License-Identifier: MIT OR GPL-2.0-only

//! The promise that a type may be copied to and from the kernel as bytes.

#![expect(
    unsafe_code,
    reason = "an unsafe marker trait: each implementation states why its type has no padding"
)]

/// A map key or value.
///
/// # Safety
///
/// The type is `#[repr(C)]` (or a primitive integer or an array of such), every bit pattern is a valid value, and it
/// has no padding: the sum of its fields' sizes is its size.
pub unsafe trait Plain: Copy + 'static {}

/// Declares types plain, with their exact sizes in bytes.
macro_rules! plain {
    ($($ty:ty = $size:literal),+ $(,)?) => {
        $(
            const _: () = assert!(size_of::<$ty>() == $size, "layout changed: raise ABI_VERSION");
            // SAFETY: `repr(C)`, integers only; the sum of the fields is the asserted size, hence no padding.
            unsafe impl Plain for $ty {}
        )+
    };
}

plain! {
    u8 = 1,
    u32 = 4,
    u64 = 8,
    crate::addr::Addr = 16,
    crate::addr::LpmKey = 20,
    crate::addr::ExemptKey = 24,
    crate::bypass::LbSource = 16,
    crate::bypass::PortKey = 8,
    crate::bypass::PodEntry = 24,
    crate::bypass::Uplink = 8,
    crate::bypass::Veth = 52,
    crate::bypass::FlowKey = 36,
    crate::bypass::AdmitKey = 20,
    crate::mark::MarkConfig = 64,
    crate::mark::MarkState = 80,
    crate::mark::FlowTable = 1096,
    crate::toa::ToaConfig = 8,
    crate::toa::ToaSock = 64,
    crate::toa::ToaTally = 48,
    crate::toa::ToaEvent = 32,
    crate::uoa::UoaKey = 32,
    crate::uoa::UoaPeer = 32,
    crate::lb::Tally = 16,
    crate::lb::LbStats = 512,
}

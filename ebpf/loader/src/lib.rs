//! Loads, attaches and pins the eBPF programs, and gives typed access to their maps.
//!
//! Owner: `ebpf/`. Synchronous: every call is a handful of system calls. Knows neither pods nor Kubernetes: callers
//! say which interface and which addresses.
//!
//! How to use it:
//! 1. [`Programs::open`] loads the programs and opens the maps that are pinned under a bpffs folder, or makes them.
//!    Nothing that is attached changes yet.
//! 2. Fill [`Programs::maps`]: what an earlier process left there is still there ([`Table::reconcile`] writes the
//!    difference only).
//! 3. [`Programs::attach`] and [`Programs::attach_toa`]: where an earlier process attached, the running link gets the
//!    new program in one atomic step; no packet passes without a program.
//!
//! Everything stays in force when the process ends. [`Programs::detach`] and [`remove_all`] undo it.
//!
//! Left out: qdiscs and classes (the caller's), the content of the maps (the caller's desired state).

mod attach;
mod error;
mod maps;
mod object;
mod percpu;
mod pins;
mod probe;
mod programs;
mod sys;
mod table;
mod trial;

pub use attach::{AttachMode, Attachment, CLSACT_PRIORITY, Hook, TOA_PROGRAMS, UOA_PROGRAMS};
pub use error::Error;
pub use maps::{CounterValues, Maps};
pub use object::is_embedded;
pub use percpu::Tallies;
pub use pins::remove_all;
pub use probe::{Feature, probe};
pub use programs::{OpenOptions, Programs};
pub use table::{Changes, Table};
pub use trial::Verdict;
pub use turnpike_ebpf_abi as abi;

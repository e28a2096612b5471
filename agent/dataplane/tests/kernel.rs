//! The data plane against the real kernel, each test in namespaces of its own. Needs root.

#[cfg(test)]
#[path = "kernel/balancer_paths.rs"]
mod balancer_paths;
#[cfg(test)]
#[path = "kernel/cut_off.rs"]
mod cut_off;
#[cfg(test)]
#[path = "kernel/lifecycle.rs"]
mod lifecycle;
#[cfg(test)]
#[path = "kernel/limits.rs"]
mod limits;
#[cfg(test)]
#[path = "kernel/load_balancer.rs"]
mod load_balancer;
#[cfg(test)]
#[path = "kernel/sandbox.rs"]
mod sandbox;
#[cfg(test)]
#[path = "kernel/sysctls.rs"]
mod sysctls;
#[cfg(test)]
#[path = "kernel/transitions.rs"]
mod transitions;
#[cfg(test)]
#[path = "kernel/tree.rs"]
mod tree;
#[cfg(test)]
#[path = "kernel/watched.rs"]
mod watched;

//! turnpike-agent asked over its socket, as turnpike-cni asks it, without a container runtime: pods are bare network
//! namespaces, so that many can come and go, and things can be broken on purpose.
//!
//! ```text
//!   outside 10.1.1.1 ─── eth0 10.1.1.11 n1 (turnpike-agent) ── tpk… ── network namespaces p0, p1, …
//! ```

#![cfg(test)]

mod announce;
mod bench;
mod books;
mod chaos;
mod churn;
mod clocks;
mod diagnosis;
mod fixed;
mod gates;
mod grants;
mod upgrade;
mod verbs;
mod watch;

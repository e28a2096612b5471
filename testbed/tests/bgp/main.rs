//! turnpike-bgpd in the lab, with BIRD and FRR.

#![cfg(test)]

mod centre;
mod corpus;
mod daemon;
mod idcs;
mod limits;
mod metrics;
mod monitoring;
mod nodes;
mod operate;
mod ranges;
mod restart;
mod sessions;
mod stream;
mod talker;
mod wild;
mod wiretap;

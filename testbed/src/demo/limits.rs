//! Chapter 5: bandwidth annotations hold in both directions, for one flow and for eight, on one node and across.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::pods::Pods;
use super::story::Story;
use crate::Pod;

/// What the annotation asks for, in Mbit/s of Ethernet frames.
const LIMIT: f64 = 100.0;
/// The share of it that TCP's payload can have: 1448 bytes of 1514 (timestamps on, no FCS).
const PAYLOAD: f64 = 1448.0 / 1514.0;
/// Of the possible.
const LEAST_SHARE: f64 = 0.97;
const ATTEMPTS: usize = 3;

pub(super) fn chapter(story: &mut Story, pods: &Pods) {
    story.chapter("Bandwidth annotations of 100M hold, and nothing is lost for it");
    story.note(&format!(
        "100 Mbit/s of frames carry {:.1} Mbit/s of TCP payload at the most",
        LIMIT * PAYLOAD
    ));
    for flows in [1, 8] {
        for (way, from, to) in [
            ("to the pod, from the other node", &pods.free2, &pods.limited1),
            ("from the pod, to the other node", &pods.limited1, &pods.free2),
            ("to the pod, from its own node", &pods.free1, &pods.limited1),
            ("from the pod, to its own node", &pods.limited1, &pods.free1),
        ] {
            let claim = format!("{flows} cubic flow{} {way}", if flows == 1 { "" } else { "s" });
            story.prove(&claim, || {
                let mut seen = transfer(from, to.ipv4()?, flows)?;
                // What the machine's other work takes away is no fault of the limiter: measured again, never averaged.
                for _ in 1..ATTEMPTS {
                    if seen.share() >= LEAST_SHARE {
                        break;
                    }
                    seen = transfer(from, to.ipv4()?, flows)?;
                }
                let share = seen.share();
                let text = format!(
                    "{:.1} Mbit/s = {:.1} % of the possible, {} retransmits of {} segments, {:.1} Mbit/s into the socket in the first second",
                    seen.megabits,
                    share * 100.0,
                    seen.retransmits,
                    seen.segments,
                    seen.first_second
                );
                Ok((text, (LEAST_SHARE..=1.05).contains(&share)))
            });
        }
    }
}

struct Transfer {
    /// Received payload, Mbit/s.
    megabits: f64,
    retransmits: u64,
    segments: u64,
    /// Payload that the sender wrote in the first second, Mbit/s: what the socket's buffer took included.
    first_second: f64,
}

impl Transfer {
    fn share(&self) -> f64 {
        self.megabits / (LIMIT * PAYLOAD)
    }
}

fn transfer(from: &Pod, to: IpAddr, flows: u32) -> Result<Transfer> {
    let (to, flows) = (to.to_string(), flows.to_string());
    let test = ["iperf3", "-J", "-C", "cubic", "-t", "5", "-P", &flows, "-c", &to];
    let report = from.exec_unchecked(&test, Duration::from_secs(60))?.stdout;
    let report: Value = serde_json::from_str(&report).context("iperf3's report")?;
    if let Some(error) = report.get("error") {
        bail!("iperf3: {error}");
    }
    let number = |path: &str| {
        report.pointer(path).and_then(Value::as_f64).with_context(|| format!("iperf3: no {path}"))
    };
    let bytes = number("/end/sum_sent/bytes")?;
    Ok(Transfer {
        megabits: number("/end/sum_received/bits_per_second")? / 1e6,
        retransmits: number("/end/sum_sent/retransmits")? as u64,
        segments: (bytes / 1448.0) as u64,
        first_second: number("/intervals/0/sum/bits_per_second")? / 1e6,
    })
}

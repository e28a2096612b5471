//! The host and the agent's own upkeep: store, spool, and packets that the kernel lost before anybody saw them (R34).

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::datapath::{Values, counter, gauge};
use crate::agent::Agent;
use crate::clock;

/// Read for each scrape.
#[derive(Debug)]
pub(super) struct Host(pub(super) Arc<Agent>);

impl Collector for Host {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let plain = |value| vec![(Vec::new(), value)];
        let failing = self.0.health().store_failing_since;
        let failing = failing.map_or(0, |since| clock::now().saturating_sub(since).as_secs().max(1));
        let help = "Since when the store cannot be written; 0 when it can";
        gauge(&mut encoder, "turnpike_store_failing_seconds", help, &plain(failing))?;
        let spooled =
            std::fs::read_dir(self.0.config.spool()).map_or(0, |entries| entries.flatten().count() as u64);
        gauge(&mut encoder, "turnpike_spooled_dels", "DELs that wait to be carried out", &plain(spooled))?;
        let version = vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1)];
        gauge(&mut encoder, "turnpike_agent_build", "The agent's release", &version)?;
        let softnet = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
        let (dropped, squeezed) = softnet_columns(&softnet);
        let help = "Packets dropped because a CPU's backlog was full, since boot";
        counter(&mut encoder, "turnpike_softnet_dropped", help, &dropped)?;
        let help = "Times that a CPU had more packets to receive than it was given time for, since boot";
        counter(&mut encoder, "turnpike_softnet_squeezed", help, &squeezed)
    }
}

/// Drops and squeezes by CPU: the second and third hexadecimal column of each line (net/core/net-procfs.c).
fn softnet_columns(text: &str) -> (Values, Values) {
    let (mut dropped, mut squeezed) = (Values::new(), Values::new());
    for (cpu, line) in text.lines().enumerate() {
        let mut columns = line.split_whitespace().skip(1).map(|word| u64::from_str_radix(word, 16));
        let labels = || vec![("cpu", cpu.to_string())];
        if let (Some(Ok(drops)), Some(Ok(squeezes))) = (columns.next(), columns.next()) {
            dropped.push((labels(), drops));
            squeezed.push((labels(), squeezes));
        }
    }
    (dropped, squeezed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_and_squeezes_are_hexadecimal_columns() {
        let (dropped, squeezed) =
            softnet_columns("0000ffff 00000010 00000002 00\n000000aa 00000000 00000000 00\n");
        let values = |values: &Values| values.iter().map(|(_, value)| *value).collect::<Vec<_>>();
        assert_eq!((values(&dropped), values(&squeezed)), (vec![16, 0], vec![2, 0]));
    }
}

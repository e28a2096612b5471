//! The reports behind `turnpike lb flows`, `turnpike toa check` and `turnpike conntrack`.

mod conntrack;
mod toa;
mod words;

use turnpike_agent_api::{Count, ErrorReply, FellBack, LbDirection, LbReport, LbSourceReport, code};
use turnpike_dataplane::{HooksInForce, LbPath, LbTraffic, Tally};
use turnpike_model::desired::LbSource;

use crate::agent::Agent;
use crate::plane::{Owner as _, PlaneGone};

pub(crate) use conntrack::report as conntrack;
pub(crate) use toa::{check as toa_check, find as find_pod};

/// A way of load-balancer traffic by its name, in words.
pub(crate) fn way_words(name: Option<&str>) -> &'static str {
    let found = LbPath::ALL.into_iter().find(|(_, known)| Some(*known) == name);
    found.map_or("it does not match", |(path, _)| words::path(path))
}

/// Load-balancer traffic by source, direction and reason.
pub(crate) fn flows(agent: &Agent) -> Result<LbReport, ErrorReply> {
    let desired = agent.desired();
    let asked = agent.plane()?.call(|plane| (plane.lb_traffic(), plane.hooks_in_force()));
    let (traffic, hooks) = asked.map_err(ending)?;
    let mut report = LbReport::default();
    let traffic = traffic.unwrap_or_else(|error| {
        report.error = Some(error);
        Vec::new()
    });
    report.uplinks = uplinks(&hooks.unwrap_or_default());
    for (name, source) in &desired.lb_sources {
        let draining = agent.drain.remaining(name);
        let name = if draining.is_some() { name.split(" (").next().unwrap_or(name) } else { name };
        for cidr in &source.cidrs {
            let own = traffic.iter().find(|one| one.prefix == *cidr);
            report.sources.push(source_report(name, source, cidr.to_string(), own, draining));
        }
    }
    Ok(report)
}

fn source_report(
    name: &str,
    source: &LbSource,
    cidr: String,
    traffic: Option<&LbTraffic>,
    draining_s: Option<u64>,
) -> LbSourceReport {
    let stats = traffic.map(|traffic| traffic.stats).unwrap_or_default();
    LbSourceReport {
        name: name.to_owned(),
        cidr,
        bypass: source.bypass,
        toa: source.toa.map(|format| format!("{format:?}")),
        draining_s,
        to_pods: direction(&stats.to_pod),
        from_pods: direction(&stats.from_pod),
    }
}

fn direction(slots: &[Tally]) -> LbDirection {
    let mut direction = LbDirection::default();
    for ((path, reason), tally) in LbPath::ALL.into_iter().zip(slots) {
        let count = Count { packets: tally.packets, bytes: tally.bytes };
        if path.is_bypass() {
            direction.bypassed.packets = direction.bypassed.packets.saturating_add(count.packets);
            direction.bypassed.bytes = direction.bypassed.bytes.saturating_add(count.bytes);
            if path == LbPath::BypassedQueued {
                direction.queued = count;
            }
        } else if count.packets > 0 {
            let words = words::path(path).to_owned();
            direction.fell_back.push(FellBack { reason: reason.to_owned(), words, count });
        }
    }
    direction
}

fn uplinks(hooks: &HooksInForce) -> Vec<String> {
    hooks
        .uplinks
        .iter()
        .map(|(index, mode)| match name_of(*index) {
            Some(name) => format!("{name} ({mode})"),
            None => format!("interface {index} ({mode})"),
        })
        .collect()
}

fn name_of(index: u32) -> Option<String> {
    let links = std::fs::read_dir("/sys/class/net").ok()?;
    let mut names = links.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.find(|name| {
        let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).unwrap_or_default();
        text.trim().parse() == Ok(index)
    })
}

fn ending(_: PlaneGone) -> ErrorReply {
    ErrorReply::new(code::TRY_AGAIN, "turnpike-agent is ending, try again later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fell_back_is_listed_by_reason_and_what_bypassed_is_summed() {
        let mut slots = [Tally::default(); 16];
        let put = |slots: &mut [Tally; 16], path: LbPath, packets| {
            slots[path as usize] = Tally { packets, bytes: packets * 100 };
        };
        put(&mut slots, LbPath::Bypassed, 5);
        put(&mut slots, LbPath::BypassedQueued, 2);
        put(&mut slots, LbPath::Fragment, 1);
        let direction = direction(&slots);
        assert_eq!(direction.bypassed, Count { packets: 7, bytes: 700 });
        assert_eq!(direction.queued.packets, 2);
        assert_eq!(direction.fell_back.len(), 1);
        assert_eq!(direction.fell_back[0].reason, "fragment");
    }
}

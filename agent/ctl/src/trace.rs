//! `turnpike trace`: what would become of a packet, station by station, and which object decides.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use turnpike_agent_api::{Reply, Request, TraceReport, TraceRequest, TraceWay};
use turnpike_bgpd_api::{Client, Select};

use crate::Global;
use crate::agent::show;
use crate::lb::{ask, other_release};

/// Longest wait for bgpd.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Exit code for a packet that something refuses.
const REFUSED: u8 = 2;
/// Exit code for a packet that no route takes.
const UNREACHABLE: u8 = 3;

/// The packet.
#[derive(Debug, Clone, Args)]
pub(crate) struct TraceArgs {
    /// `namespace/name`, a name, an address, or the beginning of a container ID.
    pod: String,
    /// Address of the other end.
    peer: IpAddr,
    /// What the packet carries.
    #[arg(long, value_enum, default_value_t = Proto::Tcp)]
    proto: Proto,
    /// The server's port.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// The client's port.
    #[arg(long, default_value_t = 40000)]
    client_port: u16,
    /// The peer begins: the way to the pod, then the way of the pod's answer.
    #[arg(short, long)]
    reverse: bool,
    /// As if the pod sent from this address instead of its own.
    #[arg(long)]
    source: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Proto {
    Tcp,
    Udp,
    Icmp,
}

/// Carries out `turnpike trace`; 0: it arrives or leaves, 2: refused, 3: no route.
pub(crate) fn run(global: &Global, args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let protocol = match args.proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Icmp => "icmp",
    };
    let request = TraceRequest {
        pod: args.pod.clone(),
        peer: args.peer,
        protocol: protocol.to_owned(),
        port: args.port,
        client_port: args.client_port,
        reverse: args.reverse,
        source: args.source,
    };
    let Reply::Trace(mut report) = ask(global, &Request::Trace(request))? else {
        return Err(other_release());
    };
    if let Some(teachers) = teachers(global, args.peer) {
        let hops = report.ways.iter_mut().flat_map(|way| &mut way.hops);
        for hop in hops.filter(|hop| hop.text.contains("turnpike-bgpd")) {
            hop.text.push_str(&teachers);
        }
    }
    show(global.output, &*report, render)?;
    Ok(exit(&report))
}

fn exit(report: &TraceReport) -> ExitCode {
    let codes = report.ways.iter().map(|way| match way.verdict.as_str() {
        "delivered" | "leaves" | "bypassed" => 0,
        "refused" => REFUSED,
        _ => UNREACHABLE,
    });
    ExitCode::from(codes.max().unwrap_or(UNREACHABLE))
}

/// Who taught bgpd the route to an address; `None` where bgpd does not say.
fn teachers(global: &Global, address: IpAddr) -> Option<String> {
    let mut client = Client::connect(&global.bgpd_socket, TIMEOUT).ok()?;
    let decision = client.why(Select::Longest(address)).ok()?;
    let path = decision.paths.first()?;
    let from = path.from?;
    let name = path.from_name.clone().unwrap_or_default();
    Some(format!("; learnt from peer {name} {from}, AS path [{}]", path.as_path))
}

fn render(report: &TraceReport) -> String {
    report.ways.iter().map(way).collect::<Vec<_>>().join("\n")
}

fn way(way: &TraceWay) -> String {
    let mut text = format!("{}\n", way.packet);
    for (number, hop) in way.hops.iter().enumerate() {
        text.push_str(&format!("  {} {}: {}\n", number + 1, hop.at, hop.text));
    }
    text.push_str(&format!("{}, decided by: {}\n", way.verdict.to_uppercase(), way.decided_by));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_agent_api::TraceHop;

    fn one(verdict: &str) -> TraceReport {
        TraceReport {
            pod: "default/web".into(),
            ways: vec![TraceWay {
                packet: "TCP SYN 10.244.1.1:40000 → 10.2.0.10:80".into(),
                hops: vec![TraceHop { at: "routes".into(), text: "route 10.2.0.0/16 via 10.1.1.1".into() }],
                verdict: verdict.into(),
                decided_by: "route 10.2.0.0/16".into(),
            }],
        }
    }

    #[test]
    fn each_station_is_a_line_and_the_last_names_what_decided() {
        assert_eq!(
            render(&one("leaves")),
            "TCP SYN 10.244.1.1:40000 → 10.2.0.10:80\n\
             \x20 1 routes: route 10.2.0.0/16 via 10.1.1.1\n\
             LEAVES, decided by: route 10.2.0.0/16\n"
        );
    }

    #[test]
    fn the_worst_way_is_the_exit_code() {
        let mut report = one("leaves");
        assert_eq!(exit(&report), ExitCode::SUCCESS);
        report.ways.extend(one("refused").ways);
        assert_eq!(exit(&report), ExitCode::from(2));
        report.ways.extend(one("unreachable").ways);
        assert_eq!(exit(&report), ExitCode::from(3));
    }
}

//! `turnpike conntrack`: how full the connection tracking table is, and who fills it.

use std::process::ExitCode;

use turnpike_agent_api::{ConntrackReport, Reply, Request};

use crate::Global;
use crate::lb::{ask, other_release, show};
use crate::table::table;
use crate::toa::pod_name;

/// Events that mean lost connections or wasted work, with what they say.
const TELLING: [(&str, &str); 6] = [
    ("drop", "new connections refused: the table was full"),
    ("early_drop", "entries thrown out early to make room"),
    ("insert_failed", "entries not inserted: clashes of translated connections"),
    ("invalid", "packets that fit no connection"),
    ("clash_resolve", "races resolved without loss"),
    ("chain_too_long", "lookups that met too long a chain"),
];

/// Carries out `turnpike conntrack`.
pub(crate) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    match ask(global, &Request::Conntrack)? {
        Reply::Conntrack(report) => show(global, &*report, usage),
        _ => Err(other_release()),
    }
}

fn usage(report: &ConntrackReport) -> String {
    let mut screen = String::new();
    if let Some(error) = &report.error {
        screen.push_str(&format!("no figures: {error}\n"));
    }
    if report.max == 0 {
        return screen;
    }
    let tenths = report.entries.saturating_mul(1000).checked_div(report.max).unwrap_or_default();
    screen.push_str(&format!(
        "{} of {} entries in use ({}.{} %)\n",
        report.entries,
        report.max,
        tenths / 10,
        tenths % 10
    ));
    let events: Vec<_> = TELLING
        .iter()
        .filter_map(|(name, words)| {
            let count = report.events.get(*name)?;
            Some([(*name).to_owned(), count.to_string(), (*words).to_owned()])
        })
        .collect();
    screen.push_str(&format!("\nsince boot\n{}", table(["EVENT", "COUNT", "MEANS"], &events)));
    let pods: Vec<_> = report
        .pods
        .iter()
        .map(|pod| {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            [pod_name(&pod.pod, &pod.container_id), pod.entries.to_string(), addresses.join(",")]
        })
        .collect();
    if !pods.is_empty() {
        screen.push_str(&format!("\ntop pods\n{}", table(["POD", "ENTRIES", "ADDRESSES"], &pods)));
    }
    if !report.complete {
        screen.push_str(&format!("counted in the first {} entries only\n", report.read));
    }
    screen
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_agent_api::{ConntrackPod, PodInfo};

    #[test]
    fn usage_is_a_share_events_have_meanings_and_the_busiest_pods_are_named() {
        let report = ConntrackReport {
            entries: 1310,
            max: 262_144,
            events: [("drop".to_owned(), 0), ("found".to_owned(), 9)].into(),
            pods: vec![ConntrackPod {
                pod: PodInfo { namespace: Some("web".into()), name: Some("www".into()), uid: None },
                container_id: String::new(),
                addresses: vec!["10.244.1.5".parse().unwrap()],
                entries: 700,
            }],
            read: 1310,
            complete: true,
            error: None,
        };
        assert_eq!(
            usage(&report),
            "1310 of 262144 entries in use (0.4 %)\n\
             \nsince boot\n\
             \x20 EVENT  COUNT  MEANS\n\
             \x20 drop   0      new connections refused: the table was full\n\
             \ntop pods\n\
             \x20 POD      ENTRIES  ADDRESSES\n\
             \x20 web/www  700      10.244.1.5\n"
        );
    }
}

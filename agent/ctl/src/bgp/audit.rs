//! Who changed what.

use std::process::ExitCode;

use anyhow::{Result, bail};
use turnpike_bgpd_api::view::AuditEntry;
use turnpike_bgpd_api::{Client, Reply, Request};

use super::show;
use super::text::date;
use crate::Global;
use crate::table::table;

/// `turnpike bgp audit`.
pub(super) fn run(global: &Global, client: &mut Client, limit: usize) -> Result<ExitCode> {
    let Reply::Audit { entries } = client.request(&Request::Audit { limit })? else {
        bail!("turnpike-bgpd answered something else than was asked");
    };
    show(global.output, &entries, |entries| render(entries))
}

fn render(entries: &[AuditEntry]) -> String {
    if entries.is_empty() {
        return "nobody has changed anything\n".to_owned();
    }
    let rows: Vec<[String; 4]> = entries
        .iter()
        .map(|entry| {
            let who = entry.who.as_ref().map_or_else(|| "turnpike-bgpd".to_owned(), ToString::to_string);
            [date(entry.time), who, entry.what.clone(), entry.detail.clone()]
        })
        .collect();
    table(["When (UTC)", "Who", "What", "Detail"], &rows)
}

#[cfg(test)]
mod tests {
    use turnpike_bgpd_api::view::Caller;

    use super::*;

    #[test]
    fn a_change_is_a_line_with_its_author() {
        let caller =
            Caller { uid: 0, pid: Some(4711), login_uid: Some(1000), program: "turnpike".to_owned() };
        let entry = AuditEntry {
            time: 1_795_651_200,
            who: Some(caller),
            what: "announce".to_owned(),
            detail: "10.9.0.1/32".to_owned(),
            before: serde_json::Value::Null,
            after: serde_json::Value::Null,
        };
        let text = render(&[entry]);
        assert_eq!(
            text,
            "  When (UTC)           Who                                What      Detail\n  \
               2026-11-26 00:00:00  uid 1000 as uid 0 (turnpike 4711)  announce  10.9.0.1/32\n"
        );
    }
}

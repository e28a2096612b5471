//! What happens, as it happens.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use turnpike_bgpd_api::view::EventView;
use turnpike_bgpd_api::{Client, Reply, Request};

use super::text::date;
use crate::{Global, Output};

/// Writes a line for each event (a JSON object with `-o json`) until interrupted or bgpd ends.
pub(super) fn run(global: &Global, client: &mut Client) -> Result<ExitCode> {
    let Reply::Done { .. } = client.request(&Request::Watch)? else {
        bail!("turnpike-bgpd answered something else than was asked");
    };
    loop {
        let event = client.next_event().context("watching")?;
        let line = match global.output {
            Output::Text => line(&event),
            Output::Json => serde_json::to_string(&event)? + "\n",
        };
        let mut out = io::stdout().lock();
        match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
            // The reader of a pipe has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            other => other.context("cannot write")?,
        }
    }
}

fn line(event: &EventView) -> String {
    format!("{} {}\n", date(event.time), event.text)
}

#[cfg(test)]
mod tests {
    use turnpike_bgpd_api::view::EventKind;

    use super::*;

    #[test]
    fn an_event_is_a_dated_line_and_one_flat_object() {
        let event = EventView {
            time: 0,
            text: "10.9.0.1/32: no path".to_owned(),
            kind: EventKind::Best { prefix: "10.9.0.1/32".parse().unwrap(), path: None },
        };
        assert_eq!(line(&event), "1970-01-01 00:00:00 10.9.0.1/32: no path\n");
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"time":0,"text":"10.9.0.1/32: no path","event":"best","prefix":"10.9.0.1/32","path":null}"#
        );
    }
}

//! Files that are compared, applied, confirmed and rolled back.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use turnpike_bgpd_api::config::{Problems, load};
use turnpike_bgpd_api::view::{DiffView, Effect, PendingView};
use turnpike_bgpd_api::{Client, Reply, Request};

use super::{diff, show};
use crate::{Global, Output};

/// What is in force now.
#[derive(Debug, Serialize)]
struct Applied {
    pending: Option<PendingView>,
    notes: Vec<String>,
}

/// `90`, `60s`, `5m` or `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let scale = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("`{text}` is no time; write 60s, 5m or 1h")),
    };
    let seconds = number.parse::<u32>().ok().and_then(|number| number.checked_mul(scale));
    let seconds = seconds.filter(|seconds| *seconds > 0);
    seconds
        .map(|seconds| Duration::from_secs(seconds.into()))
        .ok_or_else(|| format!("`{text}` is no time; write 60s, 5m or 1h"))
}

/// Reads a file, and says at once what is wrong with it.
fn read(file: &Path) -> Result<String> {
    match load(file) {
        Ok(_) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())),
        Err(mistakes @ Problems::Mistakes { .. }) => bail!("nothing is changed\n{mistakes}"),
        Err(unreadable) => Err(unreadable.into()),
    }
}

fn ask(client: &mut Client, text: Option<String>, limit: usize) -> Result<DiffView> {
    match client.request(&Request::Diff { text, limit })? {
        Reply::Diff(view) => Ok(*view),
        _ => bail!("turnpike-bgpd answered something else than was asked"),
    }
}

/// `turnpike bgp diff`.
pub(super) fn diff(global: &Global, client: &mut Client, file: &Path, limit: usize) -> Result<ExitCode> {
    let view = ask(client, Some(read(file)?), limit)?;
    show(global.output, &view, diff::render)
}

/// `turnpike bgp apply`.
pub(super) fn apply(
    global: &Global,
    client: &mut Client,
    file: &Path,
    confirm: Option<Duration>,
) -> Result<ExitCode> {
    let text = read(file)?;
    let confirm = confirm.map(|time| u32::try_from(time.as_secs())).transpose()?;
    finish(global, client, &Request::Apply { text, confirm })
}

/// `turnpike bgp confirm` and `rollback`, and the end of `apply`.
pub(super) fn finish(global: &Global, client: &mut Client, request: &Request) -> Result<ExitCode> {
    let Reply::Applied { pending, notes } = client.request(request)? else {
        bail!("turnpike-bgpd answered something else than was asked");
    };
    show(global.output, &Applied { pending, notes }, applied)
}

fn applied(applied: &Applied) -> String {
    let mut text: String = applied.notes.iter().map(|note| format!("{note}\n")).collect();
    match &applied.pending {
        Some(pending) => text.push_str(&format!(
            "in force; rolled back in {} s unless `turnpike bgp confirm` comes\n",
            pending.seconds
        )),
        None if applied.notes.is_empty() => text.push_str("in force\n"),
        None => {}
    }
    text
}

/// `turnpike bgp reload`: first what it does to sessions, then the reload.
pub(super) fn reload(global: &Global, client: &mut Client, dry_run: bool) -> Result<ExitCode> {
    let view = ask(client, None, 0)?;
    if global.output == Output::Text {
        print!("{}", warning(&view));
    }
    if dry_run {
        return if global.output == Output::Json {
            show(global.output, &view.sessions, |_| String::new())
        } else {
            Ok(ExitCode::SUCCESS)
        };
    }
    let Reply::Pushed { refused } = client.request(&Request::Reload)? else {
        bail!("turnpike-bgpd answered something else than was asked");
    };
    show(global.output, &refused, |refused| {
        let mut text: String = refused.iter().map(|piece| format!("not taken: {piece}\n")).collect();
        text.push_str("reloaded\n");
        text
    })
}

fn warning(view: &DiffView) -> String {
    let ends = |effect: &Effect| matches!(effect, Effect::Stop | Effect::Reset | Effect::ShutDown);
    let ending: Vec<String> = view
        .sessions
        .iter()
        .filter(|session| ends(&session.effect))
        .map(|session| format!("  {}\n", diff::session(session)))
        .collect();
    match ending.is_empty() {
        true => "no session ends\n".to_owned(),
        false => format!("sessions that end:\n{}", ending.concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let seconds = |text| duration(text).map(|time| time.as_secs()).ok();
        assert_eq!(["60s", "5m", "1h", "90"].map(seconds), [Some(60), Some(300), Some(3600), Some(90)]);
        assert_eq!(["", "s", "0s", "1d", "-5s", "99999999h"].map(seconds), [None; 6]);
    }
}

//! The corpus of malformed messages against the live daemon; the topology is in `bgp/wild.rs`.

use anyhow::{Context as _, Result, bail, ensure};
use turnpike_bgp_hostile::corpus::{Case, Expect, State, cases};
use turnpike_bgp_wire::Prefix;
use turnpike_bgpd_api::{RibQuery, Select, Table};
use turnpike_testbed::{Lab, poll_result};

use crate::daemon::DEADLINE;
use crate::talker::Talker;
use crate::wild::{Wild, address};

/// Stands for "everything before has been worked on".
fn sentinel(number: usize) -> Prefix {
    format!("10.{}.{}.0/24", 100 + number / 250, number % 250).parse().unwrap()
}

fn name(number: usize) -> String {
    format!("case{number}")
}

fn config(cases: &[Case]) -> String {
    let mut text = String::new();
    for (number, case) in cases.iter().enumerate() {
        text.push_str(&format!(
            "[[peer]]\nname = \"{}\"\naddress = \"{}\"\nremote_as = {}\npassive = true\nimport = \"accept-all\"\n\
             export = \"accept-all\"\nextended_next_hop = {}\n{}",
            name(number),
            address(number),
            case.session.remote_as(),
            case.session.extended_next_hop,
            if case.session.add_path { "add_path = { receive = true, send = \"all\" }\n" } else { "" },
        ));
    }
    text
}

fn holds(wild: &Wild, number: usize, prefix: Prefix) -> Result<bool> {
    let query =
        RibQuery { table: Table::In(name(number)), select: Select::Exact(prefix), after: None, limit: 10 };
    Ok(!wild.daemon.client()?.rib(query)?.is_empty())
}

fn wait_held(wild: &Wild, number: usize, prefix: Prefix) -> Result<()> {
    poll_result(DEADLINE, &format!("{prefix} in the daemon"), || {
        ensure!(holds(wild, number, prefix)?, "{:?}", wild.daemon.peer(&name(number))?);
        Ok(())
    })
}

fn play(wild: &Wild, number: usize, case: &Case) -> Result<()> {
    let mut talker = wild.talker(number, case.session)?;
    match case.state {
        State::OpenSent => {}
        State::OpenConfirm => talker.send_open(90)?,
        State::Established => talker.establish(90)?,
    }
    if case.expect == Expect::Withdraw {
        let prefix = case.prefix.context("a withdrawal of nothing")?;
        talker.announce(&[prefix], 1)?;
        wait_held(wild, number, prefix)?;
    }
    for message in &case.messages {
        talker.send_whatever_comes(message);
    }
    match &case.expect {
        Expect::Reset { code, subcode, data } => {
            let words = talker.last_words()?.context("the connection ended without a NOTIFICATION")?;
            ensure!(words.cause.codes() == (*code, *subcode), "the NOTIFICATION says {words}");
            let right = data.as_ref().is_none_or(|data| words.data == data[..]);
            ensure!(right, "the NOTIFICATION's data are {:02x?}", words.data);
        }
        Expect::Close => {
            if let Some(words) = talker.last_words()? {
                bail!("a NOTIFICATION was answered with {words}");
            }
        }
        Expect::Ok | Expect::Discard | Expect::Withdraw => survives(wild, number, case, &mut talker)?,
    }
    Ok(())
}

fn survives(wild: &Wild, number: usize, case: &Case, talker: &mut Talker) -> Result<()> {
    if case.state == State::OpenSent {
        talker.send_keepalive()?;
        return wild.daemon.wait_established(&name(number));
    }
    talker.announce(&[sentinel(number)], 1)?;
    wait_held(wild, number, sentinel(number))?;
    if let Some(prefix) = case.prefix {
        let held = holds(wild, number, prefix)?;
        ensure!(held == (case.expect != Expect::Withdraw), "{prefix} is held: {held}");
    }
    let peer = wild.daemon.peer(&name(number))?;
    ensure!(peer.session.is_some() && peer.flaps == 0, "{peer:?}");
    let mistakes = u64::from(case.expect != Expect::Ok);
    ensure!(peer.malformed_in == mistakes, "{} malformed UPDATEs counted", peer.malformed_in);
    Ok(())
}

/// Verifies: every case of the corpus (RFC 4271 §6, RFC 7606 and later) ends as its clause says on a live session: the
/// NOTIFICATION with its codes and data, the prefixes withdrawn, the attribute passed over, or nothing at all. BIRD's
/// session and the watcher's stand throughout, and none of BIRD's prefixes is ever withdrawn.
#[test]
fn malformed_messages_cost_what_their_rfc_says_and_nobody_else_anything() {
    let cases: Vec<Case> = cases().unwrap();
    let lab = Lab::new("bgp-corpus").unwrap();
    let wild = Wild::build(&lab, &config(&cases)).unwrap();
    let mut wrong = Vec::new();
    let mut played = 0;
    for (number, case) in cases.iter().enumerate() {
        if let Err(error) = play(&wild, number, case) {
            wrong.push(format!("{}: {} ({}): {error:#}", case.file, case.name, case.clause));
        }
        wild.check_healthy().unwrap_or_else(|error| panic!("after `{}`: {error:#}", case.name));
        played += 1;
    }
    assert!(played > 200, "only {played} cases were played");
    assert!(wrong.is_empty(), "{} of {played}:\n{}", wrong.len(), wrong.join("\n"));
    let Wild { watcher, daemon, .. } = wild;
    watcher.finish().unwrap();
    drop(daemon);
    lab.finish().unwrap();
}

//! The corpus against the codec: each case ends as its clause says.

#![cfg(test)]

use turnpike_bgp_hostile::corpus::{Case, Expect, State, cases};
use turnpike_bgp_wire::{Framer, MessageType, Nlri, Notification, Open, RouteRefresh, Severity, Update};

/// What the codec makes of the messages of a case.
#[derive(Debug)]
enum Outcome {
    Refused(Notification),
    Update(Update),
    /// Nothing to object to; the session's own state machine decides about the rest.
    Fine(MessageType),
}

fn outcome(case: &Case) -> Outcome {
    let mut framer = Framer::new();
    if case.session.extended_message {
        framer.allow_extended();
    }
    let mut last = None;
    for message in &case.messages {
        framer.push(message);
        let frame = match framer.next_frame() {
            Err(notification) => return Outcome::Refused(notification),
            Ok(frame) => frame.unwrap_or_else(|| panic!("{}: not a whole message", case.name)),
        };
        let result = match frame.kind {
            MessageType::Open => Open::decode(frame.body).map(|_| Outcome::Fine(frame.kind)),
            MessageType::Update => {
                Update::decode(frame.body, &case.session.decode_context()).map(Outcome::Update)
            }
            MessageType::RouteRefresh => RouteRefresh::decode(frame.body).map(|_| Outcome::Fine(frame.kind)),
            MessageType::Notification => {
                let notification = Notification::decode(frame.body).expect("two octets");
                assert!(!notification.to_string().chars().any(char::is_control), "{}", case.name);
                Ok(Outcome::Fine(frame.kind))
            }
            MessageType::Keepalive => Ok(Outcome::Fine(frame.kind)),
        };
        match result {
            Ok(outcome) => last = Some(outcome),
            Err(notification) => return Outcome::Refused(notification),
        }
    }
    last.expect("a message")
}

/// Mistakes that need the configuration or the state machine: the codec alone cannot see them.
fn is_the_sessions_affair(case: &Case) -> bool {
    match case.expect {
        Expect::Reset { code: 5, .. } | Expect::Close => true,
        Expect::Reset { code: 2, subcode, .. } => matches!(subcode, 2 | 3 | 7),
        _ => false,
    }
}

fn check(case: &Case) -> Result<(), String> {
    let outcome = outcome(case);
    let wrong = || Err(format!("{}: {} ({}): {outcome:?}", case.file, case.name, case.clause));
    let worst = |update: &Update| update.problems.iter().map(|problem| problem.severity).max();
    let right = match (&case.expect, &outcome) {
        (Expect::Reset { code, subcode, data }, Outcome::Refused(notification)) => {
            notification.cause.codes() == (*code, *subcode)
                && data.as_ref().is_none_or(|data| notification.data == data[..])
        }
        (_, Outcome::Fine(kind)) => {
            case.state != State::Established
                || is_the_sessions_affair(case)
                || case.expect == Expect::Ok && *kind == MessageType::RouteRefresh
        }
        (expect, Outcome::Update(update)) => {
            let severity = match expect {
                Expect::Ok => None,
                Expect::Discard => Some(Severity::Discard),
                Expect::Withdraw => Some(Severity::Withdraw),
                _ if is_the_sessions_affair(case) => return Ok(()),
                _ => return wrong(),
            };
            let announced = case.prefix.is_none_or(|prefix| update.announced().any(|other| other == prefix));
            let withdrawn = case.prefix.is_some_and(|prefix| update.unreach.contains(&Nlri::new(prefix)));
            worst(update) == severity
                && match severity {
                    Some(Severity::Withdraw) => update.reach.is_empty() && withdrawn,
                    _ => announced,
                }
        }
        _ => false,
    };
    if right { Ok(()) } else { wrong() }
}

#[test]
fn every_case_ends_as_its_clause_says() {
    let cases = cases().unwrap();
    assert!(cases.len() > 200, "only {} cases", cases.len());
    let wrong: Vec<String> = cases.iter().filter_map(|case| check(case).err()).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn names_are_unique_and_clauses_are_cited() {
    let cases = cases().unwrap();
    let mut names: Vec<(&str, &str)> = cases.iter().map(|case| (case.file, case.name.as_str())).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let vague: Vec<_> = cases.iter().filter(|case| !case.clause.starts_with("RFC ")).collect();
    assert!(vague.is_empty(), "{vague:?}");
}

//! Reading a file of the corpus.

use turnpike_bgp_wire::Prefix;

use super::{Case, Expect, MACROS, Session, State};

/// A mistake in the corpus itself.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}.txt:{line}: {what}")]
pub struct CorpusError {
    /// The file's name.
    pub file: &'static str,
    /// The line, from one.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// Octets under construction, with the length fields that are still open.
#[derive(Default)]
struct Message {
    octets: Vec<u8>,
    /// Where each open length field stands, and how many octets it has.
    open: Vec<(usize, usize)>,
    /// The header is ours to finish.
    framed: bool,
}

/// All cases of one file.
pub(super) fn file(file: &'static str, text: &str) -> Result<Vec<Case>, CorpusError> {
    let mut cases: Vec<Case> = Vec::new();
    let mut message: Option<Message> = None;
    for (index, whole) in text.lines().enumerate() {
        let error = |what: String| CorpusError { file, line: index + 1, what };
        let line = whole.split('#').next().unwrap_or_default().trim_end();
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        if word.is_empty() {
            continue;
        }
        if line.starts_with(' ') {
            let message = message.as_mut().ok_or_else(|| error("octets outside a message".into()))?;
            message.take(line).map_err(error)?;
            continue;
        }
        finish(&mut message, cases.last_mut()).map_err(error)?;
        if word == "case" {
            cases.push(empty(file, rest));
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| error("nothing may stand before the first case".into()))?;
        match Message::begin(word) {
            Some(begun) => message = Some(begun),
            None => keyword(case, word, rest.trim()).map_err(error)?,
        }
    }
    let error = |what| CorpusError { file, line: text.lines().count(), what };
    finish(&mut message, cases.last_mut()).map_err(error)?;
    match cases.iter().find(|case| case.messages.is_empty() || case.clause.is_empty()) {
        Some(case) => Err(error(format!("`{}` lacks a message or a clause", case.name))),
        None => Ok(cases),
    }
}

fn empty(file: &'static str, name: &str) -> Case {
    Case {
        file,
        name: name.trim().to_owned(),
        clause: String::new(),
        expect: Expect::Ok,
        session: Session::default(),
        state: State::default(),
        prefix: "203.0.113.0/24".parse().ok(),
        messages: Vec::new(),
    }
}

fn keyword(case: &mut Case, word: &str, value: &str) -> Result<(), String> {
    match word {
        "clause" => case.clause = value.to_owned(),
        "expect" => case.expect = expect(value).ok_or_else(|| format!("`{value}` is no outcome"))?,
        "prefix" if value == "none" => case.prefix = None,
        "prefix" => case.prefix = Some(value.parse::<Prefix>().map_err(|error| error.to_string())?),
        "state" => {
            case.state = match value {
                "opensent" => State::OpenSent,
                "openconfirm" => State::OpenConfirm,
                "established" => State::Established,
                other => return Err(format!("`{other}` is no state")),
            }
        }
        "session" => {
            for property in value.split_whitespace() {
                let session = &mut case.session;
                let field = match property {
                    "internal" => &mut session.internal,
                    "two-octet" => &mut session.two_octet,
                    "extended-message" => &mut session.extended_message,
                    "extended-next-hop" => &mut session.extended_next_hop,
                    "add-path" => &mut session.add_path,
                    "ipv4-only" => &mut session.ipv4_only,
                    other => return Err(format!("`{other}` is no property of a session")),
                };
                *field = true;
            }
        }
        other => return Err(format!("`{other}` is no keyword")),
    }
    Ok(())
}

fn expect(value: &str) -> Option<Expect> {
    let mut words = value.split_whitespace();
    let expect = match words.next()? {
        "ok" => Expect::Ok,
        "discard" => Expect::Discard,
        "withdraw" => Expect::Withdraw,
        "close" => Expect::Close,
        "reset" => {
            let (code, subcode) = words.next()?.split_once('/')?;
            let mut data = None;
            if words.next() == Some("data") {
                let mut message = Message::default();
                words.by_ref().try_for_each(|word| message.token(word, 0)).ok()?;
                data = Some(message.octets);
            }
            Expect::Reset { code: code.parse().ok()?, subcode: subcode.parse().ok()?, data }
        }
        _ => return None,
    };
    words.next().is_none().then_some(expect)
}

fn finish(message: &mut Option<Message>, case: Option<&mut Case>) -> Result<(), String> {
    let (Some(message), Some(case)) = (message.take(), case) else { return Ok(()) };
    if !message.open.is_empty() {
        return Err("a bracket was never closed".into());
    }
    let mut octets = message.octets;
    if message.framed {
        let len = u16::try_from(octets.len()).map_err(|_| "too long for a message".to_owned())?;
        octets.splice(16..18, len.to_be_bytes());
    }
    case.messages.push(octets);
    Ok(())
}

impl Message {
    /// With its header, whose length comes last.
    fn begin(word: &str) -> Option<Self> {
        let kind = match word {
            "raw" => return Some(Self::default()),
            "open" => 1,
            "update" => 2,
            "notification" => 3,
            "keepalive" => 4,
            "refresh" => 5,
            _ => return None,
        };
        let mut octets = vec![0xff; 16];
        octets.extend_from_slice(&[0, 0, kind]);
        Some(Self { octets, open: Vec::new(), framed: true })
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        line.split_whitespace().try_for_each(|token| self.token(token, 0))
    }

    fn token(&mut self, token: &str, depth: usize) -> Result<(), String> {
        match token {
            "(" => self.begin_length(2),
            "[" => self.begin_length(1),
            ")" => self.end_length(2)?,
            "]" => self.end_length(1)?,
            _ => match (token.strip_prefix('$'), token.split_once('*')) {
                (Some(name), _) => {
                    let (_, text) = MACROS
                        .iter()
                        .find(|(known, _)| *known == name && depth < 4)
                        .ok_or_else(|| format!("no macro `{name}`"))?;
                    text.split_whitespace().try_for_each(|token| self.token(token, depth + 1))?;
                }
                (None, Some((count, octet))) => {
                    let count: usize = count.parse().map_err(|_| format!("`{token}` is no repetition"))?;
                    for _ in 0..count {
                        self.hex(octet)?;
                    }
                }
                (None, None) => self.hex(token)?,
            },
        }
        Ok(())
    }

    fn hex(&mut self, digits: &str) -> Result<(), String> {
        let bad = || format!("`{digits}` is not octets in hex");
        let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(bad());
        }
        for pair in pairs {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            self.octets.push(u8::from_str_radix(pair, 16).map_err(|_| bad())?);
        }
        Ok(())
    }

    fn begin_length(&mut self, octets: usize) {
        self.open.push((self.octets.len(), octets));
        self.octets.extend(std::iter::repeat_n(0, octets));
    }

    fn end_length(&mut self, octets: usize) -> Result<(), String> {
        let (at, wanted) = self.open.pop().ok_or("a bracket was never opened")?;
        if wanted != octets {
            return Err("brackets do not match".into());
        }
        let len = u16::try_from(self.octets.len() - at - octets).map_err(|_| "too long")?;
        match octets {
            1 => {
                let len = u8::try_from(len).map_err(|_| "too long for one octet")?;
                self.octets.splice(at..=at, [len]);
            }
            _ => drop(self.octets.splice(at..at + 2, len.to_be_bytes())),
        }
        Ok(())
    }
}

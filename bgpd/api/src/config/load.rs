//! Reading the file, and saying where it is wrong.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, group, pieces};

/// One mistake: where, what, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Line in the file, from 1; `None` for what does not come from a file.
    pub line: Option<usize>,
    /// The field, as `peer[1].remote_as`; empty for the file as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Problems {
    /// The file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its content cannot be used.
    #[error("{}", lines(path, list))]
    Mistakes {
        /// Where it stands.
        path: PathBuf,
        /// Every mistake that was found.
        list: Vec<Problem>,
    },
}

fn lines(path: &Path, list: &[Problem]) -> String {
    let place = |problem: &Problem| match problem.line {
        Some(line) => format!("{}:{line}: {problem}", path.display()),
        None => format!("{}: {problem}", path.display()),
    };
    list.iter().map(place).collect::<Vec<_>>().join("\n")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// Reads and checks a file.
///
/// # Errors
/// It cannot be read, is no TOML, has unknown fields or wrong values, or contradicts itself.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Problems::Unreadable { path: path.to_owned(), source })?;
    parse(&text).map_err(|list| Problems::Mistakes { path: path.to_owned(), list })
}

/// Reads and checks a file's text.
///
/// # Errors
/// Every mistake; only the first where the text is no TOML. Contradictions are looked for once everything fits the
/// types.
pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    let config = typed(text).map_err(|first| {
        let mut all = pieces::mistakes(text);
        locate(text, &mut all);
        all.sort_by_key(|problem| problem.line);
        if all.is_empty() { vec![first] } else { all }
    })?;
    let mut problems = config.check();
    if problems.is_empty() {
        return Ok(config);
    }
    locate(text, &mut problems);
    Err(problems)
}

/// What is allowed and yet seldom meant, with its lines in `text`, which `config` was read from.
#[must_use]
pub fn warnings(config: &Config, text: &str) -> Vec<Problem> {
    let mut warnings = config.warnings();
    locate(text, &mut warnings);
    warnings
}

/// Gives every mistake that has none its line.
fn locate(text: &str, problems: &mut [Problem]) {
    let tree = DeTable::parse(text).ok();
    for problem in problems.iter_mut().filter(|problem| problem.line.is_none()) {
        problem.line = tree.as_ref().and_then(|tree| find(tree, &problem.field)).map(|at| line_of(text, at));
    }
}

fn typed(text: &str) -> Result<Config, Problem> {
    let syntax = |error: toml::de::Error| problem(text, String::new(), &error);
    let mut tree = DeTable::parse(text).map_err(syntax)?;
    group::expand(tree.get_mut()).map_err(|fault| Problem {
        line: fault.at.map(|at| line_of(text, at.start)),
        field: fault.field,
        message: fault.message,
        remedy: fault.remedy,
    })?;
    let deserializer = toml::de::Deserializer::from(tree);
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let field = error.path().to_string();
        problem(text, if field == "." { String::new() } else { field }, error.inner())
    })
}

fn problem(text: &str, field: String, error: &toml::de::Error) -> Problem {
    let message = error.message().to_owned();
    let remedy = remedy(&message);
    Problem { line: error.span().map(|span| line_of(text, span.start)), field, message, remedy }
}

/// What to do about serde's own complaints.
pub(super) fn remedy(message: &str) -> Option<String> {
    if let Some(field) = quoted_after(message, "missing field ") {
        return Some(format!("add `{field} = …` to this table"));
    }
    let unknown =
        quoted_after(message, "unknown field ").or_else(|| quoted_after(message, "unknown variant "))?;
    let known = message.split_once("expected ")?.1;
    known
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|candidate| (distance(unknown, candidate), candidate))
        .filter(|(distance, _)| *distance <= 1 + unknown.len() / 4)
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

fn quoted_after<'a>(message: &'a str, words: &str) -> Option<&'a str> {
    message.split_once(words)?.1.split('`').nth(1)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, cb) in row.iter_mut().skip(1).zip(&b) {
            let here = (diagonal + usize::from(ca != *cb)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
    }
    row.last().copied().unwrap_or(0)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Where `peer[1].remote_as` stands, or the nearest thing around it that stands somewhere.
fn find(tree: &Spanned<DeTable<'_>>, field: &str) -> Option<usize> {
    let mut table = Some(tree.get_ref());
    let mut value: Option<&Spanned<DeValue<'_>>> = None;
    let mut at = None;
    for step in field.split(['.', '[']).filter(|step| !step.is_empty()) {
        let next = match step.strip_suffix(']') {
            Some(index) => {
                let index: usize = index.parse().ok()?;
                value.and_then(|value| value.get_ref().as_array()).and_then(|array| array.get(index))
            }
            None => {
                let entry = table?.iter().find(|(key, _)| key.get_ref() == step);
                if let Some((key, _)) = entry {
                    at = Some(key.span().start);
                }
                entry.map(|(_, value)| value)
            }
        };
        let Some(next) = next else { return at };
        if step.ends_with(']') {
            at = Some(next.span().start);
        }
        table = next.get_ref().as_table();
        value = Some(next);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        let path = Path::new("bgpd.toml").to_owned();
        Problems::Mistakes { path, list: parse(text).unwrap_err() }.to_string()
    }

    #[test]
    fn mistakes_name_file_line_field_and_remedy() {
        let unknown = "asn = 65001\n\n[[peer]]\naddress = \"10.1.3.21\"\nremote_a = 65001\n";
        let text = complaint(unknown);
        assert!(text.starts_with("bgpd.toml:5: peer[0].remote_a: unknown field `remote_a`"), "{text}");
        assert!(text.ends_with("; did you mean `remote_as`?"), "{text}");

        let missing = "[[peer]]\naddress = \"10.1.3.21\"\n";
        assert_eq!(
            complaint(missing),
            "bgpd.toml:1: peer[0]: missing field `remote_as`; add `remote_as = …` to this table"
        );

        let wrong = "asn = 65001\n[kernel]\ntable = \"main\"\n";
        assert!(
            complaint(wrong).starts_with("bgpd.toml:3: kernel.table: invalid type: string"),
            "{}",
            complaint(wrong)
        );

        let syntax = "asn = 65001\n[kernel\n";
        assert!(complaint(syntax).starts_with("bgpd.toml:2: "), "{}", complaint(syntax));
    }

    #[test]
    fn every_contradiction_is_named_with_its_line() {
        let text = "
asn = 65001
[[peer]]
name = \"rr\"
address = \"10.1.3.21\"
remote_as = \"internal\"
hold_time = 2

[[peer]]
name = \"rr\"
address = \"10.1.3.21\"
remote_as = 65002
rr_client = true
import = \"from-gw\"
";
        let all = complaint(text);
        let lines: Vec<&str> = all.lines().collect();
        assert_eq!(lines.len(), 5, "{all}");
        for (start, word) in [
            ("bgpd.toml:7: peer[0].hold_time: ", "3"),
            ("bgpd.toml:10: peer[1].name: ", "rr"),
            ("bgpd.toml:11: peer[1].address: ", "10.1.3.21"),
            ("bgpd.toml:13: peer[1].rr_client: ", "internal"),
            ("bgpd.toml:14: peer[1].import: ", "from-gw"),
        ] {
            assert!(
                lines.iter().any(|line| line.starts_with(start) && line.contains(word)),
                "{start} in\n{all}"
            );
        }
    }
}

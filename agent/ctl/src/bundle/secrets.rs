//! What must not leave the node. Pure, but for reading the files that configurations name.

use std::collections::BTreeSet;
use std::fs;

/// Written in place of a secret.
const REMOVED: &str = "<removed>";
/// Keys whose values are secret, or name files that hold one.
const TELLTALE: [&str; 7] = ["password", "passwd", "secret", "token", "credential", "private", "md5"];
/// Shorter texts are left where they are found elsewhere: they would take half of the bundle with them.
const SHORTEST: usize = 4;

/// Secrets found so far.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    known: BTreeSet<String>,
}

impl Secrets {
    /// A configuration's text without secrets; they, and the contents of files that it names for them, are kept in
    /// mind.
    pub(super) fn learn(&mut self, text: &str) -> String {
        text.lines().map(|line| self.line(line) + "\n").collect()
    }

    /// The text without any secret that is known.
    pub(super) fn scrub(&self, text: &str) -> String {
        // The longest first: one may be part of another.
        let mut known: Vec<&String> = self.known.iter().collect();
        known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        known.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), REMOVED))
    }

    /// `key = "value"`, `key: value`, `{ key: value, … }`: all after the first telltale key goes, unless it is the name
    /// of a file.
    fn line(&mut self, line: &str) -> String {
        let lower = line.to_lowercase();
        let Some(at) = TELLTALE.iter().filter_map(|word| lower.find(word)).min() else {
            return line.to_owned();
        };
        let Some(rest) = line.get(at..) else { return REMOVED.to_owned() };
        let Some(end) = rest.find(['=', ':']) else { return line.to_owned() };
        let (key, value) = rest.split_at(end.saturating_add(1));
        let is_file = ["file", "path"].iter().any(|word| key.to_lowercase().contains(word));
        let quoted = |c: char| c.is_whitespace() || ['"', '\'', ',', '}', '{', '[', ']'].contains(&c);
        let words: Vec<&str> = value.split(quoted).filter(|word| !word.is_empty()).collect();
        if is_file {
            let content = words.first().and_then(|path| fs::read_to_string(path).ok());
            self.remember(content.as_deref().unwrap_or_default().trim());
            return line.to_owned();
        }
        self.remember(value.trim().trim_matches(['"', '\'']));
        words.into_iter().for_each(|word| self.remember(word));
        format!("{}{key} {REMOVED}", line.get(..at).unwrap_or_default())
    }

    fn remember(&mut self, secret: &str) {
        let is_word = !["true", "false", "null", "none"].contains(&secret.to_lowercase().as_str());
        if secret.len() >= SHORTEST && is_word {
            self.known.insert(secret.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_from_their_lines_and_from_everywhere_else() {
        let mut secrets = Secrets::default();
        let toml = secrets.learn("[[peers]]\naddress = \"10.0.0.1\"\npassword = \"hunter22\"\nasn = 65000\n");
        assert_eq!(toml, "[[peers]]\naddress = \"10.0.0.1\"\npassword = <removed>\nasn = 65000\n");
        let yaml = secrets.learn("spec: { peer: 10.0.0.1, authToken: 'abc def', asn: 1 }");
        assert!(!yaml.contains("abc") && yaml.contains("peer: 10.0.0.1"), "{yaml}");
        assert_eq!(secrets.scrub("with hunter22 in a log, and abcd"), "with <removed> in a log, and abcd");
    }

    #[test]
    fn a_file_that_holds_a_secret_is_named_and_its_content_is_not() {
        let path = std::env::temp_dir().join(format!("turnpike-secret-{}", std::process::id()));
        fs::write(&path, "s3cr3t-of-a-file\n").unwrap();
        let mut secrets = Secrets::default();
        let line = format!("passwordFile: {}", path.display());
        assert_eq!(secrets.learn(&line), line.clone() + "\n");
        fs::remove_file(&path).unwrap();
        assert_eq!(secrets.scrub("x s3cr3t-of-a-file y"), "x <removed> y");
    }
}

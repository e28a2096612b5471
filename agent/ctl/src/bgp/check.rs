//! A configuration file, checked where it lies.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;
use turnpike_bgpd_api::config::{self, Problem};

use super::show;
use super::text::counted;
use crate::Global;

/// What was found in a file.
#[derive(Debug, Default, Serialize)]
struct Findings {
    file: String,
    /// These keep it from being used.
    mistakes: Vec<Problem>,
    /// These do not.
    warnings: Vec<Problem>,
}

/// Fails when there are mistakes.
pub(super) fn run(global: &Global, file: &Path) -> Result<ExitCode> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut found = Findings { file: file.display().to_string(), ..Findings::default() };
    match config::parse(&text) {
        Ok(config) => found.warnings = config::warnings(&config, &text),
        Err(mistakes) => found.mistakes = mistakes,
    }
    show(global.output, &found, render)?;
    Ok(if found.mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(found: &Findings) -> String {
    let line = |kind: &str, problem: &Problem| match problem.line {
        Some(line) => format!("{}:{line}: {kind}{problem}\n", found.file),
        None => format!("{}: {kind}{problem}\n", found.file),
    };
    let mut text: String = found.mistakes.iter().map(|problem| line("", problem)).collect();
    text.extend(found.warnings.iter().map(|problem| line("warning: ", problem)));
    let verdict = match (found.mistakes.len(), found.warnings.len()) {
        (0, 0) => "in order".to_owned(),
        (0, warnings) => format!("in order, {}", counted(warnings, "warning")),
        (mistakes, _) => counted(mistakes, "mistake"),
    };
    text.push_str(&format!("{}: {verdict}\n", found.file));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_and_warnings_are_lines_that_editors_can_jump_to() {
        let text =
            "asn = 65001\n[[peer]]\naddress = \"10.1.4.2\"\nremote_as = 65002\nexport = \"accept-all\"\n";
        let config = config::parse(text).unwrap();
        let found = Findings {
            file: "bgpd.toml".to_owned(),
            mistakes: Vec::new(),
            warnings: config::warnings(&config, text),
        };
        assert_eq!(
            render(&found),
            "bgpd.toml:2: warning: peer[0].import: external peer 10.1.4.2 takes nothing without a policy (RFC 8212); \
             set import to a policy, to accept-all, or to reject-all\nbgpd.toml: in order, 1 warning\n"
        );
        let mistakes = config::parse("asn = 0\nhold = 3\n").unwrap_err();
        let found = Findings { mistakes, warnings: Vec::new(), ..found };
        assert!(render(&found).starts_with("bgpd.toml:2: hold: unknown field `hold`"), "{}", render(&found));
        assert!(render(&found).ends_with("bgpd.toml: 1 mistake\n"));
    }
}

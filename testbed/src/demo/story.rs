//! The demo's voice: chapters and claims, each claim with what was observed. A claim that fails is told at once and
//! makes the command fail in the end; the story goes on, because the next chapters may say why.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Counts what was claimed.
pub(crate) struct Story {
    held: usize,
    failed: Vec<String>,
    chapter: usize,
    begun: Instant,
}

impl Story {
    pub(crate) fn begin(title: &str) -> Self {
        println!("\n\x1b[1m{title}\x1b[0m");
        Self { held: 0, failed: Vec::new(), chapter: 0, begun: Instant::now() }
    }

    /// A new chapter: what it is going to prove.
    pub(crate) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        println!(
            "\n\x1b[1m{}. {title}\x1b[0m  \x1b[2m(+{:.0} s)\x1b[0m",
            self.chapter,
            self.begun.elapsed().as_secs_f64()
        );
    }

    /// Something worth knowing that is not a claim.
    pub(crate) fn note(&self, text: &str) {
        println!("   \x1b[2m· {text}\x1b[0m");
    }

    /// A claim, what was seen, and whether the claim holds.
    pub(crate) fn claim(&mut self, claim: &str, observed: &str, holds: bool) {
        if holds {
            self.held += 1;
            println!("   \x1b[32m✓\x1b[0m {claim}: {observed}");
        } else {
            self.failed.push(format!("{}. {claim}: {observed}", self.chapter));
            println!("   \x1b[31m✗ {claim}: {observed}\x1b[0m");
        }
    }

    /// A claim whose observation can itself fail; the error is then what was seen.
    pub(crate) fn prove(&mut self, claim: &str, observe: impl FnOnce() -> Result<(String, bool)>) {
        match observe() {
            Ok((observed, holds)) => self.claim(claim, &observed, holds),
            Err(error) => self.claim(claim, &format!("{error:#}"), false),
        }
    }

    /// The verdict: an error that lists every claim that did not hold.
    pub(crate) fn end(self) -> Result<()> {
        let seconds = self.begun.elapsed().as_secs();
        if self.failed.is_empty() {
            println!("\n\x1b[1mAll {} claims hold\x1b[0m ({seconds} s).", self.held);
            return Ok(());
        }
        bail!(
            "{} of {} claims do not hold ({seconds} s):\n  {}",
            self.failed.len(),
            self.held + self.failed.len(),
            self.failed.join("\n  ")
        )
    }
}

/// Milliseconds, as told to people.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}

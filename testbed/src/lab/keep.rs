//! `TURNPIKE_LAB_KEEP=1`: the lab stays up at its end, for a person to look around in.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use super::Lab;
use crate::poll::poll;

/// Longer than anybody looks.
const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) fn wait_if_asked(lab: &Lab) {
    if std::env::var_os("TURNPIKE_LAB_KEEP").is_none_or(|value| value != "1") {
        return;
    }
    eprintln!("\nlab {} is up, its logs are in {}", lab.name(), lab.folder().display());
    for node in lab.nodes() {
        if let Ok(pid) = node.pid() {
            eprintln!("  {:<12} nsenter -t {pid} -m -u -i -n -p -- bash", node.name());
        }
    }
    match question() {
        Some(input) => {
            eprintln!("press Enter to take it down");
            if let Err(error) = BufReader::new(input).read_line(&mut String::new()) {
                eprintln!("nobody to ask: {error}");
            }
        }
        None => wait_for_file(lab),
    }
}

/// Where a person can answer: stdin unless it is `/dev/null`, as test runners have it. Then the terminal, unless the
/// runner has put its tests into the background, where reading would stop them.
fn question() -> Option<File> {
    let is_null = |path: &str| match (fs::metadata(path), fs::metadata("/dev/null")) {
        (Ok(input), Ok(null)) => input.rdev() == null.rdev() && input.rdev() != 0,
        _ => true,
    };
    if std::io::stdin().is_terminal() || !is_null("/proc/self/fd/0") {
        return File::open("/proc/self/fd/0").ok();
    }
    in_foreground().then(|| File::open("/dev/tty").ok())?
}

/// Whether this process group is the terminal's foreground one (fields 5 and 8 of `/proc/PID/stat`).
fn in_foreground() -> bool {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name is in parentheses and may hold anything.
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let field = |place: usize| rest.split_whitespace().nth(place);
    field(2).is_some() && field(2) == field(5)
}

fn wait_for_file(lab: &Lab) {
    let file = lab.folder().join("keep");
    if let Err(error) = fs::write(&file, "remove this file to take the lab down\n") {
        eprintln!("cannot keep the lab: {error}");
        return;
    }
    eprintln!("interrupt this, or remove {}, to take it down", file.display());
    if let Err(error) = poll(A_WEEK, "the file to go", || (!file.exists()).then_some(())) {
        eprintln!("{error:#}");
    }
}

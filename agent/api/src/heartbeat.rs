//! The file beside the socket that says when the agent last lived.
//!
//! Its words are the process ID and CLOCK_BOOTTIME in nanoseconds. The file's own time is the wall clock's, which may have
//! been set meanwhile: it counts only in files of releases that wrote no other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::clock;

/// The file that belongs to a socket.
#[must_use]
pub fn heartbeat_path(socket: &Path) -> PathBuf {
    socket.with_extension("alive")
}

/// Says that the agent behind this socket lives.
///
/// # Errors
/// The file cannot be written.
pub fn beat(socket: &Path) -> io::Result<()> {
    fs::write(heartbeat_path(socket), format!("{} {}\n", std::process::id(), clock::boottime().as_nanos()))
}

/// How long ago the agent behind this socket said that it lives; `None` when it is not known to have.
#[must_use]
pub fn since_heartbeat(socket: &Path) -> Option<Duration> {
    let path = heartbeat_path(socket);
    let text = fs::read_to_string(&path).ok()?;
    match text.split_whitespace().nth(1) {
        // What is later than now is an earlier boot's.
        Some(stamp) => clock::boottime().checked_sub(Duration::from_nanos(stamp.parse().ok()?)),
        None => SystemTime::now().duration_since(fs::metadata(path).ok()?.modified().ok()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    /// The file's own time is what moves against the wall clock when that is set.
    fn touch(socket: &Path, time: SystemTime) {
        let file = File::options().append(true).open(heartbeat_path(socket)).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    #[test]
    fn a_clock_that_was_set_makes_no_heartbeat_older_or_younger() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        assert_eq!(since_heartbeat(&socket), None);
        let year = Duration::from_secs(365 * 86_400);
        for time in [SystemTime::now() - 30 * year, SystemTime::now() + 30 * year] {
            beat(&socket).unwrap();
            touch(&socket, time);
            assert!(since_heartbeat(&socket).unwrap() < Duration::from_secs(3600));
        }
        let before = clock::boottime() - Duration::from_millis(1);
        fs::write(heartbeat_path(&socket), format!("7 {}", before.as_nanos())).unwrap();
        assert!(since_heartbeat(&socket).unwrap() >= Duration::from_millis(1));
        fs::write(heartbeat_path(&socket), format!("7 {}", (clock::boottime() + year).as_nanos())).unwrap();
        assert_eq!(since_heartbeat(&socket), None, "of an earlier boot");
    }

    #[test]
    fn an_agent_of_the_release_before_is_believed_by_its_files_time() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        fs::write(heartbeat_path(&socket), "7").unwrap();
        touch(&socket, SystemTime::now() - Duration::from_secs(60));
        assert!(since_heartbeat(&socket).unwrap() >= Duration::from_secs(60));
    }
}

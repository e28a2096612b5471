//! Facts about the machine: clock, CPUs, receive queues.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::read;
use crate::doctor::facts::{Clock, Queues, Softnet};

pub(super) fn clock() -> Clock {
    let asked = Command::new("timedatectl").args(["show", "-p", "NTPSynchronized", "--value"]).output();
    let synchronised =
        asked.ok().filter(|output| output.status.success()).and_then(|output| match String::from_utf8_lossy(
            &output.stdout,
        )
        .trim()
        {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        });
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    Clock { unix_s, synchronised }
}

pub(super) fn softnet() -> Vec<Softnet> {
    read("/proc/net/softnet_stat").unwrap_or_default().lines().filter_map(softnet_line).collect()
}

fn softnet_line(line: &str) -> Option<Softnet> {
    let mut columns = line.split_whitespace().map(|word| u64::from_str_radix(word, 16));
    Some(Softnet { processed: columns.next()?.ok()?, dropped: columns.next()?.ok()? })
}

pub(super) fn queues() -> Vec<Queues> {
    let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut found: Vec<Queues> = links
        .filter_map(|entry| {
            let link = entry.file_name().into_string().ok()?;
            let receive: Vec<_> = fs::read_dir(entry.path().join("queues"))
                .ok()?
                .flatten()
                .filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-"))
                .map(|queue| queue.path())
                .collect();
            let is_set = |mask: String| mask.chars().any(|c| c.is_ascii_hexdigit() && c != '0');
            let steered = receive.iter().any(|queue| read(queue.join("rps_cpus")).is_some_and(is_set));
            let hardware = entry.path().join("device").exists();
            Some(Queues { link, hardware, receive: receive.len(), steered })
        })
        .collect();
    found.sort_by(|a, b| a.link.cmp(&b.link));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_softnet_is_hexadecimal() {
        let cpu = softnet_line("0000002a 00000010 00000000 00000000").unwrap();
        assert_eq!((cpu.processed, cpu.dropped), (42, 16));
        assert_eq!(softnet_line(""), None);
    }
}

//! What is kept of a node when its lab fails.

use std::fs;

use crate::node::Node;

const COMMANDS: [(&str, &[&str]); 13] = [
    ("links.json", &["ip", "-j", "-d", "-s", "link", "show"]),
    ("addresses.json", &["ip", "-j", "address", "show"]),
    ("routes4.json", &["ip", "-j", "-d", "-4", "route", "show", "table", "all"]),
    ("routes6.json", &["ip", "-j", "-d", "-6", "route", "show", "table", "all"]),
    ("nexthops.json", &["ip", "-j", "nexthop", "show"]),
    ("rules.json", &["ip", "-j", "rule", "show"]),
    ("neighbours.json", &["ip", "-j", "neighbour", "show"]),
    ("qdiscs.txt", &["tc", "-s", "-d", "qdisc", "show"]),
    ("nft.txt", &["nft", "-a", "list", "ruleset"]),
    ("conntrack.txt", &["conntrack", "-L"]),
    ("sockets.txt", &["ss", "-tuanp"]),
    ("pins.txt", &["find", "/sys/fs/bpf", "-ls"]),
    ("processes.txt", &["ps", "axo", "pid,ppid,stat,etime,args"]),
];

pub(super) fn collect(node: &Node) {
    if node.pid().is_err() {
        return;
    }
    let standard = COMMANDS
        .iter()
        .map(|(file, argv)| ((*file).to_owned(), argv.iter().map(|word| (*word).to_owned()).collect()));
    for (file, argv) in standard.chain(node.diagnostics()) {
        let text = match node.run_unchecked::<String>(&argv) {
            Ok(output) if output.status.success() => output.stdout,
            Ok(output) => [output.stdout, output.stderr, output.status.to_string().into_bytes()].concat(),
            Err(error) => format!("{error:#}\n").into_bytes(),
        };
        if let Err(error) = fs::write(node.folder().join(&file), text) {
            eprintln!("cannot keep {file} of {}: {error}", node.name());
        }
    }
}

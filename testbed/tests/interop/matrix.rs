//! The table. A cell says "works" only by naming the proof, and the document is made from nothing but this table.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::peers::Kind;
use crate::proofs;

/// Proves a cell with a daemon, or says what is otherwise.
type Proof = fn(Kind) -> Result<()>;

/// What is claimed of a feature with a peer.
enum Cell {
    /// Both sides do it.
    Works(Proof),
    /// The peer cannot, and why.
    PeerCannot(&'static str),
}

/// A feature.
struct Row {
    /// The name of its test.
    test: &'static str,
    title: &'static str,
    /// How it is proved, in a sentence.
    how: &'static str,
    /// The peer of plain runs.
    quick: Kind,
    /// What is claimed with each peer.
    cell: fn(Kind) -> Cell,
}

use Cell::{PeerCannot, Works};
use Kind::{Bird, ExaBgp, Frr, GoBgp, OpenBgpd};

const REFLECTS_NOT: &str = "keeps no table: it has nothing to reflect";

const TABLE: &[Row] = &[
    Row {
        test: "ipv4",
        title: "IPv4 unicast (RFC 4271)",
        how: "a prefix each way with next hop and AS_PATH, and a withdraw each way",
        quick: Frr,
        cell: |_| Works(proofs::routes::ipv4),
    },
    Row {
        test: "ipv6",
        title: "IPv6 unicast (RFC 4760, RFC 2545)",
        how: "the same over IPv6",
        quick: Bird,
        cell: |_| Works(proofs::routes::ipv6),
    },
    Row {
        test: "next_hop_v6",
        title: "IPv4 over IPv6 next hops (RFC 8950)",
        how: "IPv4 prefixes each way over an IPv6 session, with the session's addresses as next hops",
        quick: Frr,
        cell: |kind| match kind {
            OpenBgpd => PeerCannot("does not offer the capability in 7.7"),
            ExaBgp => PeerCannot("4.2 sends such next hops without having offered the capability"),
            Bird | Frr | GoBgp => Works(proofs::routes::next_hop_v6),
        },
    },
    Row {
        test: "add_path",
        title: "Several paths (RFC 7911)",
        how: "each side in turn reflects two paths of one prefix to the other, which holds both; one is withdrawn and the other stays",
        quick: Bird,
        cell: |kind| match kind {
            ExaBgp => PeerCannot(REFLECTS_NOT),
            _ => Works(proofs::several::both_ways),
        },
    },
    Row {
        test: "four_octet_as",
        title: "Four-octet AS numbers (RFC 6793)",
        how: "both systems beyond 65535; each side's AS_PATH names the other's",
        quick: Frr,
        cell: |_| Works(proofs::routes::four_octet_as),
    },
    Row {
        test: "graceful_restart",
        title: "Graceful restart (RFC 4724)",
        how: "SIGKILL of each side in turn: the other keeps its routes as stale until they are refreshed",
        quick: Bird,
        cell: |kind| match kind {
            OpenBgpd => PeerCannot("what it announces as graceful restart stands for End-of-RIB alone"),
            ExaBgp => PeerCannot("keeps no table: it has nothing to keep over our restart"),
            Bird | Frr | GoBgp => Works(proofs::restart::graceful),
        },
    },
    Row {
        test: "long_lived",
        title: "Long-lived graceful restart (RFC 9494)",
        how: "SIGKILL of each side in turn, for longer than its restart time: the other keeps its routes, marked LLGR_STALE, until they are refreshed",
        quick: Bird,
        cell: |kind| match kind {
            OpenBgpd => PeerCannot("does not offer the capability in 7.7"),
            ExaBgp => PeerCannot("does not offer the capability in 4.2"),
            Bird | Frr | GoBgp => Works(proofs::restart::long_lived),
        },
    },
    Row {
        test: "route_refresh",
        title: "Route refresh (RFC 2918, RFC 7313)",
        how: "the peer asks and is told again; we ask when a prefix limit has room again, and are told",
        quick: Frr,
        cell: |kind| match kind {
            GoBgp => PeerCannot("never asks for routes again: its soft reset works on what it has kept"),
            OpenBgpd => PeerCannot(
                "asks for routes again, but 7.7 answers no request: it says that the family is not negotiated, which it is",
            ),
            ExaBgp => PeerCannot("asks for routes again, but 4.2 closes the session when it is asked"),
            Bird | Frr => Works(proofs::routes::refresh),
        },
    },
    Row {
        test: "md5",
        title: "TCP-MD5 (RFC 2385)",
        how: "the same password: a session; another one: the kernel drops the peer's segments",
        quick: Bird,
        cell: |_| Works(proofs::security::md5),
    },
    Row {
        test: "gtsm",
        title: "TTL security (RFC 5082)",
        how: "on both sides: a session; on ours alone: the kernel drops the peer's segments",
        quick: Frr,
        cell: |_| Works(proofs::security::gtsm),
    },
    Row {
        test: "max_prefix",
        title: "Prefix limit (RFC 4486)",
        how: "a limit on each side in turn: the other is told why the session ends",
        quick: Bird,
        cell: |kind| match kind {
            ExaBgp => PeerCannot("has no prefix limit"),
            _ => Works(proofs::sessions::max_prefix),
        },
    },
    Row {
        test: "large_communities",
        title: "Large communities (RFC 8092)",
        how: "one each way",
        quick: Frr,
        cell: |_| Works(proofs::routes::large_communities),
    },
    Row {
        test: "reflection",
        title: "Route reflection (RFC 4456)",
        how: "each side in turn reflects between the other and a third: ORIGINATOR_ID and CLUSTER_LIST",
        quick: Bird,
        cell: |kind| match kind {
            ExaBgp => PeerCannot(REFLECTS_NOT),
            _ => Works(proofs::reflect::both_ways),
        },
    },
    Row {
        test: "roles",
        title: "Roles and route leaks (RFC 9234)",
        how: "as customer and as provider, strictly: a session, and OTC on what goes down; roles that do not fit: Role Mismatch",
        quick: Frr,
        cell: |kind| match kind {
            GoBgp => PeerCannot("has no roles in 3.10"),
            ExaBgp => PeerCannot("has no roles in 4.2"),
            Bird | Frr | OpenBgpd => Works(proofs::ases::roles),
        },
    },
    Row {
        test: "local_as",
        title: "Another AS number for one peer (RFC 7705)",
        how: "the peer knows us by a former number, and stands behind it in paths both ways",
        quick: Bird,
        cell: |_| Works(proofs::ases::local_as),
    },
    Row {
        test: "aggregates",
        title: "Aggregates (RFC 4271 §9.2.2.2)",
        how: "one in the place of what is inside it, beside it, and gone with it",
        quick: Frr,
        cell: |_| Works(proofs::ases::aggregates),
    },
    Row {
        test: "bfd",
        title: "BFD (RFC 5880, RFC 5881)",
        how: "both say Up; with our packets' way back cut, BFD ends the session long before its hold timer",
        quick: Frr,
        cell: |kind| match kind {
            GoBgp | OpenBgpd | ExaBgp => PeerCannot("has no BFD"),
            Bird | Frr => Works(proofs::sessions::bfd),
        },
    },
    Row {
        test: "extended_messages",
        title: "Extended messages (RFC 8654)",
        how: "an UPDATE with 4600 octets of communities reaches the peer whole",
        quick: Frr,
        cell: |kind| match kind {
            GoBgp => PeerCannot("does not offer the capability in 3.10"),
            OpenBgpd => PeerCannot("does not offer the capability in 7.7"),
            Bird | Frr | ExaBgp => Works(proofs::routes::extended_messages),
        },
    },
    Row {
        test: "shutdown_communication",
        title: "Shutdown communication (RFC 9003)",
        how: "a text each way",
        quick: Bird,
        cell: |kind| match kind {
            ExaBgp => PeerCannot("sends no text: its teardown takes a code alone"),
            _ => Works(proofs::sessions::shutdown),
        },
    },
    Row {
        test: "collision",
        title: "Connection collision (RFC 4271 §6.8)",
        how: "both connect at once, with a higher and with a lower identifier: both keep the same connection, without a flap",
        quick: Frr,
        cell: |_| Works(proofs::sessions::collision),
    },
    Row {
        test: "hold_expiry",
        title: "Hold timer expiry (RFC 4271 §6.5)",
        how: "SIGSTOP of each side in turn: the other ends the session in time and says why",
        quick: Bird,
        cell: |_| Works(proofs::sessions::hold_expiry),
    },
];

/// One test for each row.
macro_rules! tests {
    ($($test:ident)*) => {
        $(#[test]
        fn $test() {
            prove(stringify!($test));
        })*

        #[test]
        fn every_row_has_its_test() {
            let rows: Vec<&str> = TABLE.iter().map(|row| row.test).collect();
            assert_eq!(rows, [$(stringify!($test)),*]);
        }
    };
}

tests!(
    ipv4 ipv6 next_hop_v6 add_path four_octet_as graceful_restart long_lived route_refresh md5 gtsm max_prefix
    large_communities reflection roles local_as aggregates bfd extended_messages shutdown_communication collision hold_expiry
);

fn prove(test: &str) {
    let row = TABLE.iter().find(|row| row.test == test).unwrap();
    let full = env::var_os("TURNPIKE_TEST_FULL").is_some();
    let only = env::var("TURNPIKE_INTEROP_PEER").ok();
    let mut failures = String::new();
    for kind in Kind::ALL.into_iter().filter(|kind| match &only {
        Some(name) => kind.to_string() == *name,
        None => full || *kind == row.quick,
    }) {
        let Works(proof) = (row.cell)(kind) else { continue };
        eprintln!("{}: with {kind}", row.title);
        if let Err(error) = proof(kind) {
            let _ = writeln!(failures, "{} with {kind}: {error:#}", row.title);
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Verifies: `docs/interop.md` says what this table says. With `TURNPIKE_WRITE_DOCS=1` it is written.
#[test]
fn the_document_is_the_table() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md");
    if env::var_os("TURNPIKE_WRITE_DOCS").is_some() {
        fs::write(&file, document(&versions().unwrap())).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap();
    // Which versions it was is known to whoever wrote it last.
    let written: Vec<&str> = found.lines().filter_map(|line| line.strip_prefix(VERSIONS)).collect();
    assert_eq!(found, document(written.first().unwrap()), "write it anew with TURNPIKE_WRITE_DOCS=1");
}

const VERSIONS: &str = "Last written beside ";

fn versions() -> Result<String> {
    let mut out = Vec::new();
    for kind in Kind::ALL {
        let output = Command::new("dpkg-query").args(["-W", "-f", "${Version}", kind.package()]).output()?;
        let version = String::from_utf8(output.stdout)?;
        let upstream = version.split('-').next().context("a version")?;
        out.push(format!("{kind} {upstream}"));
    }
    Ok(format!("{}.", out.join(", ")))
}

fn document(versions: &str) -> String {
    let mut out = format!(
        "# Interoperability\n\n\
         What turnpike-bgpd and other BGP daemons do together. Each \"works\" is a test with the real daemon in a network\n\
         namespace, and looks at what both sides themselves say; what a peer cannot is taken from its documentation and from trying it.\n\n\
         This file is made from the table of those tests (`testbed/tests/interop/matrix.rs`) and checked against it by\n\
         every `cargo xtask test`, which proves each row with one peer; `cargo xtask test --full` proves every cell. To\n\
         write it anew: `TURNPIKE_WRITE_DOCS=1 cargo xtask test -- the_document_is_the_table`.\n\n{VERSIONS}{versions}\n\n"
    );
    out.push_str("| feature |");
    Kind::ALL.iter().for_each(|kind| _ = write!(out, " {kind} |"));
    out.push_str(" proved by |\n|---|");
    Kind::ALL.iter().for_each(|_| out.push_str("---|"));
    out.push_str("---|\n");
    let mut notes: Vec<String> = Vec::new();
    for row in TABLE {
        let _ = write!(out, "| {} |", row.title);
        for kind in Kind::ALL {
            match (row.cell)(kind) {
                Works(_) => out.push_str(" works |"),
                PeerCannot(why) => {
                    notes.push(format!("{kind}: {why}"));
                    let _ = write!(out, " {kind} cannot ({}) |", notes.len());
                }
            }
        }
        let _ = writeln!(out, " {} |", row.how);
    }
    if !notes.is_empty() {
        out.push('\n');
        (1..).zip(&notes).for_each(|(number, note)| _ = writeln!(out, "{number}. {note}"));
    }
    out
}

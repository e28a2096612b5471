//! The fuzz targets on a stable compiler: every committed input, every case of the corpus, and random octets.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use turnpike_bgp_hostile::corpus::cases;
use turnpike_bgp_hostile::fuzz::{TARGETS, Target};

/// Octets of a message header.
const HEADER: usize = 19;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn run(target: &Target, what: &str, input: &[u8]) {
    let failed = std::panic::catch_unwind(|| (target.body)(input)).is_err();
    assert!(!failed, "target {} fails with {what}", target.name);
}

#[test]
fn committed_inputs_pass() {
    for target in &TARGETS {
        let folder = folder().join(target.name);
        let inputs = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for entry in inputs {
            let path = entry.unwrap().path();
            run(target, &path.display().to_string(), &fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "no inputs for {}", target.name);
    }
}

#[test]
fn cases_of_the_corpus_pass_every_target() {
    for case in cases().unwrap() {
        for message in &case.messages {
            let body = message.get(HEADER..).unwrap_or_default();
            for properties in [0, 1, 2, 4, 5, 8, 16, 31] {
                let with_properties = [&[properties], body].concat();
                for target in TARGETS.iter().filter(|target| target.name != "message") {
                    run(target, &case.name, &with_properties);
                }
                let of_kind = |kind: u8| [&[kind, properties], body].concat();
                (0..4).for_each(|kind| run(&TARGETS[0], &case.name, &of_kind(kind)));
            }
            let stream = [&[7], &message[..]].concat();
            run(&TARGETS[1], &case.name, &stream);
        }
    }
}

#[test]
fn cases_of_the_corpus_pass_a_session() {
    let session = TARGETS.iter().find(|target| target.name == "session").unwrap();
    for case in cases().unwrap() {
        for properties in [0, 1, 2, 4, 8, 16, 32, 64, 65, 98, 128, 193] {
            // Accept a connection, OPEN, KEEPALIVE, a good UPDATE, then the case in pieces of up to 255 octets.
            let mut program = vec![properties, 7, 2, 3, 4, 1];
            for piece in case.messages.concat().chunks(255) {
                program.extend_from_slice(&[0, piece.len() as u8]);
                program.extend_from_slice(piece);
            }
            run(session, &case.name, &program);
        }
    }
}

proptest! {
    #[test]
    fn random_octets_pass(input in proptest::collection::vec(any::<u8>(), 0..600)) {
        for target in &TARGETS {
            (target.body)(&input);
        }
    }
}

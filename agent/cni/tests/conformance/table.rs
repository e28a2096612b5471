//! Every verb against every error of the specification: the table in docs/cni.md is what this test finds.

use serde_json::json;
use turnpike_agent_api::{ErrorReply, Reply, code};

use crate::harness::{Bench, Call, added};

const VERBS: [&str; 6] = ["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"];

/// What is wrong with a call.
struct Mistake {
    words: &'static str,
    make: fn(Call) -> Call,
    /// What the agent answers; `None` has no agent.
    agent: Option<fn(&str) -> Reply>,
}

const fn call(words: &'static str, make: fn(Call) -> Call) -> Mistake {
    Mistake { words, make, agent: Some(good) }
}

fn good(verb: &str) -> Reply {
    if verb == "ADD" { Reply::Added(added()) } else { Reply::Done }
}

fn unknown(_: &str) -> Reply {
    Reply::Error(ErrorReply::new(code::UNKNOWN_CONTAINER, "container c1 has no eth0 here"))
}

fn limited(_: &str) -> Reply {
    Reply::Error(ErrorReply::new(code::LIMITED, "the node's links are lost"))
}

fn mistakes() -> Vec<Mistake> {
    vec![
        call("nothing", |call| call),
        call("no CNI_CONTAINERID", |call| call.env("CNI_CONTAINERID", "")),
        call("a malformed CNI_CONTAINERID", |call| call.env("CNI_CONTAINERID", "../x")),
        call("no CNI_IFNAME", |call| call.env("CNI_IFNAME", "")),
        call("a malformed CNI_IFNAME", |call| call.env("CNI_IFNAME", "a/b")),
        call("no CNI_NETNS", |call| call.env("CNI_NETNS", "")),
        call("CNI_NETNS is the host's", |call| call.env("CNI_NETNS", "/proc/self/ns/net")),
        call("CNI_NETNS is gone", |call| call.env("CNI_NETNS", "/run/netns/none-such")),
        call("malformed CNI_ARGS", |call| call.env("CNI_ARGS", "NONSENSE")),
        call("stdin is no JSON", |call| call.stdin("not json")),
        call("a field has a wrong type", |call| call.field("name", json!(7))),
        call("no network name", |call| call.without("name")),
        call("an unknown cniVersion", |call| call.version("9.9.9")),
        call("cniVersion 0.3.1", |call| call.version("0.3.1")),
        call("no prevResult", |call| call.without("prevResult")),
        Mistake { words: "the agent is down", make: |call| call, agent: None },
        Mistake { words: "the agent does not know it", make: |call| call, agent: Some(unknown) },
        Mistake { words: "the agent says 51", make: |call| call, agent: Some(limited) },
    ]
}

/// A good call of each verb, with all that any of them needs.
fn good_call(bench: &Bench, verb: &str) -> Call {
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": bench.netns_path()}],
        "ips": [{"address": "10.244.1.2/32", "interface": 0}]
    });
    let valid = json!([{"containerID": "c1", "ifname": "eth0"}]);
    bench.call(verb).field("prevResult", result).field("cni.dev/valid-attachments", valid)
}

/// `ok`, or the error's code.
fn outcome(mistake: &Mistake, verb: &str) -> String {
    let bench = Bench::new();
    let call = (mistake.make)(good_call(&bench, verb));
    let agent = mistake.agent.map(|answer| bench.agent(vec![answer(verb)]));
    let outcome = bench.run(&call);
    drop(agent);
    if outcome.exit == 0 {
        return "ok".to_owned();
    }
    let error = outcome.json();
    assert!(error["msg"].as_str().is_some_and(|text| !text.is_empty()), "{verb}, {}: {error}", mistake.words);
    error["code"].to_string()
}

fn table() -> String {
    let rows: Vec<String> = std::thread::scope(|scope| {
        let rows: Vec<_> = mistakes()
            .into_iter()
            .map(|mistake| {
                scope.spawn(move || {
                    let cells: Vec<String> = VERBS.iter().map(|verb| outcome(&mistake, verb)).collect();
                    format!("| {} | {} |\n", mistake.words, cells.join(" | "))
                })
            })
            .collect();
        rows.into_iter().map(|row| row.join().unwrap()).collect()
    });
    format!(
        "| what is wrong | {} |\n|---|{}\n{}",
        VERBS.join(" | "),
        "---|".repeat(VERBS.len()),
        rows.concat()
    )
}

#[test]
fn the_table_of_verbs_and_errors_in_the_docs_is_what_the_program_does() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cni.md");
    let docs = std::fs::read_to_string(file).unwrap();
    let table = table();
    assert!(docs.contains(&table), "docs/cni.md lacks this table:\n{table}");
}

//! turnpike-cni against the specification, and against what real runtimes send.
//!
//! The program itself is run; the other side of its socket is the test, which sees the request and says the answer.

#[cfg(test)]
#[path = "conformance/harness.rs"]
mod harness;
#[cfg(test)]
#[path = "conformance/table.rs"]
mod table;
#[cfg(test)]
#[path = "conformance/vectors.rs"]
mod vectors;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::{Value, json};
    use turnpike_agent_api::{ErrorReply, Reply, Request, code, heartbeat_path};

    use crate::harness::{Bench, Call, added};

    #[test]
    fn version_answers_without_stdin_and_without_agent() {
        let bench = Bench::new();
        let outcome = bench.run(&Call::new("VERSION").with_open_stdin());
        assert_eq!(outcome.exit, 0);
        assert_eq!(outcome.json()["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
        assert_eq!(outcome.json()["cniVersion"], "1.1.0");
    }

    #[test]
    fn add_passes_the_namespace_and_prints_the_result() {
        let bench = Bench::new();
        let agent = bench.agent(vec![Reply::Added(added())]);
        let outcome = bench.run(&bench.call("ADD"));
        assert_eq!(outcome.exit, 0, "{}", outcome.stdout);
        let seen = agent.seen();
        let (request, namespace) = &seen[0];
        let Request::Add(request) = request else { panic!("{request:?}") };
        assert_eq!(request.attachment.container_id, "c1");
        assert_eq!(request.pod.name.as_deref(), Some("web-0"));
        assert_eq!(*namespace, Some(bench.netns_inode()), "the open file is the pod's namespace");
        let result = outcome.json();
        assert_eq!(result["ips"][0], json!({"address": "10.244.1.2/32", "interface": 1}));
        assert_eq!(result["interfaces"][1]["sandbox"], bench.netns_path());
    }

    #[test]
    fn add_with_a_lost_reply_asks_once_more() {
        let bench = Bench::new();
        let agent = bench.agent_that_drops_the_first(vec![Reply::Added(added())]);
        let outcome = bench.run(&bench.call("ADD"));
        assert_eq!(outcome.exit, 0, "{}", outcome.stdout);
        assert_eq!(agent.seen().len(), 2);
    }

    #[test]
    fn the_agents_refusal_is_told_in_the_callers_dialect() {
        let bench = Bench::new();
        let refusal = ErrorReply::new(code::EXHAUSTED, "no free IPv4 address").with_details("pool default");
        let _agent = bench.agent(vec![Reply::Error(refusal)]);
        let outcome = bench.run(&bench.call("ADD").version("0.4.0"));
        assert_eq!(outcome.exit, 1);
        assert_eq!(
            outcome.json(),
            json!({"cniVersion": "0.4.0", "code": 100, "msg": "no free IPv4 address", "details": "pool default"})
        );
    }

    /// Every verb against every way in which its call can be wrong: what is changed, and the code to expect.
    #[test]
    fn wrong_calls_get_the_specifications_codes() {
        let bench = Bench::new();
        let unset = |call: Call, name| call.env(name, "");
        let cases: Vec<(&str, Call, u64)> = vec![
            ("no verb", unset(bench.call("ADD"), "CNI_COMMAND"), 4),
            ("unknown verb", bench.call("PING"), 4),
            ("ADD without container", unset(bench.call("ADD"), "CNI_CONTAINERID"), 4),
            ("ADD with a bad container", bench.call("ADD").env("CNI_CONTAINERID", "../x"), 4),
            ("ADD without interface", unset(bench.call("ADD"), "CNI_IFNAME"), 4),
            ("ADD with a bad interface", bench.call("ADD").env("CNI_IFNAME", "a/b"), 4),
            ("ADD with a long interface", bench.call("ADD").env("CNI_IFNAME", "sixteen-bytes-00"), 4),
            ("ADD without namespace", unset(bench.call("ADD"), "CNI_NETNS"), 4),
            ("ADD with broken args", bench.call("ADD").env("CNI_ARGS", "NONSENSE"), 4),
            ("ADD into the host", bench.call("ADD").env("CNI_NETNS", "/proc/self/ns/net"), 8),
            ("ADD into a file", bench.call("ADD").env("CNI_NETNS", "/proc/version"), 8),
            ("ADD into nothing", bench.call("ADD").env("CNI_NETNS", "/run/netns/none-such"), 8),
            ("ADD without name", bench.call("ADD").without("name"), 7),
            ("ADD with a bad name", bench.call("ADD").field("name", json!("a b")), 7),
            ("ADD with a new version", bench.call("ADD").version("9.9.9"), 1),
            ("ADD without version", bench.call("ADD").without("cniVersion"), 1),
            ("ADD without JSON", bench.call("ADD").stdin("not json"), 6),
            ("ADD with empty stdin", bench.call("ADD").stdin(""), 6),
            ("ADD with a wrong type", bench.call("ADD").field("name", json!(7)), 6),
            ("DEL without container", unset(bench.call("DEL"), "CNI_CONTAINERID"), 4),
            ("DEL without interface", unset(bench.call("DEL"), "CNI_IFNAME"), 4),
            ("DEL without JSON", bench.call("DEL").stdin("{"), 6),
            ("CHECK without result", bench.call("CHECK"), 7),
            ("CHECK without namespace", unset(bench.call("CHECK"), "CNI_NETNS"), 4),
            ("CHECK before 0.4.0", bench.call("CHECK").version("0.3.1"), 1),
            ("STATUS before 1.1.0", bench.call("STATUS").version("1.0.0"), 1),
            ("GC before 1.1.0", bench.call("GC").version("1.0.0"), 1),
            ("GC without name", bench.call("GC").without("name"), 7),
        ];
        for (what, call, code) in cases {
            let outcome = bench.run(&call);
            assert_eq!(outcome.exit, 1, "{what}: {}", outcome.stdout);
            let error = outcome.json();
            assert_eq!(error["code"], code, "{what}: {error}");
            assert!(error["msg"].as_str().is_some_and(|text| !text.is_empty()), "{what}");
            assert!(error["cniVersion"].is_string(), "{what}");
        }
    }

    #[test]
    fn errors_never_say_not_found_which_runtimes_take_for_success() {
        let bench = Bench::new();
        for call in [bench.call("ADD").env("CNI_NETNS", "/run/netns/none-such"), bench.call("CHECK")] {
            assert!(!bench.run(&call).stdout.to_lowercase().contains("not found"));
        }
    }

    #[test]
    fn add_without_an_agent_waits_a_little_and_says_try_again_later() {
        let bench = Bench::new();
        let started = Instant::now();
        let outcome = bench.run(&bench.call("ADD"));
        assert_eq!((outcome.exit, &outcome.json()["code"]), (1, &json!(11)));
        assert!(started.elapsed() >= Duration::from_secs(4), "an agent that restarts is waited for");
    }

    #[test]
    fn add_finds_an_agent_that_comes_up_meanwhile() {
        let bench = Bench::new();
        let outcome = std::thread::scope(|scope| {
            let add = scope.spawn(|| bench.run(&bench.call("ADD")));
            // However late the agent comes within ADD's patience, ADD finds it.
            while !bench.cni_is_waiting() {
                std::thread::yield_now();
            }
            let _agent = bench.agent(vec![Reply::Added(added())]);
            add.join().unwrap()
        });
        assert_eq!(outcome.exit, 0, "{}", outcome.stdout);
    }

    #[test]
    fn del_without_an_agent_is_spooled_and_succeeds() {
        let bench = Bench::new();
        for _ in 0..3 {
            let outcome = bench.run(&bench.call("DEL").env("CNI_NETNS", ""));
            assert_eq!((outcome.exit, outcome.stdout.as_str()), (0, ""));
        }
        let spooled = bench.spooled();
        assert_eq!(spooled.len(), 1, "three DELs of one attachment are one file");
        assert_eq!(spooled[0].request.attachment.container_id, "c1");
    }

    #[test]
    fn del_with_an_agent_is_not_spooled() {
        let bench = Bench::new();
        let agent = bench.agent(vec![Reply::Done]);
        assert_eq!(bench.run(&bench.call("DEL").env("CNI_NETNS", "")).exit, 0);
        assert!(matches!(agent.seen()[0].0, Request::Del(_)));
        assert!(bench.spooled().is_empty());
    }

    #[test]
    fn del_that_can_neither_be_done_nor_spooled_fails() {
        let bench = Bench::new();
        let call = bench.call("DEL").field("spool", json!("/proc/none-such/spool"));
        let outcome = bench.run(&call);
        assert_eq!((outcome.exit, &outcome.json()["code"]), (1, &json!(5)));
    }

    #[test]
    fn status_says_50_only_when_the_agent_has_been_gone_for_long() {
        let bench = Bench::new();
        let outcome = bench.run(&bench.call("STATUS"));
        assert_eq!((outcome.exit, &outcome.json()["code"]), (1, &json!(50)));
        std::fs::write(heartbeat_path(&bench.socket()), "7").unwrap();
        assert_eq!(bench.run(&bench.call("STATUS")).exit, 0, "it lived a moment ago");
        let _agent = bench.agent(vec![Reply::Error(ErrorReply::new(code::NOT_AVAILABLE, "the store"))]);
        assert_eq!(bench.run(&bench.call("STATUS")).json()["code"], 50);
    }

    #[test]
    fn gc_without_a_list_asks_for_nothing_and_with_an_empty_one_it_does() {
        let bench = Bench::new();
        let agent = bench.agent(vec![Reply::Done, Reply::Done]);
        let key = "cni.dev/valid-attachments";
        assert_eq!(bench.run(&bench.call("GC")).exit, 0);
        assert_eq!(bench.run(&bench.call("GC").field(key, Value::Null)).exit, 0);
        assert!(agent.seen().is_empty());
        assert_eq!(bench.run(&bench.call("GC").field(key, json!([]))).exit, 0);
        let one = json!([{"containerID": "c1", "ifname": "eth0"}]);
        assert_eq!(bench.run(&bench.call("GC").field(key, one)).exit, 0);
        let lists: Vec<usize> = agent
            .seen()
            .iter()
            .map(|(request, _)| match request {
                Request::Gc(request) => request.valid.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lists, [0, 1]);
    }
}

//! Replays the calls of real runtimes.

use serde_json::Value;
use turnpike_agent_api::{Bandwidth, Reply, Request};

use crate::harness::{Bench, Call, added};

/// A recorded call: verb, the fields of its heading, stdin.
struct Recorded {
    verb: String,
    fields: Vec<(String, String)>,
    config: Value,
}

fn read(log: &str) -> Vec<Recorded> {
    let mut lines = log.lines();
    let mut calls = Vec::new();
    while let Some(line) = lines.next() {
        let Some(heading) = line.strip_prefix("=== ") else { continue };
        let mut words = heading.split(' ');
        let verb = words.next().unwrap().to_owned();
        let fields = words.filter_map(|word| word.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
        let fields = fields.collect();
        let config = serde_json::from_str(lines.next().unwrap()).unwrap();
        calls.push(Recorded { verb, fields, config });
    }
    calls
}

impl Recorded {
    fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// The call as it was, but for the namespace, which is one that exists here, and our socket and spool.
    fn call(&self, bench: &Bench) -> Call {
        let netns = if self.field("ns").is_empty() { String::new() } else { bench.netns_path() };
        let call = Call::new(&self.verb)
            .env("CNI_CONTAINERID", self.field("id"))
            .env("CNI_NETNS", &netns)
            .env("CNI_IFNAME", self.field("if"))
            .env("CNI_ARGS", self.field("args"))
            .env("CNI_PATH", self.field("path"))
            .config(self.config.clone());
        bench.here(call)
    }
}

fn replay(log: &str) -> Vec<(String, Vec<Request>)> {
    read(log)
        .into_iter()
        .map(|recorded| {
            let bench = Bench::new();
            let reply = if recorded.verb == "ADD" { Reply::Added(added()) } else { Reply::Done };
            let agent = bench.agent(vec![reply]);
            let outcome = bench.run(&recorded.call(&bench));
            assert_eq!(outcome.exit, 0, "{}: {}", recorded.verb, outcome.stdout);
            if recorded.verb == "ADD" {
                assert_eq!(outcome.json()["cniVersion"], recorded.config["cniVersion"]);
            } else {
                assert_eq!(outcome.stdout, "", "{}", recorded.verb);
            }
            (recorded.verb, agent.seen().into_iter().map(|(request, _)| request).collect())
        })
        .collect()
}

fn limited_pod(calls: &[(String, Vec<Request>)]) {
    let adds: Vec<_> = calls
        .iter()
        .filter_map(|(_, requests)| match requests.first() {
            Some(Request::Add(request)) => Some(request),
            _ => None,
        })
        .collect();
    let pod = adds.iter().find(|add| add.pod.name.as_deref() == Some("web-0")).unwrap();
    assert_eq!(pod.pod.namespace.as_deref(), Some("default"));
    assert_eq!(pod.pod.uid.as_deref(), Some("u-1"));
    let Some(Bandwidth { ingress_rate, egress_rate, .. }) = pod.bandwidth else { panic!("no bandwidth") };
    assert_eq!((ingress_rate, egress_rate), (10_000_000, 20_000_000), "capitalised keys are read");
    assert_eq!(pod.annotations.len(), 2, "only the two that matter: {:?}", pod.annotations);
}

#[test]
fn containerd_1_6_is_understood() {
    let calls = replay(include_str!("../vectors/containerd-1.6.20-crictl-spy.log"));
    let verbs: Vec<&str> = calls.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs, ["ADD", "DEL", "ADD", "DEL", "DEL", "DEL"], "a pod's end is three DELs");
    assert!(calls.iter().all(|(_, requests)| requests.len() == 1));
    limited_pod(&calls);
}

#[test]
fn containerd_2_3_is_understood() {
    let calls = replay(include_str!("../vectors/containerd-2.3.4-crictl-spy.log"));
    assert!(calls.iter().any(|(verb, requests)| verb == "STATUS" && requests == &[Request::Ready]));
    limited_pod(&calls);
    let cgroup = calls.iter().find_map(|(_, requests)| match requests.first() {
        Some(Request::Add(request)) => request.cgroup_path.clone(),
        _ => None,
    });
    assert_eq!(cgroup.as_deref(), Some("/kubepods/podu-1"));
}

#[test]
fn cnitool_is_understood_and_its_gc_deletes_nothing() {
    let calls = replay(include_str!("../vectors/cnitool-1.3.0-spy.log"));
    let verbs: Vec<&str> = calls.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs, ["ADD", "CHECK", "STATUS", "STATUS", "DEL", "GC", "DEL"]);
    let requests = |wanted: &str| calls.iter().find(|(verb, _)| verb == wanted).unwrap().1.clone();
    assert!(requests("GC").is_empty());
    let check = requests("CHECK");
    let Request::Check(check) = &check[0] else { panic!("{check:?}") };
    assert_eq!(check.addresses, ["10.66.0.9".parse::<std::net::IpAddr>().unwrap()]);
}

use serde_json::json;

use super::*;

fn agent() -> StatusReport {
    serde_json::from_value(json!({
        "node": "node1", "version": "0.1.0", "pid": 7, "uptime_s": 192, "health": "ready",
        "source": {"folder": "/etc/turnpike/resources", "resources": 9, "age_s": 61, "errors": []},
        "pools": [
            {"name": "v4", "cidr": "10.244.0.0/16", "state": "Active", "used": 2, "cooling": 1, "total": 64},
            {"name": "v6", "cidr": "fd00:244::/48", "state": "Active", "used": 2, "cooling": 1, "total": 64}
        ],
        "blocks": [{"cidr": "10.244.1.0/26", "pool": "v4", "used": 2, "cooling": 1, "total": 64}],
        "pods": [
            {"attachment": {"container_id": "58408724910ee696571d", "ifname": "eth0"},
             "pod": {"namespace": "default", "name": "web-0"},
             "addresses": ["10.244.1.1", "fd00:244:0:1::1"], "host_link": "tpk3c5e3ea48c40", "mtu": 1500,
             "to_workload": 100_000_000, "from_workload": null, "state": "ready", "age_s": 59},
            {"attachment": {"container_id": "683a498c8c05661b4fec", "ifname": "eth0"}, "pod": {},
             "addresses": ["10.244.1.2"], "host_link": "tpk568e24044b19", "mtu": 1500,
             "to_workload": null, "from_workload": null, "state": "missing", "age_s": 7200}
        ],
        "bgp": {"socket": "/run/turnpike/bgpd.sock", "delivered": false, "error": "cannot reach turnpike-bgpd",
                "networks": ["10.244.1.0/26"], "peers": ["rr1 10.1.3.21"]},
        "problems": [{"severity": "degraded", "subject": "ebpf", "message": "no TCX; clsact is used", "age_s": 190}],
        "limits_held_by": "TBF", "last_errors": [], "requests": {"ADD ok": 2}
    }))
    .unwrap()
}

#[test]
fn the_screen_of_a_node_without_bgpd() {
    let status = NodeStatus {
        agent: Some(agent()),
        agent_error: None,
        bgpd: None,
        bgpd_error: Some("cannot reach turnpike-bgpd at /run/turnpike/bgpd.sock".to_owned()),
    };
    let expected = "\
node node1: agent 0.1.0 up 3m12s, ready
resources: 9 from /etc/turnpike/resources, read 1m01s ago
limits: held by TBF

pools
  NAME  CIDR           STATE   USED HERE
  v4    10.244.0.0/16  Active  2/64
  v6    fd00:244::/48  Active  2/64

blocks
  CIDR           POOL  USED  COOLING
  10.244.1.0/26  v4    2/64  1

pods (2)
  POD            ADDRESSES                   LINK             MTU   INGRESS  EGRESS  STATE    AGE
  default/web-0  10.244.1.1,fd00:244:0:1::1  tpk3c5e3ea48c40  1500  100M     -       ready    59s
  683a498c8c05   10.244.1.2                  tpk568e24044b19  1500  -        -       missing  2h00m

bgp: cannot reach turnpike-bgpd at /run/turnpike/bgpd.sock
  blocks to announce: 10.244.1.0/26 (bgpd has NOT got them)
  cannot reach turnpike-bgpd

problems
  degraded ebpf: no TCX; clsact is used (3m10s ago)
";
    assert_eq!(render(&status), expected);
}

#[test]
fn mistakes_in_resources_stand_at_the_top() {
    let mut agent = agent();
    agent.health = Health::NotReady("the agent's store cannot be written".to_owned());
    agent.source.errors = vec!["a.yaml:3: spec.cidr: wrong; write it right".to_owned()];
    let status = NodeStatus { agent: Some(agent), agent_error: None, bgpd: None, bgpd_error: None };
    let screen = render(&status);
    let expected = "\
node node1: agent 0.1.0 up 3m12s, NOT READY: the agent's store cannot be written
resources: 9 from /etc/turnpike/resources, read 1m01s ago
limits: held by TBF
  REFUSED a.yaml:3: spec.cidr: wrong; write it right
";
    assert!(screen.starts_with(expected), "{screen}");
}

#[test]
fn a_node_without_agent_says_so() {
    let error = Some("cannot reach turnpike-agent at /run/turnpike/agent.sock".to_owned());
    let status = NodeStatus { agent: None, agent_error: error, bgpd: None, bgpd_error: None };
    let expected = "\
agent: cannot reach turnpike-agent at /run/turnpike/agent.sock

bgp: no answer
";
    assert_eq!(render(&status), expected);
}

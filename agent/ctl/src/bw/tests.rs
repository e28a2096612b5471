use turnpike_agent_api::{Attachment, BwBurst, BwDirection, BwShadow, BwSource, BwUplink, PodInfo, Rates};

use super::*;

/// A node with a limited and a free pod.
pub(super) fn report() -> BwReport {
    let rates = |last_1s, last_10s| Rates { last_1s: Some(last_1s), last_10s: Some(last_10s) };
    let pod = |name: &str, last: u8, to_workload| BwPod {
        attachment: Attachment { container_id: format!("c0ffee{last}"), ifname: "eth0".into() },
        pod: PodInfo { namespace: Some("shop".into()), name: Some(name.into()), uid: None },
        addresses: vec![format!("10.244.1.{last}").parse().unwrap()],
        host_link: format!("tpk{last}"),
        class: None,
        exempt: Vec::new(),
        exempt_refused: Vec::new(),
        to_workload,
        from_workload: BwDirection { decided_by: "nobody".into(), ..BwDirection::default() },
    };
    let limited = BwDirection {
        limit: Some(100_000_000),
        decided_by: "NodeBandwidth/base spec.limits".into(),
        sources: vec![
            BwSource { source: "NodeBandwidth/base spec.limits".into(), rate: 100_000_000 },
            BwSource { source: "annotation kubernetes.io/ingress-bandwidth".into(), rate: 1_000_000_000 },
        ],
        rates: rates(95_640_000, 9_564_000),
        share_permille: Some(956),
        bytes: 12_000_000,
        marked: 17,
        not_capable: 2,
        drops: 3,
        queue_us: 1_250,
        burst: Some(BwBurst {
            time: "20ms".into(),
            bytes: 250_000,
            decided_by: "annotation turnpike.io/ingress-burst".into(),
        }),
        shadow: Some(BwShadow {
            limit: 20_000_000,
            decided_by: "NodeBandwidth/try spec.limits".into(),
            packets: 1000,
            marked: 40,
            not_capable: 5,
            drops: 6,
        }),
    };
    BwReport {
        node: "n1".into(),
        age_ms: Some(420),
        history_s: 65,
        held_by: "TBF".into(),
        class_queues: "fq_codel".into(),
        trial: None,
        uplinks: vec![BwUplink {
            name: "eth0".into(),
            speed: Some(1_000_000_000),
            sent: rates(1_000_000, 999),
            received: Rates::default(),
            free: Some(999_000_000),
            classes: Vec::new(),
        }],
        pods: vec![pod("db", 3, BwDirection::default()), pod("web", 2, limited)],
    }
}

#[test]
fn a_pod_is_found_by_any_of_its_names() {
    let report = report();
    for wanted in ["web", "shop/web", "10.244.1.2", "tpk2", "c0ffee2"] {
        assert_eq!(find(&report, wanted).unwrap().host_link, "tpk2", "{wanted}");
    }
    let error = find(&report, "c0ffee").unwrap_err().to_string();
    assert!(error.contains("shop/db, shop/web"), "{error}");
    assert!(find(&report, "nope").unwrap_err().to_string().contains("bw top --once"));
}

#[test]
fn show_names_the_source_that_decided_and_the_others() {
    assert_eq!(
        text::show(find(&report(), "web").unwrap()),
        "\
pod shop/web  10.244.1.2  tpk2

to the pod (ingress)
  limit       100Mbit/s = 12.5MB/s, decided by NodeBandwidth/base spec.limits
    source    100M   NodeBandwidth/base spec.limits
    source    1G     annotation kubernetes.io/ingress-bandwidth
  burst       20ms = 250kB at once, annotation turnpike.io/ingress-burst
  rate        95.6Mbit/s over 1 s, 9.56Mbit/s over 10 s
  share       95.6% of the limit
  packets     17 marked (CE), 3 dropped, 2 of them early for want of ECN
  queue       1.25ms
  shadow      20Mbit/s = 2.50MB/s, by NodeBandwidth/try spec.limits, not in force
    would     of 1000 packets: 40 marked (CE), 6 dropped, 5 of them early for want of ECN

from the pod (egress)
  limit       none
  rate        -bit/s over 1 s, -bit/s over 10 s
"
    );
}

#[test]
fn top_lists_the_busiest_first() {
    let text = text::top(&report());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "node n1: 2 pods, counters read 420 ms ago, history 1m05s");
    assert_eq!(lines[1], "limits held by TBF");
    assert_eq!(lines[2], "uplink eth0: speed 1G  out 1.00M / 999  in - / -  free 999M");
    assert_eq!(
        lines[3],
        "shadow shop/web, to the pod: 20M by NodeBandwidth/try spec.limits would have 40 marked (CE), 6 dropped, \
         5 of them early for want of ECN"
    );
    assert!(lines[6].starts_with("  shop/web  100M"), "{text}");
    assert!(lines[7].starts_with("  shop/db   -"), "{text}");
}

#[test]
fn a_plan_names_the_hardest_hit_first_and_spares_a_line_for_the_others() {
    let row = |name: &str, seconds, mean_excess| turnpike_agent_api::BwPlanRow {
        name: name.into(),
        direction: "from the pod".into(),
        before: None,
        after: Some(50_000_000),
        seconds,
        of_seconds: 900,
        mean_excess,
        worst_excess: mean_excess * 2,
    };
    let plan = turnpike_agent_api::BwPlan {
        resource: "NodeBandwidth/base".into(),
        history_s: 900,
        rows: vec![row("shop/db", 9, 1_000_000), row("shop/web", 450, 25_000_000), row("shop/idle", 0, 0)],
        notes: vec!["of note".into()],
    };
    assert_eq!(
        text::plan(&plan),
        "\
NodeBandwidth/base against 15m00s of history

  WHO       DIRECTION     LIMIT NOW  PLANNED  HELD BACK          BY (MEAN)   BY (WORST)
  shop/web  from the pod  -          50M      50.0% of the time  25.0Mbit/s  50.0Mbit/s
  shop/db   from the pod  -          50M      1.0% of the time   1.00Mbit/s  2.00Mbit/s

not held back: shop/idle from the pod
note: of note
"
    );
}

#[test]
fn durations_are_read_as_people_write_them() {
    assert_eq!(["60s", "5m", "1h", "7", "0"].map(|text| seconds(text).unwrap()), [60, 300, 3600, 7, 0]);
    for wrong in ["", "s", "1d", "-5s", "1.5m"] {
        assert!(seconds(wrong).unwrap_err().contains("60s"), "{wrong}");
    }
}

#[test]
fn numbers_are_short() {
    let shown = [0, 999, 1000, 95_640_000, 123_456_789, 1_020_000_000].map(|n| text::short(Some(n)));
    assert_eq!(shown, ["0", "999", "1.00k", "95.6M", "123M", "1.02G"]);
}

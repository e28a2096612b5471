//! What others do to a node's pods is noticed, and what we do ourselves is not taken for it.

use std::collections::BTreeSet;
use std::time::Duration;

use turnpike_dataplane::{Concern, Dataplane, Pacer, Watch};
use turnpike_model::desired::{DesiredState, HostPort, Protocol};

use crate::load_balancer::with_director;
use crate::sandbox::{
    Host, Pod, apply, attach, endpoint, limited, links_of_ours, run, same, snapshot, state,
};

/// What the watch has been told so far.
fn told(watch: &mut Watch) -> BTreeSet<Concern> {
    let mut all = BTreeSet::new();
    loop {
        let some = watch.wait(Duration::ZERO).expect("wait");
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

fn reasons(plane: &mut Dataplane, concerns: &BTreeSet<Concern>) -> Vec<String> {
    concerns.iter().filter_map(|concern| plane.must_mend(concern)).collect()
}

#[test]
fn the_watch_sees_what_others_take_away_and_nothing_else() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let desired = with_director(state(&[limited(endpoint(1), 100, 100)]));
    apply(&mut plane, &with_director(DesiredState::default()));
    attach(&mut plane, &limited(endpoint(1), 100, 100), &pod);
    apply(&mut plane, &desired);
    let mut watch = Watch::open(&host.config(), plane.own_ports()).expect("a watch");
    let moment = Duration::from_millis(300);
    let name = endpoint(1).host_link;
    let before = snapshot();
    let program = if plane.pacer() == Pacer::Fq { "egress" } else { "parent 7471:" };
    for (line, seen) in [
        (format!("ip route del 10.244.0.1 dev {name}"), true),
        (format!("ip link set {name} address 02:00:00:00:00:01"), true),
        (format!("ip addr del fe80::ecee:eeff:feee:eeee/64 dev {name}"), true),
        (format!("ip neigh del 10.244.0.1 dev {name}"), true),
        (format!("tc qdisc del dev {name} root"), true),
        (format!("tc filter del dev {name} ingress"), true),
        (format!("tc filter del dev {name} {program}"), true),
        (format!("tc qdisc del dev {name} clsact"), true),
        ("nft flush set inet turnpike pods4".to_owned(), true),
        ("nft delete table inet turnpike".to_owned(), true),
        (format!("ip link del {}", name.replacen("tpk", "tpki", 1)), true),
        ("ip route add 192.0.2.0/24 via 10.1.1.1".to_owned(), false),
        ("ip route del 192.0.2.0/24 via 10.1.1.1".to_owned(), false),
        ("ip link add other type bridge".to_owned(), false),
        ("ip link del other".to_owned(), false),
        ("nft add table inet other".to_owned(), false),
        ("nft delete table inet other".to_owned(), false),
    ] {
        run(&line);
        let noticed = watch.wait(if seen { Duration::from_secs(10) } else { moment }).expect("wait");
        let reasons: Vec<_> = noticed.iter().filter_map(|concern| plane.must_mend(concern)).collect();
        assert_eq!(!reasons.is_empty(), seen, "{line}: {noticed:?}, {reasons:?}");
        apply(&mut plane, &desired);
        // Our own mending may be noticed as well; an apply without anything to mend is silent.
        while !watch.wait(Duration::ZERO).expect("wait").is_empty() {}
        apply(&mut plane, &desired);
        assert_eq!(watch.wait(Duration::ZERO).expect("wait"), [].into(), "{line}");
        if seen {
            same(&snapshot(), &before, &line);
        }
    }
}

/// Verifies: pods with and without limits, host ports and exempt ranges come, come again, fail to come, are cut off, swept
/// and removed, and none of that is a reason for an apply, judged at once or later.
#[test]
fn pods_that_come_and_go_are_no_reason_to_mend() {
    let host = Host::enter();
    let mut plane = host.open();
    apply(&mut plane, &with_director(DesiredState::default()));
    let mut watch = Watch::open(&host.config(), plane.own_ports()).expect("a watch");
    let mut ported = endpoint(3);
    ported.host_ports =
        vec![HostPort { host_port: 8080, container_port: 80, protocol: Protocol::Tcp, host_ip: None }];
    let mut exempting = limited(endpoint(4), 100, 100);
    exempting.exempt = ["10.1.0.0/16".parse().expect("a prefix")].into();
    let endpoints = [endpoint(1), limited(endpoint(2), 100, 100), ported, exempting];
    let pods = endpoints.each_ref().map(|_| Pod::new());
    let mut seen = BTreeSet::new();
    for (endpoint, pod) in endpoints.iter().zip(&pods) {
        attach(&mut plane, endpoint, pod);
        let concerns = told(&mut watch);
        assert_eq!(reasons(&mut plane, &concerns), [] as [String; 0], "ADD of {}", endpoint.host_link);
        seen.extend(concerns);
        plane.cut_off(&endpoint.host_link).expect("cut off");
        let concerns = told(&mut watch);
        assert_eq!(reasons(&mut plane, &concerns), [] as [String; 0], "DEL of {}", endpoint.host_link);
        seen.extend(concerns);
        attach(&mut plane, endpoint, pod);
        plane.detach(&endpoint.host_link).expect("detach");
        attach(&mut plane, endpoint, pod);
        let taken = Pod::new();
        taken.run("ip link add eth0 type bridge");
        plane.attach(&self::endpoint(9), taken.fd()).expect_err("a taken name");
        seen.extend(told(&mut watch));
    }
    assert!(!seen.is_empty(), "links that are made are looked at");
    assert_eq!(reasons(&mut plane, &seen), [] as [String; 0]);
    for endpoint in &endpoints {
        plane.cut_off(&endpoint.host_link).expect("cut off");
    }
    plane.sweep().expect("a sweep");
    assert_eq!(links_of_ours(), [] as [String; 0]);
    let last = told(&mut watch);
    assert!(!last.is_empty(), "links that went are looked at");
    assert_eq!(reasons(&mut plane, &(&last | &seen)), [] as [String; 0]);
}

/// Verifies: what somebody else does to a pod's link at the moment of its ADD or right after it is a reason, although all
/// messages about that link are judged together, and so is what he does to another pod's.
#[test]
fn what_others_do_while_pods_come_is_not_missed() {
    let host = Host::enter();
    let mut plane = host.open();
    apply(&mut plane, &with_director(DesiredState::default()));
    let mut watch = Watch::open(&host.config(), plane.own_ports()).expect("a watch");
    let all: Vec<_> = (1..10).map(|number| limited(endpoint(number), 100, 100)).collect();
    let (older, pod) = (&all[0], Pod::new());
    attach(&mut plane, older, &pod);
    let mut pods = vec![pod];
    let desired = |count: usize| with_director(state(&all[..count]));
    apply(&mut plane, &desired(1));
    for (count, doing) in [
        "ip link set LINK down",
        "ip link set LINK address 02:00:00:00:00:01",
        "ip addr del fe80::ecee:eeff:feee:eeee/64 dev LINK",
        "ip neigh flush dev LINK nud permanent",
        "ip route flush dev LINK proto 201",
        "tc qdisc del dev LINK clsact",
        "nft flush set inet turnpike pods6",
    ]
    .into_iter()
    .enumerate()
    {
        let new = &all[count + 1];
        for target in [new, older] {
            let came = Pod::new();
            attach(&mut plane, new, &came);
            let before = snapshot();
            run(&doing.replace("LINK", &target.host_link));
            let concerns = told(&mut watch);
            assert!(
                !reasons(&mut plane, &concerns).is_empty(),
                "{doing} on {}: {concerns:?}",
                target.host_link
            );
            apply(&mut plane, &desired(count + 2));
            same(&snapshot(), &before, doing);
            told(&mut watch);
            if target == older {
                pods.push(came);
            } else {
                plane.detach(&new.host_link).expect("detach");
                told(&mut watch);
            }
        }
    }
    // A link that is gone cannot be put back: it is said once, and the keeper's look gives the pod up.
    run(&format!("ip link del {}", older.host_link));
    let concerns = told(&mut watch);
    assert!(!reasons(&mut plane, &concerns).is_empty(), "{concerns:?}");
    assert_eq!(plane.apply(&desired(all.len() - 1)).len(), 1);
    let about_links = concerns.into_iter().filter(|concern| !matches!(concern, Concern::Taken(_))).collect();
    assert_eq!(reasons(&mut plane, &about_links), [] as [String; 0], "known by now");
    // Somebody's link of our name is no pod's.
    run("ip link add tpkstranger type veth peer name theirs");
    let concerns = told(&mut watch);
    assert!(!reasons(&mut plane, &concerns).is_empty(), "{concerns:?}");
}

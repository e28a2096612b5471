//! Sysctls: those of pods' links are ours, those of the node's others' as far as they can be.

use turnpike_model::desired::{DesiredState, HostPort, Protocol};

use crate::sandbox::{Host, Pod, apply, attach, endpoint, run, state};

/// The kernel tells most of them by their places in lists: each place is tried.
#[test]
fn every_sysctl_of_a_pods_link_is_put_back() {
    let host = Host::enter();
    let mut plane = host.open();
    let pod = Pod::new();
    let port = HostPort { protocol: Protocol::Tcp, host_port: 8080, container_port: 80, host_ip: None };
    let mut endpoint = endpoint(1);
    endpoint.host_ports.push(port);
    apply(&mut plane, &DesiredState::default());
    attach(&mut plane, &endpoint, &pod);
    let desired = state(&[endpoint.clone()]);
    for (key, wanted, wrong) in [
        ("ipv4/conf/LINK/forwarding", "1", "0"),
        ("ipv4/conf/LINK/proxy_arp", "1", "0"),
        ("ipv4/neigh/LINK/proxy_delay", "0", "80"),
        ("ipv4/conf/LINK/rp_filter", "1", "2"),
        ("ipv4/conf/LINK/accept_local", "0", "1"),
        ("ipv4/conf/LINK/route_localnet", "1", "0"),
        ("ipv6/conf/LINK/addr_gen_mode", "1", "0"),
        ("ipv6/conf/LINK/accept_ra", "0", "2"),
        ("ipv6/conf/LINK/accept_dad", "0", "1"),
        ("ipv6/conf/LINK/disable_ipv6", "0", "1"),
        ("ipv6/conf/LINK/forwarding", "1", "0"),
    ] {
        let path = format!("/proc/sys/net/{}", key.replace("LINK", &endpoint.host_link));
        let read = || std::fs::read_to_string(&path).expect("a sysctl").trim().to_owned();
        assert_eq!(read(), wanted, "{key} after the attachment");
        std::fs::write(&path, wrong).expect("write");
        assert_eq!(read(), wrong, "{key}");
        apply(&mut plane, &desired);
        assert_eq!(read(), wanted, "{key} after an apply");
    }
    assert_eq!(plane.check(&endpoint, pod.fd()).expect("check"), []);
}

#[test]
fn forwarding_leaves_listening_to_router_advertisements_as_it_was() {
    let host = Host::enter();
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}")).expect("sysctl").trim().to_owned()
    };
    run("sysctl -qw net.ipv6.conf.all.forwarding=0");
    run("sysctl -qw net.ipv6.conf.eth0.accept_ra=1");
    drop(host.open());
    assert_eq!((read("all/forwarding").as_str(), read("eth0/accept_ra").as_str()), ("1", "2"));
}

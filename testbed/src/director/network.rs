//! What the kernel must know so that packets reach the TUN device: link, routes, forwarding, proxy neighbours.

use std::{collections::BTreeSet, fs, net::IpAddr};

use anyhow::{Context as _, Result};
use netlink_packet_route::{neighbour::NeighbourFlags, route::RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::runtime::Runtime;

use super::config::{DirectorConfig, Service};

/// Packets that wait for the director while it is not scheduled; the default of 500 is one busy time slice.
const QUEUE: u32 = 4000;

/// The kernel's view of one director. All of it hangs on the TUN device and goes with it, except forwarding
/// (a property of the namespace) and proxy entries (of the LAN's interface).
pub(super) struct Network {
    runtime: Runtime,
    handle: Handle,
    tun: u32,
    proxies: Vec<u32>,
    routed: BTreeSet<IpAddr>,
}

impl Network {
    /// Brings the device up and leads VIPs and local addresses into it.
    pub(super) fn set_up(config: &DirectorConfig) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
            runtime.spawn(connection);
            handle
        };
        let tun = index(&config.tun)?;
        let proxies = config.proxy_neighbours_on.iter().map(|name| index(name)).collect::<Result<_>>()?;
        // No link-local address and none of its chatter. Absent where IPv6 is off.
        let _optional = sysctl(&format!("net/ipv6/conf/{}/addr_gen_mode", config.tun), "1");
        let link = LinkUnspec::new_with_index(tun).mtu(config.mtu.into()).txqueuelen(QUEUE).up().build();
        runtime
            .block_on(handle.link().set(link).execute())
            .with_context(|| format!("bring up {}", config.tun))?;
        let mut network = Self { runtime, handle, tun, proxies, routed: BTreeSet::new() };
        network.route_all(config.local_addresses.iter().copied())?;
        network.route_services(&config.services)?;
        network.forward(&config.proxy_neighbours_on)?;
        Ok(network)
    }

    /// Leads the VIPs of `services` into the device. Routes of earlier VIPs stay: their sessions go on.
    pub(super) fn route_services(&mut self, services: &[Service]) -> Result<()> {
        self.route_all(services.iter().map(|service| service.vip.ip()))
    }

    fn route_all(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Result<()> {
        for address in addresses {
            if self.routed.insert(address) {
                self.route(address).with_context(|| format!("route {address} into the director"))?;
            }
        }
        Ok(())
    }

    fn route(&self, address: IpAddr) -> Result<()> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let scope = if address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address, length)?
            .output_interface(self.tun)
            .scope(scope)
            .build();
        self.runtime.block_on(self.handle.route().add(route).replace().execute())?;
        for &interface in &self.proxies {
            let proxy = self.handle.neighbours().add(interface, address).flags(NeighbourFlags::Proxy);
            self.runtime
                .block_on(proxy.replace().execute())
                .with_context(|| format!("answer for {address} on interface {interface}"))?;
        }
        Ok(())
    }

    fn forward(&self, proxies: &[String]) -> Result<()> {
        // Proxies answer after a random delay of up to 0.8 s unless told that nobody else will answer.
        if self.routed.iter().any(IpAddr::is_ipv4) {
            sysctl("net/ipv4/ip_forward", "1")?;
            for interface in proxies {
                sysctl(&format!("net/ipv4/neigh/{interface}/proxy_delay"), "0")?;
            }
        }
        if self.routed.iter().any(IpAddr::is_ipv6) {
            sysctl("net/ipv6/conf/all/forwarding", "1")?;
            for interface in proxies {
                sysctl(&format!("net/ipv6/conf/{interface}/proxy_ndp"), "1")?;
                sysctl(&format!("net/ipv6/neigh/{interface}/proxy_delay"), "0")?;
            }
        }
        Ok(())
    }
}

fn index(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("find interface {name}"))
}

fn sysctl(path: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/{path}"), value).with_context(|| format!("set {path} to {value}"))
}

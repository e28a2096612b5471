//! What the director is told: virtual services, local addresses, timeouts.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{flow::Protocol, toa::Toa};

/// The whole configuration of one director, as the binary reads it (JSON or TOML).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DirectorConfig {
    /// Name of the TUN device.
    pub tun: String,
    /// Largest IP packet towards clients and servers, in bytes.
    pub mtu: u16,
    /// Unix socket for statistics and reconfiguration.
    pub control: PathBuf,
    /// The addresses that servers see as the source; at least one of each family that services use.
    pub local_addresses: Vec<IpAddr>,
    /// The ports that servers see as the source.
    pub local_ports: PortRange,
    /// The virtual services.
    pub services: Vec<Service>,
    /// How long sessions last without packets.
    pub timeouts: Timeouts,
    /// Sessions beyond this number are refused.
    pub max_sessions: usize,
    /// Lower the MSS that servers announce, so that full segments of clients leave room for the option.
    pub clamp_mss: bool,
    /// Overwrite options of the service's own TOA kind that a client put into its packets, with no-ops.
    pub blank_client_toa: bool,
    /// Interfaces that answer ARP and neighbour solicitations for VIPs and local addresses.
    ///
    /// Empty where routers have routes for them to the director.
    pub proxy_neighbours_on: Vec<String>,
    /// Where local ports begin to be handed out; a random one where absent.
    pub seed: Option<u64>,
}

impl Default for DirectorConfig {
    fn default() -> Self {
        Self {
            tun: "lvs0".into(),
            mtu: 1500,
            control: "/run/director.sock".into(),
            local_addresses: Vec::new(),
            local_ports: PortRange::default(),
            services: Vec::new(),
            timeouts: Timeouts::default(),
            max_sessions: 65_536,
            clamp_mss: true,
            blank_client_toa: true,
            proxy_neighbours_on: Vec::new(),
            seed: None,
        }
    }
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 1025, last: 65_535 }
    }
}

/// A virtual service: what clients connect to, and who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The virtual address and port.
    pub vip: SocketAddr,
    /// The servers, of the same family.
    pub reals: Vec<Real>,
    /// How servers are told the client's address (TCP only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toa: Option<Toa>,
}

/// A real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Real {
    /// Its address and port.
    pub address: SocketAddr,
    /// Its share of new sessions; 0 drains it.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// How long a session lasts without packets, in seconds, by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// TCP, before the client's acknowledgement of the server's SYN.
    pub syn: u64,
    /// TCP, established.
    pub established: u64,
    /// TCP, one side has closed.
    pub fin: u64,
    /// TCP, both sides have closed; as long as servers hold TIME-WAIT.
    pub time_wait: u64,
    /// TCP, after a reset.
    pub reset: u64,
    /// UDP.
    pub udp: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { syn: 30, established: 900, fin: 120, time_wait: 60, reset: 10, udp: 300 }
    }
}

impl Timeouts {
    pub(super) fn seconds(value: u64) -> Duration {
        // A century, so that sums of times cannot overflow.
        Duration::from_secs(value.clamp(1, 3_000_000_000))
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The same virtual service twice.
    #[error("service {protocol} {vip} is there twice: remove one")]
    DuplicateService {
        /// Its protocol.
        protocol: Protocol,
        /// Its address.
        vip: SocketAddr,
    },
    /// A server of the other address family.
    #[error("service {vip}: server {real} is of another address family; NAT64 is not offered")]
    MixedFamilies {
        /// The service.
        vip: SocketAddr,
        /// The server.
        real: SocketAddr,
    },
    /// A server address that the director itself owns: its packets would come back for ever.
    #[error("service {vip}: server {real} is a VIP or a local address of this director")]
    Loop {
        /// The service.
        vip: SocketAddr,
        /// The server.
        real: SocketAddr,
    },
    /// An address that is VIP and local address at once.
    #[error("{0} is both a VIP and a local address: choose another local address")]
    VipIsLocal(IpAddr),
    /// No local address of a service's family.
    #[error("service {0} has no local address of its family: add one to local_addresses")]
    NoLocalAddress(SocketAddr),
    /// TOA for UDP.
    #[error("service {0} is UDP and cannot carry TOA, which is a TCP option")]
    ToaOnUdp(SocketAddr),
    /// An empty or zero port range.
    #[error("local_ports {first}–{last} is empty or starts at 0")]
    Ports {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// An MTU under what the families need.
    #[error("mtu {0} is under 576, or under 1280 with IPv6")]
    Mtu(u16),
}

impl DirectorConfig {
    /// Checks what types cannot.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let PortRange { first, last } = self.local_ports;
        if first == 0 || first > last {
            return Err(ConfigError::Ports { first, last });
        }
        let smallest = if self.local_addresses.iter().any(IpAddr::is_ipv6) { 1280 } else { 576 };
        if self.mtu < smallest {
            return Err(ConfigError::Mtu(self.mtu));
        }
        validate_services(&self.services, &self.local_addresses)
    }
}

/// Checks services against each other and against the local addresses.
pub(super) fn validate_services(services: &[Service], local: &[IpAddr]) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    let vips: BTreeSet<IpAddr> = services.iter().map(|service| service.vip.ip()).collect();
    if let Some(both) = vips.iter().find(|vip| local.contains(vip)) {
        return Err(ConfigError::VipIsLocal(*both));
    }
    for Service { protocol, vip, reals, toa } in services {
        if !seen.insert((*protocol, *vip)) {
            return Err(ConfigError::DuplicateService { protocol: *protocol, vip: *vip });
        }
        if !local.iter().any(|address| address.is_ipv4() == vip.is_ipv4()) {
            return Err(ConfigError::NoLocalAddress(*vip));
        }
        if *protocol == Protocol::Udp && toa.is_some() {
            return Err(ConfigError::ToaOnUdp(*vip));
        }
        for real in reals.iter().map(|real| real.address) {
            if real.is_ipv4() != vip.is_ipv4() {
                return Err(ConfigError::MixedFamilies { vip: *vip, real });
            }
            if vips.contains(&real.ip()) || local.contains(&real.ip()) {
                return Err(ConfigError::Loop { vip: *vip, real });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DirectorConfig {
        serde_json::from_value(serde_json::json!({
            "local_addresses": ["10.9.1.1"],
            "services": [{
                "protocol": "tcp", "vip": "10.9.0.1:80",
                "reals": [{"address": "10.244.0.5:8080"}, {"address": "10.244.1.7:8080", "weight": 3}],
                "toa": {"format": "dpvs", "insertion": "alibaba"}
            }]
        }))
        .unwrap()
    }

    #[test]
    fn the_minimal_file_is_valid_and_has_defaults() {
        let config = config();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.services[0].reals[0].weight, 1);
        assert_eq!(config.mtu, 1500);
    }

    #[test]
    fn every_contradiction_has_its_own_error() {
        let refused = |change: fn(&mut DirectorConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert!(matches!(
            refused(|config| config.services.push(config.services[0].clone())),
            ConfigError::DuplicateService { .. }
        ));
        assert!(matches!(
            refused(|config| config.services[0].reals[0].address = "[fd00::1]:80".parse().unwrap()),
            ConfigError::MixedFamilies { .. }
        ));
        assert!(matches!(
            refused(|config| config.services[0].reals[0].address = "10.9.1.1:80".parse().unwrap()),
            ConfigError::Loop { .. }
        ));
        assert!(matches!(
            refused(|config| config.local_addresses.push("10.9.0.1".parse().unwrap())),
            ConfigError::VipIsLocal(_)
        ));
        assert!(matches!(refused(|config| config.local_addresses.clear()), ConfigError::NoLocalAddress(_)));
        assert!(matches!(
            refused(|config| config.services[0].protocol = Protocol::Udp),
            ConfigError::ToaOnUdp(_)
        ));
        assert!(matches!(refused(|config| config.local_ports.last = 80), ConfigError::Ports { .. }));
        assert!(matches!(refused(|config| config.mtu = 100), ConfigError::Mtu(100)));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let error = serde_json::from_str::<DirectorConfig>(r#"{"vips": []}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `vips`"), "{error}");
    }
}

//! Host ports: what a runtime asks for, as newtypes, and who has a port already.

use std::fmt;
use std::net::IpAddr;

use turnpike_model::desired::{EndpointId, HostPort, Protocol};

/// One mapping in the runtime's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedPort<'a> {
    /// Port on the node; 0 maps nothing.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// Protocol in any case; TCP when empty.
    pub protocol: &'a str,
    /// Address of the node; all of them when empty.
    pub host_ip: &'a str,
}

/// A mapping that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Only TCP and UDP are mapped.
    #[error(
        "host port {port} asks for protocol `{protocol}`; TCP and UDP are mapped, SCTP is not: let clients use the pod's own address"
    )]
    Protocol {
        /// Port on the node.
        port: u16,
        /// As written.
        protocol: String,
    },
    /// Not an address.
    #[error("host port {port} asks for address `{host_ip}`, which is none; write an address of this node")]
    HostIp {
        /// Port on the node.
        port: u16,
        /// As written.
        host_ip: String,
    },
    /// No port in the pod.
    #[error("host port {port} leads to port 0 of the pod; name the containerPort")]
    NoContainerPort {
        /// Port on the node.
        port: u16,
    },
    /// The pod itself asks for one port twice, with different ends.
    #[error("the pod asks for host port {first} and for {second}, which overlap")]
    Twice {
        /// The one.
        first: Mapping,
        /// The other.
        second: Mapping,
    },
}

/// A mapping in words: `TCP 8080`, `UDP 192.0.2.1:53`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping(HostPort);

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.0.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        match self.0.host_ip {
            Some(ip) => write!(f, "{protocol} {}", std::net::SocketAddr::new(ip, self.0.host_port)),
            None => write!(f, "{protocol} {}", self.0.host_port),
        }
    }
}

/// What a runtime's list asks for; entries without a host port ask for nothing, and one said twice is said once.
///
/// # Errors
/// See [`PortError`].
pub fn asked_ports<'a>(asked: impl IntoIterator<Item = AskedPort<'a>>) -> Result<Vec<HostPort>, PortError> {
    let mut ports: Vec<HostPort> = Vec::new();
    for port in asked.into_iter().filter(|port| port.host_port != 0) {
        let port = parse(port)?;
        if ports.contains(&port) {
            continue;
        }
        if let Some(first) = ports.iter().find(|known| overlap(known, &port)) {
            return Err(PortError::Twice { first: Mapping(first.clone()), second: Mapping(port) });
        }
        ports.push(port);
    }
    Ok(ports)
}

fn parse(asked: AskedPort<'_>) -> Result<HostPort, PortError> {
    let port = asked.host_port;
    let protocol = match asked.protocol.to_ascii_uppercase().as_str() {
        "" | "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return Err(PortError::Protocol { port, protocol: asked.protocol.to_owned() }),
    };
    let host_ip = match asked.host_ip {
        "" => None,
        text => {
            let ip = text.parse().map_err(|_| PortError::HostIp { port, host_ip: text.to_owned() })?;
            Some(ip)
        }
    };
    if asked.container_port == 0 {
        return Err(PortError::NoContainerPort { port });
    }
    Ok(HostPort { host_ip, protocol, host_port: port, container_port: asked.container_port })
}

/// The first port of `wanted` that one of the holders has, and that holder.
pub fn taken<'a>(
    wanted: &[HostPort],
    holders: impl IntoIterator<Item = (&'a EndpointId, &'a [HostPort])>,
) -> Option<(Mapping, &'a EndpointId)> {
    holders.into_iter().find_map(|(holder, held)| {
        let port = wanted.iter().find(|port| held.iter().any(|held| overlap(held, port)))?;
        Some((Mapping(port.clone()), holder))
    })
}

/// True where one packet could mean both.
fn overlap(a: &HostPort, b: &HostPort) -> bool {
    if (a.protocol, a.host_port) != (b.protocol, b.host_port) {
        return false;
    }
    match (a.host_ip, b.host_ip) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => a.is_ipv6() == b.is_ipv6() && (a == b || is_any(a) || is_any(b)),
    }
}

fn is_any(ip: IpAddr) -> bool {
    ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(host_port: u16, protocol: &'a str, host_ip: &'a str) -> AskedPort<'a> {
        AskedPort { host_port, container_port: 80, protocol, host_ip }
    }

    fn one(host_port: u16, protocol: &str, host_ip: &str) -> Vec<HostPort> {
        asked_ports([asked(host_port, protocol, host_ip)]).unwrap()
    }

    #[test]
    fn a_list_of_a_runtime_becomes_ports() {
        let ports = asked_ports([asked(8080, "tcp", ""), asked(53, "UDP", "192.0.2.1"), asked(0, "tcp", "")]);
        let ports = ports.unwrap();
        assert_eq!(ports.len(), 2);
        assert_eq!(ports[1].host_ip, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(asked_ports([asked(1, "tcp", ""), asked(1, "TCP", "")]).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_in_words() {
        let sctp = asked_ports([asked(9, "SCTP", "")]).unwrap_err().to_string();
        assert!(sctp.contains("SCTP") && sctp.contains('9'), "{sctp}");
        assert!(asked_ports([asked(9, "tcp", "node1")]).unwrap_err().to_string().contains("node1"));
        let none = AskedPort { container_port: 0, ..asked(9, "tcp", "") };
        assert!(asked_ports([none]).is_err());
        let twice = AskedPort { container_port: 81, ..asked(9, "tcp", "") };
        assert!(matches!(asked_ports([asked(9, "tcp", ""), twice]), Err(PortError::Twice { .. })));
    }

    #[test]
    fn a_port_is_taken_where_one_packet_could_mean_both() {
        let holder = EndpointId { container_id: "a".into(), ifname: "eth0".into() };
        let is_taken = |wanted: Vec<HostPort>, held: Vec<HostPort>| {
            taken(&wanted, [(&holder, held.as_slice())]).is_some()
        };
        assert!(is_taken(one(80, "tcp", ""), one(80, "tcp", "")));
        assert!(is_taken(one(80, "tcp", "192.0.2.1"), one(80, "tcp", "")));
        assert!(is_taken(one(80, "tcp", "192.0.2.1"), one(80, "tcp", "0.0.0.0")));
        assert!(!is_taken(one(80, "tcp", "192.0.2.1"), one(80, "tcp", "192.0.2.2")));
        assert!(!is_taken(one(80, "tcp", "192.0.2.1"), one(80, "tcp", "::")));
        assert!(!is_taken(one(80, "tcp", ""), one(80, "udp", "")));
        assert!(!is_taken(one(80, "tcp", ""), one(81, "tcp", "")));
        let (mapping, by) = taken(&one(80, "udp", "192.0.2.1"), [(&holder, one(80, "udp", "").as_slice())])
            .map(|(mapping, by)| (mapping.to_string(), by.clone()))
            .unwrap();
        assert_eq!((mapping.as_str(), by.container_id.as_str()), ("UDP 192.0.2.1:80", "a"));
    }
}

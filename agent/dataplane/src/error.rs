//! Why a data-plane call failed.

use std::io;

/// A call that could not be carried out; a failed [`crate::Dataplane::attach`] has been rolled back.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A netlink request was refused.
    #[error("netlink: {what}: {source}")]
    Netlink {
        /// The request, in words.
        what: String,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
    /// A sysctl could not be read or written.
    #[error("sysctl {key}: {source}")]
    Sysctl {
        /// Path below /proc/sys, with slashes.
        key: String,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The pod's network namespace could not be entered.
    #[error("cannot enter the pod's network namespace: {0}")]
    EnterNetns(#[source] io::Error),
    /// The given network namespace is the host's own.
    #[error("the network namespace handed over is the host's own; host-network pods need no attachment")]
    HostNetns,
    /// The interface name is taken in the pod by something that is not ours.
    #[error("{ifname} exists in the pod already and is not the peer of {host_link}")]
    PodLinkExists {
        /// Name inside the pod.
        ifname: String,
        /// Our host side.
        host_link: String,
    },
    /// The pod's address is routed to another link of ours that is alive.
    #[error("{address} is in use by the live pod link {holder}")]
    AddressInUse {
        /// The address.
        address: std::net::IpAddr,
        /// The link that holds it.
        holder: String,
    },
    /// The host side did not take the MAC address that pods' neighbour entries name.
    #[error("{link} has MAC address {found}, wanted {wanted}: does networkd or NetworkManager manage it?")]
    HostMac {
        /// Host side.
        link: String,
        /// Read back.
        found: String,
        /// ee:ee:ee:ee:ee:ee.
        wanted: String,
    },
    /// A link disappeared while it was being set up.
    #[error("{link} is gone: somebody removed it")]
    LinkGone {
        /// Interface name.
        link: String,
    },
    /// The host side's name is taken by a link that is not a veth of ours.
    #[error("{link} exists already and is no veth pair of ours")]
    HostLinkForeign {
        /// Interface name.
        link: String,
    },
    /// A limit that was asked for could not be put in force.
    #[error("limit on {link}: {message}")]
    Limit {
        /// Host side.
        link: String,
        /// Why.
        message: String,
    },
    /// The endpoint itself makes no sense (no address, name too long…).
    #[error("endpoint {id}: {message}")]
    BadEndpoint {
        /// Container ID and interface.
        id: String,
        /// What is wrong with it.
        message: String,
    },
    /// A route could not be written.
    #[error("route {route}: {message}")]
    Route {
        /// Destination.
        route: String,
        /// Why.
        message: String,
    },
    /// nftables refused a transaction.
    #[error("nftables: {what}: {source}")]
    Nftables {
        /// Which step.
        what: String,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
    /// eBPF could not be loaded or attached.
    #[error("eBPF: {0}")]
    Ebpf(String),
}

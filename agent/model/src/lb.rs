//! Load balancers in front of the pods.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::desired::{ServicePort, ToaFormat};
use crate::selector::Selector;

/// Directors (LVS, DPVS, a cloud's load balancer) whose traffic is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancerSourceSpec {
    /// The directors' local addresses: the sources that pods see under FULLNAT.
    pub cidrs: Vec<Cidr>,
    /// Their packets to pods, and the answers, pass netfilter and conntrack by. Whoever can send from these
    /// addresses passes the host's firewall rules by, too.
    #[serde(default)]
    pub bypass: bool,
    /// The TCP option in which these directors write the client's address; no option is believed unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toa: Option<ToaFormat>,
    /// The option comes in the SYN only (forks of DPVS): listeners then keep their SYNs, which costs memory for each
    /// connection being opened. Servers started before it was set keep none.
    #[serde(default)]
    pub toa_in_syn: bool,
    /// Servers on IPv4 sockets may ask for the IPv6 client (NAT64) as they ask DPVS's kernel module:
    /// `getsockopt(IPPROTO_IP, 4096)`. Every getsockopt() of the node's pods pays for it.
    #[serde(default)]
    pub toa_nat64: bool,
    /// UDP servers see the client that these directors name in an option of the first datagrams of a session (DPVS's UOA, as
    /// IP option 31 or in protocol 248), and what they send to a client goes through its director. Every packet that
    /// reaches a socket of the node's pods pays for it.
    #[serde(default)]
    pub uoa: bool,
    /// How long a range goes on bypassing after it was taken out (or the whole source was): established connections
    /// end in peace, or are picked up in mid-stream by conntrack afterwards. 900 seconds, unless given; at most a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u32>,
    /// Pod ports that qualify; every TCP port and no UDP port, unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// Nodes that it is for; all, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    /// Whose pods it is for, by the runtime's word: every namespace's, unless given. What other pods exchange with these
    /// directors is filtered and tracked like anything else, and their servers see the directors' addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Namespaces that it is not for: those where other software filters what reaches a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except_namespaces: Vec<String>,
    /// Interfaces through which these directors reach the node; every uplink, unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<String>,
}

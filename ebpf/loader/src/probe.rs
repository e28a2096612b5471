//! Which kernel features are there, in words for people.

use aya::maps::MapType;
use aya::programs::{ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};

/// One feature of the running kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// What it is.
    pub name: &'static str,
    /// The first kernel that has it.
    pub since: &'static str,
    /// Whether this kernel has it; `Err` says why that could not be found out.
    pub available: Result<bool, String>,
    /// What does not work without it.
    pub without: &'static str,
}

/// Asks the kernel for everything that the programs use. Takes a few milliseconds and needs root.
#[must_use]
pub fn probe() -> Vec<Feature> {
    let bypass = "load-balancer traffic goes through netfilter, past conntrack by nftables' notrack only";
    let limits = "limits hold, but traffic that can do ECN is dropped at the queue instead of marked";
    let toa = "servers see the load balancer's address instead of the client's";
    let helper = |name, since, program, helper, without| Feature {
        name,
        since,
        available: is_helper_supported(program, helper).map_err(|error| error.to_string()),
        without,
    };
    let tc = ProgramType::SchedClassifier;
    vec![
        helper("redirect into a pod", "5.10", tc, BpfHelper::BPF_FUNC_redirect_peer, bypass),
        helper("redirect to a neighbour", "5.10", tc, BpfHelper::BPF_FUNC_redirect_neigh, bypass),
        helper("route lookup", "4.18", tc, BpfHelper::BPF_FUNC_fib_lookup, bypass),
        helper("CE marks", "5.1", tc, BpfHelper::BPF_FUNC_skb_ecn_set_ce, limits),
        helper("spin locks", "5.1", tc, BpfHelper::BPF_FUNC_spin_lock, limits),
        Feature {
            name: "socket storage",
            since: "5.2",
            available: is_map_supported(MapType::SkStorage).map_err(|error| error.to_string()),
            without: toa,
        },
        helper(
            "socket storage in sock_ops",
            "5.3",
            ProgramType::SockOps,
            BpfHelper::BPF_FUNC_sk_storage_get,
            toa,
        ),
        Feature {
            name: "TCX",
            since: "6.6",
            available: Ok(SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()),
            without: "programs are attached by clsact filters, which other software may remove",
        },
    ]
}

//! Addresses and pools as operators ask for them and change them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::message::{Attachment, PodInfo};
use crate::status::{BlockStatus, PodStatus, PoolStatus, ProblemStatus};

/// What can be asked about addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum IpamRequest {
    /// Pools, blocks, and every address that was ever handed out: [`IpamReply::Book`].
    Show,
    /// Compare books, disk and kernel: [`IpamReply::Findings`].
    Check,
    /// Give dead pods up: [`IpamReply::Collected`].
    Gc {
        /// Only say what would be done.
        dry_run: bool,
    },
    /// Free one address: [`IpamReply::Done`].
    Release {
        /// Which.
        address: IpAddr,
    },
    /// Set a pool's state in the resource file: [`IpamReply::Done`].
    SetPoolState {
        /// The pool's name.
        pool: String,
        /// `Active`, `Draining` or `Retired`.
        state: String,
        /// Even if no pool of that family is left for new pods.
        force: bool,
    },
    /// All that is known of one pod or address: [`IpamReply::Explained`].
    Explain {
        /// `namespace/name`, name, container ID or its beginning, or address.
        subject: String,
    },
}

/// The answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum IpamReply {
    /// The books.
    Book(IpamBook),
    /// What is not as it should be; none is good.
    Findings {
        /// In the order found.
        findings: Vec<IpamFinding>,
        /// How many pods and addresses were looked at.
        looked_at: usize,
    },
    /// What GC did, or would do.
    Collected {
        /// Pods looked at that are not as they should be.
        pods: Vec<Collected>,
    },
    /// It is done.
    Done {
        /// What was done, in words.
        message: String,
    },
    /// All that is known.
    Explained(Box<Explanation>),
}

/// All addresses of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamBook {
    /// Node name.
    pub node: String,
    /// Pools that this node may use.
    pub pools: Vec<PoolStatus>,
    /// Blocks of this node.
    pub blocks: Vec<BlockStatus>,
    /// Addresses with a history, in order.
    pub addresses: Vec<AddressStatus>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// The address.
    pub address: IpAddr,
    /// `held`, `resting` or `free`.
    pub state: String,
    /// How many times it has been handed out.
    pub generation: u64,
    /// Block that it lies in, if this node still has it.
    pub block: Option<String>,
    /// Who has it.
    pub holder: Option<Attachment>,
    /// The pod, where known.
    #[serde(default)]
    pub pod: PodInfo,
    /// Seconds until it may be handed out again.
    pub rests_s: Option<u64>,
}

/// Something wrong in the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamFinding {
    /// Pod, address, link or file.
    pub subject: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// A pod that GC looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Which.
    pub attachment: Attachment,
    /// The pod for people.
    pub pod: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What speaks for its end.
    pub reason: String,
    /// `reclaimed`, `would be reclaimed`, `kept` or `failed`.
    pub outcome: String,
}

/// All that is known of one pod or address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Node name.
    pub node: String,
    /// What was asked for.
    pub subject: String,
    /// The pod, if it is one of this node.
    pub pod: Option<PodStatus>,
    /// Facts in plain words, in the order in which a person reads them.
    pub facts: Vec<Fact>,
    /// Addresses to ask bgpd about.
    pub addresses: Vec<IpAddr>,
    /// Errors of requests about it, newest first.
    pub last_errors: Vec<ProblemStatus>,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// `address`, `block`, `link`, `route`, `limit`, `host port`, `load balancer`, `problem`.
    pub about: String,
    /// In plain words.
    pub text: String,
    /// False where it is not as it should be.
    pub good: bool,
}

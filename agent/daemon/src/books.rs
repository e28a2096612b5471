//! Who has which address: the agent's books in memory. No I/O here; `store` is the durable side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use turnpike_agent_api::PodInfo;
use turnpike_calc::{
    AddressPlan, AskedAddresses, Family, Ipam, IpamError, Known, Lease, LocalPod, Node, NodeState,
    Remembered, Time, WishError, check_grant, node_state, taken,
};
use turnpike_model::desired::{Block, Endpoint, EndpointId, HostPort};
use turnpike_model::resource::Resources;

use crate::clock::Stamp;
use crate::store::{Corrupt, LeaseRecord, PodRecord};

/// Where a pod interface is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodState {
    /// Durable; its link is being made.
    Attaching,
    /// In force.
    Ready,
    /// DEL has come, and something of it is still there.
    Removing,
}

/// A pod interface in the books.
#[derive(Debug, Clone)]
pub(crate) struct PodEntry {
    pub(crate) record: PodRecord,
    pub(crate) state: PodState,
    /// Its host link was not there, first seen so at this time.
    pub(crate) missing_since: Option<Time>,
}

/// A new pod's place, before anything is durable.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) record: PodRecord,
    /// Files of released records whose addresses all belong to others now.
    pub(crate) obsolete: Vec<String>,
}

/// What a new pod asks for, beside an address of each family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Ports of the node.
    pub(crate) host_ports: Vec<HostPort>,
    /// Addresses of its own choice.
    pub(crate) addresses: AskedAddresses,
    /// Whose they were before tells whether they need to rest.
    pub(crate) pod: PodInfo,
}

/// Why a new pod gets no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// No address.
    #[error(transparent)]
    Address(#[from] IpamError),
    /// An address that this pod may not ask for.
    #[error(transparent)]
    Wish(#[from] WishError),
    /// An address asked for is another pod's.
    #[error("{address} belongs to pod {holder}")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The pod.
        holder: String,
    },
    /// Another pod has the port.
    #[error("host port {port} belongs to pod {holder} on this node")]
    PortTaken {
        /// Protocol, address, port.
        port: String,
        /// The pod.
        holder: String,
    },
    /// The port is asked for at an address of a family that pods do not have here.
    #[error("a host port at {host_ip} cannot lead to a pod: pods of this node have no {family} address")]
    NoFamily {
        /// The node's address.
        host_ip: IpAddr,
        /// Its family.
        family: Family,
    },
}

/// The books of one node.
#[derive(Debug)]
pub(crate) struct Books {
    node: Node,
    resources: Resources,
    ipam: Ipam,
    pods: BTreeMap<EndpointId, PodEntry>,
    /// Released records on disk: file name, and the generations that it remembers.
    released: BTreeMap<String, Released>,
}

/// What a released record on disk is kept for.
#[derive(Debug, Clone, Default)]
struct Released {
    /// Addresses and their generations.
    leases: Vec<(IpAddr, u64)>,
    /// Whose they were: namespace and name.
    pod: Option<(String, String)>,
}

fn named(pod: &PodInfo) -> Option<(String, String)> {
    pod.namespace.clone().zip(pod.name.clone())
}

impl Books {
    pub(crate) fn new(node: Node, cooldown: Time, hold: Time) -> Self {
        Self {
            node,
            resources: Resources::default(),
            ipam: Ipam::new(cooldown).holding(hold),
            pods: BTreeMap::new(),
            released: BTreeMap::new(),
        }
    }

    /// Takes in what a former run left. Answers with what is contradictory in it, for people.
    pub(crate) fn restore(&mut self, records: Vec<PodRecord>, present: &Stamp) -> Vec<String> {
        let mut complaints = Vec::new();
        let (mut released, live): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.released.is_some());
        let moment = |record: &PodRecord| record.released.as_ref().map(|stamp| stamp.on_time_line(present));
        released.sort_by_key(|record| moment(record));
        for record in &released {
            let at = moment(record).filter(|_| !record.unused);
            for lease in &record.leases {
                let at = at.filter(|_| !lease.rested);
                let remembered = Remembered::Released { generation: lease.generation, at };
                self.ipam.restore(lease.address, remembered);
            }
            self.remember(record);
        }
        for record in live {
            let owner = endpoint_id(&record);
            for lease in &record.leases {
                let remembered = Remembered::Held { owner: owner.clone(), generation: lease.generation };
                if !self.ipam.restore(lease.address, remembered) {
                    complaints.push(format!(
                        "{} is in the books of two pods, {} among them; recreate both",
                        lease.address, record.host_link
                    ));
                }
            }
            let entry = PodEntry { record, state: PodState::Ready, missing_since: None };
            self.pods.insert(owner, entry);
        }
        complaints
    }

    /// Puts other resources in force.
    pub(crate) fn set_resources(&mut self, resources: Resources) {
        self.ipam.set_plan(AddressPlan::new(&resources, &self.node));
        self.resources = resources;
    }

    pub(crate) fn resources(&self) -> &Resources {
        &self.resources
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    pub(crate) fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    pub(crate) fn pods(&self) -> &BTreeMap<EndpointId, PodEntry> {
        &self.pods
    }

    pub(crate) fn pod(&self, id: &EndpointId) -> Option<&PodEntry> {
        self.pods.get(id)
    }

    pub(crate) fn pod_mut(&mut self, id: &EndpointId) -> Option<&mut PodEntry> {
        self.pods.get_mut(id)
    }

    /// The pod whose host side has this name: a damaged record is found by it.
    pub(crate) fn by_host_link(&self, host_link: &str) -> Option<&EndpointId> {
        self.pods.iter().find(|(_, entry)| entry.record.host_link == host_link).map(|(id, _)| id)
    }

    /// True while the ADD of the pod with this host link has not come to its end.
    pub(crate) fn is_attaching(&self, host_link: &str) -> bool {
        let pod = self.pods.values().find(|entry| entry.record.host_link == host_link);
        pod.is_some_and(|entry| entry.state == PodState::Attaching)
    }

    /// Reserves addresses and host ports for a new pod and enters it as attaching.
    pub(crate) fn reserve(
        &mut self,
        id: &EndpointId,
        wanted: &Wanted,
        now: Time,
        draft: impl FnOnce(Vec<LeaseRecord>) -> PodRecord,
    ) -> Result<Reservation, Refusal> {
        self.check_ports(&wanted.host_ports)?;
        check_grant(&wanted.addresses, wanted.pod.namespace.as_deref(), &self.resources)?;
        let before = &self.released;
        let known_again = |address: IpAddr| {
            let mut records = before.values().filter(|record| record.pod.is_some());
            records.any(|record| {
                record.pod == named(&wanted.pod) && record.leases.iter().any(|(ip, _)| *ip == address)
            })
        };
        let namespace = wanted.pod.namespace.as_deref().unwrap_or_default();
        let asked = &wanted.addresses.addresses;
        let leases = match self.ipam.allocate(id, namespace, asked, known_again, now) {
            Err(IpamError::Taken { address, holder }) => {
                let known = self.pods.get(&holder).map(|entry| entry.record.name());
                return Err(Refusal::AddressTaken { address, holder: known.unwrap_or(holder.container_id) });
            }
            other => other?,
        };
        let mut record = draft(leases.into_iter().map(lease_record).collect());
        record.host_ports.clone_from(&wanted.host_ports);
        let addresses: BTreeSet<IpAddr> = record.addresses().into_iter().collect();
        let touched = self
            .released
            .iter()
            .filter(|(_, known)| known.leases.iter().any(|(ip, _)| addresses.contains(ip)));
        let obsolete: Vec<String> = touched
            .filter(|(_, known)| {
                known.leases.iter().all(|(ip, generation)| self.ipam.generation(*ip) > *generation)
            })
            .map(|(file, _)| file.clone())
            .collect();
        let own_file = record.file_name();
        let obsolete = obsolete.into_iter().filter(|file| *file != own_file).collect();
        self.released.remove(&own_file);
        let entry = PodEntry { record: record.clone(), state: PodState::Attaching, missing_since: None };
        self.pods.insert(id.clone(), entry);
        Ok(Reservation { record, obsolete })
    }

    /// A pod that is being removed has given its ports up: the data plane no longer maps them.
    fn check_ports(&self, wanted: &[HostPort]) -> Result<(), Refusal> {
        let families = &self.ipam.plan().families;
        let unserved = wanted.iter().filter_map(|port| port.host_ip).find(|ip| {
            !families.is_empty() && families.iter().all(|served| served.family != Family::of(*ip))
        });
        if let Some(host_ip) = unserved {
            return Err(Refusal::NoFamily { host_ip, family: Family::of(host_ip) });
        }
        let holders = self.pods.iter().filter(|(_, entry)| entry.state != PodState::Removing);
        let holders = holders.map(|(id, entry)| (id, entry.record.host_ports.as_slice()));
        let Some((port, holder)) = taken(wanted, holders) else { return Ok(()) };
        let holder = self.pods.get(holder).map(|entry| entry.record.name()).unwrap_or_default();
        Err(Refusal::PortTaken { port: port.to_string(), holder })
    }

    /// Forgets released records whose files are removed.
    pub(crate) fn forget(&mut self, files: &[String]) {
        for file in files {
            self.released.remove(file);
        }
    }

    /// Takes a pod out of the books and its addresses back. `record` is its released form, durable already, or the
    /// live one of an ADD that failed before it was durable.
    pub(crate) fn release(&mut self, id: &EndpointId, record: &PodRecord, now: Time) {
        for lease in &record.leases {
            if record.released.is_some() && !record.unused {
                self.ipam.release(id, lease.address, lease.generation, now);
            } else {
                self.ipam.release_unused(id, lease.address, lease.generation);
            }
        }
        self.pods.remove(id);
        if record.released.is_some() {
            self.remember(record);
        }
    }

    /// The pod as the data plane is to attach it.
    pub(crate) fn endpoint(&self, record: &PodRecord) -> Endpoint {
        local_pod(record).endpoint_on(&self.resources, &self.node)
    }

    /// True where more hangs on a pod than its own link: it asks for something in vain, which people are told, or a block
    /// may be there for its sake alone.
    pub(crate) fn stands_out(&self, record: &PodRecord) -> bool {
        let plan = self.ipam.plan();
        record.addresses().iter().any(|address| plan.block_of(*address).is_none())
            || !local_pod(record).issues_on(&self.resources, &self.node).is_empty()
    }

    /// This node's block around an address, whatever the state of its pool.
    pub(crate) fn block_of(&self, address: IpAddr) -> Option<Block> {
        let own = self
            .resources
            .blocks
            .values()
            .find(|block| block.node == self.node.name && block.cidr.holds(address))?;
        Some(Block { prefix: own.cidr.network(), pool: own.pool.clone() })
    }

    /// The released record that an address's rest is remembered by.
    pub(crate) fn resting_record(&self, address: IpAddr, now: Time) -> Option<String> {
        let (_, generation, known) = self.ipam.known(now).find(|(known, _, _)| *known == address)?;
        if !matches!(known, Known::Resting(_) | Known::Unheard(_)) {
            return None;
        }
        let mut files =
            self.released.iter().filter(|(_, known)| known.leases.contains(&(address, generation)));
        files.next().map(|(file, _)| file.clone())
    }

    /// Leases that have ended and that somebody may not have heard of.
    pub(crate) fn unheard(&self, now: Time) -> Vec<(IpAddr, u64)> {
        let waits = |known: Known<'_>| matches!(known, Known::Resting(_) | Known::Unheard(_));
        let known = self.ipam.known(now).filter(|(_, _, known)| waits(*known));
        known.map(|(address, generation, _)| (address, generation)).collect()
    }

    /// Everybody has heard of the end of these leases.
    pub(crate) fn heard(&mut self, leases: impl IntoIterator<Item = (IpAddr, u64)>) {
        leases.into_iter().for_each(|(address, generation)| self.ipam.heard(address, generation));
    }

    /// Ends an address's rest; the caller has made that durable.
    pub(crate) fn end_rest(&mut self, address: IpAddr) {
        self.ipam.end_rest(address);
    }

    /// Pods that stay, as the desired state is made of them, with names for people.
    pub(crate) fn local_pods(&self) -> Vec<(LocalPod, String)> {
        let staying = self.pods.values().filter(|entry| entry.state != PodState::Removing);
        staying.map(|entry| (local_pod(&entry.record), label(&entry.record))).collect()
    }

    /// Everything that the node has to bring about. A pod that is being attached is part of it: its link may be
    /// there before its ADD has heard of it. One that is being removed is not.
    pub(crate) fn node_state(&self) -> NodeState {
        let staying = self.pods.values().filter(|entry| entry.state != PodState::Removing);
        let pods: Vec<LocalPod> = staying.map(|entry| local_pod(&entry.record)).collect();
        node_state(&self.resources, &self.node, &pods)
    }

    fn remember(&mut self, record: &PodRecord) {
        let leases = record.leases.iter().map(|lease| (lease.address, lease.generation)).collect();
        self.released.insert(record.file_name(), Released { leases, pod: named(&record.pod) });
    }
}

/// The identity that a record is about.
pub(crate) fn endpoint_id(record: &PodRecord) -> EndpointId {
    EndpointId {
        container_id: record.attachment.container_id.clone(),
        ifname: record.attachment.ifname.clone(),
    }
}

/// `namespace/name`, or the host link where the runtime did not tell.
fn label(record: &PodRecord) -> String {
    match (&record.pod.namespace, &record.pod.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => record.host_link.clone(),
    }
}

fn lease_record(lease: Lease) -> LeaseRecord {
    LeaseRecord {
        address: lease.address,
        generation: lease.generation,
        block: Some(lease.block),
        rested: false,
    }
}

fn local_pod(record: &PodRecord) -> LocalPod {
    LocalPod {
        id: endpoint_id(record),
        host_link: record.host_link.clone(),
        addresses: record.addresses(),
        blocks: record.leases.iter().filter_map(|lease| lease.block.clone()).collect(),
        mtu: record.mtu,
        asked: record.asked.clone(),
        host_ports: record.host_ports.clone(),
        toa_off: record.toa_off,
        bypass_off: record.bypass_off,
        mac: record.mac,
        netns_path: record.netns_path.clone(),
        namespace: record.pod.namespace.clone().unwrap_or_default(),
    }
}

/// Host side's name of a pod interface: `tpk` and twelve hexadecimal digits.
pub(crate) fn host_link(id: &EndpointId) -> String {
    // FNV-1a; the separator occurs in neither name.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in id.container_id.bytes().chain([0]).chain(id.ifname.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("tpk{:012x}", (hash ^ (hash >> 48)) & 0xffff_ffff_ffff)
}

/// A generation beyond all that a real record has: a damaged one must not lose against an old release.
const DAMAGED_GENERATION: u64 = 1 << 32;

/// What stands in place of a container ID that is lost.
const DAMAGED: &str = "damaged-";

/// True for a pod whose own container ID is lost.
pub(crate) fn is_damaged(id: &EndpointId) -> bool {
    id.container_id.starts_with(DAMAGED)
}

/// What can be said of a pod whose record is damaged, from the file's name: enough to keep its link, its routes and
/// its addresses until its link is gone or its DEL comes. `None` when even the name is no use.
pub(crate) fn salvage(corrupt: &Corrupt, present: &Stamp, mtu: u32) -> Option<PodRecord> {
    let host_link = corrupt.host_link.clone().filter(|_| !corrupt.addresses.is_empty())?;
    let lease = |address: &IpAddr| LeaseRecord {
        address: *address,
        generation: DAMAGED_GENERATION,
        block: None,
        rested: false,
    };
    Some(PodRecord {
        format: PodRecord::FORMAT,
        attachment: turnpike_agent_api::Attachment {
            container_id: format!("{DAMAGED}{host_link}"),
            ifname: "eth0".to_owned(),
        },
        network: String::new(),
        pod: turnpike_agent_api::PodInfo::default(),
        leases: corrupt.addresses.iter().map(lease).collect(),
        host_link,
        mtu,
        asked: turnpike_calc::AskedLimits::default(),
        host_ports: Vec::new(),
        toa_off: false,
        bypass_off: false,
        mac: None,
        netns_path: String::new(),
        netns: crate::store::NetnsId { dev: 0, ino: 0 },
        created: present.clone(),
        released: None,
        unused: false,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use turnpike_model::pool::{IpBlockSpec, IpPoolSpec};

    use super::*;
    use crate::clock::BootId;
    use crate::store::tests::record;

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    fn stamp(seconds: u64) -> Stamp {
        Stamp { boot_id: BootId("b".into()), boottime_ns: seconds * 1_000_000_000, unix_s: seconds }
    }

    fn id(name: &str) -> EndpointId {
        EndpointId { container_id: name.into(), ifname: "eth0".into() }
    }

    fn books() -> Books {
        let node = Node { name: "n1".into(), ..Node::default() };
        let mut books = Books::new(node, at(120), Time::ZERO);
        let mut resources = Resources::default();
        let pool: IpPoolSpec = serde_json::from_str(r#"{"cidr":"10.0.0.0/24","blockSize":31}"#).unwrap();
        let block: IpBlockSpec =
            serde_json::from_str(r#"{"cidr":"10.0.0.2/31","pool":"p","node":"n1"}"#).unwrap();
        resources.pools = BTreeMap::from([("p".to_owned(), pool)]);
        resources.blocks = BTreeMap::from([("b".to_owned(), block)]);
        books.set_resources(resources);
        books
    }

    fn add(books: &mut Books, name: &str, now: u64) -> Reservation {
        let draft = |leases| PodRecord { leases, created: stamp(now), ..record(name, "10.0.0.9") };
        books.reserve(&id(name), &Wanted::default(), at(now), draft).unwrap()
    }

    fn del(books: &mut Books, name: &str, now: u64) -> PodRecord {
        let mut record = books.pod(&id(name)).unwrap().record.clone();
        record.released = Some(stamp(now));
        books.release(&id(name), &record, at(now));
        record
    }

    #[test]
    fn a_restart_knows_pods_and_cooldowns() {
        let mut before = books();
        let live = add(&mut before, "a", 0).record;
        add(&mut before, "b", 0);
        let gone = del(&mut before, "b", 50);
        let mut after = books();
        assert_eq!(after.restore(vec![gone, live], &stamp(60)), [] as [String; 0]);
        assert_eq!(after.pods().len(), 1);
        let draft = |leases| PodRecord { leases, ..record("c", "10.0.0.9") };
        assert!(after.reserve(&id("c"), &Wanted::default(), at(60), draft).is_err(), "b's address rests");
        let next = add(&mut after, "c", 170);
        assert_eq!(next.record.leases[0].generation, 2);
        assert_eq!(next.obsolete, ["tpkb@10.0.0.3.json"], "b's record is of no use any more");
    }

    #[test]
    fn an_address_rests_from_boot_to_boot_whatever_the_wall_clock_says() {
        for (unix_s, up) in [0, 50, 51, 1 << 40].into_iter().flat_map(|unix| [(unix, 0), (unix, 60)]) {
            let mut before = books();
            let live = add(&mut before, "a", 0).record;
            add(&mut before, "b", 0);
            let gone = del(&mut before, "b", 50);
            let mut after = books();
            let present = Stamp { boot_id: BootId("c".into()), unix_s, ..stamp(up) };
            after.restore(vec![gone, live], &present);
            let draft = |leases| PodRecord { leases, ..record("c", "10.0.0.9") };
            let early = after.reserve(&id("c"), &Wanted::default(), at(119), draft);
            assert!(early.is_err(), "119 s after the boot, clock at {unix_s}");
            add(&mut after, "c", 120);
        }
    }

    #[test]
    fn a_failed_add_leaves_nothing_behind() {
        let mut books = books();
        let record = add(&mut books, "a", 0).record;
        books.release(&id("a"), &record, at(0));
        assert!(books.pods().is_empty());
        add(&mut books, "a", 0);
        add(&mut books, "b", 0);
        assert_eq!(books.node_state().desired.endpoints.len(), 2);
    }

    #[test]
    fn an_older_record_that_came_back_cannot_free_an_address() {
        let mut before = books();
        add(&mut before, "a", 0);
        let old = del(&mut before, "a", 0);
        add(&mut before, "b", 0);
        let live = add(&mut before, "c", 200).record;
        assert_eq!(live.addresses(), old.addresses());
        let mut after = books();
        after.restore(vec![old, live.clone()], &stamp(300));
        assert_eq!(after.ipam().holder(live.addresses()[0]), Some(&id("c")));
    }

    #[test]
    fn a_damaged_record_keeps_its_addresses() {
        let corrupt = Corrupt {
            path: "/x".into(),
            message: "cut".into(),
            host_link: Some("tpkx".into()),
            addresses: vec!["10.0.0.2".parse().unwrap()],
        };
        let mut books = books();
        let salvaged = salvage(&corrupt, &stamp(0), 1500).unwrap();
        books.restore(vec![salvaged], &stamp(0));
        assert!(books.by_host_link("tpkx").is_some());
        assert_eq!(add(&mut books, "a", 0).record.addresses(), ["10.0.0.3".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn host_links_fit_the_kernel_and_differ() {
        let (a, b) = (host_link(&id("a")), host_link(&id("b")));
        assert!(a.len() == 15 && b.len() == 15 && a != b && a.starts_with("tpk"));
    }
}

//! The maps by name.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::{MapData, PerCpuArray};
use turnpike_ebpf_abi::bypass::{AdmitKey, FlowKey};
use turnpike_ebpf_abi::uoa::{UoaCounter, UoaKey, UoaPeer};
use turnpike_ebpf_abi::{
    Addr, Counter, ExemptKey, FlowTable, LbSource, LbStats, LpmKey, MarkConfig, MarkState, PodEntry, PortKey,
    ToaConfig, ToaEvent, ToaTally, Uplink, Veth, names,
};

use crate::error::Error;
use crate::percpu::Tallies;
use crate::table::Table;

/// Counters by the names in [`Counter::ALL`] and [`UoaCounter::ALL`], summed over CPUs.
pub type CounterValues = BTreeMap<&'static str, u64>;

/// Every map, each with its own descriptor.
pub struct Maps {
    /// Trusted load balancers by prefix.
    pub lb_sources: Table<LpmKey, LbSource>,
    /// Their port rules; the value is 1.
    pub lb_ports: Table<PortKey, u8>,
    /// What sources may do with pods that are not for every source: bits of [`turnpike_ebpf_abi::bypass::Admit`].
    pub lb_admits: Table<AdmitKey, u32>,
    /// Local pods by address.
    pub pods: Table<Addr, PodEntry>,
    /// What may leave through a host veth, by ifindex. A veth without an entry passes nothing.
    pub veths: Table<u32, Veth>,
    /// Uplinks by ifindex.
    pub uplinks: Table<u32, Uplink>,
    /// Connections that pods opened to directors; only the programs write it.
    pub pod_flows: Table<FlowKey, u8>,
    /// The TOA settings, one entry with key 0.
    pub toa_config: Table<u32, ToaConfig>,
    /// Marking laws by ifindex; use [`Maps::set_mark`].
    pub mark_config: Table<u32, MarkConfig>,
    /// Virtual queues by ifindex; only the programs change entries.
    pub mark_state: Table<u32, MarkState>,
    mark_flows: Table<u32, FlowTable>,
    /// Shadow limits by ifindex or [`MarkConfig::shadow_from_pod_key`]; use [`Maps::set_shadow`].
    pub shadow_config: Table<u32, MarkConfig>,
    /// Ranges whose traffic a pod's limits do not count; the value is 1.
    pub exempt: Table<ExemptKey, u8>,
    shadow_state: Table<u32, MarkState>,
    shadow_on: Table<u32, u32>,
    /// Packets and bytes of load balancers by [`LbSource::group`], direction and reason.
    pub lb_stats: Tallies<u32, LbStats>,
    /// What TOA did, by the pod's address.
    pub toa_pods: Tallies<Addr, ToaTally>,
    /// The latest connections that TOA looked at; only the programs write it.
    pub toa_events: Table<FlowKey, ToaEvent>,
    /// Clients by the director that a socket sees; only the programs write it.
    pub uoa_clients: Table<UoaKey, UoaPeer>,
    counters: PerCpuArray<MapData, u64>,
    uoa_counters: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Maps").field("pods", &self.pods).finish_non_exhaustive()
    }
}

impl Maps {
    /// Opens the pins in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let counters = |name| {
            let path = folder.join(name);
            MapData::from_pin(&path)
                .and_then(|data| PerCpuArray::try_from(aya::maps::Map::PerCpuArray(data)))
                .map_err(|error| {
                    Error::system(format!("open {}", path.display()), std::io::Error::other(error))
                })
        };
        Ok(Self {
            lb_sources: Table::open(&folder.join(names::MAP_LB_SOURCES))?,
            lb_ports: Table::open(&folder.join(names::MAP_LB_PORTS))?,
            lb_admits: Table::open(&folder.join(names::MAP_LB_ADMITS))?,
            pods: Table::open(&folder.join(names::MAP_PODS))?,
            veths: Table::open(&folder.join(names::MAP_VETHS))?,
            uplinks: Table::open(&folder.join(names::MAP_UPLINKS))?,
            pod_flows: Table::open(&folder.join(names::MAP_POD_FLOWS))?,
            toa_config: Table::open(&folder.join(names::MAP_TOA_CONF))?,
            mark_config: Table::open(&folder.join(names::MAP_MARK_CONF))?,
            mark_state: Table::open(&folder.join(names::MAP_MARK_STATE))?,
            mark_flows: Table::open(&folder.join(names::MAP_MARK_FLOWS))?,
            shadow_config: Table::open(&folder.join(names::MAP_SHADOW_CONF))?,
            shadow_state: Table::open(&folder.join(names::MAP_SHADOW_STATE))?,
            shadow_on: Table::open(&folder.join(names::MAP_SHADOW_ON))?,
            exempt: Table::open(&folder.join(names::MAP_EXEMPT))?,
            lb_stats: Tallies::open(&folder.join(names::MAP_LB_STATS))?,
            toa_pods: Tallies::open(&folder.join(names::MAP_TOA_PODS))?,
            toa_events: Table::open(&folder.join(names::MAP_TOA_EVENTS))?,
            uoa_clients: Table::open(&folder.join(names::MAP_UOA_CLIENTS))?,
            counters: counters(names::MAP_COUNTERS)?,
            uoa_counters: counters(names::MAP_UOA_COUNTERS)?,
        })
    }

    /// Puts a marking law in force on a link (or changes it, keeping the virtual queue).
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn set_mark(&self, ifindex: u32, config: &MarkConfig) -> Result<(), Error> {
        self.mark_state.insert_new(&ifindex, &MarkState::default())?;
        self.mark_flows.insert_new(&ifindex, &FlowTable::default())?;
        if self.mark_config.get(&ifindex)? == Some(*config) {
            return Ok(());
        }
        self.mark_config.insert(&ifindex, config)
    }

    /// Ends marking on a link; false when there was none.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn clear_mark(&self, ifindex: u32) -> Result<bool, Error> {
        let had = self.mark_config.remove(&ifindex)?;
        self.mark_state.remove(&ifindex)?;
        self.mark_flows.remove(&ifindex)?;
        Ok(had)
    }

    /// The marker's counters on a link.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn mark_stats(&self, ifindex: u32) -> Result<Option<MarkState>, Error> {
        self.mark_state.get(&ifindex)
    }

    /// The laws and counters of all limits, by ifindex.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn all_marks(&self) -> Result<BTreeMap<u32, (MarkConfig, MarkState)>, Error> {
        let mut states = self.mark_state.entries()?;
        let laws = self.mark_config.entries()?.into_iter();
        Ok(laws.filter_map(|(link, law)| Some((link, (law, states.remove(&link)?)))).collect())
    }

    /// What all shadow limits have counted.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn all_shadow_stats(&self) -> Result<BTreeMap<u32, MarkState>, Error> {
        self.shadow_state.entries()
    }

    /// The flows that a link's limit tells apart.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn mark_flows(&self, ifindex: u32) -> Result<Option<FlowTable>, Error> {
        self.mark_flows.get(&ifindex)
    }

    /// Holds a limit against the traffic of a link and direction (or changes it, keeping the counters).
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn set_shadow(&self, key: u32, config: &MarkConfig) -> Result<(), Error> {
        self.shadow_state.insert_new(&key, &MarkState::default())?;
        if self.shadow_config.get(&key)? != Some(*config) {
            self.shadow_config.insert(&key, config)?;
        }
        self.shadow_on.insert(&0, &1)
    }

    /// Takes a shadow limit and its counters away; false when there was none.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn clear_shadow(&self, key: u32) -> Result<bool, Error> {
        let had = self.shadow_config.remove(&key)?;
        self.shadow_state.remove(&key)?;
        Ok(had)
    }

    /// Brings all shadow limits to these.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn keep_shadows(&self, wanted: &BTreeMap<u32, MarkConfig>) -> Result<(), Error> {
        for stale in self.shadow_config.entries()?.keys().filter(|key| !wanted.contains_key(key)) {
            self.clear_shadow(*stale)?;
        }
        wanted.iter().try_for_each(|(key, config)| self.set_shadow(*key, config))?;
        self.shadow_on.insert(&0, &u32::from(!wanted.is_empty()))
    }

    /// What a shadow limit has counted.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn shadow_stats(&self, key: u32) -> Result<Option<MarkState>, Error> {
        self.shadow_state.get(&key)
    }

    /// The TOA settings.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_toa(&self, config: &ToaConfig) -> Result<(), Error> {
        self.toa_config.insert(&0, config)
    }

    /// All counters.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<CounterValues, Error> {
        let mut values = CounterValues::new();
        let of = Counter::ALL.map(|(counter, name)| (&self.counters, counter as u32, name));
        let of_uoa = UoaCounter::ALL.map(|(counter, name)| (&self.uoa_counters, counter as u32, name));
        for (array, index, name) in of.into_iter().chain(of_uoa) {
            let cpus = array
                .get(&index, 0)
                .map_err(|error| Error::system("read the counters", std::io::Error::other(error)))?;
            values.insert(name, cpus.iter().sum());
        }
        Ok(values)
    }
}

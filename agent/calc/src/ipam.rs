//! Hands out the addresses of this node's blocks.
//!
//! Invariants: an address has one holder; a released address rests for the cooldown (and, within bounds, until everybody
//! has heard of its release) and then goes to the end of the queue behind addresses never used; every hand-out raises the address's generation, and a release must name the
//! generation that it was given; a pod gets an address of each family or none at all. What is handed out is the
//! caller's to make durable before it tells anybody.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use turnpike_model::desired::{Block, EndpointId};

use crate::Time;
use crate::plan::{AddressPlan, Family, FamilyPlan, PlannedBlock};

/// An address in a pod's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// How many times the address has been handed out, this time included.
    pub generation: u64,
    /// Block that it came from.
    pub block: Block,
}

/// How many addresses are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Held by pods.
    pub used: u64,
    /// Released, in their cooldown.
    pub cooling: u64,
    /// That a pod can get at all.
    pub total: u64,
}

/// What is known of an address that was handed out at least once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known<'a> {
    /// A pod has it.
    Held(&'a EndpointId),
    /// Released; its cooldown lasts so much longer.
    Resting(Time),
    /// Released and rested, but not everybody who should has heard of it; so much longer at most.
    Unheard(Time),
    /// Released, and free again.
    Rested,
}

/// What a restart has to bring back about one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remembered {
    /// A pod has it.
    Held {
        /// Who.
        owner: EndpointId,
        /// Of the lease.
        generation: u64,
    },
    /// It was released.
    Released {
        /// Of the last lease.
        generation: u64,
        /// When; `None` when it was never in use, so that it needs no cooldown.
        at: Option<Time>,
    },
}

/// No address to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// No Active pool selects this node.
    #[error(
        "no Active IPPool selects this node; add one, or check pools' nodeSelector against the node's labels, and their namespaces"
    )]
    NoPool,
    /// Pools are there, blocks are not.
    #[error("this node owns no {family} block of pool {}; add an IPBlock that names it", pools.join(", "))]
    NoBlock {
        /// Which family.
        family: Family,
        /// Active pools of that family.
        pools: Vec<String>,
    },
    /// All is in use.
    #[error("no free {family} address on this node: {}", uses.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Exhausted {
        /// Which family.
        family: Family,
        /// The pools and their use on this node.
        uses: Vec<PoolUse>,
    },
    /// The pod has addresses already.
    #[error("{0} has addresses already")]
    AlreadyHeld(String),
    /// An address asked for is not this node's to give.
    #[error("{0} is in no block of this node that gives addresses to new pods")]
    NotHere(IpAddr),
    /// An address asked for is somebody's.
    #[error("{address} belongs to container {}", holder.container_id)]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: EndpointId,
    },
    /// An address asked for was another pod's until just now.
    #[error("{address} was another pod's until just now and rests for {} s more", left.as_secs() + 1)]
    Resting {
        /// The address.
        address: IpAddr,
        /// Until it may be had.
        left: Time,
    },
}

/// Why a pool has nothing to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUse {
    /// Pool name.
    pub pool: String,
    /// On this node.
    pub usage: Use,
    /// Until the next address has rested.
    pub next_free_in: Option<Time>,
}

impl fmt::Display for PoolUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Use { used, cooling, total } = self.usage;
        write!(f, "pool {} has {used} of {total} in use", self.pool)?;
        if let Some(wait) = self.next_free_in {
            write!(f, " and {cooling} in cooldown, the next for {} s", wait.as_secs() + 1)?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Slot {
    Held {
        owner: EndpointId,
        generation: u64,
    },
    /// `turn` orders the queue; `rested` is when the cooldown is over, `unheard` until when somebody may not have heard.
    Released {
        generation: u64,
        turn: u64,
        rested: Time,
        unheard: Time,
    },
}

/// The addresses of one node.
#[derive(Debug, Clone)]
pub struct Ipam {
    cooldown: Time,
    /// Bound on the wait for those who should hear of releases.
    hold: Time,
    plan: AddressPlan,
    slots: BTreeMap<IpAddr, Slot>,
    queue: BTreeMap<u64, IpAddr>,
    next_turn: u64,
    /// Addresses of a block below this offset have all been handed out once: where to look for a fresh one.
    cursors: BTreeMap<IpNetwork, u128>,
}

impl Ipam {
    /// No blocks, nothing handed out.
    #[must_use]
    pub fn new(cooldown: Time) -> Self {
        Self {
            cooldown,
            hold: Time::ZERO,
            plan: AddressPlan::default(),
            slots: BTreeMap::new(),
            queue: BTreeMap::new(),
            next_turn: 0,
            cursors: BTreeMap::new(),
        }
    }

    /// Addresses released from now on are held back until [`Self::heard`] says so, for this time at most.
    #[must_use]
    pub fn holding(self, hold: Time) -> Self {
        Self { hold, ..self }
    }

    /// Everybody has heard that this lease of the address has ended.
    pub fn heard(&mut self, address: IpAddr, generation: u64) {
        if let Some(Slot::Released { generation: known, unheard, .. }) = self.slots.get_mut(&address)
            && *known == generation
        {
            *unheard = Time::ZERO;
        }
    }

    /// Uses another plan from now on. Held addresses stay held wherever they are.
    pub fn set_plan(&mut self, plan: AddressPlan) {
        self.plan = plan;
    }

    /// The plan in force.
    #[must_use]
    pub fn plan(&self) -> &AddressPlan {
        &self.plan
    }

    /// Brings back what a former run knew about an address. Call it in the order of releases, oldest first.
    ///
    /// Two holders of one address are the sign of a damaged store: the higher generation keeps it, and false says
    /// that this one lost or displaced another.
    pub fn restore(&mut self, address: IpAddr, remembered: Remembered) -> bool {
        let known = self.slots.get(&address).map(Slot::generation);
        let (generation, held) = match &remembered {
            Remembered::Held { generation, .. } => (*generation, true),
            Remembered::Released { generation, .. } => (*generation, false),
        };
        let two_holders = held && matches!(self.slots.get(&address), Some(Slot::Held { .. }));
        if known.is_some_and(|known| known > generation || (known == generation && !held)) {
            return !two_holders;
        }
        match remembered {
            Remembered::Held { owner, generation } => self.put(address, Slot::Held { owner, generation }),
            Remembered::Released { generation, at } => self.enqueue(address, generation, at),
        }
        !two_holders
    }

    /// One address of each family that the plan has for the pod's namespace: the one asked for, if there is one (whoever
    /// asks has been granted it), else one from the namespace's pools. `known_again` tells of an address
    /// asked for whether this very pod had it before: then it need not rest.
    ///
    /// # Errors
    /// See [`IpamError`]; nothing has changed then.
    pub fn allocate(
        &mut self,
        owner: &EndpointId,
        namespace: &str,
        asked: &[IpAddr],
        known_again: impl Fn(IpAddr) -> bool,
        now: Time,
    ) -> Result<Vec<Lease>, IpamError> {
        if self.slots.values().any(|slot| slot.is_held_by(owner)) {
            return Err(IpamError::AlreadyHeld(owner.container_id.clone()));
        }
        if let Some(error) = self.plan.lacks_blocks() {
            return Err(error);
        }
        let theirs = self.plan.of_namespace(namespace);
        if asked.is_empty()
            && let Some(error) = theirs.lacks_blocks()
        {
            return Err(error);
        }
        let plan = std::mem::take(&mut self.plan);
        let unserved =
            asked.iter().find(|ip| plan.families.iter().all(|family| family.family != Family::of(**ip)));
        let found: Result<Vec<_>, _> = match unserved {
            Some(address) => Err(IpamError::NotHere(*address)),
            None => {
                let one = |family: &FamilyPlan| {
                    let address = asked.iter().find(|ip| Family::of(**ip) == family.family);
                    let own = || theirs.families.iter().find(|own| own.family == family.family);
                    match address {
                        Some(address) => Some(self.claim(family, *address, known_again(*address), now)),
                        None => own().map(|own| self.find(own, now)),
                    }
                };
                plan.families.iter().filter_map(one).collect()
            }
        };
        self.plan = plan;
        let leases = found?
            .into_iter()
            .map(|(address, block)| {
                let generation = self.slots.get(&address).map_or(0, Slot::generation) + 1;
                self.put(address, Slot::Held { owner: owner.clone(), generation });
                Lease { address, generation, block }
            })
            .collect();
        Ok(leases)
    }

    /// Gives an address back. False, and no change, unless `owner` holds it in that generation.
    pub fn release(&mut self, owner: &EndpointId, address: IpAddr, generation: u64, now: Time) -> bool {
        self.give_back(owner, address, generation, Some(now))
    }

    /// Gives an address back that no packet ever bore, so that it needs no rest.
    pub fn release_unused(&mut self, owner: &EndpointId, address: IpAddr, generation: u64) -> bool {
        self.give_back(owner, address, generation, None)
    }

    fn give_back(&mut self, owner: &EndpointId, address: IpAddr, generation: u64, at: Option<Time>) -> bool {
        match self.slots.get(&address) {
            Some(slot) if slot.is_held_by(owner) && slot.generation() == generation => {
                self.enqueue(address, generation, at);
                true
            }
            _ => false,
        }
    }

    /// Who holds the address.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<&EndpointId> {
        match self.slots.get(&address) {
            Some(Slot::Held { owner, .. }) => Some(owner),
            _ => None,
        }
    }

    /// The generation of an address's latest lease; 0 when it never had one.
    #[must_use]
    pub fn generation(&self, address: IpAddr) -> u64 {
        self.slots.get(&address).map_or(0, Slot::generation)
    }

    /// Every address with a history, in order, with its generation.
    pub fn known(&self, now: Time) -> impl Iterator<Item = (IpAddr, u64, Known<'_>)> {
        self.slots.iter().map(move |(address, slot)| {
            let known = match slot {
                Slot::Held { owner, .. } => Known::Held(owner),
                Slot::Released { rested, .. } if *rested > now => Known::Resting(rested.saturating_sub(now)),
                Slot::Released { unheard, .. } if *unheard > now => {
                    Known::Unheard(unheard.saturating_sub(now))
                }
                Slot::Released { .. } => Known::Rested,
            };
            (*address, slot.generation(), known)
        })
    }

    /// Ends an address's cooldown. False where it is not released.
    pub fn end_rest(&mut self, address: IpAddr) -> bool {
        match self.slots.get_mut(&address) {
            Some(Slot::Released { rested, unheard, .. }) => {
                (*rested, *unheard) = (Time::ZERO, Time::ZERO);
                true
            }
            _ => false,
        }
    }

    /// How a prefix is used; `unavailable` of its addresses are never given unasked.
    #[must_use]
    pub fn usage(&self, prefix: IpNetwork, unavailable: u64, now: Time) -> Use {
        let mut usage = Use { total: size(prefix).saturating_sub(unavailable), ..Use::default() };
        let (first, last) = bounds(prefix);
        for slot in self.slots.range(first..=last).map(|(_, slot)| slot) {
            match slot {
                Slot::Held { .. } => usage.used += 1,
                slot if slot.free_at() > now => usage.cooling += 1,
                Slot::Released { .. } => {}
            }
        }
        usage
    }

    fn put(&mut self, address: IpAddr, slot: Slot) {
        if let Some(Slot::Released { turn, .. }) = self.slots.insert(address, slot) {
            self.queue.remove(&turn);
        }
    }

    fn enqueue(&mut self, address: IpAddr, generation: u64, at: Option<Time>) {
        let turn = self.next_turn;
        self.next_turn += 1;
        let after = |wait| at.map_or(Time::ZERO, |at| at.saturating_add(wait));
        let (rested, unheard) = (after(self.cooldown), after(self.hold));
        self.put(address, Slot::Released { generation, turn, rested, unheard });
        self.queue.insert(turn, address);
    }

    fn claim(
        &self,
        family: &FamilyPlan,
        address: IpAddr,
        known_again: bool,
        now: Time,
    ) -> Result<(IpAddr, Block), IpamError> {
        let block = family
            .blocks
            .iter()
            .find(|block| block.prefix.contains(address) && !block.reserved.contains(&address));
        let block = block.ok_or(IpamError::NotHere(address))?;
        match self.slots.get(&address) {
            Some(Slot::Held { owner, .. }) => Err(IpamError::Taken { address, holder: owner.clone() }),
            Some(slot) if slot.free_at() > now && !known_again => {
                Err(IpamError::Resting { address, left: slot.free_at().saturating_sub(now) })
            }
            _ => Ok((address, block.block())),
        }
    }

    fn find(&mut self, family: &FamilyPlan, now: Time) -> Result<(IpAddr, Block), IpamError> {
        for block in &family.blocks {
            if let Some(address) = self.fresh(block) {
                return Ok((address, block.block()));
            }
        }
        let block_of = |address: IpAddr| {
            family
                .blocks
                .iter()
                .find(|block| block.prefix.contains(address) && !block.reserved.contains(&address))
                .filter(|block| block.withheld(address).is_none())
        };
        let rested = self.queue.values().find_map(|address| match self.slots.get(address) {
            Some(slot @ Slot::Released { .. }) if slot.free_at() <= now => {
                block_of(*address).map(|block| (*address, block.block()))
            }
            _ => None,
        });
        rested.ok_or_else(|| self.exhausted(family, now))
    }

    /// The first address of a block that was never handed out.
    fn fresh(&mut self, block: &PlannedBlock) -> Option<IpAddr> {
        let mut offset = self.cursors.get(&block.prefix).copied().unwrap_or(0);
        let found = loop {
            let Some(address) = nth(block.prefix, offset) else { break None };
            if let Some(part) = block.withheld(address) {
                offset = behind(block.prefix, part);
                continue;
            }
            if !self.slots.contains_key(&address) && !block.reserved.contains(&address) {
                break Some(address);
            }
            offset += 1;
        };
        self.cursors.insert(block.prefix, offset);
        found
    }

    fn exhausted(&self, family: &FamilyPlan, now: Time) -> IpamError {
        let uses = family
            .pools
            .iter()
            .map(|pool| {
                let mut sum = PoolUse { pool: pool.clone(), usage: Use::default(), next_free_in: None };
                for block in family.blocks.iter().filter(|block| block.pool == *pool) {
                    let usage = self.usage(block.prefix, block.unavailable(), now);
                    sum.usage.used += usage.used;
                    sum.usage.cooling += usage.cooling;
                    sum.usage.total += usage.total;
                    let wait = self.next_rested(block.prefix).map(|at| at.saturating_sub(now));
                    sum.next_free_in = sum.next_free_in.into_iter().chain(wait).min();
                }
                sum
            })
            .collect();
        IpamError::Exhausted { family: family.family, uses }
    }

    fn next_rested(&self, prefix: IpNetwork) -> Option<Time> {
        let (first, last) = bounds(prefix);
        let slots = self.slots.range(first..=last);
        slots
            .filter_map(|(_, slot)| match slot {
                slot @ Slot::Released { .. } => Some(slot.free_at()),
                Slot::Held { .. } => None,
            })
            .min()
    }
}

impl Slot {
    fn generation(&self) -> u64 {
        match self {
            Self::Held { generation, .. } | Self::Released { generation, .. } => *generation,
        }
    }

    /// When a released one may be handed out.
    fn free_at(&self) -> Time {
        match self {
            Self::Held { .. } => Time::ZERO,
            Self::Released { rested, unheard, .. } => *rested.max(unheard),
        }
    }

    fn is_held_by(&self, endpoint: &EndpointId) -> bool {
        matches!(self, Self::Held { owner, .. } if owner == endpoint)
    }
}

/// First and last address of a prefix.
fn bounds(prefix: IpNetwork) -> (IpAddr, IpAddr) {
    (prefix.network(), prefix.broadcast())
}

/// Number of addresses, at most `u64::MAX`.
pub(crate) fn size(prefix: IpNetwork) -> u64 {
    let bits = if prefix.is_ipv6() { 128 } else { 32 } - u32::from(prefix.prefix());
    1_u64.checked_shl(bits).unwrap_or(u64::MAX)
}

/// The offset in a prefix of the first address behind a part of it.
fn behind(prefix: IpNetwork, part: IpNetwork) -> u128 {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    number(part.broadcast()).saturating_sub(number(prefix.network())).saturating_add(1)
}

/// The address at an offset in a prefix.
fn nth(prefix: IpNetwork, offset: u128) -> Option<IpAddr> {
    let address = match prefix.network() {
        IpAddr::V4(first) => {
            let offset = u32::try_from(offset).ok()?;
            IpAddr::V4(Ipv4Addr::from(u32::from(first).checked_add(offset)?))
        }
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from(u128::from(first).checked_add(offset)?)),
    };
    prefix.contains(address).then_some(address)
}

#[cfg(test)]
mod tests;

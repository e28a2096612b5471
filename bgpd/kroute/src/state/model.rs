//! [`State`] against a model of the kernel: whatever happens in between, the model ends up with what is wanted.
//!
//! The model keeps to the kernel's rules that matter: a new route needs a free place, a replaced one an occupied
//! place; deleting a nexthop object takes its routes along without telling; a group that loses its last member goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use netlink_packet_route::route::RouteType;
use proptest::prelude::*;

use super::*;
use crate::message::nexthop::{Member, NexthopKind};
use crate::message::route::{KernelRoute, Way};
use crate::monitor::Event;

const LINKS: [u32; 2] = [2, 3];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Ours(Shape),
    Foreign,
}

#[derive(Debug, Default)]
struct Kernel {
    objects: BTreeMap<u32, NexthopKind>,
    routes: BTreeMap<IpNetwork, Standing>,
}

fn refuse(errno: i32) -> Result<(), Refusal> {
    Err(Refusal { errno, message: format!("errno {errno}") })
}

impl Kernel {
    fn put(&mut self, put: &Put) -> Result<(), Refusal> {
        let NexthopMessage { id, kind, .. } = &put.message;
        if put.exists != self.objects.contains_key(id) {
            return refuse(if put.exists { libc::ENOENT } else { libc::EEXIST });
        }
        if let NexthopKind::Group(members) = kind {
            let real = members
                .iter()
                .all(|member| matches!(self.objects.get(&member.id), Some(NexthopKind::Single(_))));
            assert!(real && !members.is_empty(), "a group of {members:?}");
        }
        if let Some(old) = self.objects.get(id) {
            let same = matches!(old, NexthopKind::Group(_)) == matches!(kind, NexthopKind::Group(_));
            assert!(same, "object {id} cannot change its nature");
        }
        self.objects.insert(*id, kind.clone());
        Ok(())
    }

    fn route(&mut self, op: &RouteOp) -> Result<(), Refusal> {
        let standing = self.routes.get(&op.prefix()).cloned();
        match (op, standing) {
            (RouteOp::Add(..), Some(_)) => return refuse(libc::EEXIST),
            (RouteOp::Replace(..), None) => return refuse(libc::ENOENT),
            (RouteOp::Replace(..), Some(Standing::Foreign)) => panic!("{op:?} would replace a foreign route"),
            (RouteOp::Delete(_), None | Some(Standing::Foreign)) => return refuse(libc::ESRCH),
            _ => {}
        }
        match op {
            RouteOp::Add(prefix, shape) | RouteOp::Replace(prefix, shape) => {
                if let Shape::Nexthop(id) = shape
                    && !self.objects.contains_key(id)
                {
                    return refuse(libc::EINVAL);
                }
                self.routes.insert(*prefix, Standing::Ours(*shape));
            }
            RouteOp::Delete(prefix) => {
                self.routes.remove(prefix);
            }
        }
        Ok(())
    }

    fn delete_object(&mut self, id: u32) {
        self.objects.remove(&id);
        self.routes.retain(|_, standing| *standing != Standing::Ours(Shape::Nexthop(id)));
        let mut empty = Vec::new();
        for (group, kind) in &mut self.objects {
            if let NexthopKind::Group(members) = kind {
                members.retain(|member| member.id != id);
                if members.is_empty() {
                    empty.push(*group);
                }
            }
        }
        for group in empty {
            self.delete_object(group);
        }
    }

    fn link_down(&mut self, link: u32) {
        let on_link: Vec<u32> = self
            .objects
            .iter()
            .filter(|(_, kind)| matches!(kind, NexthopKind::Single(gateway) if gateway.ifindex == link))
            .map(|(id, _)| *id)
            .collect();
        for id in on_link {
            self.delete_object(id);
        }
        let direct = |standing: &Standing| matches!(standing, Standing::Ours(Shape::Device { ifindex, .. }) if *ifindex == link);
        self.routes.retain(|_, standing| !direct(standing));
    }

    fn dump_objects(&self) -> Vec<NexthopMessage> {
        let message =
            |(id, kind): (&u32, &NexthopKind)| NexthopMessage { protocol: 202, id: *id, kind: kind.clone() };
        self.objects.iter().map(message).collect()
    }

    fn dump_routes(&self, owner: &Owner) -> Vec<(Place, Shape)> {
        let ours = |(prefix, standing): (&IpNetwork, &Standing)| match standing {
            Standing::Ours(shape) => Some((Place::own(owner, *prefix), *shape)),
            Standing::Foreign => None,
        };
        self.routes.iter().filter_map(ours).collect()
    }

    /// The gateways that packets to a prefix of ours leave by.
    fn leaves_by(&self, prefix: IpNetwork) -> Option<BTreeSet<Gateway>> {
        let Some(Standing::Ours(Shape::Nexthop(id))) = self.routes.get(&prefix) else { return None };
        let single = |id: &u32| match self.objects.get(id) {
            Some(NexthopKind::Single(gateway)) => Some(*gateway),
            _ => None,
        };
        match self.objects.get(id)? {
            NexthopKind::Group(members) => {
                Some(members.iter().filter_map(|member: &Member| single(&member.id)).collect())
            }
            _ => Some(single(id).into_iter().collect()),
        }
    }
}

/// What can happen.
#[derive(Debug, Clone)]
enum Step {
    Via(u8, BTreeSet<u8>),
    Blackhole(u8),
    Device(u8, usize),
    Remove(u8),
    Resolve(u8, BTreeSet<u8>),
    Apply,
    /// Somebody wants other things while writes are under way.
    ApplyMeanwhile(Vec<(u8, Option<BTreeSet<u8>>)>),
    /// Netlink fails: the first so many writes of a batch have reached the kernel, and nobody knows.
    Lost(usize),
    RouteDeleted(u8),
    ObjectDeleted(usize),
    LinkDown(usize),
    ForeignAdded(u8),
    ForeignDeleted(u8),
    ForeignReplaces(u8),
    Overrun(u8),
    Restart,
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let prefix = 0..6u8;
    let hops = || prop::collection::btree_set(0..4u8, 1..4);
    let gateways = prop::collection::btree_set(0..4u8, 0..3);
    prop_oneof![
        4 => (prefix.clone(), hops()).prop_map(|(prefix, hops)| Step::Via(prefix, hops)),
        1 => prefix.clone().prop_map(Step::Blackhole),
        1 => (prefix.clone(), 0..LINKS.len()).prop_map(|(prefix, link)| Step::Device(prefix, link)),
        2 => prefix.clone().prop_map(Step::Remove),
        4 => (0..4u8, gateways).prop_map(|(hop, gateways)| Step::Resolve(hop, gateways)),
        4 => Just(Step::Apply),
        2 => prop::collection::vec((prefix.clone(), prop::option::of(hops())), 1..6).prop_map(Step::ApplyMeanwhile),
        1 => (0..4usize).prop_map(Step::Lost),
        1 => prefix.clone().prop_map(Step::RouteDeleted),
        1 => (0..8usize).prop_map(Step::ObjectDeleted),
        1 => (0..LINKS.len()).prop_map(Step::LinkDown),
        1 => prefix.clone().prop_map(Step::ForeignAdded),
        1 => prefix.clone().prop_map(Step::ForeignDeleted),
        1 => prefix.clone().prop_map(Step::ForeignReplaces),
        1 => prefix.prop_map(Step::Overrun),
        1 => Just(Step::Restart),
        1 => Just(Step::Sweep),
    ]
}

fn prefix(number: u8) -> IpNetwork {
    format!("10.244.{number}.0/24").parse().unwrap()
}

fn hop(number: u8) -> Hop {
    Hop::from(IpAddr::from([10, 9, 0, number]))
}

fn gateway(number: u8) -> Gateway {
    let ifindex = LINKS[usize::from(number) % LINKS.len()];
    Gateway { address: IpAddr::from([10, 1, 0, number]), ifindex, onlink: false }
}

/// State, model and what the two should agree on.
struct World {
    state: State,
    kernel: Kernel,
    wanted: BTreeMap<u8, Target>,
    resolved: BTreeMap<u8, BTreeSet<u8>>,
    swept: bool,
}

impl World {
    fn new() -> Self {
        let kernel = Kernel::default();
        Self {
            state: State::new(Owner::BGPD),
            kernel,
            wanted: BTreeMap::new(),
            resolved: BTreeMap::new(),
            swept: false,
        }
    }

    fn want(&mut self, number: u8, target: Target) {
        self.state.set(prefix(number), &target);
        self.wanted.insert(number, target);
    }

    fn tell_resolutions(&mut self) {
        for held in self.state.take_changes().into_iter().flat_map(|change| change.held) {
            self.tell_resolution(held);
        }
    }

    fn wish(&mut self, wish: Option<(u8, Option<BTreeSet<u8>>)>) {
        match wish {
            Some((number, Some(hops))) => self.want(number, Target::Via(hops.into_iter().map(hop).collect())),
            Some((number, None)) => {
                self.state.remove(prefix(number));
                self.wanted.remove(&number);
            }
            None => {}
        }
    }

    fn tell_resolution(&mut self, held: Hop) {
        let known = self.resolved.iter().find(|(number, _)| hop(**number) == held);
        let gateways: Vec<Gateway> =
            known.map(|(_, set)| set.iter().map(|g| gateway(*g)).collect()).unwrap_or_default();
        self.state.resolved(held, &gateways);
    }

    fn observe(&mut self, event: &Event) {
        match self.state.observe(event) {
            Reread::Nothing => {}
            Reread::Objects => self.state.reload_objects(self.kernel.dump_objects(), false),
            Reread::Everything => self.reload(false),
        }
    }

    fn reload(&mut self, adopt: bool) {
        self.state.reload_objects(self.kernel.dump_objects(), adopt);
        let own = self.kernel.dump_routes(&self.state.owner);
        self.state.reload_routes(own);
    }

    fn apply(&mut self) {
        self.apply_meanwhile(Vec::new());
    }

    /// One of the wishes comes between each plan and the record of what became of it.
    fn apply_meanwhile(&mut self, mut wishes: Vec<(u8, Option<BTreeSet<u8>>)>) {
        for _ in 0..3 {
            self.tell_resolutions();
            for plan in [State::plan_singles, State::plan_groups] {
                let puts = plan(&mut self.state);
                self.wish(wishes.pop());
                for put in puts {
                    let outcome = self.kernel.put(&put);
                    self.state.record_put(&put, &outcome);
                }
            }
            self.state.settle();
            loop {
                let ops = self.state.plan_routes(3);
                if ops.is_empty() {
                    break;
                }
                self.wish(wishes.pop());
                for op in ops {
                    let outcome = self.kernel.route(&op);
                    self.state.record_route(&op, &outcome);
                }
            }
            if !self.state.take_suspicion() {
                break;
            }
            self.reload(false);
        }
        let garbage = self.state.plan_garbage();
        self.wish(wishes.pop());
        for id in garbage {
            let used = self.kernel.routes.values().any(|route| *route == Standing::Ours(Shape::Nexthop(id)));
            assert!(!used, "object {id} is in use and would take its routes along");
            self.kernel.delete_object(id);
            self.state.object_gone(id);
        }
    }

    fn kernel_route(&self, number: u8, protocol: u8) -> KernelRoute {
        let (mut kind, mut nexthop, mut ways) = (RouteType::Unicast, None, Vec::new());
        match self.kernel.routes.get(&prefix(number)) {
            Some(Standing::Ours(Shape::Nexthop(id))) => nexthop = Some(*id),
            Some(Standing::Ours(Shape::Blackhole)) => kind = RouteType::BlackHole,
            Some(Standing::Ours(Shape::Device { ifindex, .. })) => {
                ways.push(Way { gateway: None, ifindex: *ifindex, onlink: false });
            }
            Some(Standing::Foreign) | None => {
                ways.push(Way { gateway: Some(gateway(0).address), ifindex: LINKS[0], onlink: false });
            }
        }
        let place = Place::own(&self.state.owner, prefix(number));
        KernelRoute {
            prefix: place.prefix,
            protocol,
            table: place.table,
            metric: place.metric,
            kind,
            nexthop,
            source: None,
            ways,
            cloned: false,
            special: false,
        }
    }

    fn take(&mut self, step: Step) {
        let ours = |world: &Self, number: u8| {
            matches!(world.kernel.routes.get(&prefix(number)), Some(Standing::Ours(_)))
        };
        match step {
            Step::Via(number, hops) => self.want(number, Target::Via(hops.into_iter().map(hop).collect())),
            Step::Blackhole(number) => self.want(number, Target::Blackhole),
            Step::Device(number, link) => {
                self.want(number, Target::Device { ifindex: LINKS[link], source: None });
            }
            Step::Remove(number) => {
                self.state.remove(prefix(number));
                self.wanted.remove(&number);
            }
            Step::Resolve(number, gateways) => {
                self.resolved.insert(number, gateways);
                self.tell_resolution(hop(number));
            }
            Step::Apply => self.apply(),
            Step::ApplyMeanwhile(wishes) => self.apply_meanwhile(wishes),
            Step::Lost(arrived) => {
                for op in self.state.plan_routes(4).into_iter().take(arrived) {
                    // Even the kernel's no is lost.
                    let _ = self.kernel.route(&op);
                }
                self.reload(false);
            }
            Step::RouteDeleted(number) if ours(self, number) => {
                let event = Event::RouteDeleted(self.kernel_route(number, 202));
                self.kernel.routes.remove(&prefix(number));
                self.observe(&event);
            }
            Step::ObjectDeleted(index) => {
                let Some(id) = self.kernel.objects.keys().nth(index).copied() else { return };
                self.kernel.delete_object(id);
                self.observe(&Event::NexthopDeleted(id));
            }
            Step::LinkDown(link) => {
                self.kernel.link_down(LINKS[link]);
                self.observe(&Event::LinkDown(LINKS[link]));
                self.observe(&Event::LinkUp(LINKS[link]));
            }
            Step::ForeignAdded(number) if !self.kernel.routes.contains_key(&prefix(number)) => {
                self.kernel.routes.insert(prefix(number), Standing::Foreign);
                let route = self.kernel_route(number, 4);
                self.observe(&Event::RouteAdded { route, replaces: false });
            }
            Step::ForeignReplaces(number) if ours(self, number) => {
                self.kernel.routes.insert(prefix(number), Standing::Foreign);
                let route = self.kernel_route(number, 4);
                self.observe(&Event::RouteAdded { route, replaces: true });
            }
            Step::ForeignDeleted(number)
                if self.kernel.routes.get(&prefix(number)) == Some(&Standing::Foreign) =>
            {
                let event = Event::RouteDeleted(self.kernel_route(number, 4));
                self.kernel.routes.remove(&prefix(number));
                self.observe(&event);
            }
            Step::Overrun(number) => {
                if ours(self, number) {
                    self.kernel.routes.remove(&prefix(number));
                }
                self.observe(&Event::Overrun);
            }
            Step::Restart => {
                self.state = State::new(Owner::BGPD);
                self.reload(true);
                self.swept = false;
                for (number, target) in std::mem::take(&mut self.wanted) {
                    self.want(number, target);
                }
            }
            Step::Sweep => {
                self.state.sweep();
                self.swept = true;
            }
            _ => {}
        }
    }

    /// After everything has settled, wanted and actual agree.
    fn check(&self) {
        for (number, target) in &self.wanted {
            let place = prefix(*number);
            let standing = self.kernel.routes.get(&place);
            if standing == Some(&Standing::Foreign) {
                continue;
            }
            match target {
                Target::Blackhole => assert_eq!(standing, Some(&Standing::Ours(Shape::Blackhole))),
                Target::Device { ifindex, source } => {
                    let shape = Shape::Device { ifindex: *ifindex, source: *source };
                    assert_eq!(standing, Some(&Standing::Ours(shape)));
                }
                Target::Via(hops) => self.check_via(place, hops),
            }
        }
        if self.swept {
            for (place, standing) in &self.kernel.routes {
                let wanted = self.wanted.keys().any(|number| prefix(*number) == *place);
                assert!(wanted || *standing == Standing::Foreign, "{place} is left over");
            }
            self.check_no_garbage();
        }
    }

    fn check_via(&self, place: IpNetwork, hops: &Arc<[Hop]>) {
        let gateways = |wanted: &Hop| {
            let known = self.resolved.iter().find(|(number, _)| hop(**number) == *wanted);
            known.map(|(_, set)| set.iter().map(|g| gateway(*g)).collect::<BTreeSet<_>>()).unwrap_or_default()
        };
        let sets: Vec<BTreeSet<Gateway>> = hops.iter().map(gateways).collect();
        // While a next hop is unreachable its old ways may stand: the routing protocol moves the route.
        if sets.iter().any(BTreeSet::is_empty) {
            return;
        }
        let all: BTreeSet<Gateway> = sets.into_iter().flatten().collect();
        assert_eq!(self.kernel.leaves_by(place), Some(all), "{place} through {hops:?}");
    }

    fn check_no_garbage(&self) {
        let mut used: BTreeSet<u32> = BTreeSet::new();
        for standing in self.kernel.routes.values() {
            if let Standing::Ours(Shape::Nexthop(id)) = standing {
                used.insert(*id);
            }
        }
        for (id, kind) in &self.kernel.objects {
            if let NexthopKind::Group(members) = kind {
                let needed =
                    used.contains(id) || self.wanted.values().any(|target| matches!(target, Target::Via(_)));
                assert!(needed, "group {id} is left over");
                used.extend(members.iter().map(|member| member.id));
            }
        }
        if !self.wanted.values().any(|target| matches!(target, Target::Via(_))) {
            assert!(self.kernel.objects.is_empty(), "left over: {:?}", self.kernel.objects);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_kernel_ends_up_with_what_is_wanted(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        // What was refused is tried again once nothing else happens.
        for _ in 0..3 {
            world.state.retry();
            world.apply();
        }
        world.check();
    }
}

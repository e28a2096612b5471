//! What kernel events mean for our picture of the kernel.

use tracing::warn;

use super::{Compact, State};
use crate::error::Subject;
use crate::message::route::{KernelRoute, Place};
use crate::monitor::Event;

/// What an event asks of the shell besides applying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reread {
    Nothing,
    /// Nexthop objects may have gone silently.
    Objects,
    /// Routes too.
    Everything,
}

impl State {
    /// Takes in what somebody else changed.
    pub(crate) fn observe(&mut self, event: &Event) -> Reread {
        match event {
            Event::RouteAdded { route, replaces } => self.route_added(route, *replaces),
            Event::RouteDeleted(route) => self.route_deleted(route),
            Event::NexthopChanged(object) if self.owner.nexthop_ids.contains(&object.id) => {
                return Reread::Objects;
            }
            Event::NexthopDeleted(id) if self.owner.nexthop_ids.contains(id) => return Reread::Objects,
            Event::NexthopChanged(_) | Event::NexthopDeleted(_) | Event::Rules => {}
            Event::LinkUp(_) | Event::AddressAdded => self.retry(),
            Event::LinkDown(ifindex) => return self.link_down(*ifindex),
            Event::AddressDeleted(Some(address)) if self.sources.contains(address) => {
                return Reread::Everything;
            }
            Event::AddressDeleted(_) => {}
            Event::Overrun => return Reread::Everything,
        }
        Reread::Nothing
    }

    fn route_added(&mut self, route: &KernelRoute, replaces: bool) {
        if route.special || route.place() != Place::own(&self.owner, route.prefix) {
            return;
        }
        if route.protocol != self.owner.protocol {
            if replaces && self.entries.get(route.prefix).is_some_and(|entry| entry.actual.is_some()) {
                warn!(prefix = %route.prefix, protocol = route.protocol, "another program replaced our route");
                self.set_actual(route.prefix, None);
                self.enqueue(route.prefix);
            }
            return;
        }
        match route.shape(&self.owner) {
            Some(shape) => self.found(route.prefix, shape),
            None => warn!(
                prefix = %route.prefix,
                protocol = route.protocol,
                "another program writes routes with our protocol number"
            ),
        }
    }

    fn route_deleted(&mut self, route: &KernelRoute) {
        if route.special || route.place() != Place::own(&self.owner, route.prefix) {
            return;
        }
        if route.protocol != self.owner.protocol {
            // The way may be free for a route of ours that was refused.
            if self.failures.contains_key(&Subject::Route(route.prefix)) {
                self.enqueue(route.prefix);
            }
            return;
        }
        let deleted = route.shape(&self.owner).map(|shape| self.compact(shape));
        let Some(entry) = self.entries.get(route.prefix) else { return };
        if entry.actual.is_some() && deleted == entry.actual {
            self.set_actual(route.prefix, None);
            self.enqueue(route.prefix);
        }
    }

    /// The kernel has dropped nexthop objects and routes on this link without telling.
    fn link_down(&mut self, ifindex: u32) -> Reread {
        let direct = self.entries.values().any(
            |entry| matches!(entry.actual, Some(Compact::Device { ifindex: link, .. }) if link == ifindex),
        );
        if direct {
            Reread::Everything
        } else if self.objects.uses_link(ifindex) {
            Reread::Objects
        } else {
            Reread::Nothing
        }
    }
}

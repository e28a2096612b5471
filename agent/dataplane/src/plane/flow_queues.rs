//! The queues that limits have for flows, where HTB holds them.
//!
//! A limit begins with one queue for what sends little and one for the rest, and is in force. The others follow once something
//! waits at it: until then there is nothing that a queue of its own would keep apart. Most pods never come so far, and the
//! kernel walks a list of all classes of the node for each class and each filter block that is made
//! (`flow_indr_dev_setup_offload`): were they all there, each further pod would take longer than the one before.

use std::collections::{BTreeMap, BTreeSet};

use crate::tc::pacer::Pacer;
use crate::tc::shape::{Limit, Shape};
use crate::tc::{self, Qdiscs, Queues, Target, pacer};
use crate::{Dataplane, DataplaneError};

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct FlowQueues {
    /// Links that have all of theirs.
    complete: BTreeSet<u32>,
    /// Links that lack some.
    lacking: BTreeMap<u32, Lacking>,
    /// Those of them that have use for them.
    wanted: BTreeSet<u32>,
}

#[derive(Debug)]
struct Lacking {
    link: String,
    mtu: u32,
    limit: Limit,
}

impl FlowQueues {
    /// The links are gone, or have no limit.
    pub(super) fn forget(&mut self, links: &[u32]) {
        for link in links {
            self.complete.remove(link);
            self.lacking.remove(link);
            self.wanted.remove(link);
        }
    }

    fn knows(&self, link: u32) -> bool {
        self.complete.contains(&link) || self.lacking.contains_key(&link)
    }

    /// Takes in at which links limits hold something back.
    pub(super) fn heed(&mut self, busy: impl Iterator<Item = u32>) {
        self.wanted.extend(busy.filter(|link| self.lacking.contains_key(link)));
    }
}

impl Dataplane {
    /// Brings a link to this limit, or to none.
    pub(super) fn set_limit(
        &mut self,
        qdiscs: &Qdiscs,
        target: Target<'_>,
        limit: Option<(Limit, Pacer)>,
    ) -> Result<(), DataplaneError> {
        let index = target.index;
        let Some((wanted, Pacer::Htb)) = limit else {
            self.flow_queues.forget(&[index]);
            tc::set_limit(&mut self.netlink, qdiscs, target, limit, Queues::First)?;
            return Ok(());
        };
        let known = &mut self.flow_queues;
        // A process before this one may have made them all.
        if !known.knows(index) && pacer::is_complete(&mut self.netlink, index) {
            known.complete.insert(index);
        }
        let is_complete = known.complete.contains(&index);
        let queues = if is_complete { Queues::All } else { Queues::First };
        tc::set_limit(&mut self.netlink, qdiscs, target, limit, queues)?;
        if !is_complete {
            let lacking = Lacking { link: target.name.to_owned(), mtu: target.mtu, limit: wanted };
            self.flow_queues.lacking.insert(index, lacking);
        }
        Ok(())
    }

    /// True while [`Self::complete_queues`] has something to do. What asks for it is seen by [`Self::usage`].
    #[must_use]
    pub fn wants_queues(&self) -> bool {
        !self.flow_queues.wanted.is_empty()
    }

    /// Makes the queues of flows that one link lacks. Where that fails it is tried again after the next
    /// [`Self::apply`].
    pub fn complete_queues(&mut self) {
        let Some(index) = self.flow_queues.wanted.pop_first() else { return };
        let Some(Lacking { link, mtu, limit }) = self.flow_queues.lacking.remove(&index) else { return };
        let target = Target { name: &link, index, mtu };
        let made = Shape::new(limit, mtu)
            .map_err(|message| target.failed(message))
            .and_then(|shape| pacer::complete(&mut self.netlink, target, &shape));
        match made {
            Ok(()) => drop(self.flow_queues.complete.insert(index)),
            Err(error) => tracing::warn!(link, %error, "cannot make the queues of flows"),
        }
    }
}

//! The queues that limits have for flows, where HTB holds them.
//!
//! An attachment makes those that a pod's first packets need, and the limit is in force. The rest follows when no pods
//! come for a moment: the kernel walks a list of all classes of the node for each new one
//! (`flow_indr_dev_setup_offload`), so that thirty classes are most of what an attachment takes on a full node, and the
//! next pod should not wait for those of the one before.
//! Until they are there, flows share the first queue; the law of each is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::tc::pacer::Pacer;
use crate::tc::shape::{Limit, Shape};
use crate::tc::{self, Qdiscs, Queues, Target, pacer};
use crate::{Dataplane, DataplaneError};

/// No pod has come for so long: it is time to make what is lacking.
const PAUSE: Duration = Duration::from_millis(500);
/// A link lacks queues no longer than this, however many pods come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct FlowQueues {
    /// Links that have all of theirs.
    complete: BTreeSet<u32>,
    /// Links of new pods that lack some. Indices grow, so the first has waited longest.
    lacking: BTreeMap<u32, Lacking>,
}

#[derive(Debug)]
struct Lacking {
    link: String,
    mtu: u32,
    limit: Limit,
    since: Instant,
}

impl FlowQueues {
    /// The links are gone, or have no limit.
    pub(super) fn forget(&mut self, links: &[u32]) {
        for link in links {
            self.complete.remove(link);
            self.lacking.remove(link);
        }
    }
}

impl Dataplane {
    /// Brings a link to this limit, or to none.
    pub(super) fn set_limit(
        &mut self,
        qdiscs: &Qdiscs,
        target: Target<'_>,
        limit: Option<(Limit, Pacer)>,
        queues: Queues,
    ) -> Result<(), DataplaneError> {
        tc::set_limit(&mut self.netlink, qdiscs, target, limit, queues)?;
        let Some((limit, Pacer::Htb)) = limit else {
            self.flow_queues.forget(&[target.index]);
            return Ok(());
        };
        if queues == Queues::First {
            let lacking =
                Lacking { link: target.name.to_owned(), mtu: target.mtu, limit, since: Instant::now() };
            self.flow_queues.lacking.insert(target.index, lacking);
            return Ok(());
        }
        if let Some(lacking) = self.flow_queues.lacking.get_mut(&target.index) {
            (lacking.mtu, lacking.limit) = (target.mtu, limit);
            return Ok(());
        }
        // A process that died after an attachment may have left some out.
        if !self.flow_queues.complete.contains(&target.index) {
            self.make_queues(target, limit)?;
        }
        Ok(())
    }

    /// When [`Self::complete_queues`] should be called next: none while no link lacks queues.
    #[must_use]
    pub fn queues_due(&self) -> Option<Instant> {
        let (_, first) = self.flow_queues.lacking.first_key_value()?;
        let (_, last) = self.flow_queues.lacking.last_key_value()?;
        Some((last.since + PAUSE).min(first.since + PATIENCE))
    }

    /// Makes the queues of flows that one link of a new pod lacks. Where that fails, [`Self::apply`] tries again and says
    /// so.
    pub fn complete_queues(&mut self) {
        let Some((index, Lacking { link, mtu, limit, since: _ })) = self.flow_queues.lacking.pop_first()
        else {
            return;
        };
        let target = Target { name: &link, index, mtu };
        if let Err(error) = self.make_queues(target, limit) {
            tracing::debug!(link, %error, "cannot make the queues of flows");
        }
    }

    fn make_queues(&mut self, target: Target<'_>, limit: Limit) -> Result<(), DataplaneError> {
        let shape = Shape::new(limit, target.mtu).map_err(|message| target.failed(message))?;
        pacer::complete(&mut self.netlink, target, &shape)?;
        self.flow_queues.lacking.remove(&target.index);
        self.flow_queues.complete.insert(target.index);
        Ok(())
    }
}

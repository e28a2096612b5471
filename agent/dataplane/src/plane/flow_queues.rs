//! The queues that limits have for flows, where HTB holds them.
//!
//! An attachment makes those that a pod's first packets need, and the limit is in force. The rest follows when the attachment
//! has been answered: the kernel walks a list of all classes of the node for each new one
//! (`flow_indr_dev_setup_offload`), so that thirty classes were most of what an attachment took on a full node.
//! Until they are there, flows share the first queue; the law of each is the same.

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
    /// Links of new pods that lack some.
    lacking: BTreeMap<u32, Lacking>,
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
            let lacking = Lacking { link: target.name.to_owned(), mtu: target.mtu, limit };
            self.flow_queues.lacking.insert(target.index, lacking);
            return Ok(());
        }
        // A process that died after an attachment may have left some out.
        if !self.flow_queues.complete.contains(&target.index) {
            self.make_queues(target, limit)?;
        }
        Ok(())
    }

    /// True while [`Self::complete_queues`] has something to do.
    #[must_use]
    pub fn lacks_queues(&self) -> bool {
        !self.flow_queues.lacking.is_empty()
    }

    /// Makes the queues of flows that one link of a new pod lacks. Where that fails, [`Self::apply`] tries again and says
    /// so.
    pub fn complete_queues(&mut self) {
        let Some((index, Lacking { link, mtu, limit })) = self.flow_queues.lacking.pop_first() else {
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

//! What the watch's messages mean, judged between two attachments by what is there.

use super::detach::is_ours;
use crate::watch::is_in_order;
use crate::{Concern, Dataplane, OwnPorts, endpoint, links};

impl Dataplane {
    /// What the kernel calls the sockets that write, for [`crate::Watch::open`].
    #[must_use]
    pub fn own_ports(&self) -> OwnPorts {
        OwnPorts { route: [self.netlink.port(), self.routes.port()].into(), nftables: self.nft.port() }
    }

    /// What others have taken away or changed and only [`Self::apply`] puts back; `None` where a message of the kernel was
    /// about what we do ourselves. Costs the same however many pods there are.
    pub fn must_mend(&mut self, concern: &Concern) -> Option<String> {
        match concern {
            Concern::Taken(what) => Some(format!("{what} was taken away")),
            Concern::OnLink { link, what } => {
                let (name, _) = self.indices.iter().find(|(_, index)| *index == link)?;
                Some(format!("{what} on {name} went"))
            }
            Concern::Link(name) => self.link_to_mend(name),
        }
    }

    fn link_to_mend(&mut self, name: &str) -> Option<String> {
        let ours = self.indices.get(name).copied();
        let present = match links::by_name(&mut self.netlink, name) {
            Ok(present) => present.filter(is_ours),
            Err(refusal) => return Some(format!("link {name} cannot be read: {}", refusal.words())),
        };
        match (ours, present) {
            (None, None) => None,
            (Some(_), None) => Some(format!("link {name} went")),
            (None, Some(_)) => (!self.is_cut_off(name)).then(|| format!("link {name} is no pod's")),
            (Some(index), Some(link)) => {
                (link.index != index || !is_in_order(&link)).then(|| format!("link {name} changed"))
            }
        }
    }

    /// The link waits for [`Self::sweep`].
    fn is_cut_off(&self, name: &str) -> bool {
        self.cut_off.iter().any(|gone| endpoint::links_of(&gone.host_link).iter().any(|link| link == name))
    }
}

//! A veth pair between two nodes.

use anyhow::{Context as _, Result};
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::os::fd::AsRawFd as _;

use crate::node::Node;

/// A cable between two nodes: a handle, it can be dropped. The cable goes when [`Link::cut`], or with either node.
#[derive(Debug, Clone)]
pub struct Link {
    ends: [(Node, String); 2],
}

impl Link {
    pub(crate) fn create(a: &Node, a_name: &str, b: &Node, b_name: &str) -> Result<Self> {
        let far_netns = b.netns()?;
        let far =
            LinkMessageBuilder::<LinkUnspec>::new().name(b_name).setns_by_fd(far_netns.as_raw_fd()).build();
        let near = LinkMessageBuilder::<LinkVeth>::new(a_name, b_name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .build();
        let link = Self { ends: [(a.clone(), a_name.to_owned()), (b.clone(), b_name.to_owned())] };
        a.add_link(near).with_context(|| format!("connect {link}"))?;
        link.up()?;
        Ok(link)
    }

    /// Sets both ends up.
    ///
    /// # Errors
    /// When an end is missing.
    pub fn up(&self) -> Result<()> {
        self.ends.iter().try_for_each(|(node, name)| node.link_up(name))
    }

    /// Sets both ends down: the cable is pulled, the interfaces and their addresses stay.
    ///
    /// # Errors
    /// When an end is missing.
    pub fn down(&self) -> Result<()> {
        self.ends.iter().try_for_each(|(node, name)| node.link_down(name))
    }

    /// Sets the MTU of both ends, in bytes.
    ///
    /// # Errors
    /// When an end is missing or the value is refused.
    pub fn mtu(&self, bytes: u32) -> Result<()> {
        self.ends.iter().try_for_each(|(node, name)| node.mtu(name, bytes))
    }

    /// Removes the cable with both interfaces.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn cut(self) -> Result<()> {
        let [(node, name), _] = &self.ends;
        node.link_del(name)
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [(a, a_name), (b, b_name)] = &self.ends;
        write!(f, "{}:{a_name} ↔ {}:{b_name}", a.name(), b.name())
    }
}

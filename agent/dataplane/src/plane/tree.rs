//! The node tree on its uplinks: built before pods are classified into it, taken away after.

use std::collections::BTreeMap;

use turnpike_model::desired::{DesiredState, NodeTree};

use super::apply::Problems;
use crate::endpoint::LINK_PREFIX;
use crate::links::Link;
use crate::tc::{Classes, Qdiscs, Target, classes, uplink};
use crate::{Dataplane, DataplaneError};

/// A tree that is in force on a link.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) index: u32,
    pub(super) mtu: u32,
    pub(super) classes: Classes,
}

/// Trees in force by the names of their links.
pub(super) type Trees = BTreeMap<String, Tree>;

/// Masters whose ports carry traffic that was queued at the master already.
const AGGREGATES: [&str; 2] = ["bond", "team"];

impl Dataplane {
    /// Builds or changes the tree on every uplink that should have one. Classes that it no longer has stay for now.
    pub(super) fn build_trees(
        &mut self,
        desired: &DesiredState,
        links: &BTreeMap<String, Link>,
        problems: &mut Problems,
    ) {
        self.trees.clear();
        let Some(tree) = &desired.tree else { return };
        if let Err(reason) = self.bpf.can_classify() {
            problems.failed(
                "node tree",
                format!(
                    "NodeBandwidth/{} is not in force: pods cannot be told from the host: {reason}",
                    tree.source
                ),
            );
            return;
        }
        let names = self.tree_links(tree, problems);
        if names.is_empty() {
            let message = format!(
                "NodeBandwidth/{}: no interface has a default route; name them in spec.tree.uplinks",
                tree.source
            );
            problems.failed("node tree", message);
        }
        let Some(qdiscs) = problems.take("node tree", Qdiscs::read(&mut self.netlink)) else { return };
        for name in names {
            match self.build_tree(tree, &name, links, &qdiscs) {
                Ok(tree) => drop(self.trees.insert(name, tree)),
                Err(error) => problems.failed(&name, error.to_string()),
            }
        }
    }

    /// Names of the links that should have the tree.
    fn tree_links(&mut self, tree: &NodeTree, problems: &mut Problems) -> Vec<String> {
        if !tree.uplinks.is_empty() {
            return tree.uplinks.iter().cloned().collect();
        }
        let facts = self.facts();
        let uplinks = problems.take("uplinks", facts).map(|facts| facts.uplinks).unwrap_or_default();
        uplinks.into_iter().filter(|uplink| uplink.has_default_route).map(|uplink| uplink.name).collect()
    }

    fn build_tree(
        &mut self,
        tree: &NodeTree,
        name: &str,
        links: &BTreeMap<String, Link>,
        qdiscs: &Qdiscs,
    ) -> Result<Tree, DataplaneError> {
        let refused = |message: String| DataplaneError::Limit { link: name.to_owned(), message };
        let link = links.get(name).ok_or_else(|| {
            refused(format!("no such interface; correct spec.tree.uplinks of NodeBandwidth/{}", tree.source))
        })?;
        if link.loopback || link.name.starts_with(LINK_PREFIX) {
            return Err(refused("it leads nowhere outside; a tree is for uplinks".to_owned()));
        }
        let master = link.master.and_then(|index| links.values().find(|link| link.index == index));
        if let Some(master) = master
            && master.kind.as_deref().is_some_and(|kind| AGGREGATES.contains(&kind))
        {
            return Err(refused(format!("it is a port of {}; name {} instead", master.name, master.name)));
        }
        let classes = classes(tree, super::usage::link_speed(name)).map_err(refused)?;
        let target = Target { name, index: link.index, mtu: link.mtu };
        uplink::build(&mut self.netlink, qdiscs, target, (&classes, self.leaf_queue), &self.memory)?;
        Ok(Tree { index: link.index, mtu: link.mtu, classes })
    }

    /// Removes classes that trees no longer have, and trees that nobody wants: pods are classified anew by now.
    pub(super) fn prune_trees(&mut self, links: &BTreeMap<String, Link>, problems: &mut Problems) {
        for (name, tree) in self.trees.clone() {
            let target = Target { name: &name, index: tree.index, mtu: tree.mtu };
            let pruned = uplink::prune(&mut self.netlink, target, &tree.classes);
            if problems.take(&name, pruned) == Some(true) {
                tracing::debug!(link = name, "a class goes when its queue is empty");
            }
        }
        self.remove_trees(links, problems);
    }

    /// Removes our HTB from every link that is not among [`Self::trees`], and puts back what was there.
    pub(super) fn remove_trees(&mut self, links: &BTreeMap<String, Link>, problems: &mut Problems) {
        let Some(qdiscs) = problems.take("node tree", Qdiscs::read(&mut self.netlink)) else { return };
        for index in uplink::links_with_tree(&qdiscs) {
            let Some(link) = links.values().find(|link| link.index == index) else { continue };
            if self.trees.contains_key(&link.name) {
                continue;
            }
            let target = Target { name: &link.name, index, mtu: link.mtu };
            let removed = uplink::remove(&mut self.netlink, &qdiscs, target, &self.memory);
            problems.take(&link.name, removed);
        }
    }
}

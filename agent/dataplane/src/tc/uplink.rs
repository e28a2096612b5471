//! Driver for the node tree on an uplink: qdisc, classes and queues by difference, and what was there before.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::DataplaneError;
use crate::netlink::{Netlink, Refusal};

use super::htb::{self, Class};
use super::leaf::LeafQueue;
use super::tree::{Classes, HOST, HTB};
use super::wire::{self, Qdisc, ROOT};
use super::{Qdiscs, Target, ignore_absent};

/// Root qdiscs that can be put back from what a dump says of them.
const RESTORABLE: [&str; 8] =
    ["bfifo", "cake", "fq", "fq_codel", "fq_pie", "pfifo", "pfifo_head_drop", "sfq"];

/// Where qdiscs are remembered that our HTB took the place of; `None` refuses to take their place.
#[derive(Debug, Clone)]
pub(crate) struct Memory(pub(crate) Option<PathBuf>);

impl Memory {
    fn file(&self, link: &str) -> Option<PathBuf> {
        self.0.as_ref().map(|folder| folder.join(format!("qdisc-{link}")))
    }

    fn store(&self, link: &str, found: &Qdisc) -> io::Result<()> {
        let Some(file) = self.file(link) else {
            return Err(io::Error::other("there is no folder to remember it in"));
        };
        let options: String = found.options().iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!("{} {:08x} {options}\n", found.kind(), found.handle());
        let fresh = file.with_extension("new");
        write_durably(&fresh, &text)?;
        std::fs::rename(fresh, file)
    }

    fn recall(&self, link: &str) -> Option<(String, u32, Vec<u8>)> {
        let text = std::fs::read_to_string(self.file(link)?).ok()?;
        parse_memory(&text)
    }

    fn forget(&self, link: &str) {
        if let Some(file) = self.file(link)
            && let Err(error) = std::fs::remove_file(&file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), %error, "cannot be removed");
        }
    }
}

fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn parse_memory(text: &str) -> Option<(String, u32, Vec<u8>)> {
    let mut words = text.trim_end_matches('\n').split(' ');
    let (kind, handle, options) = (words.next()?, words.next()?, words.next()?);
    if !options.len().is_multiple_of(2) || !options.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(options.get(at..at + 2)?, 16).ok();
    let options = (0..options.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
    Some((kind.to_owned(), u32::from_str_radix(handle, 16).ok()?, options))
}

/// Makes what is missing and changes what differs. What the tree no longer has stays until [`prune`].
pub(crate) fn build(
    netlink: &mut Netlink,
    qdiscs: &Qdiscs,
    target: Target<'_>,
    (classes, leaf_queue): (&Classes, LeafQueue),
    memory: &Memory,
) -> Result<bool, DataplaneError> {
    let mut written = false;
    let ours = qdiscs.of(target.index).iter().any(Qdisc::is_our_htb);
    if !ours {
        take_root(netlink, qdiscs, target, memory)?;
        written = true;
    }
    let present = if ours { read_classes(netlink, target)? } else { BTreeMap::new() };
    for (minor, shape) in classes {
        if !present.get(minor).is_some_and(|class| class.has_shape(HTB, shape)) {
            netlink
                .call(&htb::set_class(target.index, HTB, *minor, shape))
                .map_err(|refusal| target.refused(&format!("set class {minor:x}"), &refusal))?;
            written = true;
        }
        let Some(leaf) = &shape.leaf else { continue };
        let queue = qdiscs.of(target.index).iter().find(|qdisc| ours && qdisc.is_queue_of(*minor));
        let request = leaf_queue.request((target.index, *minor), (leaf, shape.ceiling), queue);
        let Some(request) = request else { continue };
        netlink
            .call(&request)
            .map_err(|refusal| target.refused(&format!("set the queue of class {minor:x}"), &refusal))?;
        written = true;
    }
    Ok(written)
}

/// Puts our HTB in place of a default or restorable root qdisc.
fn take_root(
    netlink: &mut Netlink,
    qdiscs: &Qdiscs,
    target: Target<'_>,
    memory: &Memory,
) -> Result<(), DataplaneError> {
    // The kernel gives its defaults no handle: they come back by themselves.
    let found = qdiscs.of(target.index).iter().find(|qdisc| qdisc.parent() == ROOT && qdisc.handle() != 0);
    if let Some(found) = found {
        if !RESTORABLE.contains(&found.kind()) {
            return Err(target.failed(format!(
                "its root qdisc is a {} of somebody else's, which could not be put back; remove it \
                 (tc qdisc del dev {} root), or leave this link out of spec.tree.uplinks",
                found.kind(),
                target.name
            )));
        }
        memory.store(target.name, found).map_err(|error| {
            target.failed(format!("its root qdisc {} cannot be remembered: {error}", found.kind()))
        })?;
    }
    netlink
        .call(&htb::new_htb(target.index, HTB, ROOT, HOST))
        .map_err(|refusal| target.refused("add the HTB", &refusal))?;
    tracing::info!(
        link = target.name,
        found = found.map_or("default", |found| found.kind()),
        "root qdisc is ours"
    );
    Ok(())
}

/// Removes classes that the tree no longer has, once nothing waits in them: what is queued is sent, not dropped.
pub(crate) fn prune(
    netlink: &mut Netlink,
    target: Target<'_>,
    classes: &Classes,
) -> Result<bool, DataplaneError> {
    let present = read_classes(netlink, target)?;
    let stale: Vec<&Class> = present.values().filter(|class| !classes.contains_key(&class.minor)).collect();
    let mut left = false;
    for class in stale.iter().rev() {
        if class.stats.backlog > 0 {
            left = true;
            continue;
        }
        let removed = netlink.call(&htb::delete_class(target.index, class.minor));
        ignore_absent(removed).map_err(|refusal| target.refused("remove a class", &refusal))?;
    }
    Ok(left)
}

/// Takes our HTB away and puts back what was found; answers whether it was there.
pub(crate) fn remove(
    netlink: &mut Netlink,
    qdiscs: &Qdiscs,
    target: Target<'_>,
    memory: &Memory,
) -> Result<bool, DataplaneError> {
    if !qdiscs.of(target.index).iter().any(Qdisc::is_our_htb) {
        return Ok(false);
    }
    let removed = netlink.call(&wire::delete_root(target.index, HTB));
    ignore_absent(removed).map_err(|refusal| target.refused("remove the HTB", &refusal))?;
    if let Some((kind, handle, options)) = memory.recall(target.name) {
        netlink
            .call(&wire::restore_root(target.index, handle, &kind, &options))
            .map_err(|refusal| target.refused(&format!("put {kind} back"), &refusal))?;
    }
    memory.forget(target.name);
    tracing::info!(link = target.name, "root qdisc is what it was");
    Ok(true)
}

/// Classes of our HTB on a link, by minor number.
pub(crate) fn read_classes(
    netlink: &mut Netlink,
    target: Target<'_>,
) -> Result<BTreeMap<u16, Class>, DataplaneError> {
    let replies = match netlink.dump(&htb::get_classes(target.index)) {
        Err(refusal) if refusal.is_absent() => Vec::new(),
        other => other.map_err(|refusal: Refusal| target.refused("list classes", &refusal))?,
    };
    let classes = replies.iter().filter_map(|reply| htb::parse_class(HTB, &reply.body));
    Ok(classes.map(|class| (class.minor, class)).collect())
}

/// Links, by index, that have our HTB.
pub(crate) fn links_with_tree(qdiscs: &Qdiscs) -> Vec<u32> {
    let all = qdiscs.by_link.iter();
    all.filter(|(_, qdiscs)| qdiscs.iter().any(Qdisc::is_our_htb)).map(|(link, _)| *link).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_remembered_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory(Some(folder.path().to_owned()));
        let body = wire::restore_root(7, 0x0012_0000, "bfifo", &[0, 0, 1, 255]).body;
        memory.store("eth0", &wire::parse_qdisc(&body).unwrap()).unwrap();
        assert_eq!(memory.recall("eth0"), Some(("bfifo".to_owned(), 0x0012_0000, vec![0, 0, 1, 255])));
        memory.forget("eth0");
        assert_eq!(memory.recall("eth0"), None);
        assert_eq!(parse_memory("bfifo 00120000 0"), None);
        assert!(Memory(None).store("eth0", &wire::parse_qdisc(&body).unwrap()).is_err());
    }
}

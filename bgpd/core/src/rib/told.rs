//! What a group of peers is told about one prefix: one path, or several with identifiers (RFC 7911).
//!
//! Everything behind the Adj-RIB-Out works on slots, which are a prefix and a path identifier: with add-path a slot
//! belongs to a path for as long as that path is held, without it each prefix has the one slot [`BEST`], whose path
//! changes.

use std::sync::Arc;

use super::Shared;
use super::attrs::PathAttrs;
use super::decide;
use super::dests::DestId;
use super::export::{ExportCache, GroupKey};
use super::table::{Dest, Origination, Path, TablePrefix};
use crate::config::SendPaths;

/// The path identifier of sessions without path identifiers.
pub(super) const BEST: u32 = 0;

/// A path as the group is told it.
#[derive(Clone, Debug)]
pub(super) struct Advert {
    pub(super) attrs: Arc<PathAttrs>,
    pub(super) from: Origination,
    label: Label,
}

/// What tells a slot of a prefix from the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Label {
    /// The one slot of sessions without path identifiers.
    Best,
    /// The path identifier that we assigned.
    Path(u16),
}

/// There is one for each prefix and group: a byte more in it is a megabyte more in the table.
const _: () = assert!(size_of::<Option<Told>>() == 16);

impl Advert {
    /// The path identifier, as peers see it.
    pub(super) const fn path_id(&self) -> u32 {
        match self.label {
            Label::Best => BEST,
            Label::Path(number) => number as u32,
        }
    }

    fn is(&self, other: &Advert) -> bool {
        Arc::ptr_eq(&self.attrs, &other.attrs) && self.from == other.from && self.label == other.label
    }
}

/// All that the group is told about a prefix, never nothing. One path takes no allocation: most groups have no other
/// entries, and there is one for each prefix.
#[derive(Clone, Debug)]
pub(super) enum Told {
    One(Advert),
    Several(Box<Slots>),
}

/// Paths in the order of their identifiers.
#[derive(Clone, Debug)]
pub(super) struct Slots(Vec<Advert>);

impl Told {
    /// What the group is to be told about a prefix; `None`: nothing.
    pub(super) fn wanted<P: TablePrefix>(
        key: &GroupKey,
        prefix: P,
        dest: &Dest,
        shared: &mut Shared,
        cache: &mut ExportCache,
    ) -> Option<Self> {
        let best = dest.best().filter(|_| !shared.summaries.matches(prefix.into()))?;
        let tell = |path: &Path, label: Label, shared: &mut Shared, cache: &mut ExportCache| {
            let attrs = shared.export(key, prefix.into(), path, cache)?;
            Some(Advert { attrs, from: path.from, label })
        };
        let most = match key.paths {
            SendPaths::Best => return tell(best, Label::Best, shared, cache).map(Told::One),
            SendPaths::All => usize::MAX,
            SendPaths::Most(most) => usize::from(most),
        };
        // While selection is deferred, peers' paths are not decided on.
        let only_ours = shared.holding;
        let mut slots: Vec<Advert> = Vec::new();
        for path in
            decide::ranked(&dest.paths, shared, most).iter().filter_map(|index| dest.paths.get(*index))
        {
            let Some(number) = path.told_as().filter(|_| !only_ours || path.from == Origination::LOCAL)
            else {
                continue;
            };
            slots.extend(tell(path, Label::Path(number), shared, cache));
        }
        slots.sort_unstable_by_key(Advert::path_id);
        if slots.len() > 1 {
            return Some(Told::Several(Box::new(Slots(slots))));
        }
        slots.pop().map(Told::One)
    }

    pub(super) fn adverts(&self) -> &[Advert] {
        match self {
            Told::One(advert) => std::slice::from_ref(advert),
            Told::Several(slots) => &slots.0,
        }
    }

    /// The path told under an identifier.
    pub(super) fn slot(&self, path_id: u32) -> Option<&Advert> {
        let adverts = self.adverts();
        adverts.binary_search_by_key(&path_id, Advert::path_id).ok().and_then(|at| adverts.get(at))
    }

    fn is(&self, other: &Told) -> bool {
        let (ours, others) = (self.adverts(), other.adverts());
        ours.len() == others.len() && ours.iter().zip(others).all(|(one, other)| one.is(other))
    }
}

/// The Adj-RIB-Out of a group: what it was told of each destination, by number.
#[derive(Debug, Default)]
pub(super) struct AdjOut(Vec<Option<Told>>);

impl AdjOut {
    pub(super) fn get(&self, id: DestId) -> Option<&Told> {
        self.0.get(id.row())?.as_ref()
    }

    /// Destinations from a row on of which something was told.
    pub(super) fn iter_from(&self, first: usize) -> impl Iterator<Item = (DestId, &Told)> {
        let rows = self.0.iter().enumerate().skip(first);
        rows.filter_map(|(at, told)| told.as_ref().map(|told| (DestId::of_row(at), told)))
    }

    /// Puts what is wanted in the place of what was told; answers with what was told, or `Err` if that is the same.
    pub(super) fn replace(&mut self, id: DestId, wanted: Option<&Told>) -> Result<Option<Told>, Same> {
        if self.0.len() <= id.row() {
            if wanted.is_none() {
                return Err(Same);
            }
            self.0.resize_with(id.row() + 1, || None);
        }
        let Some(told) = self.0.get_mut(id.row()) else { return Err(Same) };
        let same = match (told.as_ref(), wanted) {
            (None, None) => true,
            (Some(told), Some(wanted)) => told.is(wanted),
            _ => false,
        };
        match same {
            true => Err(Same),
            false => Ok(std::mem::replace(told, wanted.cloned())),
        }
    }
}

/// There is nothing to tell.
#[derive(Debug)]
pub(super) struct Same;

/// The slots that differ, as what was told and what is to be told, in the order of their identifiers.
pub(super) fn differences<'a>(
    old: Option<&'a Told>,
    new: Option<&'a Told>,
) -> impl Iterator<Item = (Option<&'a Advert>, Option<&'a Advert>)> {
    let mut old = old.map_or(&[][..], Told::adverts).iter().peekable();
    let mut new = new.map_or(&[][..], Told::adverts).iter().peekable();
    let pairs = std::iter::from_fn(move || {
        let (first, second) =
            (old.peek().map(|advert| advert.path_id()), new.peek().map(|advert| advert.path_id()));
        match (first, second) {
            (None, None) => None,
            (Some(first), Some(second)) if first == second => Some((old.next(), new.next())),
            (Some(first), Some(second)) if first > second => Some((None, new.next())),
            (None, Some(_)) => Some((None, new.next())),
            (Some(_), _) => Some((old.next(), None)),
        }
    });
    pairs.filter(|pair| !matches!(pair, (Some(old), Some(new)) if old.is(new)))
}

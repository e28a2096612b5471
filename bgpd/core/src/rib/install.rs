//! From a decision to the kernel's route.

use smallvec::SmallVec;

use super::aggregates::AGGREGATE;
use super::decide::Selection;
use super::nexthops::SetId;
use super::table::{Dest, Origination, Path, TablePrefix};
use super::{RibOutput, Shared};
use crate::output::{Nexthop, RouteChange};

/// What the kernel is to have for a prefix.
#[derive(Debug)]
pub(super) enum KernelRoute {
    /// Routes to these, sorted; nothing if there are none. What we originate has none: it is its owner's affair.
    Via(SmallVec<[Nexthop; 4]>),
    /// An aggregate's: what has no route of its own inside it stops here.
    Discard,
}

impl KernelRoute {
    /// Next hops of the best path and of its equals, within the configured bound.
    pub(super) fn of(paths: &[Path], selection: &Selection, shared: &Shared) -> Self {
        let best = selection.best.and_then(|best| paths.get(best));
        if best.is_some_and(|best| best.from == Origination::LOCAL && best.path_id == AGGREGATE) {
            return Self::Discard;
        }
        let external = best.is_some_and(|best| shared.is_external(best.from));
        let multipath = shared.local.multipath;
        let most = usize::from(if external { multipath.ebgp } else { multipath.ibgp }).max(1);
        let equals = selection.equal.iter().filter_map(|index| paths.get(*index));
        let mut nexthops: SmallVec<[Nexthop; 4]> = SmallVec::new();
        // Several reflectors tell the same path: only different next hops count against the bound.
        for nexthop in equals.filter_map(|path| shared.nexthops.get(path.nexthop)) {
            if nexthops.len() == most {
                break;
            }
            if !nexthops.contains(&nexthop) {
                nexthops.push(nexthop);
            }
        }
        nexthops.sort_unstable();
        Self::Via(nexthops)
    }

    /// Tells the kernel, if that is news.
    pub(super) fn install<P: TablePrefix>(&self, dest: &mut Dest, prefix: P, shared: &mut Shared) {
        let same = match self {
            Self::Discard => dest.installed == SetId::DISCARD,
            Self::Via(nexthops) => {
                dest.installed != SetId::DISCARD
                    && shared.sets.get(dest.installed).unwrap_or_default() == nexthops.as_slice()
            }
        };
        if same {
            return;
        }
        let before = std::mem::take(&mut dest.installed);
        let prefix = prefix.into();
        let change = match self {
            Self::Discard => {
                dest.installed = SetId::DISCARD;
                RouteChange::Discard { prefix }
            }
            Self::Via(nexthops) if nexthops.is_empty() => RouteChange::Remove { prefix },
            Self::Via(nexthops) => {
                let (id, nexthops) = shared.sets.acquire(nexthops);
                dest.installed = id;
                RouteChange::Install { prefix, nexthops }
            }
        };
        shared.sets.release(before);
        shared.out.push_back(RibOutput::Route(change));
    }
}

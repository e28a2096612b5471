//! The decision process (RFC 4271 §9.1, RFC 4456 §9), step by step.
//!
//! The answer is a function of the set of paths alone: neither their order nor their age matters. (RFC 5004, which
//! prefers the older of two external paths, is left out for that reason.) MULTI_EXIT_DISC is compared only among
//! paths from the same neighbouring AS, by elimination, so that the order of comparison cannot show either.

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;

use smallvec::SmallVec;
use turnpike_bgp_wire::{Asn, Origin, RouterId};

use super::Shared;
use super::aggregates::AGGREGATE;
use super::table::{Origination, Path};

/// LOCAL_PREF of paths without one.
pub(super) const DEFAULT_LOCAL_PREF: u32 = 100;

/// The steps, in order. A path that is not the best lost one of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Step {
    /// 0. Import accepted it and its next hop can be reached (RFC 4271 §9.1.2).
    Eligible,
    /// 1. Long-lived stale paths are the last resort (RFC 9494 §4.3).
    LongLived,
    /// 2. What we originate ourselves comes first, networks before aggregates.
    Local,
    /// 3. Highest LOCAL_PREF (RFC 4271 §9.1.1).
    LocalPref,
    /// 4. Shortest AS_PATH (RFC 4271 §9.1.2.2 a).
    AsPath,
    /// 5. Lowest ORIGIN (b).
    Origin,
    /// 6. Lowest MULTI_EXIT_DISC from the same neighbouring AS (c).
    Med,
    /// 7. External before internal (d).
    External,
    /// 8. Lowest interior cost to the next hop (e). Paths that are equal so far share the traffic.
    Metric,
    /// 9. Lowest BGP identifier, or ORIGINATOR_ID (f; RFC 4456 §9).
    RouterId,
    /// 10. Shortest CLUSTER_LIST (RFC 4456 §9).
    ClusterList,
    /// 11. Lowest peer address (g).
    PeerAddress,
    /// 12. Lowest path identifier (RFC 7911).
    PathId,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Eligible => "next hop unreachable",
            Step::LongLived => "long-lived stale",
            Step::Local => "originated elsewhere",
            Step::LocalPref => "lower LOCAL_PREF",
            Step::AsPath => "longer AS_PATH",
            Step::Origin => "higher ORIGIN",
            Step::Med => "higher MED",
            Step::External => "internal",
            Step::Metric => "farther next hop",
            Step::RouterId => "higher BGP identifier",
            Step::ClusterList => "longer CLUSTER_LIST",
            Step::PeerAddress => "higher peer address",
            Step::PathId => "higher path identifier",
        })
    }
}

/// What decides about a path.
#[derive(Clone, Debug)]
struct Candidate {
    index: usize,
    long_lived: bool,
    /// 0: a network of ours, 1: an aggregate, 2: learnt.
    learnt: u8,
    local_pref: u32,
    hops: u32,
    origin: Origin,
    neighbour: Option<Asn>,
    med: u32,
    external: bool,
    metric: u32,
    router_id: RouterId,
    clusters: usize,
    addr: Option<IpAddr>,
    path_id: u32,
}

type Candidates = SmallVec<[Candidate; 4]>;

/// The outcome: places in the list of paths.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Selection {
    pub(super) best: Option<usize>,
    /// The best path and its equals up to step 8, in the order of the steps after it.
    pub(super) equal: SmallVec<[usize; 4]>,
}

/// Selects among the paths of a prefix.
pub(super) fn select(paths: &[Path], shared: &Shared) -> Selection {
    // Most prefixes have one path.
    if let [path] = paths {
        let eligible = path.used.is_ok()
            && (path.from == Origination::LOCAL || shared.nexthops.metric(path.nexthop).is_some());
        let only = eligible.then_some(0);
        return Selection { best: only, equal: only.into_iter().collect() };
    }
    choose(paths.iter().enumerate().filter_map(|(index, path)| candidate(index, path, shared)).collect())
}

/// Paths that may be used, at most so many of the best: each is the best once those before it are gone.
pub(super) fn ranked(paths: &[Path], shared: &Shared, most: usize) -> SmallVec<[usize; 4]> {
    let mut rest: Candidates =
        paths.iter().enumerate().filter_map(|(index, path)| candidate(index, path, shared)).collect();
    if rest.len() <= most {
        // All of them: who is best does not matter.
        return rest.iter().map(|candidate| candidate.index).collect();
    }
    let mut ranked = SmallVec::new();
    while ranked.len() < most
        && let Some(best) = choose(rest.clone()).best
    {
        ranked.push(best);
        rest.retain(|candidate| candidate.index != best);
    }
    ranked
}

fn choose(mut candidates: Candidates) -> Selection {
    for step in STEPS.into_iter().take_while(|step| *step <= Step::Metric) {
        if candidates.len() < 2 {
            break;
        }
        eliminate(&mut candidates, step);
    }
    candidates.sort_unstable_by_key(tie_break);
    let equal: SmallVec<[usize; 4]> = candidates.iter().map(|candidate| candidate.index).collect();
    Selection { best: equal.first().copied(), equal }
}

/// The step that the path at `index` lost; `None` for the best.
pub(super) fn lost_at(index: usize, paths: &[Path], shared: &Shared) -> Option<Step> {
    let mut candidates: Candidates =
        paths.iter().enumerate().filter_map(|(at, path)| candidate(at, path, shared)).collect();
    let present = |candidates: &Candidates| candidates.iter().any(|candidate| candidate.index == index);
    if !present(&candidates) {
        return Some(Step::Eligible);
    }
    for step in STEPS {
        eliminate(&mut candidates, step);
        if !present(&candidates) {
            return Some(step);
        }
    }
    None
}

const STEPS: [Step; 12] = [
    Step::LongLived,
    Step::Local,
    Step::LocalPref,
    Step::AsPath,
    Step::Origin,
    Step::Med,
    Step::External,
    Step::Metric,
    Step::RouterId,
    Step::ClusterList,
    Step::PeerAddress,
    Step::PathId,
];

/// Step 0, and what the later steps look at.
fn candidate(index: usize, path: &Path, shared: &Shared) -> Option<Candidate> {
    let used = path.used.as_ref().ok()?;
    let attributes = &used.attributes;
    let local = path.from == Origination::LOCAL;
    let metric = if local { 0 } else { shared.nexthops.metric(path.nexthop)? };
    let peer = path.from.peer().and_then(|peer| shared.peer(peer));
    Some(Candidate {
        index,
        long_lived: used.long_lived,
        learnt: match (local, path.path_id) {
            (true, AGGREGATE) => 1,
            (true, _) => 0,
            (false, _) => 2,
        },
        local_pref: attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
        hops: used.hops,
        origin: attributes.origin,
        neighbour: used.neighbour,
        med: attributes.med.unwrap_or(0),
        external: peer.is_some_and(|peer| !peer.internal),
        metric,
        router_id: attributes
            .originator_id
            .or(peer.map(|peer| peer.router_id))
            .unwrap_or(shared.local.router_id),
        clusters: attributes.cluster_list.len(),
        addr: peer.map(|peer| peer.addr),
        path_id: path.path_id,
    })
}

/// One step: only those that are best by it stay.
fn eliminate(candidates: &mut Candidates, step: Step) {
    match step {
        Step::Eligible => {}
        Step::LongLived => keep_least(candidates, |candidate| candidate.long_lived),
        Step::Local => keep_least(candidates, |candidate| candidate.learnt),
        Step::LocalPref => keep_least(candidates, |candidate| Reverse(candidate.local_pref)),
        Step::AsPath => keep_least(candidates, |candidate| candidate.hops),
        Step::Origin => keep_least(candidates, |candidate| candidate.origin),
        Step::Med => eliminate_by_med(candidates),
        Step::External => keep_least(candidates, |candidate| Reverse(candidate.external)),
        Step::Metric => keep_least(candidates, |candidate| candidate.metric),
        Step::RouterId => keep_least(candidates, |candidate| candidate.router_id),
        Step::ClusterList => keep_least(candidates, |candidate| candidate.clusters),
        Step::PeerAddress => keep_least(candidates, |candidate| candidate.addr),
        Step::PathId => keep_least(candidates, |candidate| candidate.path_id),
    }
}

fn keep_least<K: Ord>(candidates: &mut Candidates, key: impl Fn(&Candidate) -> K) {
    if let Some(least) = candidates.iter().map(&key).min() {
        candidates.retain(|candidate| key(candidate) == least);
    }
}

/// RFC 4271 §9.1.2.2 c: within each neighbouring AS, those with the lowest value stay. Paths that never left
/// our AS count as one neighbour of their own.
fn eliminate_by_med(candidates: &mut Candidates) {
    let mut lowest: SmallVec<[(Option<Asn>, u32); 4]> =
        candidates.iter().map(|candidate| (candidate.neighbour, candidate.med)).collect();
    lowest.sort_unstable();
    lowest.dedup_by_key(|(neighbour, _)| *neighbour);
    let is_lowest =
        |candidate: &Candidate| lowest.binary_search(&(candidate.neighbour, candidate.med)).is_ok();
    candidates.retain(|candidate| is_lowest(candidate));
}

/// Steps 9 to 12 as one key.
fn tie_break(candidate: &Candidate) -> (RouterId, usize, Option<IpAddr>, u32) {
    (candidate.router_id, candidate.clusters, candidate.addr, candidate.path_id)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        /// Values from so small ranges that ties are the rule.
        fn candidate()(
            long_lived in any::<bool>(),
            local_pref in 0..2_u32,
            hops in 0..2_u32,
            origin in prop_oneof![Just(Origin::Igp), Just(Origin::Incomplete)],
            neighbour in prop_oneof![Just(None), (1..3_u32).prop_map(|asn| Some(Asn(asn)))],
            med in 0..3_u32,
            external in any::<bool>(),
            metric in 0..2_u32,
            router_id in (1..3_u32).prop_map(RouterId::from_u32),
            clusters in 0..2_usize,
        ) -> Candidate {
            Candidate {
                index: 0, long_lived, learnt: 2, local_pref, hops, origin, neighbour, med, external, metric, router_id, clusters,
                addr: None, path_id: 0,
            }
        }
    }

    /// Candidates from different peers.
    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        vec(candidate(), 1..8).prop_map(|mut all| {
            for (index, candidate) in all.iter_mut().enumerate() {
                candidate.index = index;
                candidate.addr = Some(IpAddr::from([10, 0, 0, index as u8]));
            }
            all
        })
    }

    fn best(all: &[Candidate]) -> usize {
        choose(all.iter().cloned().collect()).best.unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_order_of_paths_does_not_matter(all in candidates(), seed in any::<u64>()) {
            let mut shuffled = all.clone();
            let mut state = seed | 1;
            for index in (1..shuffled.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                shuffled.swap(index, (state >> 33) as usize % (index + 1));
            }
            prop_assert_eq!(choose(all.into_iter().collect()), choose(shuffled.into_iter().collect()));
        }

        #[test]
        fn without_med_the_steps_are_a_total_order(all in candidates()) {
            let all: Vec<Candidate> = all.into_iter().map(|candidate| Candidate { med: 0, ..candidate }).collect();
            let beats = |one: usize, other: usize| best(&[all[one].clone(), all[other].clone()]) == one;
            for one in 0..all.len() {
                for other in (0..all.len()).filter(|other| *other != one) {
                    prop_assert!(beats(one, other) != beats(other, one));
                    for third in (0..all.len()).filter(|third| ![one, other].contains(third)) {
                        prop_assert!(!(beats(one, other) && beats(other, third)) || beats(one, third));
                    }
                }
            }
            let winner = best(&all);
            prop_assert!((0..all.len()).all(|other| other == winner || beats(winner, other)));
        }

        #[test]
        fn med_never_lets_a_path_win_over_one_of_the_same_neighbour(all in candidates()) {
            let winner = all[best(&all)].clone();
            let better = |other: &Candidate| {
                let key = |candidate: &Candidate| {
                    let first = (candidate.long_lived, Reverse(candidate.local_pref), candidate.hops);
                    (first, candidate.origin, candidate.neighbour)
                };
                key(other) == key(&winner) && other.med < winner.med
            };
            prop_assert!(!all.iter().any(better));
        }

        #[test]
        fn the_best_is_the_first_of_its_equals_and_all_the_others_lose_somewhere(all in candidates()) {
            let selection = choose(all.iter().cloned().collect());
            prop_assert_eq!(selection.best, selection.equal.first().copied());
            let mut rest: Candidates = all.iter().cloned().collect();
            for step in STEPS {
                eliminate(&mut rest, step);
            }
            prop_assert_eq!(rest.len(), 1);
            prop_assert_eq!(Some(rest[0].index), selection.best);
        }
    }
}

//! What other limits and shares would have done to the traffic of the last minutes.
//!
//! The history holds what was sent, not what somebody would have liked to send: who is at a limit now may want more.

use std::collections::BTreeMap;

use turnpike_model::desired::NodeTree;

/// How often and how much something would have been held back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttled {
    /// Seconds in which it would have been.
    pub seconds: u64,
    /// Of so many seconds that were looked at.
    pub of_seconds: u64,
    /// Bits per second held back, on average of these seconds.
    pub mean: u64,
    /// Bits per second held back in the worst of them.
    pub worst: u64,
}

impl Throttled {
    /// From what would have been held back in each second.
    pub fn of(excesses: impl IntoIterator<Item = u64>) -> Self {
        let mut throttled = Self::default();
        let mut sum = 0_u64;
        for excess in excesses {
            throttled.of_seconds += 1;
            if excess > 0 {
                throttled.seconds += 1;
                sum = sum.saturating_add(excess);
                throttled.worst = throttled.worst.max(excess);
            }
        }
        throttled.mean = sum.checked_div(throttled.seconds).unwrap_or(0);
        throttled
    }

    /// What a limit would have held back of these rates.
    pub fn by_limit(rates: impl IntoIterator<Item = u64>, limit: u64) -> Self {
        Self::of(rates.into_iter().map(|rate| rate.saturating_sub(limit)))
    }
}

/// One second's demand on an uplink, in bits per second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// The host's.
    pub host: u64,
    /// Of each class, by number.
    pub classes: BTreeMap<u16, u64>,
}

/// What a tree on an uplink of this speed would have held back: of the host, and of each class.
#[must_use]
pub fn tree_throttles(
    tree: &NodeTree,
    speed: u64,
    demands: &[Demand],
) -> (Throttled, BTreeMap<u16, Throttled>) {
    let given: Vec<Demand> = demands.iter().map(|demand| share(tree, speed, demand)).collect();
    let seconds = || demands.iter().zip(&given);
    let host = Throttled::of(seconds().map(|(want, got)| want.host.saturating_sub(got.host)));
    let class = |number: &u16| {
        let amount = |demand: &Demand| demand.classes.get(number).copied().unwrap_or(0);
        Throttled::of(seconds().map(|(want, got)| amount(want).saturating_sub(amount(got))))
    };
    (host, tree.classes.keys().map(|number| (*number, class(number))).collect())
}

/// Who gets what: guarantees first, then the host borrows, then the classes, in proportion to their guarantees.
fn share(tree: &NodeTree, speed: u64, demand: &Demand) -> Demand {
    let ceiling = tree.pods_ceiling.map_or(speed, |ceiling| ceiling.0.min(speed));
    let most = |number: &u16| {
        let class = tree.classes.get(number)?;
        let own = class.ceiling.map_or(ceiling, |own| own.0.min(ceiling)).max(class.guarantee.0);
        Some((class.guarantee.0, own.min(demand.classes.get(number).copied().unwrap_or(0))))
    };
    let mut given = Demand { host: demand.host.min(tree.host.0), classes: BTreeMap::new() };
    for number in tree.classes.keys() {
        let first = most(number).map_or(0, |(guarantee, most)| guarantee.min(most));
        given.classes.insert(*number, first);
    }
    let promised: u64 = given.classes.values().sum();
    let mut free = speed.saturating_sub(given.host + promised);
    let borrowed = (demand.host - given.host).min(free);
    given.host += borrowed;
    free = (free - borrowed).min(ceiling.saturating_sub(promised));
    // Whoever has enough drops out, and the others share again: at most one round for each class.
    for _ in 0..tree.classes.len() {
        let hungry: Vec<(u16, u64, u64)> = given
            .classes
            .iter()
            .filter_map(|(number, has)| {
                let (guarantee, most) = most(number)?;
                (most > *has).then_some((*number, guarantee.max(1), most - *has))
            })
            .collect();
        let weights: u128 = hungry.iter().map(|(_, weight, _)| u128::from(*weight)).sum();
        if weights == 0 || free == 0 {
            break;
        }
        let pot = free;
        for (number, weight, lacks) in hungry {
            let part = u128::from(pot) * u128::from(weight) / weights;
            let part = u64::try_from(part).unwrap_or(u64::MAX).min(lacks);
            if let Some(has) = given.classes.get_mut(&number) {
                *has += part;
                free -= part;
            }
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use turnpike_model::desired::{BitsPerSecond, TreeClass};

    use super::*;

    fn tree() -> NodeTree {
        let class = |name: &str, guarantee, ceiling: Option<u64>| TreeClass {
            name: name.into(),
            guarantee: BitsPerSecond(guarantee),
            ceiling: ceiling.map(BitsPerSecond),
            namespaces: Vec::new(),
        };
        NodeTree {
            source: "t".into(),
            uplinks: BTreeSet::new(),
            speed: None,
            host: BitsPerSecond(200),
            pods_ceiling: Some(BitsPerSecond(900)),
            default_class: "a".into(),
            classes: [(1, class("a", 400, None)), (2, class("b", 100, Some(300)))].into(),
        }
    }

    fn demand(host: u64, a: u64, b: u64) -> Demand {
        Demand { host, classes: [(1, a), (2, b)].into() }
    }

    #[test]
    fn a_limit_holds_back_what_is_above_it() {
        let throttled = Throttled::by_limit([100, 50, 130, 0], 90);
        assert_eq!(throttled, Throttled { seconds: 2, of_seconds: 4, mean: 25, worst: 40 });
        assert_eq!(Throttled::by_limit([], 90), Throttled::default());
    }

    #[test]
    fn who_is_alone_borrows_up_to_the_ceiling() {
        assert_eq!(share(&tree(), 1000, &demand(0, 2000, 0)), demand(0, 900, 0));
        assert_eq!(share(&tree(), 1000, &demand(0, 0, 2000)), demand(0, 0, 300));
        assert_eq!(share(&tree(), 1000, &demand(5000, 0, 0)), demand(1000, 0, 0));
    }

    #[test]
    fn guarantees_hold_when_all_want_all() {
        let given = share(&tree(), 1000, &demand(200, 2000, 2000));
        assert_eq!(given.host, 200);
        assert_eq!(given.classes, [(1, 640), (2, 160)].into(), "300 to borrow, four parts to one");
        assert_eq!(share(&tree(), 1000, &demand(5000, 2000, 2000)), demand(500, 400, 100));
    }

    #[test]
    fn what_is_held_back_is_counted_for_each_class() {
        let (host, classes) = tree_throttles(&tree(), 1000, &[demand(100, 950, 0), demand(0, 10, 350)]);
        assert_eq!(host.seconds, 0);
        assert_eq!(classes[&1], Throttled { seconds: 1, of_seconds: 2, mean: 50, worst: 50 });
        assert_eq!(classes[&2], Throttled { seconds: 1, of_seconds: 2, mean: 50, worst: 50 });
    }
}

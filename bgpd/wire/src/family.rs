//! Address families (RFC 4760 §5).

use std::fmt;

use serde::{Deserialize, Serialize};

/// An address family and subsequent family that this speaker routes: unicast only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Every family, in the order in which they are announced and shown.
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The largest prefix length.
    pub const fn max_len(self) -> u8 {
        match self {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }

    /// The code pair on the wire.
    pub const fn code(self) -> AfiSafi {
        match self {
            Family::Ipv4 => AfiSafi { afi: 1, safi: 1 },
            Family::Ipv6 => AfiSafi { afi: 2, safi: 1 },
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        })
    }
}

/// A pair of codes as it stands on the wire, known to us or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AfiSafi {
    /// Address family identifier (IANA "Address Family Numbers").
    pub afi: u16,
    /// Subsequent address family identifier (IANA "SAFI Namespace").
    pub safi: u8,
}

impl AfiSafi {
    /// The family, where it is one that we route.
    pub const fn family(self) -> Option<Family> {
        match (self.afi, self.safi) {
            (1, 1) => Some(Family::Ipv4),
            (2, 1) => Some(Family::Ipv6),
            _ => None,
        }
    }
}

impl From<Family> for AfiSafi {
    fn from(family: Family) -> Self {
        family.code()
    }
}

impl fmt::Display for AfiSafi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family() {
            Some(family) => family.fmt(f),
            None => write!(f, "afi {} safi {}", self.afi, self.safi),
        }
    }
}

/// One value for each family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PerFamily<T> {
    /// The value for IPv4 unicast.
    pub ipv4: T,
    /// The value for IPv6 unicast.
    pub ipv6: T,
}

impl<T> PerFamily<T> {
    /// Builds the pair by calling `make` for each family.
    pub fn from_fn(mut make: impl FnMut(Family) -> T) -> Self {
        Self { ipv4: make(Family::Ipv4), ipv6: make(Family::Ipv6) }
    }

    /// The value for `family`.
    pub const fn get(&self, family: Family) -> &T {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }

    /// The value for `family`, to change.
    pub const fn get_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Ipv4 => &mut self.ipv4,
            Family::Ipv6 => &mut self.ipv6,
        }
    }

    /// Both, in the order of [`Family::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        [(Family::Ipv4, &self.ipv4), (Family::Ipv6, &self.ipv6)].into_iter()
    }
}

/// A set of families.
pub type Families = PerFamily<bool>;

impl Families {
    /// No family.
    pub const NONE: Families = PerFamily { ipv4: false, ipv6: false };
    /// Both families.
    pub const BOTH: Families = PerFamily { ipv4: true, ipv6: true };

    /// Those in the set.
    pub fn members(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| *self.get(*family))
    }

    /// True if `family` is in the set.
    pub const fn contains(&self, family: Family) -> bool {
        *self.get(family)
    }

    /// Those in both sets.
    #[must_use]
    pub fn and(self, other: Families) -> Families {
        PerFamily::from_fn(|family| self.contains(family) && other.contains(family))
    }

    /// True if no family is in the set.
    pub const fn is_empty(&self) -> bool {
        !self.ipv4 && !self.ipv6
    }
}

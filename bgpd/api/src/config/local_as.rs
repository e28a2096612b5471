//! An AS number for one peer: a number, or a table.

use serde::{Deserialize, Deserializer, Serialize};
use turnpike_bgp_wire::Asn;

/// Another AS number of ours (RFC 7705).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LocalAs {
    /// The AS number that the peer sees.
    pub asn: Asn,
    /// Do not put it in front of the AS_PATHs that come in.
    pub no_prepend: bool,
    /// Do not show our real AS number behind it.
    pub replace_as: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    asn: Asn,
    #[serde(default)]
    no_prepend: bool,
    #[serde(default)]
    replace_as: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "an AS number, or `{ asn = NUMBER, no_prepend = true, replace_as = true }`")]
enum Written {
    Number(Asn),
    Table(Table),
}

impl<'de> Deserialize<'de> for LocalAs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Written::deserialize(deserializer)? {
            Written::Number(asn) => Self { asn, no_prepend: false, replace_as: false },
            Written::Table(Table { asn, no_prepend, replace_as }) => Self { asn, no_prepend, replace_as },
        })
    }
}

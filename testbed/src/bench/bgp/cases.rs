//! The cases: who says what, who must hear what.

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};

use super::daemons::Neighbour;
use super::routes::{Places, Table, hosts};
use super::talker::{HOLD_TIME, Script};

/// Names the table of the default-free zone: `cargo xtask bench` finds it.
const TABLE: &str = "TURNPIKE_BENCH_TABLE";
pub(super) const EXTERNAL: u32 = 4_200_300_100;

/// How routes flow.
#[derive(Clone, Copy)]
enum Shape {
    /// So many senders of the same host routes, and one that listens. All external.
    Hosts { senders: u32, routes: u32 },
    /// The real table from one to one. Both external.
    Table,
    /// Clients of a reflector, each with so many host routes of its own, all to all.
    Mesh { clients: u32, routes: u32 },
}

/// One row of the table.
#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    shape: Shape,
    /// Best paths go into the kernel as well.
    pub(super) kernel: bool,
    /// Too long for the quick selection.
    pub(super) only_full: bool,
    /// The quick selection shows all contenders here, and the leading ones elsewhere.
    pub(super) for_all: bool,
}

impl Case {
    const fn new(name: &'static str, shape: Shape) -> Self {
        Self { name, shape, kernel: false, only_full: false, for_all: false }
    }
}

pub(super) const CASES: &[Case] = &[
    Case { for_all: true, ..Case::new("100k /32 to 1 peer", Shape::Hosts { senders: 1, routes: 100_000 }) },
    Case {
        kernel: true,
        ..Case::new("100k /32 to 1 peer and the kernel", Shape::Hosts { senders: 1, routes: 100_000 })
    },
    Case::new("886k real table to 1 peer", Shape::Table),
    Case::new("10 peers with the same 100k", Shape::Hosts { senders: 10, routes: 100_000 }),
    Case::new("reflector, 50 clients x 1000", Shape::Mesh { clients: 50, routes: 1000 }),
    Case::new("reflector, 100 clients x 1000", Shape::Mesh { clients: 100, routes: 1000 }),
    Case::new("reflector, 200 clients x 250", Shape::Mesh { clients: 200, routes: 250 }),
    Case {
        only_full: true,
        ..Case::new("reflector, 1000 clients x 16", Shape::Mesh { clients: 1000, routes: 16 })
    },
];

/// A case worked out: prefixes numbered, UPDATEs encoded.
pub(super) struct Plan {
    pub(super) places: Places,
    pub(super) scripts: Vec<Script>,
    pub(super) reflect: bool,
    /// Paths that the daemon holds in the end.
    pub(super) paths: usize,
}

impl Plan {
    pub(super) fn neighbours(&self) -> Vec<Neighbour> {
        let neighbour = |script: &Script| Neighbour {
            address: script.address,
            asn: script.asn,
            hold_time: script.hold_time,
            told: true,
        };
        self.scripts.iter().map(neighbour).collect()
    }
}

/// The address of a talker, all in one subnet with the daemon.
pub(super) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 50, 1, 0).to_bits() + number)
}

impl Case {
    pub(super) fn plan(&self) -> Result<Plan> {
        match self.shape {
            Shape::Hosts { senders, routes } => {
                let says = |number| hosts(0..routes, address(number), Some(EXTERNAL + number));
                let scripts: Result<Vec<Vec<u8>>> = (0..senders).map(says).collect();
                Ok(one_listens(Places::Hosts(routes), scripts?, (senders * routes) as usize))
            }
            Shape::Table => {
                let table = TABLE_READ.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
                let places = table.places();
                let paths = places.len();
                Ok(one_listens(places, vec![table.says(address(0), EXTERNAL)?], paths))
            }
            Shape::Mesh { clients, routes } => mesh(clients, routes),
        }
    }
}

static TABLE_READ: LazyLock<Result<Table>> = LazyLock::new(|| {
    let path = std::env::var_os(TABLE)
        .with_context(|| format!("{TABLE} does not name a table of network,length,asn"))?;
    Table::read(path.as_ref())
});

/// The real table, from one to one.
pub(super) fn real_table() -> Result<Plan> {
    Case::new("", Shape::Table).plan()
}

/// External speakers with something to say, and one behind them that wants to hear every prefix.
fn one_listens(places: Places, says: Vec<Vec<u8>>, paths: usize) -> Plan {
    let silent = says.len();
    let script = |(number, says): (u32, Vec<u8>)| Script {
        asn: EXTERNAL + number,
        address: address(number),
        wants: if number as usize == silent { places.len() } else { 0 },
        says,
        own: 0..0,
        hold_time: HOLD_TIME,
        graceful: false,
    };
    let scripts = (0..).zip(says.into_iter().chain([Vec::new()])).map(script).collect();
    Plan { scripts, places, reflect: false, paths }
}

fn mesh(clients: u32, routes: u32) -> Result<Plan> {
    let script = |number: u32| {
        let own = number * routes..(number + 1) * routes;
        Ok(Script {
            asn: super::daemons::ASN,
            address: address(number),
            says: hosts(own.clone(), address(number), None)?,
            own,
            wants: ((clients - 1) * routes) as usize,
            hold_time: HOLD_TIME,
            graceful: false,
        })
    };
    let scripts: Result<Vec<Script>> = (0..clients).map(script).collect();
    let all = clients * routes;
    Ok(Plan { places: Places::Hosts(all), scripts: scripts?, reflect: true, paths: all as usize })
}

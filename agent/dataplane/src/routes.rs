//! Manager for host routes: `<pod>/32 dev tpk…` and a blackhole for each block of ours.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use turnpike_kroute::{Error, Failure, Owner, Routes, Target};
use turnpike_model::desired::DesiredState;

use crate::links::Link;
use crate::{DataplaneConfig, DataplaneError, endpoint};

/// The agent's routes in the kernel.
pub(crate) struct HostRoutes {
    routes: Routes,
    swept: bool,
}

impl std::fmt::Debug for HostRoutes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HostRoutes").field("swept", &self.swept).finish_non_exhaustive()
    }
}

impl HostRoutes {
    /// Takes over what an earlier process left; refuses where another one is at work.
    pub(crate) fn open(config: &DataplaneConfig) -> Result<Self, DataplaneError> {
        let owner = Owner { protocol: config.route_protocol, table: config.route_table, ..Owner::AGENT };
        let routes = Routes::open(owner).map_err(|error| failed("take over our routes", &error))?;
        Ok(Self { routes, swept: false })
    }

    /// What the kernel calls the socket that writes.
    pub(crate) fn port(&self) -> u32 {
        self.routes.port()
    }

    /// Brings routes to exactly the desired ones; answers with those that the kernel refused.
    pub(crate) fn apply(
        &mut self,
        desired: &DesiredState,
        links: &BTreeMap<String, Link>,
    ) -> Result<Vec<Failure>, DataplaneError> {
        let mut wanted: BTreeMap<IpNetwork, Target> = BTreeMap::new();
        for block in &desired.blocks {
            wanted.insert(block.prefix, Target::Blackhole);
        }
        for endpoint in desired.endpoints.values() {
            if let Some(link) = links.get(&endpoint.host_link) {
                wanted.extend(
                    endpoint.addresses.iter().map(|ip| (endpoint::host_prefix(*ip), device(link.index))),
                );
            }
        }
        let surplus: Vec<IpNetwork> =
            self.routes.prefixes().into_iter().filter(|prefix| !wanted.contains_key(prefix)).collect();
        for prefix in surplus {
            self.routes.remove(prefix);
        }
        for (prefix, target) in wanted {
            self.routes.set(prefix, target);
        }
        if !self.swept {
            self.routes.sweep();
            self.swept = true;
        }
        self.write()
    }

    /// Routes addresses to a link.
    pub(crate) fn add(&mut self, addresses: &[IpAddr], link: u32) -> Result<(), DataplaneError> {
        for address in addresses {
            self.routes.set(endpoint::host_prefix(*address), device(link));
        }
        let failures = self.write()?;
        let concerns = |failure: &&Failure| match failure.subject {
            turnpike_kroute::Subject::Route(prefix) => addresses.contains(&prefix.ip()),
            turnpike_kroute::Subject::Nexthop(_) => false,
        };
        match failures.iter().find(concerns) {
            Some(failure) => Err(DataplaneError::Route {
                route: addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                message: failure.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// Wants no route to these addresses any more.
    pub(crate) fn remove(&mut self, addresses: &[IpAddr]) -> Result<(), DataplaneError> {
        for address in addresses {
            self.routes.remove(endpoint::host_prefix(*address));
        }
        self.write().map(|_| ())
    }

    /// Removes every route of ours.
    pub(crate) fn clear(&mut self) -> Result<(), DataplaneError> {
        self.routes.clear().map(|_| ()).map_err(|error| failed("remove our routes", &error))
    }

    /// True where default routes, whoever's they are, may be others than at the last call.
    pub(crate) fn defaults_changed(&mut self) -> Result<bool, DataplaneError> {
        self.routes.pump().map_err(|error| failed("follow the kernel's routes", &error))?;
        Ok(self.routes.take_defaults_changed())
    }

    fn write(&mut self) -> Result<Vec<Failure>, DataplaneError> {
        self.routes.pump().map_err(|error| failed("follow the kernel's routes", &error))?;
        self.routes.retry();
        self.routes.apply().map_err(|error| failed("write our routes", &error))?;
        Ok(self.routes.failures())
    }
}

fn device(ifindex: u32) -> Target {
    Target::Device { ifindex, source: None }
}

fn failed(what: &str, error: &Error) -> DataplaneError {
    DataplaneError::Route { route: what.to_owned(), message: error.to_string() }
}

//! What the host knows: addresses, interfaces, passwords.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_indextoname, if_nametoindex};
use tracing::warn;
use turnpike_bgpd_api::RouterId;
use turnpike_bgpd_api::config::Addresses;

use crate::disk::replace;
use crate::merge::Lookup;
use crate::sockopt::MD5_KEY_MAX;

/// The machine that the daemon runs on.
#[derive(Debug)]
pub(crate) struct Host {
    state_dir: PathBuf,
}

impl Host {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }
}

impl Lookup for Host {
    fn password(&self, path: &Path) -> Result<Vec<u8>, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("password {}: {error}", path.display()))?;
        let password = text.lines().next().unwrap_or_default().as_bytes().to_vec();
        match password.len() {
            1..=MD5_KEY_MAX => Ok(password),
            0 => Err(format!("password {}: the first line is empty", path.display())),
            _ => Err(format!("password {}: longer than {MD5_KEY_MAX} octets", path.display())),
        }
    }

    fn interface(&self, name: &str) -> Option<u32> {
        if_nametoindex(name).ok()
    }

    /// The lowest IPv4 address that is neither loopback nor link-local, chosen once: an identifier that changed
    /// with the host's addresses would make peers take a restart for a stranger.
    fn router_id(&self) -> Option<RouterId> {
        let path = self.state_dir.join("router-id");
        let kept = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<Ipv4Addr>().ok());
        if let Some(address) = kept {
            return Some(RouterId(address));
        }
        let address = interface_addresses()
            .into_iter()
            .filter_map(|(_, address)| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .min()?;
        if let Err(error) = replace(&path, format!("{address}\n").as_bytes()) {
            warn!(%error, path = %path.display(), "cannot keep the router id");
        }
        Some(RouterId(address))
    }

    fn addresses(&self, router_id: RouterId) -> Addresses {
        let all = interface_addresses();
        let home = all.iter().find(|(_, address)| *address == IpAddr::V4(router_id.0)).map(|(name, _)| name);
        // Those of the router id's interface first, the lowest first among them.
        let mut sorted: Vec<(bool, IpAddr)> =
            all.iter().map(|(name, address)| (Some(name) != home, *address)).collect();
        sorted.sort_unstable();
        let addresses = || sorted.iter().map(|(_, address)| *address);
        Addresses {
            ipv4: addresses().find_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }),
            ipv6: addresses().find_map(|address| match address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            }),
        }
    }
}

/// The host's addresses that others can use, with the interface's name: neither loopback nor link-local, and none of
/// the loopback interface, where services' addresses live.
fn interface_addresses() -> Vec<(String, IpAddr)> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    interfaces
        .filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| {
            let socket = interface.address?;
            let address = match (socket.as_sockaddr_in(), socket.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (None, Some(v6)) => IpAddr::V6(v6.ip()),
                (None, None) => return None,
            };
            let usable = match address {
                IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
                IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
            };
            (usable && !address.is_unspecified()).then_some((interface.interface_name, address))
        })
        .collect()
}

/// This host's name, for those who hear from several.
pub(crate) fn name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// An interface's name, or its number in words where it is gone.
pub(crate) fn interface_name(index: u32) -> String {
    let name = if_indextoname(index).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("interface {index}"))
}

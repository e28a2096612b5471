//! Links, addresses and routes of a node, by netlink on a thread inside its network namespace.

use std::future::Future;
use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow, bail};
use futures::TryStreamExt as _;
use ipnetwork::IpNetwork;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteMessage, RouteType};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::Node;

impl Node {
    /// Adds an address with its prefix length, such as `10.1.1.11/24`, and sets the link up.
    ///
    /// # Errors
    /// When the text is no address with length, the link is missing, or the kernel refuses.
    pub fn addr(&self, interface: &str, address: &str) -> Result<()> {
        let parsed: IpNetwork = address.parse().with_context(|| format!("address {address:?}"))?;
        self.netlink(async |handle| {
            let index = index_of(&handle, interface).await?;
            handle.address().add(index, parsed.ip(), parsed.prefix()).execute().await?;
            set(&handle, LinkUnspec::new_with_index(index).up()).await
        })
        .with_context(|| format!("add {address} to {interface} of {}", self.name()))
    }

    /// Removes an address that [`Node::addr`] added.
    ///
    /// # Errors
    /// When it is not there.
    pub fn addr_del(&self, interface: &str, address: &str) -> Result<()> {
        let parsed: IpNetwork = address.parse().with_context(|| format!("address {address:?}"))?;
        self.netlink(async |handle| {
            let index = index_of(&handle, interface).await?;
            let filter = handle.address().get().set_link_index_filter(index).set_address_filter(parsed.ip());
            let found = filter.execute().try_next().await?.context("no such address")?;
            Ok(handle.address().del(found).execute().await?)
        })
        .with_context(|| format!("remove {address} from {interface} of {}", self.name()))
    }

    /// Adds a route, written as for `ip route`: a destination (`default` takes its family from the gateway), then any of
    /// `via ADDRESS`, `dev NAME`, `src ADDRESS`, `metric N`, `table N`; `blackhole`, `unreachable` or `prohibit` may go
    /// before it.
    ///
    /// # Errors
    /// When the text is not understood or the kernel refuses.
    pub fn route(&self, text: &str) -> Result<()> {
        self.netlink(async |handle| {
            let message = parse_route(&handle, text).await?;
            Ok(handle.route().add(message).execute().await?)
        })
        .with_context(|| format!("add route {text:?} in {}", self.name()))
    }

    /// Removes a route, written as for [`Node::route`].
    ///
    /// # Errors
    /// When the text is not understood or there is no such route.
    pub fn route_del(&self, text: &str) -> Result<()> {
        self.netlink(async |handle| {
            let message = parse_route(&handle, text).await?;
            Ok(handle.route().del(message).execute().await?)
        })
        .with_context(|| format!("remove route {text:?} in {}", self.name()))
    }

    /// Makes the node forward IPv4 and IPv6, as a router does.
    ///
    /// # Errors
    /// When the sysctls cannot be set.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// When it is missing.
    pub fn link_up(&self, interface: &str) -> Result<()> {
        self.change(interface, LinkMessageBuilder::up)
    }

    /// Sets a link down; its carrier is lost on the other end too.
    ///
    /// # Errors
    /// When it is missing.
    pub fn link_down(&self, interface: &str) -> Result<()> {
        self.change(interface, LinkMessageBuilder::down)
    }

    /// Sets a link's MTU, in bytes.
    ///
    /// # Errors
    /// When it is missing or the value is refused.
    pub fn mtu(&self, interface: &str, bytes: u32) -> Result<()> {
        self.change(interface, |link| link.mtu(bytes))
    }

    /// Removes a link.
    ///
    /// # Errors
    /// When it is missing.
    pub fn link_del(&self, interface: &str) -> Result<()> {
        self.netlink(async |handle| {
            let index = index_of(&handle, interface).await?;
            Ok(handle.link().del(index).execute().await?)
        })
        .with_context(|| format!("remove {interface} of {}", self.name()))
    }

    /// Adds a bridge, up, over links that the node has: a LAN with this node on it. Without ports it serves as a link
    /// that leads nowhere.
    ///
    /// # Errors
    /// When the name is taken or a link is missing.
    pub fn bridge(&self, interface: &str, ports: &[&str]) -> Result<()> {
        self.add_link(LinkBridge::new(interface).up().build())
            .with_context(|| format!("add bridge {interface} to {}", self.name()))?;
        let bridge = self.ifindex(interface)?;
        ports.iter().try_for_each(|port| self.change(port, |link| link.controller(bridge).up()))
    }

    /// The index of a link.
    ///
    /// # Errors
    /// When it is missing.
    pub fn ifindex(&self, interface: &str) -> Result<u32> {
        self.netlink(async |handle| index_of(&handle, interface).await)
            .with_context(|| format!("index of {interface} in {}", self.name()))
    }

    /// The link-layer address of a link.
    ///
    /// # Errors
    /// When the link is missing or has none of six bytes.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let message = self.netlink(async |handle| find(&handle, interface).await)?;
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => None,
        });
        address.with_context(|| format!("{interface} of {} has no MAC address", self.name()))
    }

    /// The names of its links, sorted.
    ///
    /// # Errors
    /// When the node was stopped.
    pub fn links(&self) -> Result<Vec<String>> {
        let mut names = self.netlink(async |handle| {
            let messages: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
            Ok(messages.iter().filter_map(name_of).collect::<Vec<_>>())
        })?;
        names.sort();
        Ok(names)
    }

    pub(crate) fn add_link(&self, message: LinkMessage) -> Result<()> {
        self.netlink(async |handle| Ok(handle.link().add(message).execute().await?))
    }

    fn change(
        &self,
        interface: &str,
        what: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> + Send,
    ) -> Result<()> {
        self.netlink(async |handle| {
            let index = index_of(&handle, interface).await?;
            set(&handle, what(LinkUnspec::new_with_index(index))).await
        })
        .with_context(|| format!("change {interface} of {}", self.name()))
    }

    /// Runs netlink requests on a fresh thread in the node's network namespace.
    pub(crate) fn netlink<T: Send, W: AsyncFnOnce(Handle) -> Result<T> + Send>(&self, work: W) -> Result<T> {
        self.in_netns(|| netlink_here(work))?
    }
}

/// Runs netlink requests in the network namespace of the calling thread, which must not be inside a runtime.
pub(crate) fn netlink_here<T, W: AsyncFnOnce(Handle) -> Result<T>>(work: W) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let pump = tokio::spawn(connection);
        let outcome = work(handle).await;
        pump.abort();
        outcome
    })
}

async fn find(handle: &Handle, interface: &str) -> Result<LinkMessage> {
    let mut found = std::pin::pin!(handle.link().get().match_name(interface.to_owned()).execute());
    found.try_next().await?.with_context(|| format!("no link {interface}"))
}

async fn index_of(handle: &Handle, interface: &str) -> Result<u32> {
    Ok(find(handle, interface).await?.header.index)
}

fn set(handle: &Handle, link: LinkMessageBuilder<LinkUnspec>) -> impl Future<Output = Result<()>> + use<> {
    let request = handle.link().set(link.build());
    async move { Ok(request.execute().await?) }
}

fn name_of(message: &LinkMessage) -> Option<String> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

async fn parse_route(handle: &Handle, text: &str) -> Result<RouteMessage> {
    let mut words = text.split_whitespace().peekable();
    let kind = match words.peek() {
        Some(&"blackhole") => Some(RouteType::BlackHole),
        Some(&"unreachable") => Some(RouteType::Unreachable),
        Some(&"prohibit") => Some(RouteType::Prohibit),
        _ => None,
    };
    if kind.is_some() {
        words.next();
    }
    let destination = words.next().context("no destination")?;
    let mut options = Vec::new();
    while let Some(key) = words.next() {
        options.push((key, words.next().with_context(|| format!("{key} needs a value"))?));
    }
    let gateway = options.iter().find(|(key, _)| *key == "via").map(|(_, value)| value.parse::<IpAddr>());
    let destination: IpNetwork = match (destination, gateway.transpose()?) {
        ("default", Some(IpAddr::V6(_))) => "::/0".parse()?,
        ("default", _) => "0.0.0.0/0".parse()?,
        (prefix, _) => prefix.parse().with_context(|| format!("destination {prefix:?}"))?,
    };
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.network(), destination.prefix())
        .map_err(|error| anyhow!("{error:?}"))?;
    if let Some(kind) = kind {
        route = route.kind(kind);
    }
    for (key, value) in options {
        route = match key {
            "via" => route.gateway(value.parse()?).map_err(|error| anyhow!("{error:?}"))?,
            "dev" => route.output_interface(index_of(handle, value).await?),
            "src" => route.pref_source(value.parse()?).map_err(|error| anyhow!("{error:?}"))?,
            "metric" => route.priority(value.parse()?),
            "table" => route.table_id(value.parse()?),
            _ => bail!("{key} is not understood"),
        };
    }
    Ok(route.build())
}

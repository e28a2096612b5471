//! Load-balancer traffic into pods of containerd: client → director (FULLNAT, TOA) → node → pod.
//!
//! ```text
//!   client 192.0.2.10 ─ router ─ director 10.1.3.30 (VIPs 10.9.0.1, local 10.9.1.1)
//!          fd00:c::10     │
//!                         └───── eth0 10.1.1.11 n1 (containerd, turnpike-agent) ── pods 10.244.1.0/26
//! ```

#![cfg(test)]

mod lifetime;
mod servers;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_testbed::director::{DirectorConfig, Protocol, Real, Service, Toa, ToaFormat, ToaInsertion};
use turnpike_testbed::{Director, Lab, Node, Pod, TurnpikeConfig, TurnpikeNode, binary};

const DEADLINE: Duration = Duration::from_secs(60);
const V4: (&str, &str) = ("10.244.0.0/16", "10.244.1.0/26");
const V6: (&str, &str) = ("fd00:244::/48", "fd00:244::100/122");
const VIP: [&str; 2] = ["10.9.0.1", "fd00:9::1"];
const LOCAL: [&str; 2] = ["10.9.1.1", "fd00:9:1::1"];

const SOURCE: &str = "\
apiVersion: turnpike.io/v1alpha1
kind: LoadBalancerSource
metadata: {name: lvs}
spec:
  cidrs: [10.9.1.0/24, 'fd00:9:1::/64']
  bypass: true
  toa: Toa254
";

/// What stands in front of the pods.
struct Rig {
    client: Node,
    director: Node,
    turnpike: TurnpikeNode,
}

impl Rig {
    fn new(lab: &Lab, source: &str) -> Result<Self> {
        let [client, router, n1, director] =
            [lab.node("client")?, lab.node("router")?, lab.node("n1")?, lab.node("director")?];
        router.forward()?;
        let legs = [
            (&client, "client", "192.0.2.10/24", "192.0.2.1", "fd00:c::10/64", "fd00:c::1"),
            (&n1, "n1", "10.1.1.11/24", "10.1.1.1", "fd00:1:1::11/64", "fd00:1:1::1"),
            (&director, "director", "10.1.3.30/24", "10.1.3.1", "fd00:1:3::30/64", "fd00:1:3::1"),
        ];
        for (node, port, address4, gateway4, address6, gateway6) in legs {
            lab.link(node, "eth0", &router, port)?;
            for (address, gateway, length) in [(address4, gateway4, 24), (address6, gateway6, 64)] {
                node.addr("eth0", address)?;
                router.addr(port, &format!("{gateway}/{length}"))?;
                node.route(&format!("default via {gateway}"))?;
            }
        }
        for (prefix, via) in [
            ("10.9.0.0/16", "10.1.3.30"),
            ("fd00:9::/32", "fd00:1:3::30"),
            (V4.1, "10.1.1.11"),
            (V6.1, "fd00:1:1::11"),
        ] {
            router.route(&format!("{prefix} via {via}"))?;
        }
        let config =
            TurnpikeConfig::default().with_blocks("n1", V4, V6).with_resource("balancer.yaml", source);
        let turnpike = TurnpikeNode::start(&n1, &config)?;
        Ok(Self { client, director, turnpike })
    }

    /// A director that serves each pod's port 80 at a port of both VIPs.
    fn direct(&self, pods: &[(&Pod, u16)]) -> Result<Director> {
        let mut services = Vec::new();
        for (pod, port) in pods {
            for (vip, real) in VIP.iter().zip([pod.ipv4()?, pod.ipv6()?]) {
                let insertion = if real.is_ipv4() { ToaInsertion::Alibaba } else { ToaInsertion::Dpvs };
                services.push(Service {
                    protocol: Protocol::Tcp,
                    vip: SocketAddr::new(vip.parse()?, *port),
                    reals: vec![Real { address: SocketAddr::new(real, 80), weight: 1 }],
                    toa: Some(Toa { format: ToaFormat::Dpvs, insertion }),
                });
            }
        }
        let local_addresses = LOCAL.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Director::start(&self.director, &DirectorConfig { local_addresses, services, ..Default::default() })
    }

    /// Entries of the node's connection tracking that name the director, IPv4 and IPv6.
    fn tracked(&self) -> Result<[usize; 2]> {
        let count = |family: &str, local: &str| -> Result<usize> {
            let list = self.turnpike.node().text(&["conntrack", "-L", "-f", family])?;
            Ok(list.lines().filter(|line| line.contains(&format!("={local} "))).count())
        };
        Ok([count("ipv4", LOCAL[0])?, count("ipv6", LOCAL[1])?])
    }

    /// What a command of ours says in JSON, whatever its exit code.
    fn turnpike(&self, words: &[&str]) -> Result<Value> {
        let program = binary("turnpike")?.to_string_lossy().into_owned();
        let argv: Vec<&str> = [&[program.as_str()], words, &["-o", "json"]].concat();
        let output = self.turnpike.node().run_unchecked(&argv)?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// A connection from the client through the director, and requests over it.
struct KeptAlive {
    stream: TcpStream,
    own: SocketAddr,
}

impl KeptAlive {
    fn open(client: &Node, vip: &str, port: u16) -> Result<Self> {
        let target = SocketAddr::new(vip.parse()?, port);
        let stream = client.in_netns(|| TcpStream::connect_timeout(&target, DEADLINE))??;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { own: stream.local_addr()?, stream })
    }

    /// Asks nginx once more; its answer ends with a line feed.
    fn ask(&mut self) -> Result<String> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")?;
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = self.stream.read(&mut buffer)?;
            ensure!(length > 0, "the connection ended after {:?}", String::from_utf8_lossy(&text));
            text.extend(buffer.get(..length).unwrap_or_default());
            let whole = String::from_utf8_lossy(&text);
            if let Some((_, body)) = whole.split_once("\r\n\r\n")
                && body.ends_with('\n')
            {
                return Ok(body.trim().to_owned());
            }
        }
    }
}

/// One HTTP exchange through the director: the client's own socket, and the answer's body.
fn ask(client: &Node, vip: &str, port: u16) -> Result<(SocketAddr, String)> {
    let target = SocketAddr::new(vip.parse()?, port);
    client.in_netns(|| {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let own = stream.local_addr()?;
        let path = if port == servers::BUSYBOX { "/cgi-bin/who" } else { "/" };
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: lab\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("an answer without a body")?;
        ensure!(head.contains(" 200 "), "{head}");
        Ok((own, body.trim().to_owned()))
    })?
}

/// An address as servers print it: mapped, in brackets, or behind a slash.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim_start_matches('/').trim_matches(['[', ']']);
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

//! A director with one service of each kind and family, and a clock that the test moves.

use std::{net::SocketAddr, time::Duration};

use turnpike_testbed::director::{
    DirectorConfig, DirectorStats, DropReason, PortRange, Protocol, Real, Service, Toa, ToaFormat,
    ToaInsertion, Translator, Verdict,
};

use crate::packets::{Seen, Segment, addr, see};

pub(crate) const CLIENT4: &str = "192.0.2.10:40001";
pub(crate) const CLIENT6: &str = "[fd00:c::10]:40001";
pub(crate) const VIP4: &str = "10.9.0.1:80";
pub(crate) const VIP6: &str = "[fd00:9::1]:80";
pub(crate) const REAL4: &str = "10.244.0.5:8080";
pub(crate) const REAL6: &str = "[fd00:244::5]:8080";

pub(crate) const ALIBABA: Toa = Toa { format: ToaFormat::Dpvs, insertion: ToaInsertion::Alibaba };
pub(crate) const DPVS: Toa = Toa { format: ToaFormat::Dpvs, insertion: ToaInsertion::Dpvs };

/// The first local address and port of each family that the rig's director hands out.
pub(crate) const LOCAL4: &str = "10.9.1.1:1025";
pub(crate) const LOCAL6: &str = "[fd00:9:1::1]:1025";

pub(crate) fn service(protocol: Protocol, vip: &str, reals: &[&str], toa: Option<Toa>) -> Service {
    let reals = reals.iter().map(|real| Real { address: addr(real), weight: 1 }).collect();
    Service { protocol, vip: addr(vip), reals, toa }
}

pub(crate) fn config(toa: Option<Toa>) -> DirectorConfig {
    DirectorConfig {
        local_addresses: vec!["10.9.1.1".parse().unwrap(), "fd00:9:1::1".parse().unwrap()],
        local_ports: PortRange { first: 1025, last: 65_535 },
        services: vec![
            service(Protocol::Tcp, VIP4, &[REAL4], toa),
            service(Protocol::Tcp, VIP6, &[REAL6], toa),
            service(Protocol::Udp, VIP4, &[REAL4], None),
            service(Protocol::Udp, VIP6, &[REAL6], None),
        ],
        seed: Some(0),
        ..DirectorConfig::default()
    }
}

pub(crate) struct Rig {
    pub(crate) translator: Translator,
    pub(crate) now: Duration,
}

impl Rig {
    pub(crate) fn new(toa: Option<Toa>) -> Self {
        Self::with(&config(toa))
    }

    pub(crate) fn with(config: &DirectorConfig) -> Self {
        Self { translator: Translator::new(config, 0).unwrap(), now: Duration::from_secs(1) }
    }

    pub(crate) fn handle(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        let mut out = vec![0xee; 3];
        let verdict = self.translator.handle(self.now, packet, &mut out);
        (verdict, out)
    }

    /// A packet that must go to a server; what the server sees.
    pub(crate) fn at_server(&mut self, packet: &[u8]) -> Seen {
        let (verdict, out) = self.handle(packet);
        assert_eq!(verdict, Verdict::ToServer);
        see(&out)
    }

    /// A packet that must go to a client; what the client sees.
    pub(crate) fn at_client(&mut self, packet: &[u8]) -> Seen {
        let (verdict, out) = self.handle(packet);
        assert_eq!(verdict, Verdict::ToClient);
        see(&out)
    }

    /// A packet that must not go anywhere.
    pub(crate) fn dropped(&mut self, packet: &[u8]) -> DropReason {
        match self.handle(packet) {
            (Verdict::Drop(reason), out) => {
                assert!(out.is_empty());
                reason
            }
            other => panic!("not dropped: {other:?}"),
        }
    }

    pub(crate) fn stats(&self) -> DirectorStats {
        self.translator.stats()
    }

    /// The handshake of a connection; answers with the address that the server sees.
    pub(crate) fn connect(&mut self, client: SocketAddr, vip: SocketAddr, isn: u32) -> SocketAddr {
        let Seen { source: local, destination: real, .. } =
            self.at_server(&Segment::syn(client, vip).build());
        self.at_client(&Segment::syn(real, local).sequence(isn).ack(1001).build());
        self.at_server(&Segment::new(client, vip).sequence(1001).ack(isn.wrapping_add(1)).build());
        local
    }
}

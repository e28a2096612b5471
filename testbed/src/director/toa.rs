//! TOA: the TCP option in which a FULLNAT director tells the real server who the client is.
//!
//! In every format the option is kind, length, then the client's port (big endian) **before** its address.
//! A format is a row of a table that the load balancers' vendors share; an insertion rule says which
//! packets carry it, and forks of one director differ in the rule while they agree on the format. The option
//! stands right after the 20-byte TCP header, before the client's own options, and is left out where the
//! option room (40 bytes) or the MTU is too short: a connection without TOA works, a damaged one does not.
//!
//! Left out so far: Alibaba's vtoa (252/20 with 250/8, and 249/40), and the CDN's 28/7 and 28/19, which name
//! an address without a port. A new format is one more variant and one more arm in [`ToaFormat::option`].

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::packet::TCP_OPTION_ROOM;

/// The bytes of the option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToaFormat {
    /// 254/8 for IPv4 and 254/20 for IPv6 clients: DPVS. The IPv4 half is also Alibaba LVS and Huawei ELB.
    Dpvs,
    /// 254/8 for IPv4 and 253/20 for IPv6 clients: Alibaba LVS.
    Alibaba,
    /// 200/8 for IPv4 clients, nothing for IPv6: UCloud and TGW.
    Ucloud,
}

/// Which client packets carry the option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToaInsertion {
    /// The SYN, and every packet until the client acknowledges data of the server: Alibaba LVS.
    Alibaba,
    /// The same packets but not the SYN: DPVS.
    Dpvs,
}

/// How the clients of one service are told to its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toa {
    /// The bytes of the option.
    pub format: ToaFormat,
    /// The packets that carry it.
    pub insertion: ToaInsertion,
}

/// A TOA option ready to be put into a header; always a multiple of 4 bytes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToaOption {
    bytes: [u8; TCP_OPTION_ROOM],
    length: usize,
}

impl ToaOption {
    /// The option's bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Kind, length, port, address.
    fn port_then_address(kind: u8, client: SocketAddr) -> Self {
        let mut option = Self { bytes: [0; TCP_OPTION_ROOM], length: 0 };
        let length = if client.is_ipv4() { 8 } else { 20 };
        option.push(&[kind, length]);
        option.push(&client.port().to_be_bytes());
        match client.ip() {
            IpAddr::V4(address) => option.push(&address.octets()),
            IpAddr::V6(address) => option.push(&address.octets()),
        }
        option
    }

    fn push(&mut self, bytes: &[u8]) {
        if super::octets::put(&mut self.bytes, self.length, bytes).is_some() {
            self.length += bytes.len();
        }
    }
}

impl ToaFormat {
    /// The option that names `client`, or `None` where the format cannot say it.
    #[must_use]
    pub fn option(self, client: SocketAddr) -> Option<ToaOption> {
        Some(ToaOption::port_then_address(self.kind(client)?, client))
    }

    /// The option kind used for `client`'s family.
    pub(super) fn kind(self, client: SocketAddr) -> Option<u8> {
        match (self, client.is_ipv4()) {
            (Self::Dpvs, _) | (Self::Alibaba, true) => Some(254),
            (Self::Alibaba, false) => Some(253),
            (Self::Ucloud, true) => Some(200),
            (Self::Ucloud, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Written by hand from the table of formats: kind, length, port, address.
    #[test]
    fn options_equal_the_hand_written_bytes() {
        let v4 = client("192.0.2.10:40001"); // 40001 = 0x9c41
        let v6 = client("[fd00:a:b::10]:513"); // 513 = 0x0201
        let v4_bytes = [0xfe, 0x08, 0x9c, 0x41, 0xc0, 0x00, 0x02, 0x0a];
        let v6_bytes =
            [0xfe, 0x14, 0x02, 0x01, 0xfd, 0x00, 0x00, 0x0a, 0x00, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x10];
        assert_eq!(ToaFormat::Dpvs.option(v4).unwrap().as_slice(), v4_bytes);
        assert_eq!(ToaFormat::Alibaba.option(v4).unwrap().as_slice(), v4_bytes);
        assert_eq!(ToaFormat::Dpvs.option(v6).unwrap().as_slice(), v6_bytes);

        let mut alibaba_v6 = v6_bytes;
        alibaba_v6[0] = 0xfd;
        assert_eq!(ToaFormat::Alibaba.option(v6).unwrap().as_slice(), alibaba_v6);

        let mut ucloud = v4_bytes;
        ucloud[0] = 0xc8;
        assert_eq!(ToaFormat::Ucloud.option(v4).unwrap().as_slice(), ucloud);
        assert_eq!(ToaFormat::Ucloud.option(v6), None);
    }

    #[test]
    fn every_option_keeps_the_header_a_whole_number_of_words() {
        for format in [ToaFormat::Dpvs, ToaFormat::Alibaba, ToaFormat::Ucloud] {
            for address in [client("10.0.0.1:1"), client("[::1]:65535")] {
                let Some(option) = format.option(address) else { continue };
                assert_eq!(option.as_slice().len() % 4, 0);
                assert_eq!(usize::from(option.as_slice()[1]), option.as_slice().len());
            }
        }
    }
}

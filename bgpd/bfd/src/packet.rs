//! The Control packet (RFC 5880 §4.1) and the checks that need no session (§6.8.6).

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// Length of a packet without an authentication section, in octets.
const LENGTH: usize = 24;
const VERSION: u8 = 1;

/// A session's number at one end: nonzero, unique among that end's sessions (RFC 5880 §6.3).
pub type Discriminator = NonZeroU32;

/// Session states (RFC 5880 §6.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// Held down by the administrator: says nothing about the path.
    AdminDown,
    /// Down, or just created.
    Down,
    /// The other end is heard and does not know it yet.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        })
    }
}

/// Why a session was last taken down (RFC 5880 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Diagnostic {
    /// 0.
    #[default]
    None,
    /// 1: nothing heard for the detection time.
    TimeExpired,
    /// 2.
    EchoFailed,
    /// 3: the other end said Down.
    NeighborDown,
    /// 4.
    ForwardingReset,
    /// 5.
    PathDown,
    /// 6.
    ConcatenatedPathDown,
    /// 7: the administrator.
    AdminDown,
    /// 8.
    ReverseConcatenatedPathDown,
    /// Any other of the five bits.
    Other(u8),
}

impl Diagnostic {
    const fn from_bits(bits: u8) -> Self {
        match bits & 0x1f {
            0 => Self::None,
            1 => Self::TimeExpired,
            2 => Self::EchoFailed,
            3 => Self::NeighborDown,
            4 => Self::ForwardingReset,
            5 => Self::PathDown,
            6 => Self::ConcatenatedPathDown,
            7 => Self::AdminDown,
            8 => Self::ReverseConcatenatedPathDown,
            other => Self::Other(other),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TimeExpired => 1,
            Self::EchoFailed => 2,
            Self::NeighborDown => 3,
            Self::ForwardingReset => 4,
            Self::PathDown => 5,
            Self::ConcatenatedPathDown => 6,
            Self::AdminDown => 7,
            Self::ReverseConcatenatedPathDown => 8,
            Self::Other(bits) => bits & 0x1f,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no diagnostic",
            Self::TimeExpired => "control detection time expired",
            Self::EchoFailed => "echo function failed",
            Self::NeighborDown => "neighbor signaled session down",
            Self::ForwardingReset => "forwarding plane reset",
            Self::PathDown => "path down",
            Self::ConcatenatedPathDown => "concatenated path down",
            Self::AdminDown => "administratively down",
            Self::ReverseConcatenatedPathDown => "reverse concatenated path down",
            Self::Other(bits) => return write!(f, "diagnostic {bits}"),
        })
    }
}

/// A Control packet without authentication. Intervals are whole microseconds below 2³²; zero where RFC 5880 §4.1
/// gives zero a meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Why the sender's session was last taken down.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: an answer is wanted.
    pub poll: bool,
    /// F: this is the answer.
    pub final_: bool,
    /// C: the sender's BFD does not share fate with its control plane.
    pub independent: bool,
    /// D: the sender uses Demand mode.
    pub demand: bool,
    /// So many missing packets in a row mean failure.
    pub detect_mult: u8,
    /// The sender's session.
    pub my_discriminator: Discriminator,
    /// The receiver's session as the sender knows it; `None` (zero) before it has heard anything.
    pub your_discriminator: Option<Discriminator>,
    /// At least so long between the sender's packets.
    pub desired_min_tx: Duration,
    /// At least so long between packets towards the sender; zero: none at all.
    pub required_min_rx: Duration,
    /// The same for echo packets; zero: none are taken.
    pub required_min_echo_rx: Duration,
}

/// Why a packet is dropped before any session is looked for (RFC 5880 §6.8.6, in the order of the clauses).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// Not version 1.
    #[error("version {0}")]
    Version(u8),
    /// Shorter than a packet, or longer than what was received.
    #[error("bad length")]
    Length,
    /// Detect Mult is zero.
    #[error("Detect Mult is zero")]
    DetectMult,
    /// The reserved Multipoint bit is set.
    #[error("Multipoint bit")]
    Multipoint,
    /// My Discriminator is zero.
    #[error("My Discriminator is zero")]
    MyDiscriminator,
    /// Your Discriminator is zero in a state in which the sender must know it.
    #[error("Your Discriminator is zero")]
    YourDiscriminator,
    /// Authenticated, and no session of ours is.
    #[error("authentication is not configured")]
    Authentication,
}

impl Packet {
    /// Reads the payload of a UDP datagram. What follows the packet's own length is ignored.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let fixed: &[u8; LENGTH] = payload.first_chunk().ok_or(Malformed::Length)?;
        let [first, flags, detect_mult, length, ..] = *fixed;
        if first >> 5 != VERSION {
            return Err(Malformed::Version(first >> 5));
        }
        let bit = |mask: u8| flags & mask != 0;
        let least = if bit(0x04) { LENGTH + 2 } else { LENGTH };
        if usize::from(length) < least || usize::from(length) > payload.len() {
            return Err(Malformed::Length);
        }
        if detect_mult == 0 {
            return Err(Malformed::DetectMult);
        }
        if bit(0x01) {
            return Err(Malformed::Multipoint);
        }
        let my_discriminator = NonZeroU32::new(word(fixed, 1)).ok_or(Malformed::MyDiscriminator)?;
        let your_discriminator = NonZeroU32::new(word(fixed, 2));
        let state = State::from_bits(flags >> 6);
        if your_discriminator.is_none() && state > State::Down {
            return Err(Malformed::YourDiscriminator);
        }
        if bit(0x04) {
            return Err(Malformed::Authentication);
        }
        let interval = |index| Duration::from_micros(word(fixed, index).into());
        Ok(Self {
            diagnostic: Diagnostic::from_bits(first),
            state,
            poll: bit(0x20),
            final_: bit(0x10),
            independent: bit(0x08),
            demand: bit(0x02),
            detect_mult,
            my_discriminator,
            your_discriminator,
            desired_min_tx: interval(3),
            required_min_rx: interval(4),
            required_min_echo_rx: interval(5),
        })
    }

    /// The packet as the payload of a UDP datagram.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut flags = self.state.bits() << 6;
        for (set, mask) in
            [(self.poll, 0x20), (self.final_, 0x10), (self.independent, 0x08), (self.demand, 0x02)]
        {
            flags |= if set { mask } else { 0 };
        }
        let head = [VERSION << 5 | self.diagnostic.bits(), flags, self.detect_mult, LENGTH as u8];
        let words = [
            self.my_discriminator.get(),
            self.your_discriminator.map_or(0, NonZeroU32::get),
            micros(self.desired_min_tx),
            micros(self.required_min_rx),
            micros(self.required_min_echo_rx),
        ];
        let mut bytes = [0; LENGTH];
        let all = head.into_iter().chain(words.into_iter().flat_map(u32::to_be_bytes));
        for (place, byte) in bytes.iter_mut().zip(all) {
            *place = byte;
        }
        bytes
    }
}

/// The `index`th group of four octets.
fn word(bytes: &[u8; LENGTH], index: usize) -> u32 {
    let group = bytes.as_chunks::<4>().0.get(index).copied();
    group.map_or(0, u32::from_be_bytes)
}

fn micros(interval: Duration) -> u32 {
    u32::try_from(interval.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Laid out by hand after RFC 5880 §4.1: state Up, Poll, 100 ms both ways, times 5.
    const SAMPLE: [u8; 24] = [
        0x20, 0xe0, 5, 24, 0x3a, 0x10, 0x7f, 0x01, 0, 0, 0, 9, 0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0, 0, 0, 0, 0,
    ];

    #[test]
    fn a_packet_is_read_field_by_field_and_written_back() {
        let packet = Packet::decode(&SAMPLE).unwrap();
        assert_eq!(
            packet,
            Packet {
                diagnostic: Diagnostic::None,
                state: State::Up,
                poll: true,
                final_: false,
                independent: false,
                demand: false,
                detect_mult: 5,
                my_discriminator: NonZeroU32::new(0x3a10_7f01).unwrap(),
                your_discriminator: NonZeroU32::new(9),
                desired_min_tx: Duration::from_millis(100),
                required_min_rx: Duration::from_millis(100),
                required_min_echo_rx: Duration::ZERO,
            }
        );
        assert_eq!(packet.encode(), SAMPLE);
    }

    #[test]
    fn every_check_of_rfc_5880_6_8_6_drops_the_packet() {
        let with = |changes: &[(usize, u8)]| {
            let mut bytes = SAMPLE;
            for (index, value) in changes {
                bytes[*index] = *value;
            }
            Packet::decode(&bytes).unwrap_err()
        };
        assert_eq!(with(&[(0, 0x40)]), Malformed::Version(2));
        assert_eq!(with(&[(3, 23)]), Malformed::Length);
        assert_eq!(with(&[(3, 25)]), Malformed::Length);
        assert_eq!(with(&[(1, 0xe4)]), Malformed::Length, "24 octets leave no room for authentication");
        assert_eq!(with(&[(2, 0)]), Malformed::DetectMult);
        assert_eq!(with(&[(1, 0xe1)]), Malformed::Multipoint);
        assert_eq!(with(&[(4, 0), (5, 0), (6, 0), (7, 0)]), Malformed::MyDiscriminator);
        assert_eq!(with(&[(11, 0)]), Malformed::YourDiscriminator);
        assert_eq!(Packet::decode(&SAMPLE[..23]).unwrap_err(), Malformed::Length);
        let mut authenticated = SAMPLE.to_vec();
        authenticated.extend([1, 2]);
        authenticated[1] |= 4;
        authenticated[3] = 26;
        assert_eq!(Packet::decode(&authenticated).unwrap_err(), Malformed::Authentication);
        let mut padded = SAMPLE.to_vec();
        padded.extend([7; 30]);
        assert!(Packet::decode(&padded).is_ok(), "octets behind the packet are not ours");
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same_octets(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(packet) = Packet::decode(&bytes) {
                let mut own = bytes[..LENGTH].to_vec();
                own[3] = LENGTH as u8;
                prop_assert_eq!(packet.encode().to_vec(), own);
            }
        }
    }
}

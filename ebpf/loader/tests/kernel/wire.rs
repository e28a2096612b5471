//! A packet socket: sends and receives whole frames on one link.

#![expect(unsafe_code, reason = "libc's link-layer socket addresses have no safe constructor")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

/// One end of a cable.
pub(crate) struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Opens a link of the calling thread's network namespace.
    pub(crate) fn open(link: &str) -> Self {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll)
            .expect("a packet socket");
        let index = nix::net::if_::if_nametoindex(link).expect(link);
        // SAFETY: an all-zero address is valid, and the length is that of the value.
        let bound = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = u16::try_from(libc::AF_PACKET).expect("small");
            address.sll_protocol = u16::try_from(libc::ETH_P_ALL).expect("small").to_be();
            address.sll_ifindex = i32::try_from(index).expect("small");
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                u32::try_from(size_of::<libc::sockaddr_ll>()).expect("small"),
            )
        };
        assert_eq!(bound, 0, "bind to {link}: {}", std::io::Error::last_os_error());
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000)).expect("a timeout");
        Self { socket }
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        assert_eq!(nix::unistd::write(&self.socket, frame).expect("send"), frame.len());
    }

    /// Waits for a frame that `wanted` accepts.
    pub(crate) fn receive<T>(&self, what: &str, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> T {
        let started = Instant::now();
        let mut buffer = [0; 65536];
        loop {
            if let Ok(length) = nix::unistd::read(&self.socket, &mut buffer)
                && let Some(found) = wanted(&buffer[..length])
            {
                return found;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "no {what}");
        }
    }
}

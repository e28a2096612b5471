//! A TUN device: whole IP packets without a link layer, read and written as files.

#![expect(unsafe_code, reason = "TUNSETIFF is an ioctl that takes a C structure")]

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    os::unix::fs::OpenOptionsExt,
};

use nix::libc;

nix::ioctl_write_int!(
    /// Says which packets the reader takes in one piece, or without a checksum.
    tun_set_offload, b'T', 208
);
nix::ioctl_write_ptr!(
    /// Makes the open file a queue of the device that the request names.
    ///
    /// The kernel declares the argument as `int` but reads a whole `ifreq`.
    tun_set_iff, b'T', 202, libc::c_int
);

/// Bytes in front of every packet of a device with offloads: `struct virtio_net_hdr`.
pub(crate) const OFFLOAD_HEADER: usize = 10;
/// TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 and TUN_F_TSO_ECN of linux/if_tun.h.
const OFFLOADS: nix::sys::ioctl::ioctl_param_type = 1 | 2 | 4 | 8;

/// An open TUN device; it disappears with its routes when this is dropped.
#[derive(Debug)]
pub(crate) struct Tun {
    file: File,
}

impl Tun {
    /// Creates the device, without offloads, so that every packet read is whole and checksummed.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        Self::create(name, libc::IFF_TUN | libc::IFF_NO_PI)
    }

    /// Creates the device for somebody who passes on what it reads unchanged, [`OFFLOAD_HEADER`] included: TCP segments
    /// come in pieces of up to 64 KiB, and checksums are left to the last link.
    pub(crate) fn with_offloads(name: &str) -> io::Result<Self> {
        let tun = Self::create(name, libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR)?;
        // SAFETY: the descriptor is an open TUN device, and the argument is a number.
        unsafe { tun_set_offload(tun.file.as_raw_fd(), OFFLOADS)? };
        Ok(tun)
    }

    fn create(name: &str, flags: libc::c_int) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        let request = request(name, flags)?;
        // SAFETY: the descriptor is an open /dev/net/tun and `request` is an initialised `ifreq`, which is
        // what the kernel copies in and out for TUNSETIFF; it outlives the call.
        unsafe { tun_set_iff(file.as_raw_fd(), (&raw const request).cast::<libc::c_int>())? };
        Ok(Self { file })
    }

    /// One packet, or `None` when there is none now.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a packet to the kernel.
    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn request(name: &str, flags: libc::c_int) -> io::Result<libc::ifreq> {
    let mut bytes: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    // One byte stays for the terminating zero.
    if name.is_empty() || name.len() >= bytes.len() || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface names have 1 to 15 bytes"));
    }
    for (place, byte) in bytes.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    // All constants are below 2^15.
    let flags = i16::try_from(flags).unwrap_or_default();
    Ok(libc::ifreq { ifr_name: bytes, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } })
}

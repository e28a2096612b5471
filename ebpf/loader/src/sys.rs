//! The bpf(2) commands that aya keeps to itself: raw map access, pins, link updates.

#![expect(unsafe_code, reason = "the bpf system call takes pointers")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use turnpike_ebpf_abi::Plain;

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// `union bpf_attr` as the map commands see it (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct MapAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value_or_next: u64,
    flags: u64,
}

/// `union bpf_attr` as `BPF_MAP_LOOKUP_BATCH` sees it.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr` as `BPF_OBJ_PIN` and `BPF_OBJ_GET` see it.
#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` sees it.
#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `union bpf_attr` as `BPF_LINK_CREATE` sees it.
#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// `union bpf_attr` as `BPF_LINK_UPDATE` and, but for its first field zero, `BPF_LINK_DETACH` see it.
#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The part of `struct bpf_map_info` that we read.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MapInfo {
    /// `enum bpf_map_type`.
    pub(crate) map_type: u32,
    id: u32,
    /// Bytes of a key.
    pub(crate) key_size: u32,
    /// Bytes of a value.
    pub(crate) value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The part of `struct bpf_link_info` that we read.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct LinkInfo {
    /// `enum bpf_link_type`: 3 is cgroup, 11 is TCX.
    pub(crate) link_type: u32,
    id: u32,
    /// The program that runs.
    pub(crate) prog_id: u32,
    pad: u32,
    /// TCX: ifindex and attach type. Cgroup: the two halves of the cgroup's ID.
    target: [u32; 4],
}

impl LinkInfo {
    const CGROUP: u32 = 3;
    const TCX: u32 = 11;

    /// The interface of a TCX link; 0 when the interface has gone.
    pub(crate) fn ifindex(&self) -> Option<u32> {
        let [ifindex, ..] = self.target;
        (self.link_type == Self::TCX).then_some(ifindex)
    }

    /// The cgroup of a cgroup link.
    pub(crate) fn cgroup_id(&self) -> Option<u64> {
        let [low, high, ..] = self.target;
        (self.link_type == Self::CGROUP).then_some(u64::from(high) << 32 | u64::from(low))
    }
}

/// Calls bpf(2).
fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is one of the structs above, as long as the kernel is told; the pointers inside it come from
    // references that outlive the call, and the kernel writes only where the command's contract says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A pointer as the kernel takes it.
fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

/// Reads a value; `None` when the key is not there.
pub(crate) fn map_lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = std::mem::MaybeUninit::<V>::zeroed();
    let mut attr = MapAttr {
        map_fd: fd_number(map),
        key: address(key),
        value_or_next: address(value.as_mut_ptr()),
        ..MapAttr::default()
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) {
        // SAFETY: zeroed and then written by the kernel; `Plain` types accept every bit pattern.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a value. `create_only` fails with `EEXIST` when the key is there.
pub(crate) fn map_update<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
    create_only: bool,
) -> io::Result<()> {
    let mut attr = MapAttr {
        map_fd: fd_number(map),
        key: address(key),
        value_or_next: address(value),
        flags: u64::from(create_only),
        ..MapAttr::default()
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Reads a per-CPU value: `words` has the kernel's layout, one copy for each possible CPU. False when the key is not
/// there.
pub(crate) fn map_lookup_words<K: Plain>(
    map: BorrowedFd<'_>,
    key: &K,
    words: &mut [u64],
) -> io::Result<bool> {
    let mut attr = MapAttr {
        map_fd: fd_number(map),
        key: address(key),
        value_or_next: address(words.as_mut_ptr()),
        ..MapAttr::default()
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a per-CPU value, unless the key is there: then it fails with `EEXIST`.
pub(crate) fn map_create_words<K: Plain>(map: BorrowedFd<'_>, key: &K, words: &[u64]) -> io::Result<()> {
    let mut attr = MapAttr {
        map_fd: fd_number(map),
        key: address(key),
        value_or_next: address(words.as_ptr()),
        flags: 1,
        ..MapAttr::default()
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Removes a key; false when it was not there.
pub(crate) fn map_delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attr = MapAttr { map_fd: fd_number(map), key: address(key), ..MapAttr::default() };
    match bpf(BPF_MAP_DELETE_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key after `key`, or the first one; `None` at the end.
pub(crate) fn map_next_key<K: Plain>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next = std::mem::MaybeUninit::<K>::zeroed();
    let mut attr = MapAttr {
        map_fd: fd_number(map),
        key: key.map_or(0, |key| address(key)),
        value_or_next: address(next.as_mut_ptr()),
        ..MapAttr::default()
    };
    match bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) {
        // SAFETY: zeroed and then written by the kernel; `Plain` types accept every bit pattern.
        Ok(_) => Ok(Some(unsafe { next.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where a walk in batches goes on: a hash table's bucket.
pub(crate) type Bucket = u32;

/// Some entries of a map, and the bucket to go on with; `None` at the end.
pub(crate) struct Batch<K, V> {
    pub(crate) entries: Vec<(K, V)>,
    pub(crate) next: Option<Bucket>,
}

/// Reads up to `most` entries of a hash, whole buckets, from `from` on (Linux 5.6). `ENOSPC` says that a bucket alone holds
/// more.
pub(crate) fn map_lookup_batch<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    from: Option<Bucket>,
    most: u32,
) -> io::Result<Batch<K, V>> {
    let room = usize::try_from(most).map_err(io::Error::other)?;
    let mut keys = vec![std::mem::MaybeUninit::<K>::zeroed(); room];
    let mut values = vec![std::mem::MaybeUninit::<V>::zeroed(); room];
    let mut next: Bucket = 0;
    let mut attr = BatchAttr {
        in_batch: from.as_ref().map_or(0, |from| address(from)),
        out_batch: address(&raw mut next),
        keys: address(keys.as_mut_ptr()),
        values: address(values.as_mut_ptr()),
        count: most,
        map_fd: fd_number(map),
        ..BatchAttr::default()
    };
    let at_end = match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    let found = usize::try_from(attr.count).map_err(io::Error::other)?;
    let entries = keys.iter().zip(&values).take(found);
    // SAFETY: zeroed and then written by the kernel; `Plain` types accept every bit pattern.
    let entries = entries.map(|(key, value)| unsafe { (key.assume_init_read(), value.assume_init_read()) });
    Ok(Batch { entries: entries.collect(), next: (!at_end).then_some(next) })
}

/// Opens a pinned object.
pub(crate) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr { pathname: address(path.as_ptr()), ..ObjAttr::default() };
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins an object.
pub(crate) fn obj_pin(path: &Path, fd: BorrowedFd<'_>) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr { pathname: address(path.as_ptr()), bpf_fd: fd_number(fd), ..ObjAttr::default() };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

fn info<I: Default>(fd: BorrowedFd<'_>) -> io::Result<I> {
    let mut info = I::default();
    let mut attr = InfoAttr {
        bpf_fd: fd_number(fd),
        info_len: u32::try_from(size_of::<I>()).map_err(io::Error::other)?,
        info: address(&raw mut info),
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Describes a map.
pub(crate) fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(fd)
}

/// Describes a link.
pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(fd)
}

/// Puts a program in force for getsockopt() in a cgroup: aya gives out the descriptors of other links only.
pub(crate) fn link_getsockopt(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `enum bpf_attach_type`.
    const BPF_CGROUP_GETSOCKOPT: u32 = 21;
    let mut attr = LinkCreateAttr {
        prog_fd: fd_number(program),
        target_fd: fd_number(cgroup),
        attach_type: BPF_CGROUP_GETSOCKOPT,
        flags: 0,
    };
    let fd = bpf(BPF_LINK_CREATE, &mut attr)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a running link another program, atomically.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: fd_number(link),
        new_prog_fd: fd_number(program),
        ..LinkUpdateAttr::default()
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once: the last pin's removal alone does it only some time later.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link_fd: fd_number(link), ..LinkUpdateAttr::default() };
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

//! Attaching programs to links and cgroups, and finding them again.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Link, LinkOrder, Program, TcAttachType, TcError};
use nix::net::if_::{if_indextoname, if_nametoindex};
use turnpike_ebpf_abi::mark::FLOW_HTB;
use turnpike_ebpf_abi::names;

use crate::error::Error;
use crate::pins::{Pins, unpin};
use crate::programs::{Programs, program_fd};
use crate::sys;

/// Priority of our clsact filters: one place for each hook, so that a restart finds them.
pub const CLSACT_PRIORITY: u16 = 47_000;
/// Their handle.
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

/// The programs that TOA attaches to a cgroup.
pub const TOA_PROGRAMS: [&str; 3] = [names::PROG_TOA_SOCKOPS, names::PROG_TOA_PEER4, names::PROG_TOA_PEER6];
/// The programs that tell UDP clients: who answers before who learns, who learns before who shows.
pub const UOA_PROGRAMS: [&str; 5] = [
    names::PROG_UOA_SEND4,
    names::PROG_UOA_SEND6,
    names::PROG_UOA_INGRESS,
    names::PROG_UOA_RECV4,
    names::PROG_UOA_RECV6,
];
/// All that can be attached to one: with that for NAT64, which every getsockopt() pays for, and those for UDP.
const CGROUP_PROGRAMS: [&str; 9] = [
    names::PROG_TOA_SOCKOPS,
    names::PROG_TOA_PEER4,
    names::PROG_TOA_PEER6,
    names::PROG_TOA_SOCKOPT,
    // What shows clients goes first, what answers them last.
    names::PROG_UOA_RECV4,
    names::PROG_UOA_RECV6,
    names::PROG_UOA_INGRESS,
    names::PROG_UOA_SEND4,
    names::PROG_UOA_SEND6,
];

/// Where a tc program hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Ingress of an uplink: the bypass towards pods.
    Uplink,
    /// Ingress of a host veth: anti-spoofing, and the bypass from pods.
    FromPod,
    /// The HTB with the flows' queues on a limited link (host veth or ifb): it has to be there.
    Queue,
    /// Egress of such a link: limits where fq is behind it, limits in shadow, exempt ranges.
    Mark,
    /// Egress of an uplink with a node tree: the pods' classes.
    Classify,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Self; 5] = [Self::Uplink, Self::FromPod, Self::Queue, Self::Mark, Self::Classify];

    /// The program of this hook.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Uplink => names::PROG_UPLINK,
            Self::FromPod => names::PROG_FROM_POD,
            Self::Queue => names::PROG_QUEUE,
            Self::Mark => names::PROG_MARK,
            Self::Classify => names::PROG_CLASSIFY,
        }
    }

    const fn direction(self) -> TcAttachType {
        match self {
            Self::Uplink | Self::FromPod => TcAttachType::Ingress,
            Self::Queue => TcAttachType::Custom(FLOW_HTB),
            Self::Mark | Self::Classify => TcAttachType::Egress,
        }
    }

    /// The class that a classifier's answer is completed by: the qdisc itself, of which the program names a class.
    const fn class(self) -> Option<TcHandle> {
        match self {
            Self::Queue => Some(TcHandle::new((FLOW_HTB >> 16) as u16, 0)),
            _ => None,
        }
    }

    /// True where the hook sits on links that only we use: pods' host veths and ifbs.
    const fn is_on_own_link(self) -> bool {
        matches!(self, Self::FromPod | Self::Queue | Self::Mark)
    }

    fn order(self) -> LinkOrder {
        match self {
            Self::FromPod => LinkOrder::first(),
            Self::Uplink | Self::Queue | Self::Mark | Self::Classify => LinkOrder::last(),
        }
    }
}

/// How tc programs are attached. The classifier of a qdisc is a filter of it whatever is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum AttachMode {
    /// On uplinks TCX where the kernel has it (6.6), else clsact; on links of our own clsact: attaching and removing
    /// by TCX each wait for an RCU grace period, with RTNL held (`tcx_entry_sync`, kernel/bpf/tcx.c).
    #[default]
    Auto,
    /// TCX, with pinned links.
    Tcx,
    /// A clsact qdisc and a direct-action filter.
    Clsact,
}

/// A program in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attachment {
    /// A tc program on a link.
    Link {
        /// Which one.
        hook: Hook,
        /// The link.
        ifindex: u32,
        /// `Tcx` or `Clsact`.
        mode: AttachMode,
    },
    /// A TOA program on a cgroup.
    Cgroup {
        /// The program's name.
        program: &'static str,
        /// The cgroup's ID: the inode number of its folder.
        cgroup: u64,
    },
}

impl Attachment {
    /// The name of the pin that records it. bpffs refuses dots, hence numbers and not names.
    fn pin_name(&self) -> String {
        match self {
            Self::Link { hook, ifindex, mode: AttachMode::Clsact } => {
                format!("clsact-{}-{ifindex}", hook.program())
            }
            Self::Link { hook, ifindex, .. } => format!("tcx-{}-{ifindex}", hook.program()),
            Self::Cgroup { program, cgroup } => format!("cgroup-{program}-{cgroup}"),
        }
    }

    fn from_pin_name(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once('-')?;
        let (program, number) = rest.rsplit_once('-')?;
        let hook = || Hook::ALL.into_iter().find(|hook| hook.program() == program);
        match kind {
            "tcx" => Some(Self::Link { hook: hook()?, ifindex: number.parse().ok()?, mode: AttachMode::Tcx }),
            "clsact" => {
                Some(Self::Link { hook: hook()?, ifindex: number.parse().ok()?, mode: AttachMode::Clsact })
            }
            "cgroup" => {
                let program = CGROUP_PROGRAMS.into_iter().find(|name| *name == program)?;
                Some(Self::Cgroup { program, cgroup: number.parse().ok()? })
            }
            _ => None,
        }
    }
}

impl Programs {
    /// Puts a program in force on a link of the calling thread's network namespace.
    ///
    /// Idempotent. Where an earlier process (or call) attached it, the program in force is replaced atomically by
    /// this process's own. Returns the link's index.
    ///
    /// # Errors
    /// When there is no such link, the kernel refused the program, or attaching or pinning fails.
    pub fn attach(&mut self, hook: Hook, link: &str) -> Result<Attachment, Error> {
        let ifindex = if_nametoindex(link).map_err(|_| Error::NoInterface { name: link.to_owned() })?;
        if hook == Hook::Queue {
            return self.attach_clsact(hook, link, ifindex);
        }
        if self.mode == AttachMode::Auto && hook.is_on_own_link() {
            // What an earlier release attached by TCX stays so until the link goes.
            return match self.adopt_tcx(hook, ifindex)? {
                Some(attachment) => Ok(attachment),
                None => self.attach_clsact(hook, link, ifindex),
            };
        }
        if self.mode != AttachMode::Clsact {
            match self.attach_tcx(hook, link, ifindex) {
                Err(Error::System { source, .. })
                    if self.mode == AttachMode::Auto && source.raw_os_error() == Some(libc::EINVAL) => {}
                Err(other) => return Err(other),
                Ok(attachment) => {
                    // A record of a clsact attachment from before a kernel upgrade would run the program twice.
                    let old = Attachment::Link { hook, ifindex, mode: AttachMode::Clsact };
                    if self.link_folder().join(old.pin_name()).exists() {
                        remove_record(&self.pins, &old.pin_name())?;
                    }
                    return Ok(attachment);
                }
            }
        }
        self.attach_clsact(hook, link, ifindex)
    }

    /// Ends a program on a link, also when the link has gone. False when it was not attached.
    ///
    /// # Errors
    /// When the record cannot be removed.
    pub fn detach(&mut self, hook: Hook, ifindex: u32) -> Result<bool, Error> {
        let mut found = false;
        for mode in [AttachMode::Tcx, AttachMode::Clsact] {
            let name = Attachment::Link { hook, ifindex, mode }.pin_name();
            if self.link_folder().join(&name).exists() {
                found = true;
                remove_record(&self.pins, &name)?;
            }
        }
        Ok(found)
    }

    /// Puts the three TOA programs in force for all sockets of a cgroup and of the cgroups below it.
    ///
    /// Idempotent, and replaces atomically what an earlier process attached there. Returns the cgroup's ID.
    ///
    /// # Errors
    /// When there is no such cgroup, the kernel refused a program, or attaching or pinning fails.
    pub fn attach_toa(&mut self, cgroup: &Path) -> Result<u64, Error> {
        let (folder, id) = open_cgroup(cgroup)?;
        // The readers of the record first: then no accept() between the two sees half of it.
        for program in TOA_PROGRAMS.into_iter().rev() {
            self.attach_cgroup(program, &folder, id)?;
        }
        Ok(id)
    }

    /// Ends TOA for a cgroup, also when the cgroup has gone. False when it was not attached.
    ///
    /// # Errors
    /// When a record cannot be removed.
    pub fn detach_toa(&mut self, cgroup: u64) -> Result<bool, Error> {
        let mut found = false;
        for program in CGROUP_PROGRAMS {
            found |= self.detach_cgroup(program, cgroup)?;
        }
        Ok(found)
    }

    /// Answers getsockopt() for NAT64 in the cgroup where [`Programs::attach_toa`] did its work, or ends that.
    ///
    /// Idempotent.
    ///
    /// # Errors
    /// As [`Programs::attach_toa`].
    pub fn set_nat64(&mut self, cgroup: &Path, on: bool) -> Result<(), Error> {
        let (folder, id) = open_cgroup(cgroup)?;
        if on {
            self.attach_cgroup(names::PROG_TOA_SOCKOPT, &folder, id)
        } else {
            self.detach_cgroup(names::PROG_TOA_SOCKOPT, id).map(drop)
        }
    }

    /// Tells the clients of UDP sessions in the cgroup where [`Programs::attach_toa`] did its work, or ends that.
    ///
    /// Idempotent.
    ///
    /// # Errors
    /// As [`Programs::attach_toa`].
    pub fn set_uoa(&mut self, cgroup: &Path, on: bool) -> Result<(), Error> {
        let (folder, id) = open_cgroup(cgroup)?;
        if on {
            UOA_PROGRAMS.into_iter().try_for_each(|program| self.attach_cgroup(program, &folder, id))
        } else {
            UOA_PROGRAMS.into_iter().rev().try_for_each(|program| self.detach_cgroup(program, id).map(drop))
        }
    }

    fn detach_cgroup(&mut self, program: &'static str, cgroup: u64) -> Result<bool, Error> {
        let name = Attachment::Cgroup { program, cgroup }.pin_name();
        let found = self.link_folder().join(&name).exists();
        if found {
            remove_record(&self.pins, &name)?;
        }
        Ok(found)
    }

    /// What is recorded as attached, by this process or an earlier one, in order. Links that have gone may be among
    /// it until [`Programs::detach`].
    ///
    /// # Errors
    /// When the pin folder cannot be read.
    pub fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        let names = self.pins.link_names()?;
        let mut attachments: Vec<_> =
            names.iter().filter_map(|name| Attachment::from_pin_name(name)).collect();
        attachments.sort();
        Ok(attachments)
    }

    /// Gives the TCX link that is pinned for the hook, if there is one, our program.
    fn adopt_tcx(&mut self, hook: Hook, ifindex: u32) -> Result<Option<Attachment>, Error> {
        let attachment = Attachment::Link { hook, ifindex, mode: AttachMode::Tcx };
        let pin = self.link_folder().join(attachment.pin_name());
        let name = hook.program();
        let program = self.program(name)?;
        let adopted = adopt(&pin, name, program, |info| info.ifindex() == Some(ifindex))?;
        Ok(adopted.then_some(attachment))
    }

    fn attach_tcx(&mut self, hook: Hook, link: &str, ifindex: u32) -> Result<Attachment, Error> {
        if let Some(attachment) = self.adopt_tcx(hook, ifindex)? {
            return Ok(attachment);
        }
        let attachment = Attachment::Link { hook, ifindex, mode: AttachMode::Tcx };
        let pin = self.link_folder().join(attachment.pin_name());
        let name = hook.program();
        let program = self.program(name)?;
        let Program::SchedClassifier(classifier) = program else {
            return Err(wrong_type(name));
        };
        let options = TcAttachOptions::TcxOrder(hook.order());
        let id = classifier
            .attach_with_options(link, hook.direction(), options)
            .map_err(|error| attach_error(name, link, error))?;
        let link = classifier.take_link(id).map_err(|source| refused(name, source))?;
        let link = FdLink::try_from(link)
            .map_err(|error| Error::system("take the link", io::Error::other(error)))?;
        pin_link(link, &pin)?;
        Ok(attachment)
    }

    fn attach_clsact(&mut self, hook: Hook, link: &str, ifindex: u32) -> Result<Attachment, Error> {
        let attachment = Attachment::Link { hook, ifindex, mode: AttachMode::Clsact };
        let pin = self.link_folder().join(attachment.pin_name());
        let name = hook.program();
        let program = self.program(name)?;
        let Program::SchedClassifier(classifier) = program else {
            return Err(wrong_type(name));
        };
        let replaced = pin.exists().then(|| {
            SchedClassifierLink::attached(
                link,
                hook.direction(),
                CLSACT_PRIORITY,
                CLSACT_HANDLE,
                hook.class(),
            )
            .map_err(aya::programs::ProgramError::IOError)
            .and_then(|old| classifier.attach_to_link(old))
        });
        let attached = match replaced {
            Some(Ok(id)) => Ok(id),
            // No record, or somebody removed the filter behind our back.
            Some(Err(_)) | None => {
                if hook != Hook::Queue {
                    add_clsact(link)?;
                }
                let options =
                    NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, classid: hook.class() };
                classifier.attach_with_options(link, hook.direction(), TcAttachOptions::Netlink(options))
            }
        };
        let id = attached.map_err(|source| refused(name, source))?;
        // The filter outlives us: the handle must not detach it when it is dropped.
        std::mem::forget(classifier.take_link(id).map_err(|source| refused(name, source))?);
        unpin(&pin)?;
        let program = self.program(name)?;
        sys::obj_pin(&pin, program_fd(name, program)?)
            .map_err(|error| Error::system(format!("pin {}", pin.display()), error))?;
        Ok(attachment)
    }

    fn attach_cgroup(&mut self, name: &'static str, cgroup: &File, id: u64) -> Result<(), Error> {
        let pin = self.link_folder().join(Attachment::Cgroup { program: name, cgroup: id }.pin_name());
        let program = self.program(name)?;
        if adopt(&pin, name, program, |info| info.cgroup_id() == Some(id))? {
            return Ok(());
        }
        // Links are always shared; the kernel refuses the explicit flag on them.
        let mode = CgroupAttachMode::Single;
        let link = match program {
            Program::SockOps(program) => {
                program.attach(cgroup, mode).and_then(|id| program.take_link(id)).map(FdLink::try_from)
            }
            Program::CgroupSockAddr(program) => {
                program.attach(cgroup, mode).and_then(|id| program.take_link(id)).map(FdLink::try_from)
            }
            Program::CgroupSkb(program) => program
                .attach(cgroup, CgroupSkbAttachType::Ingress, mode)
                .and_then(|id| program.take_link(id))
                .map(FdLink::try_from),
            Program::CgroupSockopt(_) => {
                let link = sys::link_getsockopt(program_fd(name, program)?, cgroup.as_fd())
                    .map_err(|error| Error::system(format!("attach {name}"), error))?;
                return sys::obj_pin(&pin, link.as_fd())
                    .map_err(|error| Error::system(format!("pin {}", pin.display()), error));
            }
            _ => return Err(wrong_type(name)),
        };
        let link = link
            .map_err(|source| refused(name, source))?
            .map_err(|error| Error::system("take the link", io::Error::other(error)))?;
        pin_link(link, &pin)
    }
}

/// A cgroup's folder and ID.
fn open_cgroup(path: &Path) -> Result<(File, u64), Error> {
    let folder = File::open(path)
        .map_err(|error| Error::system(format!("open the cgroup {}", path.display()), error))?;
    let id = folder
        .metadata()
        .map_err(|error| Error::system(format!("describe the cgroup {}", path.display()), error))?
        .ino();
    Ok((folder, id))
}

/// Gives the link pinned at `pin` our program. False when there is no such link, or it is not the one we mean (an
/// interface or cgroup that has gone, its number perhaps used again): then its pin is removed.
fn adopt(
    pin: &Path,
    name: &'static str,
    program: &Program,
    is_ours: impl Fn(&sys::LinkInfo) -> bool,
) -> Result<bool, Error> {
    let link = match sys::obj_get(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::system(format!("open the pin {}", pin.display()), error)),
    };
    let info = sys::link_info(link.as_fd())
        .map_err(|error| Error::system(format!("describe the link {}", pin.display()), error))?;
    if is_ours(&info) {
        match sys::link_update(link.as_fd(), program_fd(name, program)?) {
            Ok(()) => {
                tracing::debug!(program = name, pin = %pin.display(), old = info.prog_id, "replaced a program");
                return Ok(true);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => {
                return Err(Error::system(format!("replace the program of {}", pin.display()), error));
            }
        }
    }
    unpin(pin)?;
    Ok(false)
}

fn pin_link(link: FdLink, pin: &Path) -> Result<(), Error> {
    // The pin holds the link; our own descriptor may go.
    link.pin(pin)
        .map(drop)
        .map_err(|error| Error::system(format!("pin {}", pin.display()), io::Error::other(error)))
}

fn add_clsact(link: &str) -> Result<(), Error> {
    match tc::qdisc_add_clsact(link) {
        Ok(()) | Err(TcError::AlreadyAttached) => Ok(()),
        // Ours from before, or somebody else's: clsact is for all to share.
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(Error::system(format!("add a clsact qdisc to {link}"), io::Error::other(error))),
    }
}

/// Undoes the attachment that the pin `name` records, and removes the pin. A pin whose name we do not know is only
/// removed.
pub(crate) fn remove_record(pins: &Pins, name: &str) -> Result<(), Error> {
    let pin = pins.links().join(name);
    match Attachment::from_pin_name(name) {
        Some(Attachment::Link { hook, ifindex, mode: AttachMode::Clsact }) => remove_filter(hook, ifindex)?,
        Some(Attachment::Link { .. } | Attachment::Cgroup { .. }) => detach_link(&pin)?,
        None => {}
    }
    unpin(&pin)
}

/// Removes our filter from a link; no error when either has gone.
fn remove_filter(hook: Hook, ifindex: u32) -> Result<(), Error> {
    // nix takes if_indextoname's null pointer for success: a link that has gone has an empty name.
    let Some(link) = if_indextoname(ifindex).ok().filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let link = link.to_string_lossy().into_owned();
    let filter =
        SchedClassifierLink::attached(&link, hook.direction(), CLSACT_PRIORITY, CLSACT_HANDLE, hook.class())
            .map_err(|error| Error::system(format!("find the filter on {link}"), error))?;
    if let Err(error) = filter.detach() {
        tracing::warn!(link, %error, "a filter was not there any more");
    }
    Ok(())
}

/// Detaches a pinned link; no error when there is none.
fn detach_link(pin: &Path) -> Result<(), Error> {
    let detached = sys::obj_get(pin).and_then(|link| sys::link_detach(link.as_fd()));
    match detached {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::system(format!("detach the link {}", pin.display()), error))
        }
        _ => Ok(()),
    }
}

fn refused(program: &'static str, source: aya::programs::ProgramError) -> Error {
    Error::Program { program, source: Box::new(source) }
}

fn wrong_type(program: &'static str) -> Error {
    Error::Unavailable { program, reason: "it has another type in the object".to_owned() }
}

/// Keeps the error number of a failed attach, by which the caller falls back to clsact.
fn attach_error(program: &'static str, link: &str, error: aya::programs::ProgramError) -> Error {
    match error {
        aya::programs::ProgramError::SyscallError(error) => {
            Error::system(format!("attach {program} to {link}"), error.io_error)
        }
        other => refused(program, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_survive_the_round_trip() {
        let mut all = vec![];
        for hook in Hook::ALL {
            for mode in [AttachMode::Tcx, AttachMode::Clsact] {
                all.push(Attachment::Link { hook, ifindex: 12, mode });
            }
        }
        for program in CGROUP_PROGRAMS {
            all.push(Attachment::Cgroup { program, cgroup: u64::MAX });
        }
        for attachment in all {
            let name = attachment.pin_name();
            assert!(!name.contains('.'), "bpffs refuses dots");
            assert_eq!(Attachment::from_pin_name(&name), Some(attachment));
        }
        assert_eq!(Attachment::from_pin_name("tcx-other-1"), None);
        assert_eq!(Attachment::from_pin_name("tcx-uplink-x"), None);
    }
}

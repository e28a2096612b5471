//! Loading the programs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use aya::EbpfLoader;
use aya::programs::{Program, ProgramError};
use turnpike_ebpf_abi::names;

use crate::attach::AttachMode;
use crate::error::Error;
use crate::maps::Maps;
use crate::object;
use crate::pins::Pins;

/// How to open the programs.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Folder on a bpffs for pins, usually `/sys/fs/bpf/turnpike`. It is made when it is missing.
    pub pins: PathBuf,
    /// How tc programs are attached.
    pub mode: AttachMode,
}

impl OpenOptions {
    /// Pins in `pins`, TCX where the kernel has it.
    #[must_use]
    pub fn new(pins: impl Into<PathBuf>) -> Self {
        Self { pins: pins.into(), mode: AttachMode::Auto }
    }
}

/// The loaded programs and their maps.
///
/// Dropping it detaches nothing.
#[derive(Debug)]
pub struct Programs {
    pub(crate) ebpf: aya::Ebpf,
    pub(crate) pins: Pins,
    pub(crate) mode: AttachMode,
    maps: Maps,
    unavailable: BTreeMap<&'static str, String>,
}

impl Programs {
    /// Loads the programs; opens the maps that are pinned already, and makes and pins the others.
    ///
    /// A program that this kernel refuses is left out and named by [`Programs::unavailable`].
    ///
    /// # Errors
    /// When this build has no programs, the folder is not on a bpffs, maps cannot be made, or a pinned map has
    /// another layout.
    pub fn open(options: &OpenOptions) -> Result<Self, Error> {
        let bytes = object::bytes().ok_or(Error::NoObject)?;
        let pins = Pins::new(&options.pins);
        pins.create()?;
        let folder = pins.maps();
        let mut loader = EbpfLoader::new();
        for name in names::MAPS {
            loader.map_pin_path(name, folder.join(name));
        }
        let mut ebpf = loader.load(bytes).map_err(|error| Error::Object(Box::new(error)))?;
        let mut unavailable = BTreeMap::new();
        for name in names::PROGRAMS {
            let Some(program) = ebpf.program_mut(name) else {
                unavailable.insert(name, "it is not in the object".to_owned());
                continue;
            };
            if let Err(error) = load(program) {
                tracing::warn!(program = name, %error, "the kernel refused an eBPF program");
                unavailable.insert(name, words(&error));
            }
        }
        let maps = Maps::open(&folder)?;
        Ok(Self { ebpf, pins, mode: options.mode, maps, unavailable })
    }

    /// The maps.
    #[must_use]
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Programs that this kernel refused, with its words.
    #[must_use]
    pub fn unavailable(&self) -> &BTreeMap<&'static str, String> {
        &self.unavailable
    }

    /// The object's programs, for tests that run them on packets of their own.
    pub fn ebpf_mut(&mut self) -> &mut aya::Ebpf {
        &mut self.ebpf
    }

    /// The pin folder of the maps.
    #[must_use]
    pub fn map_folder(&self) -> PathBuf {
        self.pins.maps()
    }

    /// The folder where attachments are recorded.
    pub(crate) fn link_folder(&self) -> PathBuf {
        self.pins.links()
    }

    /// A program that was loaded.
    pub(crate) fn program(&mut self, name: &'static str) -> Result<&mut Program, Error> {
        if let Some(reason) = self.unavailable.get(name) {
            return Err(Error::Unavailable { program: name, reason: reason.clone() });
        }
        self.ebpf
            .program_mut(name)
            .ok_or_else(|| Error::Unavailable { program: name, reason: "it is not in the object".to_owned() })
    }
}

/// The descriptor of a loaded program.
pub(crate) fn program_fd<'a>(name: &'static str, program: &'a Program) -> Result<BorrowedFd<'a>, Error> {
    match program.fd() {
        Ok(fd) => Ok(fd.as_fd()),
        Err(source) => Err(Error::Program { program: name, source: Box::new(source) }),
    }
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// An error with its causes, and of a verifier log only the end.
fn words(error: &ProgramError) -> String {
    const TAIL: usize = 600;
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let tail: Vec<char> = text.chars().rev().take(TAIL).collect();
    tail.into_iter().rev().collect()
}

//! A kernel of a Debian release: found, fetched and unpacked without touching the machine's own packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::paths;
use crate::run::{output, run};

/// What guests need: networking, the checksums below conntrack, 9p; the rest of the modules is large.
const PARTS: [&str; 12] = [
    "*/vmlinuz*",
    "modules.builtin*",
    "modules.order",
    "kernel/net/*",
    "kernel/lib/*",
    "kernel/crypto/*",
    "kernel/arch/x86/crypto/*",
    "kernel/fs/9p/*",
    "kernel/fs/netfs/*",
    "kernel/fs/fscache/*",
    "kernel/drivers/virtio/*",
    "kernel/drivers/net/*",
];

/// An unpacked kernel with its modules.
pub(super) struct Kernel {
    folder: PathBuf,
    /// `uname -r`.
    pub(super) release: String,
}

impl Kernel {
    /// Brings the release's present kernel; one that is there already is kept.
    pub(super) fn fetch(suite: &str) -> Result<Self> {
        let folder = paths::target().join("kernels").join(suite);
        let apt = Apt::new(&folder, suite)?;
        apt.update()?;
        let release = apt.kernel()?;
        let kernel = Self { folder, release };
        if !kernel.folder.join(format!("{}.complete", kernel.release)).is_file() {
            kernel.unpack(&apt)?;
            fs::write(kernel.folder.join(format!("{}.complete", kernel.release)), "")?;
        }
        Ok(kernel)
    }

    fn unpack(&self, apt: &Apt) -> Result<()> {
        let root = self.root();
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(&root)?;
        // Newer releases split the kernel in three; older ones know only the first of these.
        let names =
            ["linux-image", "linux-binary", "linux-modules"].map(|part| format!("{part}-{}", self.release));
        for name in names.iter().filter(|name| apt.knows(name)) {
            let package = apt.download(name)?;
            let mut tar = Command::new("sh");
            tar.args(["-c", r#"archive=$1 root=$2; shift 2; dpkg-deb --fsys-tarfile "$archive" | tar -x -C "$root" --wildcards --no-anchored "$@" 2>/dev/null; true"#, "sh"]);
            run(tar.arg(&package).arg(&root).args(PARTS))?;
            fs::remove_file(&package)?;
        }
        // Their home moved in trixie.
        if !root.join("lib/modules").exists() {
            fs::create_dir_all(root.join("lib"))?;
            std::os::unix::fs::symlink("../usr/lib/modules", root.join("lib/modules"))?;
        }
        let mut unxz = Command::new("find");
        run(unxz.arg(&root).args(["-name", "*.ko.xz", "-exec", "xz", "-d", "-T1", "{}", "+"]))?;
        self.image().map(drop)?;
        ensure!(self.modules().join("kernel/net/9p").is_dir(), "{} has no 9p modules", self.release);
        depmod(&root, &self.release)
    }

    /// Where it was unpacked.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// The folder of its modules.
    pub(super) fn modules(&self) -> PathBuf {
        self.root().join("lib/modules").join(&self.release)
    }

    /// The compressed kernel.
    pub(super) fn image(&self) -> Result<PathBuf> {
        let places =
            [self.root().join(format!("boot/vmlinuz-{}", self.release)), self.modules().join("vmlinuz")];
        places
            .into_iter()
            .find(|path| path.is_file())
            .with_context(|| format!("{} has no vmlinuz", self.release))
    }

    /// A file of ours beside it.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the guest said.
    pub(super) fn log(&self) -> PathBuf {
        self.beside("log")
    }
}

/// Writes modules.dep, by busybox: kmod is not everywhere.
pub(super) fn depmod(root: &Path, release: &str) -> Result<()> {
    run(Command::new("busybox").arg("depmod").arg("-b").arg(root).arg(release))
}

/// apt with lists and cache of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path, suite: &str) -> Result<Self> {
        for part in ["apt/state/lists/partial", "apt/cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let sources = format!("deb {} {suite} main\n", mirror()?);
        fs::write(folder.join("apt/sources.list"), sources)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let place = |part: &str| self.folder.join("apt").join(part).display().to_string();
        for (option, value) in [
            ("Dir::State", place("state")),
            ("Dir::State::status", "/dev/null".to_owned()),
            ("Dir::Cache", place("cache")),
            ("Dir::Etc::sourcelist", place("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command.current_dir(&self.folder);
        command
    }

    fn update(&self) -> Result<()> {
        run(self.command("apt-get").args(["update", "-qq"]))
    }

    /// The kernel on which the release's meta package depends.
    fn kernel(&self) -> Result<String> {
        let text = output(self.command("apt-cache").args(["show", "linux-image-amd64"]))
            .context("apt finds no package linux-image-amd64 there; what it said stands above")?;
        let depends = text.lines().filter_map(|line| line.strip_prefix("Depends: "));
        let names = depends.flat_map(|line| line.split([',', '|'])).map(str::trim);
        let mut kernels = names.filter_map(|name| name.split(' ').next()?.strip_prefix("linux-image-"));
        kernels.next().map(str::to_owned).context("linux-image-amd64 depends on no kernel")
    }

    fn knows(&self, package: &str) -> bool {
        output(self.command("apt-cache").args(["show", package])).is_some_and(|text| !text.is_empty())
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        run(self.command("apt-get").args(["download", "-qq", package]))?;
        let found = fs::read_dir(&self.folder)?.flatten().map(|entry| entry.path());
        let prefix = format!("{package}_");
        let mut found = found
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
        found.next().with_context(|| format!("apt-get download left no {package}"))
    }
}

/// The Debian mirror that this machine uses.
fn mirror() -> Result<String> {
    let listed = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Component: main",
    ]));
    let listed = listed.context("there is no apt-get here: other kernels come as Debian packages")?;
    match listed.lines().find(|line| line.trim_end_matches('/').ends_with("/debian")) {
        Some(uri) => Ok(uri.to_owned()),
        None => bail!("apt knows no Debian mirror (`apt-get indextargets`); add one to its sources"),
    }
}

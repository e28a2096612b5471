//! The files of a release: one archive with the programs, what deploys them and the documentation, and its checksum.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::paths;
use crate::run::{command, output, run};

/// What a node needs; everything else that is built is for the lab.
const PROGRAMS: [&str; 5] = ["turnpike", "turnpike-agent", "turnpike-bgpd", "turnpike-bfdd", "turnpike-cni"];
const FOLDERS: [&str; 2] = ["deploy", "docs"];
const FILES: [&str; 3] = ["README.md", "CHANGELOG.md", "LICENSE"];
/// turnpike-agent links libnftnl: its binary is under this licence, whose text goes along (README.md, "Licence").
const GPL: &str = "/usr/share/common-licenses/GPL-3";

/// Builds, packs, unpacks again and starts what was packed.
pub(crate) fn dist() -> Result<()> {
    let changed = output(command("git").args(["status", "--porcelain"])).unwrap_or_default();
    if !changed.trim().is_empty() {
        eprintln!("dist: there are changes that are not committed; the archive is not that of a commit");
    }
    build::all(Profile::Release)?;
    let machine = output(Command::new("uname").arg("-m")).context("uname does not tell the machine")?;
    let name = format!("turnpike-{}-{}-linux", env!("CARGO_PKG_VERSION"), machine.trim());
    let dist = paths::target().join("dist");
    let folder = dist.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("bin"))?;
    for program in PROGRAMS {
        let to = folder.join("bin").join(program);
        fs::copy(paths::bin().join(program), &to).with_context(|| format!("cannot copy {program}"))?;
        run(command("strip").arg("--strip-debug").arg(&to))?;
    }
    for path in FOLDERS.iter().chain(&FILES) {
        run(command("cp").arg("-r").arg(path).arg(&folder))?;
    }
    fs::copy(GPL, folder.join("LICENSE.turnpike-agent")).with_context(|| format!("cannot copy {GPL}"))?;

    let archive = format!("{name}.tar.gz");
    pack(&dist, &name, &archive)?;
    fs::remove_dir_all(&folder)?;
    try_out(&dist, &name, &archive)?;
    let sum = output(command("sha256sum").arg(&archive).current_dir(&dist)).context("sha256sum failed")?;
    fs::write(dist.join("SHA256SUMS"), &sum)?;
    let size = fs::metadata(dist.join(&archive))?.len();
    println!("dist: {} ({} KiB) and SHA256SUMS beside it", dist.join(&archive).display(), size >> 10);
    Ok(())
}

/// The same bytes from the same files: names in order, no owner, the commit's time.
fn pack(dist: &Path, name: &str, archive: &str) -> Result<()> {
    let time = output(command("git").args(["log", "-1", "--format=%ct"])).unwrap_or_default();
    let time = if time.trim().is_empty() { "0" } else { time.trim() };
    run(command("tar")
        .current_dir(dist)
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+rw,go=rX"])
        .arg(format!("--mtime=@{time}"))
        .args(["--use-compress-program=gzip -n -9", "-cf", archive, name]))
}

/// Unpacks the archive beside it and asks each program for its version.
fn try_out(dist: &Path, name: &str, archive: &str) -> Result<()> {
    let place = dist.join("unpacked");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::create_dir_all(&place)?;
    run(command("tar").current_dir(&place).arg("-xf").arg(dist.join(archive)))?;
    for program in PROGRAMS {
        let path = place.join(name).join("bin").join(program);
        let mut ask = Command::new(&path);
        // A CNI program speaks JSON: the specification's own verb asks for its versions.
        match program {
            "turnpike-cni" => ask.env("CNI_COMMAND", "VERSION"),
            _ => ask.arg("--version"),
        };
        let answer = output(&mut ask).with_context(|| format!("{} does not start", path.display()))?;
        let wanted = if program == "turnpike-cni" { "supportedVersions" } else { env!("CARGO_PKG_VERSION") };
        ensure!(answer.contains(wanted), "{program} answers {answer:?}");
    }
    fs::remove_dir_all(&place)?;
    Ok(())
}

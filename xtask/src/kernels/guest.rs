//! Boots a kernel in QEMU with an initramfs of busybox, and reads from its console what it found.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::packages::{Kernel, depmod};
use super::{Outcome, Tests};
use crate::paths;
use crate::run;

/// The first program of the guest.
const INIT: &str = include_str!("init.sh");
/// The modules that the guest needs before it sees this machine's files.
const EARLY: [&str; 6] = [
    "kernel/net/9p",
    "kernel/fs/9p",
    "kernel/fs/netfs",
    "kernel/fs/fscache",
    "kernel/drivers/virtio",
    "modules.builtin",
];
/// Tests that every kernel must pass: verdicts by test run, real traffic, TOA and UOA with servers. Each of them begins with
/// loading all programs, and fails when the verifier refuses one. Left out: those that say the same again of another
/// input; `pins`, which asks for every feature of a new kernel, TCX among them; `verifier`, which asks for counts that
/// kernels before 5.16 do not tell.
const TESTS: [&str; 15] = [
    "towards_pod",
    "from_pod",
    "marking::above",
    "mutation",
    "bypass::a_bond",
    "bypass::a_vlan",
    "bypass::bulk",
    "bypass::datagrams",
    "bypass::connections",
    "bypass::switching",
    "bypass::a_spoofing",
    "toa::a_server",
    "toa::an_option",
    "toa::every_format",
    "uoa",
];
/// The programs' tests, and those of limits twice.
const SUMS: usize = 3;
/// Longest time for one guest. It computes slowly: every instruction is translated, and others may use the machine, too.
const DEADLINE_S: &str = "1800";

/// Boots the kernel and waits for the guest's end.
fn boot(kernel: &Kernel, tests: &Tests) -> Result<()> {
    initramfs(kernel)?;
    let share = |path: &Path, tag: &str| {
        format!(
            "local,path={},mount_tag={tag},security_model=none,readonly=on,multidevs=remap",
            path.display()
        )
    };
    let modules = kernel.root().join("lib/modules");
    let modules = fs::canonicalize(&modules)?;
    let inside =
        modules.strip_prefix(fs::canonicalize(paths::target())?).context("modules outside of target")?;
    let append = format!(
        "console=ttyS0 quiet panic=-1 MODULES=/mnt/{} BINARY=/mnt/{} TESTS={} LIMITS=/mnt/{} PROGRAMS=/mnt/debug",
        inside.display(),
        tests.programs.display(),
        TESTS.join(","),
        tests.dataplane.display()
    );
    let log = File::create(kernel.log())?;
    let mut qemu = Command::new("timeout");
    qemu.args([DEADLINE_S, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1024"]);
    qemu.args(["-nographic", "-no-reboot", "-kernel"]).arg(kernel.image()?);
    qemu.arg("-initrd").arg(kernel.beside("initrd")).arg("-append").arg(append);
    qemu.arg("-virtfs").arg(share(Path::new("/"), "host"));
    qemu.arg("-virtfs").arg(share(&paths::target(), "target"));
    qemu.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = qemu.status().context("cannot start qemu-system-x86_64")?;
    ensure!(status.success(), "the guest ended with {status}; its console is in {}", kernel.log().display());
    Ok(())
}

/// Runs the tests on a kernel and reads its console.
pub(super) fn examine(kernel: &Kernel, tests: &Tests) -> Result<Outcome> {
    boot(kernel, tests)?;
    let console = String::from_utf8_lossy(&fs::read(kernel.log())?).into_owned();
    read(&console).with_context(|| format!("its console is in {}", kernel.log().display()))
}

fn initramfs(kernel: &Kernel) -> Result<()> {
    let root = kernel.beside("initramfs");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let modules = root.join("lib/modules").join(&kernel.release);
    for folder in [&modules, &root.join("bin"), &root.join("host"), &root.join("proc")] {
        fs::create_dir_all(folder)?;
    }
    for folder in ["sys", "dev", "sbin"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is not installed")?;
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    for part in EARLY.iter().filter(|part| kernel.modules().join(part).exists()) {
        let mut copy = Command::new("cp");
        copy.current_dir(kernel.modules()).args(["-a", "--parents", part]).arg(&modules);
        run::run(&mut copy)?;
    }
    depmod(&root, &kernel.release)?;
    let mut pack = Command::new("sh");
    pack.args(["-c", r#"cd "$1" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$2""#, "sh"]);
    run::run(pack.arg(&root).arg(kernel.beside("initrd")))
}

/// What the console tells: the release, the tests' sum, the problems of `turnpike status`.
fn read(console: &str) -> Result<Outcome> {
    let after = |mark: &str| {
        // Firmware leaves escape sequences before the first line.
        console.lines().find_map(|line| Some(line.split_once(mark)?.1.trim()))
    };
    let release = after("KERNEL ").context("the guest did not come up")?.to_owned();
    let sums: Vec<&str> = console.lines().filter(|line| line.contains("test result:")).collect();
    ensure!(sums.len() == SUMS, "the tests did not end: {sums:?}");
    let number = |word: &str| -> Result<u32> {
        let of = |sum: &str| -> Option<u32> {
            let words: Vec<&str> = sum.split([' ', ';']).collect();
            let at = words.iter().position(|found| *found == word)?;
            words.get(at.wrapping_sub(1))?.parse().ok()
        };
        sums.iter().map(|sum| of(sum).context("a sum without numbers")).sum()
    };
    let said = |mark: &str| -> Vec<&str> {
        console.lines().filter_map(|line| Some(line.split_once(mark)?.1.trim())).collect()
    };
    let pacers = said("limits are held by ");
    ensure!(
        pacers.len() == 2 && pacers.first() != pacers.last(),
        "limits were held by {pacers:?}, not both ways"
    );
    // Some kernels have fq_codel built in.
    let queues = said("classes queue by ");
    ensure!(
        queues.len() == 2 && queues.last().is_some_and(|last| last.starts_with("fq_codel")),
        "classes queued by {queues:?}, never by fq_codel"
    );
    let (passed, failed) = (number("passed")?, number("failed")?);
    let status = console.split("STATUS BEGIN").nth(1).and_then(|text| text.split("STATUS END").next());
    let Some(status) = status else { bail!("`turnpike status` did not run") };
    let uplink = after("uplinks with the bypass: eth0 (").and_then(|rest| rest.strip_suffix(')'));
    let attached = uplink.with_context(|| format!("the agent attached nothing there:\n{status}"))?.to_owned();
    let problem = |line: &str| {
        let line = line.trim();
        let words = line.strip_prefix("degraded ").or_else(|| line.strip_prefix("failed "))?;
        let words = words.strip_prefix("ebpf: ").unwrap_or(words);
        Some(words.rsplit_once(" (").map_or(words, |(words, _)| words).to_owned())
    };
    let lacks = status.lines().filter_map(problem).collect();
    Ok(Outcome { release, passed, failed, attached, lacks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_tells_release_sum_and_problems() {
        let console = "SeaBIOS\r\n\x1bc\x1b[2JKERNEL 5.10.0-32-amd64\r\n\
            test result: ok. 37 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\r\n\
            limits are held by TBF\r\nclasses queue by bytes\r\n\
            test result: ok. 6 passed; 0 failed; 0 ignored; 0 measured; 40 filtered out\r\n\
            limits are held by fq\r\nclasses queue by fq_codel\r\n\
            test result: FAILED. 5 passed; 1 failed; 0 ignored; 0 measured; 40 filtered out\r\n\
            uplinks with the bypass: eth0 (clsact)\r\n\
            STATUS BEGIN\r\nnode k: agent 0.1.0 up 1s, ready\r\nproblems\r\n\
            \x20 degraded ebpf: this kernel has no TCX (Linux 6.6 and later have it): filters (2s ago)\r\nSTATUS END\r\n";
        let outcome = read(console).unwrap();
        assert_eq!((outcome.release.as_str(), outcome.passed, outcome.failed), ("5.10.0-32-amd64", 48, 1));
        assert_eq!(outcome.attached, "clsact");
        assert_eq!(outcome.lacks, ["this kernel has no TCX (Linux 6.6 and later have it): filters"]);
        assert!(read("Kernel panic").is_err());
    }
}

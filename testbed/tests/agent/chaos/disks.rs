//! The agent's books on real disks that fill up, fail, or lose what was not synced: ext4 on a loop device.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use turnpike_agent_api::{ErrorReply, code};
use turnpike_testbed::{Lab, Node, poll_result};

use super::Random;
use crate::bench::{Bench, DEADLINE};

const STATE: &str = "/var/lib/turnpike";
const IMAGE: &str = "/mnt/thin/disk.img";
const PODS: u64 = 4;
/// Power cuts in `cargo xtask test`, and in `test --full`.
const CUTS: (u64, u64) = (6, 200);

/// A disk whose image takes room only as it is written, on a file system of its own.
struct Disk<'a>(&'a Node);

impl<'a> Disk<'a> {
    /// The state folder of a node without agent, on an empty disk.
    fn start(bench: &'a Bench) -> Result<Self> {
        let node = &bench.node;
        bench.crash()?;
        node.run(&["mount", "-t", "tmpfs", "-o", "size=64m", "none", "/mnt"])?;
        node.run(&["mkdir", "/mnt/thin"])?;
        node.run(&["mount", "-t", "tmpfs", "-o", "size=24m", "none", "/mnt/thin"])?;
        node.run(&["truncate", "-s", "16M", IMAGE])?;
        // No room kept for root, and nothing written later that mkfs could write now.
        node.run(&[
            "mkfs.ext4",
            "-q",
            "-F",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
            IMAGE,
        ])?;
        let disk = Self(node);
        disk.mount()?;
        bench.restart()?;
        Ok(disk)
    }

    /// As harsh as ext4 can be: no commit but by fsync, and none because a file replaces another.
    fn mount(&self) -> Result<()> {
        self.0.run(&["mount", "-o", "loop,commit=300,noauto_da_alloc", IMAGE, STATE]).map(drop)
    }

    fn unmount(&self) -> Result<()> {
        self.0.run(&["umount", STATE]).map(drop)
    }

    fn shell(&self, line: &str) -> Result<String> {
        self.0.text(&["sh", "-c", line])
    }
}

/// Verifies: on a disk that is full no pod is started, and the answer says why and where; a DEL succeeds, and gives its
/// address back once there is room; then everything goes on by itself.
#[test]
fn a_full_disk_starts_no_pod_and_keeps_none() -> Result<()> {
    let lab = Lab::new("agent-full-disk")?;
    let bench = Bench::start(&lab)?;
    let disk = Disk::start(&bench)?;
    ["p", "q"].iter().try_for_each(|name| bench.netns(name))?;
    bench.attach("before", "p")?;
    // The file system keeps a few blocks back as long as it has not decided where everything goes.
    let fill = "mkdir filler; cat /dev/zero > filler/0; sync; cat /dev/zero > filler/1; sync; \
                for n in $(seq 2 999); do echo full > filler/$n || break; sync; done 2> /dev/null; :";
    disk.shell(&format!("cd {STATE}; {fill}"))?;
    let error = bench.add(bench.add_request("c", "q"))?.expect_err("an ADD without room for its record");
    assert_eq!(error.code, code::STORE, "{error}");
    assert!(error.message.contains("No space left on device"), "{error}");
    assert!(error.details.contains(STATE), "{error:?}");
    assert_eq!(bench.links()?.len(), 1, "the pod of before alone");
    bench.inside("p", &["ping", "-c", "1", "-W", "5", "10.1.1.11"])?;
    bench.del("before")?;
    bench.wait_no_links()?;
    disk.shell(&format!("rm -r {STATE}/filler"))?;
    bench.wait_all_free()?;
    bench.attach("c", "q")?;
    bench.del("c")?;
    bench.wait_all_free()?;
    assert_eq!(bench.ipam_check()?, []);
    bench.crash()?;
    disk.unmount()?;
    lab.finish()
}

/// Verifies: what is below the file system fails: no pod is started, a DEL
/// succeeds; on the mended disk, where the release never arrived, the next agent finds that the pod has gone.
#[test]
fn a_failing_disk_starts_no_pod_and_loses_no_address() -> Result<()> {
    let lab = Lab::new("agent-failing-disk")?;
    let bench = Bench::start(&lab)?;
    let disk = Disk::start(&bench)?;
    ["p", "q"].iter().try_for_each(|name| bench.netns(name))?;
    let before = bench.attach("before", "p")?;
    // Writes to blocks that the image has no room for yet are I/O errors.
    disk.shell("cat /dev/zero > /mnt/thin/filler; :")?;
    let error = first_refusal(&bench, "q")?;
    assert_eq!(error.code, code::STORE, "{error}");
    // The loop device hands its file's error on, or makes EIO of it. The file system itself has room.
    let said = ["Input/output error", "No space left on device"];
    assert!(said.iter().any(|word| error.message.contains(word)), "{error}");
    let room = disk.shell(&format!("df --output=avail {STATE} | tail -n 1"))?;
    assert!(room.trim().parse::<u64>()? > 1024, "{room} KiB");
    assert_eq!(bench.links()?.len(), 1, "the pod of before alone");
    bench.del("before")?;
    bench.wait_no_links()?;

    bench.crash()?;
    disk.unmount()?;
    disk.shell("rm /mnt/thin/filler")?;
    // 1: errors were there and are mended.
    disk.shell(&format!("e2fsck -fy {IMAGE} > /dev/null 2>&1; test $? -le 1"))?;
    disk.mount()?;
    bench.restart()?;
    bench.wait_all_free()?;
    let again = bench.attach("again", "q")?;
    assert_eq!(again.addresses.len(), before.addresses.len());
    bench.del("again")?;
    bench.wait_all_free()?;
    bench.crash()?;
    disk.unmount()?;
    lab.finish()
}

/// Verifies: the power goes at no chosen moment of ADDs and DELs under way, and with it everything that was not synced.
/// What was answered is on the disk; no record is damaged; after the boot nothing is lost, and pods come again.
#[test]
fn a_power_cut_takes_nothing_that_was_answered() -> Result<()> {
    let lab = Lab::new("agent-power-cut")?;
    let bench = Bench::start(&lab)?;
    let disk = Disk::start(&bench)?;
    (0..PODS).try_for_each(|pod| bench.netns(&netns(pod)))?;
    bench.node.run(&["touch", "/run/boot_id"])?;
    bench.node.run(&["mount", "--bind", "/run/boot_id", "/proc/sys/kernel/random/boot_id"])?;
    boot(&bench, &disk, 0)?;
    let cuts = if std::env::var_os("TURNPIKE_TEST_FULL").is_some() { CUTS.1 } else { CUTS.0 };
    for seed in 1..=cuts {
        let lives = live_until_the_cut(&bench, &disk, seed)?;
        disk.unmount()?;
        disk.shell(&format!("mv /mnt/cut.img {IMAGE}"))?;
        disk.mount()?;
        let held = records(&disk)?;
        for (container, life) in &lives {
            let on_disk = held.get(container).copied();
            let fits = match life {
                Life::Attached => on_disk == Some(true),
                // Its addresses may be another pod's already.
                Life::Ended => on_disk != Some(true),
                Life::Unanswered => true,
            };
            ensure!(fits, "seed {seed}: {container} was {life:?}, on the disk: {on_disk:?}; {held:?}");
        }
        boot(&bench, &disk, seed)?;
        bench.wait_all_free()?;
        bench.wait_status(&format!("no damage after cut {seed}"), |status| {
            ensure!(status.problems.is_empty(), "{:?}", status.problems);
            Ok(())
        })?;
        ensure!(bench.ipam_check()?.is_empty(), "seed {seed}");
    }
    bench.crash()?;
    disk.unmount()?;
    lab.finish()
}

/// Pods come and go as long as blocks are used again that have room.
fn first_refusal(bench: &Bench, netns: &str) -> Result<ErrorReply> {
    for number in 0..200 {
        let container = format!("again-{number}");
        match bench.add(bench.add_request(&container, netns))? {
            Ok(_) => bench.del(&container)?,
            Err(error) => return Ok(error),
        }
    }
    bail!("the disk never failed")
}

/// What the runtime knows of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Attached,
    Ended,
    /// The power went before the answer.
    Unanswered,
}

fn netns(pod: u64) -> String {
    format!("cut{pod}")
}

/// The next boot: links are gone, and the boot ID is another one.
fn boot(bench: &Bench, disk: &Disk<'_>, number: u64) -> Result<()> {
    for link in bench.links()? {
        bench.node.run(&["ip", "link", "del", &link])?;
    }
    disk.shell(&format!("echo 00000000-0000-4000-8000-{number:012} > /run/boot_id"))?;
    if number == 0 {
        bench.crash()?;
    }
    bench.restart()
}

/// Pods come and go side by side until, after some answers, the agent stands still and the disk is copied as it is.
fn live_until_the_cut(bench: &Bench, disk: &Disk<'_>, seed: u64) -> Result<BTreeMap<String, Life>> {
    let lives = Mutex::new(BTreeMap::new());
    let answers = AtomicUsize::new(0);
    let wanted = 1 + usize::try_from(Random(seed).below(12))?;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..PODS)
            .map(|pod| {
                let (lives, answers) = (&lives, &answers);
                scope.spawn(move || come_and_go(bench, seed, pod, lives, answers))
            })
            .collect();
        let cut = poll_result(DEADLINE, "some answers", || {
            ensure!(answers.load(Ordering::SeqCst) >= wanted);
            Ok(())
        })
        .and_then(|()| bench.stand_still())
        .and_then(|()| disk.shell(&format!("cp {IMAGE} /mnt/cut.img")));
        bench.crash()?;
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))?;
        cut.map(drop)
    })?;
    Ok(lives.into_inner().expect("nobody panicked with it"))
}

/// One container after the other, until the agent answers no more.
fn come_and_go(
    bench: &Bench,
    seed: u64,
    pod: u64,
    lives: &Mutex<BTreeMap<String, Life>>,
    answers: &AtomicUsize,
) -> Result<()> {
    let note = |container: &str, life| {
        lives.lock().expect("nobody panicked with it").insert(container.to_owned(), life);
        if life != Life::Unanswered {
            answers.fetch_add(1, Ordering::SeqCst);
        }
    };
    for number in 0.. {
        let container = format!("cut{seed}-{pod}-{number}");
        note(&container, Life::Unanswered);
        if bench.try_add(&container, &netns(pod))?.is_none() {
            return Ok(());
        }
        note(&container, Life::Attached);
        // Every third pod stays.
        if number % 3 == 2 {
            return Ok(());
        }
        note(&container, Life::Unanswered);
        if !bench.try_del(&container)? {
            return Ok(());
        }
        note(&container, Life::Ended);
    }
    bail!("numbers have no end")
}

/// Containers on the disk, and whether they have their addresses.
fn records(disk: &Disk<'_>) -> Result<BTreeMap<String, bool>> {
    let mut held = BTreeMap::new();
    let folder = disk.0.path(format!("{STATE}/pods"))?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let container = record["attachment"]["containerId"].as_str();
        let container = container.or(record["attachment"]["container_id"].as_str()).unwrap_or_default();
        held.insert(container.to_owned(), record.get("released").is_none());
    }
    Ok(held)
}

//! The agent's books when the disk lets it down.

use anyhow::{Context as _, Result, ensure};
use turnpike_agent_api::code;
use turnpike_testbed::Lab;

use super::bench::Bench;

/// Verifies: a record that is cut in half is named, its pod goes on with its address, nobody else gets it, and its
/// DEL takes all of it away.
#[test]
fn a_damaged_record_is_named_and_its_pod_goes_on() -> Result<()> {
    let lab = Lab::new("agent-damaged")?;
    let bench = Bench::start(&lab)?;
    ["kept", "other"].iter().try_for_each(|name| bench.netns(name))?;
    let kept = bench.attach("kept", "kept")?;
    bench.crash()?;
    let record = bench.records()?.pop().context("no record")?;
    let text = std::fs::read_to_string(&record)?;
    std::fs::write(&record, &text[..text.len() / 2])?;
    bench.restart()?;
    let name = record.file_name().and_then(|name| name.to_str()).context("name")?.to_owned();
    bench.wait_status("the damage to be named", |status| {
        let named = status.problems.iter().any(|problem| problem.message.contains(&name));
        ensure!(named, "{:?}", status.problems);
        Ok(())
    })?;
    bench.inside("kept", &["ping", "-c", "1", "-W", "5", "10.1.1.11"])?;
    let other = bench.attach("other", "other")?;
    assert!(other.addresses.iter().all(|address| !kept.addresses.contains(address)), "{other:?} {kept:?}");
    bench.del("kept")?;
    bench.del("other")?;
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: without a store that can be written no pod is started: the caller hears why, nothing is made, and all is
/// well once the disk is.
#[test]
fn a_store_that_cannot_be_written_starts_no_pod() -> Result<()> {
    let lab = Lab::new("agent-readonly")?;
    let bench = Bench::start(&lab)?;
    bench.netns("p")?;
    bench.node.run(&["mount", "-t", "tmpfs", "-o", "ro", "none", "/var/lib/turnpike/pods"])?;
    let error = bench.add(bench.add_request("c", "p"))?.expect_err("an ADD that is not durable");
    assert_eq!(error.code, code::STORE, "{error}");
    assert!(bench.links()?.is_empty());
    let status = bench.status()?;
    assert!(status.pods.is_empty() && status.blocks.iter().all(|block| block.used == 0), "{status:?}");
    assert!(status.last_errors[0].message.contains("store"), "{:?}", status.last_errors);
    bench.node.run(&["umount", "/var/lib/turnpike/pods"])?;
    bench.attach("c", "p")?;
    bench.del("c")?;
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: a DEL whose release cannot be written succeeds all the same; the address stays out of use until the disk
/// is well again.
#[test]
fn a_del_succeeds_although_the_store_cannot_be_written() -> Result<()> {
    let lab = Lab::new("agent-del-readonly")?;
    let bench = Bench::start(&lab)?;
    bench.netns("p")?;
    bench.attach("c", "p")?;
    bench.node.run(&["mount", "-t", "tmpfs", "-o", "ro", "none", "/var/lib/turnpike/pods"])?;
    bench.del("c")?;
    bench.wait_no_links()?;
    assert_eq!(bench.status()?.blocks.iter().map(|block| block.used).sum::<u64>(), 2);
    bench.node.run(&["umount", "/var/lib/turnpike/pods"])?;
    bench.wait_all_free()?;
    lab.finish()
}

/// Verifies: an ADD of the very container whose record is damaged begins anew, and leaves one pod.
#[test]
fn a_damaged_record_makes_room_for_its_own_container() -> Result<()> {
    let lab = Lab::new("agent-damaged-again")?;
    let bench = Bench::start(&lab)?;
    bench.netns("p")?;
    bench.attach("c", "p")?;
    bench.crash()?;
    let record = bench.records()?.pop().context("no record")?;
    std::fs::write(&record, "{}")?;
    bench.restart()?;
    let reply = bench.attach("c", "p")?;
    let pods = bench.status()?.pods;
    assert_eq!(pods.len(), 1, "{pods:?}");
    assert_eq!(pods[0].addresses, reply.addresses);
    bench.inside("p", &["ping", "-c", "1", "-W", "5", "10.1.1.11"])?;
    bench.del("c")?;
    bench.wait_all_free()?;
    lab.finish()
}

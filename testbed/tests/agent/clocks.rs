//! The wall clock is set, by hours and by decades, while an agent runs and between two runs: libfaketime tells the agent's
//! process another time. The machine's own clock is left alone.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use turnpike_agent_api::code;
use turnpike_testbed::{Lab, WallClock, binary, poll_result};

use crate::bench::{Bench, DEADLINE};
use crate::gates::TWO_ADDRESSES;

const STATE: &str = "/var/lib/turnpike";
/// Of no boot that ever was.
const ANOTHER_BOOT: &str = "00000000-0000-4000-8000-000000000000";
/// Longer than any machine of a test has been up.
const DECADE: u64 = 10 * 365 * 86_400;

/// The agent's clock.
struct Clock<'a> {
    bench: &'a Bench,
    wall: WallClock,
}

impl<'a> Clock<'a> {
    /// Restarts the agent with a clock that can be set, and that is right as yet.
    fn take(bench: &'a Bench) -> Result<Self> {
        let clock = Self { bench, wall: WallClock::new(&bench.node)? };
        clock.restart()?;
        Ok(clock)
    }

    /// Sets it, for the running agent and those to come.
    fn set(&self, offset: &str) -> Result<()> {
        self.wall.set(offset)
    }

    /// SIGKILL, and the next agent.
    fn restart(&self) -> Result<()> {
        self.bench.crash()?;
        self.start()
    }

    fn start(&self) -> Result<()> {
        self.bench.restart_with(&self.wall.environment())
    }

    /// The agent's next words are from another year than ours: earlier or later as this offset says.
    fn assert_seen(&self, offset: &str) -> Result<()> {
        let now = self.bench.node.text(&["date", "-u", "+%Y"])?.trim().parse::<i32>()?;
        poll_result(DEADLINE, "the agent to see its clock", || {
            let log = self.bench.log();
            let last = log.lines().last().and_then(|line| line.split('-').next()).unwrap_or_default();
            let year: i32 = last.parse().with_context(|| log.clone())?;
            let seen = if offset.starts_with('-') { year < now } else { year > now };
            ensure!(seen, "{year} after {offset}");
            Ok(())
        })
    }
}

/// As if the machine had been booted since everything in the state folder was written. Nobody has it meanwhile.
fn boot_again(bench: &Bench) -> Result<()> {
    let own = bench.node.read_file("/proc/sys/kernel/random/boot_id")?;
    let trial = bench.node.path(format!("{STATE}/bandwidth-trial.json"))?;
    let files: Vec<PathBuf> = bench.records()?.into_iter().chain(trial.exists().then_some(trial)).collect();
    for file in files {
        let text = fs::read_to_string(&file)?;
        ensure!(text.contains(own.trim()), "{text}");
        fs::write(&file, text.replace(own.trim(), ANOTHER_BOOT))?;
    }
    Ok(())
}

/// How long the machine is up, in seconds.
fn uptime() -> Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds = text.split('.').next().unwrap_or_default();
    seconds.parse().with_context(|| text.clone())
}

fn resting(seconds: u64) -> String {
    format!("[ipam]\ncooldown_seconds = {seconds}\n")
}

/// Verifies: a released address rests as long as agent.toml says, by time that passes: neither a clock that is set ahead
/// nor one that is set back gives it to a pod early, in one run, over restarts and over a boot; and a clock that is
/// decades behind after a boot keeps no address for longer than the rest since then.
#[test]
fn a_released_address_rests_by_time_that_passes() -> Result<()> {
    let lab = Lab::new("agent-clock-rest")?;
    let bench = Bench::start_with(&lab, &resting(DECADE))?;
    let clock = Clock::take(&bench)?;
    ["p", "q"].iter().try_for_each(|name| bench.netns(name))?;
    bench.set_resource("pools.yaml", TWO_ADDRESSES)?;
    bench.wait_status("two addresses", |status| {
        ensure!(status.blocks.iter().map(|block| block.total).sum::<u64>() == 2, "{:?}", status.blocks);
        Ok(())
    })?;
    let refused = |offset: &str| -> Result<()> {
        let error = bench.add(bench.add_request("next", "p"))?.err().context("it got an address")?;
        ensure!(error.code == code::EXHAUSTED && error.message.contains("1 in cooldown"), "{error}");
        clock.assert_seen(offset)
    };
    bench.attach("kept", "q")?;
    let first = bench.attach("first", "p")?;
    bench.del("first")?;
    for offset in ["+2y", "-30y", "+30y"] {
        clock.set(offset)?;
        refused(offset).context("in one run")?;
        clock.restart()?;
        refused(offset).context("after a restart")?;
    }
    bench.crash()?;
    boot_again(&bench)?;
    for offset in ["+30y", "-30y"] {
        clock.set(offset)?;
        clock.start()?;
        refused(offset).context("after a boot")?;
        bench.crash()?;
    }
    // The clock is behind still: it would say that the release is yet to come.
    bench.configure(&resting(uptime()? / 2))?;
    clock.start()?;
    assert_eq!(bench.attach("next", "p")?.addresses, first.addresses);
    bench.del("next")?;
    bench.del("kept")?;
    bench.wait_all_free()?;
    lab.finish()
}

fn ceiling(rate: &str) -> String {
    format!(
        "apiVersion: turnpike.io/v1alpha1\nkind: NodeBandwidth\nmetadata: {{ name: base }}\n\
         spec: {{ limits: {{ egress: {rate} }} }}\n"
    )
}

/// Verifies: what `bw apply` puts on trial is taken back in time although the clock is set back by decades meanwhile, also
/// when the machine is booted during the trial.
#[test]
fn a_trial_ends_in_time_although_the_clock_is_set_back() -> Result<()> {
    const FILE: &str = "bandwidth.yaml";
    let lab = Lab::new("agent-clock-trial")?;
    let bench = Bench::start(&lab)?;
    let clock = Clock::take(&bench)?;
    bench.set_resource(FILE, &ceiling("80M"))?;
    bench.node.write_file("/tmp/low.yaml", ceiling("5M"))?;
    let program = binary("turnpike")?.display().to_string();
    let apply = |patience: Duration| -> Result<()> {
        let confirm = format!("{}s", patience.as_secs());
        bench.node.text(&[&program, "bw", "apply", "-f", "/tmp/low.yaml", "--confirm", &confirm])?;
        ensure!(bench.resource(FILE)? == ceiling("5M"), "{}", bench.resource(FILE)?);
        Ok(())
    };
    let wait_undone = || {
        poll_result(DEADLINE, "the trial's end", || {
            let present = bench.resource(FILE)?;
            ensure!(present == ceiling("80M"), "{present}");
            Ok(())
        })
    };
    apply(Duration::from_secs(3))?;
    clock.set("-30y")?;
    wait_undone().context("in one run")?;

    clock.set("+0")?;
    apply(Duration::from_secs((uptime()? / 2).min(3600)))?;
    bench.crash()?;
    boot_again(&bench)?;
    clock.set("-30y")?;
    clock.start()?;
    wait_undone().context("after a boot")?;
    clock.assert_seen("-30y")?;
    lab.finish()
}

/// Verifies: versions of events go up over a restart although the clock was set back meanwhile; whoever comes with one of
/// the run before hears that it is too old.
#[test]
fn versions_of_events_go_up_although_the_clock_is_set_back() -> Result<()> {
    let lab = Lab::new("agent-clock-events")?;
    let bench = Bench::start(&lab)?;
    let clock = Clock::take(&bench)?;
    let program = binary("turnpike")?.display().to_string();
    let events = |more: &[&str]| -> Result<Value> {
        let text = bench.node.text(&[&[program.as_str(), "ipam", "events"], more].concat())?;
        Ok(serde_json::from_str(text.lines().next().unwrap_or_default())?)
    };
    bench.crash()?;
    // As on a new node, whose clock is ahead.
    bench.node.run(&["rm", &format!("{STATE}/events.json")])?;
    clock.set("+30y")?;
    clock.start()?;
    let before = events(&[])?["resourceVersion"].as_u64().context("a version")?;
    clock.set("-30y")?;
    for _ in 0..2 {
        clock.restart()?;
        let told = events(&["--since", &before.to_string()])?;
        assert_eq!(told["type"], "too-old", "{told}");
        let after = told["resourceVersion"].as_u64().context("a version")?;
        assert!(after > before, "{after} after {before}");
    }
    lab.finish()
}

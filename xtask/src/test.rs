//! Tests, single labs, the demo and the benches: prepare, then hand over to nextest or to a program of the testbed.

use std::env;
use std::process::Command;

use anyhow::Result;

use crate::build::{self, Profile};
use crate::kernels;
use crate::paths;
use crate::run::{cargo, need_root, output, run};
use crate::setup;
use crate::table;

/// `cargo xtask test [--full] [filter…]`
pub(crate) fn test(full: bool, filter: &[String]) -> Result<()> {
    prepare("a lab of network namespaces", Profile::Dev)?;
    setup::runner()?;
    if !full {
        println!(
            "test: left to `cargo xtask test --full`: 4096 cases for each property (here 256), \
             each row of docs/interop.md with every peer (here with one), \
             1,000 seeds of chaos (here one for each point at which the agent is killed), 200 power cuts (here 6), \
             10,000 limited pods that leave nothing (here 200), \
             100,000 mutated packets for each eBPF program (here 4,000), \
             the eBPF programs on other kernels (`cargo xtask lab kernels`; here on this machine's)"
        );
    }
    let mut nextest = nextest();
    nextest.args(["run", "--workspace", "--locked"]).args(filter);
    if full {
        nextest.env("PROPTEST_CASES", "4096").env("TURNPIKE_TEST_FULL", "1");
    }
    run(&mut nextest)?;
    // Who names tests wants those alone.
    if full && filter.is_empty() {
        kernels::matrix(None)?;
    }
    Ok(())
}

/// `cargo xtask lab [name] [--keep]`
pub(crate) fn lab(name: Option<&str>, keep: bool) -> Result<()> {
    setup::runner()?;
    let Some(name) = name else {
        return run(nextest().args(["list", "-p", "turnpike-testbed", "-E", "kind(test)"]));
    };
    prepare("a lab of network namespaces", Profile::Dev)?;
    let mut nextest = nextest();
    nextest.args(["run", "--workspace", "--locked", "--no-capture", "-E"]);
    nextest.arg(format!("package(turnpike-testbed) and kind(test) and (test({name}) or binary({name}))"));
    if keep {
        nextest.args(["--profile", "keep"]).env("TURNPIKE_LAB_KEEP", "1");
    }
    run(&mut nextest)
}

/// `cargo xtask demo`
pub(crate) fn demo(keep: bool) -> Result<()> {
    prepare("a data centre of network namespaces", Profile::Dev)?;
    let mut demo = program("demo");
    if keep {
        demo.env("TURNPIKE_LAB_KEEP", "1");
    }
    run(&mut demo)
}

/// `cargo xtask bench [name] [--full] [--json FILE] …`
pub(crate) fn bench(args: &[String]) -> Result<()> {
    prepare("a lab of network namespaces", Profile::Release)?;
    let mut bench = program("bench");
    if args.first().is_none_or(|name| name == "bgp" || name.starts_with('-')) {
        bench.env("TURNPIKE_BENCH_TABLE", table::find()?);
    }
    run(bench.args(args))
}

fn prepare(what: &str, profile: Profile) -> Result<()> {
    need_root(what)?;
    setup::for_lab()?;
    build::all(profile)
}

fn program(name: &str) -> Command {
    let mut command = crate::run::command(paths::bin().join(name));
    command.env("TURNPIKE_BIN_DIR", paths::bin());
    command
}

/// cargo-nextest, wherever setup found or built it.
pub(crate) fn nextest() -> Command {
    let mut command = cargo();
    command.arg("nextest").env("TURNPIKE_BIN_DIR", paths::bin());
    if output(cargo().args(["nextest", "--version"])).is_none() {
        let mut path = vec![paths::tools().join("bin")];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        if let Ok(joined) = env::join_paths(path) {
            command.env("PATH", joined);
        }
    }
    command
}

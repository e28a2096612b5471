//! The verbs: one request each.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use turnpike_agent_api::{
    AddRequest, CheckRequest, Client, ClientError, DelRequest, GcRequest, Reply, Request, SpoolEntry, code,
    since_heartbeat, spool,
};

use crate::config::NetConf;
use crate::environment::{Command, Environment};
use crate::error::CniError;
use crate::result;
use crate::version::CniVersion;

/// How long ADD waits for an agent that is being restarted.
const ADD_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two attempts to reach the agent.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// How long the agent may work on an ADD, CHECK or GC.
const WORK_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the agent may work on a DEL before it is spooled instead.
const DEL_TIMEOUT: Duration = Duration::from_secs(30);
/// STATUS answers in less than 200 ms, whatever the agent does.
const STATUS_TIMEOUT: Duration = Duration::from_millis(150);
/// An agent that lived so recently is being restarted; that never makes a node NotReady.
const RESTART_GRACE: Duration = Duration::from_secs(30);
/// NSFS_MAGIC of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Carries out one verb. What it returns is to be printed.
pub(crate) fn execute(
    command: Command,
    environment: &Environment,
    config: &NetConf,
    version: CniVersion,
) -> Result<Option<Value>, CniError> {
    let since = match command {
        Command::Check => CniVersion::V0_4_0,
        Command::Status | Command::Gc => CniVersion::V1_1_0,
        Command::Add | Command::Del | Command::Version => CniVersion::V0_3_0,
    };
    if version < since {
        let details =
            format!("this verb needs {} or later, the configuration is {}", since.as_str(), version.as_str());
        return Err(CniError::new(
            code::INCOMPATIBLE_VERSION,
            "the configuration's version lacks this verb",
            details,
        ));
    }
    match command {
        Command::Add => add(environment, config, version).map(Some),
        Command::Del => del(environment, config).map(|()| None),
        Command::Check => check(environment, config).map(|()| None),
        Command::Status => status(config).map(|()| None),
        Command::Gc => gc(config).map(|()| None),
        Command::Version => Ok(Some(crate::version::report())),
    }
}

fn add(environment: &Environment, config: &NetConf, version: CniVersion) -> Result<Value, CniError> {
    let attachment = environment.attachment()?;
    let path = environment.netns()?;
    let netns = open_netns(path)?;
    let request = Request::Add(Box::new(AddRequest {
        attachment: attachment.clone(),
        network: config.name()?.to_owned(),
        netns_path: path.to_owned(),
        pod: environment.pod()?,
        bandwidth: config.bandwidth(),
        annotations: config.annotations(),
        cgroup_path: config.cgroup_path(),
        port_mappings: config.port_mappings(),
        // The capability goes before the older way.
        ips: Some(config.ips()).filter(|ips| !ips.is_empty()).unwrap_or_else(|| environment.ips()),
        mac: config.mac().or_else(|| environment.mac()),
    }));
    match ask_patiently(&config.socket(), &request, &netns)? {
        Reply::Added(reply) => Ok(result::build(version, config, &attachment.ifname, path, &reply)),
        other => Err(unexpected(other)),
    }
}

/// Asks until the agent answers or patience ends. The agent takes a repeated ADD for the same one, so a connection
/// that broke half-way is no reason to give up.
fn ask_patiently(socket: &Path, request: &Request, netns: &OwnedFd) -> Result<Reply, CniError> {
    let deadline = Instant::now() + ADD_PATIENCE;
    loop {
        let answer = Client::connect(socket)
            .and_then(|client| client.request(request, &[netns.as_fd()], WORK_TIMEOUT));
        match answer {
            Ok(reply) => return Ok(reply),
            Err(error @ ClientError::Protocol(_)) => return Err(protocol(&error)),
            Err(error) if Instant::now() >= deadline => return Err(try_again(&error)),
            Err(_) => std::thread::sleep(RETRY_PAUSE),
        }
    }
}

fn del(environment: &Environment, config: &NetConf) -> Result<(), CniError> {
    let attachment = environment.attachment()?;
    let network = config.name().unwrap_or_default().to_owned();
    let request = DelRequest { attachment, network };
    let answer = Client::connect(&config.socket())
        .and_then(|client| client.request(&Request::Del(request.clone()), &[], DEL_TIMEOUT));
    match answer {
        Ok(reply) => done(reply),
        Err(reason) => {
            eprintln!("turnpike-cni: {reason}; the DEL is spooled");
            spool(&config.spool(), &SpoolEntry::now(request)).map(|_| ()).map_err(|error| {
                CniError::new(code::IO, "the agent is down and the DEL cannot be spooled", error.to_string())
            })
        }
    }
}

fn check(environment: &Environment, config: &NetConf) -> Result<(), CniError> {
    let attachment = environment.attachment()?;
    let netns = open_netns(environment.netns()?)?;
    let Some(previous) = &config.prev_result else {
        let details = "CHECK compares with the result of ADD, which the runtime has to hand over";
        return Err(CniError::new(code::INVALID_CONFIG, "prevResult is missing", details));
    };
    let addresses = result::addresses_of(previous, &attachment.ifname);
    let request = Request::Check(CheckRequest { attachment, addresses });
    done(ask_patiently(&config.socket(), &request, &netns)?)
}

fn status(config: &NetConf) -> Result<(), CniError> {
    let socket = config.socket();
    match Client::connect(&socket).and_then(|client| client.request(&Request::Ready, &[], STATUS_TIMEOUT)) {
        Ok(reply) => done(reply),
        Err(_) if since_heartbeat(&socket).is_some_and(|age| age < RESTART_GRACE) => Ok(()),
        Err(error) => Err(CniError::new(
            code::NOT_AVAILABLE,
            format!("turnpike-agent is not running on this node: {error}"),
            "start it: systemctl start turnpike-agent; then look at: turnpike status",
        )),
    }
}

fn gc(config: &NetConf) -> Result<(), CniError> {
    let network = config.name()?.to_owned();
    let Some(valid) = config.valid_attachments() else {
        eprintln!("turnpike-cni: GC without cni.dev/valid-attachments: nothing is known to be invalid");
        return Ok(());
    };
    let answer = Client::connect(&config.socket())
        .and_then(|client| client.request(&Request::Gc(GcRequest { network, valid }), &[], WORK_TIMEOUT));
    match answer {
        Ok(reply) => done(reply),
        Err(error @ ClientError::Protocol(_)) => Err(protocol(&error)),
        Err(error) => Err(try_again(&error)),
    }
}

fn done(reply: Reply) -> Result<(), CniError> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn unexpected(reply: Reply) -> CniError {
    match reply {
        Reply::Error(error) => error.into(),
        _ => CniError::new(
            code::PROTOCOL,
            "turnpike-agent answered something else",
            "install the same release of both",
        ),
    }
}

fn protocol(error: &ClientError) -> CniError {
    CniError::new(
        code::PROTOCOL,
        "turnpike-agent and turnpike-cni do not understand each other",
        error.to_string(),
    )
}

fn try_again(error: &ClientError) -> CniError {
    CniError::new(
        code::TRY_AGAIN,
        "turnpike-agent cannot be reached, try again later",
        format!("{error}; is it running? systemctl status turnpike-agent"),
    )
}

/// Opens the pod's network namespace, and refuses what is none, and the host's own.
fn open_netns(path: &str) -> Result<OwnedFd, CniError> {
    let unusable = |details: String| {
        CniError::new(code::NETNS, format!("the network namespace {path} is unusable"), details)
    };
    let io = |error: io::Error| unusable(error.to_string());
    let file = File::open(path).map_err(io)?;
    let kind = rustix::fs::fstatfs(&file).map_err(|error| io(error.into()))?;
    if kind.f_type != NSFS_MAGIC {
        return Err(unusable("it is no namespace file".to_owned()));
    }
    let theirs = file.metadata().map_err(io)?;
    let ours = std::fs::metadata("/proc/self/ns/net").map_err(io)?;
    if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
        return Err(unusable("it is the host's own; host-network pods need no attachment".to_owned()));
    }
    Ok(file.into())
}

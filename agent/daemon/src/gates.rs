//! What an ADD can be made to wait for, within bounds: that something outside answers the pod's own address, and that
//! whoever grants access by address has heard of it. DEL never waits.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::ensure;
use serde::Deserialize;
use turnpike_agent_api::{ErrorReply, code};
use turnpike_dataplane::probe;

use crate::agent::Agent;
use crate::store::PodRecord;

/// Asks for the gateway's answer before the pod starts, whatever the node's configuration says.
const ANNOTATION: &str = "turnpike.io/gateway-gate";
/// The longest wait that may be configured, in milliseconds: runtimes give up after some 30 s.
const LONGEST: u64 = 15_000;

/// The longest time, in seconds, for which released addresses may be held back.
const LONGEST_HOLD: u64 = 86_400;

/// How much a gate counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Nobody waits.
    #[default]
    Off,
    /// ADD waits; what did not come is told, and the pod starts.
    Warn,
    /// ADD fails with code 11 if it does not come; the runtime tries again.
    Enforce,
}

/// `[gates]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Gates {
    pub(crate) gateway: GatewayGate,
    pub(crate) subscribers: SubscriberGate,
}

/// `[gates.gateway]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GatewayGate {
    pub(crate) mode: Mode,
    pub(crate) wait_ms: u64,
    /// Who must answer, one of each family; the node's gateways unless given.
    pub(crate) targets: Vec<IpAddr>,
}

/// `[gates.subscribers]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SubscriberGate {
    pub(crate) mode: Mode,
    pub(crate) wait_ms: u64,
    /// Who must have acknowledged the address, each of them.
    pub(crate) names: Vec<String>,
    /// A released address goes to no other pod before they have acknowledged that, for so long at most; 0: it does.
    pub(crate) hold_released_seconds: u64,
}

impl Default for GatewayGate {
    fn default() -> Self {
        Self { mode: Mode::Off, wait_ms: 3000, targets: Vec::new() }
    }
}

impl Default for SubscriberGate {
    fn default() -> Self {
        Self { mode: Mode::Off, wait_ms: 2000, names: Vec::new(), hold_released_seconds: 0 }
    }
}

impl Gates {
    /// # Errors
    /// A setting that cannot be meant, with its remedy.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        for (gate, wait_ms) in [("gateway", self.gateway.wait_ms), ("subscribers", self.subscribers.wait_ms)]
        {
            let range = 1..=LONGEST;
            ensure!(range.contains(&wait_ms), "gates.{gate}.wait_ms is {wait_ms}: use 1 to {LONGEST}");
        }
        let SubscriberGate { mode, names, hold_released_seconds: hold, .. } = &self.subscribers;
        ensure!(
            *hold == 0 || !names.is_empty(),
            "gates.subscribers.hold_released_seconds waits for nobody: list their names, or set it to 0"
        );
        ensure!(
            *hold <= LONGEST_HOLD,
            "gates.subscribers.hold_released_seconds is {hold}: use {LONGEST_HOLD} (a day) at most, or a subscriber that \
             is away takes all addresses with it"
        );
        ensure!(
            *mode == Mode::Off || !names.is_empty(),
            "gates.subscribers waits for nobody: list their names, or set mode = \"off\""
        );
        // Who acknowledges is known by the word that it writes on a command line.
        let unusable = names.iter().find(|name| name.is_empty() || name.contains(char::is_whitespace));
        if let Some(name) = unusable {
            anyhow::bail!(
                "gates.subscribers.names has `{name}`, by which nobody can acknowledge: write one word, as in \
                 `turnpike ipam acknowledge WORD VERSION`"
            );
        }
        if let Some(target) = self.gateway.targets.iter().find(|target| !probe::can_be_asked(**target)) {
            anyhow::bail!(
                "gates.gateway.targets: no pod reaches {target}; give an address beyond the node's link"
            );
        }
        Ok(())
    }
}

/// The mode that a pod's annotation asks for; it can only make the node's stricter.
///
/// # Errors
/// Another word than the three.
pub(crate) fn asked_mode(annotation: Option<&String>) -> Result<Mode, ErrorReply> {
    match annotation.map(String::as_str) {
        None | Some("off") => Ok(Mode::Off),
        Some("warn") => Ok(Mode::Warn),
        Some("enforce") => Ok(Mode::Enforce),
        Some(other) => {
            Err(ErrorReply::new(code::INVALID_CONFIG, format!("the annotation {ANNOTATION} is `{other}`"))
                .with_details("write off, warn or enforce"))
        }
    }
}

/// What a pod's annotations say of gates.
///
/// # Errors
/// As [`asked_mode`].
pub(crate) fn asked(annotations: &std::collections::BTreeMap<String, String>) -> Result<Mode, ErrorReply> {
    asked_mode(annotations.get(ANNOTATION))
}

/// Waits until something outside has answered each of the pod's addresses.
///
/// # Errors
/// Nothing has, and the gate is to be enforced.
pub(crate) fn gateway(
    agent: &Agent,
    record: &PodRecord,
    asked: Mode,
    netns: &OwnedFd,
) -> Result<(), ErrorReply> {
    let gate = &agent.config.gates.gateway;
    let mode = gate.mode.max(asked);
    if mode == Mode::Off {
        return Ok(());
    }
    let targets = match gate.targets.as_slice() {
        [] => agent.health().gateways.addresses(),
        given => given.to_vec(),
    };
    for address in record.addresses() {
        let of_family =
            |target: &IpAddr| target.is_ipv4() == address.is_ipv4() && probe::can_be_asked(*target);
        let targets: Vec<IpAddr> = targets.iter().copied().filter(of_family).collect();
        // Without a gateway there is nobody to ask: such a node reaches what BGP taught it.
        if targets.is_empty() {
            continue;
        }
        let patience = Duration::from_millis(gate.wait_ms);
        let list = targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let problem = match probe::first_answer(netns.as_fd(), address, &targets, patience) {
            Ok(Some(target)) => {
                tracing::debug!(%address, %target, "the pod's address has had an answer");
                continue;
            }
            Ok(None) => {
                format!("no answer from {list} to the pod's address {address} within {} ms", gate.wait_ms)
            }
            Err(error) => format!("{list} cannot be asked from {address}: {error}"),
        };
        shut(agent, "gateway", mode, &record.host_link, problem, GATEWAY_REMEDY)?;
    }
    agent.metrics.gate("gateway", "passed");
    Ok(())
}

const GATEWAY_REMEDY: &str = "do routers know the pod's block? `turnpike why ADDRESS` says where it is announced; \
     gates.gateway in agent.toml sets mode and targets";

/// Waits until every subscriber has acknowledged a version.
///
/// # Errors
/// One has not, and the gate is to be enforced.
pub(crate) fn subscribers(agent: &Agent, record: &PodRecord, version: u64) -> Result<(), ErrorReply> {
    let gate = &agent.config.gates.subscribers;
    if gate.mode == Mode::Off {
        return Ok(());
    }
    let silent = agent.events.wait_acknowledged(&gate.names, version, Duration::from_millis(gate.wait_ms));
    if silent.is_empty() {
        agent.metrics.gate("subscribers", "passed");
        return Ok(());
    }
    let addresses = record.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let silent = silent.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let problem = format!(
        "{addresses} (resourceVersion {version}) not acknowledged within {} ms by subscriber {silent}",
        gate.wait_ms
    );
    let remedy = "does it run, and does it acknowledge? docs/ipam.md, \"events\"; gates.subscribers in agent.toml sets \
                  mode and names";
    shut(agent, "subscribers", gate.mode, &record.host_link, problem, remedy)
}

/// A gate did not open.
fn shut(
    agent: &Agent,
    gate: &'static str,
    mode: Mode,
    link: &str,
    problem: String,
    remedy: &str,
) -> Result<(), ErrorReply> {
    let error = ErrorReply::new(code::TRY_AGAIN, problem).with_details(remedy);
    if mode == Mode::Enforce {
        agent.metrics.gate(gate, "refused");
        return Err(error);
    }
    agent.metrics.gate(gate, "warned");
    tracing::warn!(link, gate, "{}; the pod starts all the same", error.message);
    agent.note_error(format!("gate {gate}"), &error);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates(text: &str) -> anyhow::Result<()> {
        toml::from_str::<Gates>(text)?.check()
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused_with_a_remedy() {
        gates("").unwrap();
        gates("[subscribers]\nmode = \"enforce\"\nnames = [\"authz\"]\n").unwrap();
        for (text, word) in [
            ("[subscribers]\nmode = \"warn\"\n", "list their names"),
            ("[subscribers]\nmode = \"warn\"\nnames = [\"authz\", \"\"]\n", "has ``"),
            ("[subscribers]\nnames = [\"au thz\"]\n", "write one word"),
            ("[gateway]\nwait_ms = 0\n", "use 1 to"),
            ("[subscribers]\nwait_ms = 60000\n", "use 1 to"),
            ("[gateway]\ntargets = [\"fe80::1\"]\n", "no pod reaches fe80::1"),
            ("[gateway]\nmode = \"on\"\n", "enforce"),
        ] {
            let error = gates(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_pod_can_only_ask_for_more() {
        let asked = |word: &str| asked_mode(Some(&word.to_owned()));
        assert_eq!(asked_mode(None).unwrap().max(Mode::Warn), Mode::Warn);
        assert_eq!(asked("off").unwrap().max(Mode::Enforce), Mode::Enforce);
        assert_eq!(asked("enforce").unwrap().max(Mode::Off), Mode::Enforce);
        assert_eq!(asked("yes").unwrap_err().code, code::INVALID_CONFIG);
    }
}

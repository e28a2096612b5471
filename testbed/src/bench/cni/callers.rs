//! Plugins called as a runtime's libcni calls them: one after the other, each with the result of the one before.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// A network configuration list and where its plugins are.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) name: &'static str,
    folder: &'static str,
    plugins: Vec<Value>,
}

/// What a pod asks for, as `runtimeConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing but an address.
    Plain,
    /// 100 Mbit/s both ways.
    Limits,
    /// The same and one host port.
    LimitsAndPort,
}

impl Wish {
    /// Name of the case that measures it.
    pub(super) const fn case(self) -> &'static str {
        match self {
            Self::Plain => "one pod after the other",
            Self::Limits => "the same, with limits",
            Self::LimitsAndPort => "the same, with limits and a host port",
        }
    }
}

impl Network {
    pub(super) fn ours() -> Self {
        let plugin = json!({
            "type": "turnpike-cni",
            "capabilities": { "bandwidth": true, "portMappings": true },
        });
        Self { name: "turnpike", folder: "/opt/cni/bin", plugins: vec![plugin] }
    }

    /// Debian's ptp and host-local, with portmap and bandwidth behind them. IPv4 alone: with IPv6 its ADD waits more than a
    /// second for the address to settle.
    pub(super) fn chain() -> Self {
        let ipam = host_local("10.66.0.0/16");
        let plugins = vec![
            json!({ "type": "ptp", "ipMasq": true, "ipam": ipam }),
            json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }),
            json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }),
        ];
        Self { name: "ptp + host-local + portmap + bandwidth", folder: "/usr/lib/cni", plugins }
    }

    /// Debian's ptp and host-local alone.
    pub(super) fn ptp() -> Self {
        let plugins = vec![json!({ "type": "ptp", "ipam": host_local("10.67.0.0/16") })];
        Self { name: "ptp + host-local", folder: "/usr/lib/cni", plugins }
    }

    /// Debian's bridge and host-local.
    pub(super) fn bridge() -> Self {
        let ipam = host_local("10.68.0.0/16");
        let plugins = vec![json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam })];
        Self { name: "bridge + host-local", folder: "/usr/lib/cni", plugins }
    }

    pub(super) fn version(&self) -> Result<()> {
        let first = self.plugins.first().context("a plugin")?;
        self.exec("VERSION", first, &Value::Null, Call::plain("none")).map(drop)
    }

    /// Answers the last result, which DEL wants.
    pub(super) fn add(&self, call: Call<'_>) -> Result<Value> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            result = self.exec("ADD", plugin, &result, call)?;
        }
        Ok(result)
    }

    pub(super) fn del(&self, call: Call<'_>, result: &Value) -> Result<()> {
        for plugin in self.plugins.iter().rev() {
            self.exec("DEL", plugin, result, call)?;
        }
        Ok(())
    }

    fn exec(&self, verb: &str, plugin: &Value, previous: &Value, call: Call<'_>) -> Result<Value> {
        let mut configuration = plugin.clone();
        let object = configuration.as_object_mut().context("an object")?;
        object.insert("cniVersion".to_owned(), json!("1.0.0"));
        object.insert("name".to_owned(), json!(self.name.split(' ').next()));
        if !previous.is_null() {
            object.insert("prevResult".to_owned(), previous.clone());
        }
        if call.wish != Wish::Plain {
            object.insert("runtimeConfig".to_owned(), call.runtime_config());
        }
        let program = format!("{}/{}", self.folder, plugin["type"].as_str().unwrap_or_default());
        let mut child = Command::new(&program)
            .env_clear()
            .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", call.id), ("CNI_IFNAME", "eth0")])
            .envs([("CNI_NETNS", format!("/run/netns/{}", call.id))])
            .envs([("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"), ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(File::open("/dev/null")?))
            .spawn()
            .with_context(|| format!("start {program}"))?;
        // A plugin that does not read its input tells why by its answer.
        let written =
            child.stdin.take().map(|mut input| input.write_all(configuration.to_string().as_bytes()));
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{program} {verb} {}: {text} (input {written:?})", call.id);
        Ok(if verb == "ADD" { serde_json::from_str(&text)? } else { Value::Null })
    }
}

fn host_local(subnet: &str) -> Value {
    json!({ "type": "host-local", "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }] })
}

/// Whom a call is about: the container, which is its namespace's name, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) id: &'a str,
    pub(super) wish: Wish,
    /// Numbers the pod, for a host port of its own.
    pub(super) number: u16,
}

impl<'a> Call<'a> {
    /// For a pod that wants nothing but an address.
    pub(super) const fn plain(id: &'a str) -> Self {
        Self { id, wish: Wish::Plain, number: 0 }
    }

    fn runtime_config(self) -> Value {
        let port = 20_000 + u32::from(self.number);
        let ports = if self.wish == Wish::LimitsAndPort {
            json!([{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }])
        } else {
            json!([])
        };
        json!({
            "bandwidth": { "ingressRate": 100_000_000_u64, "ingressBurst": 1_000_000,
                           "egressRate": 100_000_000_u64, "egressBurst": 1_000_000 },
            "portMappings": ports,
        })
    }
}

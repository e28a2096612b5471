//! The CNI_* variables. Runtimes set those that do not apply to the empty string, which means unset.

use turnpike_agent_api::{Attachment, PodInfo, code};

use crate::error::CniError;

/// What the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Status,
    Version,
    Gc,
}

/// The variables, empty ones left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) command: Option<String>,
    pub(crate) container_id: Option<String>,
    pub(crate) netns: Option<String>,
    pub(crate) ifname: Option<String>,
    pub(crate) args: Option<String>,
}

/// Longest interface name, in bytes (the kernel's IFNAMSIZ without the end mark).
const MAX_IFNAME: usize = 15;
/// Longest container ID that we take, in bytes; runtimes use 64.
const MAX_CONTAINER_ID: usize = 256;

impl Environment {
    pub(crate) fn from_process() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            command: variable("CNI_COMMAND"),
            container_id: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            ifname: variable("CNI_IFNAME"),
            args: variable("CNI_ARGS"),
        }
    }

    pub(crate) fn command(&self) -> Result<Command, CniError> {
        let command = required(self.command.as_deref(), "CNI_COMMAND")?;
        Ok(match command {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            "GC" => Command::Gc,
            other => return Err(invalid("CNI_COMMAND", format!("`{other}` is no CNI verb"))),
        })
    }

    /// Container ID and interface name, as ADD, DEL and CHECK need them.
    pub(crate) fn attachment(&self) -> Result<Attachment, CniError> {
        let container_id = required(self.container_id.as_deref(), "CNI_CONTAINERID")?;
        let ifname = required(self.ifname.as_deref(), "CNI_IFNAME")?;
        if !is_container_id(container_id) {
            let details = format!(
                "`{container_id}` is no container ID: letters, digits, `_`, `.` and `-`, and no sign first"
            );
            return Err(invalid("CNI_CONTAINERID", details));
        }
        if !is_ifname(ifname) {
            let details = format!(
                "`{ifname}` is no interface name: 1 to {MAX_IFNAME} bytes without `/`, `:` and space"
            );
            return Err(invalid("CNI_IFNAME", details));
        }
        Ok(Attachment { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
    }

    pub(crate) fn netns(&self) -> Result<&str, CniError> {
        required(self.netns.as_deref(), "CNI_NETNS")
    }

    /// The pod, from CNI_ARGS; keys that mean nothing to us are left alone, and their order is random.
    pub(crate) fn pod(&self) -> Result<PodInfo, CniError> {
        let mut pod = PodInfo::default();
        for pair in self.pairs() {
            let (key, value) = pair?;
            let field = match key {
                "K8S_POD_NAMESPACE" => &mut pod.namespace,
                "K8S_POD_NAME" => &mut pod.name,
                "K8S_POD_UID" => &mut pod.uid,
                _ => continue,
            };
            *field = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
        Ok(pod)
    }

    /// Addresses from CNI_ARGS (`IP=`, by the conventions document; several with commas between them): podman's way.
    pub(crate) fn ips(&self) -> Vec<String> {
        let words = self.arg("IP").unwrap_or_default();
        words.split(',').filter(|ip| !ip.is_empty()).map(str::to_owned).collect()
    }

    /// The MAC address from CNI_ARGS (`MAC=`).
    pub(crate) fn mac(&self) -> Option<String> {
        self.arg("MAC").filter(|mac| !mac.is_empty()).map(str::to_owned)
    }

    /// The value of a key of CNI_ARGS; of several the last.
    fn arg(&self, wanted: &str) -> Option<&str> {
        let known = self.pairs().filter_map(Result::ok);
        known.filter(|(key, _)| *key == wanted).last().map(|(_, value)| value)
    }

    fn pairs(&self) -> impl Iterator<Item = Result<(&str, &str), CniError>> {
        let pairs = self.args.as_deref().unwrap_or_default().split(';').filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            let refused = || invalid("CNI_ARGS", format!("`{pair}` is not of the form KEY=VALUE"));
            pair.split_once('=').ok_or_else(refused)
        })
    }
}

fn required<'a>(value: Option<&'a str>, name: &str) -> Result<&'a str, CniError> {
    value.ok_or_else(|| invalid(name, "it is not set, or empty"))
}

fn invalid(name: &str, details: impl Into<String>) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, format!("{name} is unusable"), details)
}

/// Specification: `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
pub(crate) fn is_container_id(text: &str) -> bool {
    text.len() <= MAX_CONTAINER_ID
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// As the kernel's `dev_valid_name`.
pub(crate) fn is_ifname(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_IFNAME
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_known_and_others_refused_with_code_4() {
        let environment =
            |command: &str| Environment { command: Some(command.into()), ..Environment::default() };
        assert_eq!(environment("ADD").command(), Ok(Command::Add));
        assert_eq!(environment("GC").command(), Ok(Command::Gc));
        assert_eq!(environment("add").command().unwrap_err().code, 4);
        assert_eq!(Environment::default().command().unwrap_err().code, 4);
    }

    #[test]
    fn names_that_could_escape_a_path_or_confuse_the_kernel_are_refused() {
        for good in ["abc", "cnitool-d2d6", "k8s.io-t1", "0_a"] {
            assert!(is_container_id(good), "{good}");
        }
        for bad in ["", "-a", ".", "../x", "a/b", "a b", "ä"] {
            assert!(!is_container_id(bad), "{bad}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-bytes-00"] {
            assert!(!is_ifname(bad), "{bad}");
        }
        assert!(is_ifname("eth0") && is_ifname("fifteen-bytes-0"));
    }

    #[test]
    fn args_are_read_in_any_order_and_unknown_keys_ignored() {
        let args = "IgnoreUnknown=1;K8S_POD_NAME=web-0;X=;K8S_POD_UID=;K8S_POD_NAMESPACE=default";
        let environment = Environment { args: Some(args.into()), ..Environment::default() };
        let pod = environment.pod().unwrap();
        assert_eq!(pod.name.as_deref(), Some("web-0"));
        assert_eq!(pod.namespace.as_deref(), Some("default"));
        assert_eq!(pod.uid, None);
        let broken = Environment { args: Some("K8S_POD_NAME".into()), ..Environment::default() };
        assert_eq!(broken.pod().unwrap_err().code, 4);
    }

    #[test]
    fn addresses_come_in_args_too() {
        let with = |args: &str| Environment { args: Some(args.into()), ..Environment::default() };
        let podman = with("IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.244.1.33;MAC=02:00:00:00:00:33");
        assert_eq!(podman.ips(), ["10.244.1.33"]);
        assert_eq!(podman.mac().as_deref(), Some("02:00:00:00:00:33"));
        assert_eq!(with("IP=10.244.1.33,fd00:244::133").ips().len(), 2);
        assert_eq!((with("IP=;MAC=").ips(), with("IP=;MAC=").mac()), (Vec::new(), None));
    }
}

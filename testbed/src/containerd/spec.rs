//! What a pod shall be: the part of a Kubernetes pod that matters to its network, with the kubelet's words.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use crate::cri::v1;
use crate::images::Image;

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// Port on the host.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name in the pod.
    pub name: String,
    /// Its image.
    pub image: Image,
    /// Program and arguments; empty runs the image's own.
    pub command: Vec<String>,
    /// Environment, beside the image's own.
    pub env: BTreeMap<String, String>,
    /// Capabilities beside the runtime's default set, such as `NET_ADMIN`.
    pub capabilities: Vec<String>,
    /// Folders of the machine that it sees, read-only: the machine's path, and the container's.
    pub mounts: Vec<(String, String)>,
}

impl ContainerSpec {
    /// A container named `main` that runs its image's own command.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self {
            name: "main".to_owned(),
            image,
            command: Vec::new(),
            env: BTreeMap::new(),
            capabilities: Vec::new(),
            mounts: Vec::new(),
        }
    }

    /// Runs another program.
    #[must_use]
    pub fn command(mut self, argv: &[&str]) -> Self {
        self.command = argv.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Has another name, which a second container of a pod needs.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sees a folder of the machine, read-only: for programs too large to be made into an image.
    #[must_use]
    pub fn mount(mut self, from: &str, to: &str) -> Self {
        self.mounts.push((from.to_owned(), to.to_owned()));
        self
    }

    /// Has one more capability.
    #[must_use]
    pub fn capability(mut self, name: &str) -> Self {
        self.capabilities.push(name.to_owned());
        self
    }
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// Its name, which is its host name too.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its UID; every pod has another.
    pub uid: String,
    /// Annotations; those of bandwidth reach the CNI plugin as runtimeConfig too.
    pub annotations: BTreeMap<String, String>,
    /// Labels, beside the kubelet's own.
    pub labels: BTreeMap<String, String>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Sysctls of its network namespace, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// Name servers.
    pub dns_servers: Vec<String>,
    /// Its containers, started in this order.
    pub containers: Vec<ContainerSpec>,
}

impl PodSpec {
    /// A pod in namespace `default` with one container, and a UID that no other pod of this process has.
    #[must_use]
    pub fn new(name: &str, container: ContainerSpec) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            uid: fresh_uid(name),
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            port_mappings: Vec::new(),
            sysctls: BTreeMap::new(),
            dns_servers: Vec::new(),
            containers: vec![container],
        }
    }

    /// A pod that sleeps and has a shell.
    #[must_use]
    pub fn busybox(name: &str) -> Self {
        Self::new(name, ContainerSpec::new(Image::Busybox))
    }

    /// A pod that serves HTTP on ports 80 and 8080, see [`Image::Nginx`].
    #[must_use]
    pub fn nginx(name: &str) -> Self {
        Self::new(name, ContainerSpec::new(Image::Nginx))
    }

    /// A pod with an iperf3 server on port 5201.
    #[must_use]
    pub fn iperf3(name: &str) -> Self {
        Self::new(name, ContainerSpec::new(Image::Iperf3))
    }

    /// Is in another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Has one more annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Is limited, by the annotations that Kubernetes has for it: what the pod receives, and what it sends, as
    /// quantities such as `100M`.
    #[must_use]
    pub fn bandwidth(self, ingress: &str, egress: &str) -> Self {
        self.annotation("kubernetes.io/ingress-bandwidth", ingress)
            .annotation("kubernetes.io/egress-bandwidth", egress)
    }

    /// Has one more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Has one more sysctl.
    #[must_use]
    pub fn sysctl(mut self, key: &str, value: &str) -> Self {
        self.sysctls.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Has one more TCP host port.
    #[must_use]
    pub fn host_port(mut self, host_port: u16, container_port: u16) -> Self {
        self.port_mappings.push(PortMapping { host_port, container_port, udp: false });
        self
    }

    /// Has one more container.
    #[must_use]
    pub fn container(mut self, container: ContainerSpec) -> Self {
        self.containers.push(container);
        self
    }

    /// The sandbox as the kubelet asks for it.
    pub(super) fn sandbox_config(&self, cgroup_parent: String) -> v1::PodSandboxConfig {
        let kubelet_labels = [
            ("io.kubernetes.pod.name", &self.name),
            ("io.kubernetes.pod.namespace", &self.namespace),
            ("io.kubernetes.pod.uid", &self.uid),
        ];
        let labels = kubelet_labels.into_iter().map(|(key, value)| (key.to_owned(), value.clone()));
        let namespaces = v1::NamespaceOption {
            network: v1::NamespaceMode::Pod.into(),
            pid: v1::NamespaceMode::Container.into(),
            ipc: v1::NamespaceMode::Pod.into(),
            ..Default::default()
        };
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.uid.clone(),
                namespace: self.namespace.clone(),
                attempt: 0,
            }),
            hostname: self.name.clone(),
            log_directory: self.log_directory(),
            dns_config: (!self.dns_servers.is_empty())
                .then(|| v1::DnsConfig { servers: self.dns_servers.clone(), ..Default::default() }),
            port_mappings: self.port_mappings.iter().map(cri_port).collect(),
            labels: labels.chain(self.labels.clone()).collect(),
            annotations: self.annotations.clone().into_iter().collect(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent,
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                sysctls: self.sysctls.clone().into_iter().collect(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(super) fn log_directory(&self) -> String {
        format!("/var/log/pods/{}_{}_{}", self.namespace, self.name, self.uid)
    }

    /// A container of it as the kubelet asks for it.
    pub(super) fn container_config(&self, container: &ContainerSpec) -> v1::ContainerConfig {
        let labels = [
            ("io.kubernetes.container.name", &container.name),
            ("io.kubernetes.pod.name", &self.name),
            ("io.kubernetes.pod.namespace", &self.namespace),
            ("io.kubernetes.pod.uid", &self.uid),
        ];
        let env = container.env.iter();
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: 0 }),
            image: Some(v1::ImageSpec {
                image: container.image.reference().to_owned(),
                ..Default::default()
            }),
            command: container.command.clone(),
            envs: env.map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone() }).collect(),
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect(),
            log_path: format!("{}/0.log", container.name),
            mounts: container.mounts.iter().map(cri_mount).collect(),
            linux: Some(v1::LinuxContainerConfig {
                resources: None,
                security_context: Some(v1::LinuxContainerSecurityContext {
                    capabilities: Some(v1::Capability {
                        add_capabilities: container.capabilities.clone(),
                        ..Default::default()
                    }),
                    namespace_options: Some(v1::NamespaceOption {
                        network: v1::NamespaceMode::Pod.into(),
                        pid: v1::NamespaceMode::Container.into(),
                        ipc: v1::NamespaceMode::Pod.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }
}

fn cri_mount((from, to): &(String, String)) -> v1::Mount {
    v1::Mount { host_path: from.clone(), container_path: to.clone(), readonly: true, ..Default::default() }
}

fn cri_port(port: &PortMapping) -> v1::PortMapping {
    let protocol = if port.udp { v1::Protocol::Udp } else { v1::Protocol::Tcp };
    v1::PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port.into(),
        host_port: port.host_port.into(),
        host_ip: String::new(),
    }
}

/// Looks like the API server's UIDs. Distinct in one process, and the same in each run of a test.
fn fresh_uid(name: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let digest = Sha256::digest(format!("{name}/{number}"));
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let mut uid = String::new();
    for (index, digit) in hex.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            uid.push('-');
        }
        uid.push(digit);
    }
    uid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pods_of_one_name_have_different_uids_of_the_usual_shape() {
        let (first, second) = (PodSpec::busybox("web-0").uid, PodSpec::busybox("web-0").uid);
        assert_ne!(first, second);
        let lengths: Vec<usize> = first.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }

    #[test]
    fn bandwidth_becomes_the_annotations_of_kubernetes() {
        let config = PodSpec::busybox("web-0").bandwidth("100M", "10M").sandbox_config("/p".to_owned());
        assert_eq!(config.annotations["kubernetes.io/ingress-bandwidth"], "100M");
        assert_eq!(config.annotations["kubernetes.io/egress-bandwidth"], "10M");
    }
}

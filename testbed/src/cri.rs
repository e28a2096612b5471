//! A blocking client for a container runtime's CRI socket, speaking to it as the kubelet does.
//!
//! Owns the gRPC connection and the deadline of each call; knows nothing about nodes. The requests and answers are
//! the generated messages of `runtime.v1`, re-exported as [`v1`].
//!
//! Leaves out: streaming calls (exec with a terminal, attach, port-forward), image pulls, stats and events.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
pub use k8s_cri::v1;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};

/// How long a call may take unless it says otherwise: the kubelet's two minutes.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The largest answer that is read. containerd caps the output of an exec at 16 MiB for each stream.
const LARGEST_ANSWER: usize = 40 << 20;

/// Why a call gave no answer.
#[derive(Debug, Error)]
pub enum CriError {
    /// The client's own threads could not be started.
    #[error("start the client's runtime")]
    Runtime(#[source] std::io::Error),
    /// Nothing answers on the socket.
    #[error("connect to the CRI socket: {0}")]
    Connect(#[source] tonic::transport::Error),
    /// The runtime refused or failed.
    #[error("{call}: {code}: {message}")]
    Refused {
        /// The name of the call.
        call: &'static str,
        /// The gRPC status.
        code: Code,
        /// The runtime's own words.
        message: String,
    },
    /// No answer came in time.
    #[error("{call}: no answer within {deadline:?}")]
    Late {
        /// The name of the call.
        call: &'static str,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The answer lacks a part that the protocol promises.
    #[error("{call}: the answer has no {part}")]
    Incomplete {
        /// The name of the call.
        call: &'static str,
        /// What is missing.
        part: &'static str,
    },
}

/// What a command in a container printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, invalid UTF-8 replaced.
    pub stderr: String,
    /// The exit code.
    pub exit_code: i32,
}

impl ExecOutput {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.exit_code == 0
    }
}

/// A connection to a runtime. Calls may come from several threads at once.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
}

impl Cri {
    /// Connects to the socket at `path`, which may lead through `/proc/PID/root`.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn connect(path: &Path) -> Result<Self, CriError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("cri")
            .enable_all()
            .build()
            .map_err(CriError::Runtime)?;
        let path = path.to_path_buf();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The authority is not used on a unix socket, but a URI must have one.
        let endpoint = Endpoint::from_static("http://localhost");
        let channel =
            runtime.block_on(endpoint.connect_with_connector(connector)).map_err(CriError::Connect)?;
        Ok(Self { runtime, channel })
    }

    /// The runtime's name and version.
    ///
    /// # Errors
    /// See [`CriError`]; so for every call below.
    pub fn version(&self) -> Result<v1::VersionResponse, CriError> {
        let mut client = self.client();
        let request = v1::VersionRequest { version: "v1".to_owned() };
        self.call("Version", DEADLINE, request, |request| async move { client.version(request).await })
    }

    /// The runtime's conditions; the network's is `NetworkReady`.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub fn status(&self) -> Result<v1::RuntimeStatus, CriError> {
        let mut client = self.client();
        let request = v1::StatusRequest { verbose: false };
        let answer =
            self.call("Status", DEADLINE, request, |request| async move { client.status(request).await })?;
        answer.status.ok_or(CriError::Incomplete { call: "Status", part: "status" })
    }

    /// The references of the images that the runtime has.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub fn images(&self) -> Result<Vec<String>, CriError> {
        let mut client = ImageServiceClient::new(self.channel.clone());
        let request = v1::ListImagesRequest { filter: None };
        let answer = self.call("ListImages", DEADLINE, request, |request| async move {
            client.list_images(request).await
        })?;
        Ok(answer.images.into_iter().flat_map(|image| image.repo_tags).collect())
    }

    /// Starts a sandbox, its network included, and returns its ID.
    ///
    /// # Errors
    /// When the runtime or a CNI plugin refuses; the message holds the plugin's.
    pub fn run_pod_sandbox(&self, config: v1::PodSandboxConfig) -> Result<String, CriError> {
        let mut client = self.client();
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let answer = self.call("RunPodSandbox", DEADLINE, request, |request| async move {
            client.run_pod_sandbox(request).await
        })?;
        Ok(answer.pod_sandbox_id)
    }

    /// Stops a sandbox: kills its containers, takes its network away (a DEL), leaves its record. Idempotent, and
    /// the kubelet does call it more than once.
    ///
    /// # Errors
    /// When the runtime or a CNI plugin refuses.
    pub fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let mut client = self.client();
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call("StopPodSandbox", DEADLINE, request, |request| async move {
            client.stop_pod_sandbox(request).await
        })
        .map(drop)
    }

    /// Removes a sandbox and what is left of its containers. Idempotent.
    ///
    /// # Errors
    /// When the runtime or a CNI plugin refuses.
    pub fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let mut client = self.client();
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call("RemovePodSandbox", DEADLINE, request, |request| async move {
            client.remove_pod_sandbox(request).await
        })
        .map(drop)
    }

    /// A sandbox's state and addresses, and the runtime's own details as JSON (process, namespaces, CNI result).
    ///
    /// # Errors
    /// When the sandbox is unknown.
    pub fn pod_sandbox_status(&self, id: &str) -> Result<(v1::PodSandboxStatus, String), CriError> {
        const CALL: &str = "PodSandboxStatus";
        let mut client = self.client();
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let mut answer =
            self.call(
                CALL,
                DEADLINE,
                request,
                |request| async move { client.pod_sandbox_status(request).await },
            )?;
        let status = answer.status.ok_or(CriError::Incomplete { call: CALL, part: "status" })?;
        Ok((status, answer.info.remove("info").unwrap_or_default()))
    }

    /// Every sandbox that the runtime knows, running or not.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub fn pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>, CriError> {
        let mut client = self.client();
        let request = v1::ListPodSandboxRequest { filter: None };
        let answer = self.call("ListPodSandbox", DEADLINE, request, |request| async move {
            client.list_pod_sandbox(request).await
        })?;
        Ok(answer.items)
    }

    /// Makes a container in a sandbox and returns its ID.
    ///
    /// # Errors
    /// When the image is missing or the runtime refuses.
    pub fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let mut client = self.client();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let answer = self.call("CreateContainer", DEADLINE, request, |request| async move {
            client.create_container(request).await
        })?;
        Ok(answer.container_id)
    }

    /// Starts a container that was made.
    ///
    /// # Errors
    /// When its program cannot be started.
    pub fn start_container(&self, id: &str) -> Result<(), CriError> {
        let mut client = self.client();
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.call("StartContainer", DEADLINE, request, |request| async move {
            client.start_container(request).await
        })
        .map(drop)
    }

    /// Stops a container: SIGTERM, and SIGKILL once `grace` (whole seconds) has passed.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let mut client = self.client();
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        let deadline = DEADLINE.saturating_add(grace);
        self.call("StopContainer", deadline, request, |request| async move {
            client.stop_container(request).await
        })
        .map(drop)
    }

    /// A container's state and exit code.
    ///
    /// # Errors
    /// When the container is unknown.
    pub fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, CriError> {
        const CALL: &str = "ContainerStatus";
        let mut client = self.client();
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self
            .call(CALL, DEADLINE, request, |request| async move { client.container_status(request).await })?;
        answer.status.ok_or(CriError::Incomplete { call: CALL, part: "status" })
    }

    /// Runs `command` in a container and waits for its end; the runtime kills it after `deadline` (whole seconds,
    /// at least one).
    ///
    /// # Errors
    /// When it cannot be started or was killed at the deadline. An exit code other than 0 is not an error here.
    pub fn exec(
        &self,
        container: &str,
        command: &[&str],
        deadline: Duration,
    ) -> Result<ExecOutput, CriError> {
        let mut client = self.client();
        let request = v1::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: i64::try_from(deadline.as_secs().max(1)).unwrap_or(i64::MAX),
        };
        // The runtime's own timeout must come first: it kills the process, ours would leave it running.
        let patience = deadline.saturating_add(Duration::from_secs(10));
        let answer = self
            .call("ExecSync", patience, request, |request| async move { client.exec_sync(request).await })?;
        Ok(ExecOutput {
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
            exit_code: answer.exit_code,
        })
    }

    fn client(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    fn call<Q, A, F>(
        &self,
        call: &'static str,
        deadline: Duration,
        request: Q,
        send: impl FnOnce(Request<Q>) -> F,
    ) -> Result<A, CriError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut request = Request::new(request);
        request.set_timeout(deadline);
        let outcome = self.runtime.block_on(async { tokio::time::timeout(deadline, send(request)).await });
        match outcome {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                Err(CriError::Refused { call, code: status.code(), message: status.message().to_owned() })
            }
            Err(_) => Err(CriError::Late { call, deadline }),
        }
    }
}

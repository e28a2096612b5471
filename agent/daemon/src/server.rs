//! The socket: one request a connection, each on a thread of its own.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{UnixListener, UnixStream};
use turnpike_agent_api::{ErrorReply, FrameError, Receiver, Reply, Request, code, write_frame};

use crate::agent::Agent;
use crate::audit::{self, Caller};
use crate::events;
use crate::verbs;

/// A caller has so long to send its request and to take its answer.
const TALK: Duration = Duration::from_secs(10);

/// Listens at `path`, for root only.
pub(crate) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let place = || format!("cannot listen at {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(place)?;
    }
    // The store's lock says that no other agent runs: what is there is left from an earlier one.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(place),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(place)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(place)?;
    Ok(listener)
}

/// Serves until the agent ends.
pub(crate) async fn serve(agent: Arc<Agent>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let agent = Arc::clone(&agent);
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = talk(&agent, stream) {
                        tracing::debug!(%error, "a caller went away");
                    }
                });
            }
            Err(error) => {
                tracing::error!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn talk(agent: &Agent, stream: UnixStream) -> Result<(), FrameError> {
    let peer = stream.peer_cred()?;
    let stream: BlockingStream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TALK))?;
    stream.set_write_timeout(Some(TALK))?;
    if peer.uid() != rustix::process::geteuid().as_raw() {
        tracing::warn!(uid = peer.uid(), "a caller without the right to ask was refused");
        let refusal = ErrorReply::new(code::PROTOCOL, "only root may talk to turnpike-agent");
        return write_frame(&stream, &Reply::Error(refusal), &[]);
    }
    let reply = match Receiver::new().read_frame(&stream) {
        Ok((Request::Events { since, watch }, _)) => {
            return Ok(events::stream(agent, &stream, since, watch)?);
        }
        Ok((request, files)) => {
            let caller = Caller { uid: peer.uid(), pid: peer.pid().unwrap_or_default() };
            audit::on_behalf(caller, || verbs::answer(agent, request, files.into_iter().next()))
        }
        Err(error @ FrameError::Format(_)) => {
            Reply::Error(ErrorReply::new(code::PROTOCOL, error.to_string()))
        }
        Err(error @ FrameError::Decode(_)) => {
            Reply::Error(ErrorReply::new(code::PROTOCOL, error.to_string()))
        }
        Err(error) => return Err(error),
    };
    write_frame(&stream, &reply, &[])
}

//! Small clients and servers of the story, run inside nodes.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::{Node, Pod, poll};

const DEADLINE: Duration = Duration::from_secs(10);

/// One HTTP exchange: who asked, and what was answered.
pub(super) struct Answer {
    pub(super) asked_from: SocketAddr,
    pub(super) body: String,
}

/// Asks `path` of a server, from a node.
pub(super) fn ask(from: &Node, server: SocketAddr, path: &str) -> Result<Answer> {
    from.in_netns(|| {
        let mut stream = TcpStream::connect_timeout(&server, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let asked_from = stream.local_addr()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: demo\r\n\r\n").as_bytes())?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let (_, body) = text.split_once("\r\n\r\n").context("an answer without a body")?;
        Ok(Answer { asked_from, body: body.trim().to_owned() })
    })?
}

/// Asks a server from inside a pod; the answer's body.
pub(super) fn ask_from_pod(pod: &Pod, server: IpAddr) -> Result<String> {
    let url = format!("http://{}/", SocketAddr::new(server, 80));
    Ok(pod.exec(&["timeout", "10", "wget", "-q", "-O", "-", &url])?.trim().to_owned())
}

/// Listens in a node, lets a pod connect, and tells which source address arrived.
pub(super) fn source_seen_by(node: &Node, address: IpAddr, pod: &Pod) -> Result<IpAddr> {
    let listener = node.in_netns(|| TcpListener::bind(SocketAddr::new(address, 0)))??;
    listener.set_nonblocking(true)?;
    let url = format!("http://{}/", listener.local_addr()?);
    thread::scope(|scope| {
        let peer = scope.spawn(|| {
            poll(DEADLINE, "the pod's connection", || listener.accept().ok().map(|(_, peer)| peer))
        });
        // The connection is closed at once: only its source matters, so what wget says of that does not.
        pod.exec_unchecked(&["timeout", "10", "wget", "-q", "-O", "/dev/null", &url], DEADLINE)?;
        let peer = peer.join().map_err(|_| anyhow!("the listener's thread panicked"))??;
        Ok(peer.ip())
    })
}

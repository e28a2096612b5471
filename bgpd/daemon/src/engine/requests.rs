//! Answering requests.

use std::net::IpAddr;

use tokio::sync::oneshot;
use turnpike_bgp_core::query::{self, PeerId};
use turnpike_bgp_core::{Speaker, Time};
use turnpike_bgpd_api::view::{Caller, Decision, KernelView, NexthopView, PathView, PeerView, StatusView};
use turnpike_bgpd_api::{Code, ErrorReply, Reply, Request, RibQuery, Select, Table};

use super::change::{Purpose, Waiting};
use super::{Engine, Stop};
use crate::audit::Change;
use crate::control::Ask;
use crate::disk::Done;
use crate::kernel::KernelStatus;
use crate::merge::FILE;
use crate::monitoring::{Dump, Dumped};
use crate::views::{self, Names};

/// Most paths in one reply.
const PAGE: usize = 5_000;
/// Most paths that explain one decision.
const DECISION: usize = 1_000;
/// Most kernel failures shown.
const FAILURES: usize = 100;

/// Sends a reply once something is on disk.
pub(super) fn when_written(done: Done, reply: Reply, to: oneshot::Sender<Reply>) {
    tokio::spawn(async move {
        let reply = match done.await {
            Ok(Ok(())) => reply,
            // In force and not on disk would be forgotten by a restart: say so instead of pretending.
            Ok(Err(error)) => internal(format!("in force, but cannot be kept: {error}")),
            Err(_) => internal("in force, but cannot be kept: the disk thread is gone".to_owned()),
        };
        let _ = to.send(reply);
    });
}

impl Engine {
    pub(super) fn take_ask(&mut self, ask: Ask) {
        let Ask { request, reply: to, caller, events } = ask;
        let reply = match request {
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::Peers { peer } => {
                self.peers(peer.as_deref()).map_or_else(Reply::Error, |peers| Reply::Peers { peers })
            }
            Request::Rib(query) => self.rib(&query).unwrap_or_else(Reply::Error),
            Request::Why { select } => {
                self.why(select).map_or_else(Reply::Error, |found| Reply::Why(Box::new(found)))
            }
            Request::Push { part } => match self.push(part) {
                Ok((refused, done)) => return when_written(done, Reply::Pushed { refused }, to),
                Err(problems) => invalid(&problems),
            },
            Request::Drop { owner } => match self.forget(&owner) {
                Ok(Some(done)) => return when_written(done, Reply::Pushed { refused: Vec::new() }, to),
                Ok(None) => Reply::Error(not_found(format!("there is no part of `{owner}`"))),
                Err(problems) => invalid(&problems),
            },
            Request::Reload => return self.loading.begin(&self.path, Some(to)),
            Request::Shutdown { message } => {
                self.note_end(&message, caller);
                self.ending = Some(Stop::Final { message });
                Reply::Ending
            }
            Request::Announce { network } => return Self::answer(self.announce(network, caller), to),
            Request::Withdraw { prefix } => return Self::answer(self.withdraw(prefix, caller), to),
            Request::Hold { peer, message } => return Self::answer(self.hold(&peer, message, caller), to),
            Request::SoftReset { peer, inbound, outbound } => {
                self.soft_reset(&peer, (inbound, outbound), caller).unwrap_or_else(Reply::Error)
            }
            Request::Drain(order) => match self.drain(order, caller) {
                Ok((reply, done)) => return when_written(done, reply, to),
                Err(error) => Reply::Error(error),
            },
            Request::MrtDump => return self.dump(to),
            Request::Watch => {
                events.into_iter().for_each(|events| self.add_watcher(events));
                Reply::Done { notes: Vec::new() }
            }
            Request::PolicyTest(mut test) => match test.text.take() {
                None => self.policy_test(&test, None).unwrap_or_else(Reply::Error),
                Some(text) => {
                    let waiting = Waiting { reply: to, who: caller };
                    return self.read_text(Some(text), Purpose::PolicyTest(test), waiting);
                }
            },
            change => return self.take_change(change, Waiting { reply: to, who: caller }),
        };
        // A caller that did not wait has its reasons.
        let _ = to.send(reply);
    }

    /// Writes a dump beside the engine, and answers when it is whole.
    fn dump(&mut self, to: oneshot::Sender<Reply>) {
        let speaker = match self.speaker() {
            Ok(speaker) => speaker,
            Err(error) => return drop(to.send(Reply::Error(error))),
        };
        if self.monitoring.is_dumping() {
            let busy = conflict("a dump is under way; wait for its end".to_owned());
            return drop(to.send(Reply::Error(busy)));
        }
        let (done, outcome) = oneshot::channel();
        let dump = Dump::start(&self.file.state.dir, speaker, self.monitoring.room(), done);
        self.monitoring.feed(dump);
        tokio::spawn(async move {
            let reply = match outcome.await {
                Ok(Ok(Dumped { path, prefixes, paths })) => Reply::Dumped { path, prefixes, paths },
                Ok(Err(error)) => internal(format!("the dump failed: {error:#}")),
                Err(_) => internal("the dump ended early".to_owned()),
            };
            let _ = to.send(reply);
        });
    }

    fn note_end(&mut self, message: &str, who: Option<Caller>) {
        let (before, after) = (serde_json::Value::Null, serde_json::Value::Null);
        self.note(who, Change { what: "shutdown", detail: message.to_owned(), before, after });
    }

    /// Says whose network a path of ours is.
    pub(super) fn owned(&self, path: PathView) -> PathView {
        let owner = path.from.is_none().then(|| self.merged.network_owners.get(&path.prefix).cloned());
        PathView { owner: owner.flatten(), ..path }
    }

    pub(super) fn speaker(&self) -> Result<&Speaker, ErrorReply> {
        self.speaker.as_ref().ok_or_else(|| ErrorReply {
            code: Code::NotConfigured,
            message: self.merged.missing.clone().unwrap_or_else(|| "not configured yet".to_owned()),
        })
    }

    fn status(&self) -> StatusView {
        let view = self.speaker.as_ref().map(Speaker::view);
        let kernel = self.kernel.status();
        let mut problems: Vec<String> = self.file_problem.iter().cloned().collect();
        problems.extend(self.merged.missing.clone());
        problems.extend(self.bfd.problem());
        problems.extend(kernel.error.clone());
        let lost = self.monitoring.lost();
        problems.extend((lost > 0).then(|| format!("the log of UPDATEs has lost {lost} records")));
        StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.clock.uptime().as_secs(),
            asn: view.as_ref().map(|view| view.asn),
            router_id: view.as_ref().map(|view| view.router_id),
            cluster_id: view.as_ref().map(|view| view.cluster_id),
            restarted: self.record.start().restarted,
            starting: view.as_ref().is_none_or(|view| view.starting),
            waiting_for: self.merged.waiting_for.clone(),
            parts: self.merged.parts.clone(),
            peers: view.as_ref().map_or(0, |view| view.peers),
            established: view.as_ref().map_or(0, |view| view.established),
            prefixes: view.as_ref().map(|view| view.prefixes).unwrap_or_default(),
            paths: view.as_ref().map(|view| view.paths).unwrap_or_default(),
            attribute_sets: view.as_ref().map_or(0, |view| view.attribute_sets),
            nexthops: nexthops(&kernel),
            kernel: self.kernel_view(&kernel),
            problems,
            pending: self.pending.as_ref().map(super::change::Pending::view),
            draining: self.draining.as_ref().map(super::drain::Draining::in_words),
            drained: self.draining.as_ref().is_some_and(|draining| draining.alarm().is_none()),
            stations: self.monitoring.view(),
        }
    }

    fn kernel_view(&self, status: &KernelStatus) -> KernelView {
        let settings = &self.file.kernel;
        KernelView {
            enabled: settings.enabled,
            table: settings.table,
            protocol: settings.protocol,
            metric: settings.metric,
            routes: status.routes,
            pending: self.kernel.pending(),
            failures: status
                .failures
                .iter()
                .take(FAILURES)
                .map(|(subject, reason)| format!("{subject}: {reason}"))
                .collect(),
        }
    }

    fn peers(&self, wanted: Option<&str>) -> Result<Vec<PeerView>, ErrorReply> {
        let now = self.clock.now();
        let Some(wanted) = wanted else {
            let Some(speaker) = &self.speaker else { return Ok(Vec::new()) };
            let mut peers: Vec<PeerView> =
                speaker.peers().into_iter().map(|peer| self.peer_view(peer, now)).collect();
            peers.sort_by_key(|peer| peer.address);
            return Ok(peers);
        };
        let speaker = self.speaker()?;
        let id = find_peer(speaker, wanted)?;
        Ok(speaker.peer(id).map(|peer| self.peer_view(peer, now)).into_iter().collect())
    }

    fn peer_view(&self, peer: query::PeerView, now: Time) -> PeerView {
        let owner = self.merged.owners.get(&peer.remote).cloned().unwrap_or_else(|| FILE.to_owned());
        views::peer(peer, owner, now)
    }

    fn rib(&self, asked: &RibQuery) -> Result<Reply, ErrorReply> {
        let speaker = self.speaker()?;
        let table = match &asked.table {
            Table::Loc => query::Table::Accepted,
            Table::In(peer) => query::Table::In(find_peer(speaker, peer)?),
            Table::Out(peer) => query::Table::Out(find_peer(speaker, peer)?),
        };
        let limit = asked.limit.min(PAGE);
        let names = names(speaker);
        // One more than asked for tells whether there are more.
        let mut found = speaker.rib_after(table, select(asked.select), asked.after, limit.saturating_add(1));
        let more = found.len() > limit;
        cut(&mut found, limit);
        let effective = table == query::Table::Accepted;
        let paths = found.into_iter().map(|path| self.owned(views::path(path, &names, effective))).collect();
        Ok(Reply::Paths { paths, more })
    }

    fn why(&self, asked: Select) -> Result<Decision, ErrorReply> {
        let speaker = self.speaker()?;
        let names = names(speaker);
        let found = speaker.rib(query::Table::Loc, select(asked), DECISION);
        let prefix = found.first().map(|path| path.prefix);
        let kernel = self.kernel.status();
        let mut used: Vec<_> = found
            .iter()
            .filter(|path| path.best || path.multipath)
            .filter_map(|path| path.next_hop)
            .collect();
        used.sort_unstable();
        used.dedup();
        let nexthops =
            used.iter().filter_map(|hop| Some(views::nexthop(*hop, kernel.nexthops.get(hop)?))).collect();
        let kernel_failure = prefix.and_then(|prefix| kernel.failures.get(&prefix.to_string()).cloned());
        let told = |mut path: query::PathView| {
            path.why = self.refusal(&path).or(path.why);
            self.owned(views::path(path, &names, true))
        };
        let paths = found.into_iter().map(told).collect();
        Ok(Decision { prefix, paths, nexthops, kernel_failure })
    }
}

/// Cuts a page to `limit` paths at a prefix's end: the next page goes on behind whole prefixes.
fn cut(found: &mut Vec<query::PathView>, limit: usize) {
    let Some(next) = found.get(limit).map(|path| path.prefix) else { return };
    let whole = found.iter().position(|path| path.prefix == next).unwrap_or(limit);
    // A single prefix with more paths than a page holds is shown as far as the page goes.
    found.truncate(if whole == 0 { limit } else { whole });
}

fn nexthops(kernel: &KernelStatus) -> Vec<NexthopView> {
    kernel.nexthops.iter().map(|(hop, resolution)| views::nexthop(*hop, resolution)).collect()
}

pub(super) fn names(speaker: &Speaker) -> Names {
    speaker.peers().into_iter().map(|peer| (peer.id, peer.name)).collect()
}

/// By name or by address.
pub(super) fn find_peer(speaker: &Speaker, wanted: &str) -> Result<PeerId, ErrorReply> {
    let address: Option<IpAddr> = wanted.parse().ok();
    let found = speaker.peers().into_iter().find(|peer| peer.name == wanted || Some(peer.remote) == address);
    found.map(|peer| peer.id).ok_or_else(|| not_found(format!("there is no peer `{wanted}`")))
}

fn select(asked: Select) -> query::Select {
    match asked {
        Select::Family(family) => query::Select::Family(family),
        Select::Exact(prefix) => query::Select::Exact(prefix),
        Select::Within(prefix) => query::Select::Within(prefix),
        Select::Longest(address) => query::Select::Longest(address),
    }
}

pub(super) fn conflict(message: String) -> ErrorReply {
    ErrorReply { code: Code::Conflict, message }
}

pub(super) fn not_found(message: String) -> ErrorReply {
    ErrorReply { code: Code::NotFound, message }
}

pub(super) fn invalid(problems: &[String]) -> Reply {
    Reply::Error(ErrorReply { code: Code::Invalid, message: problems.join("; ") })
}

pub(super) fn internal(message: String) -> Reply {
    Reply::Error(ErrorReply { code: Code::Internal, message })
}

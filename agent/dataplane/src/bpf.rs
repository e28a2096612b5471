//! Manager for the eBPF programs: which hooks are attached, and what the maps hold.
//!
//! Anti-spoofing sits on every pod's link; the bypass on uplinks while a source asks for it; the marker on limited
//! links; TOA on the configured cgroup while a source has a format. Where the programs cannot be had, everything
//! else still works, and the problem says what is missing.

mod admission;
mod entries;
mod mount;
mod seen;
mod trial;

pub use seen::{HooksInForce, LbTraffic, ToaConnection, ToaOfPod};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use turnpike_ebpf_loader::abi::{Addr, MarkConfig, MarkState, PodEntry, Veth, names};
use turnpike_ebpf_loader::{
    AttachMode, Attachment, Changes, CounterValues, Error, Hook, OpenOptions, Programs, UOA_PROGRAMS,
    remove_all,
};
use turnpike_model::desired::{DesiredState, Endpoint, LbSource};

use admission::Admission;

use crate::links::Link;
use crate::tc::pacer::Pacer;
use crate::{Problem, Severity, Uplink, endpoint};

const SUBJECT: &str = "ebpf";

/// What the manager looks at: desired state and the links that exist.
#[derive(Debug, Clone)]
pub(crate) struct View<'a> {
    pub(crate) desired: &'a DesiredState,
    pub(crate) links: &'a BTreeMap<String, Link>,
    /// Uplinks to hook; only looked at while a source bypasses.
    pub(crate) uplinks: &'a [Uplink],
    /// Links with a node tree: index and name.
    pub(crate) trees: BTreeMap<u32, &'a str>,
}

/// The eBPF programs, or why there are none.
#[derive(Debug)]
pub(crate) struct Bpf {
    folder: PathBuf,
    cgroup: Option<PathBuf>,
    programs: Result<Programs, String>,
    /// The kernel has fq: packets can carry their departure time.
    pub(crate) has_fq: bool,
    /// Hooks that this process has put in force: an earlier process's programs are replaced once.
    ours: BTreeSet<(Hook, u32)>,
    toa: Option<Toa>,
    /// What this kernel lacks.
    missing: Vec<Problem>,
}

impl Bpf {
    /// Loads the programs; a failure is kept for [`Self::apply`]'s answer.
    pub(crate) fn open(folder: &Path, cgroup: Option<&Path>) -> Self {
        let mut bpf = Self {
            folder: folder.to_owned(),
            cgroup: cgroup.map(Path::to_owned),
            programs: Err(String::new()),
            ours: BTreeSet::new(),
            toa: None,
            has_fq: false,
            missing: Vec::new(),
        };
        bpf.load();
        bpf
    }

    fn load(&mut self) {
        match mount::ensure(&self.folder) {
            Ok(false) => {}
            Ok(true) => tracing::info!("mounted a bpffs"),
            Err(error) => tracing::warn!(%error, "cannot mount a bpffs"),
        }
        self.programs = Programs::open(&OpenOptions::new(&self.folder)).map_err(|error| words(&error));
        if let Err(reason) = &self.programs {
            tracing::warn!(reason, "eBPF is not available");
            return;
        }
        self.missing = turnpike_ebpf_loader::probe()
            .into_iter()
            .filter(|feature| feature.available == Ok(false))
            .map(|feature| Problem {
                severity: Severity::Degraded,
                subject: SUBJECT.to_owned(),
                message: format!(
                    "this kernel has no {} (Linux {} and later have it): {}",
                    feature.name, feature.since, feature.without
                ),
            })
            .collect();
    }

    /// Brings maps and hooks to the desired state.
    pub(crate) fn apply(&mut self, view: &View<'_>) -> Vec<Problem> {
        let pacer = self.pacer();
        if self.programs.is_err() {
            // What was missing at the start (a bpffs mount) may have come.
            self.load();
        }
        let Ok(programs) = &mut self.programs else {
            return self.without(view.desired);
        };
        let mut session = Session { programs, ours: &mut self.ours, pacer, problems: Vec::new() };
        let wanted = session.maps(view);
        session.hooks(&wanted, view);
        if let Err(error) = session.toa(view.desired, self.cgroup.as_deref(), &mut self.toa) {
            session.problem(Severity::Failed, "TOA", &error);
        }
        session.problems.extend(self.missing.iter().cloned());
        session.problems
    }

    /// Forgets hooks whose filter somebody took away, so that [`Self::apply`] puts them back: unlike a pinned link, a
    /// filter is anybody's to delete. `are_there` looks for ours on links that `concerns` admits. Answers where they are
    /// missing.
    pub(crate) fn look(
        &mut self,
        concerns: impl Fn(u32) -> bool,
        are_there: impl FnOnce(&[(Hook, u32)]) -> Vec<bool>,
    ) -> Vec<(Hook, u32)> {
        let recorded = self.programs.as_ref().ok().and_then(|programs| programs.attachments().ok());
        let filters = recorded.into_iter().flatten().filter_map(|attachment| match attachment {
            Attachment::Link { hook, ifindex, mode: AttachMode::Clsact } => Some((hook, ifindex)),
            _ => None,
        });
        let ours: Vec<_> = filters.filter(|hook| concerns(hook.1) && self.ours.contains(hook)).collect();
        let found = are_there(&ours);
        let missing: Vec<_> =
            ours.into_iter().zip(found).filter_map(|(hook, is_there)| (!is_there).then_some(hook)).collect();
        for hook in &missing {
            self.ours.remove(hook);
        }
        missing
    }

    /// Puts one pod's entries and hooks in force, and nothing else.
    /// `desired` tells of the load balancers, where it is known yet.
    pub(crate) fn attach(
        &mut self,
        endpoint: &Endpoint,
        veth: &Link,
        ifbs: &Ifbs,
        desired: Option<&DesiredState>,
    ) -> Vec<Problem> {
        let admission = Admission::of(desired);
        let pacer = self.pacer();
        let Ok(programs) = &mut self.programs else {
            return vec![self.anti_spoof_problem()];
        };
        let mut session = Session { programs, ours: &mut self.ours, pacer, problems: Vec::new() };
        if let Err(error) = session.pod(endpoint, veth, ifbs, &admission) {
            session.problem(Severity::Failed, &endpoint.host_link, &error);
        }
        let mut hooks = vec![(Hook::FromPod, veth)];
        let at_limits = if pacer == Pacer::Htb { Hook::Queue } else { Hook::Mark };
        if endpoint.limits.to_workload.is_some() && ifbs.to_pod.is_none() {
            hooks.push((at_limits, veth));
        }
        if entries::is_marked(endpoint) {
            hooks.push((Hook::Mark, veth));
        }
        if endpoint.shadow.to_workload.is_some() {
            hooks.extend(ifbs.to_pod.iter().map(|ifb| (Hook::Mark, ifb)));
        }
        hooks.extend(ifbs.iter().map(|ifb| (at_limits, ifb)));
        for (hook, link) in hooks {
            session.attach(hook, link);
        }
        session.problems
    }

    /// Redirects nothing to these addresses any more: before their link goes.
    pub(crate) fn forget_addresses(&mut self, addresses: &[std::net::IpAddr]) -> Result<(), String> {
        let Ok(programs) = &mut self.programs else {
            return Ok(());
        };
        let maps = programs.maps();
        // The next pod with the address begins to count at zero.
        let addresses: BTreeSet<Addr> = addresses.iter().map(|address| Addr::from(*address)).collect();
        let both = |address| [maps.pods.remove(address), maps.toa_pods.end(address)];
        let mut results: Vec<_> = addresses.iter().flat_map(both).collect();
        match maps.lb_admits.entries() {
            Ok(admits) => {
                let theirs = admits.keys().filter(|key| addresses.contains(&key.pod));
                results.extend(theirs.map(|key| maps.lb_admits.remove(key)));
            }
            Err(error) => results.push(Err(error)),
        }
        results.into_iter().find_map(Result::err).map_or(Ok(()), |error| Err(words(&error)))
    }

    /// True where nothing passes from a link unless the maps say so.
    pub(crate) fn guards(&self, link: u32) -> bool {
        self.programs.is_ok() && self.ours.contains(&(Hook::FromPod, link))
    }

    /// Lets nothing pass from a link any more.
    pub(crate) fn shut(&mut self, link: u32) -> Result<(), String> {
        let Ok(programs) = &mut self.programs else {
            return Ok(());
        };
        programs.maps().veths.remove(&link).map(drop).map_err(|error| words(&error))
    }

    /// Forgets links that have gone: not before, or a pod could send for a moment with nobody looking.
    pub(crate) fn forget_links(&mut self, links: &[u32]) -> Result<(), String> {
        let Ok(programs) = &mut self.programs else {
            return Ok(());
        };
        let mut results = Vec::new();
        for link in links {
            results.push(programs.maps().veths.remove(link));
            results.push(programs.maps().clear_mark(*link));
            results.push(forget_exempt(programs, *link));
            results.push(programs.maps().clear_shadow(*link));
            results.push(programs.maps().clear_shadow(MarkConfig::shadow_from_pod_key(*link)));
            for hook in Hook::ALL {
                results.push(programs.detach(hook, *link));
                self.ours.remove(&(hook, *link));
            }
        }
        results.into_iter().find_map(Result::err).map_or(Ok(()), |error| Err(words(&error)))
    }

    /// Removes every hook, map and pin of ours.
    pub(crate) fn remove(&mut self) -> Result<(), String> {
        self.ours.clear();
        self.toa = None;
        self.programs = Err("removed".to_owned());
        remove_all(&self.folder).map_err(|errors| errors.iter().map(words).collect::<Vec<_>>().join("; "))
    }

    /// The programs' counters by name; `None` without programs.
    pub(crate) fn counters(&self) -> Option<CounterValues> {
        self.programs.as_ref().ok().and_then(|programs| programs.maps().counters().ok())
    }

    /// Whether pods' packets can be told from the host's on an uplink, or why not.
    pub(crate) fn can_classify(&mut self) -> Result<(), String> {
        if self.programs.is_err() {
            self.load();
        }
        let programs = self.programs.as_ref().map_err(Clone::clone)?;
        let missing = |hook: Hook| programs.unavailable().get(hook.program()).cloned();
        missing(Hook::Classify).or_else(|| missing(Hook::FromPod)).map_or(Ok(()), Err)
    }

    /// What holds packets back at limits: without our program there is nobody to tell flows apart.
    pub(crate) fn pacer(&self) -> Pacer {
        let marks = |programs: &Programs| {
            [Hook::Mark, Hook::Queue]
                .into_iter()
                .all(|hook| !programs.unavailable().contains_key(hook.program()))
        };
        match &self.programs {
            Ok(programs) if marks(programs) && self.has_fq => Pacer::Fq,
            Ok(programs) if marks(programs) => Pacer::Htb,
            _ => Pacer::Tbf,
        }
    }

    /// The laws and counters of all limits, by link; nothing where there are no programs.
    pub(crate) fn limiters(&self) -> BTreeMap<u32, (MarkConfig, MarkState)> {
        self.programs.as_ref().ok().and_then(|programs| programs.maps().all_marks().ok()).unwrap_or_default()
    }

    /// What shadow limits have counted: of what a pod sends by its host veth ([`MarkConfig::shadow_from_pod_key`]), of what
    /// it receives by the link where that is queued.
    pub(crate) fn shadows(&self) -> BTreeMap<u32, MarkState> {
        let programs = self.programs.as_ref().ok();
        programs.and_then(|programs| programs.maps().all_shadow_stats().ok()).unwrap_or_default()
    }

    fn anti_spoof_problem(&self) -> Problem {
        let reason = self.programs.as_ref().err().map(String::as_str).unwrap_or_default();
        Problem {
            severity: Severity::Degraded,
            subject: SUBJECT.to_owned(),
            message: format!(
                "no anti-spoofing in eBPF; the kernel's reverse path filter checks IPv4 sources only: {reason}"
            ),
        }
    }

    /// What is missing without any program.
    fn without(&self, desired: &DesiredState) -> Vec<Problem> {
        let mut problems = vec![self.anti_spoof_problem()];
        let mut missing = |severity, message: &str| {
            problems.push(Problem { severity, subject: SUBJECT.to_owned(), message: message.to_owned() });
        };
        if desired.lb_sources.values().any(|source| source.bypass) {
            missing(
                Severity::Degraded,
                "no bypass: load-balancer traffic goes through netfilter, past conntrack by nftables' notrack only",
            );
        }
        if desired.lb_sources.values().any(|source| source.toa.is_some() || source.uoa) {
            missing(
                Severity::Failed,
                "no TOA: servers see the load balancer's address instead of the client's",
            );
        }
        if desired.endpoints.values().any(|endpoint| endpoint.limits != Default::default()) {
            missing(Severity::Degraded, "limits hold, but drop at the queue instead of marking ECN");
        }
        if desired.endpoints.values().any(|endpoint| !endpoint.shadow.is_none()) {
            missing(Severity::Failed, "limits in shadow are not counted");
        }
        problems
    }
}

/// The TOA programs that this process has put in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Toa {
    /// The cgroup's ID.
    cgroup: u64,
    /// getsockopt() is answered, too.
    nat64: bool,
    /// Clients of UDP sessions are told, too.
    uoa: bool,
}

/// The links behind which a pod's limits sit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ifbs {
    /// For what it sends.
    pub(crate) from_pod: Option<Link>,
    /// For what it receives, where it exempts ranges.
    pub(crate) to_pod: Option<Link>,
}

impl Ifbs {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        [&self.from_pod, &self.to_pod].into_iter().flatten()
    }
}

/// Removes a host veth's exempt ranges; answers whether there were any.
fn forget_exempt(programs: &Programs, link: u32) -> Result<bool, Error> {
    let table = &programs.maps().exempt;
    let doomed: Vec<_> = table.entries()?.into_keys().filter(|key| key.link == link).collect();
    doomed.iter().try_for_each(|key| table.remove(key).map(drop))?;
    Ok(!doomed.is_empty())
}

/// What the hooks should be, found while the maps were filled.
struct Wanted<'a> {
    hooks: BTreeMap<(Hook, u32), &'a str>,
}

/// One pass over the programs, collecting problems.
struct Session<'a> {
    programs: &'a mut Programs,
    ours: &'a mut BTreeSet<(Hook, u32)>,
    pacer: Pacer,
    problems: Vec<Problem>,
}

impl Session<'_> {
    fn problem(&mut self, severity: Severity, subject: &str, error: &Error) {
        self.problems.push(Problem { severity, subject: subject.to_owned(), message: words(error) });
    }

    /// Fills the maps, entries before the hooks that need them, and answers which hooks there should be.
    fn maps<'v>(&mut self, view: &View<'v>) -> Wanted<'v> {
        let (mut pods, mut veths) = (BTreeMap::<Addr, PodEntry>::new(), BTreeMap::<u32, Veth>::new());
        let (mut marks, mut shadows, mut exempt) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut hooks, mut admits) = (BTreeMap::new(), BTreeMap::new());
        let admission = Admission::of(Some(view.desired));
        for endpoint in view.desired.endpoints.values() {
            let Some(link) = view.links.get(&endpoint.host_link) else {
                continue;
            };
            let ifb = view.links.get(&endpoint::ifb_name(&endpoint.host_link));
            let to_pod = endpoint::queues_at_ifb(endpoint)
                .then(|| view.links.get(&endpoint::to_pod_ifb_name(&endpoint.host_link)))
                .flatten();
            let ifbs = [ifb, to_pod].into_iter().flatten();
            let indices = entries::Indices {
                veth: link.index,
                ifb: ifb.map(|ifb| ifb.index),
                to_pod_ifb: to_pod.map(|ifb| ifb.index),
            };
            pods.extend(entries::pods(endpoint, link, &admission));
            veths.insert(link.index, entries::veth(endpoint, indices.ifb, &admission));
            admits.extend(admission.entries(endpoint));
            hooks.insert((Hook::FromPod, link.index), link.name.as_str());
            for (index, mark) in entries::marks(endpoint, indices, self.pacer) {
                let name = ifbs.clone().find(|ifb| ifb.index == index).unwrap_or(link).name.as_str();
                let hook = if self.pacer == Pacer::Htb { Hook::Queue } else { Hook::Mark };
                hooks.insert((hook, index), name);
                marks.insert(index, mark);
            }
            if let Some(ifb) = to_pod.filter(|_| endpoint.shadow.to_workload.is_some()) {
                hooks.insert((Hook::Mark, ifb.index), ifb.name.as_str());
            }
            if entries::is_marked(endpoint) {
                hooks.insert((Hook::Mark, link.index), link.name.as_str());
            }
            shadows.extend(entries::shadows(endpoint, indices));
            exempt.extend(entries::exempt(endpoint, link.index));
        }
        let hooked = view.desired.lb_sources.values().any(|source| source.bypass || source.uoa);
        let uplinks = if hooked { view.uplinks } else { &[] };
        hooks.extend(uplinks.iter().map(|uplink| ((Hook::Uplink, uplink.ifindex), uplink.name.as_str())));
        hooks.extend(view.trees.iter().map(|(index, name)| ((Hook::Classify, *index), *name)));
        let (sources, ports) = entries::lb_sources(view.desired, uplinks);
        let addresses: BTreeSet<Addr> = pods.keys().copied().collect();
        let maps = self.programs.maps();
        let results = [
            maps.lb_admits.reconcile(&admits),
            maps.pods.reconcile(&pods),
            maps.veths.reconcile(&veths),
            maps.uplinks.reconcile(&entries::uplinks(uplinks)),
            maps.lb_ports.reconcile(&ports),
            // Before the sources themselves: nothing goes by uncounted.
            maps.lb_stats.keep(&entries::groups(&sources)).map(|()| Changes::default()),
            maps.toa_pods.keep(&addresses).map(|()| Changes::default()),
            maps.lb_sources.reconcile(&sources),
            maps.exempt.reconcile(&exempt),
            maps.keep_shadows(&shadows).map(|()| Changes::default()),
            maps.mark_config.entries().map(|present| {
                for stale in present.keys().filter(|index| !marks.contains_key(index)) {
                    if let Err(error) = maps.clear_mark(*stale) {
                        tracing::warn!(%error, link = stale, "a marking law could not be removed");
                    }
                }
                Changes::default()
            }),
        ];
        let marked: Vec<Result<(), Error>> =
            marks.iter().map(|(index, mark)| maps.set_mark(*index, mark)).collect();
        for error in
            results.into_iter().filter_map(Result::err).chain(marked.into_iter().filter_map(Result::err))
        {
            self.problem(Severity::Failed, SUBJECT, &error);
        }
        Wanted { hooks }
    }

    /// Attaches what is missing, detaches what nobody wants.
    fn hooks(&mut self, wanted: &Wanted<'_>, view: &View<'_>) {
        let recorded = match self.programs.attachments() {
            Ok(recorded) => recorded,
            Err(error) => {
                self.problem(Severity::Failed, SUBJECT, &error);
                return;
            }
        };
        for attachment in &recorded {
            if let Attachment::Link { hook, ifindex, .. } = attachment
                && !wanted.hooks.contains_key(&(*hook, *ifindex))
            {
                self.ours.remove(&(*hook, *ifindex));
                if let Err(error) = self.programs.detach(*hook, *ifindex) {
                    self.problem(Severity::Failed, SUBJECT, &error);
                }
            }
        }
        let recorded: BTreeSet<(Hook, u32)> = recorded
            .into_iter()
            .filter_map(|attachment| match attachment {
                Attachment::Link { hook, ifindex, .. } => Some((hook, ifindex)),
                Attachment::Cgroup { .. } => None,
            })
            .collect();
        for ((hook, index), name) in &wanted.hooks {
            if self.ours.contains(&(*hook, *index)) && recorded.contains(&(*hook, *index)) {
                continue;
            }
            match view.links.get(*name) {
                Some(link) => self.attach(*hook, link),
                None => self.attach_name(*hook, *index, name),
            }
        }
    }

    fn attach(&mut self, hook: Hook, link: &Link) {
        self.attach_name(hook, link.index, &link.name);
    }

    fn attach_name(&mut self, hook: Hook, index: u32, name: &str) {
        match self.programs.attach(hook, name) {
            Ok(_) => {
                self.ours.insert((hook, index));
            }
            Err(error) => {
                // The marker is a comfort, the bypass a short cut; both have a slow path behind them.
                let severity = if hook == Hook::FromPod { Severity::Failed } else { Severity::Degraded };
                self.problem(severity, name, &error);
            }
        }
    }

    fn pod(
        &mut self,
        endpoint: &Endpoint,
        veth: &Link,
        ifbs: &Ifbs,
        admission: &Admission<'_>,
    ) -> Result<(), Error> {
        let maps = self.programs.maps();
        let indices = entries::Indices {
            veth: veth.index,
            ifb: ifbs.from_pod.as_ref().map(|ifb| ifb.index),
            to_pod_ifb: ifbs.to_pod.as_ref().map(|ifb| ifb.index),
        };
        for (key, one) in entries::exempt(endpoint, veth.index) {
            maps.exempt.insert(&key, &one)?;
        }
        for (key, admitted) in admission.entries(endpoint) {
            maps.lb_admits.insert(&key, &admitted)?;
        }
        maps.veths.insert(&veth.index, &entries::veth(endpoint, indices.ifb, admission))?;
        for (address, entry) in entries::pods(endpoint, veth, admission) {
            maps.toa_pods.begin(&address)?;
            maps.pods.insert(&address, &entry)?;
        }
        for (index, mark) in entries::marks(endpoint, indices, self.pacer) {
            maps.set_mark(index, &mark)?;
        }
        for (key, shadow) in entries::shadows(endpoint, indices) {
            maps.set_shadow(key, &shadow)?;
        }
        Ok(())
    }

    fn toa(
        &mut self,
        desired: &DesiredState,
        cgroup: Option<&Path>,
        attached: &mut Option<Toa>,
    ) -> Result<(), Error> {
        let any = |what: fn(&LbSource) -> bool| desired.lb_sources.values().any(what);
        let (nat64, uoa) = (any(|source| source.toa_nat64), any(|source| source.uoa));
        let wanted = uoa || any(|source| source.toa.is_some());
        let mut present = BTreeMap::<u64, BTreeSet<&str>>::new();
        for attachment in self.programs.attachments()? {
            if let Attachment::Cgroup { program, cgroup } = attachment {
                present.entry(cgroup).or_default().insert(program);
            }
        }
        let known = attached.take();
        match cgroup {
            Some(cgroup) if wanted => {
                self.programs.maps().set_toa(&entries::toa(desired))?;
                let mut toa = match known.filter(|toa| present.contains_key(&toa.cgroup)) {
                    Some(toa) => toa,
                    None => Toa { cgroup: self.programs.attach_toa(cgroup)?, nat64: false, uoa: false },
                };
                let present = present.get(&toa.cgroup).cloned().unwrap_or_default();
                *attached = Some(toa);
                if nat64 != toa.nat64 || nat64 != present.contains(names::PROG_TOA_SOCKOPT) {
                    self.programs.set_nat64(cgroup, nat64)?;
                    toa.nat64 = nat64;
                    *attached = Some(toa);
                }
                let recorded = UOA_PROGRAMS.into_iter().filter(|program| present.contains(program)).count();
                if uoa != toa.uoa || recorded != if uoa { UOA_PROGRAMS.len() } else { 0 } {
                    self.programs.set_uoa(cgroup, uoa)?;
                    toa.uoa = uoa;
                    *attached = Some(toa);
                }
            }
            None if wanted => self.problems.push(Problem {
                severity: Severity::Failed,
                subject: "TOA".to_owned(),
                message: "no cgroup is configured for it; servers see the load balancer's address".to_owned(),
            }),
            _ => {}
        }
        let keep = attached.map(|toa| toa.cgroup);
        for stale in present.into_keys().filter(|id| Some(*id) != keep) {
            self.programs.detach_toa(stale)?;
        }
        Ok(())
    }
}

/// An error with its causes in one line.
fn words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

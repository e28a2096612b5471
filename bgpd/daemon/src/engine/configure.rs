//! Bringing configuration into force: from the file, from parts.

use std::collections::BTreeMap;

use anyhow::Result;
use tracing::{error, info, warn};
use turnpike_bgp_core::{Input, Speaker};
use turnpike_bgpd_api::{Config, Part, Reply};

use super::Engine;
use super::loading::Loaded;
use super::requests::invalid;
use crate::disk::Done;
use crate::kernel::KernelRoute;
use crate::listener::Keyed;
use crate::merge::{FILE, Merged};

impl Engine {
    /// Merges file and parts and brings the result into force; what is wrong with it if it cannot be.
    pub(super) fn configure(&mut self) -> Result<(), Vec<String>> {
        let merged = self.merged_from(&self.file, self.store.parts());
        self.bring_into_force(merged)
    }

    /// Links or addresses changed: what the configuration takes from the host may have.
    pub(super) fn follow_host(&mut self) {
        let merged = self.merged_from(&self.file, self.store.parts());
        if merged.core == self.merged.core {
            return;
        }
        info!("the host's links or addresses changed, and the configuration with them");
        if let Err(problems) = self.bring_into_force(merged) {
            error!(problems = problems.join("; "), "configuration refused; the last good one stays in force");
        }
    }

    fn bring_into_force(&mut self, merged: Merged) -> Result<(), Vec<String>> {
        let errors = merged.core.as_ref().map(|core| core.check()).unwrap_or_default();
        if !errors.is_empty() {
            return Err(errors.iter().map(ToString::to_string).collect());
        }
        for part in &merged.parts {
            for refused in &part.refused {
                warn!(owner = part.owner, refused, "piece of configuration not taken");
            }
        }
        if let Some(missing) = &merged.missing {
            info!(missing, waiting_for = ?merged.waiting_for, "the speaker waits for its configuration");
        }
        let keys = merged
            .transports
            .iter()
            .map(|(peer, transport)| (Keyed::Peer(*peer), transport))
            .chain(merged.ranges.iter().map(|(range, transport)| (Keyed::Range(range.prefix), transport)))
            .filter_map(|(whom, transport)| Some((whom, transport.md5.clone()?)))
            .collect();
        self.listeners.set_keys(keys);
        self.set_blackholes(&merged);
        let core = merged.core.clone();
        self.merged = merged;
        match (core, self.speaker.is_some()) {
            (None, true) => self.fall_silent(),
            // Nobody knows yet whether BFD sessions from before a restart are still wanted.
            (None, false) => return Ok(()),
            (Some(core), true) => self.hand_in(Input::Configure(Box::new(core))),
            (Some(core), false) => {
                info!(asn = %core.asn, router_id = %core.router_id, start = ?self.record.start(), "speaker starts");
                let speaker = Speaker::new(core, self.record.start(), self.clock.now())
                    .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
                if self.record.start().restarted {
                    self.bfd.keep(self.merged.bfd_ranges(), speaker.config().graceful_restart.restart_time);
                }
                self.speaker = Some(speaker);
            }
        }
        let asn = self.merged.core.as_ref().map(|core| core.asn);
        self.monitoring.configure(&self.file, asn);
        self.hand_in(Input::Monitor(self.monitoring.is_wanted()));
        self.want_bfd();
        Ok(())
    }

    /// Tells bfdd of the peers that want its sessions: those of the configuration, and the guests that are there.
    pub(super) fn want_bfd(&mut self) {
        let guests = self.guests.iter();
        let guests =
            guests.filter_map(|(address, name)| Some((*address, self.merged.guest_bfd(*address, name)?)));
        let wishes = self.merged.bfd.clone().into_iter().chain(guests).collect();
        let paths = self.bfd.want(&wishes);
        self.take_paths(paths);
    }

    /// Whoever gave us an AS number has taken it back: no peers, no networks, and no restart to speak of.
    fn fall_silent(&mut self) {
        let Some(running) = self.speaker.as_ref().map(Speaker::config) else { return };
        let nothing = turnpike_bgp_core::config::Config::new(running.asn, running.router_id);
        self.hand_in(Input::Configure(Box::new(nothing)));
        self.record.forget(&self.disk);
    }

    fn set_blackholes(&mut self, merged: &Merged) {
        if !self.file.kernel.enabled {
            return;
        }
        let (old, new) = (&self.merged.blackholes, &merged.blackholes);
        // Removed ones first: a learnt path for the prefix comes as an output after this.
        let removed = old.difference(new).map(|prefix| (*prefix, None));
        let added = new.difference(old).map(|prefix| (*prefix, Some(KernelRoute::Blackhole)));
        self.kernel.routes(removed.chain(added));
    }

    /// Listens where the file says. A family that the kernel does not have is left out.
    pub(super) fn listen(&mut self) -> Result<()> {
        for (address, error) in self.listeners.listen_on(&self.file.listen) {
            if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
                && address.ip().is_unspecified()
            {
                warn!(%address, %error, "this address family is not to be had");
            } else {
                return Err(anyhow::Error::new(error).context(address.to_string()));
            }
        }
        Ok(())
    }

    /// Takes the file as it was read. The last good state stays in force if it cannot be used.
    pub(super) fn take_file(&mut self, loaded: Loaded) {
        let result = loaded.result.and_then(|file| self.bring_file_into_force(file));
        match &result {
            Ok(()) => info!(path = %self.path.display(), "configuration reloaded"),
            Err(problem) => error!(problem, "configuration refused; the last good one stays in force"),
        }
        for waiting in loaded.waiting {
            // A caller that did not wait has its reasons.
            let _ = waiting.send(match &result {
                Ok(()) => Reply::Pushed { refused: self.refused(FILE) },
                Err(problem) => invalid(std::slice::from_ref(problem)),
            });
        }
        self.file_problem = result.err();
    }

    pub(super) fn bring_file_into_force(&mut self, mut file: Config) -> Result<(), String> {
        let fixed = keep_fixed(&mut file, &self.file);
        let before = std::mem::replace(&mut self.file, file);
        if let Err(problems) = self.configure() {
            self.file = before;
            return Err(problems.join("; "));
        }
        self.listen().map_err(|error| format!("{error:#}"))?;
        if fixed.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{}: a change here takes effect at the next start; everything else is in force",
            fixed.join(", ")
        ))
    }

    /// Takes a part in the place of its owner's former one: the pieces that were not taken, and the write to disk.
    pub(super) fn push(&mut self, part: Part) -> Result<(Vec<String>, Done), Vec<String>> {
        let problems = part.check();
        if !problems.is_empty() {
            return Err(problems.iter().map(ToString::to_string).collect());
        }
        let owner = part.owner.clone();
        let mut parts: BTreeMap<String, Part> = self.store.parts().clone();
        parts.insert(owner.clone(), part.clone());
        let merged = self.merged_from(&self.file, &parts);
        self.bring_into_force(merged)?;
        let done = self.store.keep(part, &self.disk).map_err(|error| vec![format!("{error:#}")])?;
        info!(owner, "part taken");
        Ok((self.refused(&owner), done))
    }

    /// Forgets an owner's part; `None` if there was none.
    pub(super) fn forget(&mut self, owner: &str) -> Result<Option<Done>, Vec<String>> {
        let Some(done) = self.store.forget(owner, &self.disk) else { return Ok(None) };
        self.configure()?;
        info!(owner, "part dropped");
        Ok(Some(done))
    }

    fn refused(&self, owner: &str) -> Vec<String> {
        let part = self.merged.parts.iter().find(|part| part.owner == owner);
        let mut refused = part.map(|part| part.refused.clone()).unwrap_or_default();
        refused.extend(self.merged.missing.clone());
        refused
    }
}

/// Puts back what cannot change while running; the names of what was put back.
pub(super) fn keep_fixed(file: &mut Config, running: &Config) -> Vec<&'static str> {
    let mut names = Vec::new();
    if file.kernel != running.kernel {
        file.kernel = running.kernel.clone();
        names.push("kernel");
    }
    if file.control != running.control {
        file.control = running.control.clone();
        names.push("control");
    }
    if file.bfd != running.bfd {
        file.bfd = running.bfd.clone();
        names.push("bfd");
    }
    if file.state != running.state {
        file.state = running.state.clone();
        names.push("state");
    }
    if file.metrics != running.metrics {
        file.metrics = running.metrics.clone();
        names.push("metrics");
    }
    names
}

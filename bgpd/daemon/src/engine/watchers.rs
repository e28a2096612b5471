//! Those who want to hear of what happens, as it happens.

use tokio::sync::mpsc;
use turnpike_bgp_core::query::Table;
use turnpike_bgp_core::{Event, Input};
use turnpike_bgpd_api::Prefix;
use turnpike_bgpd_api::view::{EventKind, EventView};

use super::Engine;
use crate::audit;
use crate::views;

/// One watcher, and how much it has missed.
#[derive(Debug)]
pub(super) struct Watcher {
    events: mpsc::Sender<EventView>,
    missed: u64,
}

impl Engine {
    pub(super) fn add_watcher(&mut self, events: mpsc::Sender<EventView>) {
        self.watchers.push(Watcher { events, missed: 0 });
        self.hand_in(Input::WatchBest(true));
    }

    /// Tells watchers of the speaker's event.
    pub(super) fn tell_event(&mut self, event: &Event) {
        if self.watchers.is_empty() {
            return;
        }
        let (kind, text) = match event {
            Event::Best { prefix } => self.best_event(*prefix),
            other => {
                let data = serde_json::to_value(other).unwrap_or_default();
                (EventKind::Speaker { data }, other.to_string())
            }
        };
        self.tell(kind, text);
    }

    /// Tells watchers anything.
    pub(super) fn tell(&mut self, kind: EventKind, text: String) {
        if self.watchers.is_empty() {
            return;
        }
        let event = EventView { time: audit::now(), text, kind };
        self.watchers.retain_mut(|watcher| watcher.take(&event));
        if self.watchers.is_empty() {
            self.hand_in(Input::WatchBest(false));
        }
    }

    fn best_event(&self, prefix: Prefix) -> (EventKind, String) {
        let found = self.speaker.as_ref().and_then(|speaker| {
            let select = turnpike_bgp_core::query::Select::Exact(prefix);
            let best = speaker.rib(Table::Accepted, select, usize::MAX).into_iter().find(|path| path.best)?;
            Some(self.owned(views::path(best, &super::requests::names(speaker), true)))
        });
        let text = match &found {
            None => format!("{prefix}: no path"),
            Some(path) => {
                let hop = path.next_hop.map(|hop| format!(" via {hop}")).unwrap_or_default();
                let from = path.from_name.as_deref().unwrap_or("ourselves");
                format!("{prefix}: best path from {from}{hop}")
            }
        };
        (EventKind::Best { prefix, path: found.map(Box::new) }, text)
    }
}

impl Watcher {
    /// False when it is gone.
    fn take(&mut self, event: &EventView) -> bool {
        if self.missed > 0 {
            let missed = EventView {
                time: event.time,
                text: format!("{} events not told: the watcher is too slow", self.missed),
                kind: EventKind::Missed { count: self.missed },
            };
            match self.events.try_send(missed) {
                Ok(()) => self.missed = 0,
                Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
        }
        match self.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.missed += 1;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

//! How long it takes from an UPDATE's arrival until peers are told what follows from it.

use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;

/// Upper bounds of the buckets, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Longer messages than a KEEPALIVE say something (RFC 4271 §4.4).
const KEEPALIVE: usize = 19;

/// The times so far. A burst counts once, with its oldest message, when nothing of it is left to do: that is how long the
/// slowest of it took to stand in the peers' queues. What peers do not read is theirs.
#[derive(Debug)]
pub(crate) struct Propagation {
    histogram: Histogram,
    /// When the oldest message came of which something may still follow.
    since: Option<Instant>,
    /// Something has been told since.
    told: bool,
}

impl Propagation {
    /// What is measured goes into this.
    pub(crate) fn into(histogram: Histogram) -> Self {
        Self { histogram, since: None, told: false }
    }

    /// For whoever shows it.
    pub(crate) fn histogram() -> Histogram {
        Histogram::new(BUCKETS)
    }

    /// Octets have come in, at this moment.
    pub(crate) fn received(&mut self, at: Instant, octets: usize) {
        if octets > KEEPALIVE {
            self.since.get_or_insert(at);
        }
    }

    /// Octets have been handed to a peer's queue.
    pub(crate) const fn sent(&mut self, octets: usize) {
        self.told |= octets > KEEPALIVE;
    }

    /// Nothing is left to do.
    pub(crate) fn done(&mut self) {
        let told = std::mem::take(&mut self.told);
        if let Some(since) = self.since.take()
            && told
        {
            self.histogram.observe(since.elapsed().as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    fn counted(histogram: &Histogram) -> String {
        let mut registry = Registry::default();
        registry.register("p", "test", histogram.clone());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_burst_counts_once_with_its_oldest_message_and_keepalives_do_not() {
        let histogram = Propagation::histogram();
        let mut times = Propagation::into(histogram.clone());
        let now = Instant::now();
        times.received(now, KEEPALIVE);
        times.sent(KEEPALIVE);
        times.done();
        times.received(now, 60);
        times.done();
        assert!(counted(&histogram).contains("p_count 0"), "nobody was told anything");
        times.received(now - Duration::from_secs(2), 60);
        times.received(now, 60);
        times.sent(60);
        times.done();
        times.done();
        let text = counted(&histogram);
        assert!(text.contains("p_count 1") && text.contains("p_bucket{le=\"1.0\"} 0"), "{text}");
    }
}

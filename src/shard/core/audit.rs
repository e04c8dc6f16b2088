//! The audit log: who was admitted or refused, and who did what. Lines of the target `millstream::audit`.

use super::peer::Peer;
use crate::base::millis::Millis;

/// The target of audit lines, for filters.
pub const TARGET: &str = "millstream::audit";

/// The most lines of a shard in a second. Further ones are counted.
const LINES_PER_SECOND: u32 = 500;
const SECOND: Millis = Millis::new(1_000);

/// Bounds the audit lines of one shard.
#[derive(Debug, Default)]
pub(super) struct Audit {
    since: Millis,
    lines: u32,
    dropped: u64,
}

/// What the audit log says about one event. Text that does not apply is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    pub(super) what: &'static str,
    pub(super) verdict: &'static str,
    pub(super) reason: &'a str,
    pub(super) principal: &'a str,
    pub(super) project: &'a str,
    pub(super) queue: &'a str,
    pub(super) peer: Peer,
}

impl Audit {
    /// Logs an event, or counts it if there were too many in this second.
    pub(super) fn log(&mut self, now: Millis, event: &Event<'_>) {
        if now.since(self.since) >= SECOND {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= LINES_PER_SECOND {
            self.dropped += 1;
            return;
        }
        self.lines += 1;
        let Event { what, verdict, reason, principal, project, queue, peer } = *event;
        tracing::info!(target: TARGET, what, verdict, reason, principal, project, queue, %peer);
    }

    /// Returns how many lines were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_of_a_second_are_counted() {
        let mut audit = Audit::default();
        let event = Event {
            what: "connect",
            verdict: "refused",
            reason: "unknown",
            principal: "",
            project: "",
            queue: "",
            peer: Peer::Unix,
        };
        for _ in 0..LINES_PER_SECOND + 7 {
            audit.log(Millis::new(5_000), &event);
        }
        assert_eq!(audit.dropped(), 7);
        audit.log(Millis::new(6_000), &event);
        assert_eq!(audit.dropped(), 7, "another second");
    }
}

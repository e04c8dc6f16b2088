//! The measured part of a run, and when what is sent by schedule is due.

use std::time::{Duration, Instant};

use super::plan::Plan;

/// How long a run goes on behind its end for what was due before it, and for its answers.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// The measured part of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// What is due earlier is warm-up.
    pub from: Instant,
    /// What is due later is not sent any more. Far away where a run ends by a count.
    pub until: Instant,
}

/// A year: the window of a run that ends by its count.
const ENDLESS: Duration = Duration::from_secs(366 * 86_400);

impl Window {
    /// What is measured of a plan from `from` on.
    pub(super) fn of(from: Instant, plan: &Plan) -> Self {
        Self { from, until: from + if plan.is_timed() { plan.measure } else { ENDLESS } }
    }

    pub(super) fn holds(&self, at: Instant) -> bool {
        at >= self.from && at < self.until
    }
}

/// When the requests of one connection are due: the open loop, which does not wait for answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    first: Instant,
    interval: Duration,
}

impl Schedule {
    /// Requests of `batch` messages at `rate` messages a second over `connections`, of which this is number `number`: they do not
    /// send at the same moment.
    pub(super) fn new(now: Instant, rate: f64, batch: usize, number: u32, connections: u32) -> Self {
        let interval = Duration::from_secs_f64(batch as f64 * f64::from(connections) / rate);
        let phase = f64::from(number) / f64::from(connections);
        Self { first: now + interval.mul_f64(phase), interval }
    }

    /// When request number `request` is due, counted from 0.
    pub(super) fn due(&self, request: u64) -> Instant {
        self.first + self.interval.mul_f64(request as f64)
    }

    /// How many are due before `until`.
    pub(super) fn requests_before(&self, until: Instant) -> u64 {
        let time = until.saturating_duration_since(self.first);
        (time.as_secs_f64() / self.interval.as_secs_f64()).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_keeps_its_rate_and_spreads_its_connections() {
        let now = Instant::now();
        let schedule = |number| Schedule::new(now, 1_000.0, 10, number, 4);
        assert_eq!(schedule(0).due(0), now);
        assert_eq!(schedule(1).due(0), now + Duration::from_millis(10));
        let second = now + Duration::from_secs(1);
        let requests: u64 = (0..4).map(|number| schedule(number).requests_before(second)).sum();
        assert_eq!(requests, 100, "1,000 messages in batches of 10");
        assert!(schedule(3).due(schedule(3).requests_before(second)) >= second);
        assert!(schedule(3).due(schedule(3).requests_before(second) - 1) < second);
    }
}

//! The measured part of a run, and the schedule of an open loop.

use std::time::{Duration, Instant};

use super::plan::Plan;

/// How long a run may continue after its window, to send requests that were due within it and to wait for
/// answers.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// The measured part of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// When the connections begin, all at the same time.
    pub begins: Instant,
    /// Messages due before this time are warm-up.
    pub from: Instant,
    /// Messages due after this time are not sent. Far in the future for a run that ends by a count.
    pub until: Instant,
}

/// The length of the window of a run that ends by a count: a year.
const ENDLESS: Duration = Duration::from_secs(366 * 86_400);

impl Window {
    /// Creates the window of a plan whose connections begin at `begins`.
    pub(super) fn of(begins: Instant, plan: &Plan) -> Self {
        let from = begins + plan.warmup;
        Self { begins, from, until: from + if plan.is_timed() { plan.measure } else { ENDLESS } }
    }

    /// Creates the window of a run that has not started. It is so far away that nothing is within it.
    pub(super) fn unset(now: Instant) -> Self {
        Self { begins: now + ENDLESS, from: now + ENDLESS, until: now + ENDLESS }
    }

    pub(super) fn holds(&self, at: Instant) -> bool {
        at >= self.from && at < self.until
    }
}

/// When the requests of one connection are due. An open loop does not wait for answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    first: Instant,
    interval: Duration,
}

impl Schedule {
    /// Creates the schedule of connection `number` out of `connections`, which together send `rate` messages
    /// per second in requests of `batch`. The schedules are shifted, so that the connections do not send at
    /// the same moment.
    pub(super) fn new(begins: Instant, rate: f64, batch: usize, number: u32, connections: u32) -> Self {
        let interval = Duration::from_secs_f64(batch as f64 * f64::from(connections) / rate);
        let phase = f64::from(number) / f64::from(connections);
        Self { first: begins + interval.mul_f64(phase), interval }
    }

    /// Returns when request number `request` is due, counted from 0.
    pub(super) fn due(&self, request: u64) -> Instant {
        self.first + self.interval.mul_f64(request as f64)
    }

    /// Returns how many requests are due before `until`.
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

//! Decides when a producer sends, on a schedule or as fast as allowed, and when it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::meter::Meter;
use super::part::Part;
use super::plan::Plan;
use super::progress::{Progress, sum};
use super::window::{GRACE, Schedule, Window};

/// How often a producer that is far ahead of the consumers checks whether they have caught up.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// The largest number of steps in which requests that were never sent are counted.
const OVERDUE_STEPS: u64 = 100_000;

/// What a producer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Send a request of `count` messages that should go at `intended`, then call [`Pacer::sent`].
    Send { intended: Instant, count: u64 },
    /// Wait until this time, or for answers.
    At(Instant),
    /// Wait for answers.
    Wait,
    /// End: all requests have been sent.
    Over,
}

/// The pace of one producer.
#[derive(Debug)]
pub(super) struct Pacer {
    plan: Arc<Plan>,
    number: u32,
    /// The producers and the consumers of this producer's queue.
    users: (Vec<u32>, Vec<u32>),
    window: Window,
    progress: Arc<Progress>,
    /// The schedule of an open loop. It begins at the first look.
    schedule: Option<Schedule>,
    /// How many requests the schedule has before the end of the window.
    due: u64,
    requests: u64,
    /// `sequence`: messages sent so far. `count`: messages to send in total.
    sequence: u64,
    count: u64,
    /// How many more messages may be sent before the slowest consumer of the queue must catch up.
    lead: u64,
}

impl Pacer {
    pub(super) fn new(part: Part) -> Self {
        let queue = part.queue();
        let Part { plan, number, window, progress } = part;
        let connections = u64::from(plan.producers);
        let count = plan.count.map_or(u64::MAX, |count| {
            count / connections + u64::from(u64::from(number) < count % connections)
        });
        Self {
            users: (plan.users_of(&queue, plan.producers()), plan.users_of(&queue, plan.consumers())),
            number,
            window,
            progress,
            schedule: None,
            due: u64::MAX,
            requests: 0,
            sequence: 0,
            count,
            lead: u64::MAX,
            plan,
        }
    }

    /// Updates the state before a round of sending: starts the schedule at the first call, or reads how far
    /// the other connections are.
    pub(super) fn look(&mut self, now: Instant) {
        if let Some(rate) = self.plan.rate {
            if self.schedule.is_none() {
                let Plan { batch, producers, .. } = *self.plan;
                let schedule = Schedule::new(now, rate, batch, self.number, producers);
                if self.plan.is_timed() {
                    self.due = schedule.requests_before(self.window.until);
                }
                self.schedule = Some(schedule);
            }
            return;
        }
        let (producers, consumers) = &self.users;
        let received = consumers.iter().map(|number| sum(&self.progress.received, &[*number])).min();
        self.lead = received.map_or(u64::MAX, |received| {
            let ahead = sum(&self.progress.sent, producers).saturating_sub(received);
            self.plan.lag.saturating_sub(ahead) / producers.len().max(1) as u64
        });
    }

    /// Returns what to do next, if `room` more messages may be in flight.
    ///
    /// `last` is the whole credit if nothing is in flight. Then a request without a schedule shrinks to it, because
    /// more credit may never come.
    pub(super) fn next(&self, now: Instant, room: u64, last: Option<u64>) -> Pace {
        if self.is_over(now) {
            return Pace::Over;
        }
        let mut count = (self.plan.batch as u64).min(self.count - self.sequence);
        if let (Some(last), None) = (last, &self.schedule) {
            count = count.min(last.max(1));
        }
        // Wake up at the end of the window, too.
        let end = match self.window.until {
            _ if !self.plan.is_timed() => Pace::Wait,
            until if now < until => Pace::At(until),
            until => Pace::At(until + GRACE),
        };
        if room < count || self.requests >= self.due {
            return end;
        }
        if self.lead < count {
            return Pace::At(now + LOOK_EVERY);
        }
        match self.schedule {
            None => Pace::Send { intended: Instant::now(), count },
            Some(schedule) => {
                let due = schedule.due(self.requests);
                match end {
                    _ if due <= now => Pace::Send { intended: due, count },
                    Pace::At(end) => Pace::At(due.min(end)),
                    _ => Pace::At(due),
                }
            }
        }
    }

    /// Returns whether fewer messages are left to send than a full request has.
    pub(super) fn is_at_end(&self) -> bool {
        self.count - self.sequence < self.plan.batch as u64
    }

    /// Returns the number of the next message.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Records that a request of `count` messages was sent.
    pub(super) fn sent(&mut self, count: u64) {
        self.sequence += count;
        self.requests += 1;
        self.lead = self.lead.saturating_sub(count);
    }

    /// Publishes how many messages this producer has sent.
    pub(super) fn publish(&self) {
        self.progress.sent[self.number as usize].store(self.sequence, Ordering::Release);
    }

    /// Ends sending. Messages that were due but never sent count as samples with the time until now, so that
    /// a server that accepts nothing does not look better for it. Returns the number of those messages.
    pub(super) fn give_up(&self, now: Instant, meter: &mut Meter) -> u64 {
        let Some(schedule) = self.schedule.filter(|_| self.plan.is_timed()) else { return 0 };
        let batch = self.plan.batch as u64;
        // Requests that were due after an interrupt do not count.
        let interrupted = self.progress.interrupted_at();
        let due = interrupted.map_or(self.due, |at| self.due.min(schedule.requests_before(at)));
        let overdue = due.saturating_sub(self.requests);
        // Count several requests at once, each as late as the first of them. At a very high rate there are
        // too many to count one by one.
        let together = overdue.div_ceil(OVERDUE_STEPS).max(1);
        let mut request = self.requests;
        while request < due {
            let count = together.min(due - request);
            meter.answered(now, schedule.due(request), count.saturating_mul(batch));
            request += count;
        }
        overdue.saturating_mul(batch)
    }

    /// Returns whether the producer ends. Requests that were due within the window may still be sent until
    /// [`GRACE`] is over.
    fn is_over(&self, now: Instant) -> bool {
        let is_all_sent = self.schedule.is_none() || self.requests >= self.due;
        let is_past = now >= self.window.until && (is_all_sent || now >= self.window.until + GRACE);
        self.sequence >= self.count || is_past || self.progress.is_stopping()
    }
}

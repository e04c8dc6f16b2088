//! When a producer sends what: by its schedule, or as fast as it may; and when it is over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::meter::Meter;
use super::plan::Plan;
use super::progress::{Progress, sum};
use super::window::{GRACE, Schedule, Window};

/// How often a producer that is far ahead of the consumers looks whether they have come closer.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// In how many steps requests that were never sent are counted.
const OVERDUE_STEPS: u64 = 100_000;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Send a request of `count` messages that should go at `intended`; then say so by [`Pacer::sent`].
    Send { intended: Instant, count: u64 },
    /// Wait until then, or for answers.
    At(Instant),
    /// Wait for answers.
    Wait,
    /// Nothing more is to be sent.
    Over,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Pacer {
    plan: Arc<Plan>,
    number: u32,
    /// The producers and the consumers of its queue.
    users: (Vec<u32>, Vec<u32>),
    window: Window,
    progress: Arc<Progress>,
    /// Of an open loop, from its first look on.
    schedule: Option<Schedule>,
    /// Requests that the schedule has before the window's end.
    due: u64,
    requests: u64,
    /// Messages sent; how many are to be sent in all.
    sequence: u64,
    count: u64,
    /// How many more may be sent before the queue's slowest consumer has caught up.
    lead: u64,
}

impl Pacer {
    pub(super) fn new(plan: Arc<Plan>, number: u32, window: Window, progress: Arc<Progress>) -> Self {
        let connections = u64::from(plan.producers);
        let queue = plan.queue_of(number);
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

    /// The connection looks what there is to do: what others did counts from now on. Its schedule begins with its first look.
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

    /// What to do, where `room` more messages may be under way.
    pub(super) fn next(&self, now: Instant, room: u64) -> Pace {
        if self.is_over(now) {
            return Pace::Over;
        }
        let count = (self.plan.batch as u64).min(self.count - self.sequence);
        // The end of its time is an event, too.
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

    /// Whether the last request is, or may be, shorter than the others.
    pub(super) fn is_at_end(&self) -> bool {
        self.count - self.sequence < self.plan.batch as u64
    }

    /// The number of the next message.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// A request of `count` messages was sent.
    pub(super) fn sent(&mut self, count: u64) {
        self.sequence += count;
        self.requests += 1;
        self.lead = self.lead.saturating_sub(count);
    }

    /// Tells the others how far this one is.
    pub(super) fn publish(&self) {
        self.progress.sent[self.number as usize].store(self.sequence, Ordering::Release);
    }

    /// Nothing more is sent. What was due and was not sent took until now at least: it counts as that, so that a server that takes nothing
    /// looks no better for it. Returns how many messages that were.
    pub(super) fn give_up(&self, now: Instant, meter: &mut Meter) -> u64 {
        let Some(schedule) = self.schedule.filter(|_| self.plan.is_timed()) else { return 0 };
        let batch = self.plan.batch as u64;
        // What was due after an interrupt is nobody's fault.
        let interrupted = self.progress.interrupted_at();
        let due = interrupted.map_or(self.due, |at| self.due.min(schedule.requests_before(at)));
        let overdue = due.saturating_sub(self.requests);
        // So many at once, each as late as the first of them: a rate may be far beyond what can be counted one by one.
        let together = overdue.div_ceil(OVERDUE_STEPS).max(1);
        let mut request = self.requests;
        while request < due {
            let count = together.min(due - request);
            meter.answered(now, schedule.due(request), count.saturating_mul(batch));
            request += count;
        }
        overdue.saturating_mul(batch)
    }

    /// What is due is sent even if the window is over, for as long as [`GRACE`] lasts.
    fn is_over(&self, now: Instant) -> bool {
        let is_all_sent = self.schedule.is_none() || self.requests >= self.due;
        let is_past = now >= self.window.until && (is_all_sent || now >= self.window.until + GRACE);
        self.sequence >= self.count || is_past || self.progress.is_stopping()
    }
}

//! Decides when a producer sends, on a schedule or as fast as allowed, and when it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::meter::Meter;
use super::part::Part;
use super::plan::{Mode, Plan};
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

/// How many more messages may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// As long as those in flight are not answered.
    pub now: u64,
    /// If nothing was in flight.
    pub whole: u64,
}

impl Room {
    /// Creates the room of a connection that may have `most` messages in flight, and has `outstanding`.
    #[cfg(feature = "peers")]
    pub(super) fn of(most: u64, outstanding: u64) -> Self {
        Self { now: most.saturating_sub(outstanding), whole: most }
    }

    /// Returns how many of `wanted` messages to send in a request, or `None` to wait for more room.
    ///
    /// A request that does not fit takes what there is if that is at least half of the whole room. With less,
    /// requests would become ever smaller.
    fn request(self, wanted: u64) -> Option<u64> {
        let is_enough = self.now >= wanted || self.now > 0 && self.now >= self.whole / 2;
        is_enough.then(|| wanted.min(self.now))
    }
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
    /// The schedule of an open loop.
    schedule: Option<Schedule>,
    /// How many requests the schedule has before the end of the window.
    due: u64,
    /// How many requests of the schedule are sent, and how many messages of the next one. Without a schedule,
    /// both stay 0.
    requests: u64,
    part_sent: u64,
    /// `sequence`: messages sent so far. `count`: messages to send in total.
    sequence: u64,
    count: u64,
    /// How many more messages may be sent before the slowest consumer of the queue must catch up.
    lead: u64,
}

impl Pacer {
    /// Creates a pace that sends nothing until [`Self::begin`].
    pub(super) fn new(part: Part) -> Self {
        let Part { plan, number, progress } = part;
        let connections = u64::from(plan.producers);
        let count = plan.count.map_or(u64::MAX, |count| {
            count / connections + u64::from(u64::from(number) < count % connections)
        });
        // Only a closed loop with consumers has to know them.
        let uses = |count: u32| if plan.rate.is_none() { plan.users_with(number, count) } else { Vec::new() };
        let consumers = uses(plan.consumers());
        let producers = if consumers.is_empty() { Vec::new() } else { uses(plan.producers()) };
        Self {
            users: (producers, consumers),
            number,
            window: Window::unset(Instant::now()),
            progress,
            schedule: None,
            due: u64::MAX,
            requests: 0,
            part_sent: 0,
            sequence: 0,
            count,
            lead: u64::MAX,
            plan,
        }
    }

    /// Sets the window of the run, in which a schedule begins with the connections.
    pub(super) fn begin(&mut self, window: Window) {
        let Plan { batch, producers, rate, .. } = *self.plan;
        self.window = window;
        self.schedule = rate.map(|rate| Schedule::new(window.begins, rate, batch, self.number, producers));
        if let Some(schedule) = self.schedule.filter(|_| self.plan.is_timed()) {
            self.due = schedule.requests_before(window.until);
        }
    }

    /// Updates the state before a round of sending: a closed loop reads how far the other connections are.
    pub(super) fn look(&mut self) {
        if self.schedule.is_some() {
            return;
        }
        let (producers, consumers) = &self.users;
        // Each consumer gets every message, each worker a part of them.
        let received = match self.plan.mode {
            Mode::Claim => Some(sum(&self.progress.received, consumers)),
            _ => consumers.iter().map(|number| sum(&self.progress.received, &[*number])).min(),
        };
        self.lead = received.map_or(u64::MAX, |received| {
            let ahead = sum(&self.progress.sent, producers).saturating_sub(received);
            self.plan.lag.saturating_sub(ahead) / producers.len().max(1) as u64
        });
    }

    /// Returns what to do next. A request for which there is no room is sent in parts. All of them are due when
    /// the request is.
    pub(super) fn next(&self, now: Instant, room: Room) -> Pace {
        if self.is_over(now) {
            return Pace::Over;
        }
        if now < self.window.begins {
            return Pace::At(self.window.begins);
        }
        let wanted = (self.plan.batch as u64 - self.part_sent).min(self.count - self.sequence);
        // Wake up at the end of the window, too.
        let end = match self.window.until {
            _ if !self.plan.is_timed() => Pace::Wait,
            until if now < until => Pace::At(until),
            until => Pace::At(until + GRACE),
        };
        let Some(count) = room.request(wanted).filter(|_| self.requests < self.due) else { return end };
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

    /// Returns the number of the next message.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Records that a request of `count` messages was sent, or a part of one.
    pub(super) fn sent(&mut self, count: u64) {
        self.sequence += count;
        if self.schedule.is_some() {
            self.part_sent += count;
            if self.part_sent >= self.plan.batch as u64 {
                (self.requests, self.part_sent) = (self.requests + 1, 0);
            }
        }
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
        let (mut request, mut unsent) = (self.requests, 0u64);
        let mut sent = self.part_sent;
        while request < due {
            let count = together.min(due - request);
            let messages = count.saturating_mul(batch) - std::mem::take(&mut sent);
            meter.answered(now, schedule.due(request), messages);
            unsent = unsent.saturating_add(messages);
            request += count;
        }
        unsent
    }

    /// Returns whether the producer ends. Requests that were due within the window may still be sent until
    /// [`GRACE`] is over.
    fn is_over(&self, now: Instant) -> bool {
        let is_all_sent = self.schedule.is_none() || self.requests >= self.due;
        let is_past = now >= self.window.until && (is_all_sent || now >= self.window.until + GRACE);
        self.sequence >= self.count || is_past || self.progress.is_stopping()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::histogram;
    use crate::load::plan::plan;
    use std::sync::mpsc::channel;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns the pace of the only producer of a run of one second, and when it begins.
    fn pacer(plan: Plan) -> (Pacer, Window) {
        let window = Window::of(Instant::now(), &plan);
        let progress = Arc::new(Progress::new(&plan));
        let mut pacer = Pacer::new(Part { plan: Arc::new(plan), number: 0, progress });
        pacer.begin(window);
        (pacer, window)
    }

    /// 1,000 messages in a second, in requests of 100.
    fn open_loop() -> Plan {
        Plan { rate: Some(1_000.0), batch: 100, ..plan(Mode::Produce, None, SECOND) }
    }

    #[test]
    fn a_request_without_enough_credit_is_sent_in_parts_that_are_due_together() {
        let (mut pacer, window) = pacer(open_loop());
        let (first, second) = (window.begins, window.begins + SECOND / 10);
        let room = |now, whole| Room { now, whole };
        let send = |intended, count| Pace::Send { intended, count };
        assert_eq!(pacer.next(first, room(30, 30)), send(first, 30));
        pacer.sent(30);
        let later = first + SECOND / 5;
        assert!(matches!(pacer.next(later, room(0, 30)), Pace::At(_)), "without credit, nothing is sent");
        assert!(matches!(pacer.next(later, room(14, 30)), Pace::At(_)), "small parts wait for more credit");
        assert_eq!(pacer.next(later, room(15, 30)), send(first, 15));
        pacer.sent(15);
        assert_eq!(pacer.next(later, room(1_000, 1_000)), send(first, 55), "the rest of the first request");
        pacer.sent(55);
        assert_eq!(pacer.next(later, room(1_000, 1_000)), send(second, 100));
        assert_eq!(pacer.sequence(), 100);
    }

    #[test]
    fn the_unsent_part_of_a_request_counts_as_late() {
        let (mut pacer, window) = pacer(open_loop());
        pacer.sent(100);
        pacer.sent(30);
        let (to, pieces) = channel();
        let mut meter = Meter::new(to);
        meter.begin(window);
        assert_eq!(pacer.give_up(window.until + GRACE, &mut meter), 870);
        meter.flush();
        let mut samples = histogram();
        pieces.try_iter().for_each(|piece| samples.add(&piece.produce).unwrap());
        assert_eq!(samples.len(), 870);
        let oldest = (GRACE + SECOND - SECOND / 10).as_nanos() as u64;
        assert!(samples.equivalent(samples.max(), oldest), "the rest was due with its request");
    }

    #[test]
    fn a_closed_loop_sends_what_credit_allows() {
        let closed = |batch| pacer(Plan { batch, ..plan(Mode::Produce, None, SECOND) });
        let sent = |batch, now, whole| {
            let (pacer, window) = closed(batch);
            match pacer.next(window.begins, Room { now, whole }) {
                Pace::Send { count, .. } => count,
                _ => 0,
            }
        };
        assert_eq!(sent(1_000, 256, 256), 256);
        assert_eq!(sent(1_000, 127, 256), 0, "half of the credit is under way");
        assert_eq!(sent(1_000, 128, 256), 128);
        assert_eq!(sent(100, 99, 256), 0, "a full request follows soon");
        assert_eq!(sent(100, 256, 256), 100);
        assert_eq!(sent(100, 1, 1), 1);
        assert_eq!(sent(100, 0, 0), 0);
    }

    #[test]
    fn nothing_is_sent_before_the_common_start() {
        for plan in [open_loop(), plan(Mode::Produce, None, SECOND)] {
            let (pacer, window) = pacer(plan);
            let early = window.begins.checked_sub(SECOND / 100).unwrap();
            let room = Room { now: 1_000, whole: 1_000 };
            assert_eq!(pacer.next(early, room), Pace::At(window.begins));
            assert!(matches!(pacer.next(window.begins, room), Pace::Send { .. }));
        }
    }
}

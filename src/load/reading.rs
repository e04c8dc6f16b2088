//! Verifies, counts and measures the messages of a consumer, for any server, and decides when the consumer
//! ends.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::interrupt::STOP_GRACE;
use super::meter::Meter;
use super::part::Part;
use super::plan::{Mode, Plan};
use super::progress::{Progress, sum};
use super::stamp::{Verdict, Verifier};
use super::window::{GRACE, Window};

/// The results of one consuming connection.
#[derive(Clone, Debug)]
pub(super) struct Consumed {
    pub verdict: Verdict,
    /// How many messages of its queue were acknowledged to the producers.
    pub expected: u64,
    /// The number of messages received within the window.
    pub received_measured: u64,
    /// The payload bytes of those messages.
    pub bytes_measured: u64,
    /// When the consumer asked for messages or the first one arrived, and when the last one arrived.
    pub first: Option<Instant>,
    pub last: Option<Instant>,
    pub failure: Option<String>,
}

/// The state of one consumer.
#[derive(Debug)]
pub(super) struct Reading {
    plan: Arc<Plan>,
    number: u32,
    /// The producers of its queue.
    producers: Vec<u32>,
    window: Window,
    /// The window in nanoseconds of the run's clock.
    measured_ns: Range<u64>,
    progress: Arc<Progress>,
    verifier: Verifier,
    /// The verdict of earlier rounds, for a consumer that starts over again and again.
    earlier: Verdict,
    /// The arrival time of the current messages, also on the run's clock, and their number.
    now: Instant,
    now_ns: u64,
    taken: u64,
    taken_bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    received_measured: u64,
    bytes_measured: u64,
    /// When this consumer gives up. Set once the producers have ended.
    give_up: Option<Instant>,
}

/// Creates a verifier. If the run has producers, a consumer gets all of their messages. Otherwise it gets
/// what the store still has.
fn verifier(plan: &Plan) -> Verifier {
    if plan.mode == Mode::Both { Verifier::of_run(plan.run) } else { Verifier::from_anywhere() }
}

impl Reading {
    pub(super) fn new(part: Part) -> Self {
        let Part { plan, number, progress } = part;
        let window = Window::unset(Instant::now());
        Self {
            number,
            producers: plan.users_with(number, plan.producers()),
            measured_ns: 0..0,
            verifier: verifier(&plan),
            earlier: Verdict::default(),
            now: plan.epoch,
            now_ns: 0,
            taken: 0,
            taken_bytes: 0,
            first: None,
            last: None,
            received_measured: 0,
            bytes_measured: 0,
            give_up: None,
            plan,
            window,
            progress,
        }
    }

    /// Sets the window of the run. Until then, nothing counts as measured.
    pub(super) fn measure(&mut self, window: Window) {
        self.measured_ns = self.plan.clock_ns(window.from)..self.plan.clock_ns(window.until);
        self.window = window;
    }

    /// Records when the consumer asks for messages. Its rate counts from then.
    pub(super) fn ask(&mut self, now: Instant) {
        self.first.get_or_insert(now);
    }

    /// Begins a group of messages that arrived together, possibly none.
    pub(super) fn begin(&mut self, now: Instant, meter: &mut Meter) {
        (self.now, self.now_ns) = (now, self.plan.clock_ns(now));
        (self.taken, self.taken_bytes) = (0, 0);
        meter.received(now, 0);
    }

    /// Handles one message of the group.
    #[inline]
    pub(super) fn handle(&mut self, payload: &[u8], meter: &mut Meter) {
        self.taken += 1;
        self.taken_bytes += payload.len() as u64;
        if let Some(stamp) = self.verifier.handle(payload)
            && self.plan.mode == Mode::Both
            && self.measured_ns.contains(&stamp.intended_ns)
        {
            meter.end_to_end(self.now_ns.saturating_sub(stamp.intended_ns));
        }
    }

    /// Ends the group.
    pub(super) fn end(&mut self, meter: &mut Meter) {
        if self.taken == 0 {
            return;
        }
        meter.received(self.now, self.taken);
        if self.window.holds(self.now) {
            self.received_measured += self.taken;
            self.bytes_measured += self.taken_bytes;
        }
        self.first.get_or_insert(self.now);
        self.last = Some(self.now);
        let in_all = self.earlier.received + self.verifier.verdict().received;
        self.progress.received[self.number as usize].store(in_all, Ordering::Release);
    }

    /// Starts over at the beginning of the queue.
    pub(super) fn begin_again(&mut self) {
        let ended = std::mem::replace(&mut self.verifier, verifier(&self.plan));
        self.earlier = self.earlier + ended.verdict();
    }

    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let received = self.verifier.verdict().received;
        let interrupted = self.progress.interrupted_at();
        if self.progress.has_failed() || interrupted.is_some_and(|at| now >= at + STOP_GRACE) {
            return true;
        }
        match self.plan.mode {
            Mode::Produce | Mode::Claim | Mode::Idle => true,
            Mode::Consume => {
                let in_time = self.plan.count.is_none() || self.plan.repeat;
                self.plan.count.is_some_and(|count| received >= count)
                    || in_time && now >= self.window.until
                    || interrupted.is_some()
            }
            Mode::Both => {
                if self.progress.producers.load(Ordering::Acquire) > 0 {
                    return false;
                }
                let give_up = *self.give_up.get_or_insert(now + GRACE);
                received >= sum(&self.progress.acknowledged, &self.producers) || now >= give_up
            }
        }
    }

    pub(super) fn consumed(self, failure: Option<String>) -> Consumed {
        Consumed {
            expected: sum(&self.progress.acknowledged, &self.producers),
            verdict: self.earlier + self.verifier.verdict(),
            received_measured: self.received_measured,
            bytes_measured: self.bytes_measured,
            first: self.first,
            last: self.last,
            failure,
        }
    }
}

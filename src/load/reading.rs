//! What a consumer under load makes of its messages, whoever it gets them from: verified, counted, measured; and when it is over.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::interrupt::STOP_GRACE;
use super::meter::Meter;
use super::plan::{Mode, Plan};
use super::progress::{Progress, sum};
use super::stamp::{Verdict, Verifier};
use super::window::{GRACE, Window};

/// What one connection did.
#[derive(Clone, Debug)]
pub(super) struct Consumed {
    pub verdict: Verdict,
    /// What the producers of its queue had acknowledged.
    pub expected: u64,
    /// Within the measured window.
    pub received_measured: u64,
    /// Bytes of their payloads.
    pub bytes_measured: u64,
    /// When it asked for messages, or the first came; and when the last came.
    pub first: Option<Instant>,
    pub last: Option<Instant>,
    pub failure: Option<String>,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Reading {
    plan: Arc<Plan>,
    number: u32,
    /// The producers of its queue.
    producers: Vec<u32>,
    window: Window,
    /// The same by the run's clock.
    measured_ns: Range<u64>,
    progress: Arc<Progress>,
    verifier: Verifier,
    /// Of the readings that have ended, where it begins again and again.
    earlier: Verdict,
    /// When the messages came that are taken now, by the run's clock, too; and how many they are.
    now: Instant,
    now_ns: u64,
    taken: u64,
    taken_bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    received_measured: u64,
    bytes_measured: u64,
    /// The producers have ended; when this one gives up.
    give_up: Option<Instant>,
}

/// With producers of its own a consumer gets all that they send; else what the store still has.
fn verifier(plan: &Plan) -> Verifier {
    if plan.mode == Mode::Both { Verifier::of_run(plan.run) } else { Verifier::from_anywhere() }
}

impl Reading {
    pub(super) fn new(plan: Arc<Plan>, number: u32, window: Window, progress: Arc<Progress>) -> Self {
        Self {
            number,
            producers: plan.users_of(&plan.queue_of(number), plan.producers()),
            measured_ns: plan.clock_ns(window.from)..plan.clock_ns(window.until),
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

    /// It asks for messages: what it receives counts from then.
    pub(super) fn ask(&mut self, now: Instant) {
        self.first.get_or_insert(now);
    }

    /// Messages may have come, together.
    pub(super) fn begin(&mut self, now: Instant, meter: &mut Meter) {
        (self.now, self.now_ns) = (now, self.plan.clock_ns(now));
        (self.taken, self.taken_bytes) = (0, 0);
        meter.received(now, 0);
    }

    /// One of them.
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

    /// Those were all.
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

    /// It begins again at the beginning.
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
            Mode::Produce | Mode::Idle => true,
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

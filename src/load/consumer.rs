//! One consuming connection under load.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::{Duration, Instant};

use super::meter::Meter;
use super::plan::{Mode, Plan};
use super::progress::{Progress, sum};
use super::stamp::{Verdict, Verifier};
use super::window::{GRACE, Window};
use crate::client::{Application, ClientError, Next, Wire};
use crate::session::client::{ConsumeOptions, Consumer};

/// How often a consumer looks whether the producers have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What one connection did.
#[derive(Clone, Debug)]
pub(super) struct Consumed {
    pub verdict: Verdict,
    /// What the producers of its queue had acknowledged.
    pub expected: u64,
    /// Within the measured window.
    pub received_measured: u64,
    /// From the first message to the last.
    pub active: Duration,
    pub failure: Option<String>,
}

/// See the module's page.
pub(super) struct LoadConsumer {
    plan: Arc<Plan>,
    number: u32,
    queue: String,
    /// The producers of its queue.
    producers: Vec<u32>,
    window: Window,
    progress: Arc<Progress>,
    consumer: Option<Consumer>,
    verifier: Verifier,
    /// Of the readings that have ended, where it begins again and again.
    earlier: Verdict,
    first: Option<Instant>,
    last: Option<Instant>,
    received_measured: u64,
    meter: Rc<RefCell<Meter>>,
    /// The window, by the run's clock.
    measured_ns: Range<u64>,
    /// The producers have ended; when this one gives up.
    give_up: Option<Instant>,
    /// The server has answered the setup, and the producers know.
    is_ready: bool,
    finished: bool,
}

/// With producers of its own a consumer gets all that they send; else what the store still has.
fn verifier(plan: &Plan) -> Verifier {
    if plan.mode == Mode::Both { Verifier::of_run(plan.run) } else { Verifier::from_anywhere() }
}

impl LoadConsumer {
    pub(super) fn new(
        plan: Arc<Plan>,
        number: u32,
        window: Window,
        progress: Arc<Progress>,
        meter: Rc<RefCell<Meter>>,
    ) -> Self {
        let queue = plan.queue_of(number);
        Self {
            number,
            producers: plan.users_of(&queue, plan.producers()),
            verifier: verifier(&plan),
            measured_ns: plan.clock_ns(window.from)..plan.clock_ns(window.until),
            plan,
            queue,
            window,
            progress,
            consumer: None,
            earlier: Verdict::default(),
            first: None,
            last: None,
            received_measured: 0,
            meter,
            give_up: None,
            is_ready: false,
            finished: false,
        }
    }

    pub(super) fn consumed(self) -> Consumed {
        let failure = self.consumer.as_ref().and_then(Consumer::failure).map(ToString::to_string);
        Consumed {
            expected: sum(&self.progress.acknowledged, &self.producers),
            verdict: self.earlier + self.verifier.verdict(),
            received_measured: self.received_measured,
            active: self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| last - first),
            failure,
        }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        let received = self.verifier.verdict().received;
        if self.progress.has_failed() {
            return true;
        }
        match self.plan.mode {
            Mode::Produce | Mode::Idle => true,
            Mode::Consume => {
                let in_time = self.plan.count.is_none() || self.plan.repeat;
                self.plan.count.is_some_and(|count| received >= count) || in_time && now >= self.window.until
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
}

impl Application for LoadConsumer {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let Some(mut consumer) = self.consumer.take() else { return Ok(()) };
        if !self.is_ready {
            self.is_ready = true;
            self.progress.consumers_ready.fetch_add(1, Ordering::AcqRel);
        }
        let now = Instant::now();
        let measured = self.window.holds(now);
        let now_ns = self.plan.clock_ns(now);
        let with_latency = self.plan.mode == Mode::Both;
        let mut meter = self.meter.borrow_mut();
        let mut received = 0;
        let handled = consumer.handle_data(piece, fin, |message| {
            let Some(payload) = message.payload else { return };
            received += 1;
            if received == 1 {
                meter.received(now, 0);
            }
            if let Some(stamp) = self.verifier.handle(payload)
                && with_latency
                && self.measured_ns.contains(&stamp.intended_ns)
            {
                meter.end_to_end(now_ns.saturating_sub(stamp.intended_ns));
            }
        });
        meter.received(now, received);
        drop(meter);
        self.received_measured += if measured { received } else { 0 };
        if received > 0 {
            self.first.get_or_insert(now);
            self.last = Some(now);
        }
        let in_all = self.earlier.received + self.verifier.verdict().received;
        self.progress.received[self.number as usize].store(in_all, Ordering::Release);
        self.consumer = Some(consumer);
        Ok(handled?)
    }

    fn poll(&mut self, _cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        let Wire { sender, out, .. } = wire;
        let now = Instant::now();
        if self.plan.repeat
            && now < self.window.until
            && self.consumer.take_if(|consumer| consumer.is_ended() && consumer.failure().is_none()).is_some()
        {
            self.earlier =
                self.earlier + std::mem::replace(&mut self.verifier, verifier(&self.plan)).verdict();
            self.finished = false;
        }
        let consumer = self.consumer.get_or_insert_with(|| {
            let options = ConsumeOptions {
                queue: self.queue.clone(),
                from: self.plan.from.clone(),
                echo: true,
                window: self.plan.consume_window,
                count: None,
            };
            Consumer::start(&options, sender, out)
        });
        if consumer.is_ended() {
            return Ok(Next::Done);
        }
        if self.finished {
            return Ok(Next::Wait);
        }
        consumer.poll_transmit(sender, out);
        if self.is_over(now) {
            self.finished = true;
            if let Some(consumer) = &mut self.consumer {
                consumer.finish(sender, out);
            }
            return Ok(Next::Wait);
        }
        Ok(Next::At(now + LOOK_EVERY))
    }
}

//! One producing connection under load.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use super::meter::Meter;
use super::pacer::{Pace, Pacer, Room};
use super::part::Part;
use super::plan::Plan;
use super::setup::Arrival;
use super::window::Window;
use crate::base::batch::Record;
use crate::client::session::{Outcome, ProduceEvent, Producer, Renewable};
use crate::client::{Application, ClientError, Next, Wire};
use crate::latency::Outstanding;

/// How many bytes of pbs to collect before the socket gets them.
const GATHER_BYTES: usize = 64 << 10;

/// The results of one producing connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Produced {
    pub acknowledged: u64,
    /// Messages acknowledged within the window.
    pub acknowledged_measured: u64,
    pub refused: u64,
    /// Messages that were due on the schedule and never sent.
    pub unsent: u64,
    pub failure: Option<String>,
    /// When the first message should have been sent, and when the last answer arrived.
    pub first: Option<Instant>,
    pub last: Option<Instant>,
}

impl Produced {
    /// Records the answer to `count` messages that should have been sent at `intended`. `failure` is the
    /// reason if they were not stored.
    pub(super) fn answered(
        &mut self,
        window: Window,
        meter: &mut Meter,
        (intended, now): (Instant, Instant),
        count: u64,
        failure: Option<&str>,
    ) {
        self.first.get_or_insert(intended);
        self.last = self.last.max(Some(now));
        match failure {
            None => {
                self.acknowledged += count;
                self.acknowledged_measured += if window.holds(now) { count } else { 0 };
                meter.acknowledged(now, intended, count);
            }
            Some(failure) => {
                self.refused += count;
                self.failure.get_or_insert_with(|| failure.to_owned());
                meter.answered(now, intended, count);
            }
        }
    }
}

/// A producer that stamps its messages and measures their acknowledgement.
pub(super) struct LoadProducer {
    plan: Arc<Plan>,
    part: Part,
    queue: String,
    window: Window,
    pacer: Pacer,
    /// Whether the run has started, so that the window is known.
    has_begun: bool,
    arrival: Arrival,
    meter: Rc<RefCell<Meter>>,
    producer: Option<Producer>,
    payloads: Vec<u8>,
    keys: Vec<Vec<u8>>,
    pbs: Vec<u8>,
    pbs_in_frame: usize,
    /// The intended send times of unacknowledged messages.
    outstanding: Outstanding,
    finished: bool,
    ended: bool,
    pub produced: Produced,
}

impl LoadProducer {
    pub(super) fn new(part: Part, meter: Rc<RefCell<Meter>>) -> Self {
        let plan = part.plan.clone();
        Self {
            payloads: vec![b'.'; plan.batch * plan.size],
            keys: plan.keys(),
            queue: part.queue(),
            window: Window::unset(Instant::now()),
            pacer: Pacer::new(part.clone()),
            has_begun: false,
            arrival: Arrival::new(part.progress.clone()),
            part,
            meter,
            producer: None,
            pbs: Vec::new(),
            pbs_in_frame: 0,
            outstanding: Outstanding::default(),
            finished: false,
            ended: false,
            produced: Produced::default(),
            plan,
        }
    }

    /// Begins to send if the run has started. The task of this connection also waits for the start, which
    /// polls this again.
    fn begin(&mut self) {
        if let Some(window) = self.part.progress.start.window() {
            (self.window, self.has_begun) = (window, true);
            self.meter.borrow_mut().begin(window);
            self.pacer.begin(window);
        }
    }

    /// Appends a request whose messages should be sent at `intended`.
    fn send(&mut self, intended: Instant, count: u64) {
        let Some(producer) = &mut self.producer else { return };
        let size = self.plan.size;
        let intended_ns = self.plan.clock_ns(intended);
        let (keys, first) = (&self.keys, self.pacer.sequence());
        for (payload, number) in self.payloads.chunks_exact_mut(size).take(count as usize).zip(first..) {
            self.plan.stamp(self.part.number, number, intended_ns).0.write(payload);
        }
        let payloads = self.payloads.chunks_exact(size).take(count as usize).zip(first..);
        let records = payloads.map(|(payload, number)| {
            let key = if keys.is_empty() { &[][..] } else { &keys[(number % keys.len() as u64) as usize] };
            Record::keyed(key, payload)
        });
        producer.send(Some(self.plan.ttl), None, records, count, &mut self.pbs);
        self.pbs_in_frame += 1;
        self.outstanding.push(intended, count);
        self.pacer.sent(count);
    }

    /// Puts the collected requests into a frame.
    fn frame(&mut self, wire: &mut Wire) {
        if let Some(producer) = &self.producer {
            producer.frame(&self.pbs, &mut wire.sender, &mut wire.out);
        }
        self.pbs.clear();
        self.pbs_in_frame = 0;
    }

    fn settle(&mut self, count: u64, outcome: &Outcome) {
        let now = Instant::now();
        let failure = (!outcome.code.is_success()).then(|| outcome.to_string());
        let Self { outstanding, produced, meter, window, .. } = self;
        let mut meter = meter.borrow_mut();
        outstanding.settle(count, |intended, count| {
            produced.answered(*window, &mut meter, (intended, now), count, failure.as_deref());
        });
    }
}

impl Application for LoadProducer {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let Some(mut producer) = self.producer.take() else { return Ok(()) };
        let handled = producer.handle_data(piece, fin, |event| match event {
            ProduceEvent::Accepted => {}
            ProduceEvent::Spoken { count, outcome } => self.settle(count, &outcome),
            ProduceEvent::Failed(outcome) => self.produced.failure = Some(outcome.to_string()),
            ProduceEvent::Ended => self.ended = true,
        });
        self.producer = Some(producer);
        Ok(handled?)
    }

    fn poll(&mut self, _cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        let now = Instant::now();
        let Some(producer) = &self.producer else {
            self.producer = Some(Producer::start(&self.queue, &mut wire.sender, &mut wire.out));
            return Ok(Next::Wait);
        };
        if producer.is_answered() {
            self.arrival.arrive();
        }
        if self.ended {
            return Ok(Next::Done);
        }
        if self.finished {
            return Ok(Next::Wait);
        }
        if !self.has_begun {
            self.begin();
        }
        if !self.has_begun {
            return Ok(Next::Wait);
        }
        self.pacer.look();
        let mut gathered = 0;
        let mut next = Next::Wait;
        while let Some(producer) = &self.producer {
            let (credit, outstanding) = (producer.credit(), producer.outstanding());
            let whole = self.plan.in_flight.unwrap_or(u64::MAX).min(credit + outstanding);
            let room = Room { now: whole.saturating_sub(outstanding), whole };
            match self.pacer.next(now, room) {
                Pace::Send { intended, count } => self.send(intended, count),
                Pace::At(at) => {
                    next = Next::At(at);
                    break;
                }
                Pace::Wait => break,
                Pace::Over => {
                    self.finished = true;
                    break;
                }
            }
            if self.pbs_in_frame >= self.plan.pbs_per_frame {
                gathered += self.pbs.len();
                self.frame(wire);
            }
            if gathered >= GATHER_BYTES {
                next = Next::Again;
                break;
            }
        }
        if !self.pbs.is_empty() {
            self.frame(wire);
        }
        self.pacer.publish();
        if self.finished {
            self.produced.unsent = self.pacer.give_up(now, &mut self.meter.borrow_mut());
            if let Some(producer) = &mut self.producer {
                producer.finish(&mut wire.sender, &mut wire.out);
            }
        }
        Ok(next)
    }

    fn operation(&mut self) -> Option<&mut dyn Renewable> {
        self.producer.as_mut().map(|producer| producer as &mut dyn Renewable)
    }
}

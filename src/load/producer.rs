//! One producing connection under load.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use super::meter::Meter;
use super::pacer::{Pace, Pacer};
use super::part::Part;
use super::plan::Plan;
use super::window::{GRACE, Window};
use crate::base::batch::Record;
use crate::client::session::{Outcome, ProduceEvent, Producer};
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
    queue: String,
    number: u32,
    window: Window,
    pacer: Pacer,
    meter: Rc<RefCell<Meter>>,
    producer: Option<Producer>,
    payloads: Vec<u8>,
    keys: Vec<Vec<u8>>,
    pbs: Vec<u8>,
    pbs_in_frame: usize,
    /// The intended send times of unacknowledged messages.
    outstanding: Outstanding,
    /// Since when the connection has had some credit, but less than a request needs, and nothing in flight.
    stuck: Option<Instant>,
    finished: bool,
    ended: bool,
    pub produced: Produced,
}

impl LoadProducer {
    pub(super) fn new(part: Part, meter: Rc<RefCell<Meter>>) -> Self {
        let (queue, pacer) = (part.queue(), Pacer::new(part.clone()));
        let Part { plan, number, window, .. } = part;
        Self {
            pacer,
            payloads: vec![b'.'; plan.batch * plan.size],
            keys: plan.keys(),
            queue,
            number,
            window,
            meter,
            producer: None,
            pbs: Vec::new(),
            pbs_in_frame: 0,
            outstanding: Outstanding::default(),
            stuck: None,
            finished: false,
            ended: false,
            produced: Produced::default(),
            plan,
        }
    }

    /// Appends a request whose messages should be sent at `intended`.
    fn send(&mut self, intended: Instant, count: u64) {
        let Some(producer) = &mut self.producer else { return };
        let size = self.plan.size;
        let intended_ns = self.plan.clock_ns(intended);
        let (keys, first) = (&self.keys, self.pacer.sequence());
        for (payload, number) in self.payloads.chunks_exact_mut(size).take(count as usize).zip(first..) {
            self.plan.stamp(self.number, number, intended_ns).0.write(payload);
        }
        let payloads = self.payloads.chunks_exact(size).take(count as usize).zip(first..);
        let records = payloads.map(|(payload, number)| {
            let key = if keys.is_empty() { &[][..] } else { &keys[(number % keys.len() as u64) as usize] };
            Record { key, payload }
        });
        producer.send(self.plan.ttl, records, count, &mut self.pbs);
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

    /// Fails if the server's credit stays below the size of a request, because waiting for more would never
    /// end.
    fn look_for_credit(&mut self, now: Instant, next: Next) -> Result<Next, ClientError> {
        let Some(producer) = &self.producer else { return Ok(next) };
        let (credit, batch) = (producer.credit(), self.plan.batch as u64);
        if producer.outstanding() > 0 || credit == 0 || credit >= batch || self.pacer.is_at_end() {
            self.stuck = None;
            return Ok(next);
        }
        let until = *self.stuck.get_or_insert(now) + GRACE;
        if now >= until {
            let why = format!(
                "the server grants credit for only {credit} messages, and a request has {batch}; lower --batch"
            );
            return Err(ClientError::Broken(why));
        }
        Ok(match next {
            Next::At(at) => Next::At(at.min(until)),
            Next::Wait => Next::At(until),
            other => other,
        })
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
        if self.producer.is_none() {
            self.producer = Some(Producer::start(&self.queue, &mut wire.sender, &mut wire.out));
        }
        if self.ended {
            return Ok(Next::Done);
        }
        if self.finished {
            return Ok(Next::Wait);
        }
        self.pacer.look(now);
        let mut gathered = 0;
        let mut next = Next::Wait;
        while let Some(producer) = &self.producer {
            let in_flight = self.plan.in_flight.unwrap_or(u64::MAX).saturating_sub(producer.outstanding());
            let last = (producer.outstanding() == 0).then_some(producer.credit());
            match self.pacer.next(now, producer.credit().min(in_flight), last) {
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
        next = self.look_for_credit(now, next)?;
        self.pacer.publish();
        if self.finished {
            self.produced.unsent = self.pacer.give_up(now, &mut self.meter.borrow_mut());
            if let Some(producer) = &mut self.producer {
                producer.finish(&mut wire.sender, &mut wire.out);
            }
        }
        Ok(next)
    }
}

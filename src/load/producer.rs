//! One producing connection under load.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::{Duration, Instant};

use super::meter::Meter;
use super::plan::Plan;
use super::progress::{Progress, sum};
use super::window::{GRACE, Schedule, Window};
use crate::batch::Record;
use crate::client::{Application, ClientError, Next, Wire};
use crate::latency::Outstanding;
use crate::session::client::{Outcome, ProduceEvent, Producer};

/// A frame's pbs are gathered up to so many bytes before the socket gets them.
const GATHER_BYTES: usize = 64 << 10;

/// How often a producer that is far ahead of the consumers looks whether they have come closer.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// What one connection did.
#[derive(Clone, Debug, Default)]
pub(super) struct Produced {
    pub acknowledged: u64,
    /// Within the measured window.
    pub acknowledged_measured: u64,
    pub refused: u64,
    /// Due by the schedule, and never sent.
    pub unsent: u64,
    pub failure: Option<String>,
}

/// See the module's page.
pub(super) struct LoadProducer {
    plan: Arc<Plan>,
    queue: String,
    number: u32,
    /// The producers and the consumers of its queue.
    users: (Vec<u32>, Vec<u32>),
    window: Window,
    progress: Arc<Progress>,
    producer: Option<Producer>,
    meter: Rc<RefCell<Meter>>,
    /// Of an open loop, from its first look on.
    schedule: Option<Schedule>,
    /// Messages sent.
    sequence: u64,
    /// How many are to be sent in all.
    count: u64,
    /// Messages that one connection may have outstanding.
    outstanding_max: u64,
    requests: u64,
    payloads: Vec<u8>,
    keys: Vec<Vec<u8>>,
    pbs: Vec<u8>,
    pbs_in_frame: usize,
    /// From their intended send times.
    outstanding: Outstanding,
    finished: bool,
    ended: bool,
    pub produced: Produced,
}

impl LoadProducer {
    pub(super) fn new(
        plan: Arc<Plan>,
        number: u32,
        window: Window,
        progress: Arc<Progress>,
        meter: Rc<RefCell<Meter>>,
    ) -> Self {
        let connections = u64::from(plan.producers);
        let queue = plan.queue_of(number);
        let count = plan.count.map_or(u64::MAX, |count| {
            count / connections + u64::from(u64::from(number) < count % connections)
        });
        Self {
            payloads: vec![b'.'; plan.batch * plan.size],
            keys: plan.keys(),
            users: (plan.users_of(&queue, plan.producers()), plan.users_of(&queue, plan.consumers())),
            queue,
            number,
            window,
            progress,
            producer: None,
            meter,
            schedule: None,
            sequence: 0,
            count,
            outstanding_max: plan.in_flight.unwrap_or(u64::MAX),
            requests: 0,
            pbs: Vec::new(),
            pbs_in_frame: 0,
            outstanding: Outstanding::default(),
            finished: false,
            ended: false,
            produced: Produced::default(),
            plan,
        }
    }

    /// How many more messages may be sent before the queue's slowest consumer has caught up.
    fn lead(&self) -> u64 {
        if self.plan.rate.is_some() {
            return u64::MAX;
        }
        let (producers, consumers) = &self.users;
        let received = consumers.iter().map(|number| sum(&self.progress.received, &[*number])).min();
        received.map_or(u64::MAX, |received| {
            let ahead = sum(&self.progress.sent, producers).saturating_sub(received);
            self.plan.lag.saturating_sub(ahead) / producers.len().max(1) as u64
        })
    }

    /// One request whose messages should be sent at `intended`.
    fn send(&mut self, intended: Instant, count: u64) {
        let Some(producer) = &mut self.producer else { return };
        let size = self.plan.size;
        let intended_ns = self.plan.clock_ns(intended);
        let (keys, first) = (&self.keys, self.sequence);
        for (payload, number) in self.payloads.chunks_exact_mut(size).take(count as usize).zip(first..) {
            self.plan.stamp(self.number, number, intended_ns).0.write(payload);
        }
        self.sequence += count;
        let payloads = self.payloads.chunks_exact(size).take(count as usize).zip(first..);
        let records = payloads.map(|(payload, number)| {
            let key = if keys.is_empty() { &[][..] } else { &keys[(number % keys.len() as u64) as usize] };
            Record { key, payload }
        });
        producer.send(self.plan.ttl, records, count, &mut self.pbs);
        self.pbs_in_frame += 1;
        self.outstanding.push(intended, count);
        self.requests += 1;
    }

    /// Frames the requests that were gathered.
    fn frame(&mut self, wire: &mut Wire) {
        if let Some(producer) = &self.producer {
            producer.frame(&self.pbs, &mut wire.sender, &mut wire.out);
        }
        self.pbs.clear();
        self.pbs_in_frame = 0;
    }

    fn settle(&mut self, count: u64, outcome: &Outcome) {
        let now = Instant::now();
        let is_stored = outcome.code.is_success();
        if is_stored {
            self.produced.acknowledged += count;
            self.produced.acknowledged_measured += if self.window.holds(now) { count } else { 0 };
        } else {
            self.produced.refused += count;
            self.produced.failure.get_or_insert_with(|| outcome.to_string());
        }
        let mut meter = self.meter.borrow_mut();
        self.outstanding.settle(count, |intended, count| {
            if is_stored {
                meter.acknowledged(now, intended, count);
            } else {
                meter.answered(now, intended, count);
            }
        });
    }

    /// Requests that the schedule still has; they are sent even if the window is over, for as long as [`GRACE`] lasts.
    fn overdue(&self) -> u64 {
        let due = self.schedule.map_or(0, |schedule| schedule.requests_before(self.window.until));
        due.saturating_sub(self.requests)
    }

    fn is_over(&self, now: Instant) -> bool {
        let is_past = now >= self.window.until && (self.overdue() == 0 || now >= self.window.until + GRACE);
        self.sequence >= self.count || is_past || self.progress.has_failed()
    }

    /// What was due and not sent took until now at least: it counts as that, so that a server that takes nothing looks no better for it.
    fn give_up_overdue(&mut self, now: Instant) {
        let Some(schedule) = self.schedule.filter(|_| self.plan.is_timed()) else { return };
        let mut meter = self.meter.borrow_mut();
        for request in self.requests..self.requests + self.overdue() {
            self.produced.unsent += self.plan.batch as u64;
            meter.answered(now, schedule.due(request), self.plan.batch as u64);
        }
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
            let Plan { batch, producers, .. } = *self.plan;
            self.schedule =
                self.plan.rate.map(|rate| Schedule::new(now, rate, batch, self.number, producers));
        }
        if self.ended {
            return Ok(Next::Done);
        }
        if self.finished {
            return Ok(Next::Wait);
        }
        if self.is_over(now) {
            self.finished = true;
            self.give_up_overdue(now);
            if let Some(producer) = &mut self.producer {
                producer.finish(&mut wire.sender, &mut wire.out);
            }
            return Ok(Next::Wait);
        }
        // The end of its time is an event, too.
        let mut next = match self.window.until {
            _ if self.plan.count.is_some() => Next::Wait,
            until if now < until => Next::At(until),
            until => Next::At(until + GRACE),
        };
        let last = self.schedule.map_or(u64::MAX, |schedule| match self.plan.is_timed() {
            true => schedule.requests_before(self.window.until),
            false => u64::MAX,
        });
        let mut gathered = 0;
        let mut lead = self.lead();
        while let Some(producer) = &self.producer {
            let room = self.outstanding_max.saturating_sub(producer.outstanding()).min(producer.credit());
            let count = (self.plan.batch as u64).min(self.count - self.sequence);
            if count == 0 || room < count || self.requests >= last {
                break;
            }
            if lead < count {
                next = Next::At(now + LOOK_EVERY);
                break;
            }
            lead -= count;
            let intended = match self.schedule {
                Some(schedule) => {
                    let due = schedule.due(self.requests);
                    if due > now {
                        next = match next {
                            Next::At(until) => Next::At(until.min(due)),
                            _ => Next::At(due),
                        };
                        break;
                    }
                    due
                }
                None => Instant::now(),
            };
            self.send(intended, count);
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
        self.progress.sent[self.number as usize].store(self.sequence, Ordering::Release);
        Ok(next)
    }
}

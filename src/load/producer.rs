//! One producing connection under load.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::plan::Plan;
use super::stamp::Stamp;
use super::{Progress, Window, sum};
use crate::batch::Record;
use crate::client::{Application, ClientError, Next, Wire};
use crate::latency::{self, Outstanding};
use crate::session::client::{Outcome, ProduceEvent, Producer};

/// A frame's pbs are gathered up to so many bytes before the socket gets them.
const GATHER_BYTES: usize = 64 << 10;

/// How often a producer that is far ahead of the consumers looks whether they have come closer.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// What one connection did.
#[derive(Debug)]
pub(super) struct Produced {
    pub acknowledged: u64,
    /// Within the measured window.
    pub acknowledged_measured: u64,
    pub refused: u64,
    pub latency: Histogram<u64>,
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
    /// The first intended send time of an open loop.
    began: Option<Instant>,
    sequence: u64,
    /// How many are to be sent in all.
    count: u64,
    /// Messages that one connection may have outstanding.
    outstanding_max: u64,
    /// Seconds between two requests of an open loop.
    interval: Option<Duration>,
    requests: u64,
    payloads: Vec<u8>,
    pbs: Vec<u8>,
    pbs_in_frame: usize,
    /// From their intended send times.
    outstanding: Outstanding,
    finished: bool,
    ended: bool,
    pub produced: Produced,
}

impl LoadProducer {
    pub(super) fn new(plan: Arc<Plan>, number: u32, window: Window, progress: Arc<Progress>) -> Self {
        let connections = u64::from(plan.producers);
        let queue = plan.queue_of(number);
        let interval =
            plan.rate.map(|rate| Duration::from_secs_f64(plan.batch as f64 * connections as f64 / rate));
        let count = plan.count.map_or(u64::MAX, |count| {
            count / connections + u64::from(u64::from(number) < count % connections)
        });
        Self {
            payloads: vec![b'.'; plan.batch * plan.size],
            users: (plan.users_of(&queue, plan.producers()), plan.users_of(&queue, plan.consumers())),
            queue,
            number,
            window,
            progress,
            producer: None,
            began: None,
            sequence: 0,
            count,
            outstanding_max: plan.in_flight.unwrap_or(u64::MAX),
            interval,
            requests: 0,
            pbs: Vec::new(),
            pbs_in_frame: 0,
            outstanding: Outstanding::default(),
            finished: false,
            ended: false,
            produced: Produced {
                acknowledged: 0,
                acknowledged_measured: 0,
                refused: 0,
                latency: latency::histogram(),
                failure: None,
            },
            plan,
        }
    }

    /// How many more messages may be sent before the queue's slowest consumer has caught up.
    fn lead(&self) -> u64 {
        if self.interval.is_some() {
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
        let intended_ns = intended.saturating_duration_since(self.plan.epoch).as_nanos() as u64;
        for payload in self.payloads.chunks_exact_mut(size).take(count as usize) {
            let stamp =
                Stamp { run: self.plan.run, producer: self.number, sequence: self.sequence, intended_ns };
            stamp.write(payload);
            self.sequence += 1;
        }
        let payloads = self.payloads.chunks_exact(size).take(count as usize);
        let records = payloads.map(|payload| Record { key: &[], payload });
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
        let measured = self.window.holds(now);
        if outcome.code.is_success() {
            self.produced.acknowledged += count;
            self.produced.acknowledged_measured += if measured { count } else { 0 };
        } else {
            self.produced.refused += count;
            self.produced.failure.get_or_insert_with(|| outcome.to_string());
        }
        self.outstanding.settle(count, now, measured.then_some(&mut self.produced.latency));
    }

    fn is_over(&self, now: Instant) -> bool {
        self.sequence >= self.count
            || (self.plan.count.is_none() && now >= self.window.until)
            || self.progress.failed.load(Ordering::Relaxed)
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
            // The connections of an open loop do not send at the same moment.
            let phase = f64::from(self.number) / f64::from(self.plan.producers);
            self.began = Some(now + self.interval.map_or(Duration::ZERO, |interval| interval.mul_f64(phase)));
        }
        if self.ended {
            return Ok(Next::Done);
        }
        if self.finished {
            return Ok(Next::Wait);
        }
        if self.is_over(now) {
            self.finished = true;
            if let Some(producer) = &mut self.producer {
                producer.finish(&mut wire.sender, &mut wire.out);
            }
            return Ok(Next::Wait);
        }
        // The end of its time is an event, too.
        let mut next = if self.plan.count.is_some() { Next::Wait } else { Next::At(self.window.until) };
        let mut gathered = 0;
        let mut lead = self.lead();
        while let Some(producer) = &self.producer {
            let room = self.outstanding_max.saturating_sub(producer.outstanding()).min(producer.credit());
            let count = (self.plan.batch as u64).min(self.count - self.sequence);
            if count == 0 || room < count {
                break;
            }
            if lead < count {
                next = Next::At(now + LOOK_EVERY);
                break;
            }
            lead -= count;
            let intended = match (self.interval, self.began) {
                (Some(interval), Some(began)) => {
                    let due = began + interval.mul_f64(self.requests as f64);
                    if due > now {
                        next = match next {
                            Next::At(until) => Next::At(until.min(due)),
                            _ => Next::At(due),
                        };
                        break;
                    }
                    due
                }
                _ => Instant::now(),
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

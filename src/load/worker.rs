//! One claiming connection under load.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use super::claiming::{Claiming, Group, Worked};
use super::meter::Meter;
use super::part::Part;
use super::setup::Arrival;
use crate::client::session::{ClaimEvent, ClaimOptions, Claimer, Renewable, Settle};
use crate::client::{Application, ClientError, Next, Wire};

/// How often a worker checks whether everything is acknowledged, and whether claims are over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A worker that acknowledges, verifies and measures what it claims.
pub(super) struct LoadWorker {
    part: Part,
    claimer: Option<Claimer>,
    claiming: Claiming,
    /// What arrived since the last request.
    groups: Vec<Group>,
    /// How many messages are acknowledged.
    acknowledged: u64,
    meter: Rc<RefCell<Meter>>,
    arrival: Arrival,
    has_begun: bool,
    finished: bool,
}

impl LoadWorker {
    pub(super) fn new(part: Part, meter: Rc<RefCell<Meter>>) -> Self {
        Self {
            claiming: Claiming::new(part.clone()),
            arrival: Arrival::new(part.progress.clone()),
            part,
            claimer: None,
            groups: Vec::new(),
            acknowledged: 0,
            meter,
            has_begun: false,
            finished: false,
        }
    }

    pub(super) fn worked(self) -> Worked {
        let failure = self.claimer.as_ref().and_then(Claimer::failure).map(ToString::to_string);
        self.claiming.worked(failure)
    }

    /// Begins to claim if the run has started.
    fn begin(&mut self) {
        if let Some(window) = self.part.progress.start.window() {
            self.has_begun = true;
            self.meter.borrow_mut().begin(window);
            self.claiming.measure(window);
        }
    }
}

impl Application for LoadWorker {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let Some(mut claimer) = self.claimer.take() else { return Ok(()) };
        // Any answer means that the setup was answered.
        self.arrival.arrive();
        let Self { meter, claiming, acknowledged, .. } = self;
        let mut meter = meter.borrow_mut();
        let now = Instant::now();
        // Consecutive messages to acknowledge.
        let mut acks = 0..0;
        let mut settled = Vec::new();
        claiming.begin(now, &mut meter);
        let handled = claimer.handle_data(piece, fin, |event| match event {
            ClaimEvent::Message(number, message) => {
                if claiming.handle(number, message.payload.unwrap_or_default(), &mut meter) {
                    if acks.end != number {
                        settled.push(std::mem::replace(&mut acks, number..number));
                    }
                    acks.end = number + 1;
                }
            }
            ClaimEvent::Settled(requests) => claiming.confirm(now, requests, &mut meter),
            ClaimEvent::Lost(numbers) => claiming.lose(&numbers),
            ClaimEvent::Claimed(..) | ClaimEvent::LostClaim(_) => {}
        });
        settled.push(acks);
        for numbers in settled.into_iter().filter(|numbers| !numbers.is_empty()) {
            *acknowledged += numbers.end - numbers.start;
            claimer.settle(numbers, Settle::Ack);
        }
        self.groups.extend(claiming.end(&mut meter));
        drop(meter);
        self.claimer = Some(claimer);
        Ok(handled?)
    }

    fn poll(&mut self, _cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        let (Wire { sender, out, .. }, now) = (wire, Instant::now());
        let claimer = self.claimer.get_or_insert_with(|| {
            let options = ClaimOptions {
                queue: self.part.queue(),
                ttl: Some(self.part.plan.lease),
                ..ClaimOptions::default()
            };
            Claimer::start(&options, sender, out)
        });
        if claimer.is_ended() {
            return Ok(Next::Done);
        }
        if self.finished {
            return Ok(Next::Wait);
        }
        claimer.grant(self.acknowledged + self.part.plan.claim_window);
        let request = claimer.poll_transmit(sender, out);
        self.groups.drain(..).for_each(|group| self.claiming.acknowledge(request, group));
        self.claiming.expire(now);
        if self.claiming.is_over(now) {
            self.finished = true;
            claimer.finish(sender, out);
            return Ok(Next::Wait);
        }
        if !self.has_begun {
            self.begin();
        }
        Ok(Next::At(now + LOOK_EVERY))
    }

    fn operation(&mut self) -> Option<&mut dyn Renewable> {
        self.claimer.as_mut().map(|claimer| claimer as &mut dyn Renewable)
    }
}

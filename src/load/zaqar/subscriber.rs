//! One connection that receives notifications.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use super::super::meter::Meter;
use super::super::part::Part;
use super::super::reading::{Consumed, Reading};
use super::super::setup::Arrival;
use super::answer::notification;
use super::load::Load;
use super::opening::Opening;
use super::requests::Requests;
use super::template::stamp_of;
use crate::client::session::Renewable;
use crate::client::zaqar::Whole;
use crate::client::{Application, ClientError, Next, Wire};

/// How often a subscriber checks whether the posts have ended. There may be thousands of subscribers.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A subscriber that verifies and measures every notification.
pub(super) struct Subscriber {
    load: Arc<Load>,
    part: Part,
    requests: Requests,
    opening: Opening,
    whole: Whole,
    reading: Reading,
    meter: Rc<RefCell<Meter>>,
    arrival: Arrival,
    has_begun: bool,
}

impl Subscriber {
    pub(super) fn new(load: Arc<Load>, part: Part, meter: Rc<RefCell<Meter>>, token: Option<String>) -> Self {
        Self {
            requests: Requests::new(&load, part.queue()),
            opening: Opening::of_subscriber(&load, token),
            whole: Whole::default(),
            reading: Reading::new(part.clone()),
            meter,
            arrival: Arrival::new(part.progress.clone()),
            has_begun: false,
            part,
            load,
        }
    }

    pub(super) fn consumed(self) -> Consumed {
        self.reading.consumed(None)
    }

    fn handle(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        if !self.opening.is_over() {
            return self.opening.handle(bytes);
        }
        let mut meter = self.meter.borrow_mut();
        self.reading.begin(Instant::now(), &mut meter);
        notification(self.load.format, bytes, |body| {
            let stamp = stamp_of(body);
            self.reading.handle(stamp.as_ref().map_or(&[], |stamp| &stamp[..]), &mut meter);
        })?;
        self.reading.end(&mut meter);
        Ok(())
    }
}

impl Application for Subscriber {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let mut whole = std::mem::take(&mut self.whole);
        let handled = whole.handle(piece, fin, |bytes| self.handle(bytes));
        self.whole = whole;
        handled
    }

    fn poll(&mut self, _cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        if let Some(request) = self.opening.next(&self.requests)? {
            self.load.format.send(wire, &request);
        }
        if !self.opening.is_over() {
            return Ok(Next::Wait);
        }
        self.arrival.arrive();
        if !self.has_begun
            && let Some(window) = self.part.progress.start.window()
        {
            self.has_begun = true;
            self.meter.borrow_mut().begin(window);
            self.reading.measure(window);
        }
        let now = Instant::now();
        Ok(if self.has_begun && self.reading.is_over(now) { Next::Done } else { Next::At(now + LOOK_EVERY) })
    }

    fn operation(&mut self) -> Option<&mut dyn Renewable> {
        None
    }
}

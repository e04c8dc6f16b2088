//! One connection that sends requests.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use serde_json::Value;

use super::super::meter::Meter;
use super::super::pacer::{Pace, Pacer, Room};
use super::super::part::Part;
use super::super::producer::Produced;
use super::super::setup::Arrival;
use super::super::window::{GRACE, Window};
use super::load::Load;
use super::opening::Opening;
use super::requests::Requests;
use super::work::{Meaning, Purpose, Work, stock_batch};
use crate::client::session::Renewable;
use crate::client::zaqar::{Whole, reason};
use crate::client::{Application, ClientError, Next, Wire};

/// How many bytes of requests to collect before the socket gets them.
const GATHER_BYTES: usize = 64 << 10;

/// What one connection has done.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Its measured requests, or rounds, or the messages of its posts.
    pub produced: Produced,
    /// How many answers had each status.
    pub statuses: BTreeMap<u16, u64>,
    /// How many claims found nothing, and how many messages the others took.
    pub empty: u64,
    pub claimed: u64,
    /// How many messages the page of a list had before the run began.
    pub page: Option<usize>,
}

/// A request without an answer.
#[derive(Debug)]
struct UnderWay {
    purpose: Purpose,
    intended: Instant,
}

/// A connection that sends requests and measures their answers.
pub(super) struct Caller {
    load: Arc<Load>,
    part: Part,
    requests: Requests,
    opening: Opening,
    /// The requests after the opening.
    work: Option<Work>,
    whole: Whole,
    under_way: VecDeque<UnderWay>,
    /// The window of the run, once it has started.
    window: Option<Window>,
    pacer: Pacer,
    meter: Rc<RefCell<Meter>>,
    arrival: Arrival,
    /// Whether no new request is sent.
    is_over: bool,
    tally: Tally,
}

impl Caller {
    pub(super) fn new(load: Arc<Load>, part: Part, meter: Rc<RefCell<Meter>>, token: Option<String>) -> Self {
        let (connections, number) = (u64::from(load.plan.producers), u64::from(part.number));
        let stock = load.stock / connections + u64::from(number < load.stock % connections);
        Self {
            requests: Requests::new(&load, part.queue()),
            opening: Opening::of_caller(&load, token, stock, stock_batch(&load)),
            work: None,
            whole: Whole::default(),
            under_way: VecDeque::new(),
            window: None,
            pacer: Pacer::new(part.clone()),
            meter,
            arrival: Arrival::new(part.progress.clone()),
            is_over: false,
            tally: Tally::default(),
            part,
            load,
        }
    }

    pub(super) fn tally(mut self) -> Tally {
        self.tally.claimed = self.work.as_ref().map_or(0, Work::claimed);
        self.tally.page = self.opening.page;
        self.tally
    }

    /// Returns how many units of the plan a request counts as.
    fn units(&self) -> u64 {
        self.load.plan.batch as u64
    }

    /// Handles a whole message.
    fn handle(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let Some(work) = &mut self.work else { return self.opening.handle(bytes) };
        let Some(UnderWay { purpose, intended }) = self.under_way.pop_front() else {
            return Err(ClientError::Broken("an answer without a request".into()));
        };
        let (status, meaning) = work.handle(purpose, intended, bytes)?;
        *self.tally.statuses.entry(status).or_default() += 1;
        let now = Instant::now();
        let window = self.window.unwrap_or_else(|| Window::unset(now));
        let units = self.units();
        let mut meter = self.meter.borrow_mut();
        match meaning {
            Meaning::Continues => {}
            Meaning::Empty => self.tally.empty += 1,
            Meaning::Done => {
                self.tally.produced.answered(window, &mut meter, (intended, now), units, None);
            }
            Meaning::Refused => {
                let answer = self.load.format.read::<Value>(bytes).unwrap_or_default();
                let action = answer["request"]["action"].as_str().unwrap_or("a request");
                let why = format!("{action}: {status} {}", reason(&answer["body"]));
                self.tally.produced.answered(window, &mut meter, (intended, now), units, Some(&why));
            }
        }
        Ok(())
    }

    /// Starts the requests if the opening is over and the run has started. Returns whether they have started.
    fn begin(&mut self) -> Result<bool, ClientError> {
        if self.work.is_none() {
            let ids = std::mem::take(&mut self.opening.posted);
            self.work = Some(Work::new(&self.load, &self.requests, self.opening.stored, ids)?);
            self.arrival.arrive();
        }
        if self.window.is_none()
            && let Some(window) = self.part.progress.start.window()
        {
            self.window = Some(window);
            self.meter.borrow_mut().begin(window);
            self.pacer.begin(window);
        }
        Ok(self.window.is_some())
    }

    /// Sends the requests that are due.
    fn send(&mut self, now: Instant, wire: &mut Wire) -> Result<Next, ClientError> {
        let (format, depth, units) = (self.load.format, self.load.depth, self.units());
        let full = wire.out.len() + GATHER_BYTES;
        self.pacer.look();
        let Some(work) = &mut self.work else { return Ok(Next::Wait) };
        loop {
            if wire.out.len() >= full {
                return Ok(Next::Again);
            }
            let left = depth.saturating_sub(self.under_way.len());
            if left > 0
                && let Some((purpose, intended, request)) = work.extra(self.is_over)
            {
                format.send(wire, &request);
                self.under_way.push_back(UnderWay { purpose, intended: intended.unwrap_or(now) });
                continue;
            }
            if self.is_over {
                return Ok(Next::Wait);
            }
            let left = if work.is_ready() { left as u64 } else { 0 };
            let room = Room { now: left * units, whole: depth as u64 * units };
            match self.pacer.next(now, room) {
                Pace::Send { intended, count } => {
                    let (plan, number, first) = (&self.load.plan, self.part.number, self.pacer.sequence());
                    let intended_ns = plan.clock_ns(intended);
                    let stamp = |message| plan.stamp(number, first + message, intended_ns).0;
                    work.measured(stamp, |request| format.send(wire, request))?;
                    self.under_way.push_back(UnderWay { purpose: Purpose::Measured, intended });
                    self.pacer.sent(count);
                }
                Pace::At(at) => return Ok(Next::At(at)),
                Pace::Wait => return Ok(Next::Wait),
                Pace::Over => {
                    self.is_over = true;
                    self.tally.produced.unsent = self.pacer.give_up(now, &mut self.meter.borrow_mut());
                }
            }
        }
    }

    /// Gives up requests that the server has not answered within the grace period.
    fn give_up(&mut self, now: Instant) {
        let waiting = self.under_way.len();
        let window = self.window.unwrap_or_else(|| Window::unset(now));
        let why = format!("{waiting} requests were not answered within {} s", GRACE.as_secs());
        let units = self.units();
        let mut meter = self.meter.borrow_mut();
        for request in self.under_way.drain(..).filter(|request| request.purpose != Purpose::Post) {
            let times = (request.intended, now);
            self.tally.produced.answered(window, &mut meter, times, units, Some(&why));
        }
    }
}

impl Application for Caller {
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
        if !self.opening.is_over() || !self.begin()? {
            return Ok(Next::Wait);
        }
        let now = Instant::now();
        let next = self.send(now, wire)?;
        self.pacer.publish();
        if !self.is_over {
            return Ok(next);
        }
        let until = self.window.map_or(now, |window| window.until.min(now) + GRACE);
        if now >= until {
            self.give_up(now);
        }
        if self.under_way.is_empty() {
            return Ok(Next::Done);
        }
        Ok(match next {
            Next::Wait => Next::At(until),
            next => next,
        })
    }

    fn operation(&mut self) -> Option<&mut dyn Renewable> {
        None
    }
}

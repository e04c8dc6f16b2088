//! One consuming connection under load.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use super::meter::Meter;
use super::part::Part;
use super::plan::Mode;
use super::reading::{Consumed, Reading};
use super::setup::Arrival;
use super::window::Window;
use crate::client::session::{ConsumeOptions, Consumer, Renewable};
use crate::client::{Application, ClientError, Next, Wire};

/// How often a consumer checks whether the producers have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A consumer that verifies and measures every message of its queue.
pub(super) struct LoadConsumer {
    part: Part,
    queue: String,
    consumer: Option<Consumer>,
    reading: Reading,
    meter: Rc<RefCell<Meter>>,
    arrival: Arrival,
    /// The window of the run, once it has started.
    window: Option<Window>,
    finished: bool,
}

impl LoadConsumer {
    pub(super) fn new(part: Part, meter: Rc<RefCell<Meter>>) -> Self {
        let queue = part.queue();
        Self {
            reading: Reading::new(part.clone()),
            arrival: Arrival::new(part.progress.clone()),
            part,
            queue,
            consumer: None,
            meter,
            window: None,
            finished: false,
        }
    }

    pub(super) fn consumed(self) -> Consumed {
        let failure = self.consumer.as_ref().and_then(Consumer::failure).map(ToString::to_string);
        self.reading.consumed(failure)
    }
}

impl Application for LoadConsumer {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let Some(mut consumer) = self.consumer.take() else { return Ok(()) };
        // Any answer means that the setup was answered.
        self.arrival.arrive();
        let Self { meter, reading, .. } = self;
        let mut meter = meter.borrow_mut();
        reading.begin(Instant::now(), &mut meter);
        let handled = consumer.handle_data(piece, fin, |message| {
            if let Some(payload) = message.payload {
                reading.handle(payload, &mut meter);
            }
        });
        reading.end(&mut meter);
        drop(meter);
        self.consumer = Some(consumer);
        Ok(handled?)
    }

    fn poll(&mut self, _cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        let Wire { sender, out, .. } = wire;
        let now = Instant::now();
        if self.window.is_none() {
            self.window = self.part.progress.start.window();
            if let Some(window) = self.window {
                self.meter.borrow_mut().begin(window);
                self.reading.measure(window);
            }
        }
        if self.part.plan.mode == Mode::Consume {
            // The setup asks for messages, so it waits for the start.
            self.arrival.arrive();
            match self.window {
                None => return Ok(Next::Wait),
                Some(Window { begins, .. }) if now < begins => return Ok(Next::At(begins)),
                Some(_) => {}
            }
        }
        if self.part.plan.repeat
            && self.window.is_some_and(|window| now < window.until)
            && self.consumer.take_if(|consumer| consumer.is_ended() && consumer.failure().is_none()).is_some()
        {
            self.reading.begin_again();
            self.finished = false;
        }
        self.reading.ask(now);
        let consumer = self.consumer.get_or_insert_with(|| {
            let options = ConsumeOptions {
                queue: self.queue.clone(),
                from: self.part.plan.from.clone(),
                echo: true,
                window: self.part.plan.consume_window,
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
        if self.reading.is_over(now) {
            self.finished = true;
            if let Some(consumer) = &mut self.consumer {
                consumer.finish(sender, out);
            }
            return Ok(Next::Wait);
        }
        Ok(Next::At(now + LOOK_EVERY))
    }

    fn operation(&mut self) -> Option<&mut dyn Renewable> {
        self.consumer.as_mut().map(|consumer| consumer as &mut dyn Renewable)
    }
}

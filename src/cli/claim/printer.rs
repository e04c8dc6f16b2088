//! Prints claimed messages, and acknowledges what was written.

use std::io::{self, BufWriter, Stdout, Write};
use std::pin::Pin;
use std::task::Context;

use async_channel::Receiver;
use futures_lite::Stream;

use super::super::message_form::MessageForm;
use super::stop::Stop;
use crate::client::session::Settle;
use crate::client::{Stage, Ticket, Worker};
use crate::pb::ReceivedMessage;

/// A worker that prints messages to standard output.
pub(super) struct Printer {
    out: BufWriter<Stdout>,
    form: MessageForm,
    /// The messages since the last flush.
    written: Vec<Ticket>,
    stop: Stop,
    stopped: Pin<Box<Receiver<()>>>,
    /// Why standard output could not be written.
    pub broken: Option<io::Error>,
}

impl Printer {
    pub(super) fn new(form: MessageForm, stop: Stop) -> Self {
        let out = BufWriter::with_capacity(256 << 10, io::stdout());
        let stopped = Box::pin(stop.soon());
        Self { out, form, written: Vec::new(), stop, stopped, broken: None }
    }
}

impl Worker for Printer {
    fn take(&mut self, ticket: Ticket, message: &ReceivedMessage<'_>) {
        if self.broken.is_some() || self.stop.has_begun() {
            return;
        }
        match self.form.write(message, &mut self.out) {
            Ok(()) => self.written.push(ticket),
            Err(error) => self.broken = Some(error),
        }
    }

    fn lose(&mut self, _: Ticket) {}

    fn poll(&mut self, cx: &mut Context<'_>, decisions: &mut Vec<(Ticket, Settle)>) -> Stage {
        if self.broken.is_none() {
            self.broken = self.out.flush().err();
        }
        if self.broken.is_some() {
            // Nobody knows how much of the rest was written.
            self.written.clear();
            self.stop.begin();
            return Stage::Done;
        }
        decisions.extend(self.written.drain(..).map(|ticket| (ticket, Settle::Ack)));
        if self.stopped.as_mut().poll_next(cx).is_ready() { Stage::Done } else { Stage::Open }
    }
}

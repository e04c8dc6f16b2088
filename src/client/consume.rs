//! Reads the messages of a queue, each once, across reconnects.
//!
//! After a lost connection, it resumes from its [`Place`]: the last marker, and the messages taken beyond it.

use std::task::{Context, Poll};
use std::time::Instant;

use super::driver::{Application, Next};
use super::end::{End, Look};
use super::error::ClientError;
use super::place::{Place, parse_id};
use super::resume::Resume;
use super::wire::Wire;
use crate::client::session::{ConsumeOptions, Consumer, Outcome, Renewable};
use crate::pb::ReceivedMessage;
use crate::ws::Sender;

/// A receiver of messages.
pub trait Sink {
    /// Handles a message, in the order in which the messages arrived.
    fn handle(&mut self, message: &ReceivedMessage<'_>);

    /// Returns ready once the consumer must stop. A pending sink wakes `cx` then.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A consumer that survives reconnects.
#[derive(Debug)]
pub struct Consume<S> {
    options: ConsumeOptions,
    /// The receiver of the messages.
    pub sink: S,
    /// How many messages the sink got.
    pub received: u64,
    /// The position after the last message that the sink got.
    place: Place,
    /// Whether the server sent more than was asked for, as it may. Its markers point past the surplus, so
    /// they are ignored.
    surplus: bool,
    consumer: Option<Consumer>,
    /// How many operations the server accepted before the current one.
    operations: u64,
    finishing: bool,
    /// The end of the queue, for a consumer that stops there.
    end: Option<End>,
    /// Whether the current operation only determines the end of the queue.
    probing: bool,
    /// Whether the current operation ends, and another one replaces it.
    beginning_again: bool,
}

impl<S: Sink> Consume<S> {
    /// Creates a consumer that has not started. `options.from` may also be a result of
    /// [`Self::resume_marker`].
    pub fn new(options: ConsumeOptions, sink: S) -> Self {
        let (place, from) = Place::parse(&options.from);
        Self {
            options: ConsumeOptions { from, ..options },
            sink,
            received: 0,
            place,
            surplus: false,
            consumer: None,
            operations: 0,
            finishing: false,
            end: None,
            probing: false,
            beginning_again: false,
        }
    }

    /// Makes the consumer stop once it has read every partition up to the end that the partition has at the
    /// start.
    #[must_use]
    pub fn until_end(mut self) -> Self {
        self.end = Some(End::of(&self.options.queue));
        self
    }

    /// Returns the position after the last message that the sink got, to resume from. Returns `None` if the
    /// server never sent a marker.
    pub fn resume_marker(&self) -> Option<String> {
        self.place.text()
    }

    fn is_accepted(&self) -> bool {
        self.consumer.as_ref().is_some_and(Consumer::is_accepted)
    }

    fn has_all(&self) -> bool {
        self.options.count.is_some_and(|count| self.received >= count)
    }

    /// Starts the next operation.
    fn begin(&mut self, sender: &mut Sender, out: &mut Vec<u8>) {
        self.probing = self.end.as_ref().is_some_and(|end| !end.is_known());
        let options = if self.probing {
            ConsumeOptions { from: "latest".into(), window: 0, count: None, ..self.options.clone() }
        } else {
            self.place.handle_begin();
            let left = self.options.count.map(|count| count.saturating_sub(self.received));
            ConsumeOptions { count: left, ..self.options.clone() }
        };
        let mut consumer = Consumer::start(&options, sender, out);
        if self.probing {
            // The server then sends the marker at once, at the operation's end.
            consumer.finish(sender, out);
        }
        self.consumer = Some(consumer);
    }

    /// Decides what to do about the queue's end. Returns `None` if the consumer does not stop there.
    fn look(&mut self, now: Instant) -> Option<Look> {
        self.end.as_mut().map(|end| end.look(now, &self.place))
    }

    /// Passes a new message to the sink and applies its marker. Returns false if the message was known
    /// already.
    fn handle_message(&mut self, message: &ReceivedMessage<'_>) -> bool {
        if message.is_rewound {
            self.place.handle_rewind();
            // The queue may no longer reach the known end.
            if let Some(end) = &mut self.end {
                end.forget();
            }
        }
        let place = parse_id(message.id).filter(|_| message.payload.is_some());
        // Apply the marker before any comparison: it may be of another life of the queue.
        let before = message.marker.map(|marker| {
            let before = self.place.clone();
            self.place.handle_marker(marker);
            before
        });
        let known = place.is_some_and(|(partition, offset)| self.place.knows(partition, offset));
        let fresh = message.payload.is_some() && !known;
        self.surplus |= fresh && self.has_all();
        if self.surplus {
            self.place = before.unwrap_or_else(|| std::mem::take(&mut self.place));
            return true;
        }
        if fresh {
            if let Some((partition, offset)) = place {
                self.place.take(partition, offset);
            }
            self.received += 1;
            self.sink.handle(message);
        }
        !known
    }
}

impl<S: Sink> Resume for Consume<S> {
    /// Returns whether everything wanted has arrived, or the sink stopped the consumer.
    fn is_complete(&self) -> bool {
        self.finishing || self.has_all()
    }

    fn failure(&self) -> Option<&Outcome> {
        self.consumer.as_ref().and_then(Consumer::failure)
    }

    fn progress(&self) -> u64 {
        self.received + self.operations + u64::from(self.is_accepted())
    }

    fn reset(&mut self) {
        self.operations += u64::from(self.is_accepted());
        self.consumer = None;
        self.beginning_again = false;
        if let Some(marker) = self.place.marker() {
            self.options.from = marker.to_owned();
        }
    }
}

impl<S: Sink> Application for Consume<S> {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let Some(mut consumer) = self.consumer.take() else { return Ok(()) };
        if self.probing {
            let end = &mut self.end;
            let handled = consumer.handle_data(piece, fin, |message| {
                if let (Some(end), Some(marker)) = (end.as_mut(), message.marker) {
                    end.learn(marker);
                }
            });
            self.consumer = Some(consumer);
            return Ok(handled?);
        }
        // After a connection that broke before its first marker, the next one starts over, so known messages
        // may come again.
        let mut known = 0;
        let handled =
            consumer.handle_data(piece, fin, |message| known += u64::from(!self.handle_message(message)));
        consumer.want_more(known);
        self.consumer = Some(consumer);
        Ok(handled?)
    }

    fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        let Wire { sender, out, .. } = wire;
        if self.consumer.is_none() {
            self.begin(sender, out);
        }
        if let Some(consumer) = &self.consumer
            && consumer.is_ended()
        {
            let goes_on = self.probing || self.beginning_again;
            if !goes_on || self.finishing || consumer.failure().is_some() {
                return Ok(Next::Done);
            }
            if self.probing && self.end.as_ref().is_some_and(|end| !end.is_known()) {
                return Err(ClientError::Broken("an operation ended without the marker that it owed".into()));
            }
            self.reset();
            self.begin(sender, out);
        }
        if self.finishing {
            return Ok(Next::Wait);
        }
        // These operations end without further input from this side.
        let is_ending = self.probing || self.beginning_again;
        let look = if is_ending { None } else { self.look(Instant::now()) };
        let is_complete = self.has_all() || look == Some(Look::There);
        let is_stopped = self.sink.poll_stop(cx).is_ready();
        let Some(consumer) = &mut self.consumer else { return Ok(Next::Wait) };
        self.finishing = is_complete || is_stopped;
        self.beginning_again |= look == Some(Look::BeginAgain);
        if is_ending {
            return Ok(Next::Wait);
        }
        if self.finishing || self.beginning_again {
            consumer.want_marker();
            consumer.poll_transmit(sender, out);
            consumer.finish(sender, out);
            return Ok(Next::Wait);
        }
        if matches!(look, Some(Look::Ask(_))) {
            consumer.want_marker();
        }
        consumer.poll_transmit(sender, out);
        Ok(match look {
            Some(Look::At(at) | Look::Ask(at)) => Next::At(at),
            _ => Next::Wait,
        })
    }

    fn operation(&mut self) -> Option<&mut dyn Renewable> {
        self.consumer.as_mut().map(|consumer| consumer as &mut dyn Renewable)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;
    use prost::Message;

    use super::super::wire::Target;
    use super::*;
    use crate::base::queue::{QueueId, QueueInfo};
    use crate::base::units::Offset;
    use crate::operation::Marker;
    use crate::pb::{ConsumeResponse, MessageAndMetadata, Status};

    #[derive(Default)]
    struct Payloads(Vec<Vec<u8>>);

    impl Sink for Payloads {
        fn handle(&mut self, message: &ReceivedMessage<'_>) {
            self.0.push(message.payload.unwrap_or_default().to_vec());
        }

        fn poll_stop(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }
    }

    /// A consumer of a queue with one partition, and its connection.
    struct Reader {
        consume: Consume<Payloads>,
        wire: Wire,
    }

    impl Reader {
        fn until_end() -> Self {
            let options = ConsumeOptions {
                queue: "q".into(),
                from: String::new(),
                echo: false,
                window: 100,
                count: None,
            };
            let target = Target::parse("ws://127.0.0.1/", None, None).unwrap();
            let consume = Consume::new(options, Payloads::default()).until_end();
            Self { consume, wire: Wire::start(&target) }
        }

        fn poll(&mut self) -> Next {
            self.consume.poll(&mut Context::from_waker(Waker::noop()), &mut self.wire).unwrap()
        }

        fn accept(&mut self) {
            let status = Status { status_code: Some(100), ..Status::default() };
            self.consume.handle_data(&status.encode_length_delimited_to_vec(), false).unwrap();
        }

        fn handle(&mut self, response: &ConsumeResponse, fin: bool) {
            self.consume.handle_data(&response.encode_length_delimited_to_vec(), fin).unwrap();
        }
    }

    fn marker(position: u64) -> MessageAndMetadata {
        let info = QueueInfo {
            id: QueueId(1),
            incarnation: 1,
            partitions: 1,
            hash: 7,
            signing: Default::default(),
            policy: Default::default(),
        };
        MessageAndMetadata { marker: Some(Marker::encode(&info, &[Offset(position)])), ..Default::default() }
    }

    fn says(messages: Vec<MessageAndMetadata>) -> ConsumeResponse {
        ConsumeResponse { messages, ..Default::default() }
    }

    #[test]
    fn a_rewind_makes_a_reader_determine_the_end_again() {
        let mut reader = Reader::until_end();
        assert_eq!(reader.poll(), Next::Wait);
        reader.accept();
        reader.handle(&says(vec![marker(5)]), true);
        assert!(matches!(reader.poll(), Next::At(_)), "the consumer reads");
        reader.accept();
        // The queue loses all but one message, and the server reports the rewind.
        let message = MessageAndMetadata {
            id: Some("0.0".into()),
            payload: Some(Bytes::from_static(b"first")),
            ..marker(1)
        };
        reader.handle(&ConsumeResponse { rewound: Some(true), ..says(vec![]) }, false);
        reader.handle(&says(vec![message]), false);
        assert_eq!(reader.poll(), Next::Wait, "the consumer ends its operation");
        reader.handle(&says(vec![marker(1)]), true);
        assert_eq!(reader.poll(), Next::Wait, "the consumer asks for the end");
        reader.accept();
        reader.handle(&says(vec![marker(1)]), true);
        assert!(matches!(reader.poll(), Next::At(_)), "the consumer reads, and trusts no earlier marker");
        reader.accept();
        reader.handle(&says(vec![marker(1)]), false);
        assert_eq!(reader.poll(), Next::Wait, "the end is reached");
        reader.handle(&says(vec![marker(1)]), true);
        assert_eq!(reader.poll(), Next::Done);
        assert!(reader.consume.is_complete());
        assert_eq!(reader.consume.sink.0, [b"first"]);
    }
}

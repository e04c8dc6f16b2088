//! Messages of a queue, each once, across reconnects.
//!
//! The last marker says where to go on, and the offset behind the last message of each partition that was handed on, which of the
//! messages behind the marker are known. A marker is the server's alone to make.

use std::collections::HashMap;
use std::task::{Context, Poll};

use super::driver::{Application, Next};
use super::error::ClientError;
use super::resume::Resume;
use super::wire::Wire;
use crate::pb::ReceivedMessage;
use crate::queue::message_id;
use crate::session::Marker;
use crate::session::client::{ConsumeOptions, Consumer, Outcome};

/// What takes the messages.
pub trait Sink {
    /// One message.
    fn handle(&mut self, message: &ReceivedMessage<'_>);

    /// Whether the consumer is to stop. Pending wakes `cx` when it is.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// One consumer across its connections.
#[derive(Debug)]
pub struct Consume<S> {
    options: ConsumeOptions,
    /// What takes the messages.
    pub sink: S,
    /// Messages handed to the sink.
    pub received: u64,
    /// The last marker that stands behind no message but those handed on.
    marker: Option<String>,
    /// The offset behind the last message handed on, for each partition.
    seen: HashMap<u16, u64>,
    /// The server has sent more than was wanted, as it may. Its markers stand behind that.
    surplus: bool,
    consumer: Option<Consumer>,
    /// Operations that the server accepted, before the present one.
    operations: u64,
    finishing: bool,
}

/// Partition and offset of a message's id.
fn parse_id(id: &str) -> Option<(u16, u64)> {
    let (partition, offset) = id.split_once('.')?;
    Some((u16::from_str_radix(partition, 16).ok()?, u64::from_str_radix(offset, 16).ok()?))
}

/// Separates a marker from the places behind it that are known, and these from each other. No marker contains it.
const KNOWN: char = '~';

impl<S: Sink> Consume<S> {
    /// A consumer that has not begun. It takes what [`Self::resume_marker`] returned as `from`, too.
    pub fn new(mut options: ConsumeOptions, sink: S) -> Self {
        let mut parts = options.from.split(KNOWN);
        let marker = parts.next().unwrap_or_default().to_owned();
        let seen: HashMap<u16, u64> = parts.filter_map(parse_id).collect();
        options.from.clone_from(&marker);
        Self {
            options,
            sink,
            received: 0,
            marker: (!seen.is_empty()).then_some(marker),
            seen,
            surplus: false,
            consumer: None,
            operations: 0,
            finishing: false,
        }
    }

    /// Where to go on from: behind the last message handed on. That is a marker, and for each partition in which more was handed on
    /// the place behind that. `None` where the server was never heard.
    pub fn resume_marker(&self) -> Option<String> {
        let mut text = self.marker.clone()?;
        let positions = Marker::positions(&text).unwrap_or_default();
        let is_beyond = |partition: u16, next: u64| {
            positions.get(usize::from(partition)).is_none_or(|position| *position < next)
        };
        let mut beyond: Vec<(u16, u64)> =
            self.seen.iter().map(|(partition, next)| (*partition, *next)).collect();
        beyond.retain(|(partition, next)| is_beyond(*partition, *next));
        beyond.sort_unstable();
        for (partition, next) in beyond {
            text.push(KNOWN);
            text.push_str(&message_id(partition, next));
        }
        Some(text)
    }

    fn is_accepted(&self) -> bool {
        self.consumer.as_ref().is_some_and(Consumer::is_accepted)
    }

    fn has_all(&self) -> bool {
        self.options.count.is_some_and(|count| self.received >= count)
    }

    /// False where the message was known already.
    fn handle_message(&mut self, message: &ReceivedMessage<'_>) -> bool {
        // A store that has gone back, or another life of the queue, may have other messages under the same ids.
        if message.is_rewound {
            self.seen.clear();
        }
        if let (Some(known), Some(marker)) = (&self.marker, message.marker)
            && !Marker::same_life(known, marker)
        {
            self.seen.clear();
        }
        let place = parse_id(message.id).filter(|_| message.payload.is_some());
        let known = place
            .is_some_and(|(partition, offset)| self.seen.get(&partition).is_some_and(|next| offset < *next));
        let fresh = message.payload.is_some() && !known;
        self.surplus |= fresh && self.has_all();
        if self.surplus {
            return true;
        }
        if let Some(marker) = message.marker {
            self.marker = Some(marker.to_owned());
        }
        if fresh {
            self.seen.extend(place.map(|(partition, offset)| (partition, offset + 1)));
            self.received += 1;
            self.sink.handle(message);
        }
        !known
    }
}

impl<S: Sink> Resume for Consume<S> {
    /// What was wanted is there, or it was stopped.
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
        if let Some(marker) = &self.marker {
            self.options.from.clone_from(marker);
        }
    }
}

impl<S: Sink> Application for Consume<S> {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let Some(mut consumer) = self.consumer.take() else { return Ok(()) };
        // Where a connection broke before its first marker, the next one begins anew.
        let mut known = 0;
        let handled =
            consumer.handle_data(piece, fin, |message| known += u64::from(!self.handle_message(message)));
        consumer.want_more(known);
        self.consumer = Some(consumer);
        Ok(handled?)
    }

    fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        let Wire { sender, out, .. } = wire;
        let complete = self.has_all();
        let consumer = self.consumer.get_or_insert_with(|| {
            let left = self.options.count.map(|count| count - self.received);
            let options = ConsumeOptions { count: left, ..self.options.clone() };
            Consumer::start(&options, sender, out)
        });
        if consumer.is_ended() {
            return Ok(Next::Done);
        }
        if self.finishing {
            return Ok(Next::Wait);
        }
        if complete || self.sink.poll_stop(cx).is_ready() {
            self.finishing = true;
            consumer.want_marker();
            consumer.poll_transmit(sender, out);
            consumer.finish(sender, out);
            return Ok(Next::Wait);
        }
        consumer.poll_transmit(sender, out);
        Ok(Next::Wait)
    }
}

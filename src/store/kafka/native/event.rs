//! `rd_kafka_event_t`: answers to questions, delivery reports, errors and log lines of a handle.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use rdkafka::bindings as rd;

use super::AT_ONCE;
use super::new_topic::created;
use super::partition_list::{PartitionOffset, offsets};
use super::queue::Queue;
use super::topic_config::configs;
use super::topic_description::{Described, described};
use super::trouble::{NO_ERROR, Trouble, check, text_of};

/// Event types that the bindings do not name.
const EVENT_DESCRIBE_TOPICS: c_int = 0x10_0000;
const EVENT_LIST_OFFSETS: c_int = 0x40_0000;

/// An event of a handle. `asked` is the number that the question carried.
#[derive(Debug)]
pub enum Event {
    /// Messages were delivered, or could not be.
    Reports(Reports),
    /// The topics that were asked for.
    Described { asked: usize, result: Result<Vec<Described>, Trouble> },
    /// The result of creating a topic.
    Created { asked: usize, result: Result<(), Trouble> },
    /// The names and values of a topic's configuration.
    Configs { asked: usize, result: Result<Vec<(String, String)>, Trouble> },
    /// Offsets of partitions. An offset is negative if no record has it.
    Offsets { asked: usize, result: Result<Vec<PartitionOffset>, Trouble> },
    /// An error. After a fatal one, the handle does nothing more.
    Error { trouble: Trouble, is_fatal: bool },
    /// A log line of librdkafka; the level is syslog's.
    Log { level: i32, text: String },
    /// Any other event; it needs no action.
    Other,
}

impl Queue {
    /// Returns the next event.
    pub fn poll(&self) -> Option<Event> {
        // SAFETY: the queue lives; the returned event is ours.
        let raw = NonNull::new(unsafe { rd::rd_kafka_queue_poll(self.raw(), 0) })?;
        Some(RawEvent(raw).read())
    }
}

#[derive(Debug)]
struct RawEvent(NonNull<rd::rd_kafka_event_t>);

// SAFETY: an event belongs to its owner, not to a thread.
unsafe impl Send for RawEvent {}

impl Drop for RawEvent {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { rd::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}

impl RawEvent {
    fn read(self) -> Event {
        let raw = self.0.as_ptr();
        // SAFETY: the event lives until `self` is dropped. Each call is for the event's own type, and what it
        // borrows is copied before the drop.
        unsafe {
            let asked = || rd::rd_kafka_event_opaque(raw) as usize;
            let failed = || {
                let code = rd::rd_kafka_event_error(raw);
                check(code)
                    .map_err(|_| Trouble::new(code.into(), text_of(rd::rd_kafka_event_error_string(raw))))
            };
            match rd::rd_kafka_event_type(raw) {
                rd::RD_KAFKA_EVENT_DR => Event::Reports(Reports(self)),
                EVENT_DESCRIBE_TOPICS => {
                    Event::Described { asked: asked(), result: failed().map(|()| described(raw)) }
                }
                rd::RD_KAFKA_EVENT_CREATETOPICS_RESULT => {
                    Event::Created { asked: asked(), result: failed().and_then(|()| created(raw)) }
                }
                rd::RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT => {
                    Event::Configs { asked: asked(), result: failed().and_then(|()| configs(raw)) }
                }
                EVENT_LIST_OFFSETS => {
                    Event::Offsets { asked: asked(), result: failed().map(|()| offsets(raw)) }
                }
                rd::RD_KAFKA_EVENT_ERROR => {
                    let code = rd::rd_kafka_event_error(raw);
                    let trouble = Trouble::new(code.into(), text_of(rd::rd_kafka_event_error_string(raw)));
                    Event::Error { trouble, is_fatal: rd::rd_kafka_event_error_is_fatal(raw) != 0 }
                }
                rd::RD_KAFKA_EVENT_LOG => {
                    let (mut facility, mut text, mut level) = (ptr::null(), ptr::null(), 0);
                    rd::rd_kafka_event_log(raw, &mut facility, &mut text, &mut level);
                    Event::Log { level, text: text_of(text) }
                }
                _ => Event::Other,
            }
        }
    }
}

/// Delivery reports of messages.
#[derive(Debug)]
pub struct Reports(RawEvent);

/// The delivery report of one message.
#[derive(Clone, Debug)]
pub struct Report {
    /// The number that it was produced with.
    pub opaque: usize,
    /// Its offset. It is negative if the message is stored but its offset is unknown.
    pub result: Result<i64, Trouble>,
}

impl Reports {
    /// Calls `handle` with every report, once.
    pub fn each(&self, mut handle: impl FnMut(Report)) {
        let mut messages = [ptr::null(); AT_ONCE];
        loop {
            // SAFETY: the event lives and the array has the stated size; each call continues where the last
            // one ended.
            let count = unsafe {
                rd::rd_kafka_event_message_array(self.0.0.as_ptr(), messages.as_mut_ptr(), AT_ONCE)
            };
            if count == 0 {
                return;
            }
            for message in &messages[..count] {
                // SAFETY: the messages live as long as the event.
                let message = unsafe { &**message };
                let result = match message.err {
                    NO_ERROR => Ok(message.offset),
                    code => Err(Trouble::of(code)),
                };
                handle(Report { opaque: message._private as usize, result });
            }
        }
    }
}

//! The messages in a connection's output, with the start of their latencies, which end when the socket
//! accepts the messages.

use crate::base::clock::Now;
use crate::base::millis::UnixMillis;
use crate::latency::{Recorder, Stage};

/// The most notes of a connection. Further messages are added to the last note.
const NOTES_MAX: usize = 4_096;

/// The most notes to keep while the socket accepts no more (640 bytes). Neighbouring notes are merged, with
/// the older start.
const NOTES_KEPT: usize = 16;

/// The origin of messages, which is where their latency starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Acknowledged messages of a producer.
    Produced {
        /// When their bytes were read, as [`Now::mono_ns`].
        read_ns: u64,
        /// When the connection's shard learned that they were stored.
        known_ns: u64,
    },
    /// Messages for a consumer.
    Stored {
        /// When they were stored, as [`StoredBatch::stored_ns`](crate::base::batch::StoredBatch::stored_ns).
        stored_ns: u64,
        /// When they were stored, in Unix milliseconds.
        timestamp: UnixMillis,
        /// Whether the consumer had received everything before them.
        is_live: bool,
    },
}

impl Origin {
    /// Records the latencies of `messages` that the socket accepted at `now`.
    fn record(self, now: Now, messages: u32, latency: &mut Recorder) {
        match self {
            Self::Produced { read_ns, known_ns } => {
                latency.record(Stage::Ack, now.since_ns(known_ns), messages);
                latency.record(Stage::Produce, now.since_ns(read_ns), messages);
            }
            Self::Stored { stored_ns, timestamp, is_live } => {
                let nanos = match stored_ns {
                    0 => now.unix.since(timestamp).as_nanos(),
                    stored_ns => now.since_ns(stored_ns),
                };
                let stage = if is_live { Stage::DeliverLive } else { Stage::DeliverBacklog };
                latency.record(stage, nanos, messages);
            }
        }
    }

    /// Returns the origin with the earlier start.
    fn older(self, other: Self) -> Self {
        match (self, other) {
            (Self::Produced { read_ns, .. }, Self::Produced { read_ns: others, .. }) if others < read_ns => {
                other
            }
            (Self::Stored { timestamp, .. }, Self::Stored { timestamp: others, .. })
                if others < timestamp =>
            {
                other
            }
            _ => self,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Note {
    /// Where the frame of the messages ends in the output; 0 while it is being written.
    end: usize,
    messages: u32,
    origin: Origin,
}

/// Notes about the messages in the output, in order.
#[derive(Debug, Default)]
pub struct Framed(Vec<Note>);

impl Framed {
    /// Notes messages of the frame that is being written.
    #[inline]
    pub fn note(&mut self, messages: u32, origin: Origin) {
        let is_full = self.0.len() >= NOTES_MAX;
        match self.0.last_mut() {
            Some(last) if is_full || last.end == 0 && last.origin == origin => {
                last.messages = last.messages.saturating_add(messages);
                last.end = 0;
            }
            _ => self.0.push(Note { end: 0, messages, origin }),
        }
    }

    /// Notes that this frame ends at `end` of the output.
    #[inline]
    pub fn close(&mut self, end: usize) {
        for note in self.0.iter_mut().rev().take_while(|note| note.end == 0) {
            note.end = end;
        }
    }

    /// Removes the notes behind `end`, because the output was truncated there.
    pub fn truncate(&mut self, end: usize) {
        self.0.retain(|note| (1..=end).contains(&note.end));
    }

    /// Records the messages whose frames end at or before `sent`, because the socket accepted them at `now`.
    #[inline]
    pub fn record(&mut self, sent: usize, now: Now, latency: &mut Recorder) {
        let taken = self.0.iter().take_while(|note| note.end <= sent).count();
        for Note { messages, origin, .. } in self.0.drain(..taken) {
            origin.record(now, messages, latency);
        }
    }

    /// Shifts the notes, because the first `sent` bytes of the output were removed.
    pub fn rebase(&mut self, sent: usize) {
        self.0.iter_mut().for_each(|note| note.end -= sent);
    }

    /// Merges notes if there are too many, because the socket accepts no more for now.
    pub fn compact(&mut self) {
        if self.0.len() > NOTES_KEPT {
            let together = self.0.len().div_ceil(NOTES_KEPT);
            let join = |notes: &[Note]| {
                notes.iter().copied().reduce(|one, other| Note {
                    end: other.end,
                    messages: one.messages.saturating_add(other.messages),
                    origin: one.origin.older(other.origin),
                })
            };
            self.0 = self.0.chunks(together).filter_map(join).collect();
        }
        self.0.shrink_to(NOTES_KEPT);
    }

    /// Takes the memory of `spare` if it has none of its own.
    pub fn lend(&mut self, spare: &mut Self) {
        if self.0.capacity() == 0 {
            std::mem::swap(self, spare);
        }
    }

    /// Gives the memory of these notes to `spare` if there are no notes.
    pub fn give_back(&mut self, spare: &mut Self) {
        if self.0.is_empty() {
            *spare = std::mem::take(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(stored_ns: u64) -> Origin {
        Origin::Stored { stored_ns, timestamp: UnixMillis::new(stored_ns), is_live: true }
    }

    #[test]
    fn messages_count_when_the_socket_has_accepted_their_whole_frame() {
        let (mut framed, mut latency) = (Framed::default(), Recorder::default());
        let now = Now::at_ms(5, 0);
        framed.note(3, stored(1_000_000));
        framed.note(2, stored(1_000_000));
        framed.close(100);
        framed.note(1, stored(4_000_000));
        framed.close(150);
        framed.record(99, now, &mut latency);
        latency.count();
        assert_eq!(latency.of(Stage::DeliverLive).len(), 0);
        framed.record(100, now, &mut latency);
        latency.count();
        assert_eq!(latency.of(Stage::DeliverLive).len(), 5);
        assert!(latency.of(Stage::DeliverLive).equivalent(latency.of(Stage::DeliverLive).max(), 4_000_000));
        framed.rebase(100);
        framed.record(50, now, &mut latency);
        latency.count();
        assert_eq!(latency.of(Stage::DeliverLive).len(), 6);
        framed.note(1, stored(1));
        framed.close(9);
        framed.truncate(8);
        framed.record(9, now, &mut latency);
        latency.count();
        assert_eq!(latency.of(Stage::DeliverLive).len(), 6, "truncated frames were never sent");
    }

    #[test]
    fn kept_notes_are_bounded_and_lose_no_message() {
        let (mut framed, mut latency) = (Framed::default(), Recorder::default());
        for index in 0..2 * NOTES_MAX as u64 {
            framed.note(1, stored(1_000_000 + index));
            framed.close(index as usize + 1);
        }
        assert_eq!(framed.0.len(), NOTES_MAX);
        framed.compact();
        assert!(framed.0.len() <= NOTES_KEPT);
        framed.record(usize::MAX, Now::at_ms(2, 0), &mut latency);
        latency.count();
        assert_eq!(latency.of(Stage::DeliverLive).len(), 2 * NOTES_MAX as u64);
    }
}

//! Tracks where a queue ended at a given time, and whether a reader has reached that end.
//!
//! An operation that starts at `latest` and ends at once returns a marker of the end. The reader has reached
//! the end once its own position is at or past that marker in every partition that it reads. Its position is
//! its last marker, moved past the messages it has received since. Messages at the end that are never sent to
//! the reader (its own, or expired ones) move only the server's markers, so the reader keeps asking for
//! markers.
//!
//! Some ends can never be reached. Such an end is dropped and determined anew when the queue was rewound,
//! deleted and recreated, or when the reader makes no progress.

use std::time::{Duration, Instant};

use super::place::Place;
use crate::base::names::QueueAddress;
use crate::base::units::Partition;

/// The interval between two requests for a marker.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long the reader may stay at one position before its operation is ended and started again. At the end
/// of an operation the server sends the marker that it owes, and at the start of the next one it looks at the
/// queue again. Without this, a rewind could go unnoticed: the queue may end before the known end but after
/// the reader's position, and the reader would wait forever.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// What the reader does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Stop: the reader is at the end.
    There,
    /// Ask for a marker, and look again at this time.
    Ask(Instant),
    /// Look again at this time.
    At(Instant),
    /// End the operation and start it again.
    BeginAgain,
}

/// The end of a queue that a reader is to reach.
#[derive(Debug)]
pub(super) struct End {
    /// The partition to read, if only one is read.
    only: Option<Partition>,
    /// A marker of the end, once it is known.
    marker: Option<String>,
    ask_at: Option<Instant>,
    /// The reader's last position, and when it got there.
    place: Option<(Place, Instant)>,
}

impl End {
    /// Creates the end, not known yet, of a queue or of the partition that `queue` names.
    pub(super) fn of(queue: &str) -> Self {
        let only = QueueAddress::parse(queue).ok().and_then(|address| address.partition);
        Self { only, marker: None, ask_at: None, place: None }
    }

    pub(super) fn is_known(&self) -> bool {
        self.marker.is_some()
    }

    /// Drops the known end.
    pub(super) fn forget(&mut self) {
        *self = Self { only: self.only, marker: None, ask_at: None, place: None };
    }

    /// Sets the end from a marker.
    pub(super) fn learn(&mut self, marker: &str) {
        self.marker = Some(marker.to_owned());
    }

    /// Decides what a reader at `place` does next. The place is empty before the first marker.
    pub(super) fn look(&mut self, now: Instant, place: &Place) -> Look {
        let again = now + ASK_EVERY;
        // The end is unknown. The next operation determines it.
        let Some(end) = &self.marker else { return Look::BeginAgain };
        if place.reaches(end, self.only) {
            return Look::There;
        }
        // The queue was deleted and recreated, so this end is never reached.
        if place.marker().is_some() && !place.is_of(end) {
            self.forget();
            return Look::BeginAgain;
        }
        match &self.place {
            Some((known, since)) if known == place => {
                if now.saturating_duration_since(*since) >= STALLED_AFTER {
                    self.forget();
                    return Look::BeginAgain;
                }
            }
            _ => self.place = Some((place.clone(), now)),
        }
        match self.ask_at {
            Some(at) if now < at => Look::At(at),
            asked => {
                self.ask_at = Some(again);
                // The start of the operation already asked for a marker.
                if asked.is_some() { Look::Ask(again) } else { Look::At(again) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::tests::marker;
    use super::*;

    fn place(incarnation: u64, positions: &[u64]) -> Place {
        let mut place = Place::default();
        place.handle_marker(&marker(incarnation, positions));
        place
    }

    #[test]
    fn a_reader_asks_until_every_partition_is_read_to_the_end() {
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        let mut end = End::of("q");
        assert!(!end.is_known());
        end.learn(&marker(1, &[3, 5]));
        assert_eq!(end.look(began, &Place::default()), Look::At(after(100)));
        assert_eq!(end.look(after(50), &Place::default()), Look::At(after(100)));
        assert_eq!(end.look(after(100), &place(1, &[3, 4])), Look::Ask(after(200)));
        assert_eq!(end.look(after(150), &place(1, &[3, 4])), Look::At(after(200)));
        assert_eq!(end.look(after(160), &place(1, &[4, 5])), Look::There);
    }

    #[test]
    fn reading_one_partition_compares_only_that_one() {
        let mut end = End::of("q/1");
        end.learn(&marker(1, &[3, 5]));
        assert_eq!(end.look(Instant::now(), &place(1, &[0, 5])), Look::There);
    }

    #[test]
    fn a_stalled_reader_starts_again_and_so_does_one_of_a_recreated_queue() {
        let began = Instant::now();
        let here = place(1, &[0]);
        let mut end = End::of("q");
        end.learn(&marker(1, &[9]));
        end.look(began, &here);
        assert_eq!(end.look(began + STALLED_AFTER, &here), Look::BeginAgain);
        assert!(!end.is_known(), "the queue may have been rewound to before that end");
        assert_eq!(end.look(began + STALLED_AFTER, &here), Look::BeginAgain, "until the end is known");
        end.learn(&marker(1, &[9]));
        assert_eq!(end.look(began + STALLED_AFTER, &place(2, &[0])), Look::BeginAgain);
        assert!(!end.is_known(), "a recreated queue has another end");
    }
}

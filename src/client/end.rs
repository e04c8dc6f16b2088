//! Where a queue ended when a reader asked, and whether the reader is there.
//!
//! An operation that begins at `latest` and ends at once brings a marker of the end. The reader is there once its own marker, moved behind
//! what it was sent, stands at or behind that one in every partition that it reads. Messages at the end that are never sent (echo, TTL)
//! move only the server's markers, so the reader asks for one again and again.
//!
//! An end that the reader may never reach is forgotten, and asked for anew: the queue has gone back, it was deleted and made again, or
//! the reader makes no progress towards it.

use std::time::{Duration, Instant};

use super::place::Place;
use crate::base::names::QueueAddress;
use crate::base::units::Partition;

/// How often a marker is asked for.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long the reader may stay in one place before its operation is ended and begun again: a server pays the marker that it owes at the end
/// of an operation, and looks anew at the beginning of the next. The queue may have gone back without a word to this reader, to a place
/// before the end and behind the reader: then the end that is known is never reached.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// What the reader is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is at the end.
    There,
    /// Ask for a marker, and look again at that time.
    Ask(Instant),
    /// Look again at that time.
    At(Instant),
    /// End the operation and begin it again.
    BeginAgain,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct End {
    /// The one partition that is read, if it is one.
    only: Option<Partition>,
    /// The end, once it is known.
    marker: Option<String>,
    ask_at: Option<Instant>,
    /// Where the reader was last, and since when.
    place: Option<(Place, Instant)>,
}

impl End {
    /// The end of a queue, or of one partition of it, not known yet.
    pub(super) fn of(queue: &str) -> Self {
        let only = QueueAddress::parse(queue).ok().and_then(|address| address.partition);
        Self { only, marker: None, ask_at: None, place: None }
    }

    pub(super) fn is_known(&self) -> bool {
        self.marker.is_some()
    }

    /// The end is not known any more.
    pub(super) fn forget(&mut self) {
        *self = Self { only: self.only, marker: None, ask_at: None, place: None };
    }

    /// A marker of the end.
    pub(super) fn learn(&mut self, marker: &str) {
        self.marker = Some(marker.to_owned());
    }

    /// What a reader at `place` is to do; it has no place before its first marker.
    pub(super) fn look(&mut self, now: Instant, place: &Place) -> Look {
        let again = now + ASK_EVERY;
        // Without an end, the next operation asks for it.
        let Some(end) = &self.marker else { return Look::BeginAgain };
        if place.reaches(end, self.only) {
            return Look::There;
        }
        // The queue was deleted and made again: that end is never reached.
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
                // The operation's beginning has asked already.
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
    fn of_one_partition_only_that_one_counts() {
        let mut end = End::of("q/1");
        end.learn(&marker(1, &[3, 5]));
        assert_eq!(end.look(Instant::now(), &place(1, &[0, 5])), Look::There);
    }

    #[test]
    fn a_reader_that_stays_where_it_is_begins_again_and_so_does_one_of_a_new_life() {
        let began = Instant::now();
        let here = place(1, &[0]);
        let mut end = End::of("q");
        end.learn(&marker(1, &[9]));
        end.look(began, &here);
        assert_eq!(end.look(began + STALLED_AFTER, &here), Look::BeginAgain);
        assert!(!end.is_known(), "the queue may have gone back to before that end");
        assert_eq!(end.look(began + STALLED_AFTER, &here), Look::BeginAgain, "until the end is known");
        end.learn(&marker(1, &[9]));
        assert_eq!(end.look(began + STALLED_AFTER, &place(2, &[0])), Look::BeginAgain);
        assert!(!end.is_known(), "another life has another end");
    }
}

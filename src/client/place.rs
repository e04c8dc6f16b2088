//! Where a consumer goes on: a marker, and which of the messages behind it are known.
//!
//! A marker is the server's alone to make, and it stands behind the last message that the server sent when it made it. A consumer
//! that has taken fewer messages than it was sent, or more since, says so beside the marker:
//! `<marker>~<partition>.<offset>~…`, with the offset behind the last message taken of each such partition, as in a message's id.
//! A server is never sent more than the marker.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use crate::base::limits::PARTITIONS_MAX;
use crate::base::queue::message_id;
use crate::base::units::{Offset, Partition};
use crate::operation::Marker;

/// Separates a marker from what is known, and that from more of it. No marker contains it.
const KNOWN: char = '~';

/// The fewest offsets without a message that are remembered as not taken. A start of the server that nothing proves to go on leaves out
/// more than any file holds.
const GAP_MIN: u64 = 1 << 20;

/// Gaps that are remembered of a partition, the newest of them.
const GAPS_MAX: usize = 64;

/// What was taken of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Taken {
    /// The offset behind the last message.
    next: Offset,
    /// Offsets before `next` under which nothing came, in order. A queue that was restored from a backup may give them out: it leaves out
    /// other offsets than before.
    gaps: VecDeque<Range<Offset>>,
}

impl Taken {
    fn until(next: Offset) -> Self {
        Self { next, gaps: VecDeque::new() }
    }

    fn knows(&self, offset: Offset) -> bool {
        offset < self.next && !self.gaps.iter().any(|gap| gap.contains(&offset))
    }

    fn take(&mut self, offset: Offset) {
        // What comes in a gap shows that the queue has gone back: what was taken behind that is no more.
        self.gaps.retain(|gap| gap.start < offset);
        match self.gaps.back_mut() {
            Some(last) if last.end > offset => last.end = offset,
            _ if offset.saturating_since(self.next) >= GAP_MIN => self.gaps.push_back(self.next..offset),
            _ => {}
        }
        if self.gaps.len() > GAPS_MAX {
            self.gaps.pop_front();
        }
        self.next = offset.saturating_add(1);
    }
}

/// See the module's page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    marker: Option<String>,
    /// For each partition.
    taken: BTreeMap<Partition, Taken>,
    /// The queue may have gone back since the marker came.
    is_doubted: bool,
}

/// Partition and offset of a message's id; `None` for an id that no server of ours gives.
pub(super) fn parse_id(id: &str) -> Option<(Partition, Offset)> {
    let (partition, offset) = id.split_once('.')?;
    // The standard library takes a sign, too.
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex(partition) || !is_hex(offset) {
        return None;
    }
    let partition =
        u16::from_str_radix(partition, 16).ok().filter(|partition| *partition < PARTITIONS_MAX)?;
    Some((Partition(partition), Offset(u64::from_str_radix(offset, 16).ok()?)))
}

impl Place {
    /// Reads what [`Self::text`] wrote, or a `starting_marker`: the place, and what the server is to be sent.
    pub(super) fn parse(text: &str) -> (Self, String) {
        let mut parts = text.split(KNOWN);
        let start = parts.next().unwrap_or_default().to_owned();
        let taken = parts.filter_map(parse_id).map(|(partition, next)| (partition, Taken::until(next)));
        let taken: BTreeMap<Partition, Taken> = taken.collect();
        let marker = (!taken.is_empty()).then(|| start.clone());
        (Self { marker, taken, is_doubted: false }, start)
    }

    /// As text, to go on from another time. `None` where no marker ever came.
    pub(super) fn text(&self) -> Option<String> {
        let mut text = self.marker.clone()?;
        let positions = Marker::positions(&text).unwrap_or_default();
        for (partition, Taken { next, .. }) in &self.taken {
            if positions.get(partition.index()).is_none_or(|position| position < next) {
                text.push(KNOWN);
                text.push_str(&message_id(*partition, *next));
            }
        }
        Some(text)
    }

    /// The last marker.
    pub(super) fn marker(&self) -> Option<&str> {
        self.marker.as_deref()
    }

    /// A marker came. Another life of the queue has other messages under the same ids.
    pub(super) fn handle_marker(&mut self, marker: &str) {
        if self.marker.as_deref().is_some_and(|known| !Marker::same_life(known, marker)) {
            self.taken.clear();
        }
        self.marker = Some(marker.to_owned());
        self.is_doubted = false;
    }

    /// The queue has gone back: what is known may come again as something else, and the marker may lie behind the queue's end.
    pub(super) fn handle_rewind(&mut self) {
        self.taken.clear();
        self.is_doubted = true;
    }

    /// Another operation begins here. The queue may have gone back meanwhile, and the server says so before its next marker.
    pub(super) fn handle_begin(&mut self) {
        self.is_doubted = true;
    }

    /// Whether a message was taken before.
    pub(super) fn knows(&self, partition: Partition, offset: Offset) -> bool {
        self.taken.get(&partition).is_some_and(|taken| taken.knows(offset))
    }

    /// A message is taken.
    pub(super) fn take(&mut self, partition: Partition, offset: Offset) {
        self.taken.entry(partition).or_default().take(offset);
    }

    /// Whether it is of the same life of a queue as a marker.
    pub(super) fn is_of(&self, marker: &str) -> bool {
        self.marker.as_deref().is_some_and(|own| Marker::same_life(own, marker))
    }

    /// Whether it is at or behind `end`, a marker, in `only` or in every partition. At the beginning of an operation and after a
    /// rewind only the next marker tells.
    pub(super) fn reaches(&self, end: &str, only: Option<Partition>) -> bool {
        let own = self.marker.as_deref().and_then(Marker::positions);
        let is_comparable = self.is_of(end) && !self.is_doubted;
        let (Some(own), Some(end), true) = (own, Marker::positions(end), is_comparable) else {
            return false;
        };
        (0..).map(Partition).zip(end).filter(|(partition, _)| only.is_none_or(|only| only == *partition)).all(
            |(partition, end)| {
                let marked = own.get(partition.index()).copied().unwrap_or_default();
                marked.max(self.taken.get(&partition).map_or(Offset::ZERO, |taken| taken.next)) >= end
            },
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::queue::{QueueId, QueueInfo};

    /// A marker of a queue in that incarnation.
    pub(in crate::client) fn marker(incarnation: u64, positions: &[u64]) -> String {
        let partitions = positions.len() as u16;
        let info =
            QueueInfo { id: QueueId(1), incarnation, partitions, hash: 7, signing: Default::default() };
        let positions: Vec<Offset> = positions.iter().copied().map(Offset).collect();
        Marker::encode(&info, &positions)
    }

    #[test]
    fn what_was_taken_behind_the_marker_is_known_when_it_is_read_again() {
        let (mut place, start) = Place::parse("latest");
        assert_eq!((place.text(), start.as_str()), (None, "latest"));
        place.handle_marker(&marker(1, &[3, 20]));
        place.take(Partition(0), Offset(0x1f));
        place.take(Partition(1), Offset(18));
        let text = place.text().unwrap();
        assert_eq!(text, format!("{}~0.20", marker(1, &[3, 20])), "what the marker says is not said again");
        let (again, start) = Place::parse(&text);
        assert_eq!(start, marker(1, &[3, 20]));
        assert!(
            again.knows(Partition(0), Offset(0x1f))
                && !again.knows(Partition(0), Offset(0x20))
                && !again.knows(Partition(1), Offset(0))
        );
        assert_eq!(again.text(), Some(text));
    }

    #[test]
    fn another_life_of_the_queue_and_a_rewind_make_everything_unknown() {
        let (mut place, _) = Place::parse(&format!("{}~0.20", marker(1, &[3])));
        place.handle_marker(&marker(1, &[9]));
        assert!(place.knows(Partition(0), Offset(0x1f)));
        place.handle_marker(&marker(2, &[0]));
        assert!(!place.knows(Partition(0), Offset(0)));
        place.take(Partition(0), Offset(5));
        place.handle_rewind();
        assert!(!place.knows(Partition(0), Offset(5)));
    }

    #[test]
    fn offsets_that_were_left_out_are_not_known_when_a_restored_queue_gives_them() {
        let (mut place, _) = Place::parse("");
        place.take(Partition(0), Offset(7));
        place.take(Partition(0), Offset(8 << 40));
        place.take(Partition(0), Offset((8 << 40) + 1));
        assert!(
            place.knows(Partition(0), Offset(7))
                && place.knows(Partition(0), Offset(8 << 40))
                && !place.knows(Partition(0), Offset(3 << 40))
        );
        // The same again from a backup, which leaves out fewer.
        place.take(Partition(0), Offset(3 << 40));
        assert!(place.knows(Partition(0), Offset(3 << 40)) && place.knows(Partition(0), Offset(7)));
        assert!(
            !place.knows(Partition(0), Offset((3 << 40) + 1))
                && !place.knows(Partition(0), Offset(8 << 40))
                && !place.knows(Partition(0), Offset(2 << 40))
        );
    }

    #[test]
    fn an_id_that_no_server_gives_is_none_and_the_last_offset_does_not_overflow() {
        assert_eq!(parse_id("3f.ffffffffffffffff"), Some((Partition(63), Offset(u64::MAX))));
        for id in [
            "",
            ".",
            "0",
            "0.",
            ".0",
            "+1.0",
            "0.+1",
            "-0.0",
            "0.0.0",
            "40.0",
            "ffff.0",
            "0.10000000000000000",
        ] {
            assert_eq!(parse_id(id), None, "{id}");
        }
        let mut place = Place::default();
        place.take(Partition(0), Offset(u64::MAX - 1));
        place.take(Partition(0), Offset(u64::MAX));
        assert!(place.knows(Partition(0), Offset(u64::MAX - 1)));
    }

    #[test]
    fn a_marker_of_before_a_rewind_or_of_another_operation_says_nothing_of_the_end() {
        let mut place = Place::default();
        place.handle_marker(&marker(1, &[9]));
        assert!(place.reaches(&marker(1, &[3]), None));
        for doubt in [Place::handle_rewind, Place::handle_begin] {
            doubt(&mut place);
            assert!(!place.reaches(&marker(1, &[3]), None));
            place.handle_marker(&marker(1, &[3]));
            assert!(place.reaches(&marker(1, &[3]), None));
        }
    }

    #[test]
    fn the_end_is_reached_in_every_partition_or_in_the_one_that_is_read() {
        let end = marker(1, &[3, 5]);
        let at = |positions: &[u64], taken: &str| Place::parse(&format!("{}{taken}", marker(1, positions))).0;
        let mut place = at(&[3, 0], "~1.4");
        assert!(!place.reaches(&end, None) && place.reaches(&end, Some(Partition(0))));
        place.take(Partition(1), Offset(4));
        assert!(place.reaches(&end, None));
        assert!(!place.reaches(&marker(2, &[0, 0]), None), "it is another life's");
        assert!(!Place::default().reaches(&end, None));
    }
}

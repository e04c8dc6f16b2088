//! The position of a consumer: a marker, and the messages taken beyond it.
//!
//! Only a server can create a marker. It points past the last message that the server had sent when it
//! created the marker. A consumer may have taken fewer messages than that, or more since then. As text, a
//! position is therefore `<marker>~<partition>.<offset>~…`. Each `~` part gives the offset after the last
//! message taken from a partition, written as in message ids. Only the marker is ever sent to a server.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use crate::base::limits::PARTITIONS_MAX;
use crate::base::queue::message_id;
use crate::base::units::{Offset, Partition};
use crate::operation::Marker;

/// Separates the marker and the parts after it. No marker contains it.
const KNOWN: char = '~';

/// The shortest gap in the offsets that is remembered. When a server cannot prove that it continues where it
/// ended before, it skips more offsets than any file holds.
const GAP_MIN: u64 = 1 << 20;

/// The largest number of gaps to remember per partition. The oldest are dropped.
const GAPS_MAX: usize = 64;

/// The messages taken from one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Taken {
    /// The offset after the last message taken.
    next: Offset,
    /// Offsets below `next` that had no messages, in order. A queue that was restored from a backup may use
    /// them, because it skips other offsets than before.
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
        // A message inside a gap shows that the queue was rewound. The messages taken after it no longer
        // exist.
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

/// The position of a consumer in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    marker: Option<String>,
    /// The messages taken from each partition.
    taken: BTreeMap<Partition, Taken>,
    /// Whether the queue may have been rewound since the marker arrived.
    is_doubted: bool,
}

/// Parses a message id into partition and offset. Returns `None` for an id that this server never creates.
pub(super) fn parse_id(id: &str) -> Option<(Partition, Offset)> {
    let (partition, offset) = id.split_once('.')?;
    // `from_str_radix` also accepts a sign, so check the digits first.
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex(partition) || !is_hex(offset) {
        return None;
    }
    let partition =
        u16::from_str_radix(partition, 16).ok().filter(|partition| *partition < PARTITIONS_MAX)?;
    Some((Partition(partition), Offset(u64::from_str_radix(offset, 16).ok()?)))
}

impl Place {
    /// Parses the output of [`Self::text`], or any `starting_marker`. Returns the position and the
    /// `starting_marker` to send.
    pub(super) fn parse(text: &str) -> (Self, String) {
        let mut parts = text.split(KNOWN);
        let start = parts.next().unwrap_or_default().to_owned();
        let taken = parts.filter_map(parse_id).map(|(partition, next)| (partition, Taken::until(next)));
        let taken: BTreeMap<Partition, Taken> = taken.collect();
        let marker = (!taken.is_empty()).then(|| start.clone());
        (Self { marker, taken, is_doubted: false }, start)
    }

    /// Returns the position as text, to resume from later. Returns `None` before the first marker.
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

    /// Returns the last marker.
    pub(super) fn marker(&self) -> Option<&str> {
        self.marker.as_deref()
    }

    /// Applies a marker from the server. If it is of another life of the queue, other messages have the known
    /// ids, so forgets those.
    pub(super) fn handle_marker(&mut self, marker: &str) {
        if self.marker.as_deref().is_some_and(|known| !Marker::same_life(known, marker)) {
            self.taken.clear();
        }
        self.marker = Some(marker.to_owned());
        self.is_doubted = false;
    }

    /// Records a rewind. The known ids may come again with other messages, and the marker may be past the
    /// queue's end.
    pub(super) fn handle_rewind(&mut self) {
        self.taken.clear();
        self.is_doubted = true;
    }

    /// Records the start of another operation. The queue may have been rewound since. If so, the server says
    /// so before its next marker.
    pub(super) fn handle_begin(&mut self) {
        self.is_doubted = true;
    }

    /// Returns whether this message was taken before.
    pub(super) fn knows(&self, partition: Partition, offset: Offset) -> bool {
        self.taken.get(&partition).is_some_and(|taken| taken.knows(offset))
    }

    /// Records that this message was taken.
    pub(super) fn take(&mut self, partition: Partition, offset: Offset) {
        self.taken.entry(partition).or_default().take(offset);
    }

    /// Returns whether `marker` is of the same life of the queue as this position.
    pub(super) fn is_of(&self, marker: &str) -> bool {
        self.marker.as_deref().is_some_and(|own| Marker::same_life(own, marker))
    }

    /// Returns whether the position is at or past the marker `end`, in partition `only` or in every
    /// partition. Returns false after the start of an operation or a rewind, until the next marker arrives.
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

    /// Creates a marker of a queue with this incarnation.
    pub(in crate::client) fn marker(incarnation: u64, positions: &[u64]) -> String {
        let partitions = positions.len() as u16;
        let info = QueueInfo {
            id: QueueId(1),
            incarnation,
            partitions,
            hash: 7,
            signing: Default::default(),
            policy: Default::default(),
        };
        let positions: Vec<Offset> = positions.iter().copied().map(Offset).collect();
        Marker::encode(&info, &positions)
    }

    #[test]
    fn messages_taken_past_the_marker_are_known_after_parsing() {
        let (mut place, start) = Place::parse("latest");
        assert_eq!((place.text(), start.as_str()), (None, "latest"));
        place.handle_marker(&marker(1, &[3, 20]));
        place.take(Partition(0), Offset(0x1f));
        place.take(Partition(1), Offset(18));
        let text = place.text().unwrap();
        assert_eq!(
            text,
            format!("{}~0.20", marker(1, &[3, 20])),
            "positions that the marker covers are left out"
        );
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
    fn another_life_of_the_queue_or_a_rewind_forgets_everything() {
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
    fn skipped_offsets_are_unknown_when_a_restored_queue_uses_them() {
        let (mut place, _) = Place::parse("");
        place.take(Partition(0), Offset(7));
        place.take(Partition(0), Offset(8 << 40));
        place.take(Partition(0), Offset((8 << 40) + 1));
        assert!(
            place.knows(Partition(0), Offset(7))
                && place.knows(Partition(0), Offset(8 << 40))
                && !place.knows(Partition(0), Offset(3 << 40))
        );
        // The queue continues from a backup, which skips fewer offsets.
        place.take(Partition(0), Offset(3 << 40));
        assert!(place.knows(Partition(0), Offset(3 << 40)) && place.knows(Partition(0), Offset(7)));
        assert!(
            !place.knows(Partition(0), Offset((3 << 40) + 1))
                && !place.knows(Partition(0), Offset(8 << 40))
                && !place.knows(Partition(0), Offset(2 << 40))
        );
    }

    #[test]
    fn invalid_ids_are_refused_and_the_last_offset_does_not_overflow() {
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
    fn a_marker_from_before_a_rewind_or_of_another_operation_does_not_reach_the_end() {
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
    fn the_end_is_reached_in_every_partition_or_in_the_only_one_read() {
        let end = marker(1, &[3, 5]);
        let at = |positions: &[u64], taken: &str| Place::parse(&format!("{}{taken}", marker(1, positions))).0;
        let mut place = at(&[3, 0], "~1.4");
        assert!(!place.reaches(&end, None) && place.reaches(&end, Some(Partition(0))));
        place.take(Partition(1), Offset(4));
        assert!(place.reaches(&end, None));
        assert!(!place.reaches(&marker(2, &[0, 0]), None), "the marker is of another life of the queue");
        assert!(!Place::default().reaches(&end, None));
    }
}

//! The starts of the servers that used a directory: the proof that a start continues where the last one
//! ended.
//!
//! After a backup is restored, a file system is rolled back, or the machine loses the last writes, a
//! partition ends before offsets that were given out, and before positions that consumers hold. The directory
//! itself looks the same. So each start begins a **timeline** with a random id, and records where each
//! partition ends. A marker names its timeline. A consumer continues at its position, or where that timeline
//! ended if the position is beyond. If the directory does not know the timeline, the consumer continues at
//! the oldest message.
//!
//! No message id is given out twice. A start is proven to continue where the last one ended if it runs in the
//! same boot of the machine, on the very file that the last one wrote, reached through the same mount: a copy
//! has another inode, made at another time. Every other start skips a random number of offsets before the
//! next message of each partition. (A rollback of the file system under a running machine, without a mount,
//! is not noticed.)
//!
//! ```text
//! file     magic "MSTRMHIS", version u32, checksum u32 of the version and the rest:
//!          key u128, is key new u8, boot u128, inode u64, made u64 (ns), mount u64, jump u64,
//!          incarnation u64 (the last one before the jump), count u32 of ends before the jump,
//!          then timeline u64,
//!          count u32 of timelines whose ends are forgotten, for each: id u64;
//!          count u32 of earlier timelines, for each: id u64, count u32 of ends, for each:
//!          incarnation u64, partition u16, end u64;
//!          stopped u8 (1: cleanly), count u32 of segments that this sealed, for each: place u32,
//!          stamp u64, end u64
//! ```

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::disk::{Directory, FileName, Identity, Step, run_all};
use super::format::{OFFSET_MAX, PartitionId, Reader, Unreadable, VERSION, behind_prefix, with_prefix};
use crate::base::millis::UnixMillis;
use crate::base::units::{Offset, Partition};

const MAGIC: [u8; 8] = *b"MSTRMHIS";

/// The bytes of a file before those that its checksum covers.
const PREFIX: usize = 16;

/// The most earlier timelines that are kept with their ends.
pub const TIMELINES_MAX: usize = 64;

/// The most ends that all of them keep together, 18 bytes each in the file and about 40 in memory. The newest
/// timeline keeps all its ends.
pub const ENDS_MAX: usize = 1 << 20;

/// The most memory that a history takes, in bytes: the ends that it keeps, those before the jump, and the
/// file while it is written. A directory with more partitions than [`ENDS_MAX`] keeps only the ends of its
/// last start.
pub const HISTORY_BYTES_MAX: usize = 2 * ENDS_MAX * 40 + 2 * ENDS_MAX * 18;

/// The most older timelines of which only the ids are kept, 8 bytes each. A marker of a still older one
/// begins at the oldest message.
pub const FORGOTTEN_MAX: usize = 4_096;

/// The fewest offsets that a new timeline skips: more than any partition stores after a backup was made.
pub(super) const JUMP_MIN: u64 = 1 << 40;

/// The random part of a jump is a multiple of this; [`JUMP_STEPS`] is the number of multiples. Two timelines
/// that begin at the same message give out the same ids only if they draw the same multiple.
const JUMP_STEP: u64 = 1 << 32;
const JUMP_STEPS: u64 = 1 << 16;

/// No partition jumps beyond this offset.
const JUMP_END: Offset = Offset(OFFSET_MAX.0 / 2);

const _: () = assert!(JUMP_MIN + JUMP_STEPS * JUMP_STEP <= JUMP_END.0, "every jump can be read back");

/// The timeline of directories that were written before timelines existed, and of markers from that time.
pub const LEGACY: u64 = 0;

/// The time and the boot in which a server starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The Unix time, in nanoseconds.
    pub unix_ns: u64,
    /// The boot of the machine, from `/proc/sys/kernel/random/boot_id`; 0 if the system does not report it.
    pub boot: u128,
}

impl Moment {
    /// Returns the same Unix time in milliseconds.
    pub fn unix(&self) -> UnixMillis {
        UnixMillis::new(self.unix_ns / 1_000_000)
    }
}

/// A segment that a clean stop sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The number of its file.
    pub place: u32,
    /// The stamp of its rounds.
    pub stamp: u64,
    /// The position at which its last round ends.
    pub end: u64,
}

/// An earlier timeline, and where its partitions ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Timeline {
    id: u64,
    /// The end of each partition that held anything, when the next timeline began.
    ends: HashMap<PartitionId, Offset>,
}

/// The timelines of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Signs the markers of this directory.
    pub key: u128,
    /// Whether the key differs from that of earlier markers, because that one was lost.
    pub is_key_new: bool,
    /// The present timeline.
    pub timeline: u64,
    boot: u128,
    identity: Identity,
    jump: u64,
    /// The last incarnation before the jump. Newer queues do not jump.
    incarnation: u64,
    earlier: VecDeque<Timeline>,
    /// The ids of still earlier timelines, whose ends are not kept.
    forgotten: VecDeque<u64>,
    /// The end of each partition before the jump.
    floor: HashMap<PartitionId, Offset>,
    /// The segments that the last clean stop sealed, or `None` if the server did not stop cleanly.
    pub stopped: Option<Vec<Sealed>>,
}

impl History {
    /// Creates the history of a directory without one: the directory is new, or from a version that kept
    /// none, or the file was removed.
    pub fn begin(is_used: bool, random: u128) -> Self {
        let timeline = if is_used { LEGACY } else { new_id(random) };
        Self { key: random, is_key_new: is_used, timeline, ..Self::default() }
    }

    /// Creates the history of a directory whose history is damaged: nothing is known of earlier timelines.
    pub fn lost(random: u128) -> Self {
        Self { is_key_new: true, ..Self::begin(false, random) }
    }

    /// Returns whether a server that starts now is proven to continue where the last one ended.
    pub fn is_continued(&self, now: &Moment, identity: Identity) -> bool {
        let is_proof = now.boot != 0 && identity.made_ns != 0 && !identity.is_touched;
        is_proof && self.boot == now.boot && self.identity == identity
    }

    /// Records a start with the end of each partition and the incarnation of the newest queue. If it is not
    /// proven to continue, partitions skip offsets.
    pub fn start(
        &mut self,
        is_continued: bool,
        ends: HashMap<PartitionId, Offset>,
        incarnation: u64,
        random: u128,
    ) {
        if !is_continued {
            self.floor.clone_from(&ends);
            self.incarnation = incarnation;
            self.jump = JUMP_MIN + (random >> 32) as u64 % JUMP_STEPS * JUMP_STEP;
        }
        let id = std::mem::replace(&mut self.timeline, new_id(random));
        self.earlier.push_back(Timeline { id, ends });
        let kept: usize = self.earlier.iter().map(|timeline| timeline.ends.len()).sum();
        let mut surplus = kept.saturating_sub(ENDS_MAX);
        while self.earlier.len() > TIMELINES_MAX || surplus > 0 && self.earlier.len() > 1 {
            let Some(oldest) = self.earlier.pop_front() else { break };
            surplus = surplus.saturating_sub(oldest.ends.len());
            self.forgotten.push_back(oldest.id);
        }
        let surplus = self.forgotten.len().saturating_sub(FORGOTTEN_MAX);
        self.forgotten.drain(..surplus);
    }

    /// Returns how many offsets are skipped before the next message of a partition that ends at `end`: 0 if
    /// it got a message since the jump.
    pub fn jump(&self, id: PartitionId, end: Offset) -> u64 {
        let is_old = id.0 <= self.incarnation && end <= self.floor.get(&id).copied().unwrap_or_default();
        if is_old { self.jump.min(JUMP_END.saturating_since(end)) } else { 0 }
    }

    /// Returns where a consumer continues that had `position` in a partition in this timeline: at the oldest
    /// message that it may not have seen.
    pub fn resume(&self, timeline: u64, id: PartitionId, position: Offset) -> Offset {
        if timeline == self.timeline {
            return position;
        }
        let known = match self.forgotten.contains(&timeline) {
            // It ended before the oldest timeline whose ends are kept.
            true => self.earlier.front(),
            false => self.earlier.iter().find(|earlier| earlier.id == timeline),
        };
        known.map_or(Offset::ZERO, |known| known.ends.get(&id).copied().unwrap_or_default().min(position))
    }

    /// Writes the history of a server that started at `now`.
    pub fn save(&mut self, directory: &dyn Directory, now: &Moment) -> io::Result<()> {
        directory.run(&Step::Create(FileName::NewHistory))?;
        self.identity = directory.identity(FileName::NewHistory)?;
        self.boot = now.boot;
        let steps = [
            Step::Write(FileName::NewHistory, 0, Arc::new(self.encode())),
            Step::Sync(FileName::NewHistory),
            Step::Rename(FileName::NewHistory, FileName::History),
            Step::SyncDirectory,
        ];
        run_all(directory, &steps)
    }

    /// Returns the history of a copy of the directory. The rounds of `sealed` end as stated, as after a clean
    /// stop. The copy is not proven to continue anything.
    pub fn of_copy(&self, sealed: Vec<Sealed>) -> Vec<u8> {
        Self { boot: 0, stopped: Some(sealed), ..self.clone() }.encode()
    }

    fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        fields.extend(self.key.to_le_bytes());
        fields.push(u8::from(self.is_key_new));
        fields.extend(self.boot.to_le_bytes());
        let Identity { inode, made_ns, mount, .. } = self.identity;
        for field in [inode, made_ns, mount, self.jump, self.incarnation] {
            fields.extend(field.to_le_bytes());
        }
        put_ends(&self.floor, &mut fields);
        fields.extend(self.timeline.to_le_bytes());
        fields.extend((self.forgotten.len() as u32).to_le_bytes());
        self.forgotten.iter().for_each(|id| fields.extend(id.to_le_bytes()));
        fields.extend((self.earlier.len() as u32).to_le_bytes());
        for Timeline { id, ends } in &self.earlier {
            fields.extend(id.to_le_bytes());
            put_ends(ends, &mut fields);
        }
        fields.push(u8::from(self.stopped.is_some()));
        let sealed = self.stopped.as_deref().unwrap_or_default();
        fields.extend((sealed.len() as u32).to_le_bytes());
        for Sealed { place, stamp, end } in sealed {
            fields.extend(place.to_le_bytes());
            fields.extend(stamp.to_le_bytes());
            fields.extend(end.to_le_bytes());
        }
        with_prefix(MAGIC, VERSION, &fields)
    }

    /// Parses the content of a file.
    pub fn parse(file: &[u8]) -> Result<Self, Unreadable> {
        let (_, fields) = behind_prefix(MAGIC, VERSION, file, file.len().saturating_sub(PREFIX))?;
        Self::parse_fields(&mut Reader(fields)).ok_or(Unreadable::Damaged)
    }

    fn parse_fields(fields: &mut Reader<'_>) -> Option<Self> {
        let (key, is_key_new, boot) = (fields.u128()?, fields.bytes(1)? == [1], fields.u128()?);
        let (inode, made_ns, mount) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let identity = Identity { inode, made_ns, mount, is_touched: false };
        let (jump, incarnation) = (fields.u64()?, fields.u64()?);
        let floor = read_ends(fields)?;
        let timeline = fields.u64()?;
        let forgotten = (0..fields.u32()?).map(|_| fields.u64()).collect::<Option<VecDeque<_>>>()?;
        let mut earlier = VecDeque::new();
        for _ in 0..fields.u32()? {
            earlier.push_back(Timeline { id: fields.u64()?, ends: read_ends(fields)? });
        }
        let is_stopped = fields.bytes(1)? == [1];
        let count = fields.u32()?;
        let sealed = |fields: &mut Reader<'_>| {
            Some(Sealed { place: fields.u32()?, stamp: fields.u64()?, end: fields.u64()? })
        };
        let sealed = (0..count).map(|_| sealed(fields)).collect::<Option<Vec<_>>>()?;
        let stopped = is_stopped.then_some(sealed);
        let is_sound = jump <= JUMP_END.0;
        is_sound.then_some(Self {
            key,
            is_key_new,
            timeline,
            boot,
            identity,
            jump,
            incarnation,
            earlier,
            forgotten,
            floor,
            stopped,
        })
    }
}

fn put_ends(ends: &HashMap<PartitionId, Offset>, fields: &mut Vec<u8>) {
    fields.extend((ends.len() as u32).to_le_bytes());
    for ((incarnation, partition), end) in ends {
        fields.extend(incarnation.to_le_bytes());
        fields.extend(partition.0.to_le_bytes());
        fields.extend(end.0.to_le_bytes());
    }
}

fn read_ends(fields: &mut Reader<'_>) -> Option<HashMap<PartitionId, Offset>> {
    let end =
        |fields: &mut Reader<'_>| Some(((fields.u64()?, Partition(fields.u16()?)), Offset(fields.u64()?)));
    let ends = (0..fields.u32()?).map(|_| end(fields)).collect::<Option<HashMap<_, _>>>()?;
    ends.values().all(|end| *end <= OFFSET_MAX).then_some(ends)
}

fn new_id(random: u128) -> u64 {
    (random as u64).max(LEGACY + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: PartitionId = (5, Partition(0));

    fn ends(end: Offset) -> HashMap<PartitionId, Offset> {
        [(ID, end)].into()
    }

    #[test]
    fn a_marker_continues_where_both_timelines_still_agree() {
        let mut ours = History::begin(false, 1);
        let first = ours.timeline;
        ours.start(true, ends(Offset(10)), 5, 2);
        let second = ours.timeline;
        ours.start(true, ends(Offset(30)), 5, 3);
        let mut theirs = History::begin(false, 1);
        theirs.start(true, ends(Offset(10)), 5, 77);
        assert_eq!(
            ours.resume(ours.timeline, ID, Offset(99)),
            Offset(99),
            "positions of the present timeline are kept"
        );
        assert_eq!(
            (ours.resume(first, ID, Offset(4)), ours.resume(first, ID, Offset(12))),
            (Offset(4), Offset(10))
        );
        assert_eq!(ours.resume(second, ID, Offset(29)), Offset(29));
        assert_eq!(
            ours.resume(second, (5, Partition(1)), Offset(29)),
            Offset(0),
            "the partition was empty when it ended"
        );
        assert_eq!(
            ours.resume(theirs.timeline, ID, Offset(12)),
            Offset(0),
            "it is unknown where another branch began"
        );
    }

    #[test]
    fn forgotten_timelines_are_known_to_be_older() {
        let mut history = History::begin(false, 1);
        let first = history.timeline;
        for round in 0..2 * TIMELINES_MAX as u64 {
            history.start(true, ends(Offset(100 + round)), 5, u128::from(round + 1_000));
        }
        assert_eq!(history.earlier.len(), TIMELINES_MAX);
        assert_eq!(history.resume(first, ID, Offset(50)), Offset(50));
        assert_eq!(
            history.resume(987_654, ID, Offset(50)),
            Offset(0),
            "a timeline of another branch is not known"
        );
        let again = History::parse(&history.encode()).unwrap();
        assert_eq!(again.resume(first, ID, Offset(50)), Offset(50));
    }

    #[test]
    fn offsets_are_skipped_once_and_not_for_newer_queues() {
        let mut history = History::begin(true, 1);
        history.start(true, ends(Offset(7)), 5, 123 << 32);
        assert_eq!(history.jump(ID, Offset(7)), 0, "it is proven to continue");
        history.start(false, ends(Offset(7)), 5, 123 << 32);
        assert_eq!(history.jump(ID, Offset(7)), JUMP_MIN + 123 * JUMP_STEP);
        history.start(true, ends(Offset(7)), 6, 1 << 32);
        assert_eq!(history.jump(ID, Offset(7)), JUMP_MIN + 123 * JUMP_STEP);
        assert_eq!(history.jump(ID, Offset(8) + history.jump(ID, Offset(7))), 0, "it got a message since");
        assert_eq!(history.jump((6, Partition(0)), Offset(0)), 0, "its queue is newer");
        assert_eq!(
            history.jump((5, Partition(1)), Offset(0)),
            history.jump,
            "its queue is older, and another branch may have used it"
        );
        history.start(false, ends(JUMP_END.previous()), 5, 1 << 32);
        assert_eq!(history.jump(ID, JUMP_END.previous()), 1, "offsets do not overflow");
    }

    proptest! {
        #[test]
        fn a_history_is_read_back_as_written_or_is_damaged(
            all in proptest::collection::vec((any::<u64>(), any::<u16>().prop_map(Partition), (0..=OFFSET_MAX.0).prop_map(Offset)), 0..20),
            stopped in proptest::option::of(proptest::collection::vec((any::<u32>(), any::<u64>(), any::<u64>()), 0..4)),
            cut in any::<usize>(),
        ) {
            let mut history = History::begin(false, 7);
            let ends = all.iter().map(|(incarnation, partition, end)| ((*incarnation, *partition), *end)).collect();
            history.start(false, ends, 9, 8);
            history.stopped = stopped.map(|sealed| {
                sealed.into_iter().map(|(place, stamp, end)| Sealed { place, stamp, end }).collect()
            });
            let file = history.encode();
            prop_assert_eq!(History::parse(&file), Ok(history));
            let cut = cut % file.len();
            prop_assert_eq!(History::parse(&file[..cut]), Err(Unreadable::Damaged));
            let mut flipped = file;
            flipped[cut] ^= 1;
            prop_assert!(History::parse(&flipped).is_err());
        }
    }
}

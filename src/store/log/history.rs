//! The starts of the servers that used a directory: what proves that one goes on where the one before it ended.
//!
//! A backup that is restored, a file system that is rolled back and a tail that the machine lost put a partition's end before offsets
//! that were given out, and before positions that consumers hold. The directory itself looks the same. So each start begins a
//! **timeline** with a random id, and notes where each partition stands. A marker names its timeline: it goes on where it stands, or where that
//! timeline ended, if it lies beyond. Of a timeline that the directory does not know, it goes on at the oldest message.
//!
//! No id is given twice either. A start is proven to go on where the last one ended if it runs in the same boot of the machine, on the
//! very file that the last one wrote, reached by the same mount: a copy has another inode, made at another time. Every other start
//! leaves out a random number of offsets before the next message of each partition. (What rolls a file system back under a running
//! machine without a mount, nothing here sees.)
//!
//! ```text
//! file     magic "MSTRMHIS", version u32, checksum u32 of the version and what follows:
//!          key u128, is key new u8, boot u128, inode u64, made u64 (ns), mount u64, jump u64, incarnation u64 (the last one before the
//!          jump), count u32 of ends before the jump, then timeline u64,
//!          count u32 of timelines whose ends are forgotten, for each: id u64;
//!          count u32 of earlier timelines, for each: id u64, count u32 of ends, for each: incarnation u64, partition u16, end u64;
//!          stopped u8 (1: cleanly), count u32 of segments that this sealed, for each: place u32, stamp u64, end u64
//! ```

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::disk::{Directory, FileName, Identity, Step, run_all};
use super::format::{OFFSET_MAX, PartitionId, Reader, Unreadable, behind_prefix, with_prefix};
use crate::base::millis::UnixMillis;
use crate::base::units::{Offset, Partition};

const MAGIC: [u8; 8] = *b"MSTRMHIS";

/// Bytes of a file before what its checksum covers.
const PREFIX: usize = 16;

/// Earlier timelines that are kept.
pub const TIMELINES_MAX: usize = 64;

/// Ends that are kept of all of them together, 18 bytes each in the file and some 40 in memory. The newest timeline keeps its ends in
/// any case.
pub const ENDS_MAX: usize = 1 << 20;

/// What a history takes in memory at worst, bytes: the ends that it keeps, those before the jump, and the file while it is written.
/// A directory of more partitions than [`ENDS_MAX`] keeps the ends of its last start alone.
pub const HISTORY_BYTES_MAX: usize = 2 * ENDS_MAX * 40 + 2 * ENDS_MAX * 18;

/// Timelines before those of which the ids are kept, 8 bytes each. A marker of a still older one begins at the oldest message.
pub const FORGOTTEN_MAX: usize = 4_096;

/// The least number of offsets that a new timeline leaves out: more than any partition stores after a backup was made.
pub(super) const JUMP_MIN: u64 = 1 << 40;

/// What the random part of a jump is a multiple of, and how many multiples there are. Two timelines that begin at the same message
/// give out the same ids only where they jump equally far, to within the number of messages that they store.
const JUMP_STEP: u64 = 1 << 32;
const JUMP_STEPS: u64 = 1 << 16;

/// No partition jumps beyond this.
const JUMP_END: Offset = Offset(OFFSET_MAX.0 / 2);

const _: () = assert!(JUMP_MIN + JUMP_STEPS * JUMP_STEP <= JUMP_END.0, "every jump is one that can be read");

/// The timeline of directories that were written before there were timelines, and of markers from that time.
pub const LEGACY: u64 = 0;

/// Where and when a server starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Unix time, nanoseconds.
    pub unix_ns: u64,
    /// The boot of the machine, from `/proc/sys/kernel/random/boot_id`; 0 where the system does not say.
    pub boot: u128,
}

impl Moment {
    /// The same Unix time in milliseconds.
    pub fn unix(&self) -> UnixMillis {
        UnixMillis::new(self.unix_ns / 1_000_000)
    }
}

/// A segment that a clean stop has sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its file.
    pub place: u32,
    /// Which life of the file.
    pub stamp: u64,
    /// Where its last round ends.
    pub end: u64,
}

/// A timeline that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Timeline {
    id: u64,
    /// Where each partition stood, if it held anything.
    ends: HashMap<PartitionId, Offset>,
}

/// See the module's page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Signs the markers of this directory.
    pub key: u128,
    /// The key is not that of earlier markers: it was lost.
    pub is_key_new: bool,
    /// The present timeline.
    pub timeline: u64,
    boot: u128,
    identity: Identity,
    jump: u64,
    /// Queues that were made later jump no more.
    incarnation: u64,
    earlier: VecDeque<Timeline>,
    /// Still earlier ones, whose ends are not kept.
    forgotten: VecDeque<u64>,
    /// Where each partition stood before the jump.
    floor: HashMap<PartitionId, Offset>,
    /// What the last clean stop sealed; nothing where the server did not end cleanly.
    pub stopped: Option<Vec<Sealed>>,
}

impl History {
    /// That of a directory without one. It is new, or of a version that kept none, or somebody has removed it.
    pub fn begin(is_used: bool, random: u128) -> Self {
        let timeline = if is_used { LEGACY } else { new_id(random) };
        Self { key: random, is_key_new: is_used, timeline, ..Self::default() }
    }

    /// That of a directory whose history is damaged: nothing is known of earlier timelines.
    pub fn lost(random: u128) -> Self {
        Self { is_key_new: true, ..Self::begin(false, random) }
    }

    /// Whether a server that starts now is proven to go on where the last one ended.
    pub fn is_continued(&self, now: &Moment, identity: Identity) -> bool {
        let is_proof = now.boot != 0 && identity.made_ns != 0 && !identity.is_touched;
        is_proof && self.boot == now.boot && self.identity == identity
    }

    /// A server starts: `ends` says where each partition stands, `incarnation` which queue was made last. Where nothing proves that it
    /// goes on, offsets are left out.
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

    /// How many offsets are left out before the next message of a partition that ends there: none where it has got one since.
    pub fn jump(&self, id: PartitionId, end: Offset) -> u64 {
        let is_old = id.0 <= self.incarnation && end <= self.floor.get(&id).copied().unwrap_or_default();
        if is_old { self.jump.min(JUMP_END.saturating_since(end)) } else { 0 }
    }

    /// Where a consumer goes on that stood at `position` of a partition in that timeline: at the oldest message that it may not have
    /// seen.
    pub fn resume(&self, timeline: u64, id: PartitionId, position: Offset) -> Offset {
        if timeline == self.timeline {
            return position;
        }
        let known = match self.forgotten.contains(&timeline) {
            // It ended before the oldest whose ends are kept.
            true => self.earlier.front(),
            false => self.earlier.iter().find(|earlier| earlier.id == timeline),
        };
        known.map_or(Offset::ZERO, |known| known.ends.get(&id).copied().unwrap_or_default().min(position))
    }

    /// Writes it, as that of a server that runs since `now`.
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
        with_prefix(MAGIC, &fields)
    }

    /// Reads a file's content.
    pub fn parse(file: &[u8]) -> Result<Self, Unreadable> {
        let fields = behind_prefix(MAGIC, file, file.len().saturating_sub(PREFIX))?;
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
    fn a_marker_goes_on_where_both_timelines_still_agree() {
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
            "the present timeline is believed"
        );
        assert_eq!(
            (ours.resume(first, ID, Offset(4)), ours.resume(first, ID, Offset(12))),
            (Offset(4), Offset(10))
        );
        assert_eq!(ours.resume(second, ID, Offset(29)), Offset(29));
        assert_eq!(
            ours.resume(second, (5, Partition(1)), Offset(29)),
            Offset(0),
            "nothing was there when it ended"
        );
        assert_eq!(
            ours.resume(theirs.timeline, ID, Offset(12)),
            Offset(0),
            "nobody knows where another branch began"
        );
    }

    #[test]
    fn timelines_that_are_forgotten_are_known_to_be_older() {
        let mut history = History::begin(false, 1);
        let first = history.timeline;
        for round in 0..2 * TIMELINES_MAX as u64 {
            history.start(true, ends(Offset(100 + round)), 5, u128::from(round + 1_000));
        }
        assert_eq!(history.earlier.len(), TIMELINES_MAX);
        assert_eq!(history.resume(first, ID, Offset(50)), Offset(50));
        assert_eq!(history.resume(987_654, ID, Offset(50)), Offset(0), "one of another branch is not");
        let again = History::parse(&history.encode()).unwrap();
        assert_eq!(again.resume(first, ID, Offset(50)), Offset(50));
    }

    #[test]
    fn offsets_are_left_out_once_and_not_for_younger_queues() {
        let mut history = History::begin(true, 1);
        history.start(true, ends(Offset(7)), 5, 123 << 32);
        assert_eq!(history.jump(ID, Offset(7)), 0, "it is proven to go on");
        history.start(false, ends(Offset(7)), 5, 123 << 32);
        assert_eq!(history.jump(ID, Offset(7)), JUMP_MIN + 123 * JUMP_STEP);
        history.start(true, ends(Offset(7)), 6, 1 << 32);
        assert_eq!(history.jump(ID, Offset(7)), JUMP_MIN + 123 * JUMP_STEP);
        assert_eq!(
            history.jump(ID, Offset(8) + history.jump(ID, Offset(7))),
            0,
            "it has got a message since"
        );
        assert_eq!(history.jump((6, Partition(0)), Offset(0)), 0, "its queue is younger");
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
        fn it_comes_back_as_it_was_written_or_is_damaged(
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

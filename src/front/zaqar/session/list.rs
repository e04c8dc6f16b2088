//! `message_list`.
//!
//! The partitions of a queue are listed one after the other, each in the order of its offsets. The answer has a marker: the
//! position in every partition, as the streaming protocol writes it. A list that continues there misses nothing. The id of
//! a message as marker says: after this message, in its partition and those behind it.

use super::ids::Life;
use super::known::KnownQueue;
use super::outcome::{Body, Outcome, Shown};
use super::task::{Call, Progress, Task};
use crate::base::batch::{Fetched, StoredBatch};
use crate::base::claim::View;
use crate::base::error::StoreFault;
use crate::base::millis::UnixMillis;
use crate::base::names::ClientId;
use crate::base::units::{Offset, Partition};
use crate::operation::{Answer, Command, Marker, MarkerPlace, Start};

/// The bytes of the first fetch. Each further one reads twice as much, up to `fetch_bytes`.
const FIRST_BYTES: usize = 16 << 10;

/// What a list is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The most messages.
    pub(super) limit: usize,
    /// Leave out the messages of this client.
    pub(super) exclude: Option<ClientId>,
    /// Which messages are shown.
    pub(super) view: View,
    /// Whether messages are shown whose delay is not over.
    pub(super) delayed: bool,
}

/// A list under way.
#[derive(Debug)]
struct List {
    queue: KnownQueue,
    wanted: Wanted,
    /// The next offset of each partition.
    positions: Vec<Offset>,
    /// The partition that is being read.
    partition: usize,
    bytes: usize,
    found: Vec<Shown>,
    /// Whether the list began behind a message of a later partition. Then nobody knows how far the earlier ones were read.
    is_partial: bool,
}

/// Lists messages behind a marker.
pub(super) fn list(
    queue: KnownQueue,
    marker: Option<&str>,
    wanted: Wanted,
    call: &mut Call<'_, '_>,
) -> Progress {
    let Some((positions, partition)) = start(&queue, marker) else {
        // As the official server does with a marker that is none of its own.
        return Progress::Done(Outcome::new(200, Body::Messages(Vec::new(), None)));
    };
    let is_partial = partition > 0;
    let list =
        List { queue, wanted, positions, partition, bytes: FIRST_BYTES, found: Vec::new(), is_partial };
    list.fetch(call);
    Progress::Waits(Box::new(list))
}

/// Returns the next offset of each partition, and the partition to begin with. `None` if the text is no marker.
fn start(queue: &KnownQueue, marker: Option<&str>) -> Option<(Vec<Offset>, usize)> {
    let partitions = usize::from(queue.info.partitions);
    let Some(text) = marker else { return Some((vec![Offset::ZERO; partitions], 0)) };
    if let Some((partition, offset)) = Life::of(&queue.info).read_message(text) {
        let mut positions = vec![Offset::ZERO; partitions];
        let partition = usize::from(partition.0);
        *positions.get_mut(partition)? = offset.saturating_add(1);
        return Some((positions, partition));
    }
    let Ok(Start::Marker(marker)) = Start::parse(text) else { return None };
    match marker.place(&queue.info).ok()? {
        MarkerPlace::Here(mut positions) | MarkerPlace::OtherTimeline(_, mut positions) => {
            positions.resize(partitions, Offset::ZERO);
            Some((positions, 0))
        }
        MarkerPlace::OtherLife => None,
    }
}

impl List {
    fn partition(&self) -> Partition {
        Partition(u16::try_from(self.partition).unwrap_or(u16::MAX))
    }

    fn position(&self) -> Offset {
        self.positions.get(self.partition).copied().unwrap_or_default()
    }

    fn fetch(&self, call: &mut Call<'_, '_>) {
        let Wanted { exclude, view, .. } = self.wanted;
        let (operation, target, from) =
            (call.operation, self.queue.target(self.partition()), self.position());
        let bytes_max = self.bytes;
        call.send(Command::Fetch { operation, target, from, bytes_max, exclude, view, wait: false });
    }

    /// Takes messages until the page is full. Returns the next offset.
    fn take(&mut self, fetched: &Fetched, unix: UnixMillis) -> Offset {
        let from = self.position();
        for stored in &fetched.batches {
            if !self.wanted.delayed && stored.delay_left_secs(unix).is_some() || stored.is_expired(unix) {
                continue;
            }
            let (mut at, end) = (from.max(stored.base_offset), stored.end_offset());
            while at < end {
                let run = fetched.hidden.visible(at, end);
                if run.is_empty() {
                    break;
                }
                let index = u32::try_from(run.start.since(stored.base_offset)).unwrap_or(u32::MAX);
                let mut record = stored.batch.position_of(index);
                at = run.start;
                while at < run.end {
                    if self.found.len() >= self.wanted.limit {
                        return at;
                    }
                    self.found.push(self.shown(stored, record, at));
                    record = stored.batch.record_at(record).map_or(usize::MAX, |(next, _)| next);
                    at = at.saturating_add(1);
                }
            }
        }
        fetched.next
    }

    fn shown(&self, stored: &StoredBatch, record: usize, offset: Offset) -> Shown {
        Shown {
            life: Life::of(&self.queue.info),
            partition: self.partition(),
            stored: stored.clone(),
            record,
            offset,
            ttl_secs: stored.batch.ttl_secs(),
            claim: None,
            count: None,
        }
    }

    fn outcome(&mut self) -> Outcome {
        let marker = (!self.is_partial).then(|| Marker::encode(&self.queue.info, &self.positions));
        Outcome::new(200, Body::Messages(std::mem::take(&mut self.found), marker))
    }
}

impl Task for List {
    fn answer(&mut self, answer: Answer, call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        let Answer::Fetched { result, .. } = answer else { return None };
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(fault) => return Some(Err(fault)),
        };
        if fetched.is_rewound {
            // The partition has gone back: everything that is left of it is behind the marker.
            if let Some(position) = self.positions.get_mut(self.partition) {
                *position = Offset::ZERO;
            }
        }
        let next = self.take(&fetched, call.resources.now.unix);
        if let Some(position) = self.positions.get_mut(self.partition) {
            *position = next.max(*position);
        }
        if self.found.len() >= self.wanted.limit {
            return Some(Ok(self.outcome()));
        }
        if fetched.at_end || fetched.is_rewound && fetched.batches.is_empty() {
            self.partition += 1;
            self.bytes = FIRST_BYTES;
            if self.partition >= self.positions.len() {
                return Some(Ok(self.outcome()));
            }
        } else {
            self.bytes = (2 * self.bytes).min(call.resources.settings.fetch_bytes.max(FIRST_BYTES));
        }
        self.fetch(call);
        None
    }
}

//! What keeps the claims, as the log sees it: notes in hidden partitions, releases and pins.

use super::*;

/// Returns the key of the hidden partition of a partition.
pub(super) fn hidden(key: PartitionKey) -> PartitionKey {
    PartitionKey { partition: key.partition.state(), ..key }
}

impl World {
    /// Appends a note of state.
    pub(super) fn note(&mut self, key: PartitionKey, bytes: usize) {
        self.append_sized(hidden(key), u32::MAX, &[bytes]);
    }

    /// Releases what a partition holds below an offset.
    pub(super) fn release(&mut self, key: PartitionKey, below: Offset) {
        self.log_of(key).release(key, below);
        for message in self.sent.entry(key).or_default().values_mut() {
            message.is_released |= matches!(message.fate, Fate::Acknowledged(offset) if offset < below);
        }
    }

    /// Pins ranges of a partition.
    pub(super) fn pin(&mut self, key: PartitionKey, pinned: Vec<Range<Offset>>) {
        let unix = self.now.unix;
        for message in self.sent.entry(key).or_default().values_mut() {
            let is_in = |offset: Offset| pinned.iter().any(|range| range.contains(&offset));
            // What has expired may be gone already.
            message.is_pinned =
                message.expiry > unix && matches!(message.fate, Fate::Acknowledged(offset) if is_in(offset));
        }
        self.log_of(key).pin(key, pinned);
    }

    /// Returns the acknowledged offsets of a partition, ascending, of which the last is not necessarily the end.
    pub(super) fn offsets(&self, key: PartitionKey) -> Vec<Offset> {
        let sent = self.sent.get(&key).into_iter().flat_map(BTreeMap::values);
        let offsets = sent.filter_map(|message| match message.fate {
            Fate::Acknowledged(offset) => Some(offset),
            _ => None,
        });
        offsets.collect()
    }

    /// Does something that keeps claims.
    pub(super) fn act_on_claims(&mut self, key: PartitionKey) {
        let offsets = self.offsets(key);
        let random = &mut self.random;
        match random.below(4) {
            0 | 1 => {
                let more = if random.below(8) == 0 { 9_000 } else { 200 };
                let bytes = random.below(more);
                self.note(key, bytes);
            }
            2 if !offsets.is_empty() => {
                let below = offsets[random.below(offsets.len())];
                self.release(key, below);
            }
            3 if !offsets.is_empty() => {
                let first = offsets[random.below(offsets.len())];
                let second = first + random.below(10) as u64;
                self.pin(key, vec![first..first + 3, second + 3..second + 5]);
            }
            _ => {}
        }
    }

    /// Writes a snapshot for each partition whose state is stale, and releases what is older than the last but
    /// one.
    pub(super) fn refresh_stale(&mut self) {
        for shard in 0..self.logs.len() {
            while let Some(key) = self.logs[shard].poll_stale_state() {
                let before = self.offsets(hidden(key));
                self.note(key, 100);
                if let Some(last) = before.last() {
                    self.release(hidden(key), *last);
                }
            }
        }
    }

    /// Prepares for a start: what is pinned stays only if there is state, and state is told of once.
    pub(super) fn forget_claims(&mut self) {
        self.told.clear();
        let has_state = |sent: &BTreeMap<u64, Message>| sent.values().any(Message::must_be_there);
        let keys: Vec<PartitionKey> =
            self.sent.iter().filter(|(_, sent)| has_state(sent)).map(|(key, _)| *key).collect();
        for (key, sent) in &mut self.sent {
            for message in sent.values_mut() {
                message.is_pinned &= keys.contains(&hidden(*key));
                message.is_earlier = message.must_be_there();
            }
        }
    }

    /// Checks that the shards tell of state from an earlier run, each once.
    pub(super) fn check_told(&mut self) {
        let seed = self.seed;
        for log in &mut self.logs {
            while let Some(key) = log.poll_stateful() {
                assert!(self.told.insert(key), "seed {seed}: {key:?} is told of twice");
            }
        }
        for (key, sent) in &self.sent {
            let Some(partition) = key.partition.of_state() else { continue };
            let is_stateful = sent.values().any(|message| message.is_earlier);
            let data = PartitionKey { partition, ..*key };
            assert!(!is_stateful || self.told.contains(&data), "seed {seed}: {data:?} is not told of");
        }
    }
}

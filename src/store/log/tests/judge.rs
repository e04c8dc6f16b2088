//! Checks what clients read against what they know.

use super::*;
use crate::base::millis::UnixMillis;

fn read_number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().unwrap())
}

impl World {
    /// Checks that every acknowledged message exists at its offset, and that nothing exists twice or was
    /// never sent.
    pub(super) fn check(&mut self) {
        for queue in 0..QUEUES {
            if !self.open(queue) {
                continue;
            }
            for partition in Partition::all(PARTITIONS) {
                let key = PartitionKey { queue: QueueId(queue), partition };
                self.check_partition(key);
                self.check_partition(hidden(key));
            }
        }
        self.check_told();
    }

    pub(super) fn check_partition(&mut self, key: PartitionKey) {
        let (seed, unix) = (self.seed, self.now.unix);
        let read = self.read(key, Offset(0)).unwrap();
        let stored = self.read_as(key, Offset(0), View::Stored).unwrap();
        assert!(read.is_sorted_by(|a, b| a.0 < b.0), "seed {seed}: offsets grow: {read:?}");
        let Some(sent) = self.sent.get_mut(&key) else { return assert!(read.is_empty()) };
        let mut seen = BTreeMap::new();
        for (offset, number) in read {
            let message = sent.get_mut(&number).expect("a message that was sent");
            assert_eq!(seen.insert(number, offset), None, "seed {seed}: {number} exists twice");
            match message.fate {
                Fate::Acknowledged(at) => assert_eq!(at, offset, "seed {seed}: of {number}"),
                _ => message.fate = Fate::Acknowledged(offset),
            }
        }
        for (number, message) in sent.iter() {
            let Fate::Acknowledged(offset) = message.fate else { continue };
            if message.must_be_there() && message.expiry > unix {
                assert!(seen.contains_key(number), "seed {seed}: {number} at {offset} of {key:?} is lost");
            }
            if message.must_be_there() && message.is_pinned {
                let is_there = stored.contains(&(offset, *number));
                assert!(is_there, "seed {seed}: {number} at {offset} of {key:?} is pinned and lost");
            }
        }
        let by_offset: BTreeMap<Offset, u64> = sent
            .iter()
            .filter_map(|(number, message)| match message.fate {
                Fate::Acknowledged(offset) => Some((offset, *number)),
                _ => None,
            })
            .collect();
        let acknowledged =
            sent.values().filter(|message| matches!(message.fate, Fate::Acknowledged(_))).count();
        assert_eq!(by_offset.len(), acknowledged, "seed {seed}: an offset was given twice");
        assert!(
            by_offset.values().is_sorted(),
            "seed {seed}: messages are not in the order in which they were sent"
        );
    }

    /// Reads a partition from an offset to its end. Returns offsets and numbers.
    pub(super) fn read(&mut self, key: PartitionKey, from: Offset) -> Result<Vec<(Offset, u64)>, StoreFault> {
        self.read_as(key, from, View::Unclaimed)
    }

    /// Reads what a view has of a partition.
    pub(super) fn read_as(
        &mut self,
        key: PartitionKey,
        mut from: Offset,
        view: View,
    ) -> Result<Vec<(Offset, u64)>, StoreFault> {
        let mut all = Vec::new();
        loop {
            self.next += 1;
            let (token, now) = (self.next, self.now);
            let request = Request::Fetch {
                token,
                partition: key,
                from,
                bytes_max: 2000,
                exclude: None,
                view,
                wait: false,
            };
            assert!(self.log_of(key).submit(now, request).is_ok());
            let fetched = loop {
                self.poll();
                match self.reads.remove(&token) {
                    Some(fetched) => break fetched?,
                    None => assert!(self.disk.advance(), "a fetch is answered"),
                }
            };
            for stored in &fetched.batches {
                for (index, payload) in stored.batch.payloads().enumerate() {
                    let offset = stored.base_offset + index as u64;
                    let number = read_number(payload);
                    assert!(
                        payload[8..].iter().all(|byte| *byte == number as u8),
                        "a payload belongs to another message"
                    );
                    if offset >= from {
                        all.push((offset, number));
                    }
                }
            }
            if fetched.is_rewound {
                // The offset is beyond the end.
                return Ok(all);
            }
            assert!(fetched.next >= from);
            if fetched.at_end {
                return Ok(all);
            }
            from = fetched.next;
        }
    }

    /// Resolves a position to an offset.
    pub(super) fn resolve(&mut self, key: PartitionKey, position: Position) -> Offset {
        self.next += 1;
        let (token, now) = (self.next, self.now);
        assert!(self.log_of(key).submit(now, Request::Resolve { token, partition: key, position }).is_ok());
        loop {
            for completion in self.poll() {
                if let Completion::Resolved { token: of, result } = completion
                    && of == token
                {
                    return result.unwrap();
                }
            }
            assert!(self.disk.advance(), "a position is found");
        }
    }

    pub(super) fn timestamps(&mut self, key: PartitionKey) -> Vec<UnixMillis> {
        let (mut all, mut from) = (Vec::new(), Offset::ZERO);
        loop {
            self.next += 1;
            let (token, now) = (self.next, self.now);
            let (bytes_max, exclude, wait) = (1 << 20, None, false);
            let request = Request::Fetch {
                token,
                partition: key,
                from,
                bytes_max,
                exclude,
                view: View::Unclaimed,
                wait,
            };
            assert!(self.log_of(key).submit(now, request).is_ok());
            let fetched = loop {
                self.poll();
                match self.reads.remove(&token) {
                    Some(fetched) => break fetched.unwrap(),
                    None => assert!(self.disk.advance(), "a fetch is answered"),
                }
            };
            all.extend(fetched.batches.iter().map(|stored| stored.timestamp));
            from = fetched.next;
            if fetched.at_end {
                return all;
            }
        }
    }
}

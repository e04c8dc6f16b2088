//! Markers (protocol section 6): where a consumer is in every partition of a queue, as text.
//!
//! Base64 (URL alphabet, no padding) of: version 1; the queue's hash and its incarnation, eight bytes each,
//! big-endian; the number of partitions, one byte; a varint for each partition's position.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::PeerFault;
use crate::limits::{MARKER_CHARS_MAX, PARTITIONS_MAX};
use crate::pb::wire::{Reader, write_varint};
use crate::queue::{QueueId, QueueInfo};

const VERSION: u8 = 1;

/// Where a consumer wants to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest message.
    Oldest,
    /// What is acknowledged from now on.
    Latest,
    /// The first message of each partition stored at or after it, Unix milliseconds.
    Time(u64),
    /// Behind what a marker says.
    Marker(Marker),
}

/// A marker's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    queue: u64,
    incarnation: u64,
    positions: Vec<u64>,
}

impl Start {
    /// Reads `starting_marker`.
    pub fn parse(text: &str) -> Result<Self, PeerFault> {
        if text.len() > MARKER_CHARS_MAX {
            return Err(PeerFault::Marker("longer than 1024 characters"));
        }
        match text {
            "" | "0" => Ok(Self::Oldest),
            "latest" => Ok(Self::Latest),
            _ => match text.strip_prefix("time:") {
                Some(digits) => parse_time(digits),
                None => Marker::decode(text).map(Self::Marker),
            },
        }
    }
}

fn parse_time(digits: &str) -> Result<Start, PeerFault> {
    let bad = PeerFault::Marker("time: takes Unix milliseconds in decimal digits, below 2^63");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad);
    }
    match digits.parse::<i64>() {
        Ok(time) => Ok(Start::Time(time as u64)),
        Err(_) => Err(bad),
    }
}

impl Marker {
    /// A marker of `queue` at `positions`, one for each partition.
    pub fn encode(queue: &QueueInfo, positions: &[u64]) -> String {
        let mut bytes = Vec::with_capacity(18 + positions.len() * 5);
        bytes.push(VERSION);
        bytes.extend_from_slice(&queue.hash.to_be_bytes());
        bytes.extend_from_slice(&queue.incarnation.to_be_bytes());
        bytes.push(positions.len() as u8);
        for position in positions {
            write_varint(*position, &mut bytes);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Whether a text has the form that the protocol gives markers. For our own clients: any other text is shown with care.
    pub fn is_well_formed(text: &str) -> bool {
        let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        (1..=MARKER_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_unreserved)
    }

    /// Whether two markers are of one life of one queue. For our own clients, as is [`Self::advance`]: to others a
    /// marker is opaque.
    pub fn same_life(one: &str, other: &str) -> bool {
        match (Self::decode(one), Self::decode(other)) {
            (Ok(one), Ok(other)) => (one.queue, one.incarnation) == (other.queue, other.incarnation),
            _ => false,
        }
    }

    /// The marker, moved in each partition to the position in `seen` where that is later: behind what a client has used
    /// since the marker came.
    pub fn advance(text: &str, seen: &HashMap<u16, u64>) -> String {
        let Ok(mut marker) = Self::decode(text) else { return text.to_owned() };
        for (partition, position) in seen {
            if let Some(to) = marker.positions.get_mut(usize::from(*partition)) {
                *to = (*to).max(*position);
            }
        }
        let queue = QueueInfo {
            id: QueueId(0),
            incarnation: marker.incarnation,
            partitions: marker.positions.len() as u16,
            hash: marker.queue,
        };
        Self::encode(&queue, &marker.positions)
    }

    /// Whether a marker stands at or behind `end`, a marker of the same queue, in `only` or in every partition. False where one of the two is
    /// none, or they are of different lives of the queue.
    pub fn reaches(text: &str, end: &str, only: Option<u16>) -> bool {
        let (Ok(marker), Ok(end)) = (Self::decode(text), Self::decode(end)) else { return false };
        let at = |partition: usize| marker.positions.get(partition).copied().unwrap_or(0);
        (marker.queue, marker.incarnation) == (end.queue, end.incarnation)
            && end
                .positions
                .iter()
                .enumerate()
                .filter(|(partition, _)| only.is_none_or(|only| usize::from(only) == *partition))
                .all(|(partition, position)| at(partition) >= *position)
    }

    fn decode(text: &str) -> Result<Self, PeerFault> {
        let bad = PeerFault::Marker("none of this service");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad.clone())?;
        let Some(([VERSION], rest)) = bytes.split_first_chunk::<1>() else { return Err(bad) };
        let Some((queue, rest)) = rest.split_first_chunk::<8>() else { return Err(bad) };
        let Some((incarnation, rest)) = rest.split_first_chunk::<8>() else { return Err(bad) };
        let Some(([count], rest)) = rest.split_first_chunk::<1>() else { return Err(bad) };
        if *count == 0 || u16::from(*count) > PARTITIONS_MAX {
            return Err(bad);
        }
        let mut reader = Reader(rest);
        let positions: Result<Vec<u64>, _> = (0..*count).map(|_| reader.varint()).collect();
        match positions {
            Ok(positions) if reader.0.is_empty() => Ok(Self {
                queue: u64::from_be_bytes(*queue),
                incarnation: u64::from_be_bytes(*incarnation),
                positions,
            }),
            _ => Err(bad),
        }
    }

    /// The position of each partition of `queue`: 0, the oldest that is left, where the marker does not know
    /// the partition or is of another incarnation.
    pub fn positions(&self, queue: &QueueInfo) -> Result<Vec<u64>, PeerFault> {
        if self.queue != queue.hash {
            return Err(PeerFault::Marker("of another queue"));
        }
        let mut positions = vec![0; usize::from(queue.partitions)];
        if self.incarnation == queue.incarnation {
            positions.iter_mut().zip(&self.positions).for_each(|(to, from)| *to = *from);
        }
        Ok(positions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info(hash: u64, incarnation: u64, partitions: u16) -> QueueInfo {
        QueueInfo { id: QueueId(1), incarnation, partitions, hash }
    }

    proptest! {
        #[test]
        fn a_marker_comes_back_and_is_short_and_unreserved(
            hash in any::<u64>(),
            incarnation in any::<u64>(),
            positions in proptest::collection::vec(any::<u64>(), 1..=64),
        ) {
            let queue = info(hash, incarnation, positions.len() as u16);
            let text = Marker::encode(&queue, &positions);
            prop_assert!(text.len() <= MARKER_CHARS_MAX);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)));
            let Ok(Start::Marker(marker)) = Start::parse(&text) else { panic!("{text}") };
            prop_assert_eq!(marker.positions(&queue).unwrap(), positions);
            prop_assert_eq!(marker.positions(&info(hash ^ 1, incarnation, 8)), Err(PeerFault::Marker("of another queue")));
            prop_assert_eq!(marker.positions(&info(hash, incarnation ^ 1, 2)).unwrap(), [0, 0]);
        }

        #[test]
        fn any_text_is_a_start_or_a_fault(text in ".{0,60}") {
            let _ = Start::parse(&text);
        }
    }

    #[test]
    fn a_marker_reaches_an_end_partition_by_partition() {
        let of = |incarnation, positions: &[u64]| {
            Marker::encode(&info(7, incarnation, positions.len() as u16), positions)
        };
        let end = of(1, &[5, 0, 9]);
        assert!(Marker::reaches(&of(1, &[5, 0, 9]), &end, None));
        assert!(Marker::reaches(&of(1, &[6, 3, 9]), &end, None));
        assert!(!Marker::reaches(&of(1, &[5, 0, 8]), &end, None));
        assert!(Marker::reaches(&of(1, &[5, 0, 8]), &end, Some(0)), "the others are not read");
        assert!(!Marker::reaches(&of(1, &[5, 0, 8]), &end, Some(2)));
        assert!(!Marker::reaches(&of(2, &[5, 0, 9]), &end, None), "another life");
        assert!(!Marker::reaches("nonsense", &end, None));
        assert!(Marker::is_well_formed(&end));
        assert!(!Marker::is_well_formed("$(reboot)") && !Marker::is_well_formed(""));
    }

    #[test]
    fn starting_markers_are_those_of_the_protocol() {
        assert_eq!(Start::parse(""), Ok(Start::Oldest));
        assert_eq!(Start::parse("0"), Ok(Start::Oldest));
        assert_eq!(Start::parse("latest"), Ok(Start::Latest));
        assert_eq!(Start::parse("time:0"), Ok(Start::Time(0)));
        assert_eq!(Start::parse("time:9223372036854775807"), Ok(Start::Time(i64::MAX as u64)));
        for bad in
            ["time:", "time:-1", "time:+1", "time:9223372036854775808", "time:1.5", "LATEST", "1", "AQ", "Ag"]
        {
            assert!(matches!(Start::parse(bad), Err(PeerFault::Marker(_))), "{bad}");
        }
        assert!(Start::parse(&"A".repeat(1025)).is_err());
    }
}

//! Markers (protocol section 6): the position of a consumer in every partition of a queue, as text.
//!
//! A marker is the Base64 (URL alphabet, no padding) of these fields:
//!
//! - the version, one byte: 2
//! - the queue's hash, its incarnation and the store's timeline, eight bytes each, big-endian
//! - the number of partitions, one byte
//! - the position in each partition, a varint each
//! - the check, eight bytes
//!
//! The check is SipHash-2-4 (Aumasson and Bernstein, 2012) of all earlier bytes, with a key that only the
//! deployment knows, so that clients cannot forge positions. Markers of version 1, which earlier servers
//! issued, have neither timeline nor check. They count as markers of timeline 0.

use std::hash::Hasher;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::base::error::PeerFault;
use crate::base::limits::{MARKER_CHARS_MAX, PARTITIONS_MAX};
use crate::base::millis::UnixMillis;
use crate::base::queue::{QueueInfo, Signing};
use crate::base::units::Offset;
use crate::pb::wire::{Reader, write_varint};
use siphasher::sip::SipHasher24;

const UNSIGNED: u8 = 1;
const VERSION: u8 = 2;

/// The length of the check, in bytes.
const CHECK: usize = 8;

/// The starting point that a consumer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest message.
    Oldest,
    /// Messages that are acknowledged from now on.
    Latest,
    /// The first message of each partition stored at or after this time.
    Time(UnixMillis),
    /// The position in a marker.
    Marker(Marker),
}

/// A decoded marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    queue: u64,
    incarnation: u64,
    timeline: u64,
    positions: Vec<Offset>,
    /// The bytes that the check covers, and the check. `None` in a marker of version 1.
    signed: Option<(Vec<u8>, [u8; CHECK])>,
}

/// What a marker means for a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkerPlace {
    /// The marker is valid: a position for each partition.
    Here(Vec<Offset>),
    /// A position for each partition, in another timeline of the store, or with a check that cannot be
    /// verified.
    OtherTimeline(u64, Vec<Offset>),
    /// The marker is from another incarnation of the queue, so that its positions mean nothing.
    OtherLife,
}

impl Start {
    /// Parses `starting_marker`.
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
        Ok(time) => Ok(Start::Time(UnixMillis::new(time as u64))),
        Err(_) => Err(bad),
    }
}

impl Marker {
    /// Encodes a marker of `queue` at `positions`, one for each partition.
    pub fn encode(queue: &QueueInfo, positions: &[Offset]) -> String {
        let mut bytes = Vec::with_capacity(26 + CHECK + positions.len() * 5);
        bytes.push(VERSION);
        for field in [queue.hash, queue.incarnation, queue.signing.timeline] {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        bytes.push(positions.len() as u8);
        for position in positions {
            write_varint(position.0, &mut bytes);
        }
        let check = check(&queue.signing, &bytes);
        bytes.extend_from_slice(&check);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Returns whether a text has the form that the protocol gives markers. For our own clients, which escape
    /// any other text before they print it.
    pub fn is_well_formed(text: &str) -> bool {
        let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        !text.is_empty() && text.bytes().all(is_unreserved)
    }

    /// Returns whether two markers are from the same incarnation of the same queue. For our own clients. To
    /// others a marker is opaque.
    pub fn same_life(one: &str, other: &str) -> bool {
        match (Self::decode(one), Self::decode(other)) {
            (Ok(one), Ok(other)) => (one.queue, one.incarnation) == (other.queue, other.incarnation),
            _ => false,
        }
    }

    /// Returns the position in each partition. For our own clients.
    pub fn positions(text: &str) -> Option<Vec<Offset>> {
        Some(Self::decode(text).ok()?.positions)
    }

    fn decode(text: &str) -> Result<Self, PeerFault> {
        let bad = PeerFault::Marker("not a marker of this service");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad.clone())?;
        let Some((version, _)) = bytes.split_first() else { return Err(bad) };
        let (signed, check) = match (*version, bytes.split_last_chunk::<CHECK>()) {
            (UNSIGNED, _) => (&bytes[..], None),
            (VERSION, Some((signed, check))) => (signed, Some(*check)),
            _ => return Err(bad),
        };
        let Some((queue, rest)) = signed[1..].split_first_chunk::<8>() else { return Err(bad) };
        let Some((incarnation, mut rest)) = rest.split_first_chunk::<8>() else { return Err(bad) };
        let mut timeline = 0;
        if check.is_some() {
            let Some((of, behind)) = rest.split_first_chunk::<8>() else { return Err(bad) };
            (timeline, rest) = (u64::from_be_bytes(*of), behind);
        }
        let Some(([count], rest)) = rest.split_first_chunk::<1>() else { return Err(bad) };
        if *count == 0 || u16::from(*count) > PARTITIONS_MAX {
            return Err(bad);
        }
        let mut reader = Reader(rest);
        let positions: Result<Vec<Offset>, _> = (0..*count).map(|_| reader.varint().map(Offset)).collect();
        match positions {
            Ok(positions) if reader.0.is_empty() => Ok(Self {
                queue: u64::from_be_bytes(*queue),
                incarnation: u64::from_be_bytes(*incarnation),
                timeline,
                positions,
                signed: check.map(|check| (signed.to_vec(), check)),
            }),
            _ => Err(bad),
        }
    }

    /// Returns what the marker means for `queue`. Partitions that the marker does not have begin at 0, the
    /// oldest remaining message.
    pub fn place(&self, queue: &QueueInfo) -> Result<MarkerPlace, PeerFault> {
        if self.queue != queue.hash {
            return Err(PeerFault::Marker("of another queue"));
        }
        if self.incarnation != queue.incarnation {
            return Ok(MarkerPlace::OtherLife);
        }
        let signing = &queue.signing;
        let is_signed = self.signed.as_ref().is_none_or(|(bytes, sum)| check(signing, bytes) == *sum);
        if !is_signed && !signing.is_key_new {
            return Err(PeerFault::Marker("invalid signature; use a marker as this service issued it"));
        }
        let mut positions = vec![Offset::ZERO; usize::from(queue.partitions)];
        positions.iter_mut().zip(&self.positions).for_each(|(to, from)| *to = *from);
        Ok(match is_signed && self.timeline == signing.timeline {
            true => MarkerPlace::Here(positions),
            false => MarkerPlace::OtherTimeline(self.timeline, positions),
        })
    }
}

fn check(signing: &Signing, bytes: &[u8]) -> [u8; CHECK] {
    let mut hasher = SipHasher24::new_with_key(&signing.key.to_le_bytes());
    hasher.write(bytes);
    hasher.finish().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::base::queue::QueueId;

    fn info(hash: u64, incarnation: u64, partitions: u16) -> QueueInfo {
        let signing = Signing { key: 0x5eed, timeline: 3, is_key_new: false };
        QueueInfo { id: QueueId(1), incarnation, partitions, hash, signing, policy: Default::default() }
    }

    fn read(text: &str) -> Marker {
        let Ok(Start::Marker(marker)) = Start::parse(text) else { panic!("{text}") };
        marker
    }

    proptest! {
        #[test]
        fn markers_round_trip_and_are_short_and_unreserved(
            hash in any::<u64>(),
            incarnation in any::<u64>(),
            positions in proptest::collection::vec(any::<u64>().prop_map(Offset), 1..=64),
        ) {
            let queue = info(hash, incarnation, positions.len() as u16);
            let text = Marker::encode(&queue, &positions);
            prop_assert!(text.len() <= MARKER_CHARS_MAX);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)));
            let marker = read(&text);
            prop_assert_eq!(marker.place(&queue), Ok(MarkerPlace::Here(positions.clone())));
            prop_assert_eq!(marker.place(&info(hash ^ 1, incarnation, 8)), Err(PeerFault::Marker("of another queue")));
            prop_assert_eq!(marker.place(&info(hash, incarnation ^ 1, 2)), Ok(MarkerPlace::OtherLife));
            let later = QueueInfo { signing: Signing { timeline: 4, ..queue.signing }, ..queue };
            prop_assert_eq!(marker.place(&later), Ok(MarkerPlace::OtherTimeline(3, positions)));
        }

        #[test]
        fn a_changed_marker_is_never_accepted(
            positions in proptest::collection::vec(any::<u64>().prop_map(Offset), 1..=64),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let queue = info(7, 9, positions.len() as u16);
            let mut bytes = URL_SAFE_NO_PAD.decode(Marker::encode(&queue, &positions)).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let changed = Marker::decode(&URL_SAFE_NO_PAD.encode(&bytes));
            // Markers of another incarnation have no effect, so that there is nothing to forge.
            let is_believed = changed.is_ok_and(|marker| !matches!(marker.place(&queue), Err(_) | Ok(MarkerPlace::OtherLife)));
            prop_assert!(!is_believed, "byte {at}");
        }

        #[test]
        fn parsing_never_panics(text in ".{0,60}") {
            let _ = Start::parse(&text);
        }
    }

    #[test]
    fn markers_of_version_1_belong_to_timeline_0() {
        // Version 1, hash 7, incarnation 9, two partitions at 3 and 300.
        let text =
            URL_SAFE_NO_PAD.encode([1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 2, 3, 0xac, 0x02]);
        assert_eq!(
            read(&text).place(&info(7, 9, 2)),
            Ok(MarkerPlace::OtherTimeline(0, vec![Offset(3), Offset(300)]))
        );
        let first = QueueInfo { signing: Signing { key: 1, ..Signing::default() }, ..info(7, 9, 2) };
        assert_eq!(read(&text).place(&first), Ok(MarkerPlace::Here(vec![Offset(3), Offset(300)])));
    }

    #[test]
    fn after_a_lost_key_no_position_is_trusted_and_no_client_is_locked_out() {
        let text = Marker::encode(&info(7, 9, 1), &[Offset(5)]);
        let signing = Signing { key: 2, timeline: 3, is_key_new: true };
        let queue = QueueInfo { signing, ..info(7, 9, 1) };
        assert_eq!(read(&text).place(&queue), Ok(MarkerPlace::OtherTimeline(3, vec![Offset(5)])));
    }

    #[test]
    fn the_form_of_a_marker_is_checked_without_a_key() {
        assert!(Marker::is_well_formed(&Marker::encode(&info(7, 9, 1), &[Offset(5)])));
        assert!(!Marker::is_well_formed("$(reboot)") && !Marker::is_well_formed(""));
    }

    #[test]
    fn starting_markers_follow_the_protocol() {
        assert_eq!(Start::parse(""), Ok(Start::Oldest));
        assert_eq!(Start::parse("0"), Ok(Start::Oldest));
        assert_eq!(Start::parse("latest"), Ok(Start::Latest));
        assert_eq!(Start::parse("time:0"), Ok(Start::Time(UnixMillis::ZERO)));
        assert_eq!(
            Start::parse("time:9223372036854775807"),
            Ok(Start::Time(UnixMillis::new(i64::MAX as u64)))
        );
        for bad in
            ["time:", "time:-1", "time:+1", "time:9223372036854775808", "time:1.5", "LATEST", "1", "AQ", "Ag"]
        {
            assert!(matches!(Start::parse(bad), Err(PeerFault::Marker(_))), "{bad}");
        }
        assert!(Start::parse(&"A".repeat(1025)).is_err());
    }
}

//! The stamp in each payload, and the verification of received stamps.

use std::collections::HashMap;

/// The size of a stamp, in bytes. A payload begins with its stamp: run and stream (u32 each), then sequence
/// number and intended send time in nanoseconds of the run's clock (u64 each), all little-endian.
pub const STAMP_BYTES: usize = 24;

/// Identifies a message within its run. The first [`STAMP_BYTES`] bytes of a payload hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Distinguishes the messages of different runs.
    pub run: u32,
    /// Identifies messages that have one order: those of a producer, or of a producer and a key.
    pub stream: u32,
    /// The position in the stream, counted from 0 in the order sent.
    pub sequence: u64,
    /// When the message should have been sent, in nanoseconds of the run's clock.
    pub intended_ns: u64,
}

impl Stamp {
    /// Writes the stamp to the start of a payload.
    #[inline]
    pub fn write(&self, payload: &mut [u8]) {
        payload[0..4].copy_from_slice(&self.run.to_le_bytes());
        payload[4..8].copy_from_slice(&self.stream.to_le_bytes());
        payload[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        payload[16..24].copy_from_slice(&self.intended_ns.to_le_bytes());
    }

    /// Reads the stamp of a payload. Returns `None` if the payload is too short for one.
    #[inline]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (run, rest) = payload.split_first_chunk::<4>()?;
        let (stream, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (intended, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            run: u32::from_le_bytes(*run),
            stream: u32::from_le_bytes(*stream),
            sequence: u64::from_le_bytes(*sequence),
            intended_ns: u64::from_le_bytes(*intended),
        })
    }
}

/// The outcome of verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Verdict {
    /// The number of messages received.
    pub received: u64,
    /// The size of the received payloads, in bytes.
    #[serde(default)]
    pub received_bytes: u64,
    /// Messages that were never received, although a later one of the same stream was. They were lost or
    /// refused.
    pub lost: u64,
    /// Messages received again, or after a later one of the same stream.
    pub repeated_or_out_of_order: u64,
    /// Messages without a stamp.
    pub foreign: u64,
    /// Messages of other runs, if only those of one run are expected.
    pub others: u64,
}

impl std::ops::Add for Verdict {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            received_bytes: self.received_bytes + other.received_bytes,
            lost: self.lost + other.lost,
            repeated_or_out_of_order: self.repeated_or_out_of_order + other.repeated_or_out_of_order,
            foreign: self.foreign + other.foreign,
            others: self.others + other.others,
        }
    }
}

/// Verifies that the messages of each stream arrive once and in order.
#[derive(Debug, Default)]
pub struct Verifier {
    /// The next sequence number of each stream of each run. `at` is the index of the stream last looked up.
    expected: Vec<u64>,
    streams: HashMap<(u32, u32), usize>,
    at: Option<((u32, u32), usize)>,
    /// Whether a stream may start with any message. Then only gaps after it count as losses.
    from_anywhere: bool,
    /// The only run whose messages count, or `None` to count all.
    run: Option<u32>,
    verdict: Verdict,
}

impl Verifier {
    /// Creates a verifier for what a store still has, which may have dropped its oldest messages.
    pub fn from_anywhere() -> Self {
        Self { from_anywhere: true, ..Self::default() }
    }

    /// Creates a verifier for one run, all of whose messages must arrive.
    pub fn of_run(run: u32) -> Self {
        Self { run: Some(run), ..Self::default() }
    }

    /// Verifies a payload. Returns its stamp if it counts.
    #[inline]
    pub fn handle(&mut self, payload: &[u8]) -> Option<Stamp> {
        let Some(stamp) = Stamp::read(payload) else {
            self.verdict.received += 1;
            self.verdict.received_bytes += payload.len() as u64;
            self.verdict.foreign += 1;
            return None;
        };
        if self.run.is_some_and(|run| run != stamp.run) {
            self.verdict.others += 1;
            return None;
        }
        self.verdict.received += 1;
        self.verdict.received_bytes += payload.len() as u64;
        let key = (stamp.run, stamp.stream);
        let index = match self.at {
            Some((at, index)) if at == key => index,
            _ => {
                let fresh = self.expected.len();
                let index = *self.streams.entry(key).or_insert(fresh);
                if index == fresh {
                    self.expected.push(if self.from_anywhere { stamp.sequence } else { 0 });
                }
                self.at = Some((key, index));
                index
            }
        };
        let expected = &mut self.expected[index];
        if stamp.sequence >= *expected {
            self.verdict.lost = self.verdict.lost.saturating_add(stamp.sequence - *expected);
            *expected = stamp.sequence.saturating_add(1);
        } else {
            self.verdict.repeated_or_out_of_order += 1;
        }
        Some(stamp)
    }

    /// Returns the outcome so far.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_repeats_and_disorder_are_seen() {
        let mut verifier = Verifier::default();
        for (stream, sequence) in [(0, 0), (1, 0), (0, 1), (0, 1), (0, 4), (0, 3), (1, 1)] {
            let mut payload = [0; STAMP_BYTES];
            let stamp = Stamp { run: 9, stream, sequence, intended_ns: 5 };
            stamp.write(&mut payload);
            assert_eq!(verifier.handle(&payload), Some(stamp));
        }
        let mut later = Verifier::from_anywhere();
        for sequence in [5, 6, 8] {
            let mut payload = [0; STAMP_BYTES];
            Stamp { run: 9, stream: 0, sequence, intended_ns: 5 }.write(&mut payload);
            later.handle(&payload);
        }
        let verdict = Verdict { received: 3, received_bytes: 72, lost: 1, ..Verdict::default() };
        assert_eq!(later.verdict(), verdict);
        assert_eq!(verifier.handle(b"short"), None);
        let verdict = Verdict {
            received: 8,
            received_bytes: 7 * STAMP_BYTES as u64 + 5,
            lost: 2,
            repeated_or_out_of_order: 2,
            foreign: 1,
            others: 0,
        };
        assert_eq!(verifier.verdict(), verdict);
        let mut own = Verifier::of_run(8);
        let mut payload = [0; STAMP_BYTES];
        for (run, sequence) in [(9, 4), (8, 0), (9, 7), (8, 1)] {
            Stamp { run, stream: 0, sequence, intended_ns: 5 }.write(&mut payload);
            assert_eq!(own.handle(&payload).is_some(), run == 8);
        }
        let verdict = Verdict { received: 2, received_bytes: 48, others: 2, ..Verdict::default() };
        assert_eq!(own.verdict(), verdict);
    }
}

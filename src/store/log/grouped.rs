//! What the header of a grouped segment says: where its rounds end, and which segments it replaces.
//!
//! A grouped segment holds what is still needed of the segments that it replaces. It gets its name once it is
//! complete and durable. From then on, the replaced segments do not count: a start that finds them empties
//! their files. So each message is found once, whatever happened in between.

use super::features::Features;
use super::format::{BLOCK, Reader, Unreadable, checksum};
use super::header::{FILE_HEADER, SegmentHeader};

/// The most segments that one grouped segment replaces.
pub const REPLACED_MAX: usize = 64;

/// The bytes of the header without the stamps of the replaced segments.
const FIXED: usize = FILE_HEADER + 8 + 8 + 4 + 4;

const _: () = assert!(FIXED + 8 * REPLACED_MAX <= BLOCK, "a segment's header is in its first block");

/// What the header of a grouped segment says in addition to that of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grouped {
    /// The position after its last round.
    pub end: u64,
    /// The order of the newest segment that it replaces.
    pub order: u64,
    /// The stamps of the segments that it replaces.
    pub replaced: Vec<u64>,
}

impl Grouped {
    /// Returns the blocks before the rounds.
    pub fn encode(&self, header: &SegmentHeader) -> Vec<u8> {
        debug_assert!(header.features.contains(Features::GROUPED) && self.replaced.len() <= REPLACED_MAX);
        let mut block = header.encode();
        block.truncate(FILE_HEADER);
        block.extend(self.end.to_le_bytes());
        block.extend(self.order.to_le_bytes());
        block.extend((self.replaced.len() as u32).to_le_bytes());
        self.replaced.iter().for_each(|stamp| block.extend(stamp.to_le_bytes()));
        block.extend(checksum(&[&block]).to_le_bytes());
        block.resize(BLOCK, 0);
        block.repeat(2)
    }

    /// Reads the blocks before the rounds of the segment with this header. One of them may be damaged. Returns
    /// `None` if the segment is not grouped.
    pub fn parse(header: &SegmentHeader, blocks: &[u8]) -> Result<Option<Self>, Unreadable> {
        if !header.features.contains(Features::GROUPED) {
            return Ok(None);
        }
        let found = blocks.chunks(BLOCK).take(2).find_map(Self::parse_block);
        found.map(Some).ok_or(Unreadable::Damaged)
    }

    fn parse_block(block: &[u8]) -> Option<Self> {
        let mut fields = Reader(block.get(FILE_HEADER..)?);
        let (end, order, count) = (fields.u64()?, fields.u64()?, fields.u32()? as usize);
        if count > REPLACED_MAX {
            return None;
        }
        let replaced = (0..count).map(|_| fields.u64()).collect::<Option<_>>()?;
        let covered = block.get(..FIXED - 4 + 8 * count)?;
        (checksum(&[covered]) == fields.u32()?).then_some(Self { end, order, replaced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grouped_header_is_read_from_either_block_and_not_from_damaged_ones() {
        let header = SegmentHeader {
            stamp: 7,
            number: 8,
            bytes: 1 << 20,
            features: Features::GROUPED | Features::STATE,
        };
        for count in [0, 1, REPLACED_MAX] {
            let grouped = Grouped { end: 9_000, order: 5, replaced: (0..count as u64).collect() };
            let mut blocks = grouped.encode(&header);
            assert_eq!(SegmentHeader::parse(&blocks), Ok(header));
            assert_eq!(Grouped::parse(&header, &blocks), Ok(Some(grouped.clone())));
            blocks[FILE_HEADER + 9] ^= 1;
            assert_eq!(Grouped::parse(&header, &blocks), Ok(Some(grouped)), "there is a copy");
            blocks[BLOCK + FILE_HEADER + 9] ^= 1;
            assert_eq!(Grouped::parse(&header, &blocks), Err(Unreadable::Damaged));
        }
        let plain = SegmentHeader { features: Features::STATE, ..header };
        assert_eq!(Grouped::parse(&plain, &plain.encode()), Ok(None));
    }
}

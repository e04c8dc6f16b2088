//! The header of a segment.

use super::features::Features;
use super::format::{BLOCK, Reader, Unreadable, behind_prefix, checksum, with_prefix};

const MAGIC: [u8; 8] = *b"MSTRMLOG";

/// The version of a segment without features, and of one with features.
const VERSION_PLAIN: u32 = 1;
const VERSION_FEATURES: u32 = 2;

/// The size of the part of the header that every version has, in bytes.
const FIXED: usize = 40;

/// The size of the header of a segment with features, in bytes.
pub const FILE_HEADER: usize = FIXED + 12;

const _: () = assert!(FILE_HEADER <= BLOCK, "a segment's header is in its first block");

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// A random number that distinguishes this use of the file from others, and its rounds from what a client
    /// sent.
    pub stamp: u64,
    /// The number of the segment. Later segments have higher numbers.
    pub number: u64,
    /// The size of the file, in bytes.
    pub bytes: u64,
    /// What the segment may hold that earlier versions cannot read.
    pub features: Features,
}

impl SegmentHeader {
    /// Returns the version of the segment.
    pub fn version(&self) -> u32 {
        if self.features == Features::NONE { VERSION_PLAIN } else { VERSION_FEATURES }
    }

    /// Returns the blocks before the rounds.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        [self.stamp, self.number, self.bytes].iter().for_each(|field| fields.extend(field.to_le_bytes()));
        let mut block = with_prefix(MAGIC, self.version(), &fields);
        if self.features != Features::NONE {
            block.extend(self.features.0.to_le_bytes());
            block.extend(checksum(&[&block]).to_le_bytes());
        }
        block.resize(BLOCK, 0);
        block.repeat(2)
    }

    /// Reads the blocks before the rounds. One of them may be damaged.
    pub fn parse(blocks: &[u8]) -> Result<Self, Unreadable> {
        Self::parse_block(blocks).or_else(|why| match why {
            Unreadable::Damaged => Self::parse_block(blocks.get(BLOCK..).unwrap_or_default()),
            _ => Err(why),
        })
    }

    fn parse_block(block: &[u8]) -> Result<Self, Unreadable> {
        let (version, fields) = behind_prefix(MAGIC, VERSION_FEATURES, block, FIXED - 16)?;
        let mut fields = Reader(fields);
        let mut field = || fields.u64().ok_or(Unreadable::Damaged);
        let (stamp, number, bytes) = (field()?, field()?, field()?);
        let features = match version {
            VERSION_PLAIN => Features::NONE,
            _ => Self::parse_features(block).ok_or(Unreadable::Damaged)?,
        };
        let unsupported = features.without(Features::SUPPORTED);
        if unsupported != Features::NONE {
            return Err(Unreadable::Features(unsupported));
        }
        Ok(Self { stamp, number, bytes, features })
    }

    fn parse_features(block: &[u8]) -> Option<Features> {
        let mut fields = Reader(block.get(FIXED..)?);
        let (features, sum) = (fields.u64()?, fields.u32()?);
        (checksum(&[block.get(..FIXED + 8)?]) == sum).then_some(Features(features))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(features: Features) -> SegmentHeader {
        SegmentHeader { stamp: 7, number: 8, bytes: 1 << 20, features }
    }

    #[test]
    fn a_segment_without_features_has_version_1() {
        let plain = header(Features::NONE).encode();
        assert_eq!((plain[8], &plain[FIXED..FILE_HEADER]), (1, &[0; FILE_HEADER - FIXED][..]));
        for features in [Features::NONE, Features::STATE, Features::SUPPORTED] {
            let mut blocks = header(features).encode();
            assert_eq!(SegmentHeader::parse(&blocks), Ok(header(features)));
            blocks[FIXED + 1] ^= 1;
            assert_eq!(SegmentHeader::parse(&blocks), Ok(header(features)), "there is a copy");
            blocks[BLOCK] ^= 1;
            let is_found = features == Features::NONE;
            assert_eq!(SegmentHeader::parse(&blocks).is_ok(), is_found, "version 1 ends before the byte");
        }
    }

    /// Servers that know only version 1 check the checksum of its fields, and then the version.
    #[test]
    fn a_server_of_version_1_refuses_features_by_the_version() {
        let blocks = header(Features::STATE).encode();
        let refused = behind_prefix(MAGIC, VERSION_PLAIN, &blocks, FIXED - 16);
        assert_eq!(refused, Err(Unreadable::Version { found: 2, newest: 1 }));
    }

    #[test]
    fn unsupported_features_are_named() {
        let features = Features(Features::STATE.0 | 1 << 2 | 1 << 40);
        let why = SegmentHeader::parse(&header(features).encode()).unwrap_err();
        assert_eq!(why, Unreadable::Features(Features(1 << 2 | 1 << 40)));
        assert_eq!(
            why.to_string(),
            "it uses features that this server does not support (produce sessions, feature 40): use a newer server"
        );
    }
}

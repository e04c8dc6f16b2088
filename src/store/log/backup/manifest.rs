//! The file that describes a backup: when it was made, and the segments that it holds.
//!
//! ```text
//! file     magic "MSTRMBAK", version u32, checksum u32 of the version and the rest:
//!          time u64 (Unix ms), count u32 of segments, for each: place u32, number u64, stamp u64, end u64,
//!          whole u8 (1: all of it could be read)
//! ```

use crate::base::millis::UnixMillis;
use crate::store::log::cut::CutSegment;
use crate::store::log::format::{Reader, Unreadable, VERSION, behind_prefix, with_prefix};

const MAGIC: [u8; 8] = *b"MSTRMBAK";

/// The bytes of a file before those that its checksum covers.
const PREFIX: usize = 16;

/// The description of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// When the backup was made.
    pub unix: UnixMillis,
    /// The segments, and whether each could be read as a whole.
    pub segments: Vec<(CutSegment, bool)>,
}

impl Manifest {
    /// Returns the content of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        fields.extend(self.unix.get().to_le_bytes());
        fields.extend((self.segments.len() as u32).to_le_bytes());
        for (CutSegment { place, number, stamp, end }, is_whole) in &self.segments {
            fields.extend(place.to_le_bytes());
            [number, stamp, end].iter().for_each(|field| fields.extend(field.to_le_bytes()));
            fields.push(u8::from(*is_whole));
        }
        with_prefix(MAGIC, VERSION, &fields)
    }

    /// Parses the content of a file.
    pub fn parse(file: &[u8]) -> Result<Self, Unreadable> {
        let (_, fields) = behind_prefix(MAGIC, VERSION, file, file.len().saturating_sub(PREFIX))?;
        Self::parse_fields(&mut Reader(fields)).ok_or(Unreadable::Damaged)
    }

    fn parse_fields(fields: &mut Reader<'_>) -> Option<Self> {
        let unix = UnixMillis::new(fields.u64()?);
        let segment = |fields: &mut Reader<'_>| {
            let (place, number, stamp) = (fields.u32()?, fields.u64()?, fields.u64()?);
            Some((CutSegment { place, number, stamp, end: fields.u64()? }, fields.bytes(1)? == [1]))
        };
        let segments = (0..fields.u32()?).map(|_| segment(fields)).collect::<Option<_>>()?;
        Some(Self { unix, segments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_back_and_each_flipped_byte_is_noticed() {
        let segment = |number| CutSegment { place: 7, number, stamp: 8, end: 9_000 };
        let manifest =
            Manifest { unix: UnixMillis::new(5), segments: vec![(segment(1), true), (segment(2), false)] };
        let file = manifest.encode();
        assert_eq!(Manifest::parse(&file), Ok(manifest));
        for at in 0..file.len() {
            let mut file = file.clone();
            file[at] ^= 1;
            assert!(Manifest::parse(&file).is_err(), "flipped at {at}");
        }
        assert!((0..file.len()).all(|end| Manifest::parse(&file[..end]).is_err()));
    }
}

//! Index of a sealed segment, kept beside it so that opening a log does not read it.
//!
//! A cache: when it is missing or wrong it is made again from the segment. The last segment has one while the log is
//! closed: it tells how far the segment must be intact. Little-endian:
//!
//! ```text
//!  0  magic      8   "BARRIDX1"
//!  8  crc32c     4   of everything behind it
//! 12  rows       4
//! 16  log uuid  16
//! 32  number     8   of the segment
//! 40  group      8   number of the last group in the segment
//! 48  end        4   one past the last byte of the last frame
//! 52  columns    4   partitions of both topics
//! 56  newest     8   latest time of a group, ms since the epoch
//! 64  rows       position 4, zero 4, next offset of every partition 8·n
//!     last row   next offset of every partition at the end 8·n
//! ```

use std::fs;
use std::path::Path;

use crate::embedded::format::{i64_at, u32_at, u64_at, u128_at};
use crate::embedded::meta;
use crate::embedded::segment::{Index, header_bytes, index_path};
use crate::embedded::shape::Shape;

const MAGIC: [u8; 8] = *b"BARRIDX1";
const FIXED: usize = 64;

/// What is known of a segment when it has been written or read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) index: Index,
    /// Next offset of every partition behind the segment.
    pub(crate) next: Box<[u64]>,
    /// Number of the last group.
    pub(crate) group: u64,
    /// The latest time of a group in it, ms since the epoch.
    pub(crate) newest_ms: i64,
}

impl Summary {
    fn encode(&self, uuid: u128, number: u64) -> Vec<u8> {
        let rows = self.index.positions();
        let size = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
        let mut out = Vec::with_capacity(FIXED + (rows.len() + 1) * (self.next.len() + 1) * 8);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&size(rows.len()));
        out.extend_from_slice(&uuid.to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&self.group.to_le_bytes());
        out.extend_from_slice(&self.index.end.to_le_bytes());
        out.extend_from_slice(&size(self.next.len()));
        out.extend_from_slice(&self.newest_ms.to_le_bytes());
        for (place, position) in rows.iter().enumerate() {
            out.extend_from_slice(&u64::from(*position).to_le_bytes());
            self.index.row(place).iter().for_each(|offset| out.extend_from_slice(&offset.to_le_bytes()));
        }
        self.next.iter().for_each(|offset| out.extend_from_slice(&offset.to_le_bytes()));
        let crc = crc32c::crc32c(out.get(12..).unwrap_or_default());
        if let Some(field) = out.get_mut(8..12) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8], uuid: u128, number: u64, shape: Shape) -> Result<Self, &'static str> {
        let checked = bytes.get(12..).filter(|_| bytes.len() >= FIXED).ok_or("cut short")?;
        if bytes.get(..8) != Some(&MAGIC[..]) {
            return Err("not an index");
        }
        if crc32c::crc32c(checked) != u32_at(bytes, 8) {
            return Err("wrong checksum");
        }
        let total = shape.total();
        if u128_at(bytes, 16) != uuid || u64_at(bytes, 32) != number || u32_at(bytes, 52) as usize != total {
            return Err("of another segment");
        }
        let (rows, row_bytes) = (u32_at(bytes, 12) as usize, (total + 1) * 8);
        if rows.checked_mul(row_bytes).and_then(|all| all.checked_add(FIXED + total * 8)) != Some(bytes.len()) {
            return Err("of the wrong length");
        }
        let offsets = |at: usize| (0..total).map(move |dense| u64_at(bytes, at + dense * 8)).collect::<Vec<_>>();
        let end = u32_at(bytes, 48);
        let mut index = Index::new(header_bytes(shape), &offsets(FIXED + 8));
        for row in 0..rows {
            let at = FIXED + row * row_bytes;
            let position = u32::try_from(u64_at(bytes, at)).map_err(|_| "of the wrong order")?;
            if position < index.last() || position > end {
                return Err("of the wrong order");
            }
            index.begin(position, &offsets(at + 8));
        }
        index.end = end;
        let next = offsets(FIXED + rows * row_bytes).into();
        Ok(Self { index, next, group: u64_at(bytes, 40), newest_ms: i64_at(bytes, 56) })
    }

    /// Writes the index file of the segment at `path`. Not synced: a lost or torn one is made again.
    pub(crate) fn write(&self, path: &Path, uuid: u128, number: u64) -> std::io::Result<()> {
        let target = index_path(path);
        meta::replace(&target, &self.encode(uuid, number))
    }

    /// Reads the index file of the segment at `path`, with the reason when it cannot be used.
    pub(crate) fn read(path: &Path, uuid: u128, number: u64, shape: Shape) -> Result<Self, String> {
        let bytes = fs::read(index_path(path)).map_err(|error| error.to_string())?;
        Self::decode(&bytes, uuid, number, shape).map_err(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: Shape = Shape { room: 2, user: 1 };

    fn summary(steps: &[(u32, [u64; 3])]) -> Summary {
        let mut next = [5, 0, 7];
        let mut index = Index::new(header_bytes(SHAPE), &next);
        let mut position = header_bytes(SHAPE);
        for (bytes, more) in steps {
            position += bytes;
            next.iter_mut().zip(more).for_each(|(next, more)| *next += more);
            index.begin(position, &next);
        }
        index.end = position + 16;
        Summary { index, next: next.into(), group: 9, newest_ms: -1 }
    }

    proptest! {
        #[test]
        fn an_index_round_trips_and_any_changed_byte_is_noticed(
            steps in prop::collection::vec((1..1_000_u32, prop::array::uniform3(0..50_u64)), 0..20),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let summary = summary(&steps);
            let mut bytes = summary.encode(1, 2);
            prop_assert_eq!(Summary::decode(&bytes, 1, 2, SHAPE), Ok(summary));
            prop_assert!(Summary::decode(&bytes, 1, 3, SHAPE).is_err());
            prop_assert!(Summary::decode(&bytes, 2, 2, SHAPE).is_err());
            let at = at.index(bytes.len());
            prop_assert!(Summary::decode(&bytes[..at], 1, 2, SHAPE).is_err());
            bytes[at] ^= flip;
            prop_assert!(Summary::decode(&bytes, 1, 2, SHAPE).is_err());
        }

        #[test]
        fn a_lookup_finds_the_piece_that_holds_the_offset(
            steps in prop::collection::vec((1..1_000_u32, prop::array::uniform3(0..5_u64)), 0..20),
        ) {
            let summary = summary(&steps);
            for (dense, (&base, &next)) in summary.index.row(0).iter().zip(&summary.next).enumerate() {
                for offset in base..next {
                    let piece = summary.index.find(dense, offset).expect("the segment holds it");
                    let after = summary.index.positions().iter().position(|&at| at == piece.end);
                    let end = after.map_or(next, |place| summary.index.row(place)[dense]);
                    prop_assert!(piece.first[dense] <= offset && offset < end, "{offset} in {piece:?}");
                }
                prop_assert_eq!(base.checked_sub(1).and_then(|before| summary.index.find(dense, before)), None);
            }
        }
    }
}

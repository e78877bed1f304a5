//! Bytes of a segment file. All integers are little-endian; retired values are never used again.
//!
//! ```text
//! segment   header | frame | frame | … | zeros
//!
//! header     0  magic            8   "BARRLOG1"
//!            8  crc32c           4   of the header's bytes from 12 on
//!           12  format           4   1
//!           16  log uuid        16
//!           32  segment number   8   from 0, without gaps
//!           40  group            8   number of the last group before this segment
//!           48  room partitions  2
//!           50  user partitions  2
//!           52  header bytes     4   64 + 8·n, rounded up to 64
//!           56  created          8   ms since the epoch
//!           64  base offsets     8·n first offset of every partition, rooms first
//!
//! frame      0  magic            4   one append: all of it counts or nothing
//!            4  header crc32c    4   of bytes 8 to 40, seeded with log uuid, segment number and position
//!            8  body crc32c      4   of bytes 40 to the end of the frame
//!           12  length           4   of the frame, a multiple of 8
//!           16  records          4
//!           20  group start      4   position of the group's first frame in this file
//!           24  group            8   from 1; all frames of one write and one fdatasync
//!           32  timestamp        8   the log's clock, ms since the epoch
//!           40  records, then up to 7 zeros
//!
//! record     0  topic            1   0 room, 1 user
//!            1  zero             1
//!            2  partition        2
//!            4  length           4
//!            8  offset           8
//!           16  bytes
//! ```
//!
//! The seed binds a frame to its place: one that was copied elsewhere, or that somebody sent us inside a record, is
//! none. *Group start* tells a torn write from damage: a group is written only when all before it are durable, so an
//! invalid place that lies before the start of a later frame's group was durable once.

use barrage_event::{Partition, Topic};

use crate::embedded::shape::Shape;
use crate::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};

/// Format of the files. A version reads only its own.
pub(crate) const FORMAT: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"BARRLOG1";
const FRAME_MAGIC: [u8; 4] = *b"\xf7BLF";

/// Bytes of a segment header before the base offsets.
const SEGMENT_FIXED: usize = 64;
/// Bytes of a frame before its records.
pub(crate) const FRAME_HEADER: usize = 40;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER: usize = 16;
/// Frames begin at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Largest frame: bounds what a damaged length can make a reader allocate.
pub(crate) const FRAME_BYTES_MAX: usize =
    FRAME_HEADER + BATCH_BYTES_MAX + BATCH_RECORDS_MAX * RECORD_HEADER + (ALIGN - 1);

/// The integer at `at`, or 0 where the bytes end: callers check lengths before they trust a value.
macro_rules! read_integer {
    ($name:ident, $type:ty, $size:literal) => {
        pub(crate) fn $name(bytes: &[u8], at: usize) -> $type {
            let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<$size>());
            field.map_or(0, |field| <$type>::from_le_bytes(*field))
        }
    };
}
read_integer!(u16_at, u16, 2);
read_integer!(u32_at, u32, 4);
read_integer!(u64_at, u64, 8);
read_integer!(i64_at, i64, 8);
read_integer!(u128_at, u128, 16);

/// What stands at the front of a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) uuid: u128,
    pub(crate) number: u64,
    /// Number of the last group before the segment.
    pub(crate) group: u64,
    pub(crate) shape: Shape,
    pub(crate) created_ms: i64,
    /// First offset of every partition.
    pub(crate) base: Box<[u64]>,
}

impl SegmentHeader {
    /// Size of the header of a log with these partitions.
    pub(crate) fn bytes(shape: Shape) -> usize {
        (SEGMENT_FIXED + 8 * shape.total()).next_multiple_of(64)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let size = Self::bytes(self.shape);
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&self.uuid.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.group.to_le_bytes());
        out.extend_from_slice(&self.shape.room.to_le_bytes());
        out.extend_from_slice(&self.shape.user.to_le_bytes());
        out.extend_from_slice(&u32::try_from(size).expect("at most 2,048 offsets of 8 bytes").to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        for offset in &self.base {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        out.resize(size, 0);
        let crc = crc32c::crc32c(out.get(12..).unwrap_or_default());
        if let Some(field) = out.get_mut(8..12) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        out
    }

    /// Reads the header of segment `number` of log `uuid`.
    pub(crate) fn decode(bytes: &[u8], uuid: u128, number: u64, shape: Shape) -> Result<Self, String> {
        if bytes.get(..8) != Some(&SEGMENT_MAGIC[..]) {
            return Err("this is no segment header".to_owned());
        }
        let checked = bytes.get(12..Self::bytes(shape)).ok_or("the segment header is cut short")?;
        let format = u32_at(bytes, 12);
        if crc32c::crc32c(checked) != u32_at(bytes, 8) {
            return Err(format!("the segment header's checksum is wrong (format {format})"));
        }
        if format != FORMAT {
            return Err(format!("the segment has format {format}, this version reads format {FORMAT}"));
        }
        let found = Self {
            uuid: u128_at(bytes, 16),
            number: u64_at(bytes, 32),
            group: u64_at(bytes, 40),
            shape: Shape { room: u16_at(bytes, 48), user: u16_at(bytes, 50) },
            created_ms: i64_at(bytes, 56),
            base: (0..shape.total()).map(|dense| u64_at(bytes, SEGMENT_FIXED + 8 * dense)).collect(),
        };
        if found.uuid != uuid {
            return Err(format!("the segment belongs to log {:032x}, this is log {uuid:032x}", found.uuid));
        }
        if found.number != number {
            return Err(format!("the segment's own number is {}", found.number));
        }
        if found.shape != shape {
            return Err("the segment has other partition counts than the log".to_owned());
        }
        Ok(found)
    }
}

/// Binds frames to their log, segment and position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(uuid: u128, segment: u64) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(&uuid.to_le_bytes()), &segment.to_le_bytes()))
    }

    fn header_crc(self, position: u32, fields: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &position.to_le_bytes()), fields)
    }
}

/// What stands at the front of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) body_crc: u32,
    /// Bytes of the whole frame.
    pub(crate) length: usize,
    pub(crate) records: u32,
    pub(crate) group_start: u32,
    pub(crate) group: u64,
    pub(crate) timestamp_ms: i64,
}

impl FrameHeader {
    /// Reads the header of the frame at `position`. `bytes` may go on behind it.
    pub(crate) fn decode(bytes: &[u8], seed: Seed, position: u32) -> Result<Self, &'static str> {
        let Some(header) = bytes.get(..FRAME_HEADER) else { return Err("the frame's header is cut short") };
        if header.get(..4) != Some(&FRAME_MAGIC[..]) {
            return Err("no frame begins here");
        }
        if seed.header_crc(position, header.get(8..).unwrap_or_default()) != u32_at(header, 4) {
            return Err("the checksum of the frame's header is wrong");
        }
        let length = usize::try_from(u32_at(header, 12)).unwrap_or(usize::MAX);
        if !(FRAME_HEADER..=FRAME_BYTES_MAX).contains(&length) || !length.is_multiple_of(ALIGN) {
            return Err("the frame's length is impossible");
        }
        Ok(Self {
            body_crc: u32_at(header, 8),
            length,
            records: u32_at(header, 16),
            group_start: u32_at(header, 20),
            group: u64_at(header, 24),
            timestamp_ms: i64_at(header, 32),
        })
    }

    /// Checks the body of this frame, whose bytes are `frame`, header included.
    pub(crate) fn check_body(&self, frame: &[u8]) -> Result<(), &'static str> {
        let body = frame.get(FRAME_HEADER..self.length).ok_or("the frame is cut short")?;
        if crc32c::crc32c(body) == self.body_crc { Ok(()) } else { Err("the frame's checksum is wrong") }
    }
}

/// Appends a frame to `out` that lacks what only the writer knows: group, timestamp and checksums.
#[derive(Debug)]
pub(crate) struct FrameBuilder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    records: u32,
}

impl<'a> FrameBuilder<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEADER]);
        Self { out, start, records: 0 }
    }

    /// Size of a frame with so many records of so many bytes.
    pub(crate) fn size(records: usize, bytes: usize) -> usize {
        (FRAME_HEADER + records * RECORD_HEADER + bytes).next_multiple_of(ALIGN)
    }

    pub(crate) fn record(&mut self, partition: Partition, offset: u64, bytes: &[u8]) {
        let mut header = [0_u8; RECORD_HEADER];
        header[0] = match partition.topic {
            Topic::Room => 0,
            Topic::User => 1,
        };
        header[2..4].copy_from_slice(&partition.index.to_le_bytes());
        header[4..8].copy_from_slice(&u32::try_from(bytes.len()).expect("checked against the limit").to_le_bytes());
        header[8..16].copy_from_slice(&offset.to_le_bytes());
        self.out.extend_from_slice(&header);
        self.out.extend_from_slice(bytes);
        self.records += 1;
    }

    pub(crate) fn finish(self) {
        let end = (self.out.len() - self.start).next_multiple_of(ALIGN);
        self.out.resize(self.start + end, 0);
        let length = u32::try_from(end).expect("a batch is bounded");
        if let Some(header) = self.out.get_mut(self.start..self.start + FRAME_HEADER) {
            header[12..16].copy_from_slice(&length.to_le_bytes());
            header[16..20].copy_from_slice(&self.records.to_le_bytes());
        }
    }
}

/// Length of an unsealed frame, from the field that [`FrameBuilder::finish`] wrote.
pub(crate) fn built_length(frame: &[u8]) -> usize {
    usize::try_from(u32_at(frame, 12)).unwrap_or(usize::MAX)
}

/// What the writer stamps on a frame when it knows where the frame goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) seed: Seed,
    pub(crate) group_start: u32,
    pub(crate) group: u64,
    pub(crate) timestamp_ms: i64,
}

/// Completes a built frame that goes to `position`. `frame` is exactly the frame.
pub(crate) fn seal_frame(frame: &mut [u8], position: u32, stamp: &Stamp) {
    let Some((header, body)) = frame.split_first_chunk_mut::<FRAME_HEADER>() else { return };
    header[0..4].copy_from_slice(&FRAME_MAGIC);
    header[8..12].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    header[20..24].copy_from_slice(&stamp.group_start.to_le_bytes());
    header[24..32].copy_from_slice(&stamp.group.to_le_bytes());
    header[32..40].copy_from_slice(&stamp.timestamp_ms.to_le_bytes());
    let crc = stamp.seed.header_crc(position, &header[8..]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// One record of a frame whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawRecord {
    /// Place of its partition in tables.
    pub(crate) dense: usize,
    pub(crate) offset: u64,
    /// Where its bytes begin in the frame.
    pub(crate) start: usize,
    pub(crate) length: usize,
}

/// Walks the records of a frame by their headers only.
pub(crate) fn records(
    frame: &[u8],
    count: u32,
    shape: Shape,
) -> impl Iterator<Item = Result<RawRecord, &'static str>> + '_ {
    let mut at = FRAME_HEADER;
    (0..count).map(move |_| {
        let header = frame.get(at..).and_then(|rest| rest.first_chunk::<RECORD_HEADER>());
        let header = header.ok_or("a record's header lies outside of its frame")?;
        let topic = match header[0] {
            0 => Topic::Room,
            1 => Topic::User,
            _ => return Err("a record has an unknown topic"),
        };
        let partition = Partition { topic, index: u16_at(header, 2) };
        let dense = shape.dense(partition).ok_or("a record has an unknown partition")?;
        let length = usize::try_from(u32_at(header, 4)).unwrap_or(usize::MAX);
        let start = at + RECORD_HEADER;
        if length > frame.len() - start {
            return Err("a record lies outside of its frame");
        }
        at = start + length;
        Ok(RawRecord { dense, offset: u64_at(header, 8), start, length })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPE: Shape = Shape { room: 2, user: 1 };

    fn frame(list: &[(Partition, u64, Vec<u8>)], position: u32, stamp: &Stamp) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut builder = FrameBuilder::new(&mut bytes);
        list.iter().for_each(|(partition, offset, payload)| builder.record(*partition, *offset, payload));
        builder.finish();
        assert_eq!(bytes.len(), FrameBuilder::size(list.len(), list.iter().map(|(_, _, payload)| payload.len()).sum()));
        assert_eq!(built_length(&bytes), bytes.len());
        seal_frame(&mut bytes, position, stamp);
        bytes
    }

    #[test]
    fn the_bytes_of_a_segment_header_never_change() {
        let header = SegmentHeader {
            uuid: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
            number: 3,
            group: 258,
            shape: SHAPE,
            created_ms: 1_700_000_000_000,
            base: [1, 2, 0x0102_0304].into(),
        };
        let golden: [&[u8]; 10] = [
            b"BARRLOG1\x8d\x2e\x24\x18\x01\x00\x00\x00",
            b"\xff\xee\xdd\xcc\xbb\xaa\x99\x88\x77\x66\x55\x44\x33\x22\x11\x00",
            b"\x03\x00\x00\x00\x00\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00\x00",
            b"\x02\x00\x01\x00\x80\x00\x00\x00",
            b"\x00\x68\xe5\xcf\x8b\x01\x00\x00",
            b"\x01\x00\x00\x00\x00\x00\x00\x00",
            b"\x02\x00\x00\x00\x00\x00\x00\x00",
            b"\x04\x03\x02\x01\x00\x00\x00\x00",
            &[0; 24],
            &[0; 16],
        ];
        let bytes = header.encode();
        assert_eq!(bytes, golden.concat());
        assert_eq!(SegmentHeader::decode(&bytes, header.uuid, 3, SHAPE), Ok(header));
    }

    #[test]
    fn the_bytes_of_a_frame_never_change() {
        let stamp = Stamp { seed: Seed::new(7, 1), group_start: 128, group: 258, timestamp_ms: 1_700_000_000_000 };
        let bytes = frame(
            &[(Partition::room(1), 5, b"hello".to_vec()), (Partition::user(0), 0x0102, b"!".to_vec())],
            256,
            &stamp,
        );
        let golden: [&[u8]; 7] = [
            b"\xf7BLF\xf9\xf1\x72\x8c\x5a\x4d\x97\x54\x50\x00\x00\x00\x02\x00\x00\x00\x80\x00\x00\x00",
            b"\x02\x01\x00\x00\x00\x00\x00\x00\x00\x68\xe5\xcf\x8b\x01\x00\x00",
            b"\x00\x00\x01\x00\x05\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00",
            b"hello",
            b"\x01\x00\x00\x00\x01\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00\x00",
            b"!",
            b"\x00\x00",
        ];
        assert_eq!(bytes, golden.concat());
    }

    fn any_records() -> impl Strategy<Value = Vec<(Partition, u64, Vec<u8>)>> {
        let partition = (0..SHAPE.total()).prop_map(|dense| SHAPE.partition(dense).expect("inside"));
        prop::collection::vec((partition, any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)), 1..6)
    }

    proptest! {
        #[test]
        fn a_frame_round_trips_and_any_change_is_noticed(
            list in any_records(),
            position in (0..1_000_u32).prop_map(|n| n * 8),
            group in any::<u64>(),
            group_start in any::<u32>(),
            timestamp_ms in any::<i64>(),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let stamp = Stamp { seed: Seed::new(9, 2), group_start, group, timestamp_ms };
            let mut bytes = frame(&list, position, &stamp);
            let header = FrameHeader::decode(&bytes, stamp.seed, position).expect("it was just made");
            prop_assert_eq!(header.check_body(&bytes), Ok(()));
            let stamped = (header.length, header.group, header.group_start, header.timestamp_ms);
            prop_assert_eq!(stamped, (bytes.len(), group, group_start, timestamp_ms));
            let found: Vec<_> = records(&bytes, header.records, SHAPE)
                .map(|record| record.expect("it is right"))
                .map(|r| (SHAPE.partition(r.dense).unwrap(), r.offset, bytes[r.start..r.start + r.length].to_vec()))
                .collect();
            prop_assert_eq!(found, list);

            prop_assert!(FrameHeader::decode(&bytes, stamp.seed, position + 8).is_err(), "it is bound to its place");
            prop_assert!(FrameHeader::decode(&bytes, Seed::new(9, 3), position).is_err(), "and to its segment");
            prop_assert!(FrameHeader::decode(&bytes, Seed::new(8, 2), position).is_err(), "and to its log");
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let changed = FrameHeader::decode(&bytes, stamp.seed, position).and_then(|h| h.check_body(&bytes));
            prop_assert!(changed.is_err(), "byte {at}");
        }

        #[test]
        fn nothing_in_a_frame_makes_the_walk_leave_it(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            count in any::<u32>(),
        ) {
            for record in records(&bytes, count, SHAPE).map_while(Result::ok) {
                prop_assert!(record.start + record.length <= bytes.len());
                prop_assert!(record.dense < SHAPE.total());
            }
        }
    }
}

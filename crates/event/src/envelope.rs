//! Reading a record of the log: [`EnvelopeView`], borrowed from the record's bytes.

use crate::event::{Event, number};
use crate::wire::{Field, Reader, WireError, Writer};

/// Version of the parser that writes typed events; stamped in every record. Raised whenever a callback of some kind
/// is read differently than before, so that a rebuild can tell.
pub const PARSER_VERSION: u32 = 1;

/// Field numbers of the envelope, as in `event.proto`.
pub(crate) mod field {
    pub(crate) const ID: u32 = 1;
    pub(crate) const SDK_APP_ID: u32 = 2;
    pub(crate) const COMMAND: u32 = 3;
    pub(crate) const OCCURRED_AT: u32 = 4;
    pub(crate) const RECEIVED_AT: u32 = 5;
    pub(crate) const INCARNATION: u32 = 6;
    pub(crate) const SEQUENCE: u32 = 7;
    pub(crate) const PLATFORM: u32 = 8;
    pub(crate) const VERDICT: u32 = 9;
    pub(crate) const RULES_VERSION: u32 = 10;
    pub(crate) const PARSER_VERSION: u32 = 11;
    pub(crate) const ORIGINAL_EVENT_TIME: u32 = 12;
    pub(crate) const HAS_EVENT_TIME: u32 = 13;
    pub(crate) const ROUTE_KEY: u32 = 14;
    pub(crate) const BODY: u32 = 15;
    pub(crate) const SOURCE: u32 = 16;
}

/// Fields before the event that this version knows.
const KNOWN: [u32; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// Tags of the envelope: number times 8 plus wire type.
mod tag {
    use super::field;

    pub(super) const ID: u32 = field::ID << 3 | 2;
    pub(super) const SDK_APP_ID: u32 = field::SDK_APP_ID << 3;
    pub(super) const COMMAND: u32 = field::COMMAND << 3 | 2;
    pub(super) const OCCURRED_AT: u32 = field::OCCURRED_AT << 3;
    pub(super) const RECEIVED_AT: u32 = field::RECEIVED_AT << 3;
    pub(super) const INCARNATION: u32 = field::INCARNATION << 3 | 1;
    pub(super) const SEQUENCE: u32 = field::SEQUENCE << 3;
    pub(super) const PLATFORM: u32 = field::PLATFORM << 3 | 2;
    pub(super) const VERDICT: u32 = field::VERDICT << 3 | 2;
    pub(super) const RULES_VERSION: u32 = field::RULES_VERSION << 3;
    pub(super) const PARSER_VERSION: u32 = field::PARSER_VERSION << 3;
    pub(super) const ORIGINAL_EVENT_TIME: u32 = field::ORIGINAL_EVENT_TIME << 3;
    pub(super) const HAS_EVENT_TIME: u32 = field::HAS_EVENT_TIME << 3;
    pub(super) const ROUTE_KEY: u32 = field::ROUTE_KEY << 3 | 2;
    pub(super) const BODY: u32 = field::BODY << 3 | 2;
    pub(super) const SOURCE: u32 = field::SOURCE << 3 | 2;
}

/// Why a record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no protobuf message, or a field is of another type.
    #[error("no envelope: {0}")]
    Wire(#[from] WireError),
    /// The id is not 16 bytes long.
    #[error("the id has {0} bytes in place of 16")]
    Id(usize),
    /// The typed event cannot be read.
    #[error("the event in field {field} cannot be read: {error}")]
    Event {
        /// Field number of the event in the envelope.
        field: u32,
        /// What is wrong with it.
        error: WireError,
    },
}

/// What a before-callback was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// None of those below: a record of a newer version.
    #[default]
    Unspecified,
    /// Passed.
    Allowed,
    /// Refused: the sender sees an error.
    Rejected,
    /// Refused in silence: the sender sees success.
    Dropped,
}

impl Outcome {
    /// From the number in the record; unknown ones are [`Outcome::Unspecified`].
    #[must_use]
    pub const fn from_wire(number: i32) -> Self {
        match number {
            1 => Self::Allowed,
            2 => Self::Rejected,
            3 => Self::Dropped,
            _ => Self::Unspecified,
        }
    }

    /// The number in the record.
    #[must_use]
    pub const fn to_wire(self) -> i32 {
        match self {
            Self::Unspecified => 0,
            Self::Allowed => 1,
            Self::Rejected => 2,
            Self::Dropped => 3,
        }
    }

    /// Whether the message does not go out.
    #[must_use]
    pub const fn refuses(self) -> bool {
        matches!(self, Self::Rejected | Self::Dropped)
    }
}

/// The decision on a before-callback, as the record holds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerdictView<'a> {
    /// The decision.
    pub outcome: Outcome,
    /// `ErrorCode` that was answered.
    pub code: u32,
    /// Which rule decided; empty when allowed.
    pub rule: &'a str,
}

impl<'a> VerdictView<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut view = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => view.outcome = Outcome::from_wire(field.int32()?),
                2 => view.code = field.uint32()?,
                3 => view.rule = field.string()?,
                _ => {}
            }
        }
        Ok(view)
    }
}

/// The record of `barrage.user` that a derived event follows from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Source {
    /// The log's uuid.
    pub log_uuid: u128,
    /// Partition of `barrage.user`.
    pub partition: u16,
    /// Offset of the record.
    pub offset: u64,
    /// Among the events that follow from that record, from 0.
    pub index: u32,
}

impl Source {
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut source = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => {
                    let uuid = field.bytes()?;
                    source.log_uuid = u128::from_be_bytes(uuid.try_into().map_err(|_| DecodeError::Id(uuid.len()))?);
                }
                2 => source.partition = u16::try_from(field.uint32()?).unwrap_or(u16::MAX),
                3 => source.offset = field.uint64()?,
                4 => source.index = field.uint32()?,
                _ => {}
            }
        }
        Ok(source)
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.bytes(1, &self.log_uuid.to_be_bytes());
        w.uint64(2, u64::from(self.partition));
        w.uint64(3, self.offset);
        w.uint64(4, u64::from(self.index));
    }
}

/// One record of `barrage.room` or `barrage.user`, borrowed from its bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EnvelopeView<'a> {
    /// The same in every copy of a callback.
    pub id: u128,
    /// `SdkAppid`.
    pub app: u32,
    /// `CallbackCommand`, as it came; `Barrage.*` for what did not come from IM.
    pub command: &'a str,
    /// Event time, ms: the callback's own, clamped; `received_at_ms` when it had none.
    pub occurred_at_ms: i64,
    /// Ingest time, ms.
    pub received_at_ms: i64,
    /// The run of the ingest process that appended the record.
    pub incarnation: u64,
    /// Dense per (incarnation, partition), from 1; 0 when not assigned.
    pub sequence: u64,
    /// Platform of the client in lower case; empty when not told.
    pub platform: &'a str,
    /// What a before-callback was answered; `None` for other records.
    pub verdict: Option<VerdictView<'a>>,
    /// Version of the rules that classified the event.
    pub rules_version: u32,
    /// Version of the parser that wrote the event.
    pub parser_version: u32,
    /// The callback's own event time, ms, when it had to be clamped.
    pub original_event_time_ms: Option<i64>,
    /// Whether the callback stated an event time.
    pub has_event_time: bool,
    /// What this copy is keyed by: the `GroupId` on `barrage.room`, the account on `barrage.user`.
    pub route_key: &'a str,
    /// The callback's body, byte for byte; empty in copies.
    pub body: &'a [u8],
    /// What a derived event follows from; `None` for every other record.
    pub source: Option<Source>,
    /// What happened.
    pub event: Event<'a>,
    /// The bytes of `event`, also of one that this version does not know; empty when there is none.
    pub event_bytes: &'a [u8],
    /// Field number of the event in the envelope; 0 when there is none.
    pub event_field: u32,
    /// The record holds an event of a field number that this version does not know: its store is marked for rebuild.
    pub newer: bool,
}

impl<'a> EnvelopeView<'a> {
    /// The id of a record, read without the rest; `None` when the bytes are no record.
    #[must_use]
    pub fn id_of(bytes: &'a [u8]) -> Option<[u8; 16]> {
        // Every writer puts the id first: tag 0x0a, length 16.
        match bytes {
            [0x0a, 16, rest @ ..] => rest.first_chunk().copied(),
            _ => Self::decode(bytes).ok().map(|envelope| envelope.id.to_be_bytes()),
        }
    }

    /// Reads a record. Unknown fields are skipped; an unknown event sets [`EnvelopeView::newer`].
    ///
    /// # Errors
    /// A [`DecodeError`] when the bytes are no record: it was damaged, or written by something else.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut view = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some(tag) = reader.next_tag()? {
            match tag {
                tag::ID => {
                    let id = reader.bytes()?;
                    view.id = u128::from_be_bytes(id.try_into().map_err(|_| DecodeError::Id(id.len()))?);
                }
                tag::SDK_APP_ID => view.app = reader.uint32()?,
                tag::COMMAND => view.command = reader.string(tag)?,
                tag::OCCURRED_AT => view.occurred_at_ms = reader.int64()?,
                tag::RECEIVED_AT => view.received_at_ms = reader.int64()?,
                tag::INCARNATION => view.incarnation = reader.fixed64()?,
                tag::SEQUENCE => view.sequence = reader.uint64()?,
                tag::PLATFORM => view.platform = reader.string(tag)?,
                tag::VERDICT => view.verdict = Some(VerdictView::decode(reader.bytes()?)?),
                tag::RULES_VERSION => view.rules_version = reader.uint32()?,
                tag::PARSER_VERSION => view.parser_version = reader.uint32()?,
                tag::ORIGINAL_EVENT_TIME => view.original_event_time_ms = Some(reader.sint64()?),
                tag::HAS_EVENT_TIME => view.has_event_time = reader.bool()?,
                tag::ROUTE_KEY => view.route_key = reader.string(tag)?,
                tag::BODY => view.body = reader.bytes()?,
                tag::SOURCE => view.source = Some(Source::decode(reader.bytes()?)?),
                tag if tag >> 3 >= number::FIRST_EVENT => view.read_event(reader.field(tag)?)?,
                tag => reader.skip(tag, &KNOWN)?,
            }
        }
        Ok(view)
    }

    /// The last event wins, as in any `oneof`.
    fn read_event(&mut self, field: Field<'a>) -> Result<(), DecodeError> {
        let event = Event::decode(field).map_err(|error| DecodeError::Event { field: field.number, error })?;
        self.newer = event.is_none();
        self.event = event.unwrap_or_default();
        self.event_field = field.number;
        // An event of a newer version need not even be a message.
        self.event_bytes = field.bytes().unwrap_or_default();
        Ok(())
    }

    /// The callback's own event time, ms, as it came (before clamping); `None` when it stated none.
    #[must_use]
    pub fn event_time_ms(&self) -> Option<i64> {
        self.has_event_time.then(|| self.original_event_time_ms.unwrap_or(self.occurred_at_ms))
    }
}

/// Writes the sequence as the last field of an encoded record, when its place in the partition is known.
pub fn append_sequence(record: &mut Vec<u8>, sequence: u64) {
    Writer::new(record).opt_uint64(field::SEQUENCE, Some(sequence));
}

//! The typed events of a record, as borrowed views: reading one allocates nothing.
//!
//! The types mirror `event.proto`; what a field means and its unit stand there too. Lists are walked when asked for.

mod elements;
mod enums;
mod lists;
mod message;
pub(crate) mod number;
mod view;

pub use elements::{
    CustomElement, ElementView, Elements, FaceElement, FileElement, ImageElement, ImageInfo, Images, LocationElement,
    OtherElement, SoundElement, VideoElement,
};
pub use enums::{Action, Cause};
pub use lists::{AccountMoveList, KeyValues, RecalledMessages, Strings};
pub use message::{CustomFields, Message, MessageKind};

use crate::wire::{Field, WireError};
use view::view;

/// What happened, as far as this version reads it out of the callback.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Event<'a> {
    /// Nothing typed: an unknown command, one that this version does not type, or an event of a newer version.
    #[default]
    None,
    /// `State.StateChange`.
    StateChange(StateChange<'a>),
    /// `Group.CallbackBeforeSendMsg`.
    BeforeSend(Message<'a>),
    /// `Group.CallbackAfterSendMsg`.
    AfterSend(Message<'a>),
    /// `Group.CallbackSendMsgException`.
    SendException(Message<'a>),
    /// `Group.CallbackAfterCreateGroup`.
    GroupCreated(GroupCreated<'a>),
    /// `Group.CallbackBeforeApplyJoinGroup`.
    BeforeJoin(BeforeJoin<'a>),
    /// `Group.CallbackAfterNewMemberJoin`; `by_other` means invited.
    MembersJoined(Members<'a>),
    /// `Group.CallbackAfterMemberExit`; `by_other` means kicked.
    MembersLeft(Members<'a>),
    /// `Group.CallbackOnMemberStateChange`.
    MemberState(MemberState<'a>),
    /// `Group.CallbackAfterRecallMsg`.
    MessagesRecalled(MessagesRecalled<'a>),
    /// `Group.CallbackAfterGroupInfoChanged`.
    GroupInfoChanged(GroupInfoChanged<'a>),
    /// `Group.CallbackAfterGroupAttrChanged`.
    GroupAttributesChanged(GroupAttributesChanged<'a>),
    /// `Group.CallbackAfterGroupDestroyed`.
    GroupDestroyed(GroupDestroyed<'a>),
    /// `Group.CallbackOnDailyGroupQuotaAlarm`.
    QuotaAlarm(QuotaAlarm),
    /// `Alert.RequestOverLimit`.
    RequestOverLimit(RequestOverLimit<'a>),
    /// A push of live streaming began or ended.
    StreamChange(StreamChange<'a>),
    /// `Group.CallbackBeforeCreateGroup`.
    BeforeCreateGroup(BeforeCreateGroup<'a>),
    /// Business event: a gift was billed.
    GiftBilled(GiftBilled<'a>),
    /// Business event: a membership was bought.
    MembershipOpened(MembershipOpened<'a>),
    /// A version of the rules became valid.
    RulesApplied(RulesApplied<'a>),
    /// Derived: when an account went and was back, as a room has to see it.
    AccountMoves(AccountMoves<'a>),
}

impl<'a> Event<'a> {
    /// Reads the event that stands in this field of the envelope; `None` when this version does not know it.
    ///
    /// # Errors
    /// A [`WireError`] when the field does not hold that event.
    pub(crate) fn decode(field: Field<'a>) -> Result<Option<Self>, WireError> {
        Ok(Some(match field.number {
            number::STATE_CHANGE => Self::StateChange(StateChange::decode(field.bytes()?)?),
            number::BEFORE_SEND => Self::BeforeSend(Message::decode(field.bytes()?)?),
            number::AFTER_SEND => Self::AfterSend(Message::decode(field.bytes()?)?),
            number::SEND_EXCEPTION => Self::SendException(Message::decode(field.bytes()?)?),
            number::GROUP_CREATED => Self::GroupCreated(GroupCreated::decode(field.bytes()?)?),
            number::BEFORE_JOIN => Self::BeforeJoin(BeforeJoin::decode(field.bytes()?)?),
            number::MEMBERS_JOINED => Self::MembersJoined(Members::decode(field.bytes()?)?),
            number::MEMBERS_LEFT => Self::MembersLeft(Members::decode(field.bytes()?)?),
            number::MEMBER_STATE => Self::MemberState(MemberState::decode(field.bytes()?)?),
            number::MESSAGES_RECALLED => Self::MessagesRecalled(MessagesRecalled::decode(field.bytes()?)?),
            number::GROUP_INFO_CHANGED => Self::GroupInfoChanged(GroupInfoChanged::decode(field.bytes()?)?),
            number::GROUP_ATTRIBUTES_CHANGED => {
                Self::GroupAttributesChanged(GroupAttributesChanged::decode(field.bytes()?)?)
            }
            number::GROUP_DESTROYED => Self::GroupDestroyed(GroupDestroyed::decode(field.bytes()?)?),
            number::QUOTA_ALARM => Self::QuotaAlarm(QuotaAlarm::decode(field.bytes()?)?),
            number::REQUEST_OVER_LIMIT => Self::RequestOverLimit(RequestOverLimit::decode(field.bytes()?)?),
            number::STREAM_CHANGE => Self::StreamChange(StreamChange::decode(field.bytes()?)?),
            number::BEFORE_CREATE_GROUP => Self::BeforeCreateGroup(BeforeCreateGroup::decode(field.bytes()?)?),
            number::GIFT_BILLED => Self::GiftBilled(GiftBilled::decode(field.bytes()?)?),
            number::MEMBERSHIP_OPENED => Self::MembershipOpened(MembershipOpened::decode(field.bytes()?)?),
            number::RULES_APPLIED => Self::RulesApplied(RulesApplied::decode(field.bytes()?)?),
            number::ACCOUNT_MOVES => Self::AccountMoves(AccountMoves::decode(field.bytes()?)?),
            _ => return Ok(None),
        }))
    }

    /// The `GroupId` of the room it happened in, when it names one.
    #[must_use]
    pub const fn group_id(&self) -> Option<&'a str> {
        let id = match self {
            Self::BeforeSend(m) | Self::AfterSend(m) | Self::SendException(m) => m.group_id,
            Self::GroupCreated(e) => e.group_id,
            Self::BeforeJoin(e) => e.group_id,
            Self::MembersJoined(e) | Self::MembersLeft(e) => e.group_id,
            Self::MemberState(e) => e.group_id,
            Self::MessagesRecalled(e) => e.group_id,
            Self::GroupInfoChanged(e) => e.group_id,
            Self::GroupAttributesChanged(e) => e.group_id,
            Self::GroupDestroyed(e) => e.group_id,
            Self::StreamChange(e) => e.stream_id,
            Self::GiftBilled(e) => e.group_id,
            Self::MembershipOpened(e) => e.group_id,
            Self::AccountMoves(e) => e.group_id,
            Self::None
            | Self::StateChange(_)
            | Self::QuotaAlarm(_)
            | Self::RequestOverLimit(_)
            | Self::BeforeCreateGroup(_)
            | Self::RulesApplied(_) => "",
        };
        if id.is_empty() { None } else { Some(id) }
    }
}

view! {
    /// An account's connection: `State.StateChange`.
    pub struct StateChange<'a> {
        /// What it did.
        action: Action = 1 action,
        /// The account.
        account: &'a str = 2 string,
        /// As it came: `Register`, `Unregister`, `LinkClose`, `TimeOut`, `SetCustomStatus`.
        reason: &'a str = 3 string,
        /// Platforms that this login pushed out, normalised like the envelope's.
        kicked_platforms: Strings<'a> = 4 strings,
        /// The custom status that was set.
        custom_status: &'a str = 5 string,
    }
}

view! {
    /// A group was created.
    pub struct GroupCreated<'a> {
        /// The room.
        group_id: &'a str = 1 string,
        /// `AVChatRoom`, `Live`, `Public`, ...
        group_type: &'a str = 2 string,
        /// Who made the request.
        operator_account: &'a str = 3 string,
        /// Whose group it is.
        owner_account: &'a str = 4 string,
        /// Name of the group.
        name: &'a str = 5 string,
        /// First members; none in an `AVChatRoom`.
        members: Strings<'a> = 6 strings,
    }
}

view! {
    /// Somebody asks to create a group.
    pub struct BeforeCreateGroup<'a> {
        /// `AVChatRoom`, `Live`, `Public`, ...
        group_type: &'a str = 1 string,
        /// Who made the request.
        operator_account: &'a str = 2 string,
        /// Whose group it is to be.
        owner_account: &'a str = 3 string,
        /// Name of the group.
        name: &'a str = 4 string,
    }
}

view! {
    /// An account asks to join.
    pub struct BeforeJoin<'a> {
        /// The room.
        group_id: &'a str = 1 string,
        /// `AVChatRoom`, `Live`, `Public`, ...
        group_type: &'a str = 2 string,
        /// Who asks.
        requestor_account: &'a str = 3 string,
        /// What it wrote with the request.
        apply_msg: &'a str = 4 string,
    }
}

view! {
    /// Members joined or left.
    pub struct Members<'a> {
        /// The room.
        group_id: &'a str = 1 string,
        /// `AVChatRoom`, `Live`, `Public`, ...
        group_type: &'a str = 2 string,
        /// Who made the request.
        operator_account: &'a str = 3 string,
        /// Joined: invited; left: kicked.
        by_other: bool = 4 bool,
        /// The members; one in the copy for an account.
        members: Strings<'a> = 5 strings,
    }
}

view! {
    /// Members of an `AVChatRoom` went online or offline.
    pub struct MemberState<'a> {
        /// The room.
        group_id: &'a str = 1 string,
        /// Online or offline.
        online: bool = 2 bool,
        /// Why.
        cause: Cause = 3 cause,
        /// The members; one in the copy for an account.
        members: Strings<'a> = 4 strings,
    }
}

view! {
    /// Messages were recalled.
    pub struct MessagesRecalled<'a> {
        /// The room.
        group_id: &'a str = 1 string,
        /// `AVChatRoom`, `Live`, `Public`, ...
        group_type: &'a str = 2 string,
        /// Who made the request.
        operator_account: &'a str = 3 string,
        /// The messages.
        messages: RecalledMessages<'a> = 4 recalled,
    }
}

view! {
    /// Name, introduction, notice or picture of a group changed; only what changed is there.
    pub struct GroupInfoChanged<'a> {
        /// The room.
        group_id: &'a str = 1 string,
        /// `AVChatRoom`, `Live`, `Public`, ...
        group_type: &'a str = 2 string,
        /// Who made the request.
        operator_account: &'a str = 3 string,
        /// The new name.
        name: Option<&'a str> = 4 opt_string,
        /// The new introduction.
        introduction: Option<&'a str> = 5 opt_string,
        /// The new notice.
        notification: Option<&'a str> = 6 opt_string,
        /// The new picture.
        face_url: Option<&'a str> = 7 opt_string,
    }
}

view! {
    /// Attributes of a group changed.
    pub struct GroupAttributesChanged<'a> {
        /// The room.
        group_id: &'a str = 1 string,
        /// `AVChatRoom`, `Live`, `Public`, ...
        group_type: &'a str = 2 string,
        /// Who made the request.
        operator_account: &'a str = 3 string,
        /// `set`, `modify`, `delete` or `clear`.
        option: &'a str = 4 string,
        /// The attributes concerned.
        attributes: KeyValues<'a> = 5 key_values,
    }
}

view! {
    /// A group was disbanded.
    pub struct GroupDestroyed<'a> {
        /// The room.
        group_id: &'a str = 1 string,
        /// `AVChatRoom`, `Live`, `Public`, ...
        group_type: &'a str = 2 string,
        /// Whose group it was.
        owner_account: &'a str = 3 string,
        /// Name of the group.
        name: &'a str = 4 string,
    }
}

view! {
    /// The day's new groups passed 70 % of the quota.
    pub struct QuotaAlarm {
        /// Groups created today.
        used: u64 = 1 uint64,
        /// Groups allowed a day.
        quota: u64 = 2 uint64,
    }
}

view! {
    /// A REST command passed 80 % of its rate limit.
    pub struct RequestOverLimit<'a> {
        /// Service of the command.
        service_name: &'a str = 1 string,
        /// The REST command.
        request_command: &'a str = 2 string,
        /// Requests per second.
        requests: u64 = 3 uint64,
        /// Requests per second allowed.
        limit: u64 = 4 uint64,
    }
}

view! {
    /// A pusher began or ended.
    pub struct StreamChange<'a> {
        /// The stream's name.
        stream_id: &'a str = 1 string,
        /// Began, else ended.
        started: bool = 2 bool,
        /// The same in the push and its end.
        sequence: &'a str = 3 string,
        /// Domain of the push URL.
        domain: &'a str = 4 string,
        /// Path of the push URL.
        path: &'a str = 5 string,
        /// Why it ended; 0 at the begin.
        error_code: i32 = 6 int32,
        /// The same as text.
        error_message: &'a str = 7 string,
        /// Length of the push, ms; at the end only.
        push_duration_ms: u64 = 8 uint64,
    }
}

view! {
    /// Business event: a gift was billed by the app's own server.
    pub struct GiftBilled<'a> {
        /// The same key is the same gift.
        idempotency_key: &'a str = 1 string,
        /// The room.
        group_id: &'a str = 2 string,
        /// Who gave.
        from_account: &'a str = 3 string,
        /// Which gift.
        gift_id: &'a str = 4 string,
        /// How many, from 1.
        count: u64 = 5 uint64,
        /// Value of all of them, minor units.
        value: u64 = 6 uint64,
        /// What makes several gifts one combo.
        combo_id: &'a str = 7 string,
        /// The app's own order.
        order_id: &'a str = 8 string,
    }
}

view! {
    /// Business event: an account bought a membership.
    pub struct MembershipOpened<'a> {
        /// The same key is the same purchase.
        idempotency_key: &'a str = 1 string,
        /// Who bought.
        account: &'a str = 2 string,
        /// The room it was bought in; empty when in none.
        group_id: &'a str = 3 string,
        /// Which membership.
        tier: &'a str = 4 string,
        /// For how many months.
        months: u32 = 5 uint32,
        /// What was paid, minor units.
        value: u64 = 6 uint64,
    }
}

view! {
    /// A version of the rules became valid from here on in this partition.
    pub struct RulesApplied<'a> {
        /// Version, from 1.
        version: u32 = 1 uint32,
        /// The rule set as TOML.
        rules_toml: &'a str = 2 string,
        /// Who applied it, as the command told.
        applied_by: &'a str = 3 string,
        /// When it was applied, by ingest's clock, ms; the same in every partition. 0 in older records.
        applied_at_ms: i64 = 4 int64,
    }
}

view! {
    /// When an account went and was back, as a room has to see it.
    ///
    /// It takes the place of all that the room was told from [`AccountMoves::from_ms`] on, so that a late callback that
    /// changes what had followed needs no event that undoes another.
    pub struct AccountMoves<'a> {
        /// The room.
        group_id: &'a str = 1 string,
        /// The account.
        account: &'a str = 2 string,
        /// The time from which on these are all moves, ms.
        from_ms: i64 = 3 int64,
        /// The moves from there on, in order of time.
        moves: AccountMoveList<'a> = 4 account_moves,
    }
}

view! {
    /// One going or return of an account.
    pub struct AccountMove {
        /// When it happened, ms.
        at_ms: i64 = 1 int64,
        /// It is connected again within the grace and left no room meanwhile; else its last device went.
        back: bool = 2 bool,
        /// How much earlier it may have gone, ms: a lost connection is reported late; 0 for a logout. Of a return: 0, or how
        /// long before that the connection that it takes the place of may have been lost, while nobody was told.
        uncertain_ms: u64 = 3 uint64,
        /// Of a return: it seems to have begun anew instead, and is there only if it has not.
        maybe: bool = 4 bool,
    }
}

view! {
    /// One attribute of a group.
    pub struct KeyValue<'a> {
        /// Name of the attribute.
        key: &'a str = 1 string,
        /// Its value.
        value: &'a str = 2 string,
    }
}

view! {
    /// One recalled message.
    pub struct RecalledMessage<'a> {
        /// Sequence number in the group; 0 when not told.
        msg_seq: u64 = 1 uint64,
        /// Id of the message; empty in older callbacks.
        msg_id: &'a str = 2 string,
    }
}

//! Field numbers of the envelope's `oneof event`, as in `event.proto`.

/// The first event: from here on, an unknown number is an event of a newer version.
pub(crate) const FIRST_EVENT: u32 = 20;

pub(crate) const STATE_CHANGE: u32 = 20;
pub(crate) const BEFORE_SEND: u32 = 21;
pub(crate) const AFTER_SEND: u32 = 22;
pub(crate) const SEND_EXCEPTION: u32 = 23;
pub(crate) const GROUP_CREATED: u32 = 24;
pub(crate) const BEFORE_JOIN: u32 = 25;
pub(crate) const MEMBERS_JOINED: u32 = 26;
pub(crate) const MEMBERS_LEFT: u32 = 27;
pub(crate) const MEMBER_STATE: u32 = 28;
pub(crate) const MESSAGES_RECALLED: u32 = 29;
pub(crate) const GROUP_INFO_CHANGED: u32 = 30;
pub(crate) const GROUP_ATTRIBUTES_CHANGED: u32 = 31;
pub(crate) const GROUP_DESTROYED: u32 = 32;
pub(crate) const QUOTA_ALARM: u32 = 33;
pub(crate) const REQUEST_OVER_LIMIT: u32 = 34;
pub(crate) const STREAM_CHANGE: u32 = 35;
pub(crate) const BEFORE_CREATE_GROUP: u32 = 36;
pub(crate) const GIFT_BILLED: u32 = 40;
pub(crate) const MEMBERSHIP_OPENED: u32 = 41;
pub(crate) const RULES_APPLIED: u32 = 50;
pub(crate) const ACCOUNT_MOVES: u32 = 60;
/// The field of `members` in `MembersJoined` and `MembersLeft`.
pub(crate) const MEMBERS_IN_MEMBERSHIP: u32 = 5;
/// The field of `members` in `MemberState`.
pub(crate) const MEMBERS_IN_STATE: u32 = 4;

//! Callback commands: those of the vendor's documentation, those of live streaming, and our own.

/// An account's connection.
pub const STATE_CHANGE: &str = "State.StateChange";
/// Somebody asks to create a group.
pub const BEFORE_CREATE_GROUP: &str = "Group.CallbackBeforeCreateGroup";
/// A group was created.
pub const AFTER_CREATE_GROUP: &str = "Group.CallbackAfterCreateGroup";
/// An account asks to join.
pub const BEFORE_APPLY_JOIN: &str = "Group.CallbackBeforeApplyJoinGroup";
/// Members joined.
pub const AFTER_NEW_MEMBER_JOIN: &str = "Group.CallbackAfterNewMemberJoin";
/// Members left.
pub const AFTER_MEMBER_EXIT: &str = "Group.CallbackAfterMemberExit";
/// A message before delivery.
pub const BEFORE_SEND: &str = "Group.CallbackBeforeSendMsg";
/// A message was delivered.
pub const AFTER_SEND: &str = "Group.CallbackAfterSendMsg";
/// A message failed.
pub const SEND_EXCEPTION: &str = "Group.CallbackSendMsgException";
/// Messages were recalled.
pub const AFTER_RECALL: &str = "Group.CallbackAfterRecallMsg";
/// A group was disbanded.
pub const AFTER_GROUP_DESTROYED: &str = "Group.CallbackAfterGroupDestroyed";
/// Name, introduction, notice or picture of a group changed.
pub const AFTER_GROUP_INFO_CHANGED: &str = "Group.CallbackAfterGroupInfoChanged";
/// Members of an `AVChatRoom` went online or offline.
pub const MEMBER_STATE_CHANGE: &str = "Group.CallbackOnMemberStateChange";
/// Attributes of a group changed.
pub const AFTER_GROUP_ATTR_CHANGED: &str = "Group.CallbackAfterGroupAttrChanged";
/// The day's new groups passed 70 % of the quota.
pub const QUOTA_ALARM: &str = "Group.CallbackOnDailyGroupQuotaAlarm";
/// A REST command passed 80 % of its rate limit.
pub const REQUEST_OVER_LIMIT: &str = "Alert.RequestOverLimit";

/// A pusher began. Live streaming names no command: this one is ours, told by `event_type` 1.
pub const STREAM_PUSH: &str = "Live.StreamPush";
/// A pusher ended. Ours, told by `event_type` 0.
pub const STREAM_INTERRUPT: &str = "Live.StreamInterrupt";
/// Any other event of live streaming (recording file, screenshot, anomaly). Ours; kept with its body.
pub const STREAM_OTHER: &str = "Live.StreamEvent";

/// Business event: a gift was billed.
pub const GIFT_BILLED: &str = "Barrage.GiftBilled";
/// Business event: a membership was bought.
pub const MEMBERSHIP_OPENED: &str = "Barrage.MembershipOpened";
/// A version of the rules became valid.
pub const RULES_APPLIED: &str = "Barrage.RulesApplied";
/// Derived: when an account went and was back, as a room has to see it.
pub const ACCOUNT_MOVES: &str = "Barrage.AccountMoves";

/// Commands that this version types.
const TYPED: [&str; 18] = [
    AFTER_SEND,
    BEFORE_SEND,
    STATE_CHANGE,
    AFTER_NEW_MEMBER_JOIN,
    AFTER_MEMBER_EXIT,
    MEMBER_STATE_CHANGE,
    SEND_EXCEPTION,
    BEFORE_APPLY_JOIN,
    BEFORE_CREATE_GROUP,
    AFTER_CREATE_GROUP,
    AFTER_RECALL,
    AFTER_GROUP_DESTROYED,
    AFTER_GROUP_INFO_CHANGED,
    AFTER_GROUP_ATTR_CHANGED,
    QUOTA_ALARM,
    REQUEST_OVER_LIMIT,
    STREAM_PUSH,
    STREAM_INTERRUPT,
];

/// Commands that are known and kept with their body only: a live room does not produce them.
const UNTYPED: [&str; 45] = [
    "Bot.OnC2CMessage",
    "Bot.OnGroupMessage",
    "C2C.CallbackAfterC2CMsgExtension",
    "C2C.CallbackAfterMsgReport",
    "C2C.CallbackAfterMsgWithDraw",
    "C2C.CallbackAfterSendMsg",
    "C2C.CallbackBeforeSendMsg",
    "Chatbot.OnC2CSignalMessage",
    "ContentCallback.ResultNotify",
    "Follow.CallbackAfterFollowAdd",
    "Follow.CallbackAfterFollowDelete",
    "Group.CallbackAfterChangeGroupOwner",
    "Group.CallbackAfterCreateTopic",
    "Group.CallbackAfterGroupFull",
    "Group.CallbackAfterGroupMsgExtension",
    "Group.CallbackAfterMemberFieldChanged",
    "Group.CallbackAfterReadReceipt",
    "Group.CallbackAfterTopicDestroyed",
    "Group.CallbackAfterTopicInfoChanged",
    "Group.CallbackBeforeCreateTopic",
    "Group.CallbackBeforeInviteJoinGroup",
    STREAM_OTHER,
    "OfficialAccount.CallbackAfterAddSubscriber",
    "OfficialAccount.CallbackAfterCreateOfficialAccount",
    "OfficialAccount.CallbackAfterDeleteSubscriber",
    "OfficialAccount.CallbackAfterMsgWithDraw",
    "OfficialAccount.CallbackAfterOfficialAccountDestroyed",
    "OfficialAccount.CallbackAfterOfficialAccountFull",
    "OfficialAccount.CallbackAfterOfficialAccountInfoChanged",
    "OfficialAccount.CallbackAfterSendMsg",
    "OfficialAccount.CallbackBeforeAddSubscriber",
    "OfficialAccount.CallbackBeforeCreateOfficialAccount",
    "OfficialAccount.CallbackBeforeSendMsg",
    "Profile.CallbackPortraitSet",
    "Push.AllMemberPush",
    "Push.OfflinePush",
    "Sns.CallbackBlackListAdd",
    "Sns.CallbackBlackListDelete",
    "Sns.CallbackFriendAdd",
    "Sns.CallbackFriendDelete",
    "Sns.CallbackPrevFriendAdd",
    "Sns.CallbackPrevFriendResponse",
    GIFT_BILLED,
    MEMBERSHIP_OPENED,
    RULES_APPLIED,
];

/// Every command that this version knows: the vendor's list, live streaming's, and our own.
pub fn all() -> impl Iterator<Item = &'static str> {
    TYPED.into_iter().chain(UNTYPED)
}

/// The command as a constant when this version knows it, so that it may serve as the label of a metric.
#[must_use]
pub fn known(command: &str) -> Option<&'static str> {
    all().find(|known| *known == command)
}

/// Whether the answer to the command decides something.
///
/// Told by the name, so that it holds for commands of later years too: `…CallbackBefore…` and `…CallbackPrev…`.
#[must_use]
pub fn is_before(command: &str) -> bool {
    let Some((_, name)) = command.split_once('.') else { return false };
    name.starts_with("CallbackBefore") || name.starts_with("CallbackPrev")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_callbacks_are_told_by_their_name() {
        let before: Vec<_> = all().filter(|c| is_before(c)).collect();
        assert_eq!(before.len(), 11, "{before:?}");
        for (command, expected) in [
            (BEFORE_SEND, true),
            ("Sns.CallbackPrevFriendAdd", true),
            ("Future.CallbackBeforeAnything", true),
            (AFTER_SEND, false),
            ("CallbackBefore", false),
            ("", false),
        ] {
            assert_eq!(is_before(command), expected, "{command}");
        }
    }

    #[test]
    fn every_command_is_listed_once() {
        let mut names: Vec<_> = all().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TYPED.len() + UNTYPED.len());
        assert_eq!(known(AFTER_SEND), Some(AFTER_SEND));
        assert_eq!(known("Group.CallbackAfterMemberInvited"), None);
    }
}

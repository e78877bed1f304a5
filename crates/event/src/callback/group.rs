//! Groups and their members.

use serde::Deserialize;

use super::error::UntypedReason;
use super::json::{List, Number, Object, OptionalText, Text, TextOr};
use super::typed::{Body, Context, body, common, key};
use crate::event::Cause;
use crate::wire::Writer;

/// One entry of a list of members: `{"Member_Account": …}`, or the account itself.
pub(super) type Member<'a> = TextOr<'a, MemberObject<'a>>;

/// `Modified_Account` and `Account` are read too, because the vendor's own pages do not agree on the name.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(super) struct MemberObject<'a> {
    #[serde(rename = "Member_Account")]
    member: Text<'a>,
    #[serde(rename = "Modified_Account")]
    modified: Text<'a>,
    #[serde(rename = "Account")]
    account: Text<'a>,
}

impl<'a> From<MemberObject<'a>> for Text<'a> {
    fn from(object: MemberObject<'a>) -> Self {
        let MemberObject { member, modified, account } = object;
        [member, modified, account].into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    }
}

/// Writes a list of members that the event is about: it may not be empty, and each becomes a key.
fn write_members(
    field: u32,
    members: &List<Member<'_>>,
    name: &'static str,
    w: &mut Writer<'_>,
) -> Result<(), UntypedReason> {
    if members.0.is_empty() {
        return Err(UntypedReason::Field(name));
    }
    for member in &members.0 {
        w.string(field, key(&member.0, name)?);
    }
    Ok(())
}

body! {
    /// Body of `Group.CallbackAfterNewMemberJoin`.
    struct Join<'a> {
        group_id: Text<'a> = "GroupId",
        group_type: Text<'a> = "Type",
        operator_account: Text<'a> = "Operator_Account",
        join_type: Text<'a> = "JoinType",
        members: List<Member<'a>> = "NewMemberList",
    }
}

impl<'a> Body<'a> for Join<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, key(&self.group_id, "GroupId")?);
        w.string(2, &self.group_type);
        w.string(3, &self.operator_account);
        w.bool(4, ["Invited", "Invite"].iter().any(|name| self.join_type.eq_ignore_ascii_case(name)));
        write_members(5, &self.members, "NewMemberList", w)
    }
}

body! {
    /// Body of `Group.CallbackAfterMemberExit`.
    struct Exit<'a> {
        group_id: Text<'a> = "GroupId",
        group_type: Text<'a> = "Type",
        operator_account: Text<'a> = "Operator_Account",
        exit_type: Text<'a> = "ExitType",
        members: List<Member<'a>> = "ExitMemberList",
    }
}

impl<'a> Body<'a> for Exit<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, key(&self.group_id, "GroupId")?);
        w.string(2, &self.group_type);
        w.string(3, &self.operator_account);
        w.bool(4, self.exit_type.eq_ignore_ascii_case("Kicked"));
        write_members(5, &self.members, "ExitMemberList", w)
    }
}

body! {
    /// Body of `Group.CallbackOnMemberStateChange`.
    struct MemberState<'a> {
        group_id: Text<'a> = "GroupId",
        event_type: Text<'a> = "EventType",
        cause: Text<'a> = "EventCause",
        members: List<Member<'a>> = "MemberList",
    }
}

impl<'a> Body<'a> for MemberState<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        let online = match &*self.event_type {
            "Online" => true,
            "Offline" => false,
            _ => return Err(UntypedReason::Field("EventType")),
        };
        let cause = match &*self.cause {
            "Join" => Cause::Join,
            "Quit" => Cause::Quit,
            "HeartbeatInterrupt" => Cause::HeartbeatInterrupt,
            "HeartbeatRecover" => Cause::HeartbeatRecover,
            _ => Cause::Unspecified,
        };
        w.string(1, key(&self.group_id, "GroupId")?);
        w.bool(2, online);
        w.int64(3, i64::from(cause.to_wire()));
        write_members(4, &self.members, "MemberList", w)
    }
}

body! {
    /// Body of `Group.CallbackBeforeApplyJoinGroup`.
    struct BeforeJoin<'a> {
        group_id: Text<'a> = "GroupId",
        group_type: Text<'a> = "Type",
        requestor_account: Text<'a> = "Requestor_Account",
        apply_msg: Text<'a> = "ApplyMsg",
    }
}

impl<'a> Body<'a> for BeforeJoin<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, key(&self.group_id, "GroupId")?);
        w.string(2, &self.group_type);
        w.string(3, key(&self.requestor_account, "Requestor_Account")?);
        w.string(4, &self.apply_msg);
        Ok(())
    }
}

body! {
    /// Body of `Group.CallbackAfterCreateGroup`.
    struct Created<'a> {
        group_id: Text<'a> = "GroupId",
        group_type: Text<'a> = "Type",
        operator_account: Text<'a> = "Operator_Account",
        owner_account: Text<'a> = "Owner_Account",
        name: Text<'a> = "Name",
        members: List<Member<'a>> = "MemberList",
    }
}

impl<'a> Body<'a> for Created<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, key(&self.group_id, "GroupId")?);
        w.string(2, &self.group_type);
        w.string(3, &self.operator_account);
        w.string(4, &self.owner_account);
        w.string(5, &self.name);
        for member in &self.members.0 {
            w.string(6, &member.0);
        }
        Ok(())
    }
}

body! {
    /// Body of `Group.CallbackBeforeCreateGroup`.
    struct BeforeCreate<'a> {
        group_type: Text<'a> = "Type",
        operator_account: Text<'a> = "Operator_Account",
        owner_account: Text<'a> = "Owner_Account",
        name: Text<'a> = "Name",
    }
}

impl<'a> Body<'a> for BeforeCreate<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, &self.group_type);
        w.string(2, &self.operator_account);
        // REST may create a group without an owner.
        if !self.owner_account.is_empty() {
            w.string(3, key(&self.owner_account, "Owner_Account")?);
        }
        w.string(4, &self.name);
        Ok(())
    }
}

body! {
    /// Body of `Group.CallbackAfterRecallMsg`.
    struct Recall<'a> {
        group_id: Text<'a> = "GroupId",
        group_type: Text<'a> = "Type",
        operator_account: Text<'a> = "Operator_Account",
        messages: List<Object<Recalled<'a>>> = "MsgSeqList",
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Recalled<'a> {
    #[serde(rename = "MsgSeq")]
    msg_seq: Number,
    #[serde(rename = "MsgId")]
    msg_id: Text<'a>,
}

impl<'a> Body<'a> for Recall<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, key(&self.group_id, "GroupId")?);
        w.string(2, &self.group_type);
        w.string(3, &self.operator_account);
        for Object(message) in &self.messages.0 {
            w.message(4, |w| {
                w.uint64(1, message.msg_seq.get().unwrap_or_default());
                w.string(2, &message.msg_id);
            });
        }
        Ok(())
    }
}

body! {
    /// Body of `Group.CallbackAfterGroupDestroyed`.
    struct Destroyed<'a> {
        group_id: Text<'a> = "GroupId",
        group_type: Text<'a> = "Type",
        owner_account: Text<'a> = "Owner_Account",
        name: Text<'a> = "Name",
    }
}

impl<'a> Body<'a> for Destroyed<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, key(&self.group_id, "GroupId")?);
        w.string(2, &self.group_type);
        w.string(3, &self.owner_account);
        w.string(4, &self.name);
        Ok(())
    }
}

body! {
    /// Body of `Group.CallbackAfterGroupInfoChanged`: only what changed is there.
    struct InfoChanged<'a> {
        group_id: Text<'a> = "GroupId",
        group_type: Text<'a> = "Type",
        operator_account: Text<'a> = "Operator_Account",
        name: OptionalText<'a> = "Name",
        introduction: OptionalText<'a> = "Introduction",
        notification: OptionalText<'a> = "Notification",
        face_url: OptionalText<'a> = "FaceUrl",
    }
}

impl<'a> Body<'a> for InfoChanged<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, key(&self.group_id, "GroupId")?);
        w.string(2, &self.group_type);
        w.string(3, &self.operator_account);
        w.opt_string(4, self.name.0.as_deref());
        w.opt_string(5, self.introduction.0.as_deref());
        w.opt_string(6, self.notification.0.as_deref());
        w.opt_string(7, self.face_url.0.as_deref());
        Ok(())
    }
}

body! {
    /// Body of `Group.CallbackAfterGroupAttrChanged`.
    struct AttributesChanged<'a> {
        group_id: Text<'a> = "GroupId",
        group_type: Text<'a> = "Type",
        operator_account: Text<'a> = "Operator_Account",
        option: Text<'a> = "OptionType",
        attributes: List<Object<Attribute<'a>>> = "GroupAttr",
    }
}

/// The names are in lower case here, and in upper case in the vendor's REST API: both are read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Attribute<'a> {
    #[serde(alias = "Key")]
    key: Text<'a>,
    #[serde(alias = "Value")]
    value: Text<'a>,
}

impl<'a> Body<'a> for AttributesChanged<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, key(&self.group_id, "GroupId")?);
        w.string(2, &self.group_type);
        w.string(3, &self.operator_account);
        w.string(4, &self.option);
        for Object(attribute) in &self.attributes.0 {
            w.message(5, |w| {
                w.string(1, &attribute.key);
                w.string(2, &attribute.value);
            });
        }
        Ok(())
    }
}

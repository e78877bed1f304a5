//! Accounts and limits: what concerns no group.

use serde::Deserialize;

use super::error::UntypedReason;
use super::json::{List, Number, Object, Text, TextOr};
use super::typed::{Body, Context, body, common, key};
use crate::event::Action;
use crate::platform::normalise;
use crate::wire::Writer;

body! {
    /// Body of `State.StateChange`.
    struct StateChange<'a> {
        info: Object<Info<'a>> = "Info",
        kicked: List<Device<'a>> = "KickedDevice",
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Info<'a> {
    #[serde(rename = "Action")]
    action: Text<'a>,
    #[serde(rename = "To_Account")]
    account: Text<'a>,
    #[serde(rename = "Reason")]
    reason: Text<'a>,
    #[serde(rename = "CustomStatus")]
    custom_status: Text<'a>,
}

/// A device that was pushed out: `{"Platform": …}`, or the platform itself.
type Device<'a> = TextOr<'a, DeviceObject<'a>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct DeviceObject<'a> {
    #[serde(rename = "Platform")]
    platform: Text<'a>,
}

impl<'a> From<DeviceObject<'a>> for Text<'a> {
    fn from(object: DeviceObject<'a>) -> Self {
        object.platform
    }
}

impl<'a> Body<'a> for StateChange<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        let info = &self.info.0;
        let action = match &*info.action {
            "Login" => Action::Login,
            "Logout" => Action::Logout,
            "Disconnect" => Action::Disconnect,
            "CustomStatusChange" => Action::CustomStatus,
            _ => Action::Unspecified,
        };
        w.int64(1, i64::from(action.to_wire()));
        w.string(2, key(&info.account, "Info.To_Account")?);
        w.string(3, &info.reason);
        for device in &self.kicked.0 {
            w.string(4, &normalise(&device.0));
        }
        w.string(5, &info.custom_status);
        Ok(())
    }
}

body! {
    /// Body of `Group.CallbackOnDailyGroupQuotaAlarm`.
    struct QuotaAlarm<'a> {
        used: Number = "QuotaUsed",
        quota: Number = "Quota",
    }
}

impl<'a> Body<'a> for QuotaAlarm<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.uint64(1, self.used.get().ok_or(UntypedReason::Field("QuotaUsed"))?);
        w.uint64(2, self.quota.get().ok_or(UntypedReason::Field("Quota"))?);
        Ok(())
    }
}

body! {
    /// Body of `Alert.RequestOverLimit`.
    struct OverLimit<'a> {
        service_name: Text<'a> = "ServiceName",
        request_command: Text<'a> = "Command",
        requests: Number = "Request",
        limit: Number = "Limit",
    }
}

impl<'a> Body<'a> for OverLimit<'a> {
    common!();

    fn write(&self, _: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, &self.service_name);
        w.string(2, &self.request_command);
        w.uint64(3, self.requests.get().ok_or(UntypedReason::Field("Request"))?);
        w.uint64(4, self.limit.get().ok_or(UntypedReason::Field("Limit"))?);
        Ok(())
    }
}

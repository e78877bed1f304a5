//! Records as `barrage log` shows them.

use std::fmt::Write as _;

use barrage_event::{EnvelopeView, Event, Message, Partition};
use barrage_log::Record;
use serde_json::{Value as Json, json};

use crate::text::{clipped, harmless, time};

/// One line, and one more for the body.
pub(super) fn as_text(partition: Partition, record: Record<'_>, body: bool) -> String {
    let mut line = format!("{partition}@{}  {}", record.offset, time(record.timestamp_ms));
    let envelope = match EnvelopeView::decode(record.bytes) {
        Ok(envelope) => envelope,
        Err(error) => {
            line.push_str(&format!("  cannot be read: {error}"));
            return line;
        }
    };
    write!(
        line,
        "  {}  {}:{}  {}",
        time(envelope.occurred_at_ms),
        envelope.app,
        clipped(envelope.route_key, 48),
        clipped(envelope.command, 64),
    )
    .expect("writing to a String does not fail");
    if let Some(summary) = summary(&envelope.event) {
        line.push_str("  ");
        line.push_str(&summary);
    }
    if let Some(verdict) = &envelope.verdict {
        line.push_str(
            &format!("  {:?} {} {}", verdict.outcome, verdict.code, clipped(verdict.rule, 60))
                .trim_end()
                .to_lowercase(),
        );
    }
    if envelope.newer {
        line.push_str("  (of a newer version)");
    }
    if body && !envelope.body.is_empty() {
        line.push_str("\n    ");
        line.push_str(&harmless(&String::from_utf8_lossy(envelope.body)));
    }
    line
}

fn summary(event: &Event<'_>) -> Option<String> {
    match event {
        Event::None => None,
        Event::BeforeSend(message) | Event::AfterSend(message) | Event::SendException(message) => {
            Some(message_summary(message))
        }
        Event::RulesApplied(rules) => Some(format!("version {} by {}", rules.version, clipped(rules.applied_by, 60))),
        other => Some(clipped(&format!("{other:?}"), 160)),
    }
}

fn message_summary(message: &Message<'_>) -> String {
    let from = clipped(message.from_account, 48);
    let mut text = format!("{} from {from}", message.kind.as_str());
    if !message.msg_id.is_empty() {
        text.push_str(&format!(" id {}", clipped(message.msg_id, 64)));
    }
    if message.error_code != 0 {
        text.push_str(&format!(" error {} {}", message.error_code, clipped(message.error_info, 60)));
    }
    text
}

/// One JSON object.
pub(super) fn as_json(partition: Partition, record: Record<'_>, body: bool) -> String {
    let mut fields = json!({ "position": format!("{partition}@{}", record.offset), "log_time": record.timestamp_ms });
    match EnvelopeView::decode(record.bytes) {
        Err(error) => fields["error"] = error.to_string().into(),
        Ok(envelope) => {
            let verdict = envelope.verdict.as_ref().map(
                |v| json!({ "outcome": format!("{:?}", v.outcome).to_lowercase(), "code": v.code, "rule": v.rule }),
            );
            let all = [
                ("id", Json::from(format!("{:032x}", envelope.id))),
                ("app", envelope.app.into()),
                ("key", envelope.route_key.into()),
                ("command", envelope.command.into()),
                ("occurred_at", envelope.occurred_at_ms.into()),
                ("received_at", envelope.received_at_ms.into()),
                ("original_event_time", envelope.original_event_time_ms.into()),
                ("incarnation", format!("{:016x}", envelope.incarnation).into()),
                ("sequence", envelope.sequence.into()),
                ("platform", envelope.platform.into()),
                ("verdict", verdict.into()),
                ("rules_version", envelope.rules_version.into()),
                ("parser_version", envelope.parser_version.into()),
                ("newer", envelope.newer.into()),
                ("event", summary(&envelope.event).into()),
            ];
            for (name, value) in all {
                fields[name] = value;
            }
            if body && !envelope.body.is_empty() {
                // The body as JSON where it is JSON, which nearly every one is.
                fields["body"] = serde_json::from_slice(envelope.body)
                    .unwrap_or_else(|_| String::from_utf8_lossy(envelope.body).into_owned().into());
            }
        }
    }
    fields.to_string()
}

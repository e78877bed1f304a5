//! `barrage log`: shows records readably. Reads the files only, so a running server is not disturbed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Context as _;
use barrage_event::{EnvelopeView, Event, Message, Offset, Partition, Topic};
use barrage_log::Record;
use barrage_log::embedded::{Ending, LogReader};
use serde_json::{Value as Json, json};

use crate::cli::LogArgs;
use crate::exit::{Exit, Failure};
use crate::text::{clipped, harmless, time};

/// Records of each partition when neither `--limit` nor `--follow` is there.
const LIMIT_DEFAULT: u64 = 20;
/// Time between two looks for new records.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Shows records.
pub(crate) fn log(args: &LogArgs) -> Result<Exit, Failure> {
    let dir = args.data_dir.join("log");
    let reader = LogReader::open(&dir)?;
    let partitions: Vec<Partition> = match args.partition {
        Some(partition) => vec![partition],
        None => Topic::ALL
            .into_iter()
            .flat_map(|topic| (0..reader.partitions(topic)).map(move |index| Partition { topic, index }))
            .collect(),
    };
    let mut left: BTreeMap<Partition, u64> = partitions
        .iter()
        .map(|p| (*p, args.limit.unwrap_or(if args.follow { u64::MAX } else { LIMIT_DEFAULT })))
        .collect();
    let mut next: BTreeMap<Partition, Offset> =
        partitions.iter().map(|p| (*p, Offset(args.from.unwrap_or(0)))).collect();
    if args.follow && args.from.is_none() {
        for partition in &partitions {
            next.insert(*partition, end(&reader, *partition)?);
        }
    }
    let mut ending = Ending::End;
    loop {
        for partition in &partitions {
            ending = show(args, &reader, *partition, &mut next, &mut left)?;
        }
        if !args.follow || left.values().all(|left| *left == 0) {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    if let Ending::Invalid { path, position, reason } = ending {
        tracing::debug!(path = %path.display(), position, reason, "the end is no valid record: being written, or cut off");
    }
    Ok(Exit::Done)
}

fn end(reader: &LogReader, partition: Partition) -> anyhow::Result<Offset> {
    let mut end = Offset(0);
    reader.read(partition, Offset(0), &mut |record| {
        end = record.offset.next();
        ControlFlow::Continue(())
    })?;
    Ok(end)
}

fn show(
    args: &LogArgs,
    reader: &LogReader,
    partition: Partition,
    next: &mut BTreeMap<Partition, Offset>,
    left: &mut BTreeMap<Partition, u64>,
) -> anyhow::Result<Ending> {
    let (Some(from), Some(left)) = (next.get(&partition).copied(), left.get_mut(&partition)) else {
        return Ok(Ending::End);
    };
    if *left == 0 {
        return Ok(Ending::Stopped);
    }
    let mut printed = Ok(());
    let mut reached = from;
    let ending = reader
        .read(partition, from, &mut |record| {
            reached = record.offset.next();
            *left -= 1;
            let line =
                if args.json { as_json(partition, record, args.body) } else { as_text(partition, record, args.body) };
            printed = super::line(&line);
            if printed.is_err() || *left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .with_context(|| format!("partition {partition} from offset {from}"))?;
    next.insert(partition, reached);
    printed?;
    Ok(ending)
}

fn as_text(partition: Partition, record: Record<'_>, body: bool) -> String {
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

fn as_json(partition: Partition, record: Record<'_>, body: bool) -> String {
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

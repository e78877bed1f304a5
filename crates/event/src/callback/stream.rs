//! Live streaming: a pusher began or ended. These bodies name no command and give their time in seconds.

use super::error::UntypedReason;
use super::json::{Label, Number, Text};
use super::typed::{Body, Context, body, key};
use crate::command::STREAM_PUSH;
use crate::wire::Writer;

body! {
    /// Body of a push or interrupt callback.
    struct StreamChange<'a> {
        stream_id: Text<'a> = "stream_id",
        channel_id: Text<'a> = "channel_id",
        sequence: Label<'a> = "sequence",
        domain: Text<'a> = "app",
        path: Text<'a> = "appname",
        time: Number = "event_time",
        error_code: Number = "errcode",
        error_message: Text<'a> = "errmsg",
        push_duration: Number = "push_duration",
    }
}

impl<'a> Body<'a> for StreamChange<'a> {
    fn command(&self) -> &str {
        &self.command
    }

    fn event_time(&self) -> Option<i64> {
        self.event_time.get().or_else(|| self.time.get())
    }

    fn write(&self, context: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        // The stream's name stands there twice.
        let stream_id = if self.stream_id.is_empty() { &self.channel_id } else { &self.stream_id };
        w.string(1, key(stream_id, "stream_id")?);
        w.bool(2, context.command == STREAM_PUSH);
        w.string(3, &self.sequence.0);
        w.string(4, &self.domain);
        w.string(5, &self.path);
        w.int64(6, self.error_code.get::<i32>().map_or(0, i64::from));
        w.string(7, &self.error_message);
        w.uint64(8, self.push_duration.get().unwrap_or_default());
        Ok(())
    }
}

//! `/v1/rooms/{room}/live`: a room's fields whenever they change, as server-sent events.
//!
//! A stream asks the room's owner as `/v1/rooms/{room}` does, wherever that is, at most once an interval and only when
//! the connection takes more bytes; what changed in between is in the next event, so nothing waits for a slow reader.
//! One that stays behind all the same is cut off by the connection ([`crate::connection`]).
//!
//! Heat falls all the time, and whatever makes it rise changes another field too. So its fall is told with what else
//! changed, and by itself only now and then.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use barrage_event::Topic;
use bytes::Bytes;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::room::HEAT;
use crate::answer::{AsOf, with_as_of};
use crate::api::{Call, Inner, Reply, now_ms};
use crate::connection::Link;
use crate::error::{ApiError, Code};
use crate::options::{LIVE_DECAY_INTERVAL, LIVE_HEARTBEAT, LIVE_RETRY_MS};
use crate::question::{Ask, Fields, Question, Seen};

pub(crate) async fn live(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call).await?;
    let place = Arc::clone(&inner.streams).try_acquire_owned().map_err(|_| {
        let most = inner.parts.options.live_streams_max;
        ApiError::new(
            Code::Overloaded,
            format!("{most} streams of changes are open, and no more are allowed"),
            "try again when others have ended, or poll GET /v1/rooms/{room}; query.live_streams_max limits them",
        )
    })?;
    let ask = Ask::Room { app, room: call.key.clone() };
    let (fields, seen) = inner.ask_key(Topic::Room, app, &call, ask).await?;
    call.link.go_live();
    inner.parts.metrics.streams(1);
    let now = Instant::now();
    let stream = Stream {
        first: Some((fields, seen)),
        question: Question {
            partition: inner.partition_of(Topic::Room, app, &call.key),
            at_ms: 0,
            ask: Ask::Room { app, room: call.key },
        },
        told: Told::Nothing,
        decay_at: now,
        look_at: now + inner.parts.options.live_interval(),
        heartbeat_at: now + LIVE_HEARTBEAT,
        link: call.link,
        inner,
        _place: place,
    };
    let events = futures_util::stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<Bytes, Infallible>(event), stream))
    });
    Ok(Reply::Plain(response(Body::from_stream(events))))
}

fn response(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // nginx would hold events back until it has a buffer full of them.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// What a client was told last.
enum Told {
    Nothing,
    /// These fields.
    Fields {
        all: String,
        without_heat: String,
    },
    /// That the room cannot be read now.
    Failure(ApiError),
}

/// One client's stream.
struct Stream {
    inner: Arc<Inner>,
    question: Question,
    /// What was read before the stream began.
    first: Option<(Fields, Seen)>,
    told: Told,
    /// When to look for a change.
    look_at: Instant,
    /// When to tell that heat alone changed.
    decay_at: Instant,
    heartbeat_at: Instant,
    link: Link,
    /// Its place among the streams, given back with it.
    _place: OwnedSemaphorePermit,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.inner.parts.metrics.streams(-1);
    }
}

impl Stream {
    /// The next bytes to send; nothing when the server stops.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some((fields, seen)) = self.first.take() {
            let event = self.changed(fields, seen)?;
            return Some(self.sent(format!("retry: {LIVE_RETRY_MS}\n{event}")));
        }
        loop {
            let until = self.look_at.min(self.heartbeat_at);
            tokio::select! {
                () = self.link.stopped() => return None,
                () = tokio::time::sleep_until(until) => {}
            }
            if Instant::now() >= self.look_at {
                let found = tokio::select! {
                    () = self.link.stopped() => return None,
                    found = self.look() => found,
                };
                self.look_at = Instant::now() + self.inner.parts.options.live_interval();
                let event = match found {
                    Ok((fields, seen)) => self.changed(fields, seen),
                    Err(error) => self.failed(error),
                };
                if let Some(event) = event {
                    return Some(self.sent(event));
                }
            }
            if Instant::now() >= self.heartbeat_at {
                return Some(self.sent(":\n\n".to_owned()));
            }
        }
    }

    async fn look(&self) -> Result<(Fields, Seen), ApiError> {
        let question = Question { at_ms: now_ms(), ..self.question.clone() };
        let answered = Box::pin(self.inner.parts.owners.ask(question)).await;
        answered.map_err(|failure| failure.error)?.into_fields()
    }

    fn sent(&mut self, text: String) -> Bytes {
        self.heartbeat_at = Instant::now() + LIVE_HEARTBEAT;
        self.inner.parts.metrics.streamed();
        text.into()
    }

    /// The event of these fields, if there is anything to tell that was not told last.
    fn changed(&mut self, fields: Fields, seen: Seen) -> Option<String> {
        let without_heat = fields.text_without(HEAT);
        let text = fields.into_text();
        let now = Instant::now();
        if let Told::Fields { all, without_heat: told } = &self.told
            && (text == *all || without_heat == *told && now < self.decay_at)
        {
            return None;
        }
        self.decay_at = now + LIVE_DECAY_INTERVAL;
        let as_of = AsOf::of(&[seen], seen.at_ms);
        let event = event("room", &with_as_of(text.clone(), &as_of));
        self.told = Told::Fields { all: text, without_heat };
        Some(event)
    }

    /// The event that says that the room cannot be read now, once as long as it lasts.
    fn failed(&mut self, error: ApiError) -> Option<String> {
        let ApiError { code, message, hint } = &error;
        let text = json!({ "error": { "code": code.as_str(), "message": message, "hint": hint } }).to_string();
        let same = matches!(&self.told, Told::Failure(told) if told.code == error.code);
        self.told = Told::Failure(error);
        (!same).then(|| event("unavailable", &text))
    }
}

/// An event; `data` holds no line break, as no JSON text of ours does.
fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

//! From a request to its answer: what both interfaces share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use barrage_log::{AppendError, Positions};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use tokio::time::Instant;

use crate::admission::{Admission, Permit};
use crate::appender::{Appended, Appender};
use crate::auth::{ApiKeys, Key, Signatures, StreamSignatures};
use crate::clock::Clock;
use crate::connection::ConnectionState;
use crate::metrics::Metrics;
use crate::options::{IngestOptions, ms};
use crate::refusal::{Refusal, Rejection};
use crate::reply::{self, Body};
use crate::rules_handle::RulesHandle;

/// Path of IM's callbacks.
const CALLBACK_PATH: &str = "/callback";

/// Path of business events.
const EVENTS_PATH: &str = "/v1/events";

/// Header with which a caller who holds an API key states the time of receipt, ms since the epoch.
pub const RECEIVED_AT_HEADER: &str = "barrage-received-at";

/// Latest time of receipt that can be stated: the end of the year 9999, ms.
const RECEIVED_AT_MS_MAX: i64 = 253_402_300_799_999;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) appender: Arc<Appender>,
    pub(crate) rules: RulesHandle,
    pub(crate) metrics: Metrics,
    pub(crate) signatures: Signatures,
    pub(crate) stream_signatures: StreamSignatures,
    pub(crate) events_max: usize,
    pub(crate) append_budget: Duration,
    clock: Arc<dyn Clock>,
    keys: ApiKeys,
    apps: Vec<u32>,
    admission: Admission,
    body_bytes_max: usize,
    stopping: AtomicBool,
}

/// When a request was received, and whether its sender holds a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipt {
    pub(crate) at_ms: i64,
    /// The same by this machine's clock alone.
    pub(crate) own_ms: i64,
    /// Stated by the sender, not by our clock.
    pub(crate) stated: bool,
    pub(crate) key: Key,
}

impl Service {
    pub(crate) fn new(
        options: IngestOptions,
        appender: Arc<Appender>,
        rules: RulesHandle,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let admission = Admission::new(
            metrics.in_flight_requests(),
            options.requests_in_flight_max,
            metrics.in_flight_bytes(),
            options.bytes_in_flight_max,
        );
        Self {
            signatures: Signatures::new(&options),
            stream_signatures: StreamSignatures::new(&options),
            keys: ApiKeys::new(&options.api_keys),
            events_max: options.events_max,
            append_budget: ms(options.append_budget_ms),
            body_bytes_max: options.body_bytes_max,
            apps: options.apps,
            appender,
            rules,
            metrics,
            clock,
            admission,
            stopping: AtomicBool::new(false),
        }
    }

    /// From now on answers tell clients that the connection closes.
    pub(crate) fn announce_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Answers one request.
    pub(crate) async fn handle(&self, request: Request<Incoming>, connection: &ConnectionState) -> Response<Body> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let mut response = match parts.uri.path() {
            EVENTS_PATH => self.events(&parts, body, connection).await,
            CALLBACK_PATH => self.callback(&parts, body, connection).await,
            _ => self.wrong_path(),
        };
        connection.request_ends();
        if self.stopping.load(Ordering::Relaxed) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.metrics.observe_request(started.elapsed());
        response
    }

    /// IM's shape, since what most likely went wrong is the URL in IM's console.
    fn wrong_path(&self) -> Response<Body> {
        self.metrics.callbacks().begin().reject(Refusal::WrongPath);
        reply::im_refusal(&Refusal::WrongPath.into())
    }

    /// When the request was received: now, or when its sender says so and may.
    pub(crate) fn receipt(&self, headers: &HeaderMap) -> Result<Receipt, Rejection> {
        let key = self.keys.check(headers.get(AUTHORIZATION).map(HeaderValue::as_bytes));
        let Some(stated) = headers.get(RECEIVED_AT_HEADER) else {
            return Ok(Receipt { at_ms: self.clock.now_ms(), own_ms: self.clock.own_ms(), stated: false, key });
        };
        require(key)?;
        let digits = stated.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let at_ms = digits.and_then(|text| text.parse().ok()).filter(|at| (0..=RECEIVED_AT_MS_MAX).contains(at));
        at_ms
            .map(|at_ms| Receipt { at_ms, own_ms: at_ms, stated: true, key })
            .ok_or_else(|| Refusal::BadReceivedAt.into())
    }

    /// Refuses apps that are not on the allow-list.
    pub(crate) fn check_app(&self, app: u32) -> Result<(), Rejection> {
        if self.apps.is_empty() || self.apps.contains(&app) {
            return Ok(());
        }
        Err(Rejection::new(Refusal::UnknownApp, app))
    }

    /// The app of what names none: the only one on the allow-list.
    pub(crate) fn only_app(&self) -> Option<u32> {
        if let [only] = self.apps[..] { Some(only) } else { None }
    }

    /// Lets the request in, or turns it away before its body is read.
    pub(crate) fn admit(&self, body: &Incoming) -> Result<Permit<'_>, Rejection> {
        // Without a declared length room is made as the body arrives.
        let declared = body.size_hint().exact().unwrap_or_default();
        let bytes = usize::try_from(declared).unwrap_or(usize::MAX);
        if bytes > self.body_bytes_max {
            return Err(self.too_large());
        }
        self.admission.enter(bytes).ok_or_else(|| Refusal::Overloaded.into())
    }

    fn too_large(&self) -> Rejection {
        Rejection::new(Refusal::TooLarge, format_args!("at most {} bytes", self.body_bytes_max))
    }

    /// Reads the whole body. One that arrives in one piece is not copied.
    pub(crate) async fn read(
        &self,
        mut body: Incoming,
        permit: &mut Permit<'_>,
        connection: &ConnectionState,
    ) -> Result<Bytes, Rejection> {
        connection.body_begins();
        let mut whole = Bytes::new();
        let mut pieces = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| match connection.body_timed_out() {
                true => Refusal::BodyTimeout,
                false => Refusal::Truncated,
            })?;
            // Trailers say nothing about a callback.
            let Ok(data) = frame.into_data() else { continue };
            let length = whole.len() + pieces.len() + data.len();
            if length > self.body_bytes_max {
                return Err(self.too_large());
            }
            if length > permit.bytes() {
                permit.grow(length - permit.bytes()).ok_or(Refusal::Overloaded)?;
            }
            if pieces.is_empty() && whole.is_empty() {
                whole = data;
                continue;
            }
            if pieces.is_empty() {
                pieces.reserve(permit.bytes());
                pieces.extend_from_slice(&std::mem::take(&mut whole));
            }
            pieces.extend_from_slice(&data);
        }
        connection.body_is_here();
        Ok(if pieces.is_empty() { whole } else { pieces.freeze() })
    }
}

impl Service {
    /// Waits until an event is durable; `None` when that takes longer than the budget.
    pub(crate) async fn durable(
        &self,
        append: Appended,
        connection: &ConnectionState,
    ) -> Option<Result<Positions, AppendError>> {
        connection.in_time(append.ack, Instant::now() + self.append_budget).await
    }
}

/// Refuses who holds no key.
pub(crate) fn require(key: Key) -> Result<(), Rejection> {
    match key {
        Key::Valid => Ok(()),
        Key::Absent => Err(Refusal::KeyMissing.into()),
        Key::Wrong => Err(Refusal::KeyWrong.into()),
    }
}

/// Refuses other methods.
pub(crate) fn require_post(parts: &Parts) -> Result<(), Rejection> {
    if parts.method == Method::POST { Ok(()) } else { Err(Refusal::WrongMethod.into()) }
}

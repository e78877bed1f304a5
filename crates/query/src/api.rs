//! The service: the router and the way of a request through it.
//!
//! Every request takes the same way: key, parameters, body, the wait for `at_least`, a place among the requests at
//! work, the handler, and a metric. Handlers see only what passed.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter};
use barrage_event::{Offset, Partition, Position, Topic};
use futures_util::StreamExt as _;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use crate::answer::Answer;
use crate::apps::Apps;
use crate::connection::Link;
use crate::error::{ApiError, Code};
use crate::metrics::{Metrics, OTHER_ROUTE};
use crate::options::{BODY_BYTES_MAX, BODY_TIMEOUT, KEY_BYTES_MAX, QueryOptions, WAITS_AT_ONCE};
use crate::owners::{Owners, Shape};
use crate::params::Params;
use crate::question::{Ask, Fields, Found, Question, Seen};
use crate::routes::{Operation, ROUTES};
use crate::rules::RulesControl;
use crate::server::ServerLimits;

/// Trims the log: the new start of every partition, or why nothing was given up. It blocks.
pub type Trim = Arc<dyn Fn() -> Result<Vec<(Partition, Offset)>, String> + Send + Sync>;
/// The spools that this process knows of, as an answer shows them; null where there is none.
pub type Spools = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What only some processes have.
#[derive(Clone, Default)]
pub struct Around {
    /// Trims the log, where Barrage may.
    pub trim: Option<Trim>,
    /// The spools.
    pub spools: Option<Spools>,
}

impl fmt::Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trim, spools } = self;
        f.debug_struct("Around").field("trim", &trim.is_some()).field("spools", &spools.is_some()).finish()
    }
}

/// Everything that the service is made of.
pub struct ApiParts {
    /// What is read, wherever it is.
    pub owners: Arc<Owners>,
    /// The rules of this process.
    pub rules: Arc<dyn RulesControl>,
    /// The `SdkAppid`s that are configured; when there are none, those that the partitions have seen count. `app=` may
    /// be left out when there is exactly one.
    pub apps: Vec<u32>,
    /// The key that commands need.
    pub api_key: String,
    /// Limits.
    pub options: QueryOptions,
    /// Metrics.
    pub metrics: Metrics,
    /// What only some processes have.
    pub around: Around,
}

impl fmt::Debug for ApiParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiParts").field("owners", &self.owners).field("options", &self.options).finish_non_exhaustive()
    }
}

/// The service; cheap to clone.
#[derive(Debug, Clone)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) parts: ApiParts,
    apps: Apps,
    requests: Semaphore,
    commands: Semaphore,
    /// Places of the streams of changes.
    pub(crate) streams: Arc<Semaphore>,
}

/// A request that passed every check.
#[derive(Debug)]
pub(crate) struct Call {
    /// `{room}` or `{account}` of the path.
    pub(crate) key: String,
    pub(crate) params: Params,
    /// The time asked for, in ms since the epoch.
    pub(crate) at_ms: i64,
    /// Whether `at=` was there.
    pub(crate) at_given: bool,
    /// The connection that it came over.
    pub(crate) link: Link,
    /// `Content-Type` of the body.
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
}

/// What a handler answers.
#[derive(Debug)]
pub(crate) enum Reply {
    Answer(Answer),
    /// A response that rests on no partition.
    Plain(Response),
}

impl Api {
    /// The service over these parts.
    #[must_use]
    pub fn new(parts: ApiParts) -> Self {
        let permits = |n: u32| Semaphore::new(usize::try_from(n).unwrap_or(Semaphore::MAX_PERMITS));
        let requests = permits(parts.options.requests_in_flight_max);
        let apps = Apps::new(parts.apps.clone());
        let streams = Arc::new(permits(parts.options.live_streams_max));
        Self(Arc::new(Inner { parts, apps, requests, commands: Semaphore::new(COMMANDS_AT_ONCE), streams }))
    }

    /// Limits for [`crate::serve`].
    #[must_use]
    pub fn limits(&self) -> ServerLimits {
        let options = &self.0.parts.options;
        ServerLimits {
            connections_max: options.connections_max,
            header_timeout: Duration::from_millis(options.header_timeout_ms),
            write_timeout: Duration::from_millis(options.write_timeout_ms),
        }
    }

    /// The router over every path of the service.
    pub fn router(&self) -> Router {
        let mut router = Router::new();
        for route in ROUTES {
            let mut methods = MethodRouter::new();
            for operation in route.operations {
                let api = self.clone();
                let filter = if operation.method == Method::POST { MethodFilter::POST } else { MethodFilter::GET };
                let handler = move |path: Result<RawPathParams, RawPathParamsRejection>, request: Request| async move {
                    api.run(route.pattern, operation, path, request).await
                };
                methods = methods.on(filter, handler);
            }
            let api = self.clone();
            methods = methods.fallback(move |request: Request| async move {
                let allowed: Vec<&str> = route.operations.iter().map(|o| o.method.as_str()).collect();
                let message = format!("{} is not for {}", request.method(), route.pattern);
                let error = ApiError::new(Code::MethodNotAllowed, message, format!("use {}", allowed.join(" or ")));
                let mut response = error.into_response();
                if let Ok(value) = HeaderValue::from_str(&allowed.join(", ")) {
                    response.headers_mut().insert(header::ALLOW, value);
                }
                api.0.parts.metrics.observe(route.pattern, response.status().as_u16(), Duration::ZERO);
                response
            });
            router = router.route(route.pattern, methods);
        }
        let api = self.clone();
        router.fallback(move |request: Request| async move {
            let path: String = request.uri().path().chars().take(200).collect();
            let hint = "GET /openapi.json describes every path; `#` in a room is written %23 and `/` %2F";
            let response = ApiError::new(Code::UnknownRoute, format!("there is no {path}"), hint).into_response();
            api.0.parts.metrics.observe(OTHER_ROUTE, response.status().as_u16(), Duration::ZERO);
            response
        })
    }

    async fn run(
        &self,
        pattern: &'static str,
        operation: &'static Operation,
        path: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Response {
        let start = Instant::now();
        let headers = request.headers().clone();
        let response = match self.answer(operation, path, request).await {
            Ok(Reply::Answer(answer)) => answer.into_response(&headers),
            Ok(Reply::Plain(response)) => response,
            Err(error) => error.into_response(),
        };
        self.0.parts.metrics.observe(pattern, response.status().as_u16(), start.elapsed());
        response
    }

    async fn answer(
        &self,
        operation: &'static Operation,
        path: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Result<Reply, ApiError> {
        let inner = &self.0;
        let key = path_key(path)?;
        if operation.needs_key {
            inner.check_api_key(request.headers())?;
        }
        let params = Params::parse(request.uri().query().unwrap_or_default(), &operation.parameters())?;
        let at = params.time("at")?;
        let at_least = params.at_least()?;
        let content_type = header_text(request.headers(), &header::CONTENT_TYPE);
        let link = request.extensions().get::<Link>().cloned().unwrap_or_default();
        let body = if operation.method == Method::POST { read_body(request).await? } else { Vec::new() };
        inner.wait_for(&at_least).await?;
        let _place = inner.requests.try_acquire().map_err(|_| {
            ApiError::new(
                Code::Overloaded,
                "too many requests are at work",
                "try again; query.requests_in_flight_max limits it",
            )
        })?;
        let _counted = InFlight::enter(&inner.parts.metrics);
        let at_ms = at.unwrap_or_else(now_ms);
        let call = Call { key, params, at_ms, at_given: at.is_some(), link, content_type, body };
        (operation.handler)(Arc::clone(inner), call).await
    }
}

/// Counts one request at work until it is dropped, also when the client goes away.
struct InFlight<'m>(&'m Metrics);

impl<'m> InFlight<'m> {
    fn enter(metrics: &'m Metrics) -> Self {
        metrics.in_flight(1);
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight(-1);
    }
}

impl Inner {
    fn check_api_key(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let given = header_text(headers, &header::AUTHORIZATION);
        let given = given.strip_prefix("Bearer ").map_or("", str::trim);
        let key = self.parts.api_key.as_bytes();
        if !key.is_empty() && bool::from(given.as_bytes().ct_eq(key)) {
            return Ok(());
        }
        let message =
            if given.is_empty() { "this command needs the API key" } else { "the API key is not this server's" };
        let hint = "send `Authorization: Bearer KEY`; the key is BARRAGE_API_KEY of the server, or in `api-key` of its data \
                    directory";
        Err(ApiError::new(Code::Unauthorized, message, hint))
    }

    /// Waits until every position is in the committed numbers.
    async fn wait_for(&self, positions: &[Position]) -> Result<(), ApiError> {
        if positions.is_empty() {
            return Ok(());
        }
        let shape = self.shape();
        for Position { partition, .. } in positions {
            let count = shape.partitions(partition.topic);
            if partition.index >= count {
                let hint = format!("{} has {count} partitions", partition.topic.name());
                return Err(ApiError::parameter("at_least", format!("there is no partition {partition}"), hint));
            }
        }
        let deadline = Instant::now() + self.parts.options.at_least_wait();
        let mut waits = futures_util::stream::iter(positions.to_vec())
            .map(|position| Box::pin(self.wait_for_one(position, deadline)))
            .buffered(WAITS_AT_ONCE);
        while let Some(waited) = waits.next().await {
            waited?;
        }
        Ok(())
    }

    async fn wait_for_one(&self, position: Position, deadline: Instant) -> Result<(), ApiError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let ask = Ask::WaitFor { offset: position.offset, timeout_ms };
        let question = Question { partition: position.partition, at_ms: 0, ask };
        match self.parts.owners.ask(question).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(not_yet(position, &failure.error.message)),
        }
    }

    /// How many partitions there are.
    pub(crate) fn shape(&self) -> Shape {
        self.parts.owners.shape()
    }

    /// The application that a call is about.
    pub(crate) async fn app(&self, call: &Call) -> Result<u32, ApiError> {
        if let Some(app) = call.params.app()? {
            return Ok(app);
        }
        match *self.apps.known(&self.parts.owners).await? {
            [app] => Ok(app),
            [] => Err(ApiError::new(
                Code::AppNeeded,
                "no SdkAppid is configured and none was seen yet",
                "name one with app=; or send a callback first",
            )),
            ref apps => {
                let list: Vec<String> = apps.iter().take(10).map(u32::to_string).collect();
                let message = format!("there are several SdkAppids: {}", list.join(", "));
                Err(ApiError::new(Code::AppNeeded, message, "name one with app="))
            }
        }
    }

    /// Asks the partition that owns the key of a call.
    pub(crate) async fn ask_key(
        &self,
        topic: Topic,
        app: u32,
        call: &Call,
        ask: Ask,
    ) -> Result<(Fields, Seen), ApiError> {
        self.ask_partition(topic, app, call, ask).await?.into_fields()
    }

    /// As [`Self::ask_key`], for whatever is answered.
    pub(crate) async fn ask_partition(&self, topic: Topic, app: u32, call: &Call, ask: Ask) -> Result<Found, ApiError> {
        let question = Question { partition: self.partition_of(topic, app, &call.key), at_ms: call.at_ms, ask };
        self.parts.owners.ask(question).await.map_err(|failure| failure.error)
    }

    /// The partition that owns a key.
    pub(crate) fn partition_of(&self, topic: Topic, app: u32, key: &str) -> Partition {
        let index = barrage_event::routes::partition_of(app, key, self.shape().partitions(topic));
        Partition { topic, index }
    }

    /// Does work that blocks, as commands about rules do, where it stops nobody else.
    pub(crate) async fn block<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // The semaphore is never closed; waiting is bounded by the requests at work.
        let _place = self.commands.acquire().await.map_err(ApiError::unavailable)?;
        let inner = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(ApiError::failed(format!("a command did not finish: {error}"))))
    }
}

/// Commands that block, at work at once.
const COMMANDS_AT_ONCE: usize = 4;

fn not_yet(position: Position, error: &str) -> ApiError {
    ApiError::new(
        Code::NotYet,
        format!("{position} is not in the numbers yet: {error}"),
        "try again with the same at_least; GET /v1/status tells how far each partition is",
    )
}

fn path_key(path: Result<RawPathParams, RawPathParamsRejection>) -> Result<String, ApiError> {
    let bad = |message: String| ApiError::new(Code::BadParameter, message, "percent-encode the path as UTF-8");
    let path = path.map_err(|error| bad(format!("the path cannot be read: {error}")))?;
    let key = path.iter().next().map_or_else(String::new, |(_, value)| value.to_owned());
    if key.len() > KEY_BYTES_MAX {
        return Err(bad(format!("the path names something longer than {KEY_BYTES_MAX} bytes")));
    }
    Ok(key)
}

fn header_text(headers: &HeaderMap, name: &header::HeaderName) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

async fn read_body(request: Request) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let message = format!("the body is larger than {BODY_BYTES_MAX} bytes");
        ApiError::new(Code::BodyTooLarge, message, "split it, or leave out what is not needed")
    };
    let declared = header_text(request.headers(), &header::CONTENT_LENGTH).parse::<usize>().unwrap_or(0);
    if declared > BODY_BYTES_MAX {
        return Err(too_large());
    }
    let read: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(limited(request.into_body()));
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::new(Code::BadBody, format!("the body broke off: {error}"), "send it again")),
        Err(_) => Err(ApiError::new(Code::RequestTimeout, "the body did not arrive in time", "send it in one go")),
    }
}

/// The body, or nothing when it is larger than allowed.
async fn limited(mut body: Body) -> Result<Option<Vec<u8>>, axum::Error> {
    use http_body_util::BodyExt as _;
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if bytes.len() + data.len() > BODY_BYTES_MAX {
                return Ok(None);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Some(bytes))
}

/// The machine's clock, in ms since the epoch.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

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
use barrage_event::{Partition, Position, Topic};
use barrage_worker::Stores;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use crate::answer::{Answer, Seen, View};
use crate::error::{ApiError, Code};
use crate::metrics::{Metrics, OTHER_ROUTE};
use crate::options::{BODY_BYTES_MAX, BODY_TIMEOUT, KEY_BYTES_MAX, QueryOptions};
use crate::params::Params;
use crate::routes::{Operation, ROUTES};
use crate::rules::RulesControl;
use crate::server::ServerLimits;

/// Everything that the service is made of.
pub struct ApiParts {
    /// What is read.
    pub stores: Stores,
    /// The rules of this process.
    pub rules: Arc<dyn RulesControl>,
    /// The `SdkAppid`s that are configured or were seen; `app=` may be left out when there is exactly one.
    pub apps: Arc<dyn Fn() -> Vec<u32> + Send + Sync>,
    /// The key that commands need.
    pub api_key: String,
    /// How this process calls itself as the owner of partitions.
    pub owner: String,
    /// Limits.
    pub options: QueryOptions,
    /// Metrics.
    pub metrics: Metrics,
}

impl fmt::Debug for ApiParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiParts").field("owner", &self.owner).field("options", &self.options).finish_non_exhaustive()
    }
}

/// The service; cheap to clone.
#[derive(Debug, Clone)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) parts: ApiParts,
    requests: Semaphore,
    scans: Semaphore,
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
        let scans = permits(parts.options.scans_in_flight_max);
        Self(Arc::new(Inner { parts, requests, scans }))
    }

    /// Limits for [`crate::serve`].
    #[must_use]
    pub fn limits(&self) -> ServerLimits {
        let options = &self.0.parts.options;
        ServerLimits {
            connections_max: options.connections_max,
            header_timeout: Duration::from_millis(options.header_timeout_ms),
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
        let call = Call { key, params, at_ms: at.unwrap_or_else(now_ms), at_given: at.is_some(), content_type, body };
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
        let deadline = Instant::now() + self.parts.options.at_least_wait();
        for position in positions {
            let Position { partition, .. } = *position;
            if partition.index >= self.partitions(partition.topic) {
                let hint = format!("{} has {} partitions", partition.topic.name(), self.partitions(partition.topic));
                return Err(ApiError::parameter("at_least", format!("there is no partition {partition}"), hint));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.parts.stores.wait_for(*position, left).await.map_err(|error| not_yet(*position, &error))?;
        }
        Ok(())
    }

    /// Number of partitions of a topic.
    pub(crate) fn partitions(&self, topic: Topic) -> u16 {
        self.parts.stores.log().partitions(topic)
    }

    /// Every partition of a topic.
    pub(crate) fn all_of(&self, topic: Topic) -> impl Iterator<Item = Partition> + use<> {
        (0..self.partitions(topic)).map(move |index| Partition { topic, index })
    }

    /// The application that a call is about.
    pub(crate) fn app(&self, call: &Call) -> Result<u32, ApiError> {
        if let Some(app) = call.params.app()? {
            return Ok(app);
        }
        match *(self.parts.apps)() {
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

    /// Reads the partition that owns the key of a call.
    pub(crate) fn read_key<T>(
        &self,
        topic: Topic,
        app: u32,
        call: &Call,
        work: impl FnOnce(&View<'_>) -> Result<T, ApiError>,
    ) -> Result<(T, Seen), ApiError> {
        let index = barrage_event::routes::partition_of(app, &call.key, self.partitions(topic));
        crate::answer::read(&self.parts.stores, Partition { topic, index }, call.at_ms, work)
    }

    /// Does work that walks over many rows where it stops nobody else.
    pub(crate) async fn scan<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // The semaphore is never closed; waiting is bounded by the requests at work.
        let _place = self.scans.acquire().await.map_err(ApiError::unavailable)?;
        let inner = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(ApiError::failed(format!("a read did not finish: {error}"))))
    }
}

fn not_yet(position: Position, error: &barrage_worker::Unavailable) -> ApiError {
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

//! Metrics and health: `/metrics`, `/livez`, `/readyz`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use barrage_log::Health;
use barrage_worker::{PartitionStatus, Phase, Stores};
use prometheus_client::registry::Registry;

use crate::options::{ADMIN_CONNECTIONS_MAX, AdminOptions};
use crate::server::ServerLimits;

/// How long `/livez` waits for the partitions' state: a process that cannot even tell it is stuck.
const LIVE_WAIT: Duration = Duration::from_secs(2);
/// Form of `/metrics`, which is what the encoder writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether this process should get requests, with the reasons when it should not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// One sentence each; empty when ready.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Judges from the log's health and the partitions' state.
    #[must_use]
    pub fn judge(health: &Health, partitions: &[PartitionStatus], options: &AdminOptions) -> Self {
        let mut reasons = Vec::new();
        match health {
            Health::Ready => {}
            Health::Impaired { reason } => reasons.push(format!("the log is impaired: {reason}")),
            Health::Failed { reason } => reasons.push(format!("the log failed and takes nothing: {reason}")),
            Health::Closed => reasons.push("the log is closed".to_owned()),
        }
        for status in partitions {
            let partition = status.partition;
            match &status.phase {
                Phase::Live => {
                    let lag = status.end.0.saturating_sub(status.offset.0);
                    if lag > options.ready_lag_records_max {
                        reasons.push(format!(
                            "partition {partition} lags {lag} records behind the log, more than {}",
                            options.ready_lag_records_max
                        ));
                    }
                }
                Phase::Starting => reasons.push(format!("partition {partition} is starting")),
                Phase::Stopped { error } => reasons.push(format!("partition {partition} is stopped: {error}")),
            }
        }
        Self { reasons }
    }
}

/// The admin endpoints; cheap to clone.
#[derive(Clone)]
pub struct Admin {
    registry: Arc<Registry>,
    stores: Stores,
    options: AdminOptions,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Admin {
    /// The endpoints over what was registered and the stores.
    #[must_use]
    pub fn new(registry: Arc<Registry>, stores: Stores, options: AdminOptions) -> Self {
        Self { registry, stores, options }
    }

    /// Limits for [`crate::serve`].
    #[must_use]
    pub fn limits() -> ServerLimits {
        ServerLimits { connections_max: ADMIN_CONNECTIONS_MAX, header_timeout: Duration::from_secs(10) }
    }

    /// The router.
    pub fn router(&self) -> Router {
        let (metrics, live, ready, index) = (self.clone(), self.clone(), self.clone(), "/metrics /livez /readyz\n");
        Router::new()
            .route("/", get(move || async move { index }))
            .route("/metrics", get(move || async move { metrics.metrics() }))
            .route("/livez", get(move || async move { live.live().await }))
            .route("/readyz", get(move || async move { ready.ready() }))
            .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n") })
    }

    fn metrics(&self) -> Response {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            return (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n").into_response();
        }
        let mut response = text.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
        response
    }

    /// Alive: the runtime answers and no lock of the stores is held for ever. A stopped partition or a failed log is not
    /// death: restarting would not mend it, and reads of the other partitions still work.
    async fn live(&self) -> Response {
        let stores = self.stores.clone();
        let asked = tokio::task::spawn_blocking(move || stores.status().len());
        match tokio::time::timeout(LIVE_WAIT, asked).await {
            Ok(Ok(_)) => "alive\n".into_response(),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "the partitions' state cannot be had\n").into_response(),
        }
    }

    fn ready(&self) -> Response {
        let readiness = Readiness::judge(&self.stores.log().health(), &self.stores.status(), &self.options);
        if readiness.reasons.is_empty() {
            return "ready\n".into_response();
        }
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", readiness.reasons.join("\n"))).into_response()
    }
}

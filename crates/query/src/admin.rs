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

use crate::options::{ADMIN_CONNECTIONS_MAX, ADMIN_WRITE_TIMEOUT, AdminOptions};
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

/// What is asked for the health of the log.
type AskHealth = Arc<dyn Fn() -> Health + Send + Sync>;
/// What is asked for the state of this process's partitions. It may block.
type AskPartitions = Arc<dyn Fn() -> Vec<PartitionStatus> + Send + Sync>;
/// What else keeps a process from being ready: one sentence each.
type Check = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The admin endpoints; cheap to clone. A process tells what it has: one without partitions is not judged by any.
#[derive(Clone)]
pub struct Admin {
    registry: Arc<Registry>,
    health: Option<AskHealth>,
    partitions: Option<AskPartitions>,
    checks: Vec<Check>,
    options: AdminOptions,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Admin {
    /// The endpoints over what was registered; ready as long as nothing is added that says otherwise.
    #[must_use]
    pub fn new(registry: Arc<Registry>, options: AdminOptions) -> Self {
        Self { registry, health: None, partitions: None, checks: Vec::new(), options }
    }

    /// Of a process with a log and partitions of it.
    #[must_use]
    pub fn of_stores(self, stores: &Stores) -> Self {
        let (log, stores) = (Arc::clone(stores.log()), stores.clone());
        self.with_health(move || log.health()).with_partitions(move || stores.status())
    }

    /// Ready only while this log takes appends.
    #[must_use]
    pub fn with_health(mut self, health: impl Fn() -> Health + Send + Sync + 'static) -> Self {
        self.health = Some(Arc::new(health));
        self
    }

    /// Ready only while these partitions are live and keep up, alive only while their state can be had.
    #[must_use]
    pub fn with_partitions(mut self, partitions: impl Fn() -> Vec<PartitionStatus> + Send + Sync + 'static) -> Self {
        self.partitions = Some(Arc::new(partitions));
        self
    }

    /// Ready only while this gives no reason against it. It must not block. Several may be added.
    #[must_use]
    pub fn with_check(mut self, check: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// Limits for [`crate::serve`].
    #[must_use]
    pub fn limits() -> ServerLimits {
        ServerLimits {
            connections_max: ADMIN_CONNECTIONS_MAX,
            header_timeout: Duration::from_secs(10),
            write_timeout: ADMIN_WRITE_TIMEOUT,
        }
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
        let Some(partitions) = self.partitions.clone() else { return "alive\n".into_response() };
        let asked = tokio::task::spawn_blocking(move || partitions().len());
        match tokio::time::timeout(LIVE_WAIT, asked).await {
            Ok(Ok(_)) => "alive\n".into_response(),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "the partitions' state cannot be had\n").into_response(),
        }
    }

    /// Whether this process should get requests.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let health = self.health.as_ref().map_or(Health::Ready, |health| health());
        let partitions = self.partitions.as_ref().map(|partitions| partitions()).unwrap_or_default();
        let mut readiness = Readiness::judge(&health, &partitions, &self.options);
        readiness.reasons.extend(self.checks.iter().flat_map(|check| check()));
        readiness
    }

    fn ready(&self) -> Response {
        let readiness = self.readiness();
        if readiness.reasons.is_empty() {
            return "ready\n".into_response();
        }
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", readiness.reasons.join("\n"))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_judged_by_what_it_has() {
        let admin = || Admin::new(Arc::new(Registry::default()), AdminOptions::default());
        let reasons = |admin: Admin| admin.readiness().reasons.join("; ");
        assert_eq!(reasons(admin()), "");
        assert_eq!(reasons(admin().with_health(|| Health::Closed)), "the log is closed");
        let checked = admin().with_check(Vec::new).with_check(|| vec!["the spool is full".to_owned()]);
        assert_eq!(reasons(checked), "the spool is full");
    }
}

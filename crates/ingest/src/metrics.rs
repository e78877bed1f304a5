//! Every metric of this crate.
//!
//! | name | kind | counts |
//! | --- | --- | --- |
//! | `barrage_ingest_received_total` | counter | callbacks, and whatever else came in beside `/v1/events` |
//! | `barrage_ingest_appended_total` | counter | callbacks that were answered as durable |
//! | `barrage_ingest_rejected_total{reason}` | counter | callbacks that were not, by [`Refusal::reason`] or `unrecorded` |
//! | `barrage_ingest_appended_records_total` | counter | records of callbacks and business events that became durable |
//! | `barrage_ingest_untyped_total{reason}` | counter | callbacks kept without a typed event |
//! | `barrage_ingest_verdicts_total{outcome}` | counter | before-callbacks, by what was answered |
//! | `barrage_ingest_events_received_total` | counter | items of `/v1/events`; a refused request counts as one |
//! | `barrage_ingest_events_appended_total` | counter | items that became durable |
//! | `barrage_ingest_events_rejected_total{reason}` | counter | items, and whole requests, that were not |
//! | `barrage_ingest_request_duration_seconds` | histogram | from the end of the head to the answer |
//! | `barrage_ingest_in_flight_requests` | gauge | requests between head and answer |
//! | `barrage_ingest_in_flight_bytes` | gauge | bytes of their bodies |
//! | `barrage_ingest_connections` | gauge | open connections |
//! | `barrage_ingest_connections_accepted_total` | counter | connections that were accepted |
//! | `barrage_ingest_connections_refused_total` | counter | connections closed at once, since there were too many |
//! | `barrage_ingest_connection_errors_total{kind}` | counter | connections that ended with an error |
//! | `barrage_ingest_clock_skew_seconds` | gauge | our clock minus `RequestTime` of the last signed callback |
//! | `barrage_ingest_rules_version` | gauge | version of the rules that are stamped |
//!
//! Conservation: `received = appended + sum(rejected)`, and the same for events. A before-callback that was answered
//! without being durable is counted under `rejected{reason}` too, `not_durable_in_time` or `unrecorded`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use barrage_event::callback::UntypedReason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::refusal::Refusal;

/// Bounds of the request durations, seconds: from half a millisecond to what IM waits for.
const DURATION_BOUNDS_S: [f64; 12] = [0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.5, 1.0, 2.0];

/// Labels of [`UntypedReason`], so that each shows as 0 before it happens.
const UNTYPED: [&str; 5] = ["unknown_command", "not_typed", "field", "fields", "too_large"];

/// `reason` of a before-callback whose decision stands although the log could not take it.
const UNRECORDED: &str = "unrecorded";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// What a before-callback was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VerdictOutcome {
    Allowed,
    Rejected,
    Dropped,
    /// Answered as decided, although the record was not durable inside the budget.
    PastBudget,
    /// Allowed, since the log did not take the record.
    Unrecorded,
}

impl VerdictOutcome {
    const ALL: [Self; 5] = [Self::Allowed, Self::Rejected, Self::Dropped, Self::PastBudget, Self::Unrecorded];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Rejected => "rejected",
            Self::Dropped => "dropped",
            Self::PastBudget => "past_budget",
            Self::Unrecorded => UNRECORDED,
        }
    }
}

/// How a connection ended when it did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionError {
    /// Not HTTP, or a head beyond the limits.
    Malformed,
    /// A head, a silence or a write took too long.
    Timeout,
    /// The other side went away, or the network failed.
    Broken,
    /// Still busy at the end of the stop deadline.
    Stopped,
}

impl ConnectionError {
    const ALL: [Self; 4] = [Self::Malformed, Self::Timeout, Self::Broken, Self::Stopped];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Stopped => "stopped",
        }
    }
}

/// The metrics of ingest. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    callbacks: Flow,
    events: Flow,
    appended_records: Counter,
    /// In the order of [`UNTYPED`].
    untyped: [Counter; UNTYPED.len()],
    verdicts: Vec<Counter>,
    request_duration: Histogram,
    in_flight_requests: Gauge,
    in_flight_bytes: Gauge,
    connections: Gauge,
    connections_accepted: Counter,
    connections_refused: Counter,
    connection_errors: Vec<Counter>,
    clock_skew: Gauge<f64, AtomicU64>,
    skew_warned_ms: AtomicI64,
    rules_version: Gauge,
}

/// Counters of one conserved flow.
#[derive(Debug)]
pub(crate) struct Flow {
    received: Counter,
    appended: Counter,
    /// In the order of [`Refusal::ALL`].
    rejected: Vec<Counter>,
    unrecorded: Counter,
}

impl Flow {
    fn register(registry: &mut Registry, prefix: &str, what: &str) -> Self {
        let rejected = Family::<Reason, Counter>::default();
        let flow = Self {
            received: Counter::default(),
            appended: Counter::default(),
            // Made here, so that each shows as 0 before it happens, and none is looked up later.
            rejected: Refusal::ALL
                .iter()
                .map(|r| rejected.get_or_create_owned(&Reason { reason: r.reason() }))
                .collect(),
            unrecorded: rejected.get_or_create_owned(&Reason { reason: UNRECORDED }),
        };
        registry.register(format!("{prefix}received"), format!("{what} that came in"), flow.received.clone());
        registry.register(format!("{prefix}appended"), format!("{what} answered as durable"), flow.appended.clone());
        registry.register(format!("{prefix}rejected"), format!("{what} not recorded as asked, by reason"), rejected);
        flow
    }

    /// Counts one that came in, and makes sure that it is counted once more: as appended or as rejected.
    pub(crate) fn begin(&self) -> Tally<'_> {
        self.received.inc();
        Tally { flow: self, open: 1 }
    }

    fn reject(&self, refusal: Refusal) {
        if let Some(counter) = self.rejected.get(refusal.index()) {
            counter.inc();
        }
    }
}

/// What came in with one request and is not settled yet. What is still open when it is dropped was aborted.
#[derive(Debug)]
pub(crate) struct Tally<'a> {
    flow: &'a Flow,
    open: u64,
}

impl Tally<'_> {
    /// The request holds this many; it was counted as one so far.
    pub(crate) fn expect(&mut self, items: usize) {
        let items = u64::try_from(items).unwrap_or(u64::MAX).max(1);
        self.flow.received.inc_by(items - 1);
        self.open = items;
    }

    /// One was answered as durable.
    pub(crate) fn append(&mut self) {
        self.flow.appended.inc();
        self.open -= 1;
    }

    /// One was not.
    pub(crate) fn reject(&mut self, refusal: Refusal) {
        self.flow.reject(refusal);
        self.open -= 1;
    }

    /// One was answered although the log did not take it.
    pub(crate) fn leave_unrecorded(&mut self) {
        self.flow.unrecorded.inc();
        self.open -= 1;
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        for _ in 0..self.open {
            self.flow.reject(Refusal::Aborted);
        }
    }
}

impl Metrics {
    /// Makes the metrics and enters them into `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let own = registry.sub_registry_with_prefix("barrage_ingest");
        let untyped = Family::<Reason, Counter>::default();
        let verdicts = Family::<OutcomeLabel, Counter>::default();
        let errors = Family::<Kind, Counter>::default();
        let inner = Inner {
            callbacks: Flow::register(own, "", "Callbacks"),
            events: Flow::register(own, "events_", "Business events"),
            appended_records: Counter::default(),
            untyped: UNTYPED.map(|reason| untyped.get_or_create_owned(&Reason { reason })),
            verdicts: VerdictOutcome::ALL
                .iter()
                .map(|o| verdicts.get_or_create_owned(&OutcomeLabel { outcome: o.as_str() }))
                .collect(),
            request_duration: Histogram::new(DURATION_BOUNDS_S),
            in_flight_requests: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            connections_refused: Counter::default(),
            connection_errors: ConnectionError::ALL
                .iter()
                .map(|e| errors.get_or_create_owned(&Kind { kind: e.as_str() }))
                .collect(),
            clock_skew: Gauge::default(),
            skew_warned_ms: AtomicI64::new(i64::MIN),
            rules_version: Gauge::default(),
        };
        own.register("appended_records", "Records that became durable", inner.appended_records.clone());
        own.register("untyped", "Callbacks kept without a typed event, by reason", untyped);
        own.register("verdicts", "Before-callbacks by what was answered", verdicts);
        own.register_with_unit(
            "request_duration",
            "Time from the end of the head to the answer",
            Unit::Seconds,
            inner.request_duration.clone(),
        );
        own.register("in_flight_requests", "Requests between head and answer", inner.in_flight_requests.clone());
        own.register_with_unit("in_flight", "Bodies of requests in flight", Unit::Bytes, inner.in_flight_bytes.clone());
        own.register("connections", "Open connections", inner.connections.clone());
        own.register("connections_accepted", "Connections accepted", inner.connections_accepted.clone());
        own.register(
            "connections_refused",
            "Connections closed at once because there were too many",
            inner.connections_refused.clone(),
        );
        own.register("connection_errors", "Connections that ended with an error, by kind", errors);
        own.register_with_unit(
            "clock_skew",
            "Our clock minus RequestTime of the last signed callback",
            Unit::Seconds,
            inner.clock_skew.clone(),
        );
        own.register("rules_version", "Version of the rules that are stamped", inner.rules_version.clone());
        Self(Arc::new(inner))
    }

    pub(crate) fn callbacks(&self) -> &Flow {
        &self.0.callbacks
    }

    pub(crate) fn events(&self) -> &Flow {
        &self.0.events
    }

    pub(crate) fn appended_records(&self, records: usize) {
        self.0.appended_records.inc_by(u64::try_from(records).unwrap_or(u64::MAX));
    }

    pub(crate) fn untyped(&self, reason: &UntypedReason) {
        let at = UNTYPED.iter().position(|own| *own == reason.label());
        if let Some(counter) = at.and_then(|at| self.0.untyped.get(at)) {
            counter.inc();
        }
    }

    pub(crate) fn verdict(&self, outcome: VerdictOutcome) {
        let at = VerdictOutcome::ALL.iter().position(|own| *own == outcome);
        if let Some(counter) = at.and_then(|at| self.0.verdicts.get(at)) {
            counter.inc();
        }
    }

    pub(crate) fn observe_request(&self, duration: std::time::Duration) {
        self.0.request_duration.observe(duration.as_secs_f64());
    }

    pub(crate) fn in_flight_requests(&self) -> Gauge {
        self.0.in_flight_requests.clone()
    }

    pub(crate) fn in_flight_bytes(&self) -> Gauge {
        self.0.in_flight_bytes.clone()
    }

    pub(crate) fn connection_opened(&self) {
        self.0.connections_accepted.inc();
        self.0.connections.inc();
    }

    pub(crate) fn connection_closed(&self) {
        self.0.connections.dec();
    }

    pub(crate) fn connection_refused(&self) {
        self.0.connections_refused.inc();
    }

    pub(crate) fn connection_error(&self, error: ConnectionError) {
        let at = ConnectionError::ALL.iter().position(|own| *own == error);
        if let Some(counter) = at.and_then(|at| self.0.connection_errors.get(at)) {
            counter.inc();
        }
    }

    pub(crate) fn rules_version(&self, version: u32) {
        self.0.rules_version.set(i64::from(version));
    }

    /// Shows how far our clock is from IM's, and warns about it once a minute.
    pub(crate) fn clock_skew(&self, now_ms: i64, request_time_ms: i64) {
        let skew_ms = now_ms.saturating_sub(request_time_ms);
        // RequestTime is cut to the second, so up to a second behind is no skew.
        let skew_ms = if skew_ms > 0 { skew_ms.saturating_sub(999).max(0) } else { skew_ms };
        #[expect(clippy::cast_precision_loss, reason = "a gauge for people; 2^53 ms are beyond any clock")]
        self.0.clock_skew.set(skew_ms as f64 / 1_000.0);
        if skew_ms.unsigned_abs() <= SKEW_ALARM_MS {
            return;
        }
        let warned = self.0.skew_warned_ms.load(Ordering::Relaxed);
        let due = warned.saturating_add(SKEW_WARNING_EVERY_MS) <= now_ms || warned > now_ms;
        let swap = |now| self.0.skew_warned_ms.compare_exchange(warned, now, Ordering::Relaxed, Ordering::Relaxed);
        if due && swap(now_ms).is_ok() {
            tracing::warn!(
                skew_ms,
                "this machine's clock and IM's RequestTime differ: check NTP; beyond the allowed skew callbacks are refused"
            );
        }
    }
}

/// Skew from which on it is worth a warning, ms.
const SKEW_ALARM_MS: u64 = 10_000;

/// Time between two warnings, ms.
const SKEW_WARNING_EVERY_MS: i64 = 60_000;

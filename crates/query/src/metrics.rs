//! Metrics of the reads. Every name of the crate stands here.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::question::Kind;

/// `barrage_query_requests_total{route,status}`: answers by path pattern and status class.
const REQUESTS: &str = "barrage_query_requests";
/// `barrage_query_request_duration_seconds{route}`: from the request's header to the answer, waits included.
const DURATION: &str = "barrage_query_request_duration";
/// `barrage_query_requests_in_flight`: reads at work now.
const IN_FLIGHT: &str = "barrage_query_requests_in_flight";
/// `barrage_query_live_streams`: streams of changes that are open.
const STREAMS: &str = "barrage_query_live_streams";
/// `barrage_query_live_events_total`: events sent on them, signs of life included.
const STREAMED: &str = "barrage_query_live_events";

/// `barrage_query_owner_questions_total{result}`: questions to other processes, by what became of them.
const OWNER_QUESTIONS: &str = "barrage_query_owner_questions";
/// `barrage_owner_answers_total{result}`: answers to questions of other processes.
const OWNER_ANSWERS: &str = "barrage_owner_answers";

/// 50 µs to 26 s, a factor of two apart: a point read takes microseconds, a wait for a position seconds.
const DURATION_BUCKETS: [f64; 20] = {
    let mut buckets = [50e-6; 20];
    let mut i = 1;
    while i < buckets.len() {
        buckets[i] = buckets[i - 1] * 2.0;
        i += 1;
    }
    buckets
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Routed {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// The `result` of a question.
fn result(failed: Option<Kind>) -> Outcome {
    let result = match failed {
        None => "answered",
        // Also what the client got wrong: the owner did answer.
        Some(Kind::Answer) => "error",
        Some(Kind::NotMine) => "not_mine",
        Some(Kind::Starting) => "starting",
        Some(Kind::Stopped) => "stopped",
        Some(Kind::TimedOut) => "timed_out",
        Some(Kind::Unreachable) => "unreachable",
    };
    Outcome { result }
}

const FAILURES: [Kind; 6] =
    [Kind::Answer, Kind::NotMine, Kind::Starting, Kind::Stopped, Kind::TimedOut, Kind::Unreachable];

/// The metrics of the reads; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<Answered, Counter>,
    duration: Family<Routed, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    streams: Gauge,
    streamed: Counter,
    owner_questions: Family<Outcome, Counter>,
    owner_answers: Family<Outcome, Counter>,
}

/// The route label of requests that fit no route.
pub(crate) const OTHER_ROUTE: &str = "other";

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let new: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS);
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(new),
            in_flight: Gauge::default(),
            streams: Gauge::default(),
            streamed: Counter::default(),
            owner_questions: Family::default(),
            owner_answers: Family::default(),
        };
        registry.register(REQUESTS, "Reads and commands answered", metrics.requests.clone());
        registry.register_with_unit(
            DURATION,
            "Time from a request's header to its answer",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register(IN_FLIGHT, "Reads and commands at work", metrics.in_flight.clone());
        registry.register(STREAMS, "Streams of changes that are open", metrics.streams.clone());
        registry.register(STREAMED, "Events sent on streams of changes", metrics.streamed.clone());
        registry.register(OWNER_QUESTIONS, "Questions to other processes", metrics.owner_questions.clone());
        registry.register(OWNER_ANSWERS, "Answers to other processes", metrics.owner_answers.clone());
        for outcome in FAILURES.into_iter().map(Some).chain([None]) {
            drop(metrics.owner_questions.get_or_create(&result(outcome)));
            drop(metrics.owner_answers.get_or_create(&result(outcome)));
        }
        // Every label value is there from the start, so that the first failure shows in a rate.
        for route in crate::routes::patterns().chain([OTHER_ROUTE]) {
            for status in ["2xx", "3xx", "4xx", "5xx"] {
                drop(metrics.requests.get_or_create(&Answered { route, status }));
            }
        }
        metrics
    }

    pub(crate) fn observe(&self, route: &'static str, status: u16, duration: Duration) {
        let status = match status {
            300..=399 => "3xx",
            400..=499 => "4xx",
            500.. => "5xx",
            _ => "2xx",
        };
        self.requests.get_or_create(&Answered { route, status }).inc();
        self.duration.get_or_create(&Routed { route }).observe(duration.as_secs_f64());
    }

    /// Another process was asked.
    pub(crate) fn asked(&self, failed: Option<Kind>) {
        self.owner_questions.get_or_create(&result(failed)).inc();
    }

    /// Another process was answered.
    pub(crate) fn answered(&self, failed: Option<Kind>) {
        self.owner_answers.get_or_create(&result(failed)).inc();
    }

    /// Streams of changes began or ended.
    pub(crate) fn streams(&self, change: i64) {
        self.streams.inc_by(change);
    }

    /// An event was sent on one.
    pub(crate) fn streamed(&self) {
        self.streamed.inc();
    }

    pub(crate) fn in_flight(&self, change: i64) {
        self.in_flight.inc_by(change);
    }
}

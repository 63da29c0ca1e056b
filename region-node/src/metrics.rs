//! Prometheus metrics: one recorder per process, and handles registered beforehand for the paths that are hot.
//!
//! Names begin with `boxoffice_` and end with their unit. Nothing here is computed by a request.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::Duration;

/// Seconds; from a memory answer to a client that has given up.
const LATENCY_BUCKETS_S: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The process's recorder; made at the first call.
pub fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER
        .get_or_init(|| {
            let builder = PrometheusBuilder::new().set_buckets(&LATENCY_BUCKETS_S).ok()?;
            builder.install_recorder().ok()
        })
        .as_ref()
}

/// Everything measured so far, in Prometheus's text format.
pub fn render() -> String {
    recorder().map(PrometheusHandle::render).unwrap_or_default()
}

/// Keeps the recorder's own buffers small; ends with the process.
pub async fn upkeep() {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        if let Some(recorder) = recorder() {
            recorder.run_upkeep();
        }
    }
}

/// Requests of one kind.
pub struct RouteMetrics {
    by_class: [Counter; 5],
    latency: Histogram,
}

impl RouteMetrics {
    fn new(route: &'static str) -> Self {
        let class =
            |class: &'static str| counter!("boxoffice_http_requests_total", "route" => route, "status" => class);
        Self {
            by_class: [class("1xx"), class("2xx"), class("3xx"), class("4xx"), class("5xx")],
            latency: histogram!("boxoffice_http_request_duration_seconds", "route" => route),
        }
    }

    /// Counts an answer.
    pub fn answered(&self, status: http::StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.by_class[class].increment(1);
        self.latency.record(took.as_secs_f64());
    }
}

/// Handles of one node's HTTP side.
pub struct HttpMetrics {
    /// `POST …/reservations`
    pub join: RouteMetrics,
    /// `GET /v1/reservations/{id}`
    pub status: RouteMetrics,
    /// Every other request.
    pub other: RouteMetrics,
    /// Requests refused at the door.
    pub refused: Counter,
    /// Requests being answered.
    pub inflight: Gauge,
    /// Reservations voided for too many polls.
    pub voided: Counter,
    /// Requests passed on to another region.
    pub passed_on: Counter,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        recorder();
        Self {
            join: RouteMetrics::new("join"),
            status: RouteMetrics::new("status"),
            other: RouteMetrics::new("other"),
            refused: counter!("boxoffice_http_refused_total"),
            inflight: gauge!("boxoffice_http_inflight"),
            voided: counter!("boxoffice_reservations_voided_total"),
            passed_on: counter!("boxoffice_http_passed_on_total"),
        }
    }
}

//! Prometheus metrics: one recorder per process. Names begin with `boxoffice_arbiter_` and end with their unit.

use std::{sync::OnceLock, time::Duration};

use metrics::gauge;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::node::Status;

/// Seconds; from a sync of a fast disk to an election.
const LATENCY_BUCKETS_S: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The process's recorder; made at the first call.
pub fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let recorder = RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets(&LATENCY_BUCKETS_S).ok()?;
        builder.install_recorder().ok()
    });
    recorder.as_ref()
}

/// Everything measured so far, in Prometheus's text format.
pub fn render(status: &Status) -> String {
    gauge!("boxoffice_arbiter_term").set(status.term as f64);
    gauge!("boxoffice_arbiter_applied_index").set(status.applied as f64);
    gauge!("boxoffice_arbiter_leads").set(f64::from(u8::from(status.leads)));
    gauge!("boxoffice_arbiter_leader_known").set(f64::from(u8::from(status.leader.is_some())));
    gauge!("boxoffice_arbiter_recovering").set(f64::from(u8::from(status.recovering)));
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

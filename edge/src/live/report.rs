//! What a region says about its load and stock: pushed to the edge, or read from the region's own status.
//!
//! The pushed form is strict (unknown fields are refused); in a region's status the same object stands under `edge`, among
//! fields that are none of our business.

use serde::{Deserialize, Serialize};

/// Load and stock of one region. All rates are per second, over about the last ten seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Joins that arrived per second, refused ones included.
    pub arrivals_per_s: f64,
    /// Joins per second that the region can take; the configured figure when absent.
    #[serde(default)]
    pub capacity_per_s: Option<f64>,
    /// People waiting in all queues.
    #[serde(default)]
    pub queue: u64,
    /// At how many waiting the region refuses; absent: never.
    #[serde(default)]
    pub queue_max: Option<u64>,
    /// Tickets that can still be had here, over all concerts on sale; absent: not known, or nothing on sale.
    #[serde(default)]
    pub stock: Option<u64>,
}

/// Why a report is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReportError {
    /// Not the JSON of a report.
    #[error("not a report: {0}")]
    Shape(String),
    /// A number that no region can mean.
    #[error("{0} is out of bounds")]
    Bounds(&'static str),
}

impl Report {
    /// Reads a pushed report.
    ///
    /// # Errors
    /// [`ReportError`] naming the field.
    pub fn from_json(body: &[u8]) -> Result<Self, ReportError> {
        let report: Self = serde_json::from_slice(body).map_err(|e| ReportError::Shape(e.to_string()))?;
        report.checked()
    }

    fn checked(self) -> Result<Self, ReportError> {
        let sane = |v: f64| v.is_finite() && (0.0..=1e9).contains(&v);
        if !sane(self.arrivals_per_s) {
            return Err(ReportError::Bounds("arrivals_per_s"));
        }
        if !self.capacity_per_s.is_none_or(|c| sane(c) && c > 0.0) {
            return Err(ReportError::Bounds("capacity_per_s"));
        }
        Ok(self)
    }

    /// True when the queue is so full that newcomers should go elsewhere.
    pub fn is_queue_full(&self) -> bool {
        self.queue_max.is_some_and(|max| self.queue.saturating_mul(10) >= max.saturating_mul(9))
    }
}

/// The report within a region's `GET /v1/status`; `None` when it has none.
///
/// # Errors
/// [`ReportError`] when there is one that cannot be read.
pub fn report_in_status(body: &[u8]) -> Result<Option<Report>, ReportError> {
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        edge: Option<Report>,
    }
    let status: Status = serde_json::from_slice(body).map_err(|e| ReportError::Shape(e.to_string()))?;
    status.edge.map(Report::checked).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_when_pushed_lenient_in_a_status() {
        let report = Report::from_json(br#"{"arrivals_per_s":12.5,"queue":950,"queue_max":1000,"stock":0}"#).unwrap();
        assert!(report.is_queue_full());
        assert_eq!((report.stock, report.capacity_per_s), (Some(0), None));
        assert!(matches!(Report::from_json(br#"{"arrivals_per_s":1,"x":1}"#), Err(ReportError::Shape(_))));
        assert_eq!(Report::from_json(br#"{"arrivals_per_s":-1}"#), Err(ReportError::Bounds("arrivals_per_s")));
        assert_eq!(report_in_status(br#"{"region":"east","queues":[]}"#), Ok(None));
        let found = report_in_status(br#"{"region":"east","edge":{"arrivals_per_s":3}}"#).unwrap().unwrap();
        assert_eq!(found.arrivals_per_s, 3.0);
        assert!(!found.is_queue_full());
    }
}

//! The metrics of issuers of tokens.

use prometheus::{IntGauge, IntGaugeVec};

use super::Maker;

/// The series of all issuers.
pub(super) struct Issuers {
    up: IntGaugeVec,
}

impl Issuers {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        let help = "1 if the issuer's keys could be fetched when they last were, else 0.";
        Ok(Self { up: make.gauges("keymeter_issuer_up", help, &["issuer"])? })
    }

    pub(super) fn of(&self, issuer: &str) -> IssuerSeries {
        IssuerSeries { up: self.up.with_label_values(&[issuer]) }
    }

    pub(super) fn remove(&self, issuer: &str) {
        // It may have none.
        let _ = self.up.remove_label_values(&[issuer]);
    }
}

/// The series of one issuer.
pub struct IssuerSeries {
    up: IntGauge,
}

impl IssuerSeries {
    /// Says whether its keys could be fetched.
    pub fn set_up(&self, is_up: bool) {
        self.up.set(i64::from(is_up));
    }
}

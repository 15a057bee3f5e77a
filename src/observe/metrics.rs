//! The metrics: every name and help text in one place. Other modules call typed methods, so that no label's value can come from
//! a client: values are key ids, configured names and the words of enums.

mod issuer;
mod key;
mod replica;
mod scrape;
mod shared;
mod traces;
mod upstream;

use std::sync::Arc;

use jiff::Timestamp;
use keymeter_core::{rejection::ErrorCode, usage::UsageSource};
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

pub use self::{
    issuer::IssuerSeries,
    key::{KeyMetrics, KeySeries, ModelMetrics},
    replica::{AttemptOutcome, PoolMetrics, QueueSeries, ReplicaSeries},
    scrape::{Balances, ScopeShares, Shares, write_dropped_lines},
    shared::{SharedAnswer, SharedSeries},
    traces::TraceSeries,
    upstream::{UpstreamOutcome, UpstreamSeries},
};
use self::{issuer::Issuers, upstream::Upstreams};

/// The process's metrics.
pub struct Metrics {
    registry: Registry,
    errors: IntCounterVec,
    unauthorized: IntCounterVec,
    malformed: IntCounter,
    /// In the order of their sources.
    usage: [IntCounter; UsageSource::ALL.len()],
    client_aborts: IntCounter,
    unpriced: IntCounterVec,
    upstreams: Upstreams,
    pools: PoolMetrics,
    /// In the order of their results.
    lookups: [IntCounter; Lookup::ALL.len()],
    source_requests: IntCounterVec,
    source_duration: HistogramVec,
    events_connected: IntGauge,
    issuers: Issuers,
    revocation_lag: Histogram,
    ledger_records: IntCounterVec,
    ledger_waiting: IntGauge,
    ledger_age: Gauge,
    reload_successful: IntGauge,
    reload_timestamp: IntGauge,
    keys: Arc<KeySeries>,
}

/// Seconds that a key source takes: from a file's to more than a service is given.
const SOURCE_TIMES: [f64; 14] =
    [0.000_01, 0.000_1, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Seconds until a change of a key is in force.
const LAGS: [f64; 11] = [0.000_01, 0.000_1, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

impl Metrics {
    /// The metrics of one process, of which at most `max_key_series` keys have series of their own.
    ///
    /// # Errors
    /// When two metrics share a name, which is an error in this file.
    #[allow(clippy::too_many_lines, reason = "it is a list of metrics, and says one thing of each")]
    pub fn new(max_key_series: usize) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let make = Maker { registry: &registry };
        make.build_info()?;
        make.process()?;
        Ok(Self {
            errors: make.counters_of(
                "keymeter_errors_total",
                "Errors that the gateway itself answered, by the code in the answer.",
                "code",
                &ErrorCode::ALL.map(ErrorCode::as_str),
            )?,
            unauthorized: make.counters_of(
                "keymeter_unauthorized_total",
                "Requests without a known key, by reason.",
                "reason",
                &Unauthorized::ALL.map(Unauthorized::as_str),
            )?,
            malformed: make.registered(IntCounter::new(
                "keymeter_malformed_requests_total",
                "Request heads that were malformed or incomplete.",
            )?)?,
            usage: make.counter_of_each(
                "keymeter_usage_total",
                "Responses, by where their token counts came from: upstream, estimated or none.",
                "source",
                UsageSource::ALL.map(UsageSource::as_str),
            )?,
            client_aborts: make.registered(IntCounter::new(
                "keymeter_client_aborts_total",
                "Responses whose client went away before their end.",
            )?)?,
            unpriced: make.counters(
                "keymeter_unpriced_responses_total",
                "Responses that used tokens of a model without a price, and so cost nothing.",
                &["model"],
            )?,
            upstreams: Upstreams::new(&make)?,
            pools: PoolMetrics::new(&make)?,
            lookups: make.counter_of_each(
                "keymeter_key_cache_lookups_total",
                "Look-ups of keys in the cache, by result: hit, miss, stale or unknown.",
                "result",
                Lookup::ALL.map(Lookup::as_str),
            )?,
            source_requests: make.counters_of(
                "keymeter_key_source_requests_total",
                "Look-ups at the key source, by outcome: found, unknown or failed.",
                "outcome",
                &Outcome::ALL.map(Outcome::as_str),
            )?,
            source_duration: make.histograms(
                "keymeter_key_source_duration_seconds",
                "How long the key source took to answer, by outcome.",
                &SOURCE_TIMES,
                &["outcome"],
            )?,
            issuers: Issuers::new(&make)?,
            events_connected: make.registered(IntGauge::new(
                "keymeter_key_events_connected",
                "1 while the stream of the key source's events is connected, else 0.",
            )?)?,
            revocation_lag: make.registered(Histogram::with_opts(
                HistogramOpts::new(
                    "keymeter_key_revocation_lag_seconds",
                    "From a change's receipt until nothing from before it admits a request or keeps one running.",
                )
                .buckets(LAGS.to_vec()),
            )?)?,
            ledger_records: make.counters(
                "keymeter_ledger_records_total",
                "Usage records, by outcome: spooled, held, lost, sent or refused.",
                &["outcome"],
            )?,
            ledger_waiting: make.registered(IntGauge::new(
                "keymeter_ledger_spooled_records",
                "Usage records in the outbox that are not acknowledged.",
            )?)?,
            ledger_age: make.registered(Gauge::new(
                "keymeter_ledger_oldest_record_age_seconds",
                "The age of the oldest of them; 0 if there is none.",
            )?)?,
            reload_successful: make.registered(IntGauge::new(
                "keymeter_config_last_reload_successful",
                "1 if the last load of the configuration succeeded, else 0.",
            )?)?,
            reload_timestamp: make.registered(IntGauge::new(
                "keymeter_config_last_reload_success_timestamp_seconds",
                "When the configuration was last loaded successfully, in seconds since 1970.",
            )?)?,
            keys: Arc::new(KeySeries::new(max_key_series)),
            registry,
        })
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// When the encoder fails, which it does for inconsistent metrics only.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        let mut text = TextEncoder::new().encode_to_string(&self.registry.gather())?;
        self.keys.write_to(&mut text);
        Ok(text)
    }

    /// The series of limits that several gateways share. They are there where there are such.
    ///
    /// # Errors
    /// When there are some already.
    pub fn shared(&self) -> Result<SharedSeries, prometheus::Error> {
        SharedSeries::new(&Maker { registry: &self.registry })
    }

    /// The series of traces. They are there where requests are traced.
    ///
    /// # Errors
    /// When there are some already.
    pub fn traces(&self) -> Result<TraceSeries, prometheus::Error> {
        TraceSeries::new(&Maker { registry: &self.registry })
    }

    /// The series of an issuer of tokens.
    #[must_use]
    pub fn issuer(&self, issuer: &str) -> IssuerSeries {
        self.issuers.of(issuer)
    }

    /// The issuer has no series any more.
    pub fn forget_issuer(&self, issuer: &str) {
        self.issuers.remove(issuer);
    }

    /// The series of upstreams' replicas.
    #[must_use]
    pub fn pools(&self) -> &PoolMetrics {
        &self.pools
    }

    /// The series of single keys.
    #[must_use]
    pub fn keys(&self) -> &Arc<KeySeries> {
        &self.keys
    }

    /// Counts an error answer.
    pub fn error(&self, code: ErrorCode) {
        self.errors.with_label_values(&[code.as_str()]).inc();
    }

    /// Counts a request without a known key.
    pub fn unauthorized(&self, reason: Unauthorized) {
        self.unauthorized.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a malformed request head.
    pub fn malformed_request(&self) {
        self.malformed.inc();
    }

    /// Counts a look-up in the key cache.
    pub fn looked_up(&self, result: Lookup) {
        // There is one for each result.
        if let Some(counter) = self.lookups.get(result as usize) {
            counter.inc();
        }
    }

    /// Counts a look-up at the key source, and how long it took.
    pub fn source_asked(&self, outcome: Outcome, took: std::time::Duration) {
        self.source_requests.with_label_values(&[outcome.as_str()]).inc();
        self.source_duration.with_label_values(&[outcome.as_str()]).observe(took.as_secs_f64());
    }

    /// Records whether the stream of events is connected.
    pub fn events_connected(&self, is_connected: bool) {
        self.events_connected.set(i64::from(is_connected));
    }

    /// Records how long after its receipt a change took effect.
    pub fn revocation_took(&self, lag: std::time::Duration) {
        self.revocation_lag.observe(lag.as_secs_f64());
    }

    /// Makes the series of the ledger, which begin at 0.
    pub fn ledger_opened(&self) {
        for outcome in LedgerRecord::ALL {
            self.ledger_record(outcome, 0);
        }
    }

    /// Counts usage records by their outcome.
    pub fn ledger_record(&self, outcome: LedgerRecord, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.ledger_records.with_label_values(&[outcome.as_str()]).inc_by(count);
    }

    /// Records how many usage records wait to be sent, and since when.
    pub fn ledger_waits(&self, count: u64, oldest: Option<Timestamp>, now: Timestamp) {
        self.ledger_waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
        let age = oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64());
        self.ledger_age.set(age.max(0.0));
    }

    /// Counts a response by the source of its usage.
    pub fn usage_from(&self, source: UsageSource) {
        // There is one for each source.
        if let Some(counter) = self.usage.get(source as usize) {
            counter.inc();
        }
    }

    /// Counts a client that went away before the end of its response.
    pub fn client_aborted(&self) {
        self.client_aborts.inc();
    }

    /// Counts a response that used something without a price.
    pub fn unpriced(&self, model: &str) {
        self.unpriced.with_label_values(&[model]).inc();
    }

    /// Records a reload, and its time in seconds since 1970.
    pub fn reloaded(&self, successful: bool, now: i64) {
        self.reload_successful.set(i64::from(successful));
        if successful {
            self.reload_timestamp.set(now);
        }
    }

    /// The series of one upstream and model.
    #[must_use]
    pub fn upstream(&self, upstream: &str, model: &str) -> UpstreamSeries {
        self.upstreams.of(upstream, model)
    }
}

keymeter_core::words! {
    /// Why a request has no known key.
    Unauthorized {
        /// No credential.
        Missing = "missing",
        /// Not a credential, or two different ones.
        Malformed = "malformed",
        /// No key has it.
        Unknown = "unknown",
        /// Its address sent too many bad ones.
        Throttled = "throttled",
    }
}

keymeter_core::words! {
    /// The result of a look-up in the key cache.
    Lookup {
        /// The key.
        Hit = "hit",
        /// Nothing.
        Miss = "miss",
        /// The key, from before a change.
        Stale = "stale",
        /// That no such key is known.
        Unknown = "unknown",
    }
}

keymeter_core::words! {
    /// The outcome of a look-up at the key source.
    Outcome {
        /// A key.
        Found = "found",
        /// That there is no such key.
        Unknown = "unknown",
        /// An error.
        Failed = "failed",
    }
}

keymeter_core::words! {
    /// The outcome of a usage record.
    LedgerRecord {
        /// It was written to the outbox.
        Spooled = "spooled",
        /// It could not be written, and waits in memory.
        Held = "held",
        /// It could not be written, and there was no memory for it.
        Lost = "lost",
        /// It was acknowledged.
        Sent = "sent",
        /// It was refused for good, and set aside.
        Refused = "refused",
    }
}

/// Makes metrics and registers them.
struct Maker<'registry> {
    registry: &'registry Registry,
}

impl Maker<'_> {
    fn registered<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.registered(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// Counters for all that a label can be. They begin at 0, so that the first event is an increase.
    fn counters_of(
        &self,
        name: &str,
        help: &str,
        label: &str,
        words: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = self.counters(name, help, &[label])?;
        for word in words {
            // Made by being asked for.
            drop(counters.with_label_values(&[word]));
        }
        Ok(counters)
    }

    /// The same, each at hand: those that every request counts are not looked up by their words each time.
    fn counter_of_each<const WORDS: usize>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        words: [&str; WORDS],
    ) -> Result<[IntCounter; WORDS], prometheus::Error> {
        let counters = self.counters(name, help, &[label])?;
        Ok(words.map(|word| counters.with_label_values(&[word])))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.registered(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        self.registered(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
    }

    /// Processor time, memory, descriptors and threads, under the names that all clients of Prometheus use.
    fn process(&self) -> Result<(), prometheus::Error> {
        #[cfg(target_os = "linux")]
        self.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(())
    }

    fn build_info(&self) -> Result<(), prometheus::Error> {
        let labels = &["version", "revision"];
        let gauges = self.gauges("keymeter_build_info", "Always 1; names the running version.", labels)?;
        let revision = option_env!("KEYMETER_REVISION").unwrap_or("unknown");
        gauges.with_label_values(&[env!("CARGO_PKG_VERSION"), revision]).set(1);
        Ok(())
    }
}

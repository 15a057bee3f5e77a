//! The series of keys in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).

use std::{
    fmt::{self, Display, Write},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use keymeter_core::{limit::Scope, money::Usd, rejection::Refused};

use super::{KeyMetrics, KeySeries, ModelMetrics, Reasons, TOKEN_TYPES};

impl KeySeries {
    /// Adds every key's series to `text`, one metric after another.
    pub(in crate::observe::metrics) fn write_to(&self, text: &mut String) {
        let keys = self.all();
        text.reserve(keys.len() * TYPICAL);
        for (metric, kind, help, lines) in METRICS {
            let start = text.len();
            let written = write!(text, "# HELP {metric} {help}\n# TYPE {metric} {kind}\n");
            let head = text.len();
            // Writing to a `String` does not fail.
            let _ = written.and_then(|()| keys.iter().try_for_each(|key| lines(&mut Out { text, metric }, key)));
            if text.len() == head {
                text.truncate(start);
            }
        }
        let help = "Keys that came when max_key_series others had series of their own, and so share other's.";
        let _ = writeln!(text, "# HELP {FOLDED} {help}\n# TYPE {FOLDED} counter\n{FOLDED} {}", self.folded());
    }
}

const FOLDED: &str = "keymeter_key_series_folded_total";

/// What the series of a key that uses one model take, in bytes.
const TYPICAL: usize = 1200;

type Lines = fn(&mut Out<'_>, &Arc<KeyMetrics>) -> fmt::Result;

/// Every metric of keys: its name, type and help, and how its lines of one key are written.
const METRICS: [(&str, &str, &str, Lines); 9] = [
    (
        "keymeter_requests_total",
        "counter",
        "Requests of identified keys, by the status that was answered.",
        |out, key| of_models(key, |model| statuses(out, key, model)),
    ),
    (
        "keymeter_tokens_total",
        "counter",
        "Tokens used, by type: input (not cached), cached_input, cache_write, output.",
        |out, key| of_models(key, |model| tokens(out, key, model)),
    ),
    (
        "keymeter_reasoning_tokens_total",
        "counter",
        "Output tokens spent on reasoning; a part of the output tokens.",
        |out, key| of_models(key, |model| out.line(key, &[("model", &model.model)], model.reasoning.load(Relaxed))),
    ),
    ("keymeter_cost_usd_total", "counter", "Cost of the tokens used, in US dollars.", |out, key| {
        of_models(key, |model| {
            let cost = Usd::from_nanos(model.cost_nanos.load(Relaxed));
            out.line(key, &[("model", &model.model)], cost)
        })
    }),
    (
        "keymeter_rejections_total",
        "counter",
        "Requests of identified keys that were refused, by reason and by whose limit it was.",
        rejections,
    ),
    (
        "keymeter_observed_rejections_total",
        "counter",
        "Requests that would have been refused if limits were enforced, by reason and by whose limit it is.",
        observed_rejections,
    ),
    ("keymeter_requests_in_flight", "gauge", "Admitted requests that are running now.", |out, key| {
        out.line(key, &[], key.in_flight.load(Relaxed))
    }),
    (
        "keymeter_key_last_used_timestamp_seconds",
        "gauge",
        "When the key last had a request admitted, in seconds since 1970.",
        |out, key| out.line(key, &[], key.last_used.load(Relaxed)),
    ),
    ("keymeter_key_info", "gauge", "Always 1; names the key.", info),
];

fn of_models(key: &KeyMetrics, write: impl FnMut(&Arc<ModelMetrics>) -> fmt::Result) -> fmt::Result {
    key.models.read().iter().try_for_each(write)
}

fn statuses(out: &mut Out<'_>, key: &KeyMetrics, model: &ModelMetrics) -> fmt::Result {
    model.statuses.read().iter().try_for_each(|(status, count)| {
        out.line(key, &[("model", &model.model), ("status", &status.to_string())], count.load(Relaxed))
    })
}

fn tokens(out: &mut Out<'_>, key: &KeyMetrics, model: &ModelMetrics) -> fmt::Result {
    TOKEN_TYPES
        .iter()
        .zip(&model.tokens)
        .try_for_each(|(kind, count)| out.line(key, &[("model", &model.model), ("type", kind)], count.load(Relaxed)))
}

fn rejections(out: &mut Out<'_>, key: &Arc<KeyMetrics>) -> fmt::Result {
    by_reason(out, key, Scope::Key, &key.rejections)?;
    let Some(further) = key.further.get() else { return Ok(()) };
    Scope::ALL.iter().zip(&further.refused).try_for_each(|(scope, reasons)| by_reason(out, key, *scope, reasons))
}

fn observed_rejections(out: &mut Out<'_>, key: &Arc<KeyMetrics>) -> fmt::Result {
    let Some(further) = key.further.get() else { return Ok(()) };
    Scope::ALL.iter().zip(&further.observed).try_for_each(|(scope, reasons)| by_reason(out, key, *scope, reasons))
}

fn by_reason(out: &mut Out<'_>, key: &KeyMetrics, scope: Scope, reasons: &Reasons) -> fmt::Result {
    let counted = Refused::ALL.iter().zip(reasons).map(|(reason, count)| (reason, count.load(Relaxed)));
    counted
        .filter(|(_, count)| *count > 0)
        .try_for_each(|(reason, count)| out.line(key, &[("reason", reason.as_str()), ("scope", scope.as_str())], count))
}

fn info(out: &mut Out<'_>, key: &Arc<KeyMetrics>) -> fmt::Result {
    match &*key.described.read() {
        Some(said) => {
            let team = said.team.as_deref().unwrap_or_default();
            out.line(key, &[("name", said.name.as_str()), ("team", team)], 1)
        }
        None => Ok(()),
    }
}

/// Where the lines of one metric go.
struct Out<'text> {
    text: &'text mut String,
    metric: &'static str,
}

impl Out<'_> {
    fn line(&mut self, key: &KeyMetrics, labels: &[(&str, &str)], value: impl Display) -> fmt::Result {
        // An id has nothing in it that is to be escaped.
        write!(self.text, "{}{{key_id=\"{}\"", self.metric, key.label())?;
        for (label, value) in labels {
            write!(self.text, ",{label}=\"")?;
            escape(self.text, value);
            self.text.push('"');
        }
        writeln!(self.text, "}} {value}")
    }
}

/// Adds a label's value to `text`.
pub(in crate::observe::metrics) fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

//! Quotas as the scripts read them, and the calendar that the server does not know.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::atomic::{AtomicI64, Ordering},
};

use jiff::{SignedDuration, Timestamp};
use keymeter_core::limit::{Carried, Division, Quota, QuotaName, QuotaSpan, QuotaUnit, Quotas, Slot};
use parking_lot::Mutex;

use super::script::{Call, MOST};

/// Where spans of the calendar begin by the server's clock.
#[derive(Default)]
pub(super) struct Calendar {
    /// By how many microseconds the server's clock is ahead of ours, where that moves it to another span.
    ahead: AtomicI64,
    /// By span and zone.
    known: Mutex<HashMap<QuotaSpan, HashMap<Box<str>, Division>>>,
}

impl Calendar {
    /// The server's date.
    pub(super) fn date(&self, now: Timestamp) -> Timestamp {
        let ahead = SignedDuration::from_micros(self.ahead.load(Ordering::Relaxed));
        now.checked_add(ahead).unwrap_or(now)
    }

    /// Sets the server's clock, which was `micros` microseconds after 1970 when it was `now` here.
    pub(super) fn set(&self, micros: u64, now: Timestamp) {
        let ahead = i64::try_from(micros).unwrap_or(i64::MAX).saturating_sub(now.as_microsecond());
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    /// How a quota's time is divided when it is `date` for the server.
    pub(super) fn division(&self, quota: &Quota, date: Timestamp) -> Division {
        let mut known = self.known.lock();
        let of_span = known.entry(quota.name.span).or_default();
        if let Some(division) = of_span.get(quota.zone.name()).filter(|division| holds(division, date)) {
            return *division;
        }
        let division = quota.division(date);
        of_span.insert(quota.zone.name().into(), division);
        division
    }
}

fn holds(division: &Division, date: Timestamp) -> bool {
    match division {
        Division::Spans { bounds: [_, start, end, _], .. } => (*start..*end).contains(&date.as_second()),
        Division::Steps(_) => true,
    }
}

/// A number as a script reads it exactly. Money beyond what it counts to the nano-dollar, nine million dollars, is counted in
/// units of 1,024, which it does up to any amount that there is, rounded up.
pub(super) fn exact(quota: &Quota, amount: u64) -> u64 {
    let is_large = quota.name.unit == QuotaUnit::Usd && quota.amount.get() >= MOST;
    if is_large { amount.checked_next_multiple_of(1024).unwrap_or(amount) } else { amount }
}

/// Writes the quotas of a request that takes `amount_of` each.
pub(super) fn write(
    quotas: &Quotas,
    calendar: &Calendar,
    amount_of: impl Fn(QuotaUnit) -> u64,
    date: Timestamp,
    call: &mut Call<'_>,
) {
    call.arg(quotas.len());
    for quota in quotas.iter() {
        call.arg(quota.name.to_string());
        for number in numbers(&calendar.division(quota, date)) {
            call.arg(number);
        }
        let (carried, until) = carried(quota, date);
        call.arg(exact(quota, amount_of(quota.name.unit))).arg(quota.amount.get()).arg(carried).arg(until);
    }
}

/// What was used elsewhere and still counts, until when in microseconds since 1970.
pub(super) fn carried(quota: &Quota, date: Timestamp) -> (u64, i64) {
    let counts = quota.carried.filter(|Carried { until, .. }| date < *until);
    counts.map_or((0, 0), |Carried { amount, until }| (amount, until.as_microsecond()))
}

/// What a settlement says of one quota: `amount`, counted in `slot` if that is known already.
pub(super) fn say(name: QuotaName, slot: Slot, amount: u64, division: &Division, words: &mut String) {
    let [longest, first, second, third, fourth] = numbers(division);
    // Writing to a text cannot fail.
    let _ = write!(words, "{name} {slot} {amount} {longest} {first} {second} {third} {fourth} ");
}

/// A division as the scripts read it: the longest span, and its bounds; or none, and the length of a step.
fn numbers(division: &Division) -> [i64; 5] {
    match *division {
        Division::Spans { bounds: [first, second, third, fourth], longest } => [longest, first, second, third, fourth],
        Division::Steps(micros) => [0, micros, 0, 0, 0],
    }
}

//! Monotonic time, for windows and durations, and beside it the calendar's. Time is always an argument: no code here reads a
//! clock.

use std::{
    ops::Add,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// The two clocks of a request: one that never goes back, for limits of a minute, and the calendar's.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For windows and durations.
    pub moment: MonotonicTime,
    /// For quotas, expiry and logs.
    pub date: Timestamp,
}

impl Now {
    /// This moment.
    #[must_use]
    pub fn read() -> Self {
        Self { moment: MonotonicTime::now(), date: today() }
    }
}

/// The calendar's present. Every request asks for it a few times, and this takes half of what `Timestamp::now` does, which
/// cares for clocks before 1970.
fn today() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // There are less than 10^9 nanoseconds beside the seconds.
    let date = i64::try_from(since.as_secs()).map(|second| Timestamp::new(second, since.subsec_nanos().cast_signed()));
    date.ok().and_then(Result::ok).unwrap_or(Timestamp::MAX)
}

/// The moment that a text says: RFC 3339, or a date alone, which is its beginning in UTC.
#[must_use]
pub fn moment(text: &str) -> Option<Timestamp> {
    let of_date = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|begin| begin.timestamp());
    // A date and a time without a zone would be read as a date alone.
    let is_date = text.len() == "2027-01-01".len();
    text.parse().ok().or_else(|| of_date().filter(|_| is_date))
}

/// A point in monotonic time: nanoseconds since an arbitrary origin, which is the same for the
/// whole process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonotonicTime(u64);

impl MonotonicTime {
    /// The moment `nanos` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds after the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The present.
    #[must_use]
    pub fn now() -> Self {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        Self::default() + ORIGIN.get_or_init(Instant::now).elapsed()
    }

    /// The time from `earlier` to this; none if that is not earlier.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for MonotonicTime {
    type Output = Self;

    /// Saturates after some 584 years.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_is_the_systems() {
        let (before, now, after) = (Timestamp::now(), Now::read().date, Timestamp::now());
        assert!(before <= now && now <= after, "{before}, {now}, {after}");
    }

    #[test]
    fn a_date_alone_is_its_beginning_in_utc() {
        let read = |text| moment(text).map(|moment| moment.to_string());
        assert_eq!(read("2027-01-01").as_deref(), Some("2027-01-01T00:00:00Z"));
        assert_eq!(read("2027-01-01T01:00:00+01:00").as_deref(), Some("2027-01-01T00:00:00Z"));
        for none in ["2027-01-01T01:00:00", "2027-02-30", "2027-1-1", "20270101", "tomorrow", ""] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}

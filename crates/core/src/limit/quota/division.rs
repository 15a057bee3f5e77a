//! How a quota's time is divided, for those who count it elsewhere and know no calendar.

use jiff::{SignedDuration, Timestamp};

use super::{Quota, QuotaSpan, Slot, Zone};

/// How a quota's time is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Division {
    /// Into spans of the calendar.
    Spans {
        /// Where spans around a moment begin and end, in seconds since 1970: the moment lies between the second and the third.
        bounds: [Slot; 4],
        /// No span is longer, in seconds.
        longest: i64,
    },
    /// Into steps of so many microseconds. What is counted in one stays for 60 beside the one that begins.
    Steps(i64),
}

impl Quota {
    /// How its time is divided around `now`.
    #[must_use]
    pub fn division(&self, now: Timestamp) -> Division {
        match self.name.span {
            QuotaSpan::Length(length) => Division::Steps(length.step()),
            span => spans(span, &self.zone, now),
        }
    }
}

impl Division {
    /// That of a length of time; `None`: it is a span of the calendar, which a zone divides.
    #[must_use]
    pub fn of_length(span: QuotaSpan) -> Option<Self> {
        match span {
            QuotaSpan::Length(length) => Some(Self::Steps(length.step())),
            QuotaSpan::Day | QuotaSpan::Week | QuotaSpan::Month => None,
        }
    }
}

const HOUR: i64 = 3600;

impl QuotaSpan {
    /// No span of the calendar is longer, in seconds, whatever its zone does to its clocks; 0 for a length.
    #[must_use]
    pub fn longest(self) -> i64 {
        match self {
            Self::Day => 26 * HOUR,
            Self::Week => 171 * HOUR,
            Self::Month => (31 * 24 + 3) * HOUR,
            Self::Length(_) => 0,
        }
    }
}

/// Each span ends where the next begins, so they are followed from one that is certainly over.
fn spans(span: QuotaSpan, zone: &Zone, now: Timestamp) -> Division {
    let longest = span.longest();
    let before = now.checked_sub(SignedDuration::from_secs(2 * longest)).unwrap_or(Timestamp::MIN);
    let next = |second: Slot| {
        let moment = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        span.end_after(moment, zone)
    };
    let first = next(before.as_second());
    let second = next(first);
    let third = next(second);
    let mut bounds = [first, second, third, next(third)];
    while bounds[2] <= now.as_second() && bounds[2] < bounds[3] {
        bounds = [bounds[1], bounds[2], bounds[3], next(bounds[3])];
    }
    Division::Spans { bounds, longest }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quota(name: &str, zone: &str) -> Quota {
        let (name, zone) = (name.parse().unwrap(), zone.parse().unwrap());
        Quota { name, amount: 1.try_into().unwrap(), zone, carried: None }
    }

    proptest! {
        /// Bounds ascend, a moment lies between the second and the third, and all moments of a span have the same.
        #[test]
        fn a_moment_lies_in_its_span(
            span in prop::sample::select(vec!["day", "week", "month"]),
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Havana", "Africa/Cairo", "Pacific/Apia"]),
            second in 0_i64..4_000_000_000,
        ) {
            let quota = quota(&format!("tokens_per_{span}"), zone);
            let bounds = |second| match quota.division(Timestamp::from_second(second).unwrap()) {
                Division::Spans { bounds, longest } => (bounds, longest),
                Division::Steps(_) => panic!("a span of the calendar"),
            };
            let (all, longest) = bounds(second);
            prop_assert!(all[1] <= second && second < all[2], "{second} in {all:?}");
            for pair in all.windows(2) {
                prop_assert!(pair[0] < pair[1] && pair[1] - pair[0] <= longest, "{all:?}");
            }
            prop_assert_eq!(bounds(all[1]).0, all);
            prop_assert_eq!(bounds(all[2] - 1).0, all);
            prop_assert_eq!(bounds(all[2]).0[..3].to_vec(), all[1..].to_vec());
        }
    }

    #[test]
    fn a_length_is_divided_into_sixty_steps() {
        let division = quota("tokens_per_5h", "UTC").division(Timestamp::UNIX_EPOCH);
        assert_eq!(division, Division::Steps(300_000_000));
    }
}

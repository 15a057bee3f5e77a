//! When a calendar's span begins and ends.

use jiff::{Timestamp, civil::Date, civil::Weekday};

use super::{QuotaSpan, Slot, Zone};

impl QuotaSpan {
    /// The end of the calendar's span in which `now` lies: midnight in `zone`, of a Monday, or of the first day of a month.
    /// `None`: it is no span of the calendar. A midnight that a change of the clocks leaves out is the moment of the change, and of
    /// one that comes twice the later is taken, so that no span begins twice.
    pub(super) fn calendar_end(self, now: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let today = now.to_zoned(zone.0.clone()).date();
        let first_after = match self {
            Self::Day => today.tomorrow().ok(),
            Self::Week => today.nth_weekday(1, Weekday::Monday).ok(),
            Self::Month => today.last_of_month().tomorrow().ok(),
            Self::Length(_) => return None,
        };
        let of = |date: Option<Date>| date.and_then(|date| midnight(date, zone));
        // Between a midnight and the same once more it is the first day already, and the span has not begun.
        let begins = of(self.first_day(today)).filter(|begins| *begins > now);
        Some(begins.or_else(|| of(first_after)).unwrap_or(Timestamp::MAX))
    }

    /// The beginning of the calendar's span in which `now` lies. `None`: it is no span of the calendar.
    pub(super) fn calendar_begin(self, now: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let first = self.first_day(now.to_zoned(zone.0.clone()).date())?;
        let before = || self.first_day(first.yesterday().ok()?).and_then(|date| midnight(date, zone));
        let begins = midnight(first, zone).filter(|begins| *begins <= now);
        Some(begins.or_else(before).unwrap_or(Timestamp::MIN))
    }

    /// The first day of the calendar's span that has `today` in it.
    fn first_day(self, today: Date) -> Option<Date> {
        match self {
            Self::Day => Some(today),
            Self::Week => today.tomorrow().and_then(|date| date.nth_weekday(-1, Weekday::Monday)).ok(),
            Self::Month => Some(today.first_of_month()),
            Self::Length(_) => None,
        }
    }

    /// The same, in seconds since 1970, and after `now` in any case.
    pub(super) fn end_after(self, now: Timestamp, zone: &Zone) -> Slot {
        let end = self.calendar_end(now, zone).unwrap_or(Timestamp::MAX);
        // Midnights are whole seconds in every zone since 1972; before, and at the end of time, it ends in the next one.
        end.as_second().max(now.as_second() + 1)
    }
}

fn midnight(date: Date, zone: &Zone) -> Option<Timestamp> {
    zone.0.to_ambiguous_timestamp(date.at(0, 0, 0, 0)).later().ok()
}

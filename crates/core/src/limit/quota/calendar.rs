//! When a calendar's span ends.

use jiff::{Timestamp, civil::Date, civil::Weekday};

use super::{QuotaSpan, Slot, Zone};

impl QuotaSpan {
    /// The end of the calendar's span in which `now` lies: midnight in `zone`, of a Monday, or of the first day of a month.
    /// `None`: it is no span of the calendar. A midnight that a change of the clocks leaves out is the moment of the change, and of
    /// one that comes twice the later is taken, so that no span begins twice.
    pub(super) fn calendar_end(self, now: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let today = now.to_zoned(zone.0.clone()).date();
        let (first, first_after) = match self {
            Self::Day => (Ok(today), today.tomorrow()),
            Self::Week => (
                today.tomorrow().and_then(|date| date.nth_weekday(-1, Weekday::Monday)),
                today.nth_weekday(1, Weekday::Monday),
            ),
            Self::Month => (Ok(today.first_of_month()), today.last_of_month().tomorrow()),
            Self::Length(_) => return None,
        };
        let of = |date: Result<Date, _>| date.ok().and_then(|date| midnight(date, zone));
        // Between a midnight and the same once more it is the first day already, and the span has not begun.
        let begins = of(first).filter(|begins| *begins > now);
        Some(begins.or_else(|| of(first_after)).unwrap_or(Timestamp::MAX))
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

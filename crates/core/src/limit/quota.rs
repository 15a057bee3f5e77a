//! Quotas: what may be used in a calendar span or in a length of time, in requests, tokens, tokens of output or money. The
//! date is an argument, and so is the zone that says when a day begins.

mod calendar;
mod counter;
mod division;

use std::{fmt, num::NonZeroU64, ops::Deref, str::FromStr, sync::Arc, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use thiserror::Error;

pub use self::{
    counter::{QuotaCounter, Slot},
    division::Division,
};
use crate::{clock::moment, money::Usd, words};

words! {
    /// What a quota counts.
    QuotaUnit {
        /// Requests that were admitted.
        Requests = "requests",
        /// Tokens of all kinds.
        Tokens = "tokens",
        /// Tokens of answers.
        OutputTokens = "output_tokens",
        /// US dollars, in nano-dollars.
        Usd = "usd",
    }
}

/// Over what time a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuotaSpan {
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday.
    Week,
    /// From the first day of a month to its last.
    Month,
    /// A length that slides.
    Length(SlidingLength),
}

/// A length of time from a minute to 31 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlidingLength(u32);

/// What a quota of a scope is told apart by: no scope has two quotas of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuotaName {
    /// What it counts.
    pub unit: QuotaUnit,
    /// Over what time.
    pub span: QuotaSpan,
}

/// One quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// What it counts, over what time.
    pub name: QuotaName,
    /// How much of that; of money nano-dollars.
    pub amount: NonZeroU64,
    /// Where its days begin, if it is one of the calendar.
    pub zone: Zone,
    /// What was used elsewhere before.
    pub carried: Option<Carried>,
}

/// What was used of a quota before it was counted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// How much, in the quota's unit.
    pub amount: u64,
    /// From when on it counts no longer.
    pub until: Timestamp,
}

/// A zone of the IANA's time zone database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// The quotas of one scope, no two of one name. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas(Option<Arc<[Quota]>>);

impl Quotas {
    /// The most quotas that one scope may have.
    pub const MOST: usize = 16;

    /// These quotas.
    ///
    /// # Errors
    /// When two are of one name, or there are more than [`Self::MOST`].
    pub fn new(quotas: Vec<Quota>) -> Result<Self, QuotaError> {
        if quotas.len() > Self::MOST {
            return Err(QuotaError::TooMany);
        }
        let again =
            quotas.iter().enumerate().find(|(at, quota)| quotas.iter().take(*at).any(|other| other.name == quota.name));
        match again {
            Some((_, quota)) => Err(QuotaError::Twice(quota.name)),
            None => Ok(Self((!quotas.is_empty()).then(|| quotas.into()))),
        }
    }
}

impl Deref for Quotas {
    type Target = [Quota];

    fn deref(&self) -> &[Quota] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl SlidingLength {
    /// So many seconds; `None` where that is no length from a minute to 31 days.
    #[must_use]
    pub fn new(length: Duration) -> Option<Self> {
        let seconds = u32::try_from(length.as_secs()).ok()?;
        let fits = (60..=31 * DAY).contains(&seconds) && length.subsec_nanos() == 0;
        fits.then_some(Self(seconds))
    }

    /// In seconds.
    #[must_use]
    pub fn seconds(self) -> u32 {
        self.0
    }
}

const DAY: u32 = 24 * 60 * 60;
const UNITS: [(u32, &str); 4] = [(DAY, "d"), (60 * 60, "h"), (60, "m"), (1, "s")];

/// Why something is no quota, or no set of quotas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QuotaError {
    /// Not the form in which a quota is written on one line.
    #[error(
        "a quota is written as KIND=AMOUNT/SPAN, with @ZONE and ,carried=AMOUNT,until=TIME behind it where it has them, such \
         as `tokens=50000000/day`, `requests=1000/5h` or `usd=100/month@Europe/Berlin,carried=12.50,until=2027-01-01`"
    )]
    Form,
    /// Nothing that can be counted.
    #[error("a quota counts `requests`, `tokens`, `output_tokens` or `usd`")]
    Unit,
    /// Neither a span of the calendar nor a length.
    #[error("a quota's span is `day`, `week`, `month` or a length from 1m to 31d, such as `5h`")]
    Span,
    /// A quota of nothing.
    #[error("a quota of 0 would allow nothing: to disable a key, write `enabled: false`")]
    Zero,
    /// No time zone.
    #[error("the time zone is unknown: write one of the IANA database, such as `Europe/Berlin` or `UTC`")]
    Zone,
    /// A zone where no day begins.
    #[error("a length such as `5h` slides, and no zone changes it: a zone goes with `day`, `week` and `month`")]
    ZoneOfLength,
    /// The scope has that quota already.
    #[error("there are two quotas `{0}`: leave one of them out")]
    Twice(QuotaName),
    /// There are more than 16.
    #[error("there are more than {most} quotas: leave some out", most = Quotas::MOST)]
    TooMany,
    /// An amount that cannot be read.
    #[error("a quota of money is an amount of US dollars such as `12.50`, and one of anything else a whole number")]
    Amount,
    /// An amount of use elsewhere that cannot be read.
    #[error(
        "`carried` is 0 or an amount of what the quota counts: of money US dollars such as `12.50`, else a whole number"
    )]
    Carried,
    /// Use elsewhere of which it is not said until when it counts.
    #[error("`carried` without `until`: add when that use counts no longer, such as `until=2027-01-01T00:00:00Z`")]
    NoUntil,
    /// An end of use elsewhere of which it is not said how much it was.
    #[error("`until` without `carried`: add how much was used elsewhere before, such as `carried=40`")]
    NoCarried,
    /// An end of use elsewhere that cannot be read.
    #[error(
        "`until` is a time with its zone, such as `2027-01-01T00:00:00Z` (RFC 3339), or a date, such as `2027-01-01`"
    )]
    Until,
}

impl FromStr for QuotaSpan {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, QuotaError> {
        match text {
            "day" => return Ok(Self::Day),
            "week" => return Ok(Self::Week),
            "month" => return Ok(Self::Month),
            _ => {}
        }
        let digits = text.find(|character: char| !character.is_ascii_digit()).ok_or(QuotaError::Span)?;
        let (number, unit) = text.split_at(digits);
        let (seconds, _) = UNITS.iter().find(|(_, name)| *name == unit).ok_or(QuotaError::Span)?;
        let number: u64 = number.parse().map_err(|_| QuotaError::Span)?;
        let length = Duration::from_secs(number.saturating_mul(u64::from(*seconds)));
        SlidingLength::new(length).map(Self::Length).ok_or(QuotaError::Span)
    }
}

impl fmt::Display for QuotaSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day => formatter.write_str("day"),
            Self::Week => formatter.write_str("week"),
            Self::Month => formatter.write_str("month"),
            Self::Length(SlidingLength(length)) => {
                let whole = UNITS.iter().find(|(seconds, _)| length.is_multiple_of(*seconds));
                let (seconds, name) = whole.copied().unwrap_or((1, "s"));
                write!(formatter, "{}{name}", length / seconds)
            }
        }
    }
}

impl FromStr for QuotaUnit {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, QuotaError> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or(QuotaError::Unit)
    }
}

impl fmt::Display for QuotaName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}_per_{}", self.unit.as_str(), self.span)
    }
}

impl FromStr for QuotaName {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, QuotaError> {
        let (unit, span) = text.split_once("_per_").ok_or(QuotaError::Span)?;
        Ok(Self { unit: unit.parse()?, span: span.parse()? })
    }
}

impl QuotaUnit {
    /// Reads an amount of it, above 0.
    ///
    /// # Errors
    /// When it is none.
    pub fn amount(self, text: &str) -> Result<NonZeroU64, QuotaError> {
        NonZeroU64::new(self.amount_or_zero(text)?).ok_or(QuotaError::Zero)
    }

    /// Reads an amount of it, which may be 0.
    ///
    /// # Errors
    /// When it is none.
    pub fn amount_or_zero(self, text: &str) -> Result<u64, QuotaError> {
        match self {
            Self::Usd => {
                let usd: Usd = text.parse().map_err(|_| QuotaError::Amount)?;
                u64::try_from(usd.nanos()).map_err(|_| QuotaError::Amount)
            }
            _ if text.starts_with('_') || text.ends_with('_') || text.starts_with('+') => Err(QuotaError::Amount),
            _ => text.replace('_', "").parse().map_err(|_| QuotaError::Amount),
        }
    }

    /// An amount of it as people write it.
    #[must_use]
    pub fn written(self, amount: u64) -> String {
        match self {
            Self::Usd => Usd::from_nanos(i64::try_from(amount).unwrap_or(i64::MAX)).to_string(),
            _ => amount.to_string(),
        }
    }
}

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::UTC
    }
}

impl FromStr for Zone {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, QuotaError> {
        let zone = TimeZone::get(text).map_err(|_| QuotaError::Zone)?;
        if zone.is_unknown() { Err(QuotaError::Zone) } else { Ok(Self(zone)) }
    }
}

impl FromStr for Quota {
    type Err = QuotaError;

    /// Reads `KIND=AMOUNT/SPAN[@ZONE][,carried=AMOUNT,until=TIME]`, the form in which a command line has a quota.
    fn from_str(text: &str) -> Result<Self, QuotaError> {
        let (text, carried) = text.split_once(',').map_or((text, None), |(quota, carried)| (quota, Some(carried)));
        let (unit, rest) = text.split_once('=').ok_or(QuotaError::Form)?;
        let (amount, rest) = rest.split_once('/').ok_or(QuotaError::Form)?;
        let (span, zone) = rest.split_once('@').map_or((rest, None), |(span, zone)| (span, Some(zone)));
        let (unit, zone): (QuotaUnit, _) = (unit.parse()?, zone.map(str::parse).transpose()?);
        let quota = Self::new(QuotaName { unit, span: span.parse()? }, unit.amount(amount)?, zone)?;
        Ok(Self { carried: carried.map(|text| Carried::parse(text, unit)).transpose()?, ..quota })
    }
}

impl Carried {
    /// Reads `carried=AMOUNT,until=TIME`, in this order or the other.
    fn parse(text: &str, unit: QuotaUnit) -> Result<Self, QuotaError> {
        let parts: Vec<_> = text.split(',').map(|part| part.trim().split_once('=')).collect();
        let (amount, until) = match parts[..] {
            [Some(("carried", amount)), Some(("until", until))]
            | [Some(("until", until)), Some(("carried", amount))] => (amount, until),
            [Some(("carried", _))] => return Err(QuotaError::NoUntil),
            [Some(("until", _))] => return Err(QuotaError::NoCarried),
            _ => return Err(QuotaError::Form),
        };
        let amount = unit.amount_or_zero(amount).map_err(|_| QuotaError::Carried)?;
        Ok(Self { amount, until: moment(until).ok_or(QuotaError::Until)? })
    }
}

impl fmt::Display for Quota {
    /// As it is read.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QuotaName { unit, span } = self.name;
        write!(formatter, "{}={}/{span}", unit.as_str(), unit.written(self.amount.get()))?;
        if self.zone != Zone::UTC {
            write!(formatter, "@{}", self.zone.name())?;
        }
        match self.carried {
            Some(Carried { amount, until }) => write!(formatter, ",carried={},until={until}", unit.written(amount)),
            None => Ok(()),
        }
    }
}

impl Quota {
    /// One of which nothing was used elsewhere. Without a zone its days are those of UTC.
    ///
    /// # Errors
    /// When there is a zone, and a length in which no day begins.
    pub fn new(name: QuotaName, amount: NonZeroU64, zone: Option<Zone>) -> Result<Self, QuotaError> {
        match name.span {
            QuotaSpan::Length(_) if zone.is_some() => Err(QuotaError::ZoneOfLength),
            _ => Ok(Self { name, amount, zone: zone.unwrap_or_default(), carried: None }),
        }
    }

    /// Since when it counts what is used: since the calendar's span began, or for its length.
    #[must_use]
    pub fn counts_since(&self, now: Timestamp) -> Timestamp {
        match self.name.span {
            QuotaSpan::Length(length) => {
                let length = Duration::from_secs(u64::from(length.seconds()));
                now.checked_sub(length).unwrap_or(Timestamp::MIN)
            }
            span => span.calendar_begin(now, &self.zone).unwrap_or(Timestamp::MIN),
        }
    }

    /// What was used elsewhere and still counts.
    #[must_use]
    pub fn carried(&self, now: Timestamp) -> u64 {
        self.carried.filter(|carried| now < carried.until).map_or(0, |carried| carried.amount)
    }
}

#[cfg(test)]
mod tests;

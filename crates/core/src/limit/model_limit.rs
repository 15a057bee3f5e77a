//! One limit of some models within a key on one line, as command lines and forms have it: `GLOB:LIMIT`.

use std::{fmt, str::FromStr};

use thiserror::Error;

use super::{Limit, LimitError, LimitName, Limits, ModelLimits, Quota, QuotaError, QuotaUnit, ScopeLimits};
use crate::glob::{Glob, GlobError};

/// One limit of a key, for the models that a pattern fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLimit {
    /// Of which.
    pub models: Glob,
    /// What.
    pub limit: ScopeLimit,
}

/// One of the limits that a scope may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeLimit {
    /// Requests in any 60 seconds.
    RequestsPerMinute(Limit),
    /// Tokens in any 60 seconds.
    TokensPerMinute(Limit),
    /// Requests at once.
    ConcurrentRequests(Limit),
    /// What may be used over a longer time.
    Quota(Quota),
}

impl ModelLimits {
    /// Each of them that limits anything.
    pub fn each(&self) -> impl Iterator<Item = ModelLimit> {
        self.limits.each().map(move |limit| ModelLimit { models: self.models.clone(), limit })
    }
}

impl ScopeLimits {
    /// Each of them that limits anything.
    pub fn each(&self) -> impl Iterator<Item = ScopeLimit> {
        let Limits { requests_per_minute, tokens_per_minute, concurrent_requests } = self.minute;
        let minute = [
            ScopeLimit::RequestsPerMinute(requests_per_minute),
            ScopeLimit::TokensPerMinute(tokens_per_minute),
            ScopeLimit::ConcurrentRequests(concurrent_requests),
        ];
        let minute = minute.into_iter().filter(|limit| !limit.is_unlimited());
        minute.chain(self.quotas.iter().cloned().map(ScopeLimit::Quota))
    }
}

/// Why a text is no limit of models.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ModelLimitError {
    /// It does not say of which models it is, or how much.
    #[error(
        "a limit of models is written as GLOB:LIMIT, such as `text-embedding-*:requests_per_minute=3000` or \
         `gpt-4o*:usd=5/day`; the pattern of their names ends at the last `:` before the first `=`"
    )]
    Form,
    /// It says so of no pattern.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// There is no such limit.
    #[error(
        "there is no limit `{0}` of models: write `requests_per_minute`, `tokens_per_minute`, `concurrent_requests` or a quota \
         of `requests`, `tokens`, `output_tokens` or `usd`, such as `usd=5/day`"
    )]
    Unknown(String),
    /// A limit that allows nothing.
    #[error(
        "`{0}` of 0 would allow nothing: to keep the key from these models, leave them out of those that it may call"
    )]
    Zero(String),
    /// No limit of a minute or at once.
    #[error("`{0}`: {1}")]
    Limit(LimitName, LimitError),
    /// No quota.
    #[error(transparent)]
    Quota(QuotaError),
}

impl FromStr for ModelLimit {
    type Err = ModelLimitError;

    /// Reads `GLOB:LIMIT`. Names of models may have a `:`, as `llama3:8b` has, and so may what follows the first `=`.
    fn from_str(text: &str) -> Result<Self, ModelLimitError> {
        let (before, _) = text.split_once('=').ok_or(ModelLimitError::Form)?;
        let (models, _) = before.rsplit_once(':').ok_or(ModelLimitError::Form)?;
        let limit = text.get(models.len() + 1..).ok_or(ModelLimitError::Form)?;
        Ok(Self { models: models.trim().parse()?, limit: limit.trim().parse()? })
    }
}

impl FromStr for ScopeLimit {
    type Err = ModelLimitError;

    /// Reads `NAME=LIMIT`, or a quota.
    fn from_str(text: &str) -> Result<Self, ModelLimitError> {
        let (name, amount) = text.split_once('=').ok_or(ModelLimitError::Form)?;
        let limit = |of: LimitName| {
            amount.parse::<Limit>().map_err(|error| match error {
                LimitError::Zero => ModelLimitError::Zero(name.to_owned()),
                LimitError::Form | LimitError::TooLarge => ModelLimitError::Limit(of, error),
            })
        };
        Ok(match name {
            "requests_per_minute" => Self::RequestsPerMinute(limit(LimitName::RequestsPerMinute)?),
            "tokens_per_minute" => Self::TokensPerMinute(limit(LimitName::TokensPerMinute)?),
            "concurrent_requests" => Self::ConcurrentRequests(limit(LimitName::ConcurrentRequests)?),
            _ if name.parse::<QuotaUnit>().is_err() => return Err(ModelLimitError::Unknown(name.to_owned())),
            _ => Self::Quota(text.parse::<Quota>().map_err(|error| match error {
                QuotaError::Zero => ModelLimitError::Zero(name.to_owned()),
                error => ModelLimitError::Quota(error),
            })?),
        })
    }
}

impl ScopeLimit {
    /// Whether it limits nothing.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        let (Self::RequestsPerMinute(limit) | Self::TokensPerMinute(limit) | Self::ConcurrentRequests(limit)) = self
        else {
            return false;
        };
        limit.number().is_none()
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> LimitName {
        match self {
            Self::RequestsPerMinute(_) => LimitName::RequestsPerMinute,
            Self::TokensPerMinute(_) => LimitName::TokensPerMinute,
            Self::ConcurrentRequests(_) => LimitName::ConcurrentRequests,
            Self::Quota(quota) => LimitName::Quota(quota.name),
        }
    }
}

impl fmt::Display for ModelLimit {
    /// As it is read.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.models.as_str(), self.limit)
    }
}

impl fmt::Display for ScopeLimit {
    /// As it is read.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestsPerMinute(limit) | Self::TokensPerMinute(limit) | Self::ConcurrentRequests(limit) => {
                write!(formatter, "{}={limit}", self.name())
            }
            Self::Quota(quota) => quota.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limit::Quotas;

    fn read(text: &str) -> Result<ModelLimit, ModelLimitError> {
        text.parse()
    }

    #[test]
    fn the_pattern_ends_at_the_last_colon_before_the_first_equals_sign() {
        for (text, models, limit) in [
            ("text-embedding-*:requests_per_minute=3000", "text-embedding-*", "requests_per_minute=3000"),
            ("llama3:8b:tokens_per_minute=5_000", "llama3:8b", "tokens_per_minute=5000"),
            ("a:b:c:concurrent_requests=unlimited", "a:b:c", "concurrent_requests=unlimited"),
            (" gpt-4o* : usd=5.00/day ", "gpt-4o*", "usd=5/day"),
            ("m:requests=9/60m,carried=1,until=2027-01-01", "m", "requests=9/1h,carried=1,until=2027-01-01T00:00:00Z"),
            ("*:usd=5/day@Europe/Berlin", "*", "usd=5/day@Europe/Berlin"),
        ] {
            let read = read(text).unwrap();
            assert_eq!((read.models.as_str(), read.limit.to_string().as_str()), (models, limit), "{text}");
        }
    }

    #[test]
    fn what_is_no_limit_of_models_says_what_to_write() {
        for none in ["", "gpt-4o", "gpt-4o:5", "requests_per_minute=5", "a=b:requests_per_minute=5", "gpt-4o=5"] {
            assert_eq!(read(none), Err(ModelLimitError::Form), "{none}");
        }
        assert_eq!(read(":usd=5/day"), Err(ModelLimitError::Glob(GlobError::Empty)));
        assert_eq!(read("a\u{7f}:usd=5/day"), Err(ModelLimitError::Glob(GlobError::NoName)));
        for (text, why) in [
            ("m:mode=observe", "there is no limit `mode` of models: write `requests_per_minute`"),
            ("m:coins=5/day", "there is no limit `coins` of models"),
            ("llama3:8b requests_per_minute=5", "there is no limit `8b requests_per_minute` of models"),
            (
                "m:requests_per_minute=0",
                "`requests_per_minute` of 0 would allow nothing: to keep the key from these models",
            ),
            ("m:usd=0/day", "`usd` of 0 would allow nothing"),
            ("m:tokens_per_minute=many", "`tokens_per_minute`: a limit is `unlimited` or a whole number"),
            ("m:usd=5", "a quota is written as KIND=AMOUNT/SPAN"),
            ("m:usd=5/day,carried=1", "`carried` without `until`"),
        ] {
            let told = read(text).unwrap_err().to_string();
            assert!(told.starts_with(why), "{text}: {told}");
        }
    }

    #[test]
    fn limits_are_told_one_by_one() {
        let limits = ScopeLimits {
            minute: Limits { tokens_per_minute: "7".parse().unwrap(), ..Limits::UNLIMITED },
            quotas: Quotas::new(vec!["usd=5/day".parse().unwrap()]).unwrap(),
        };
        let limits = ModelLimits { models: Glob::new("llama3:8b"), limits };
        let lines: Vec<_> = limits.each().map(|limit| limit.to_string()).collect();
        assert_eq!(lines, ["llama3:8b:tokens_per_minute=7", "llama3:8b:usd=5/day"]);
    }

    proptest! {
        #[test]
        fn a_line_reads_back_as_it_is_written(
            models in "[a-z0-9*?:./-]{1,20}",
            limit in prop::sample::select(vec![
                "requests_per_minute=5", "tokens_per_minute=unlimited", "concurrent_requests=18446744073709551615",
                "usd=0.000000001/month@Europe/Berlin", "requests=5/5h,carried=5,until=2027-01-01T00:00:00.5Z",
            ]),
        ) {
            let line = format!("{models}:{limit}");
            let read = read(&line).unwrap();
            prop_assert_eq!(read.models.as_str(), models);
            prop_assert_eq!(read.to_string(), line);
        }

        #[test]
        fn any_text_is_one_or_none(text in "\\PC{0,30}|[a:=/*,]{0,12}") {
            let _ = read(&text);
        }
    }
}

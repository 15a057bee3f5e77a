//! Values that the file writes as one scalar, each parsed into a type of its own. What they mean together is said by
//! the modules that check a section.

mod choices;
mod collector_url;
mod issuer;
mod percentages;
mod pools;
mod shared_url;

pub use self::{
    choices::{ApiKeyHeader, InjectUsage, LoggedAddress, OnRevoke, WhenUnreachable},
    collector_url::{CollectorUrl, CollectorUrlError},
    issuer::JwtAlgorithm,
    percentages::SampleRatio,
    pools::{AffinityBy, Balance},
    shared_url::{ServerAddress, Servers, SharedUrl},
};
pub(super) use self::{
    choices::{ClientAbort, SecretChecksum},
    issuer::IssuerName,
    percentages::Percent,
    pools::LoadPercent,
};

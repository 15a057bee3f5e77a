//! Tokens of issuers (JWT, RFC 7519), which clients send in place of a secret. A token is checked once: then it stands for
//! the key of its holder, by a hash that is looked up like a secret's, and is remembered until it expires.

mod issuer;
mod token;

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use jiff::Timestamp;
use keymeter_config::keys::JwtIssuer;
use keymeter_core::{clock::Now, key::KeyHash};
use moka::sync::Cache;
use thiserror::Error;
use tokio::sync::watch;

use self::issuer::Issuer;
pub use self::token::{LONGEST_TOKEN, has_three_parts, stated_issuer};
use super::service::ClientError;
use crate::observe::metrics::Metrics;

/// The issuers whose tokens are taken, and the tokens of theirs that were checked.
pub struct Issuers {
    taken: ArcSwap<Vec<Arc<Issuer>>>,
    /// Tells whoever renews keys that the issuers are others.
    replaced: watch::Sender<()>,
    /// By the hash of the token: no token is kept.
    checked: Cache<KeyHash, Checked>,
    metrics: Arc<Metrics>,
}

/// A token that was checked.
#[derive(Clone)]
struct Checked {
    /// The hash by which its holder's key is looked up.
    holder: KeyHash,
    /// From then on it has expired.
    end: Timestamp,
    issuer: Arc<Issuer>,
    /// Which of the issuer's keys held when it was checked.
    generation: u32,
}

/// How many tokens are remembered. One has some hundred bytes here; of more, the rarer ones are checked each time.
const CHECKED_CAPACITY: u64 = 100_000;

/// Why a token is no holder's.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// It is none, is not for us, has expired, or nobody signed it whom we trust.
    #[error("the token is not valid")]
    Invalid,
    /// The issuer's keys are not known, and it does not answer.
    #[error("the issuer's keys are not known, and it does not answer")]
    Unavailable,
}

/// Issuers that can take the place of others.
pub struct NewIssuers(Vec<Arc<Issuer>>);

impl Issuers {
    /// No issuers.
    #[must_use]
    pub fn none(metrics: Arc<Metrics>) -> Self {
        Self {
            taken: ArcSwap::default(),
            replaced: watch::Sender::default(),
            checked: Cache::new(CHECKED_CAPACITY),
            metrics,
        }
    }

    /// The issuers that `terms` say. Those that are here already keep what is known of them.
    ///
    /// # Errors
    /// When the certificates of one cannot be used.
    pub fn prepare(&self, terms: &[JwtIssuer]) -> Result<NewIssuers, ClientError> {
        let known = self.taken.load();
        let issuer = |terms: &JwtIssuer| match known.iter().find(|issuer| issuer.terms == *terms) {
            Some(issuer) => Ok(issuer.clone()),
            None => Issuer::new(terms.clone(), &self.metrics).map(Arc::new),
        };
        terms.iter().map(issuer).collect::<Result<_, _>>().map(NewIssuers)
    }

    /// From now on tokens of these are taken, and of no others.
    pub fn replace(&self, NewIssuers(issuers): NewIssuers) {
        let before = self.taken.swap(Arc::new(issuers.clone()));
        let is_in = |all: &[Arc<Issuer>], one| all.iter().any(|other| Arc::ptr_eq(other, one));
        let gone: Vec<_> = before.iter().filter(|issuer| !is_in(&issuers, issuer)).collect();
        for issuer in &gone {
            issuer.retire();
            if !issuers.iter().any(|other| other.terms.issuer == issuer.terms.issuer) {
                self.metrics.forget_issuer(&issuer.terms.issuer);
            }
        }
        if !gone.is_empty() || issuers.iter().any(|issuer| !is_in(&before, issuer)) {
            self.replaced.send_replace(());
        }
    }

    /// Whether there are none, so that no credential is a token.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.taken.load().is_empty()
    }

    /// The hash by which the key of a token's holder is looked up, if the token was checked before and is still valid.
    #[must_use]
    pub fn known_holder(&self, token: &KeyHash, now: Timestamp) -> Option<KeyHash> {
        let checked = self.checked.get(token)?;
        if now < checked.end && checked.issuer.trusts_since(checked.generation) {
            return Some(checked.holder);
        }
        self.checked.invalidate(token);
        None
    }

    /// The issuer that a text names, if it is a token of one of these. Nothing is checked yet.
    #[must_use]
    pub fn issuer_of(&self, text: &str) -> Option<TokenIssuer> {
        let named = stated_issuer(text)?;
        self.taken.load().iter().find(|issuer| *issuer.terms.issuer == *named).cloned().map(TokenIssuer)
    }

    /// Checks a token, whose hash is `hash`, by the keys of its issuer. Returns the hash by which its holder's key is looked up.
    ///
    /// # Errors
    /// When it is not valid, or nobody can tell.
    pub async fn check(
        &self,
        TokenIssuer(issuer): TokenIssuer,
        token: &str,
        hash: KeyHash,
        now: Now,
    ) -> Result<KeyHash, TokenError> {
        // Keys that go while the token is checked were not trusted when it was remembered.
        let generation = issuer.generation();
        let claims = issuer.check(token, now).await?;
        let holder = KeyHash::of_token_holder(&issuer.terms.issuer, &claims.holder);
        self.checked.insert(hash, Checked { holder, end: claims.end, issuer, generation });
        Ok(holder)
    }

    /// How many tokens are remembered.
    #[must_use]
    pub fn remembered(&self) -> u64 {
        self.checked.run_pending_tasks();
        self.checked.entry_count()
    }

    /// Forgets tokens that have expired.
    pub fn evict_expired(&self, now: Timestamp) {
        for (token, checked) in &self.checked {
            if now >= checked.end || !checked.issuer.trusts_since(checked.generation) {
                self.checked.invalidate(&*token);
            }
        }
        self.checked.run_pending_tasks();
    }

    /// Fetches the keys of all issuers, and renews them.
    pub async fn run(&self) {
        let mut replaced = self.replaced.subscribe();
        loop {
            let issuers = self.taken.load_full();
            let renewing = async {
                join_all(issuers.iter().map(Issuer::run)).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = renewing => {}
                // The sender is ours.
                _ = replaced.changed() => {}
            }
        }
    }
}

/// An issuer that a token names.
pub struct TokenIssuer(Arc<Issuer>);

#[cfg(test)]
mod tests;

//! Whose request it is: from its credential to its key, and whether that may be used.

use std::{net::IpAddr, sync::Arc};

use http::HeaderMap;
use keymeter_core::{
    key::{KeyDenial, KeyHash, KeyRecord},
    limit::{LimitMode, Scope},
    rejection::{Refused, Rejection},
};

use super::{
    Gate, Now, Rejected, RequestContext,
    credential::{CredentialError, credential},
};
use crate::{
    keys::{Key, ResolveError, jwt::TokenError},
    observe::metrics::Unauthorized,
};

/// Where a request's credential may stand.
pub struct Credentials<'request> {
    /// Its headers.
    pub headers: &'request HeaderMap,
    /// What its query says, where a path of its API may bear one.
    pub in_query: Option<&'request str>,
}

/// A request whose key is known and may be used.
pub struct Identified {
    /// What is known of the request.
    pub context: RequestContext,
    /// Whose it is.
    pub key: Arc<Key>,
}

impl Identified {
    /// The same, refused after all.
    #[must_use]
    pub fn rejected(self, rejection: Rejection) -> Box<Rejected> {
        Rejected::new(self.context, Some(self.key), rejection)
    }

    /// What is known of the key.
    #[must_use]
    pub fn record(&self) -> &KeyRecord {
        &self.key.record
    }
}

impl Gate {
    /// Finds the key of a request.
    ///
    /// # Errors
    /// When it bears no key that may be used now.
    pub async fn identify(
        &self,
        context: RequestContext,
        credentials: Credentials<'_>,
        now: Now,
    ) -> Result<Identified, Box<Rejected>> {
        match self.key_of(&context, credentials, now).await {
            Ok((key, _)) if !key.record.may_come_from(context.from) => {
                let rejection = Rejection::AddressNotAllowed(key.record.id.clone());
                Err(Rejected::new(context, Some(key), rejection))
            }
            Ok((key, None)) => Ok(Identified { context, key }),
            Ok((key, Some(KeyDenial::NoBalance))) if observes(&context, &key) => {
                let context = RequestContext { observed: Some((Refused::Balance, Scope::Key)), ..context };
                Ok(Identified { context, key })
            }
            Ok((key, Some(denial))) => {
                let rejection = Rejection::of_bar(denial, key.record.id.clone());
                Err(Rejected::new(context, Some(key), rejection))
            }
            Err(rejection) => Err(Rejected::new(context, None, rejection)),
        }
    }

    async fn key_of(
        &self,
        context: &RequestContext,
        credentials: Credentials<'_>,
        now: Now,
    ) -> Result<(Arc<Key>, Option<KeyDenial>), Rejection> {
        let from = context.from;
        let credential = match credential(credentials.headers, credentials.in_query, !self.issuers.are_none()) {
            Ok(credential) => credential,
            Err(CredentialError::Missing) => return Err(self.stranger(from, Unauthorized::Missing)),
            Err(CredentialError::Malformed) => return Err(self.stranger(from, Unauthorized::Malformed)),
        };
        let hash = credential.hash();
        if let Some(token) = credential.token().filter(|_| !self.issuers.are_none())
            && let Some(holder) = self.holder_of(token, hash, from, now).await?
        {
            let known = self.resolver.known(&holder);
            if known.is_none() && self.resolver.is_known_key(&holder) == Some(false) && self.throttle.is_throttled(from)
            {
                return Err(self.throttled());
            }
            return self.key(holder, known, from, now).await;
        }
        let known = self.resolver.known(&hash);
        if known.is_none() {
            if !credential.may_be_secret() {
                return Err(self.stranger(from, Unauthorized::Malformed));
            }
            let is_malformed = context.settings.secret_checksum_required && !credential.is_well_formed();
            self.inspect_stranger(is_malformed, &hash, from)?;
        }
        self.key(hash, known, from, now).await
    }

    /// The hash by which the key of a token's holder is looked up; `None` if it is no token of an issuer that is known, so
    /// that it may be a secret.
    async fn holder_of(
        &self,
        token: &str,
        hash: KeyHash,
        from: IpAddr,
        now: Now,
    ) -> Result<Option<KeyHash>, Rejection> {
        if let Some(holder) = self.issuers.known_holder(&hash, now.date) {
            return Ok(Some(holder));
        }
        let Some(issuer) = self.issuers.issuer_of(token) else { return Ok(None) };
        if self.throttle.is_throttled(from) && !self.throttle.may_look_up() {
            return Err(self.throttled());
        }
        // Boxed, so that the futures of cached keys stay small.
        match Box::pin(self.issuers.check(issuer, token, hash, now)).await {
            Ok(holder) => Ok(Some(holder)),
            Err(TokenError::Invalid) => Err(self.stranger(from, Unauthorized::Malformed)),
            Err(TokenError::Unavailable) => Err(Rejection::SourceUnavailable),
        }
    }

    /// Whose request this still is, after some time has passed: its key may have changed meanwhile. Says what time it is then: a
    /// key that has changed is looked up, which may take seconds.
    ///
    /// # Errors
    /// When the key may not be used any more.
    pub(super) async fn confirm(&self, request: &mut Identified, clock: &impl Fn() -> Now) -> Result<Now, Rejection> {
        let mut now = clock();
        let denial = if self.resolver.is_current(&request.key) {
            request.key.denial(now.date)
        } else {
            let hash = *request.key.hash();
            let (key, denial) = self.key(hash, self.resolver.known(&hash), request.context.from, now).await?;
            request.key = key;
            now = clock();
            if !request.record().may_come_from(request.context.from) {
                return Err(Rejection::AddressNotAllowed(request.record().id.clone()));
            }
            denial
        };
        match denial {
            None => Ok(now),
            Some(KeyDenial::NoBalance) if observes(&request.context, &request.key) => Ok(now),
            Some(denial) => Err(Rejection::of_bar(denial, request.key.record.id.clone())),
        }
    }

    /// The key that a secret with `hash` belongs to, and why that may not be used, if it may not.
    async fn key(
        &self,
        hash: KeyHash,
        known: Option<Arc<Key>>,
        from: IpAddr,
        now: Now,
    ) -> Result<(Arc<Key>, Option<KeyDenial>), Rejection> {
        match self.resolver.resolve_known(hash, known, now.moment).await {
            Ok(key) => match key.denial(now.date) {
                Some(KeyDenial::Unknown) => Err(self.stranger(from, Unauthorized::Unknown)),
                bar => Ok((key, bar)),
            },
            Err(ResolveError::Unknown) => Err(self.stranger(from, Unauthorized::Unknown)),
            Err(ResolveError::Unavailable(error)) => {
                tracing::warn!("{error}");
                Err(Rejection::SourceUnavailable)
            }
        }
    }

    /// Whether a secret that is not in the cache may be looked up for whoever is at `from`. A key that is in memory is never
    /// throttled, and what is no key costs no look-up.
    fn inspect_stranger(&self, is_malformed: bool, hash: &KeyHash, from: IpAddr) -> Result<(), Rejection> {
        let is_known_key = if is_malformed { Some(false) } else { self.resolver.is_known_key(hash) };
        let is_throttled = match is_known_key {
            Some(true) => false,
            Some(false) => self.throttle.is_throttled(from),
            None => self.throttle.is_throttled(from) && !self.throttle.may_look_up(),
        };
        if is_throttled {
            return Err(self.throttled());
        }
        if is_malformed { Err(self.stranger(from, Unauthorized::Malformed)) } else { Ok(()) }
    }

    fn throttled(&self) -> Rejection {
        self.metrics.unauthorized(Unauthorized::Throttled);
        Rejection::Throttled
    }

    /// Counts a bad key against the address that it came from.
    fn stranger(&self, from: IpAddr, reason: Unauthorized) -> Rejection {
        self.throttle.bad_key(from);
        self.metrics.unauthorized(reason);
        Rejection::InvalidKey
    }
}

/// Whether limits and balance only count for the requests of a key.
fn observes(context: &RequestContext, key: &Key) -> bool {
    context.settings.limit_mode_of(&key.record) == LimitMode::Observe
}

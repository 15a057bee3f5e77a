//! Throttling of wrong tokens, on the page, in the API and on the gateways' calls, and apart from them of attempts to sign in
//! by an issuer that fail. An address that sends many wrong
//! tokens in a minute has to wait, which bounds the cost of guessing; a token of 32 characters cannot be guessed at that
//! rate.
//!
//! A right token is accepted from a throttled address too, so that a guesser locks out nobody behind the same address.
//! The operator's and the gateways' tokens are compared in memory. Users' tokens are looked up, and for throttled
//! addresses one at a time: that is all of the database that guessing can occupy.

use std::{future::Future, net::IpAddr, time::Duration};

use keymeter_throttle::AuthThrottle;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{error::ApiError, store::StoreError};

/// Wrong tokens that an address may send in a minute.
const MOST: isize = 20;
const MINUTE: Duration = Duration::from_mins(1);

/// How long a look-up for a throttled address waits for those before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts the wrong tokens of each address.
pub struct TokenThrottle {
    wrong: AuthThrottle,
    /// For look-ups of tokens that come from throttled addresses.
    place: Semaphore,
}

impl Default for TokenThrottle {
    fn default() -> Self {
        Self { wrong: AuthThrottle::new(MOST, MINUTE), place: Semaphore::new(1) }
    }
}

impl TokenThrottle {
    /// What a token stands for that `address` sent, as the database says.
    ///
    /// # Errors
    /// When it stands for nothing, or too many such came from there.
    pub async fn look_up<T>(
        &self,
        address: IpAddr,
        found: impl Future<Output = Result<Option<T>, StoreError>>,
    ) -> Result<T, ApiError> {
        let _place = self.place_for(address).await.ok_or_else(|| ApiError::too_many_attempts(MINUTE))?;
        found.await?.ok_or_else(|| self.refuse(address))
    }

    /// Runs an attempt to sign in by an issuer that `address` makes. One that fails is counted, whoever is to blame.
    ///
    /// # Errors
    /// When it fails, or too many such came from there.
    pub async fn attempt<T>(
        &self,
        address: IpAddr,
        attempt: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let _place = self.place_for(address).await.ok_or_else(|| ApiError::too_many_sign_ins(MINUTE))?;
        let done = attempt.await;
        if done.is_err() && self.wrong.is_throttled(address) {
            return Err(ApiError::too_many_sign_ins(MINUTE));
        }
        if done.is_err() {
            self.wrong.bad_key(address);
        }
        done
    }

    /// The place of whatever is looked up for `address`, if it is throttled; `None`: none is free for long.
    async fn place_for(&self, address: IpAddr) -> Option<Option<SemaphorePermit<'_>>> {
        if !self.wrong.is_throttled(address) {
            return Some(None);
        }
        let place = timeout(PATIENCE, self.place.acquire()).await;
        // It is never closed.
        place.ok()?.ok().map(Some)
    }

    /// What is said to a wrong token from `address`, which is counted.
    pub fn refuse(&self, address: IpAddr) -> ApiError {
        if self.wrong.is_throttled(address) {
            // The sketch tells no time, but its minute is over before another is.
            return ApiError::too_many_attempts(MINUTE);
        }
        self.wrong.bad_key(address);
        ApiError::unauthorized()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(throttle: &TokenThrottle, address: &str, found: Option<()>) -> Result<(), u16> {
        let found = throttle.look_up(address.parse().unwrap(), async { Ok(found) }).await;
        found.map_err(|refusal| refusal.status().as_u16())
    }

    #[tokio::test]
    async fn an_address_that_guesses_waits_unless_its_token_is_right() {
        let throttle = TokenThrottle::default();
        for _ in 0..MOST {
            assert_eq!(sent(&throttle, "192.0.2.1", None).await, Err(401));
        }
        assert_eq!(sent(&throttle, "192.0.2.1", None).await, Err(429));
        assert_eq!(sent(&throttle, "192.0.2.1", Some(())).await, Ok(()));
        assert_eq!(sent(&throttle, "192.0.2.2", None).await, Err(401));
    }

    #[tokio::test]
    async fn addresses_of_one_subscriber_count_together() {
        let throttle = TokenThrottle::default();
        for number in 0..MOST {
            assert_eq!(sent(&throttle, &format!("2001:db8:1:2::{number:x}"), None).await, Err(401));
        }
        assert_eq!(sent(&throttle, "2001:db8:1:2:ffff::9", None).await, Err(429));
        assert_eq!(sent(&throttle, "2001:db8:1:3::1", None).await, Err(401));
    }
}

//! Sessions of the page, proven by a signed cookie. A session is stored only once it is ended, so that every instance
//! over one database knows it and a restart ends none. Its user is looked up at each request: the session ends with the
//! user's token. One that began by an issuer ends, too, when its user or the operator does not sign in by that value any more.
//!
//! The browser sends the cookie of a session with nothing that begins at another site. Whoever comes back from an issuer does,
//! so that an attempt to sign in has a cookie of its own, which is good for some minutes and for nothing else.

use axum::http::{HeaderMap, HeaderValue, header};
use hmac::{Hmac, Mac};
use jiff::Timestamp;
use keymeter_core::key::KeyHash;
use sha2::Sha256;

use crate::{
    oidc::{FLOW_LIFE, Flow},
    store::{Store, StoreError},
};

/// Twelve hours, in seconds.
const LIFE: i64 = 12 * 3600;

/// Makes sessions, and reads them.
pub struct Sessions {
    mac: Hmac<Sha256>,
}

/// One browser's stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserSession {
    /// Whose it is.
    pub holder: Holder,
    /// By which it differs from all others.
    nonce: String,
    /// Seconds since 1970.
    until: i64,
}

/// Whose a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody has signed in yet.
    Visitor,
    /// The operator's, by their token.
    Operator,
    /// The operator's, by an issuer: the mark of the value by which they signed in.
    IssuedOperator(KeyHash),
    /// That of the user whose token has this hash.
    User(KeyHash),
    /// That of such a user who signed in by an issuer.
    IssuedUser {
        /// Of the token that they had then.
        token: KeyHash,
        /// Of the value by which they signed in.
        mark: KeyHash,
    },
}

impl Sessions {
    /// Signs with what the database keeps for it and with the operator's token: another token ends all sessions, and
    /// who knows only one of the two makes none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open(store: &Store, operator: &KeyHash) -> Result<Self, StoreError> {
        let key = format!("{} {}", store.page_secret().await?.reveal(), operator.to_hex());
        Ok(Self { mac: keyed(key.as_bytes()) })
    }

    /// A new session.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn begin(holder: Holder, now: Timestamp) -> Result<BrowserSession, getrandom::Error> {
        Ok(BrowserSession { holder, nonce: nonce()?, until: now.as_second() + LIFE })
    }

    /// The `set-cookie` of a session.
    pub fn cookie(&self, session: &BrowserSession, is_secure: bool) -> Option<HeaderValue> {
        let text = session.text();
        let signature = self.signed("cookie", &text);
        SESSION.set(is_secure, &format!("{text}.{signature}"), LIFE)
    }

    /// The session that a request comes in.
    pub fn read(&self, headers: &HeaderMap, now: Timestamp) -> Option<BrowserSession> {
        let session = SESSION.values(headers, is_secure(headers)).find_map(|value| self.session(value));
        session.filter(|session| session.until > now.as_second())
    }

    fn session(&self, value: &str) -> Option<BrowserSession> {
        let (text, signature) = value.rsplit_once('.')?;
        self.is_signed("cookie", text, signature).then(|| BrowserSession::parse(text))?
    }

    /// The `set-cookie` of an attempt to sign in.
    pub fn flow_cookie(&self, flow: &Flow, is_secure: bool) -> Option<HeaderValue> {
        let text = flow.text();
        let signature = self.signed("flow", &text);
        FLOW.set(is_secure, &format!("{text}.{signature}"), FLOW_LIFE)
    }

    /// The attempt to sign in that began in the browser from which a request comes.
    pub fn flow(&self, headers: &HeaderMap, is_secure: bool, now: Timestamp) -> Option<Flow> {
        let read = |value: &str| {
            let (text, signature) = value.rsplit_once('.')?;
            self.is_signed("flow", text, signature).then(|| Flow::parse(text))?
        };
        FLOW.values(headers, is_secure).find_map(read).filter(|flow| flow.until() > now.as_second())
    }

    /// What each form of a session bears, and no other's.
    pub fn form_token(&self, session: &BrowserSession) -> String {
        self.signed("form", &session.nonce)
    }

    /// Whether a form bears it.
    pub fn is_own_form(&self, session: &BrowserSession, token: &str) -> bool {
        self.is_signed("form", &session.nonce, token)
    }

    fn signed(&self, what: &str, text: &str) -> String {
        let bytes: [u8; 32] = self.mac_of(what, text).finalize().into_bytes().into();
        hex::encode(bytes)
    }

    fn is_signed(&self, what: &str, text: &str, signature: &str) -> bool {
        hex::decode(signature).is_ok_and(|signature| self.mac_of(what, text).verify_slice(&signature).is_ok())
    }

    fn mac_of(&self, what: &str, text: &str) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(what.as_bytes());
        mac.update(b"\n");
        mac.update(text.as_bytes());
        mac
    }
}

impl BrowserSession {
    /// Ends it, so that its cookie is of no use to anybody who has a copy.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end(&self, store: &Store) -> Result<(), StoreError> {
        store.end_session(&self.nonce, self.until).await.map(drop)
    }

    /// Whether it was ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_over(&self, store: &Store) -> Result<bool, StoreError> {
        store.is_session_ended(&self.nonce).await
    }

    fn text(&self) -> String {
        let holder = match &self.holder {
            Holder::Visitor => "visitor".to_owned(),
            Holder::Operator => "operator".to_owned(),
            Holder::IssuedOperator(mark) => format!("operator-{}", mark.to_hex()),
            Holder::User(token) => token.to_hex(),
            Holder::IssuedUser { token, mark } => format!("{}-{}", token.to_hex(), mark.to_hex()),
        };
        format!("{}.{holder}.{}", self.until, self.nonce)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (until, holder, nonce) = (parts.next()?, parts.next()?, parts.next()?);
        let hash = |hex: &str| format!("sha256:{hex}").parse().ok();
        let holder = match holder.split_once('-') {
            None if holder == "visitor" => Holder::Visitor,
            None if holder == "operator" => Holder::Operator,
            None => Holder::User(hash(holder)?),
            Some(("operator", mark)) => Holder::IssuedOperator(hash(mark)?),
            Some((token, mark)) => Holder::IssuedUser { token: hash(token)?, mark: hash(mark)? },
        };
        Some(Self { holder, nonce: nonce.to_owned(), until: until.parse().ok()? })
    }
}

/// What nobody guesses.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn nonce() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// The `set-cookie` that ends a session.
pub fn no_cookie(is_secure: bool) -> Option<HeaderValue> {
    SESSION.set(is_secure, "", 0)
}

/// The `set-cookie` that ends an attempt to sign in.
pub fn no_flow_cookie(is_secure: bool) -> Option<HeaderValue> {
    FLOW.set(is_secure, "", 0)
}

/// Whether the browser reached us by HTTPS, as the proxy before us says.
pub fn is_secure(headers: &HeaderMap) -> bool {
    let stated = headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
    stated.and_then(|protocols| protocols.split(',').next()).is_some_and(|protocol| protocol.trim() == "https")
}

/// A cookie of ours.
struct Cookie {
    name: &'static str,
    /// The same where the browser reached us by HTTPS: by it the browser lets no other host set the cookie.
    secure_name: &'static str,
    same_site: &'static str,
}

const SESSION: Cookie = Cookie { name: "keymeter", secure_name: "__Host-keymeter", same_site: "Strict" };

/// It has to come back with whoever comes back from an issuer.
const FLOW: Cookie = Cookie { name: "keymeter-sign-in", secure_name: "__Host-keymeter-sign-in", same_site: "Lax" };

impl Cookie {
    fn name(&self, is_secure: bool) -> &'static str {
        if is_secure { self.secure_name } else { self.name }
    }

    fn set(&self, is_secure: bool, value: &str, seconds: i64) -> Option<HeaderValue> {
        let secure = if is_secure { "; Secure" } else { "" };
        let (name, same_site) = (self.name(is_secure), self.same_site);
        let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite={same_site}{secure}");
        HeaderValue::try_from(text).ok()
    }

    /// What a browser sent by this name.
    fn values<'headers>(&self, headers: &'headers HeaderMap, is_secure: bool) -> impl Iterator<Item = &'headers str> {
        let name = self.name(is_secure);
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(move |(stated, _)| *stated == name).map(|(_, value)| value)
    }
}

#[allow(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(key: &str) -> Sessions {
        Sessions { mac: keyed(key.as_bytes()) }
    }

    fn headers(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::try_from(cookie).unwrap())])
    }

    fn cookie_of(sessions: &Sessions, session: &BrowserSession) -> String {
        let set = sessions.cookie(session, false).unwrap();
        set.to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    #[test]
    fn a_cookie_is_read_back_until_it_ends() {
        let (sessions, now) = (sessions("key"), Timestamp::now());
        let [token, mark] = [b"token", b"value"].map(|text| KeyHash::digest(text));
        for holder in [
            Holder::Visitor,
            Holder::Operator,
            Holder::IssuedOperator(mark),
            Holder::User(token),
            Holder::IssuedUser { token, mark },
        ] {
            let session = Sessions::begin(holder, now).unwrap();
            let headers = headers(&format!("other=1; keymeter=forged; {}", cookie_of(&sessions, &session)));
            assert_eq!(sessions.read(&headers, now), Some(session));
            let end = Timestamp::from_second(now.as_second() + LIFE).unwrap();
            assert_eq!(sessions.read(&headers, end), None);
        }
    }

    #[test]
    fn what_is_changed_or_signed_by_another_is_no_session() {
        let (own, now) = (sessions("key"), Timestamp::now());
        let session = Sessions::begin(Holder::Visitor, now).unwrap();
        let cookie = cookie_of(&own, &session);
        assert_eq!(sessions("another").read(&headers(&cookie), now), None);
        for changed in
            [cookie.replace("visitor", "operator"), format!("{cookie}0"), cookie.replace('.', ""), String::new()]
        {
            assert_eq!(own.read(&headers(&changed), now), None, "{changed}");
        }
    }

    #[test]
    fn an_attempt_to_sign_in_is_no_session_and_ends_by_itself() {
        let (sessions, now) = (sessions("key"), Timestamp::now());
        let flow = Flow::begin(now.as_second()).unwrap();
        let set = sessions.flow_cookie(&flow, true).unwrap().to_str().unwrap().to_owned();
        assert!(
            set.starts_with("__Host-keymeter-sign-in=") && set.contains("; HttpOnly; SameSite=Lax; Secure"),
            "{set}"
        );
        let cookie = set.split(';').next().unwrap();
        assert!(sessions.flow(&headers(cookie), true, now) == Some(flow.clone()));
        assert!(sessions.flow(&headers(cookie), false, now).is_none(), "the other name");
        let end = Timestamp::from_second(flow.until()).unwrap();
        assert!(sessions.flow(&headers(cookie), true, end).is_none());
        assert!(sessions.flow(&headers(&cookie.replace('.', "..")), true, now).is_none());
        let value = cookie.split_once('=').unwrap().1;
        assert_eq!(sessions.read(&headers(&format!("keymeter={value}")), now), None);
        let session = Sessions::begin(Holder::Operator, now).unwrap();
        let as_flow = cookie_of(&sessions, &session).replace("keymeter=", "keymeter-sign-in=");
        assert!(sessions.flow(&headers(&as_flow), false, now).is_none());
    }

    #[test]
    fn a_form_is_one_sessions_and_no_cookie() {
        let (sessions, now) = (sessions("key"), Timestamp::now());
        let [one, other] = [0, 1].map(|_| Sessions::begin(Holder::Operator, now).unwrap());
        let token = sessions.form_token(&one);
        assert!(sessions.is_own_form(&one, &token));
        assert!(!sessions.is_own_form(&other, &token));
        assert!(!sessions.is_own_form(&one, ""));
        assert_eq!(sessions.read(&headers(&format!("keymeter={}.{token}", one.nonce)), now), None);
    }
}

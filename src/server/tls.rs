//! The certificate for clients. It can be replaced while the gateway runs, so that renewing it needs no restart. Open connections
//! keep the one they began with.

use std::sync::Arc;

use arc_swap::ArcSwap;
use keymeter_config::Tls;
use pingora::tls::{ClientHello, ResolvesServerCert, ServerConfig, sign::CertifiedKey};

/// The current certificate.
#[derive(Debug)]
pub struct Certificate {
    current: ArcSwap<CertifiedKey>,
}

/// A certificate with its key, as read from files.
#[derive(Debug)]
pub struct Pair(Arc<CertifiedKey>);

impl Pair {
    /// Reads both from their files.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together.
    pub fn read(tls: &Tls) -> Result<Self, String> {
        pingora::tls::install_default_crypto_provider();
        let paths = (tls.cert.to_str(), tls.key.to_str());
        let (Some(cert), Some(key)) = paths else { return Err("its path is not UTF-8".to_owned()) };
        let files = pingora::tls::load_certs_and_key_files(cert, key).map_err(|error| error.to_string())?;
        let (certificates, key) = files.ok_or("the files hold no certificate, or no key")?;
        let builder = ServerConfig::builder();
        let pair = CertifiedKey::from_der(certificates, key, builder.crypto_provider());
        pair.map(|pair| Self(Arc::new(pair))).map_err(|error| error.to_string())
    }
}

impl Certificate {
    /// A certificate that is `pair` at first.
    #[must_use]
    pub fn new(Pair(pair): Pair) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::new(pair) })
    }

    /// Uses `pair` from the next handshake on.
    pub fn replace(&self, Pair(pair): Pair) {
        self.current.store(pair);
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

//! The authorities by which upstreams by TLS are trusted where none are named: those of the system. Whoever makes connections by
//! Pingora asks here first.

use std::sync::OnceLock;

use pingora::tls::{RootCertStore, load_platform_certs_incl_env_into_store};

/// The file of the authorities; `None`: the system's. Where the system has none that can be read, as in an empty image, Pingora
/// would end the process, although few gateways need one: then there are none, and the log says so, once.
pub fn file() -> Option<String> {
    static FILE: OnceLock<Option<String>> = OnceLock::new();
    FILE.get_or_init(|| {
        let error = load_platform_certs_incl_env_into_store(&mut RootCertStore::empty()).err()?;
        tracing::warn!(
            "the certificates of this system cannot be read ({error}): upstreams by https need `ca`, or install \
             ca-certificates, or set SSL_CERT_FILE"
        );
        Some("/dev/null".to_owned())
    })
    .clone()
}

//! What is known of the gateway that keys are for: where programs reach it, and which models it serves by name.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use keymeter_core::{api::Api, glob::Glob};
use parking_lot::RwLock;

/// The gateway of the same process.
pub struct Gateway {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it is spoken to with TLS.
    pub is_tls: bool,
    /// The models that it serves at the moment, of those that are written by name, and the API of each.
    pub models: Box<dyn Fn() -> Vec<(Arc<str>, Api)> + Send + Sync>,
}

/// What the control plane knows of it.
#[derive(Default)]
pub(crate) struct KnownGateway {
    /// As the configuration says it: this counts before where it listens.
    url: Option<Arc<str>>,
    beside: RwLock<Option<Gateway>>,
}

impl KnownGateway {
    pub(crate) fn new(url: Option<Arc<str>>) -> Self {
        Self { url, beside: RwLock::default() }
    }

    pub(crate) fn introduce(&self, gateway: Gateway) {
        *self.beside.write() = Some(gateway);
    }

    /// Where programs reach it, without a path. One that listens on all addresses is reached at the `host` at which the
    /// browser reached us.
    pub(crate) fn url(&self, host: Option<&str>) -> Option<String> {
        if let Some(url) = &self.url {
            return Some(url.to_string());
        }
        let beside = self.beside.read();
        let Gateway { address, is_tls, .. } = beside.as_ref()?;
        let scheme = if *is_tls { "https" } else { "http" };
        let host = match address.ip() {
            ip if ip.is_unspecified() => host.and_then(plain_host)?.to_owned(),
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Some(format!("{scheme}://{host}:{}", address.port()))
    }

    /// A model that a key with these `models` may call, and its API: one that the gateway serves by name, else one that the key
    /// names, of which the API is taken for the commonest.
    pub(crate) fn model_of(&self, models: Option<&[String]>) -> Option<(String, Api)> {
        let beside = self.beside.read();
        let served = beside.as_ref().map(|gateway| (gateway.models)()).unwrap_or_default();
        let globs: Option<Vec<_>> = models.map(|models| models.iter().map(|model| Glob::new(model)).collect());
        let may_call = |name: &str| globs.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(name)));
        let served = served.into_iter().find(|(name, _)| may_call(name));
        let named = || globs.iter().flatten().find(|glob| glob.is_literal()).map(|glob| glob.as_str().to_owned());
        served.map(|(name, api)| (name.to_string(), api)).or_else(|| named().map(|name| (name, Api::OpenAi)))
    }
}

/// The host of a `Host` header, if it is plainly one.
fn plain_host(header: &str) -> Option<&str> {
    let host = match header.rsplit_once(':') {
        // The port, and no part of an IPv6 address.
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => header,
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'[' | b']' | b':');
    (!host.is_empty() && host.bytes().all(is_plain)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(address: &str, models: &'static [&'static str]) -> KnownGateway {
        let known = KnownGateway::default();
        let models = || models.iter().map(|name| (Arc::from(*name), Api::Anthropic)).collect();
        known.introduce(Gateway { address: address.parse().unwrap(), is_tls: false, models: Box::new(models) });
        known
    }

    #[test]
    fn the_configured_address_counts_before_where_it_listens() {
        let known = KnownGateway::new(Some("https://llm.example".into()));
        assert_eq!(known.url(None).as_deref(), Some("https://llm.example"));
        assert_eq!(KnownGateway::default().url(Some("host")), None);
        assert_eq!(beside("127.0.0.1:8080", &[]).url(None).as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(beside("[::1]:8080", &[]).url(None).as_deref(), Some("http://[::1]:8080"));
    }

    #[test]
    fn a_gateway_on_all_addresses_is_where_the_page_is() {
        for (host, url) in [
            (Some("keys.example:9091"), Some("http://keys.example:8080")),
            (Some("keys.example"), Some("http://keys.example:8080")),
            (Some("[::1]:9091"), Some("http://[::1]:8080")),
            (Some("a b"), None),
            (Some("x'$(y)"), None),
            (None, None),
        ] {
            assert_eq!(beside("0.0.0.0:8080", &[]).url(host).as_deref(), url, "{host:?}");
        }
    }

    #[test]
    fn a_model_is_one_that_the_key_may_call() {
        let known = beside("127.0.0.1:8080", &["claude-x", "llama-3"]);
        let of =
            |models: &[&str]| known.model_of(Some(&models.iter().map(|model| (*model).to_owned()).collect::<Vec<_>>()));
        assert_eq!(known.model_of(None), Some(("claude-x".to_owned(), Api::Anthropic)));
        assert_eq!(of(&["llama*"]), Some(("llama-3".to_owned(), Api::Anthropic)));
        assert_eq!(of(&["qwen*", "phi-4"]), Some(("phi-4".to_owned(), Api::OpenAi)));
        assert_eq!(of(&["qwen*"]), None);
    }
}

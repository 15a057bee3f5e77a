//! An inference server as Pingora dials it: its address, its path, our credential for it, and
//! the models that it says it has.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, HeaderValue, Uri, header};
use keymeter_config::Upstream;
use keymeter_core::clock::MonotonicTime;
use parking_lot::Mutex;
use pingora::{
    ErrorType,
    http::RequestHeader,
    prelude::{Error, HttpPeer, Result},
    protocols::{ALPN, tls::CaType},
    upstreams::peer::HttpUpstreamRequestPolicy,
    utils::tls::{WrappedX509, parse_x509},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::headers::change_request;

/// Connections are dropped before an upstream's own keep-alive ends them: a request that meets a
/// closing connection cannot be sent again. Uvicorn's is 5 s.
const IDLE: Duration = Duration::from_secs(4);

/// Requests that share a connection of HTTP/2 to an upstream.
const H2_STREAMS: usize = 128;

/// How long a resolved name is believed.
const NAME_TTL: Duration = Duration::from_secs(10);

/// Resolves the names of upstreams, and takes their addresses in turn.
#[derive(Default)]
pub struct Dialer {
    names: Mutex<HashMap<String, Arc<Resolved>>>,
    authorities: Mutex<Vec<(Arc<Upstream>, Arc<CaType>)>>,
    turn: AtomicUsize,
}

struct Resolved {
    addresses: Vec<SocketAddr>,
    at: MonotonicTime,
}

impl Dialer {
    /// The peer for a request to `upstream`.
    ///
    /// # Errors
    /// When its name does not resolve.
    pub async fn peer(&self, upstream: &Arc<Upstream>) -> Result<Box<HttpPeer>> {
        let url = &upstream.url;
        let address = self.address(&url.host, url.port).await.map_err(Error::into_up)?;
        let mut peer = HttpPeer::new(address, url.tls, bare(&url.host).to_owned());
        let options = &mut peer.options;
        options.connection_timeout = Some(upstream.connect_timeout);
        options.total_connection_timeout = Some(upstream.connect_timeout);
        options.read_timeout = Some(upstream.read_timeout);
        options.write_timeout = Some(upstream.read_timeout);
        options.idle_timeout = Some(IDLE);
        options.alpn = if url.tls { ALPN::H2H1 } else { ALPN::H1 };
        options.max_h2_streams = H2_STREAMS;
        // The gate takes out what concerns the client's connection, and refuses nobody for a `Connection` that is odd.
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
        options.ca = self.authorities(upstream).map_err(Error::into_up)?;
        Ok(Box::new(peer))
    }

    /// The certificates that are trusted in place of the system's. They are read once for each
    /// loading of the configuration.
    fn authorities(&self, upstream: &Arc<Upstream>) -> Result<Option<Arc<CaType>>> {
        let Some(path) = &upstream.ca else { return Ok(None) };
        let mut known = self.authorities.lock();
        if let Some((_, authorities)) = known.iter().find(|(of, _)| Arc::ptr_eq(of, upstream)) {
            return Ok(Some(authorities.clone()));
        }
        let authorities = read_authorities(path)
            .map_err(|why| Error::explain(ErrorType::InvalidCert, format!("{}: {why}", path.display())))?;
        // Those that only we still hold belong to a former configuration.
        known.retain(|(of, _)| Arc::strong_count(of) > 1);
        known.push((upstream.clone(), authorities.clone()));
        Ok(Some(authorities))
    }

    async fn address(&self, host: &str, port: u16) -> Result<SocketAddr> {
        if let Ok(address) = bare(host).parse() {
            return Ok(SocketAddr::new(address, port));
        }
        let now = MonotonicTime::now();
        let name = format!("{host}:{port}");
        let known = self.names.lock().get(&name).cloned();
        let resolved = match known {
            Some(known) if now.saturating_since(known.at) < NAME_TTL => known,
            known => self.resolve(name, now, known).await?,
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % resolved.addresses.len().max(1);
        let address = resolved.addresses.get(turn).copied();
        address.ok_or_else(|| Error::explain(ErrorType::ConnectError, format!("{host} has no address")))
    }

    /// Asks for the name's addresses; a name that was known is believed on while nobody answers.
    async fn resolve(&self, name: String, now: MonotonicTime, known: Option<Arc<Resolved>>) -> Result<Arc<Resolved>> {
        let found = tokio::net::lookup_host(&name).await.map(Iterator::collect::<Vec<_>>);
        let addresses = match (found, known) {
            (Ok(addresses), _) if !addresses.is_empty() => addresses,
            (_, Some(known)) => return Ok(known),
            (Ok(_), None) => return Err(Error::explain(ErrorType::ConnectError, format!("{name} has no address"))),
            (Err(error), None) => {
                return Err(Error::explain(ErrorType::ConnectError, format!("{name} does not resolve: {error}")));
            }
        };
        let resolved = Arc::new(Resolved { addresses, at: now });
        self.names.lock().insert(name, resolved.clone());
        Ok(resolved)
    }
}

/// Turns a client's request into one for `upstream`: its path, its host, our credential.
///
/// # Errors
/// When the joined path is not a URI's.
pub fn address_request(request: &mut RequestHeader, upstream: &Upstream) -> Result<()> {
    let path = joined_path(&upstream.url.path, request.uri.path());
    let path_and_query = match request.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let uri = path_and_query.parse::<Uri>();
    request.set_uri(uri.map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "upstream path", error))?);
    let host = HeaderValue::try_from(&*upstream.url.authority);
    let host = host.map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "the upstream's host", error))?;
    let credential = credential(upstream)?;
    change_request(request, |headers| {
        headers.insert(header::HOST, host);
        if let Some((name, value)) = credential {
            headers.insert(name, value);
        }
    })
}

/// Our own credential for `upstream`, if it wants one.
fn credential(upstream: &Upstream) -> Result<Option<(HeaderName, HeaderValue)>> {
    let Some(credential) = &upstream.api_key else { return Ok(None) };
    let name = upstream.api_key_header.name();
    let secret = credential.0.reveal();
    let value = if name == header::AUTHORIZATION { format!("Bearer {secret}") } else { secret.to_owned() };
    let value = HeaderValue::try_from(value);
    let mut value = value.map_err(|_| Error::explain(ErrorType::InvalidHTTPHeader, "the upstream's api_key"))?;
    value.set_sensitive(true);
    Ok(Some((name, value)))
}

/// The upstream's path before the client's. A `/v1` with which the upstream's ends is left out: the client's has its own, or
/// is of a server that has it at its root, as vLLM's `/tokenize` and Ollama's `/api/chat` are.
#[must_use]
pub fn joined_path(base: &str, path: &str) -> String {
    let base = base.trim_end_matches('/');
    format!("{}{path}", base.strip_suffix("/v1").unwrap_or(base))
}

/// The certificates in a file in PEM form (RFC 7468).
fn read_authorities(path: &std::path::Path) -> std::result::Result<Arc<CaType>, String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let wrapped = certificates.map(|certificate| {
        let certificate = certificate.map_err(|error| error.to_string())?;
        // `parse_x509` stops the thread over what it cannot parse.
        x509_parser::parse_x509_certificate(&certificate).map_err(|error| error.to_string())?;
        Ok(WrappedX509::new(certificate.to_vec(), parse_x509))
    });
    let wrapped = wrapped.collect::<std::result::Result<Vec<_>, String>>()?;
    if wrapped.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(wrapped.into()) }
}

/// A host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v1_at_the_seam_stands_once() {
        for (base, path, joined) in [
            ("", "/v1/models", "/v1/models"),
            ("/", "/v1/models", "/v1/models"),
            ("/v1", "/v1/models", "/v1/models"),
            ("/v1/", "/v1/models", "/v1/models"),
            ("/openai/v1", "/v1/chat/completions", "/openai/v1/chat/completions"),
            ("/openai", "/v1/chat/completions", "/openai/v1/chat/completions"),
            ("/apiv1", "/v1/models", "/apiv1/v1/models"),
            ("/v1", "/tokenize", "/tokenize"),
            ("/vllm/v1/", "/pooling", "/vllm/pooling"),
            ("/vllm", "/v2/rerank", "/vllm/v2/rerank"),
            ("/v1", "/api/chat", "/api/chat"),
            ("/v1", "/v1beta/models/m:countTokens", "/v1beta/models/m:countTokens"),
            ("/v1", "/v1/models/m:countTokens", "/v1/models/m:countTokens"),
        ] {
            assert_eq!(joined_path(base, path), joined);
        }
    }

    #[tokio::test]
    async fn names_and_addresses_are_dialled() {
        let dialer = Dialer::default();
        assert_eq!(dialer.address("127.0.0.1", 80).await.unwrap(), "127.0.0.1:80".parse().unwrap());
        assert_eq!(dialer.address("[::1]", 80).await.unwrap(), "[::1]:80".parse().unwrap());
        assert!(dialer.address("localhost", 80).await.unwrap().ip().is_loopback());
        assert!(dialer.address("no-such-name.invalid", 80).await.is_err());
    }
}

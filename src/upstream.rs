//! Inference servers: which replica of an upstream takes a request (`pool`, `pools`, `health`), and how it is dialled: its
//! address, its path, our credential for it. A proxy of somebody's own may use a [`Pool`] as the gateway does.

pub mod ask;
pub mod authorities;
mod choice;
mod health;
pub mod interrupt;
mod makers;
mod members;
pub mod pool;
pub mod pools;
mod replica;
mod retries;
mod running;
pub mod status;
mod words;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri, header};
use keymeter_config::{self as config, Upstream};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pingora::{
    ErrorType,
    http::RequestHeader,
    prelude::{Error, HttpPeer, Result},
    protocols::{ALPN, tls::CaType},
    upstreams::peer::HttpUpstreamRequestPolicy,
    utils::tls::{WrappedX509, parse_x509},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

pub use self::{
    choice::Wanted,
    interrupt::{Interrupt, Ways},
    members::Members,
    pool::{Permit, Pool, PoolError},
    pools::Pools,
    replica::Replica,
    words::in_words,
};
use crate::headers::change_request;

/// Connections are dropped before an upstream's own keep-alive ends them: a request that meets a
/// closing connection cannot be sent again. Uvicorn's is 5 s.
const IDLE: Duration = Duration::from_secs(4);

/// Requests that share a connection of HTTP/2 to an upstream.
const H2_STREAMS: usize = 128;

/// Dials replicas.
#[derive(Default)]
pub struct Dialer {
    authorities: Mutex<Vec<(Arc<config::Replica>, Arc<CaType>)>>,
}

impl Dialer {
    /// The peer for a request to a replica of `upstream`.
    ///
    /// # Errors
    /// When its name does not resolve.
    pub async fn peer(&self, upstream: &Upstream, replica: &Replica) -> Result<Box<HttpPeer>> {
        let url = &replica.config.url;
        let address = match replica.address {
            Some(address) => address,
            None => resolve(&url.host, url.port).await.map_err(Error::into_up)?,
        };
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
        options.ca = self.authorities(&replica.config).map_err(Error::into_up)?;
        Ok(Box::new(peer))
    }

    /// The certificates that are trusted in place of the system's. They are read once for each
    /// loading of the configuration.
    fn authorities(&self, replica: &Arc<config::Replica>) -> Result<Option<Arc<CaType>>> {
        let Some(path) = &replica.ca else { return Ok(None) };
        let mut known = self.authorities.lock();
        if let Some((_, authorities)) = known.iter().find(|(of, _)| Arc::ptr_eq(of, replica)) {
            return Ok(Some(authorities.clone()));
        }
        let authorities = read_authorities(path)
            .map_err(|why| Error::explain(ErrorType::InvalidCert, format!("{}: {why}", path.display())))?;
        // Those that only we still hold belong to a former configuration.
        known.retain(|(of, _)| Arc::strong_count(of) > 1);
        known.push((replica.clone(), authorities.clone()));
        Ok(Some(authorities))
    }
}

/// What fails is that a replica's name has no address at present, which says nothing of the replica.
pub const UNRESOLVED: ErrorType = ErrorType::Custom("unresolved");

/// One address of a name. The pools ask for all of them in the background; this is for a request that comes before.
async fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let mut found = tokio::net::lookup_host((bare(host), port))
        .await
        .map_err(|error| Error::explain(UNRESOLVED, format!("{host} does not resolve: {error}")))?;
    found.next().ok_or_else(|| Error::explain(UNRESOLVED, format!("{host} has no address")))
}

/// Turns a client's request into one for a replica of `upstream`: its path, its host, our credential.
///
/// # Errors
/// When the joined path is not a URI's.
pub fn address_request(request: &mut RequestHeader, upstream: &Upstream, replica: &Replica) -> Result<()> {
    let url = &replica.config.url;
    if !goes_as_it_came(&url.path, request) {
        let path = joined_path(&url.path, request.uri.path());
        let path_and_query = match request.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let uri = path_and_query.parse::<Uri>();
        request.set_uri(uri.map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "upstream path", error))?);
    }
    let host = HeaderValue::try_from(&*url.authority);
    let host = host.map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "the upstream's host", error))?;
    let credential = credential(upstream, replica)?;
    change_request(request, |headers| {
        headers.insert(header::HOST, host);
        if let Some((name, value)) = credential {
            headers.insert(name, value);
        }
    })
}

/// Writes `model` in place of the one that a path names, as Gemini's do.
///
/// # Errors
/// When the path is not a URI's.
pub fn rename_in_path(request: &mut RequestHeader, model: &str) -> Result<()> {
    let path = request.uri.path();
    let Some((before, rest)) = path.split_once("/models/") else { return Ok(()) };
    let Some((_, method)) = rest.rsplit_once(':') else { return Ok(()) };
    let model = utf8_percent_encode(model, IN_SEGMENT);
    let path_and_query = match request.uri.query() {
        Some(query) => format!("{before}/models/{model}:{method}?{query}"),
        None => format!("{before}/models/{model}:{method}"),
    };
    let uri = path_and_query.parse::<Uri>();
    request.set_uri(uri.map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "the renamed path", error))?);
    Ok(())
}

/// What stands as it is in a path's segment (RFC 3986, `unreserved`).
const IN_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Our own credential for a replica, if it wants one.
fn credential(upstream: &Upstream, replica: &Replica) -> Result<Option<(HeaderName, HeaderValue)>> {
    let Some(credential) = &replica.config.api_key else { return Ok(None) };
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
    format!("{}{path}", before_path(base))
}

/// What of the upstream's path is put before the client's.
fn before_path(base: &str) -> &str {
    let base = base.trim_end_matches('/');
    base.strip_suffix("/v1").unwrap_or(base)
}

/// Whether a request's target is a plain path that an upstream with the path `base` takes as it is.
fn goes_as_it_came(base: &str, request: &RequestHeader) -> bool {
    let target = request.uri.path_and_query().filter(|_| request.uri.authority().is_none());
    before_path(base).is_empty() && target.is_some_and(|target| target.as_str().as_bytes() == request.raw_path())
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
    async fn names_are_resolved() {
        assert!(resolve("localhost", 80).await.unwrap().ip().is_loopback());
        assert!(resolve("no-such-name.invalid", 80).await.is_err());
    }

    #[test]
    fn a_model_in_a_path_is_renamed() {
        for (path, renamed) in [
            ("/v1beta/models/gemini-pro:generateContent?alt=sse", "/v1beta/models/a%2Fb:generateContent?alt=sse"),
            ("/v1/models/a%3Ab:countTokens", "/v1/models/a%2Fb:countTokens"),
            ("/v1/chat/completions", "/v1/chat/completions"),
        ] {
            let mut request = RequestHeader::build("POST", path.as_bytes(), None).unwrap();
            rename_in_path(&mut request, "a/b").unwrap();
            assert_eq!(request.uri, renamed);
        }
    }
}

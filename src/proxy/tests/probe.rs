//! A proxy whose every hook keeps what it was called with, changes what it may change, and
//! answers as no default of Pingora's does.

use std::{any::Any, borrow::Cow, fmt::Debug, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use pingora::{
    ErrorType,
    cache::{
        CacheKey, CacheMeta, ForcedFreshness, HitHandler, NoCacheReason, PurgeAction, RespCacheable, key::HashBinary,
    },
    http::{RequestHeader, ResponseHeader},
    modules::http::{HttpModules, grpc_web::GrpcWeb},
    prelude::{Error, HttpPeer, Result},
    protocols::Digest,
    proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, PurgeStatus, RangeType, Session},
};
use tokio::sync::mpsc;

/// See above.
#[derive(Default)]
pub(super) struct Probe {
    calls: Mutex<Vec<String>>,
}

/// The probe's own state of a request: how many of its hooks could change it so far.
pub(super) struct Steps(pub u32);

/// The header that is added to whatever has headers.
pub(super) const MARK: &str = "x-probe";

/// What bodies are changed to.
pub(super) const BODY: &str = "the probe's";

/// A call as the probe keeps it.
pub(super) fn call(hook: &str, steps: u32, arguments: impl Debug) -> String {
    format!("{hook} after {steps} steps with {arguments:?}")
}

impl Probe {
    /// The calls since the last look.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock())
    }

    fn saw(&self, hook: &str, steps: &Steps, arguments: impl Debug) {
        self.calls.lock().push(call(hook, steps.0, arguments));
    }

    /// As `saw`, where the hook may change its state.
    fn stepped(&self, hook: &str, steps: &mut Steps, arguments: impl Debug) {
        self.saw(hook, steps, arguments);
        steps.0 += 1;
    }
}

fn path(session: &Session) -> &str {
    session.req_header().uri.path()
}

fn refuse(hook: &'static str) -> Result<()> {
    Err(Error::new(ErrorType::Custom(hook)))
}

fn mark(response: &mut ResponseHeader, hook: &'static str) {
    response.insert_header(MARK, hook).unwrap();
}

#[async_trait]
impl ProxyHttp for Probe {
    type CTX = Steps;

    fn new_ctx(&self) -> Steps {
        self.saw("new_ctx", &Steps(0), ());
        Steps(7)
    }

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        self.saw("init_downstream_modules", &Steps(0), ());
        modules.add_module(Box::new(GrpcWeb));
    }

    async fn early_request_filter(&self, session: &mut Session, steps: &mut Steps) -> Result<()> {
        self.stepped("early_request_filter", steps, path(session));
        refuse("early_request_filter")
    }

    fn allow_spawning_subrequest(&self, session: &Session, steps: &Steps) -> bool {
        self.saw("allow_spawning_subrequest", steps, path(session));
        true
    }

    async fn request_filter(&self, session: &mut Session, steps: &mut Steps) -> Result<bool> {
        self.stepped("request_filter", steps, path(session));
        Ok(true)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        steps: &mut Steps,
    ) -> Result<()> {
        self.stepped("request_body_filter", steps, (path(session), &*body, end_of_stream));
        *body = Some(BODY.into());
        refuse("request_body_filter")
    }

    fn request_cache_filter(&self, session: &mut Session, steps: &mut Steps) -> Result<()> {
        self.stepped("request_cache_filter", steps, path(session));
        refuse("request_cache_filter")
    }

    fn cache_key_callback(&self, session: &Session, steps: &mut Steps) -> Result<CacheKey> {
        self.stepped("cache_key_callback", steps, path(session));
        Ok(CacheKey::new("probe", "tag"))
    }

    fn cache_miss(&self, session: &mut Session, steps: &mut Steps) {
        self.stepped("cache_miss", steps, path(session));
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        meta: &CacheMeta,
        hit_handler: &mut HitHandler,
        is_fresh: bool,
        steps: &mut Steps,
    ) -> Result<Option<ForcedFreshness>> {
        let seen = (path(session), meta.stale_if_error_sec(), hit_handler.get_eviction_weight(), is_fresh);
        self.stepped("cache_hit_filter", steps, seen);
        *hit_handler = Box::new(super::Hit(24));
        Ok(Some(ForcedFreshness::ForceExpired))
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, steps: &mut Steps) -> Result<bool> {
        self.stepped("proxy_upstream_filter", steps, path(session));
        Ok(false)
    }

    async fn upstream_peer(&self, session: &mut Session, steps: &mut Steps) -> Result<Box<HttpPeer>> {
        self.stepped("upstream_peer", steps, path(session));
        Ok(Box::new(HttpPeer::new("127.0.0.1:9", false, "probe".to_owned())))
    }

    fn response_cache_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        steps: &mut Steps,
    ) -> Result<RespCacheable> {
        self.stepped("response_cache_filter", steps, (path(session), response.status));
        Ok(RespCacheable::Uncacheable(NoCacheReason::OriginNotCache))
    }

    fn cache_vary_filter(&self, meta: &CacheMeta, steps: &mut Steps, request: &RequestHeader) -> Option<HashBinary> {
        self.stepped("cache_vary_filter", steps, (meta.stale_if_error_sec(), &request.method));
        Some([7; 16])
    }

    fn cache_not_modified_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        steps: &mut Steps,
    ) -> Result<bool> {
        self.stepped("cache_not_modified_filter", steps, (path(session), response.status));
        Ok(true)
    }

    fn range_header_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        steps: &mut Steps,
    ) -> RangeType {
        self.stepped("range_header_filter", steps, (path(session), response.status));
        mark(response, "range_header_filter");
        RangeType::Invalid
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        steps: &mut Steps,
    ) -> Result<()> {
        let bears_credential = request.headers.contains_key("authorization");
        self.stepped("upstream_request_filter", steps, (path(session), &request.method, bears_credential));
        request.insert_header(MARK, "upstream_request_filter")?;
        refuse("upstream_request_filter")
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        steps: &mut Steps,
    ) -> Result<()> {
        self.stepped("upstream_response_filter", steps, (path(session), response.status));
        mark(response, "upstream_response_filter");
        refuse("upstream_response_filter")
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        steps: &mut Steps,
    ) -> Result<()> {
        self.stepped("response_filter", steps, (path(session), response.status));
        mark(response, "response_filter");
        refuse("response_filter")
    }

    async fn custom_forwarding(
        &self,
        session: &mut Session,
        steps: &mut Steps,
        to_upstream: Option<mpsc::Sender<Bytes>>,
        to_downstream: mpsc::Sender<Bytes>,
    ) -> Result<()> {
        self.stepped("custom_forwarding", steps, path(session));
        to_upstream.expect("a way up").try_send("up".into()).unwrap();
        to_downstream.try_send("down".into()).unwrap();
        refuse("custom_forwarding")
    }

    async fn downstream_custom_message_proxy_filter(
        &self,
        session: &mut Session,
        message: Bytes,
        steps: &mut Steps,
        final_hop: bool,
    ) -> Result<Option<Bytes>> {
        self.stepped("downstream_custom_message_proxy_filter", steps, (path(session), message, final_hop));
        Ok(Some(BODY.into()))
    }

    async fn upstream_custom_message_proxy_filter(
        &self,
        session: &mut Session,
        message: Bytes,
        steps: &mut Steps,
        final_hop: bool,
    ) -> Result<Option<Bytes>> {
        self.stepped("upstream_custom_message_proxy_filter", steps, (path(session), message, final_hop));
        Ok(Some(BODY.into()))
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        steps: &mut Steps,
    ) -> Result<Option<Duration>> {
        self.stepped("upstream_response_body_filter", steps, (path(session), &*body, end_of_stream));
        *body = Some(BODY.into());
        Ok(Some(Duration::from_millis(3)))
    }

    fn upstream_response_trailer_filter(
        &self,
        session: &mut Session,
        trailers: &mut HeaderMap,
        steps: &mut Steps,
    ) -> Result<()> {
        self.stepped("upstream_response_trailer_filter", steps, (path(session), trailers.len()));
        trailers.insert(MARK, HeaderValue::from_static("upstream_response_trailer_filter"));
        refuse("upstream_response_trailer_filter")
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        steps: &mut Steps,
    ) -> Result<Option<Duration>> {
        self.stepped("response_body_filter", steps, (path(session), &*body, end_of_stream));
        *body = Some(BODY.into());
        Ok(Some(Duration::from_millis(5)))
    }

    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        trailers: &mut HeaderMap,
        steps: &mut Steps,
    ) -> Result<Option<Bytes>> {
        self.stepped("response_trailer_filter", steps, (path(session), trailers.len()));
        trailers.insert(MARK, HeaderValue::from_static("response_trailer_filter"));
        Ok(Some(BODY.into()))
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, steps: &mut Steps) {
        self.stepped("logging", steps, (path(session), error.map(Error::etype)));
    }

    fn persist_connection_context(&self, session: &Session, steps: &Steps) -> Option<Box<dyn Any + Send + Sync>> {
        self.saw("persist_connection_context", steps, path(session));
        Some(Box::new(9_u8))
    }

    fn on_connection_reuse(&self, session: &mut Session, steps: &mut Steps, previous: Box<dyn Any + Send + Sync>) {
        self.stepped("on_connection_reuse", steps, (path(session), previous.downcast_ref::<u8>()));
    }

    fn suppress_error_log(&self, session: &Session, steps: &Steps, error: &Error) -> bool {
        self.saw("suppress_error_log", steps, (path(session), error.etype()));
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        session: &Session,
        steps: &Steps,
        error: &Error,
        context: ProxyWarnLogContext,
    ) -> bool {
        self.saw("suppress_proxy_warn_log", steps, (path(session), error.etype(), context));
        true
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        steps: &mut Steps,
        client_reused: bool,
    ) -> Box<Error> {
        self.stepped("error_while_proxy", steps, (&peer.sni, path(session), error.etype(), client_reused));
        Error::new(ErrorType::Custom("error_while_proxy"))
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        peer: &HttpPeer,
        steps: &mut Steps,
        error: Box<Error>,
    ) -> Box<Error> {
        self.stepped("fail_to_connect", steps, (path(session), &peer.sni, error.etype()));
        Error::new(ErrorType::Custom("fail_to_connect"))
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, steps: &mut Steps) -> FailToProxy {
        self.stepped("fail_to_proxy", steps, (path(session), error.etype()));
        FailToProxy { error_code: 599, can_reuse_downstream: true }
    }

    fn should_serve_stale(&self, session: &mut Session, steps: &mut Steps, error: Option<&Error>) -> bool {
        self.stepped("should_serve_stale", steps, (path(session), error.map(Error::etype)));
        true
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        descriptor: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        steps: &mut Steps,
    ) -> Result<()> {
        let seen = (path(session), reused, &peer.sni, descriptor, digest.is_some());
        self.stepped("connected_to_upstream", steps, seen);
        refuse("connected_to_upstream")
    }

    fn request_summary(&self, session: &Session, steps: &Steps) -> String {
        self.saw("request_summary", steps, path(session));
        "a summary".to_owned()
    }

    fn is_purge(&self, session: &Session, steps: &Steps) -> bool {
        self.saw("is_purge", steps, path(session));
        true
    }

    fn purge_action(&self, session: &Session, steps: &Steps) -> PurgeAction {
        self.saw("purge_action", steps, path(session));
        PurgeAction::Expire
    }

    fn purge_response_filter(
        &self,
        session: &Session,
        steps: &mut Steps,
        status: PurgeStatus,
        response: &mut Cow<'static, ResponseHeader>,
    ) -> Result<()> {
        self.stepped("purge_response_filter", steps, (path(session), status, response.status));
        mark(response.to_mut(), "purge_response_filter");
        refuse("purge_response_filter")
    }
}

//! Every phase of Pingora's `ProxyHttp`, in its order. What is ours is one call; then the proxy
//! within has its turn. A phase that were missing here would silently switch off the inner
//! proxy's behaviour, so a test compares this list with the trait.

use std::{any::Any, borrow::Cow, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::{
    cache::{CacheKey, CacheMeta, ForcedFreshness, HitHandler, PurgeAction, RespCacheable, key::HashBinary},
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    prelude::{Error, HttpPeer, Result},
    protocols::Digest,
    proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, PurgeStatus, RangeType, Session},
};
use tokio::sync::mpsc;

use crate::{connection::Connection, headers::change_request};

use super::{
    Context, Gated, RequestInfo, RequestState, body, cors, dispatch, ends, finish, over, preflight,
    prepare_upstream_request, response, subrequest, subrequest::SubrequestRole,
};

#[async_trait]
impl<P> ProxyHttp for Gated<P>
where
    P: ProxyHttp + Send + Sync,
    P::CTX: Send + Sync + 'static,
{
    type CTX = Context<P::CTX>;

    fn new_ctx(&self) -> Self::CTX {
        let guard = self.gate.in_flight().enter();
        Context { inner: self.inner.new_ctx(), state: RequestState::New, role: SubrequestRole::No, _in_flight: guard }
    }

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        self.inner.init_downstream_modules(modules);
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        subrequest::take_over(session, ctx).await?;
        if ctx.is_exchange() {
            return Ok(());
        }
        if let Some(connection) = Connection::current() {
            connection.begin_request();
        }
        // Without it a client's second request on a connection ends its first.
        session.set_pipelining_enabled(true);
        self.inner.early_request_filter(session, &mut ctx.inner).await
    }

    fn allow_spawning_subrequest(&self, session: &Session, ctx: &Self::CTX) -> bool {
        self.inner.allow_spawning_subrequest(session, &ctx.inner)
            || self.gate.may_need_subrequest()
            || body::may_be_long(session.req_header())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        if ctx.is_exchange() {
            return Ok(false);
        }
        // How the names were spelled is let go of at once: what copies or changes the head after this costs less.
        change_request(session.req_header_mut(), |_| {})?;
        if preflight::is_preflight(session.req_header())
            && let Some(cors) = &self.gate.settings().cors
        {
            preflight::answer_preflight(session, cors).await?;
            return Ok(true);
        }
        if let Err(rejected) = self.enter(session, ctx).await {
            return self.refuse(session, ctx, rejected).await;
        }
        if self.inner.request_filter(session, &mut ctx.inner).await? {
            return Ok(true);
        }
        let Some(limit) = subrequest::limit(session, ctx) else { return Ok(false) };
        // Boxed, so that the futures of other requests stay small.
        Box::pin(subrequest::forward(&self.gate, session, ctx, limit, self.inner.new_ctx())).await?;
        Ok(true)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        if let RequestState::Running(running) = &ctx.state {
            // What Pingora replays is the tail of what we read: the whole goes in its place.
            *body = Some(if end_of_stream { running.upstream_body() } else { Bytes::new() });
        }
        self.inner.request_body_filter(session, body, end_of_stream, &mut ctx.inner).await
    }

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        self.inner.request_cache_filter(session, &mut ctx.inner)
    }

    fn cache_key_callback(&self, session: &Session, ctx: &mut Self::CTX) -> Result<CacheKey> {
        self.inner.cache_key_callback(session, &mut ctx.inner)
    }

    fn cache_miss(&self, session: &mut Session, ctx: &mut Self::CTX) {
        self.inner.cache_miss(session, &mut ctx.inner);
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        meta: &CacheMeta,
        hit_handler: &mut HitHandler,
        is_fresh: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<ForcedFreshness>> {
        self.inner.cache_hit_filter(session, meta, hit_handler, is_fresh, &mut ctx.inner).await
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        self.inner.proxy_upstream_filter(session, &mut ctx.inner).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        dispatch::choose(&self.gate, session, &mut ctx.state).await?;
        if let RequestState::Running(running) = &ctx.state
            && let Some(info) = session.req_header_mut().extensions_mut().get_mut::<RequestInfo>()
        {
            info.route = Some(running.request.admitted().route.clone());
            info.replica = running.dispatch.replica().cloned();
            info.renamed = running.request.renamed().cloned();
        }
        ctx.state.exchange_begins();
        let peer = self.inner.upstream_peer(session, &mut ctx.inner).await;
        // A replica that has no address is not reached.
        peer.map_err(|mut error| {
            if let (RequestState::Running(running), false) = (&mut ctx.state, error.retry()) {
                error.set_retry(dispatch::failed(running, &error));
            }
            error
        })
    }

    fn response_cache_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<RespCacheable> {
        self.inner.response_cache_filter(session, response, &mut ctx.inner)
    }

    fn cache_vary_filter(&self, meta: &CacheMeta, ctx: &mut Self::CTX, request: &RequestHeader) -> Option<HashBinary> {
        self.inner.cache_vary_filter(meta, &mut ctx.inner, request)
    }

    fn cache_not_modified_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<bool> {
        self.inner.cache_not_modified_filter(session, response, &mut ctx.inner)
    }

    fn range_header_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> RangeType {
        self.inner.range_header_filter(session, response, &mut ctx.inner)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        prepare_upstream_request(request, &ctx.state)?;
        self.inner.upstream_request_filter(session, request, &mut ctx.inner).await
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        response::judge_head(&mut ctx.state, response)?;
        self.inner.upstream_response_filter(session, response, &mut ctx.inner).await
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        self.inner.response_filter(session, response, &mut ctx.inner).await?;
        response::begin(session, &mut ctx.state, response)?;
        if ctx.state.settings().is_some_and(|settings| settings.cors.is_some()) {
            cors::expose(session, response)?;
        }
        if ctx.is_exchange() { Ok(()) } else { response::end_with_connection(session, response) }
    }

    async fn custom_forwarding(
        &self,
        session: &mut Session,
        ctx: &mut Self::CTX,
        to_upstream: Option<mpsc::Sender<Bytes>>,
        to_downstream: mpsc::Sender<Bytes>,
    ) -> Result<()> {
        self.inner.custom_forwarding(session, &mut ctx.inner, to_upstream, to_downstream).await
    }

    async fn downstream_custom_message_proxy_filter(
        &self,
        session: &mut Session,
        message: Bytes,
        ctx: &mut Self::CTX,
        final_hop: bool,
    ) -> Result<Option<Bytes>> {
        self.inner.downstream_custom_message_proxy_filter(session, message, &mut ctx.inner, final_hop).await
    }

    async fn upstream_custom_message_proxy_filter(
        &self,
        session: &mut Session,
        message: Bytes,
        ctx: &mut Self::CTX,
        final_hop: bool,
    ) -> Result<Option<Bytes>> {
        self.inner.upstream_custom_message_proxy_filter(session, message, &mut ctx.inner, final_hop).await
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        self.inner.upstream_response_body_filter(session, body, end_of_stream, &mut ctx.inner)
    }

    fn upstream_response_trailer_filter(
        &self,
        session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        self.inner.upstream_response_trailer_filter(session, trailers, &mut ctx.inner)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        let delay = self.inner.response_body_filter(session, body, end_of_stream, &mut ctx.inner)?;
        response::pass(&mut ctx.state, body, end_of_stream)?;
        Ok(delay)
    }

    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Bytes>> {
        let theirs = self.inner.response_trailer_filter(session, trailers, &mut ctx.inner).await?;
        response::before_trailers(&mut ctx.state, theirs)
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Self::CTX) {
        if let SubrequestRole::Client(over) = &ctx.role {
            // An exchange that was lost has settled what it held by being dropped.
            if let Some(over) = *over {
                finish(&self.gate, &mut ctx.state, over);
            }
            return;
        }
        self.inner.logging(session, error, &mut ctx.inner).await;
        let over = over(session, error);
        match std::mem::replace(&mut ctx.role, SubrequestRole::No) {
            SubrequestRole::Exchange(home) => subrequest::give_back(&self.gate, ctx, self.inner.new_ctx(), over, home),
            SubrequestRole::No | SubrequestRole::Client(_) => finish(&self.gate, &mut ctx.state, over),
        }
    }

    fn persist_connection_context(&self, session: &Session, ctx: &Self::CTX) -> Option<Box<dyn Any + Send + Sync>> {
        self.inner.persist_connection_context(session, &ctx.inner)
    }

    fn on_connection_reuse(&self, session: &mut Session, ctx: &mut Self::CTX, previous: Box<dyn Any + Send + Sync>) {
        self.inner.on_connection_reuse(session, &mut ctx.inner, previous);
    }

    fn suppress_error_log(&self, session: &Session, ctx: &Self::CTX, error: &Error) -> bool {
        if ctx.is_clients()
            || response::is_revoked(&ctx.state)
            || self.inner.suppress_error_log(session, &ctx.inner, error)
        {
            return true;
        }
        // A line of ours says it in place of Pingora's chain of errors.
        match &ctx.state {
            RequestState::Running(running) => {
                dispatch::report(running, error);
                true
            }
            _ => false,
        }
    }

    fn suppress_proxy_warn_log(
        &self,
        session: &Session,
        ctx: &Self::CTX,
        error: &Error,
        context: ProxyWarnLogContext,
    ) -> bool {
        // An attempt that failed has been told.
        let is_told = matches!(ctx.state, RequestState::Running(_));
        self.inner.suppress_proxy_warn_log(session, &ctx.inner, error, context) || is_told
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<Error> {
        let is_decided = matches!(error.etype(), kind if *kind == ends::ADDITION_REFUSED || *kind == ends::ELSEWHERE);
        let error = match &ctx.state {
            RequestState::Running(running) => dispatch::end_of_wait(running).unwrap_or(error),
            _ => error,
        };
        let mut error = self.inner.error_while_proxy(peer, session, error, &mut ctx.inner, client_reused);
        if is_decided {
            error.set_retry(true);
        } else if ctx.state.is_answered()
            || session.response_written().is_some_and(|head| !head.status.is_informational())
        {
            error.set_retry(false);
        } else if let (RequestState::Running(running), false) = (&mut ctx.state, error.retry()) {
            error.set_retry(dispatch::failed(running, &error));
        }
        error
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Self::CTX,
        error: Box<Error>,
    ) -> Box<Error> {
        let mut error = self.inner.fail_to_connect(session, peer, &mut ctx.inner, error);
        if let (RequestState::Running(running), false) = (&mut ctx.state, error.retry()) {
            error.set_retry(dispatch::failed(running, &error));
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        if ctx.is_clients() {
            // Whatever there was to say, the exchange has said.
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let ours = response::fail(&self.gate, session, &mut ctx.state, error).await;
        // The inner proxy is told of every failure. Where we have answered already, Pingora's
        // own answer, which is the default of this phase, writes nothing.
        let theirs = self.inner.fail_to_proxy(session, error, &mut ctx.inner).await;
        ours.unwrap_or(theirs)
    }

    fn should_serve_stale(&self, session: &mut Session, ctx: &mut Self::CTX, error: Option<&Error>) -> bool {
        self.inner.should_serve_stale(session, &mut ctx.inner, error)
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        descriptor: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        self.inner.connected_to_upstream(session, reused, peer, descriptor, digest, &mut ctx.inner).await
    }

    fn request_summary(&self, session: &Session, ctx: &Self::CTX) -> String {
        self.inner.request_summary(session, &ctx.inner)
    }

    fn is_purge(&self, session: &Session, ctx: &Self::CTX) -> bool {
        self.inner.is_purge(session, &ctx.inner)
    }

    fn purge_action(&self, session: &Session, ctx: &Self::CTX) -> PurgeAction {
        self.inner.purge_action(session, &ctx.inner)
    }

    fn purge_response_filter(
        &self,
        session: &Session,
        ctx: &mut Self::CTX,
        status: PurgeStatus,
        response: &mut Cow<'static, ResponseHeader>,
    ) -> Result<()> {
        self.inner.purge_response_filter(session, &mut ctx.inner, status, response)
    }
}

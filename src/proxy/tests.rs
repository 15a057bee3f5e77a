//! What somebody's proxy relies on behind the gate: that each of its hooks is called as if the
//! gate were not there, and that its answer counts.

mod hooks;
mod probe;
mod subrequest;

use std::{
    any::Any,
    borrow::Cow,
    collections::BTreeSet,
    fmt::Debug,
    path::Path,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use http::{HeaderMap, Method, StatusCode};
use keymeter_config::{self as config};
use keymeter_core::key::{KeyState, OwnLimits, Priority, Secret};
use pingora::{
    ErrorType,
    cache::{
        CacheKey, CacheMeta, ForcedFreshness, HitHandler, NoCacheReason, PurgeAction, RespCacheable, Storage,
        storage::HandleHit, trace::SpanHandle,
    },
    http::ResponseHeader,
    modules::http::{HttpModules, grpc_web::GrpcWebBridge},
    prelude::HttpPeer,
    protocols::Digest,
    proxy::{ProxyHttp, ProxyWarnLogContext, PurgeStatus, RangeType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};

use self::probe::{BODY, MARK, Probe, Steps, call};
use super::*;
use crate::{
    keys::{Resolver, YamlSource},
    limits::account::Accounts,
    observe::{access_log::AccessLog, metrics::Metrics},
    upstream::Pools,
};

const SECRET: &str = "sk-probe";
const CHAT: &str = "/v1/chat/completions";
const REQUEST: &str = r#"{"model": "m", "messages": []}"#;

/// A request through a gated probe, hook by hook.
struct Bench {
    gated: Gated<Probe>,
    session: Session,
    context: Context<Steps>,
    /// What the probe's own state was before the call to come.
    steps: u32,
    proven: BTreeSet<&'static str>,
    client: DuplexStream,
}

fn gate() -> Arc<Gate> {
    gate_with("")
}

fn gate_with(extra: &str) -> Arc<Gate> {
    let text = format!("upstreams: [{{name: u, url: http://127.0.0.1:9}}]\nkeys: {{yaml: {{path: none}}}}\n{extra}\n");
    let config = config::parse(&text, Path::new("test"), &|_| None).unwrap();
    let metrics = Arc::new(Metrics::new(9).unwrap());
    let accounts = Arc::new(Accounts::new(metrics.clone()));
    let source = Arc::new(YamlSource::new(vec![key()]));
    let resolver = Arc::new(Resolver::new(source, &config.key_cache, accounts, metrics.clone(), Arc::default()));
    let settings = Settings::new(&config, &Pools::new(metrics.pools().clone()));
    Arc::new(Gate::new(settings, resolver, metrics, AccessLog::none()))
}

fn key() -> KeyRecord {
    KeyRecord {
        id: "key_probe".parse().unwrap(),
        name: "The probe's".parse().unwrap(),
        hash: Secret::new(SECRET).hash(),
        state: KeyState::Active,
        owner: None,
        team: None,
        models: None,
        limits: OwnLimits::default(),
        expires_at: None,
        retiring: Box::default(),
        wallet: None,
        priority: Priority::default(),
        terms: None,
    }
}

/// A session whose request has come, and its client.
async fn session(secret: &str, body: &str) -> (Session, DuplexStream) {
    let (mut client, server) = duplex(1 << 16);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {secret}\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    client.write_all(request.as_bytes()).await.unwrap();
    let mut session = Session::new_h1(Box::new(server));
    assert!(session.downstream_session.read_request().await.unwrap());
    (session, client)
}

impl Bench {
    async fn new(secret: &str, body: &str) -> Self {
        let (session, client) = session(secret, body).await;
        let gated = Gated::new(gate(), Probe::default());
        let context = gated.new_ctx();
        let steps = context.inner.0;
        let mut bench = Self { gated, session, context, steps: 0, proven: BTreeSet::new(), client };
        bench.proves("new_ctx", ());
        assert_eq!(steps, 7);
        bench
    }

    /// The probe was called once since the last look: as `hook`, with its own state and these arguments.
    #[track_caller]
    fn proves(&mut self, hook: &'static str, arguments: impl Debug) {
        assert_eq!(self.gated.inner.take(), [call(hook, self.steps, arguments)]);
        self.steps = self.context.inner.0;
        assert!(self.proven.insert(hook), "{hook} is proven twice");
    }

    /// As `proves`, and the probe's refusal came back.
    #[track_caller]
    fn proves_refused(&mut self, hook: &'static str, arguments: impl Debug, answer: Result<()>) {
        assert_eq!(*answer.unwrap_err().etype(), ErrorType::Custom(hook));
        self.proves(hook, arguments);
    }
}

#[tokio::test]
async fn every_hook_reaches_the_proxy_within_and_its_answer_comes_back() {
    let mut bench = Bench::new(SECRET, REQUEST).await;
    request_hooks(&mut bench).await;
    cache_hooks(&mut bench).await;
    upstream_hooks(&mut bench).await;
    head_hooks(&mut bench).await;
    body_hooks(&mut bench).await;
    custom_hooks(&mut bench).await;
    failure_hooks(&mut bench).await;
    purge_hooks(&mut bench);
    last_hooks(&mut bench).await;
    assert_eq!(bench.proven, hooks::forwarded());
}

async fn request_hooks(bench: &mut Bench) {
    let mut modules = HttpModules::new();
    bench.steps = 0;
    bench.gated.init_downstream_modules(&mut modules);
    bench.proves("init_downstream_modules", ());
    assert!(modules.build_ctx().get::<GrpcWebBridge>().is_some());

    let answer = bench.gated.early_request_filter(&mut bench.session, &mut bench.context).await;
    bench.proves_refused("early_request_filter", CHAT, answer);

    assert!(bench.gated.allow_spawning_subrequest(&bench.session, &bench.context));
    bench.proves("allow_spawning_subrequest", CHAT);

    assert!(bench.gated.request_filter(&mut bench.session, &mut bench.context).await.unwrap());
    bench.proves("request_filter", CHAT);
    let pass = RequestInfo::of(bench.session.req_header()).expect("a pass");
    assert_eq!((pass.key().id.as_str(), pass.route.as_ref().map(|route| &*route.name)), ("key_probe", Some("u")));

    let mut body = Some(Bytes::from("its tail"));
    let answer = bench.gated.request_body_filter(&mut bench.session, &mut body, true, &mut bench.context).await;
    bench.proves_refused("request_body_filter", (CHAT, Some(Bytes::from(REQUEST)), true), answer);
    assert_eq!(body.as_deref(), Some(BODY.as_bytes()));

    assert!(!bench.gated.proxy_upstream_filter(&mut bench.session, &mut bench.context).await.unwrap());
    bench.proves("proxy_upstream_filter", CHAT);

    assert_eq!(bench.gated.request_summary(&bench.session, &bench.context), "a summary");
    bench.proves("request_summary", CHAT);
}

fn cached() -> CacheMeta {
    CacheMeta::new(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH, 0, 17, response(200))
}

fn response(status: u16) -> ResponseHeader {
    ResponseHeader::build(status, None).unwrap()
}

/// A cached body that is told by its weight.
struct Hit(usize);

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn finish(self: Box<Self>, _: &'static (dyn Storage + Sync), _: &CacheKey, _: &SpanHandle) -> Result<()> {
        Ok(())
    }

    fn get_eviction_weight(&self) -> usize {
        self.0
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

async fn cache_hooks(bench: &mut Bench) {
    let answer = bench.gated.request_cache_filter(&mut bench.session, &mut bench.context);
    bench.proves_refused("request_cache_filter", CHAT, answer);

    let key = bench.gated.cache_key_callback(&bench.session, &mut bench.context).unwrap();
    bench.proves("cache_key_callback", CHAT);
    assert_eq!(key.primary_key_str(), Some("probe"));

    bench.gated.cache_miss(&mut bench.session, &mut bench.context);
    bench.proves("cache_miss", CHAT);

    let (Bench { gated, session, context, .. }, meta) = (&mut *bench, cached());
    let mut hit: HitHandler = Box::new(Hit(23));
    let forced = gated.cache_hit_filter(session, &meta, &mut hit, true, context).await.unwrap();
    assert_eq!((forced, hit.get_eviction_weight()), (Some(ForcedFreshness::ForceExpired), 24));
    bench.proves("cache_hit_filter", (CHAT, 17_u32, 23_usize, true));

    let cacheable = bench.gated.response_cache_filter(&bench.session, &response(203), &mut bench.context).unwrap();
    assert!(matches!(cacheable, RespCacheable::Uncacheable(NoCacheReason::OriginNotCache)));
    bench.proves("response_cache_filter", (CHAT, StatusCode::NON_AUTHORITATIVE_INFORMATION));

    let request = RequestHeader::build(Method::PUT, b"/", None).unwrap();
    assert_eq!(bench.gated.cache_vary_filter(&meta, &mut bench.context, &request), Some([7; 16]));
    bench.proves("cache_vary_filter", (17_u32, Method::PUT));

    assert!(bench.gated.cache_not_modified_filter(&bench.session, &response(200), &mut bench.context).unwrap());
    bench.proves("cache_not_modified_filter", (CHAT, StatusCode::OK));

    let mut head = response(206);
    let range = bench.gated.range_header_filter(&mut bench.session, &mut head, &mut bench.context);
    assert!(matches!(range, RangeType::Invalid) && head.headers[MARK] == "range_header_filter");
    bench.proves("range_header_filter", (CHAT, StatusCode::PARTIAL_CONTENT));

    assert!(bench.gated.should_serve_stale(&mut bench.session, &mut bench.context, None));
    bench.proves("should_serve_stale", (CHAT, None::<ErrorType>));
}

async fn upstream_hooks(bench: &mut Bench) {
    let peer = bench.gated.upstream_peer(&mut bench.session, &mut bench.context).await.unwrap();
    assert_eq!(peer.sni, "probe");
    bench.proves("upstream_peer", CHAT);

    let Bench { gated, session, context, .. } = &mut *bench;
    let digest = Digest::default();
    let answer = gated.connected_to_upstream(session, true, &peer, 5, Some(&digest), context).await;
    bench.proves_refused("connected_to_upstream", (CHAT, true, "probe", 5, true), answer);

    let mut request = RequestHeader::build(Method::PATCH, b"/", None).unwrap();
    request.insert_header("authorization", SECRET).unwrap();
    let answer = bench.gated.upstream_request_filter(&mut bench.session, &mut request, &mut bench.context).await;
    bench.proves_refused("upstream_request_filter", (CHAT, Method::PATCH, false), answer);
    assert_eq!(request.headers[MARK], "upstream_request_filter");
}

async fn head_hooks(bench: &mut Bench) {
    let (Bench { gated, session, context, .. }, mut head) = (&mut *bench, response(201));
    let answer = gated.upstream_response_filter(session, &mut head, context).await;
    bench.proves_refused("upstream_response_filter", (CHAT, StatusCode::CREATED), answer);
    assert_eq!(head.headers[MARK], "upstream_response_filter");

    let (Bench { gated, session, context, .. }, mut head) = (&mut *bench, response(202));
    let answer = gated.response_filter(session, &mut head, context).await;
    bench.proves_refused("response_filter", (CHAT, StatusCode::ACCEPTED), answer);
    assert_eq!(head.headers[MARK], "response_filter");
}

async fn body_hooks(bench: &mut Bench) {
    let came = || Some(Bytes::from("theirs"));
    let (Bench { gated, session, context, .. }, mut body) = (&mut *bench, came());
    let delay = gated.upstream_response_body_filter(session, &mut body, true, context).unwrap();
    assert_eq!((delay, body.as_deref()), (Some(Duration::from_millis(3)), Some(BODY.as_bytes())));
    bench.proves("upstream_response_body_filter", (CHAT, came(), true));

    let (Bench { gated, session, context, .. }, mut body) = (&mut *bench, came());
    let delay = gated.response_body_filter(session, &mut body, false, context).unwrap();
    assert_eq!((delay, body.as_deref()), (Some(Duration::from_millis(5)), Some(BODY.as_bytes())));
    bench.proves("response_body_filter", (CHAT, came(), false));

    let (Bench { gated, session, context, .. }, mut trailers) = (&mut *bench, HeaderMap::new());
    let answer = gated.upstream_response_trailer_filter(session, &mut trailers, context);
    assert_eq!(trailers[MARK], "upstream_response_trailer_filter");
    bench.proves_refused("upstream_response_trailer_filter", (CHAT, 0), answer);

    let Bench { gated, session, context, .. } = &mut *bench;
    let added = gated.response_trailer_filter(session, &mut trailers, context).await.unwrap();
    assert_eq!(
        (added.as_deref(), &trailers[MARK]),
        (Some(BODY.as_bytes()), &"response_trailer_filter".parse().unwrap())
    );
    bench.proves("response_trailer_filter", (CHAT, 1));
}

async fn custom_hooks(bench: &mut Bench) {
    let ((up, mut upstream), (down, mut downstream)) = (mpsc::channel(1), mpsc::channel(1));
    let answer = bench.gated.custom_forwarding(&mut bench.session, &mut bench.context, Some(up), down).await;
    assert_eq!((upstream.recv().await, downstream.recv().await), (Some("up".into()), Some("down".into())));
    bench.proves_refused("custom_forwarding", CHAT, answer);

    let (message, Bench { gated, session, context, .. }) = (Bytes::from("message"), &mut *bench);
    let answer = gated.downstream_custom_message_proxy_filter(session, message.clone(), context, true).await;
    assert_eq!(answer.unwrap(), Some(BODY.into()));
    bench.proves("downstream_custom_message_proxy_filter", (CHAT, &message, true));

    let Bench { gated, session, context, .. } = &mut *bench;
    let answer = gated.upstream_custom_message_proxy_filter(session, message.clone(), context, false).await;
    assert_eq!(answer.unwrap(), Some(BODY.into()));
    bench.proves("upstream_custom_message_proxy_filter", (CHAT, &message, false));
}

async fn failure_hooks(bench: &mut Bench) {
    let peer = HttpPeer::new("127.0.0.1:9", false, "theirs".to_owned());
    let status = ErrorType::HTTPStatus(418);
    let refused = || Error::new(status.clone());
    let Bench { gated, session, context, .. } = &mut *bench;
    let error = gated.fail_to_connect(session, &peer, context, refused());
    assert_eq!(*error.etype(), ErrorType::Custom("fail_to_connect"));
    bench.proves("fail_to_connect", (CHAT, "theirs", &status));

    let Bench { gated, session, context, .. } = &mut *bench;
    let error = gated.error_while_proxy(&peer, session, refused(), context, true);
    assert_eq!(*error.etype(), ErrorType::Custom("error_while_proxy"));
    bench.proves("error_while_proxy", ("theirs", CHAT, &status, true));

    let failed = bench.gated.fail_to_proxy(&mut bench.session, &refused(), &mut bench.context).await;
    assert_eq!((failed.error_code, failed.can_reuse_downstream), (599, true));
    bench.proves("fail_to_proxy", (CHAT, &status));

    assert!(bench.gated.suppress_error_log(&bench.session, &bench.context, &refused()));
    bench.proves("suppress_error_log", (CHAT, &status));

    let retry = ProxyWarnLogContext::UpstreamRetry;
    assert!(bench.gated.suppress_proxy_warn_log(&bench.session, &bench.context, &refused(), retry));
    bench.proves("suppress_proxy_warn_log", (CHAT, &status, retry));
}

fn purge_hooks(bench: &mut Bench) {
    assert!(bench.gated.is_purge(&bench.session, &bench.context));
    bench.proves("is_purge", CHAT);

    assert_eq!(bench.gated.purge_action(&bench.session, &bench.context), PurgeAction::Expire);
    bench.proves("purge_action", CHAT);

    let (Bench { gated, session, context, .. }, mut head) = (&mut *bench, Cow::Owned(response(404)));
    let answer = gated.purge_response_filter(session, context, PurgeStatus::NotFound, &mut head);
    assert_eq!(head.headers[MARK], "purge_response_filter");
    bench.proves_refused("purge_response_filter", (CHAT, PurgeStatus::NotFound, StatusCode::NOT_FOUND), answer);
}

async fn last_hooks(bench: &mut Bench) {
    let refused = Error::new(ErrorType::HTTPStatus(418));
    bench.gated.logging(&mut bench.session, Some(&refused), &mut bench.context).await;
    bench.proves("logging", (CHAT, Some(ErrorType::HTTPStatus(418))));
    assert!(matches!(bench.context.state, RequestState::Settled), "the request is settled");

    let kept = bench.gated.persist_connection_context(&bench.session, &bench.context).expect("what was kept");
    assert_eq!(kept.downcast_ref(), Some(&9_u8));
    bench.proves("persist_connection_context", CHAT);

    bench.gated.on_connection_reuse(&mut bench.session, &mut bench.context, kept);
    bench.proves("on_connection_reuse", (CHAT, Some(9_u8)));
}

#[tokio::test]
async fn a_request_that_is_refused_does_not_reach_the_request_filter_within() {
    let mut bench = Bench::new("sk-unknown", REQUEST).await;
    assert!(bench.gated.request_filter(&mut bench.session, &mut bench.context).await.unwrap(), "it is answered");
    assert_eq!(bench.gated.inner.take(), [""; 0]);
    assert!(RequestInfo::of(bench.session.req_header()).is_none());
    bench.gated.logging(&mut bench.session, None, &mut bench.context).await;
    bench.proves("logging", (CHAT, None::<ErrorType>));
    drop(bench.session);
    let mut answer = String::new();
    bench.client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn what_is_held_back_of_a_stream_goes_before_what_the_proxy_within_adds_to_its_trailers() {
    let mut bench = Bench::new(SECRET, r#"{"model": "m", "stream": true}"#).await;
    assert!(bench.gated.request_filter(&mut bench.session, &mut bench.context).await.unwrap());
    let RequestState::Running(running) = &mut bench.context.state else { panic!("it is admitted") };
    running.request.answered(200, "text/event-stream", Vec::new());
    let mut event = Some(Bytes::from("data: {\"half\""));
    response::pass(&mut bench.context.state, &mut event, false).unwrap();
    assert_eq!(event.as_deref(), Some(&b""[..]), "it may yet be the usage that only we asked for");
    let added =
        bench.gated.response_trailer_filter(&mut bench.session, &mut HeaderMap::new(), &mut bench.context).await;
    assert_eq!(added.unwrap().unwrap(), format!("data: {{\"half\"{BODY}"));
}

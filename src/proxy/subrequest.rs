//! An exchange with an upstream that runs apart from its client: as a request of its own within Pingora, a subrequest,
//! whose response the client's request only forwards. So the exchange need not end with the client
//! (`on_client_abort: drain`), the client is still there when we end the exchange (`on_revoke: cut`), and a body goes upstream
//! that is too long for Pingora to replay. Within its silences the client gets signs of life (`server.heartbeat`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Version, header};
use keymeter_config::OnClientAbort;
use keymeter_core::api::Api;
use parking_lot::Mutex;
use pingora::{
    ErrorType,
    http::RequestHeader,
    prelude::{Error, Result},
    protocols::http::{HttpTask, subrequest::server::SubrequestHandle},
    proxy::{
        Session,
        subrequest::{BodyMode, Ctx},
    },
};
use tokio::sync::oneshot;

use super::{
    Context, RequestState,
    body::Outgoing,
    ends::{KEY_REVOKED, revoked},
    finish,
    heartbeat::{self, Heartbeat},
    response::{self, Tail},
};
use crate::{
    admission::{Client, Gate},
    keys::revocation::RevocationEntry,
    upstream::Interrupt,
};

/// Whether an admitted request is to be run apart, and how long its upstream is then read on after its client has left.
pub(super) fn limit<C>(session: &Session, context: &Context<C>) -> Option<Duration> {
    let RequestState::Running(running) = &context.state else { return None };
    let is_replayed = running.body.as_ref().is_none_or(Outgoing::is_replayed);
    if session.subrequest_spawner.is_none() && is_replayed {
        // Pingora asked whether there may be an exchange apart before the request had its settings.
        return None;
    }
    match running.request.settings().on_client_abort {
        OnClientAbort::Drain { limit } => Some(limit),
        OnClientAbort::Stop => {
            // The end of its key would not reach it otherwise before its upstream says something.
            let is_out_of_reach = running.request.run().is_some() && running.connection.is_none();
            let has_heartbeat = running.request.settings().heartbeat.is_some();
            (is_out_of_reach || has_heartbeat || !is_replayed).then_some(Duration::ZERO)
        }
    }
}

/// What the two subrequest of such a request tell each other. The order of the response's pieces orders this too.
pub(super) struct Subrequest {
    /// Bytes of the body that the exchange gave away.
    given: AtomicU64,
    /// How many of them make up the response to its end.
    whole: AtomicU64,
    client_left_early: AtomicBool,
    /// What ends the exchange's wait for the head of an answer.
    interrupt: Mutex<Option<Arc<Interrupt>>>,
    changed: AtomicWaker,
}

impl Subrequest {
    fn new() -> Self {
        Self {
            given: AtomicU64::new(0),
            whole: AtomicU64::new(u64::MAX),
            client_left_early: AtomicBool::new(false),
            interrupt: Mutex::default(),
            changed: AtomicWaker::new(),
        }
    }

    /// Sets what ends the exchange's wait for the head of an answer.
    pub fn set_interrupt(&self, interrupt: Option<Arc<Interrupt>>) {
        *self.interrupt.lock() = interrupt;
        self.changed.wake();
    }

    /// Ready once when that wait is to end.
    fn poll_interrupted(&self, context: &TaskContext<'_>) -> Poll<()> {
        self.changed.register(context.waker());
        let mut interrupt = self.interrupt.lock();
        let is_interrupted = interrupt.as_ref().is_some_and(|interrupt| interrupt.poll(context).is_ready());
        if is_interrupted {
            *interrupt = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// The exchange gives a piece away, with which the response has ended or not.
    pub fn give(&self, piece: &[u8], ended: bool) {
        let given = self.given.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
        if ended {
            self.whole.fetch_min(given, Ordering::Relaxed);
        }
    }

    /// Whether the client left before it had the response to its end.
    pub fn client_left_early(&self) -> bool {
        self.client_left_early.load(Ordering::Relaxed)
    }

    /// Whether so many bytes are the response to its end.
    fn is_whole_after(&self, delivered: u64) -> bool {
        delivered >= self.whole.load(Ordering::Relaxed)
    }

    fn client_left_after(&self, delivered: u64) {
        self.client_left_early.store(!self.is_whole_after(delivered), Ordering::Relaxed);
    }
}

/// Which half of such a request this is, if it is one.
pub(super) enum SubrequestRole<C> {
    /// It is whole.
    No,
    /// The exchange, which gives everything back when it is over.
    Exchange(oneshot::Sender<Return<C>>),
    /// The client's; what the exchange came to, once it is over.
    Client(Option<ExchangeEnd>),
}

/// What the exchange takes over from the client's request.
struct Handover<C> {
    head: RequestHeader,
    inner: C,
    state: RequestState,
    home: oneshot::Sender<Return<C>>,
}

/// What it gives back.
pub(super) struct Return<C> {
    pub inner: C,
    pub state: RequestState,
    pub over: ExchangeEnd,
}

/// What an exchange came to.
#[derive(Clone, Copy)]
pub(super) struct ExchangeEnd {
    pub status: Option<u16>,
    pub complete: bool,
    pub client: Client,
}

/// Runs an admitted request as an exchange of its own, and forwards what comes of it. After the client has left, the
/// exchange goes on for `limit` at most.
///
/// # Errors
/// When the client left, or the response broke off.
pub(super) async fn forward<C>(
    gate: &Gate,
    session: &mut Session,
    context: &mut Context<C>,
    limit: Duration,
    spare: C,
) -> Result<()>
where
    C: Send + Sync + 'static,
{
    let Some(spawner) = session.subrequest_spawner.take() else {
        return Error::e_explain(ErrorType::InternalError, "Pingora gave no way to run an exchange apart");
    };
    let subrequest = Arc::new(Subrequest::new());
    context.role = SubrequestRole::Client(None);
    let mut state = std::mem::replace(&mut context.state, RequestState::Settled);
    let (mut run, mut every) = (None, None);
    if let RequestState::Running(running) = &mut state {
        running.subrequest = Some(subrequest.clone());
        run = running.request.run().cloned();
        every = running.request.settings().heartbeat;
    }
    let (home, returning) = oneshot::channel();
    let inner = std::mem::replace(&mut context.inner, spare);
    let handover = Handover { head: session.req_header().clone(), inner, state, home };
    let own = Ctx::builder().user_ctx(Box::new(Some(handover))).body_mode(BodyMode::ExpectBody).build();
    let (exchange, handle) = with_head_of_http1(session, |session| spawner.create_subrequest(session.as_ref(), own));
    // Both in one task: neither outlives the other, and their connections stay on one thread.
    let heartbeat = Heartbeat::new(every);
    let mut client = ClientHalf { session, subrequest: &subrequest, run, tail: Tail::default(), heartbeat };
    let (forwarded, ()) = tokio::join!(client.carry(handle, limit), exchange.run());
    let tail = client.tail;
    if let Ok(Return { inner, state, over }) = returning.await {
        context.inner = inner;
        context.state = state;
        context.role = SubrequestRole::Client(Some(over));
    }
    let Err(error) = forwarded else { return Ok(()) };
    if *error.etype() == KEY_REVOKED {
        if let RequestState::Running(running) = &mut context.state {
            // The exchange may have been further than the client.
            running.tail = tail;
        }
        response::fail(gate, session, &mut context.state, &error).await;
    }
    Err(error)
}

/// Pingora writes the request's head out for an exchange and reads it again, which HTTP/2's version does not survive.
/// The exchange gets the true head afterwards.
fn with_head_of_http1<T>(session: &mut Session, create: impl FnOnce(&Session) -> T) -> T {
    let version = session.req_header().version;
    session.req_header_mut().set_version(Version::HTTP_11);
    let created = create(session);
    session.req_header_mut().set_version(version);
    created
}

/// What the client's request does meanwhile.
struct ClientHalf<'request> {
    session: &'request mut Session,
    subrequest: &'request Subrequest,
    run: Option<Arc<RevocationEntry>>,
    tail: Tail,
    heartbeat: Heartbeat,
}

/// Why a response was not forwarded to its end.
enum End {
    /// The client left after so many bytes of the body.
    ClientLeft {
        error: Box<Error>,
        delivered: u64,
    },
    /// The client's key is revoked.
    Revoked,
    Broken,
}

impl ClientHalf<'_> {
    /// Forwards the exchange's response, or what is left of it to nobody.
    async fn carry(&mut self, mut handle: SubrequestHandle, limit: Duration) -> Result<()> {
        // The exchange has the request's body already. This one byte is what Pingora replays in its place.
        let _ = handle.tx.send(HttpTask::Body(Some(Bytes::from_static(b"-")), true)).await;
        let forwarded = self.forward_all(&mut handle).await;
        if let Err(End::ClientLeft { delivered, .. }) = &forwarded {
            self.subrequest.client_left_after(*delivered);
        }
        let has_all = forwarded.is_ok();
        // The exchange is left to end by itself, so that its connection is fit for another; dropping the handle ends it
        // wherever it is.
        if has_all || self.subrequest.client_left_early() {
            let rest = async { while handle.rx.recv().await.is_some() {} };
            let limit = if has_all { LAST_WORDS } else { limit };
            tokio::select! {
                _ = tokio::time::timeout(limit, rest) => {}
                _ = revoked(self.run.as_deref()) => {}
            }
        }
        forwarded.map_err(|end| match end {
            End::Broken => Error::explain(ErrorType::ConnectionClosed, "the response broke off").into_up(),
            End::Revoked => Error::explain(KEY_REVOKED, "the key is revoked").into_in(),
            End::ClientLeft { error, .. } => error,
        })
    }

    async fn forward_all(&mut self, handle: &mut SubrequestHandle) -> Result<(), End> {
        let (mut watches, mut delivered) = (true, 0);
        let left = |error: Box<Error>, delivered| End::ClientLeft { error: error.into_down(), delivered };
        loop {
            let takes_comment = self.takes_comment(delivered);
            let mut task = tokio::select! {
                // First, since the connection's reader may fail for the same reason.
                biased;
                _ = revoked(self.run.as_deref()) => return Err(End::Revoked),
                task = handle.rx.recv() => task.ok_or(End::Broken)?,
                idle = self.session.downstream_session.read_body_or_idle(true), if watches => match idle {
                    Ok(_) => {
                        watches = false;
                        continue;
                    }
                    Err(error) => return Err(left(error, delivered)),
                },
                () = std::future::poll_fn(|context| self.subrequest.poll_interrupted(context)) => {
                    // The exchange takes whatever comes after its body for an error, and goes to another replica.
                    let _ = handle.tx.send(HttpTask::Body(Some(Bytes::from_static(b"-")), false)).await;
                    continue;
                }
                () = self.heartbeat.due(), if takes_comment => {
                    let comment = HttpTask::Body(Some(heartbeat::COMMENT), false);
                    let written = self.session.downstream_session.response_duplex_vec(vec![comment]).await;
                    written.map_err(|error| left(error, delivered))?;
                    self.heartbeat.written();
                    continue;
                }
            };
            let piece = if let HttpTask::Body(Some(piece), _) = &task { piece.clone() } else { Bytes::new() };
            if let HttpTask::Header(head, _) = &mut task {
                response::end_with_connection(self.session, head).map_err(|_| End::Broken)?;
                self.heartbeat.begin(head);
            }
            let written = self.session.downstream_session.response_duplex_vec(vec![task]).await;
            let is_over = written.map_err(|error| left(error, delivered))?;
            delivered += piece.len() as u64;
            self.tail.saw(&piece);
            self.heartbeat.written();
            if is_over {
                return Ok(());
            }
        }
    }

    /// Whether a comment may be written after so many bytes of the body: between two events, and not after the last.
    fn takes_comment(&self, delivered: u64) -> bool {
        self.heartbeat.is_on() && self.tail.is_between_events(Api::OpenAi) && !self.subrequest.is_whole_after(delivered)
    }
}

/// How long an exchange whose response is forwarded may take to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// In the exchange: takes over the client's request, if there is one to be taken over.
pub(super) async fn take_over<C>(session: &mut Session, context: &mut Context<C>) -> Result<()>
where
    C: Send + Sync + 'static,
{
    let own = session.subrequest_ctx.as_mut().and_then(|own| own.user_ctx_mut());
    let handover = own.and_then(|own| own.downcast_mut::<Option<Handover<C>>>()).and_then(Option::take);
    let Some(Handover { head, inner, state, home }) = handover else { return Ok(()) };
    context.inner = inner;
    context.state = state;
    context.role = SubrequestRole::Exchange(home);
    read_the_stand_in(session).await?;
    *session.req_header_mut() = head;
    Ok(())
}

/// In the exchange, at its end: gives the client's request back what was taken over. That settles it, once the client has
/// all of the response or has left.
pub(super) fn give_back<C>(
    gate: &Gate,
    context: &mut Context<C>,
    spare: C,
    over: ExchangeEnd,
    home: oneshot::Sender<Return<C>>,
) {
    let state = std::mem::replace(&mut context.state, RequestState::Settled);
    let inner = std::mem::replace(&mut context.inner, spare);
    if let Err(Return { mut state, .. }) = home.send(Return { inner, state, over }) {
        finish(gate, &mut state, over);
    }
}

/// Reads the byte that stands for the body, so that Pingora replays it: as with a body that was read from a client,
/// `request_body_filter` then runs once, at the body's end, and puts the whole in its place.
async fn read_the_stand_in(session: &mut Session) -> Result<()> {
    let head = session.req_header_mut();
    head.remove_header(&header::TRANSFER_ENCODING);
    head.insert_header(header::CONTENT_LENGTH, 1)?;
    session.enable_retry_buffering();
    while session.read_request_body().await?.is_some() {}
    Ok(())
}

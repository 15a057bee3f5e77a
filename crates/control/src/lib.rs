//! The control plane manages keys, teams and wallets and keeps usage, for operators who have no key service of their own.
//! Gateways use it like any key service (docs/key-source.md), from the same process or from another.

pub mod api;
mod bounds;
mod caller;
mod error;
mod gateway;
mod oidc;
mod page;
mod questions;
mod router;
pub mod store;
mod throttle;
mod tokens;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{extract::ConnectInfo, http::request::Parts};
use jiff::Timestamp;
use keymeter_config::{self as config, Database};
use keymeter_core::{key::KeyHash, limit::Limits};
use keymeter_issuer::client::ClientError;
use thiserror::Error;
use tokio::{sync::watch, task::JoinHandle};

pub use self::{
    bounds::{CallConnection, CallListener},
    gateway::Gateway,
    tokens::{OPERATOR_FILE, TokenError},
};
use self::{
    caller::Caller,
    error::ApiError,
    gateway::KnownGateway,
    oidc::OidcIssuer,
    questions::Questions,
    store::{Store, StoreError, operations::Operation},
    throttle::TokenThrottle,
    tokens::Tokens,
};

/// A control plane that answers.
pub struct ControlPlane {
    /// Where.
    pub address: SocketAddr,
    plane: Arc<Plane>,
    /// Another handle of the socket, for whoever comes after.
    kept: std::net::TcpListener,
    /// As it was started, at the address that it really has.
    terms: (config::Control, Limits),
    stop: watch::Sender<bool>,
    task: JoinHandle<std::io::Result<()>>,
}

impl ControlPlane {
    /// Opens the store and answers at `socket`, on the connections that `listen` accepts there. `limits` are those of keys
    /// that set none of their own.
    ///
    /// # Errors
    /// When one of the two cannot be done.
    pub async fn start<L: CallListener>(
        settings: &config::Control,
        limits: Limits,
        socket: std::net::TcpListener,
        listen: impl FnOnce(std::net::TcpListener, &config::Control) -> std::io::Result<L>,
    ) -> Result<Self, ControlError> {
        let error = |error| ControlError::Bind(settings.listen, error);
        let kept = socket.try_clone().map_err(error)?;
        let address = socket.local_addr().map_err(error)?;
        let settings = config::Control { listen: address, ..settings.clone() };
        let tokens = Tokens::new(&settings).map_err(ControlError::Token)?;
        let settings = config::Control {
            token: Some(tokens.operator.clone()),
            gateway_token: tokens.gateways.clone(),
            ..settings
        };
        let issuer = settings.oidc.as_ref().map(OidcIssuer::new).transpose().map_err(ControlError::Issuer)?;
        let plane = Plane::open(&settings, &tokens, limits, issuer).await.map_err(ControlError::Store)?;
        let (stop, stopped) = watch::channel(false);
        let listener = listen(socket, &settings).map_err(error)?;
        let task = tokio::spawn(plane.clone().serve(listener, stopped));
        let terms = (settings, limits);
        Ok(Self { address, plane, kept, terms, stop, task })
    }

    /// What it remembers.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.plane.store
    }

    /// What a gateway calls it with, if any may.
    #[must_use]
    pub fn gateway_token(&self) -> Option<&config::Credential> {
        self.terms.0.gateway_token.as_ref()
    }

    /// Tells it of the gateway of this process: its page says where programs reach it.
    pub fn introduce(&self, gateway: Gateway) {
        self.plane.gateway.introduce(gateway);
    }

    /// Another handle of its socket, for another process.
    ///
    /// # Errors
    /// When the system has no handle left.
    pub fn socket(&self) -> std::io::Result<std::net::TcpListener> {
        self.kept.try_clone()
    }

    /// What it was started with, and its socket, with which it can be started again once it has stopped.
    ///
    /// # Errors
    /// When the system has no handle left.
    pub fn terms(&self) -> std::io::Result<(config::Control, Limits, std::net::TcpListener)> {
        let (settings, limits) = self.terms.clone();
        Ok((settings, limits, self.socket()?))
    }

    /// Lets running calls finish, for a few seconds, and closes the store.
    pub async fn stop(self) {
        drop(self.kept);
        self.stop.send_replace(true);
        let mut task = self.task;
        match tokio::time::timeout(LAST_CALLS, &mut task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!("the control plane ended early: {error}"),
            Ok(Err(error)) => tracing::error!("the control plane broke off: {error}"),
            // Whoever began a call and does not end it holds up nobody.
            Err(_) => task.abort(),
        }
    }
}

/// Why there is no control plane.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Its address cannot be listened on.
    #[error("cannot listen on {0}{reason}", reason = because(.1))]
    Bind(SocketAddr, std::io::Error),
    /// Its store cannot be used.
    #[error(transparent)]
    Store(StoreError),
    /// A token that it is to make itself cannot be had.
    #[error(transparent)]
    Token(TokenError),
    /// The issuer by which people sign in cannot be asked.
    #[error(transparent)]
    Issuer(ClientError),
}

/// Why an address cannot be listened on, and what to do.
fn because(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        ": another program does; stop it or choose another port in `control.listen`".to_owned()
    } else {
        format!(" of `control.listen`: {error}")
    }
}

/// Calls that run when the control plane stops may take so long.
const LAST_CALLS: Duration = Duration::from_secs(3);

/// A gateway that has not asked for so long is gone.
const FORGOTTEN: Duration = Duration::from_hours(30 * 24);

/// Everything that a call needs.
pub struct Plane {
    store: Store,
    operator: KeyHash,
    gateways: Option<KeyHash>,
    operations_per_hour: u32,
    changes_per_hour: u32,
    client_address: Option<config::ClientAddress>,
    throttle: TokenThrottle,
    /// By whom people sign in to the page, beside tokens.
    issuer: Option<OidcIssuer>,
    /// Counts attempts to sign in by the issuer that fail, apart from tokens: one does not hold up the other.
    sign_ins: TokenThrottle,
    questions: Arc<Questions>,
    /// What keys have that set none of their own: a user gives no key more.
    limits: Limits,
    retention: Duration,
    database: Database,
    sessions: page::Sessions,
    bounds: bounds::Bounds,
    gateway: KnownGateway,
}

impl Plane {
    /// Opens the store and brings it up to date.
    ///
    /// # Errors
    /// When that cannot be done.
    async fn open(
        settings: &config::Control,
        tokens: &Tokens,
        limits: Limits,
        issuer: Option<OidcIssuer>,
    ) -> Result<Arc<Self>, StoreError> {
        let store = Store::open(&settings.database).await?;
        let operator = tokens.operator.0.hash();
        Ok(Arc::new(Self {
            sessions: page::Sessions::open(&store, &operator).await?,
            store,
            operator,
            gateways: tokens.gateways.as_ref().map(|token| token.0.hash()),
            operations_per_hour: settings.key_operations_per_hour,
            changes_per_hour: settings.changes_per_hour,
            client_address: settings.client_address.clone(),
            throttle: TokenThrottle::default(),
            issuer,
            sign_ins: TokenThrottle::default(),
            questions: Arc::default(),
            limits,
            retention: settings.usage_retention,
            database: settings.database.clone(),
            bounds: bounds::Bounds::from(settings),
            gateway: KnownGateway::new(settings.gateway_url.clone()),
        }))
    }

    /// What it remembers.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn is_gateway(&self, token: &KeyHash) -> bool {
        self.gateways.is_some_and(|gateways| *token == gateways)
    }

    /// The address that a request comes from.
    fn client_address(&self, parts: &Parts) -> IpAddr {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |ConnectInfo(peer)| peer.ip().to_canonical());
        self.client_address.as_ref().map_or(peer, |from| from.client(&parts.headers, peer))
    }

    /// Counts that a user changes something, or tries to; the operator may change as much as they like.
    async fn count_change(&self, caller: &Caller) -> Result<(), ApiError> {
        self.count(caller, Operation::Change).await
    }

    async fn count(&self, caller: &Caller, operation: Operation) -> Result<(), ApiError> {
        let Some(user) = caller.user() else { return Ok(()) };
        let most = self.changes_per_hour;
        let counted = self.store.count_operation(operation, &user.id, most, Timestamp::now()).await?;
        counted.map_err(|wait| ApiError::too_many_changes(most, wait))
    }

    /// Answers calls until it is told to stop; then those that run may finish.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self: Arc<Self>,
        listener: impl CallListener,
        mut stop: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let plane = self.clone();
        let upkeep =
            tokio::spawn(async move { tokio::join!(plane.clone().upkeep(), plane.store.listen(&plane.database)) });
        let router = router::router(self.clone(), stop.clone());
        let service = router.into_make_service_with_connect_info::<bounds::Peer>();
        // An error means that whoever could say so is gone.
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        let served = axum::serve(listener, service).with_graceful_shutdown(stopped).await;
        upkeep.abort();
        self.store.close().await;
        served
    }

    /// Forgets records that are older than is configured.
    async fn upkeep(self: Arc<Self>) {
        const HOUR: Duration = Duration::from_hours(1);
        loop {
            let end = Timestamp::now().checked_sub(self.retention).unwrap_or(Timestamp::MIN);
            if let Err(error) = self.store.forget_records(end).await {
                tracing::warn!("old usage records stay for now: {error}");
            }
            let end = Timestamp::now().checked_sub(FORGOTTEN).unwrap_or(Timestamp::MIN);
            if let Err(error) = self.store.forget_allowances(end).await {
                tracing::warn!("the allowances of gateways that are gone stay for now: {error}");
            }
            if let Err(error) = self.store.forget_sessions(Timestamp::now()).await {
                tracing::warn!("sessions of the page that are over stay for now: {error}");
            }
            if let Err(error) = self.store.forget_operations(Timestamp::now()).await {
                tracing::warn!("what users did more than an hour ago stays for now: {error}");
            }
            let end = Timestamp::now().checked_sub(store::refusals::KEPT_FOR).unwrap_or(Timestamp::MIN);
            if let Err(error) = self.store.forget_refusals(end).await {
                tracing::warn!("what was refused long ago stays for now: {error}");
            }
            let end = Timestamp::now().checked_sub(store::invitations::DECLINED_FOR).unwrap_or(Timestamp::MIN);
            if let Err(error) = self.store.forget_declined(end).await {
                tracing::warn!("invitations that were declined long ago stay for now: {error}");
            }
            tokio::time::sleep(HOUR).await;
        }
    }
}

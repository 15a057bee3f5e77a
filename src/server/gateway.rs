//! The gateway's own proxy: it sends each request to the upstream of its route, and answers which models a key may call. It uses
//! only what any other proxy with the plugin can use.

mod catalogue;
mod model_list;

use async_trait::async_trait;
use http::StatusCode;
use keymeter_core::{api::Call, rejection::Rejection};
use pingora::{
    ErrorSource, ErrorType,
    http::RequestHeader,
    prelude::{Error, HttpPeer, Result},
    proxy::{ProxyHttp, Session},
};

use serde_json::json;

use self::catalogue::Catalogue;
use crate::{
    proxy::{RequestInfo, respond_json, respond_rejection},
    upstream::Dialer,
};

/// The gateway behind the gate.
#[derive(Default)]
pub struct Gateway {
    dialer: Dialer,
    catalogue: Catalogue,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    /// Answers what needs no upstream.
    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> Result<bool> {
        if matches!(pass(session)?.call, Call::Inference { .. }) {
            return Ok(false);
        }
        // Boxed, so that the futures of other requests stay small.
        Box::pin(self.answer(session)).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        pass(session)?.peer(&self.dialer).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        (): &mut (),
    ) -> Result<()> {
        pass(session)?.address(request)
    }

    /// A connection that was kept and is closed before anything comes back, was closed before the request came: llama.cpp
    /// closes them after each stream, although it says that it keeps them. The request goes out again, on another one.
    /// By itself Pingora would do so for those only that it takes for idempotent.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        (): &mut (),
        client_reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("Peer: {peer}"));
        let was_closed = *error.etype() == ErrorType::WriteError && *error.esource() == ErrorSource::Upstream;
        if session.response_written().is_some() {
            error.set_retry(false);
        } else if was_closed && client_reused {
            error.set_retry(true);
        } else {
            error.retry.decide_reuse(client_reused);
        }
        error
    }

    /// A client that goes away is an everyday thing, and stands in the access log.
    fn suppress_error_log(&self, _: &Session, (): &(), error: &Error) -> bool {
        *error.esource() == ErrorSource::Downstream
    }

    /// For Pingora's log. A query may hold a secret.
    fn request_summary(&self, session: &Session, (): &()) -> String {
        let head = session.req_header();
        format!("{} {}", head.method, head.uri.path())
    }
}

impl Gateway {
    /// Answers what the gateway knows itself.
    async fn answer(&self, session: &mut Session) -> Result<()> {
        let pass = pass(session)?.clone();
        match &pass.call {
            Call::Inference { .. } => {}
            Call::Usage => {
                let usage = pass.usage().await.to_string().into_bytes();
                respond_json(session, &pass, StatusCode::OK, usage).await?;
            }
            Call::Version => {
                let version = self.catalogue.ollamas_version(&pass).await;
                let version = version.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
                let told = json!({"version": version}).to_string().into_bytes();
                respond_json(session, &pass, StatusCode::OK, told).await?;
            }
            Call::Models => {
                let models = self.catalogue.models_for(&pass).await;
                respond_json(session, &pass, StatusCode::OK, model_list::list(pass.api, &models)).await?;
            }
            Call::Model(name) => {
                let models = self.catalogue.models_for(&pass).await;
                if let Some(model) = models.iter().find(|model| model.id == *name) {
                    respond_json(session, &pass, StatusCode::OK, model_list::one(pass.api, model)).await?;
                } else {
                    let rejection = Rejection::ModelNotFound { key: pass.key().id.clone(), model: name.clone() };
                    respond_rejection(session, &pass, &rejection).await?;
                }
            }
        }
        Ok(())
    }
}

/// The request's pass. The gate gives one to every request that it lets in.
fn pass(session: &Session) -> Result<&RequestInfo> {
    RequestInfo::of(session.req_header())
        .ok_or_else(|| Error::explain(ErrorType::InternalError, "the gateway serves only what the gate lets in"))
}

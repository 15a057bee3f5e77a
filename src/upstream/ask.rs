//! Questions of our own to a replica: which models it has, whether it is well.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};
use keymeter_config::Upstream;
use keymeter_core::api::Api;
use pingora::{
    ErrorType,
    connectors::{ConnectorOptions, http::Connector},
    http::RequestHeader,
    prelude::{Error, Result},
};

use super::{Dialer, Replica, address_request, authorities};

/// Asks replicas on its own connections.
pub struct Asker {
    connector: Connector,
    dialer: Dialer,
}

impl Default for Asker {
    fn default() -> Self {
        let mut options = ConnectorOptions::new(KEPT);
        options.ca_file = authorities::file();
        Self { connector: Connector::new(Some(options)), dialer: Dialer::default() }
    }
}

/// Connections that are kept for further questions, of all replicas together.
const KEPT: usize = 128;

/// What a replica answered.
pub struct Answer {
    /// The status of its head.
    pub status: u16,
    /// As much of the body as was asked for.
    pub body: Vec<u8>,
}

/// Anthropic refuses a request that does not say which form of its API it is in.
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

impl Asker {
    /// What a replica of `upstream` answers at a path, each read within `patience`. A body longer than `most` bytes is an error;
    /// none is read where that is 0.
    ///
    /// # Errors
    /// When it does not answer so.
    pub async fn get(
        &self,
        upstream: &Upstream,
        replica: &Arc<Replica>,
        path: &[u8],
        patience: Duration,
        most: usize,
    ) -> Result<Answer> {
        let peer = self.dialer.peer(upstream, replica).await?;
        let (mut session, _) = self.connector.get_http_session(&*peer).await?;
        session.set_read_timeout(Some(patience));
        let mut request = RequestHeader::build(Method::GET, path, None)?;
        if speaks_anthropics_alone(upstream) {
            request.insert_header(ANTHROPIC_VERSION, HeaderValue::from_static("2023-06-01"))?;
        }
        address_request(&mut request, upstream, replica)?;
        session.write_request_header(Box::new(request)).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let status = session.response_header().map(|head| head.status.as_u16()).unwrap_or_default();
        let mut body = Vec::new();
        if most == 0 {
            return Ok(Answer { status, body });
        }
        while let Some(chunk) = session.read_response_body().await? {
            body.extend_from_slice(&chunk);
            if body.len() > most {
                return Error::e_explain(ErrorType::InvalidHTTPHeader, "its answer is too long");
            }
        }
        self.connector.release_http_session(session, &*peer, None).await;
        Ok(Answer { status, body })
    }
}

/// Whether an upstream's list of models is Anthropic's.
#[must_use]
pub fn speaks_anthropics_alone(upstream: &Upstream) -> bool {
    upstream.apis.contains(&Api::Anthropic) && !upstream.apis.contains(&Api::OpenAi)
}

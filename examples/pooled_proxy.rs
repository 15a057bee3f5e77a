//! Somebody's own Pingora proxy that leaves the choice of the server to keymeter's pools: a dead one costs nobody a request. It
//! says in a header which replica answered.
//!
//! ```sh
//! cargo run --example pooled_proxy
//! ```

use std::{error::Error, path::PathBuf, process::ExitCode};

use async_trait::async_trait;
use clap::Parser;
use keymeter::{AccessLog, Dialer, Plugin, RequestInfo};
use pingora::{
    ErrorType,
    http::{RequestHeader, ResponseHeader},
    prelude::{Error as PingoraError, HttpPeer, Result},
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::Server,
};

/// What the command line says.
#[derive(Parser)]
pub struct Options {
    /// Where clients connect.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// With the upstreams and their replicas.
    #[arg(long, default_value = "examples/pooled_proxy.yaml")]
    keymeter: PathBuf,
}

fn main() -> ExitCode {
    match server(Options::parse()) {
        Ok(server) => server.run_forever(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The server, ready to run.
///
/// # Errors
/// When Pingora's own options or the configuration is faulty.
pub fn server(options: Options) -> Result<Server, Box<dyn Error>> {
    let mut server = Server::new(None)?;
    server.bootstrap();
    let plugin = Plugin::load(options.keymeter, AccessLog::to(std::io::stdout())?)?;
    server.add_services(plugin.services());
    let mut service = http_proxy_service(&server.configuration, plugin.gated(Pooled::default()));
    service.add_tcp(&options.listen);
    server.add_service(service);
    Ok(server)
}

/// Sends each request to the replica that was chosen for it.
#[derive(Default)]
pub struct Pooled {
    dialer: Dialer,
}

#[async_trait]
impl ProxyHttp for Pooled {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        info(session)?.peer(&self.dialer).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        (): &mut (),
    ) -> Result<()> {
        info(session)?.address(request)
    }

    async fn response_filter(&self, session: &mut Session, response: &mut ResponseHeader, (): &mut ()) -> Result<()> {
        if let Some(replica) = info(session)?.replica.clone() {
            response.insert_header("x-served-by", &*replica.name)?;
        }
        Ok(())
    }
}

fn info(session: &Session) -> Result<&RequestInfo> {
    let info = RequestInfo::of(session.req_header());
    info.ok_or_else(|| PingoraError::explain(ErrorType::InternalError, "a request that the gate did not let in"))
}

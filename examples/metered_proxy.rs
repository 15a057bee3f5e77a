//! Somebody's own Pingora proxy: it takes its upstreams in turn, and says in a header which one
//! answered. The lines that end in `// metered` were added to meter and limit its clients' keys;
//! without them it is the proxy that it was.
//!
//! ```sh
//! keymeter keys create --file conf/keys.yaml --name "My first key"     # shows the secret, once
//! cargo run --example metered_proxy -- 127.0.0.1:8000 127.0.0.1:8001
//! ```

use std::{
    error::Error,
    net::SocketAddr,
    path::PathBuf, // metered
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use clap::Parser;
use keymeter::{AccessLog, Plugin}; // metered
use pingora::{
    http::ResponseHeader,
    prelude::{HttpPeer, Result},
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::{Server, configuration::Opt},
};

/// What the command line says.
#[derive(Parser)]
pub struct Options {
    /// Pingora's own: `--conf` with its settings, `--upgrade` to take over from a running process.
    #[command(flatten)]
    pingora: Opt,
    /// Where clients connect.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// The inference servers behind.
    #[arg(required = true)]
    upstreams: Vec<SocketAddr>,
    #[arg(long, default_value = "examples/metered_proxy.yaml")] // metered
    keymeter: PathBuf, // metered
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
/// When Pingora's own options or what the options name is faulty.
pub fn server(options: Options) -> Result<Server, Box<dyn Error>> {
    let mut server = Server::new(Some(options.pingora))?;
    server.bootstrap();
    let proxy = RoundRobin { upstreams: options.upstreams, turn: AtomicUsize::new(0) };
    let plugin = Plugin::load(options.keymeter, AccessLog::to(std::io::stdout())?)?; // metered
    server.add_services(plugin.services()); // metered
    let proxy = plugin.gated(proxy); // metered
    let mut service = http_proxy_service(&server.configuration, proxy);
    service.add_tcp(&options.listen);
    server.add_service(service);
    Ok(server)
}

/// Takes its upstreams in turn.
pub struct RoundRobin {
    upstreams: Vec<SocketAddr>,
    turn: AtomicUsize,
}

#[async_trait]
impl ProxyHttp for RoundRobin {
    /// The upstream that serves the request.
    type CTX = Option<SocketAddr>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    async fn upstream_peer(&self, _: &mut Session, upstream: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.upstreams.len();
        let chosen = upstream.insert(self.upstreams[turn]);
        Ok(Box::new(HttpPeer::new(*chosen, false, String::new())))
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        upstream: &mut Self::CTX,
    ) -> Result<()> {
        if let Some(upstream) = upstream {
            response.insert_header("x-served-by", upstream.to_string())?;
        }
        Ok(())
    }
}

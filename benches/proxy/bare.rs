//! A bare Pingora proxy: every request goes to one upstream, and nothing is looked at.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use pingora::{
    apps::HttpServerOptions,
    listeners::{L4BufferSettings, ListenerConfig},
    prelude::{HttpPeer, Result, Server},
    proxy::{ProxyHttp, Session, http_proxy, http_proxy_service},
    server::configuration::ServerConf,
    services::{Service, listening::Service as Listening},
};
use tokio::sync::watch;

/// As people would write it: Pingora's own server, one thread.
pub(super) fn as_it_comes(listen: &str, upstream: &str) {
    let conf = ServerConf { threads: 1, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let proxy = Bare { upstream: upstream.parse().unwrap(), is_alike: false };
    let mut service = http_proxy_service(&server.configuration, proxy);
    service.add_tcp(listen);
    server.bootstrap();
    server.add_service(service);
    server.run_forever();
}

/// On the runtime, and with the options, that keymeter runs with.
pub(super) fn like_keymeter(listen: &str, upstream: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let conf = Arc::new(ServerConf::default());
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        let mut proxy = http_proxy(&conf, Bare { upstream: upstream.parse().unwrap(), is_alike: true });
        proxy.server_options = Some(options);
        let mut service = Listening::new("bare".to_owned(), proxy);
        service.add_listener(ListenerConfig::tcp(listen).l4_buffer(L4BufferSettings::default().read(0)));
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(async move { service.start_service(None, stopped, 1).await });
        std::future::pending::<()>().await;
    });
}

struct Bare {
    upstream: SocketAddr,
    is_alike: bool,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.upstream, false, String::new());
        if self.is_alike {
            peer.options.connection_timeout = Some(Duration::from_secs(5));
            peer.options.total_connection_timeout = Some(Duration::from_secs(5));
            peer.options.read_timeout = Some(Duration::from_mins(10));
            peer.options.write_timeout = Some(Duration::from_mins(10));
            peer.options.idle_timeout = Some(Duration::from_secs(4));
        }
        Ok(Box::new(peer))
    }
}

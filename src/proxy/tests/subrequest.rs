//! With `on_client_abort: drain` two of Pingora's requests carry one of the client's. The proxy within sees one, with
//! one state of its own from beginning to end.

use pingora::{
    apps::HttpServerApp, protocols::http::ServerSession, proxy::http_proxy, server::configuration::ServerConf,
};
use tokio::{net::TcpListener, sync::watch};

use super::*;

/// A proxy whose state is the list of its hooks that were called.
struct Tracing {
    upstream: std::net::SocketAddr,
    done: mpsc::UnboundedSender<Vec<&'static str>>,
}

#[async_trait]
impl ProxyHttp for Tracing {
    type CTX = Vec<&'static str>;

    fn new_ctx(&self) -> Self::CTX {
        Vec::new()
    }

    async fn early_request_filter(&self, _: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        ctx.push("early_request_filter");
        Ok(())
    }

    async fn request_filter(&self, _: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        ctx.push("request_filter");
        Ok(false)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        assert!(RequestInfo::of(session.req_header()).is_some(), "it is told whom it serves");
        ctx.push("upstream_peer");
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }

    async fn response_filter(&self, _: &mut Session, _: &mut ResponseHeader, ctx: &mut Self::CTX) -> Result<()> {
        ctx.push("response_filter");
        Ok(())
    }

    async fn logging(&self, _: &mut Session, error: Option<&Error>, ctx: &mut Self::CTX) {
        assert!(error.is_none(), "{error:?}");
        ctx.push("logging");
        self.done.send(ctx.clone()).unwrap();
    }

    fn persist_connection_context(&self, _: &Session, ctx: &Self::CTX) -> Option<Box<dyn Any + Send + Sync>> {
        (!ctx.is_empty()).then(|| self.done.send([ctx.as_slice(), &["persist"]].concat()).unwrap());
        None
    }
}

#[tokio::test]
async fn the_proxy_within_sees_one_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 4096];
        assert!(stream.read(&mut asked).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    });
    let (done, mut seen) = mpsc::unbounded_channel();
    let gated = Gated::new(gate_with("on_client_abort: drain"), Tracing { upstream, done });
    let proxy = Arc::new(http_proxy(&Arc::new(ServerConf::default()), gated));
    let (mut client, server) = duplex(1 << 16);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {SECRET}\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{REQUEST}", REQUEST.len());
    client.write_all(request.as_bytes()).await.unwrap();
    let (_keep, shutdown) = watch::channel(false);
    let mut session = ServerSession::new_http1(Box::new(server));
    session.set_keepalive(Some(60));
    drop(proxy.process_new_http(session, &shutdown).await.expect("the connection takes the next request"));
    let once = ["early_request_filter", "request_filter", "upstream_peer", "response_filter", "logging"];
    assert_eq!(seen.recv().await.unwrap(), once);
    assert_eq!(seen.recv().await.unwrap(), [&once[..], &["persist"]].concat(), "the state came home");
    assert!(seen.try_recv().is_err(), "and nothing was called twice");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("{}"), "{answer}");
}

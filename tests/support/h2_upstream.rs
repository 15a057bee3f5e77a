//! An inference server for tests that speaks HTTP/2 over TLS, and does what a script says. It keeps what it was asked,
//! and when streams were reset.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        version::TLS13,
    },
};

use super::{
    client::within,
    script::{Script, Step},
};

/// A server on a free port of loopback. It stops, with all its connections, when it is dropped.
pub struct H2Upstream {
    address: SocketAddr,
    /// What a client has to trust, in PEM form.
    pub certificate: String,
    seen: watch::Receiver<Seen>,
    accepting: AbortHandle,
}

#[derive(Clone, Default)]
struct Seen {
    bodies: Vec<Vec<u8>>,
    resets: Vec<Instant>,
}

impl H2Upstream {
    /// Starts a server that answers each request with the script that `script` makes of its body.
    pub async fn start(script: impl Fn(&[u8]) -> Script + Send + Sync + 'static) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.key_pair.serialize_der()));
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, seen) = watch::channel(Seen::default());
        let server =
            Server { tls: TlsAcceptor::from(Arc::new(config)), script: Arc::new(script), seen: Arc::new(sender) };
        let accepting = tokio::spawn(server.accept(listener)).abort_handle();
        Self { address, certificate: made.cert.pem(), seen, accepting }
    }

    /// The base URL, as a configuration names it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The bodies of the requests so far.
    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.seen.borrow().bodies.clone()
    }

    /// Waits until `count` requests have come in all.
    pub async fn wait_for_request(&self, count: usize) {
        let mut seen = self.seen.clone();
        within("a request to the upstream", seen.wait_for(|seen| seen.bodies.len() >= count)).await.unwrap();
    }

    /// Waits until a stream was reset by the peer, and says when the first one was.
    pub async fn wait_for_reset(&self) -> Instant {
        let mut seen = self.seen.clone();
        within("a reset of a stream", seen.wait_for(|seen| !seen.resets.is_empty())).await.unwrap().resets[0]
    }
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

type Answer = Arc<dyn Fn(&[u8]) -> Script + Send + Sync>;

#[derive(Clone)]
struct Server {
    tls: TlsAcceptor,
    script: Answer,
    seen: Arc<watch::Sender<Seen>>,
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(self.clone().serve(stream));
        }
    }

    async fn serve(self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let Ok(stream) = self.tls.accept(stream).await else { return };
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        let mut streams = JoinSet::new();
        while let Some(Ok((request, respond))) = connection.accept().await {
            streams.spawn(self.clone().answer(request, respond));
        }
    }

    async fn answer(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let Some(body) = whole(request.into_body()).await else { return };
        self.seen.send_modify(|seen| seen.bodies.push(body.clone()));
        let script = (self.script)(&body);
        let mut head = Response::builder().status(script.status);
        for (name, value) in &script.headers {
            head = head.header(name, value);
        }
        let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), false) else { return };
        if run(&script, &mut stream).await.is_err() {
            self.seen.send_modify(|seen| seen.resets.push(Instant::now()));
        }
    }
}

async fn whole(mut stream: RecvStream) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.ok()?;
        stream.flow_control().release_capacity(piece.len()).ok()?;
        body.extend_from_slice(&piece);
    }
    Some(body)
}

/// An error: the peer reset the stream.
async fn run(script: &Script, stream: &mut SendStream<Bytes>) -> Result<(), ()> {
    for step in &script.steps {
        match step {
            Step::Head => {}
            Step::Send(piece) => stream.send_data(piece.clone(), false).map_err(drop)?,
            Step::Wait(gate) => tokio::select! {
                () = gate.passed() => {}
                _ = poll_fn(|context| stream.poll_reset(context)) => return Err(()),
            },
            Step::Pause(pause) => tokio::time::sleep(*pause).await,
            Step::Finish => return stream.send_data(Bytes::new(), true).map_err(drop),
            Step::Reset | Step::Close => {
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
                return Ok(());
            }
            Step::Raw(_) | Step::Feed(_) => panic!("this server has no such step"),
        }
    }
    let _ = poll_fn(|context| stream.poll_reset(context)).await;
    Err(())
}

//! A collector of traces for tests: it takes what comes by OTLP over gRPC, and keeps it for the test to look at.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::Span,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto, pki_types::PrivateKeyDer},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use super::client::within;

/// A collector on a port of loopback. It stops, with its connections, when it is dropped.
pub struct Collector {
    pub address: SocketAddr,
    taken: watch::Receiver<Taken>,
    serving: AbortHandle,
}

/// What has come.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    pub spans: Vec<Seen>,
    /// What each process says of itself.
    pub resources: Vec<BTreeMap<String, String>>,
    /// The metadata of each call, and everything in it, as Rust prints it.
    pub calls: Vec<String>,
}

/// A span as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub name: String,
    /// `SERVER`, `CLIENT`
    pub kind: &'static str,
    pub trace: String,
    pub id: String,
    /// Empty, where it has none.
    pub parent: String,
    pub state: String,
    pub attributes: BTreeMap<String, String>,
    pub is_error: bool,
    pub began: SystemTime,
    pub ended: SystemTime,
}

impl Collector {
    /// On a free port.
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port"))
    }

    /// On a port that the test has.
    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a listener has an address");
        let (sender, taken) = watch::channel(Taken::default());
        let service = TraceServiceServer::new(Taking(Arc::new(sender)));
        let server = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        Self { address, taken, serving: tokio::spawn(server).abort_handle() }
    }

    /// On a free port, with TLS and the certificate that is given with it, in PEM form.
    pub async fn start_with_tls() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (acceptor, certificate) = acceptor();
        let (sender, taken) = watch::channel(Taken::default());
        let (streams, incoming) = mpsc::channel(1);
        let service = TraceServiceServer::new(Taking(Arc::new(sender)));
        let server = Server::builder().add_service(service).serve_with_incoming(ReceiverStream::new(incoming));
        let serving = tokio::spawn(async move {
            let accepting = async {
                while let Ok((stream, _)) = listener.accept().await {
                    // Who does not trust the certificate goes away.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = streams.send(Ok::<_, std::io::Error>(stream)).await;
                    }
                }
            };
            tokio::join!(accepting, server).1
        });
        (Self { address, taken, serving: serving.abort_handle() }, certificate)
    }

    /// The section of a configuration that has traces sent here.
    pub fn section(&self, more: &str) -> String {
        format!("tracing: {{otlp: \"http://{}\"{more}}}", self.address)
    }

    /// What has come so far.
    pub fn taken(&self) -> Taken {
        self.taken.borrow().clone()
    }

    /// Waits until so many spans have come.
    pub async fn spans(&self, count: usize) -> Vec<Seen> {
        let mut taken = self.taken.clone();
        let what = format!("{count} spans to come to the collector");
        let taken = within(&what, taken.wait_for(|taken| taken.spans.len() >= count)).await.expect("it is running");
        assert_eq!(taken.spans.len(), count, "{:#?}", taken.spans);
        taken.spans.clone()
    }

    /// Waits for the two spans of one request: its own, and that of its exchange with an upstream.
    pub async fn request(&self) -> (Seen, Seen) {
        let spans = self.spans(2).await;
        let of = |kind| spans.iter().find(|span| span.kind == kind).expect("there is one of each").clone();
        (of("SERVER"), of("CLIENT"))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Seen {
    /// The value of an attribute as text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    pub fn took(&self) -> Duration {
        self.ended.duration_since(self.began).expect("it ended after it began")
    }
}

fn acceptor() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let key = PrivateKeyDer::try_from(made.key_pair.serialize_der()).expect("the key is one");
    let config = config.expect("the versions are known").with_no_client_auth();
    let mut config = config.with_single_cert(vec![made.cert.der().clone()], key).expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec()];
    (Arc::new(config).into(), made.cert.pem())
}

struct Taking(Arc<watch::Sender<Taken>>);

#[tonic::async_trait]
impl TraceService for Taking {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let printed = format!("{:?} {:?}", request.metadata(), request.get_ref());
        self.0.send_modify(|taken| {
            taken.calls.push(printed);
            for resource in request.into_inner().resource_spans {
                let of_process = resource.resource.map(|resource| texts(&resource.attributes));
                taken.resources.extend(of_process);
                let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                taken.spans.extend(spans.map(seen));
            }
        });
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn seen(span: Span) -> Seen {
    let at = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    Seen {
        kind: span.kind().as_str_name().trim_start_matches("SPAN_KIND_"),
        trace: hex::encode(&span.trace_id),
        id: hex::encode(&span.span_id),
        parent: hex::encode(&span.parent_span_id),
        attributes: texts(&span.attributes),
        is_error: span.status.as_ref().is_some_and(|status| status.code == 2),
        began: at(span.start_time_unix_nano),
        ended: at(span.end_time_unix_nano),
        name: span.name,
        state: span.trace_state,
    }
}

fn texts(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    pairs.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    }
}

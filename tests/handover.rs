//! A new version in place of a running one, under load: nobody is refused, nothing that runs is cut, and a new one that
//! does not come up changes nothing.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::{
    client::{Arrival, Client, within},
    gateway::{SECRET, config, one_key, replace},
    process::{Process, Signal, answer_becomes, ask, keymeter},
    script::{Gate, Script, completion, usage},
    upstream::ScriptedUpstream,
};

/// A gateway that can be upgraded, and its files.
struct House {
    directory: TempDir,
    configuration: PathBuf,
    upstream: ScriptedUpstream,
    gate: Gate,
    gateway: SocketAddr,
    admin: SocketAddr,
}

impl House {
    /// With further `sections`, and a word to the service manager if `environment` says where that is.
    async fn with(sections: &str, environment: &[(&str, &str)]) -> (Self, Process) {
        Self::with_server("", sections, environment).await
    }

    /// With further fields of `server`, too.
    async fn with_server(server: &str, sections: &str, environment: &[(&str, &str)]) -> (Self, Process) {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = ScriptedUpstream::start(move |request| match request.json()["stream"] {
            Value::Bool(true) => Script::stream_of(request, 3, &usage(7, 3)).gated(1, &held),
            _ => Script::json(200, &completion("m", 5)),
        })
        .await;
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("keymeter.yaml");
        let text = written(&config(&upstream, sections)).replace("server: {", &format!("server: {{{server}"));
        std::fs::write(&configuration, &text).unwrap();
        std::fs::write(directory.path().join("keys.yaml"), one_key("")).unwrap();
        let command = keymeter(&["serve", "--config", configuration.to_str().unwrap()]);
        let process = Process::start_with(command, environment);
        let (gateway, admin) = process.addresses().await;
        let house = Self { directory, configuration, upstream, gate, gateway, admin };
        // The next one is to ask for the addresses that this one has.
        house.write(&house.fixed(sections).replace("server: {", &format!("server: {{{server}")));
        process.stderr.line("server.listen").await;
        (house, process)
    }

    fn fixed(&self, sections: &str) -> String {
        written(&config(&self.upstream, sections)).replacen("127.0.0.1:0", &self.gateway.to_string(), 1).replacen(
            "127.0.0.1:0",
            &self.admin.to_string(),
            1,
        )
    }

    fn write(&self, configuration: &str) {
        replace(&self.configuration, configuration);
    }

    fn successor(&self) -> Process {
        Process::start(keymeter(&["serve", "--upgrade", "--config", self.configuration.to_str().unwrap()]))
    }

    /// A stream that does not end before the gate is opened.
    async fn running_stream(&self) -> Client {
        let mut client = Client::connect(self.gateway).await;
        let body = json!({"model": "m", "stream": true, "messages": []});
        assert_eq!(client.chat_stream(SECRET, &body).await.status, 200);
        assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
        client
    }
}

fn written(configuration: &str) -> String {
    configuration.replace("server: {", "server: {upgrade_socket: upgrade.sock, ")
}

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
}

/// Clients that ask without a pause, until they are told to stop. A request that fails stops the test.
struct Load {
    tasks: JoinSet<()>,
    answered: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl Load {
    fn on(gateway: SocketAddr) -> Self {
        let mut load = Self { tasks: JoinSet::new(), answered: Arc::default(), is_over: Arc::default() };
        for number in 0..6 {
            let (answered, is_over) = (load.answered.clone(), load.is_over.clone());
            load.tasks.spawn(async move {
                let mut client = Client::connect(gateway).await;
                while !is_over.load(Ordering::Relaxed) {
                    let answer = client.chat(SECRET, &chat()).await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                    let closes = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                    // Some have a new connection for each request, and others keep theirs for as long as they may.
                    if closes || number % 2 == 0 {
                        client = Client::connect(gateway).await;
                    }
                }
            });
        }
        load.http2(gateway);
        load
    }

    fn http2(&mut self, gateway: SocketAddr) {
        let (answered, is_over) = (self.answered.clone(), self.is_over.clone());
        let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
        self.tasks.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let url = format!("http://{gateway}/v1/chat/completions");
                let answer = client.post(url).bearer_auth(SECRET).json(&chat()).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.bytes().await.unwrap();
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Waits until so many more were answered.
    async fn goes_on(&self, more: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        let reached = async {
            while self.answered.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        within("more answers", reached).await;
    }

    async fn ended(mut self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(task) = self.tasks.join_next().await {
            task.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_over_under_load_and_no_request_fails() {
    let (house, mut first) = House::with("", &[]).await;
    let load = Load::on(house.gateway);
    load.goes_on(100).await;
    let mut stream = house.running_stream().await;
    let mut processes = Vec::new();
    for _ in 0..3 {
        let next = house.successor();
        assert_eq!(next.addresses().await, (house.gateway, house.admin));
        load.goes_on(100).await;
        processes.push(next);
    }
    first.stderr.line("another process has taken over").await;
    // As a manager does that stops all of a service: the stream may still end.
    first.signal(Signal::TERM);
    first.stderr.line("signal again to stop at once").await;
    assert!(first.is_running(), "it has a stream to end");
    house.gate.open();
    assert_eq!(stream.rest().await.1, Arrival::End);
    stream.close().await;
    assert!(first.ended().await.0.success());
    let mut last = processes.pop().unwrap();
    for mut process in processes {
        assert!(process.ended().await.0.success(), "{:#?}", process.stderr.all());
    }
    let answered = load.ended().await;
    assert!(answered >= 400, "{answered}");
    assert!(last.is_running());
    let metrics = ask(house.admin, "GET", "/metrics").await.text();
    assert!(metrics.contains("keymeter_requests_total"), "the last one is asked for metrics");
    last.signal(Signal::TERM);
    assert!(last.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_come_up_changes_nothing() {
    let (house, mut first) = House::with("", &[]).await;
    let load = Load::on(house.gateway);
    for (configuration, said) in [
        ("no: configuration".to_owned(), "unknown field `no`"),
        // What is wrong is found only after the sockets have been handed over.
        (
            house.fixed("ledger: {directory: spool}").replace(
                "yaml: {path: keys.yaml}",
                "http: {url: \"http://127.0.0.1:1/{hash}\", usage_url: \"http://127.0.0.1:1/records\"}",
            ),
            "spool",
        ),
    ] {
        // A file where a directory is to be.
        std::fs::write(house.directory.path().join("spool"), "").unwrap();
        house.write(&configuration);
        let mut next = house.successor();
        assert!(!next.ended().await.0.success());
        next.stderr.line(said).await;
        load.goes_on(50).await;
        assert!(first.is_running());
    }
    house.write(&house.fixed(""));
    let second = house.successor();
    second.addresses().await;
    load.goes_on(50).await;
    assert!(first.ended().await.0.success());
    load.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_starts_the_program_anew_and_the_service_manager_is_told_who_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join("notify");
    let manager = tokio::net::UnixDatagram::bind(&name).unwrap();
    let told = async || {
        let mut words = vec![0; 512];
        let length = within("word of the service", manager.recv(&mut words)).await.unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    };
    let (house, mut first) = House::with("", &[("NOTIFY_SOCKET", name.to_str().unwrap())]).await;
    assert_eq!(told().await.trim(), "READY=1");
    let load = Load::on(house.gateway);
    load.goes_on(20).await;
    first.signal(Signal::USR2);
    let word = told().await;
    let (process, ready) = word.trim().split_once('\n').unwrap();
    let process = process.strip_prefix("MAINPID=").unwrap().parse().unwrap();
    assert_eq!(ready, "READY=1");
    assert!(first.ended().await.0.success());
    load.goes_on(20).await;
    load.ended().await;
    // It is nobody's child any more.
    let process = rustix::process::Pid::from_raw(process).unwrap();
    rustix::process::kill_process(process, Signal::TERM).unwrap();
    assert_eq!(told().await.trim(), "STOPPING=1");
    within("its end", async {
        while rustix::process::test_kill_process(process).is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_socket_the_signal_says_what_to_do_and_so_does_the_command() {
    let (house, mut first) = House::with("", &[]).await;
    let without = house.fixed("").replace("upgrade_socket: upgrade.sock, ", "");
    let path = house.directory.path().join("without.yaml");
    std::fs::write(
        &path,
        without.replace(&house.gateway.to_string(), "127.0.0.1:0").replace(&house.admin.to_string(), "127.0.0.1:0"),
    )
    .unwrap();
    let mut other = Process::serve(&path);
    other.addresses().await;
    other.signal(Signal::USR2);
    other.stderr.line("set it, restart, and then upgrade").await;
    assert!(other.is_running());
    let mut lost = Process::start(keymeter(&["serve", "--upgrade", "--config", path.to_str().unwrap()]));
    lost.stderr.line("`server.upgrade_socket`").await;
    assert!(!lost.ended().await.0.success());
    first.signal(Signal::TERM);
    assert!(first.ended().await.0.success());
    let mut late = house.successor();
    late.stderr.line("leave out --upgrade").await;
    assert!(!late.ended().await.0.success());
}

const CONTROL: &str = r#"
control: {listen: "127.0.0.1:0", database: "sqlite://keymeter.db", token: "an-operators-token-of-tests-0123456789", gateway_token: "a-gateways-token-of-tests-0123456789"}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_moves_too_and_comes_back_where_the_new_one_fails() {
    let (house, mut first) = House::with(CONTROL, &[]).await;
    let line = first.stderr.line("the control plane is on").await;
    let control: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    let fixed =
        house.fixed(CONTROL).replace("listen: \"127.0.0.1:0\", database", &format!("listen: \"{control}\", database"));
    let bearer = [("authorization", "Bearer an-operators-token-of-tests-0123456789")];
    let user = json!({"id": "ada", "name": "Ada Lovelace"}).to_string();
    let made = Client::connect(control).await.request("POST", "/api/v1/users", &bearer, user.as_bytes()).await;
    assert_eq!(made.status, 201, "{}", made.text());

    // The address of a second listener is taken: it is found out when the control plane has given way.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let broken = fixed.replacen("listen: [", &format!("listen: [\"{}\", ", taken.local_addr().unwrap()), 1);
    house.write(&broken);
    let mut next = house.successor();
    next.stderr.line("another program uses it").await;
    assert!(!next.ended().await.0.success());
    first.stderr.line("this one continues to serve").await;
    let users = async || Client::connect(control).await.request("GET", "/api/v1/users", &bearer, b"").await;
    assert_eq!(users().await.json()["data"][0]["id"], "ada", "{}", users().await.text());

    house.write(&fixed);
    let second = house.successor();
    second.addresses().await;
    assert!(first.ended().await.0.success());
    answer_becomes(house.admin, "/-/ready", "ready", |answer| answer.status == 200).await;
    assert_eq!(users().await.json()["data"][0]["id"], "ada");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_tls_too_no_request_fails_though_every_one_begins_with_a_handshake() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    let tls = format!("tls: {{cert: \"{}\", key: \"{}\"}}, ", cert.display(), key.display());
    let (house, first) = House::with_server(&tls, "", &[]).await;
    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client =
        || reqwest::Client::builder().no_proxy().add_root_certificate(trusted.clone()).pool_max_idle_per_host(0);
    let (answered, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut load = Load { tasks: JoinSet::new(), answered: answered.clone(), is_over: is_over.clone() };
    for _ in 0..4 {
        let (client, url) = (client().build().unwrap(), format!("https://{}/v1/chat/completions", house.gateway));
        let (answered, is_over) = (answered.clone(), is_over.clone());
        load.tasks.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let answer = client.post(&url).bearer_auth(SECRET).json(&chat()).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.bytes().await.unwrap();
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    load.goes_on(20).await;
    // One that is slow to say its first word.
    let slow = tokio::net::TcpStream::connect(house.gateway).await.unwrap();
    let mut processes = vec![first];
    for _ in 0..4 {
        let next = house.successor();
        next.addresses().await;
        load.goes_on(20).await;
        processes.push(next);
    }
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = tokio_rustls::rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = tokio_rustls::rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    within("the slow handshake", tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, slow)).await.unwrap();
    load.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_call_at_the_control_plane_holds_up_nobody() {
    let (house, mut first) = House::with(CONTROL, &[]).await;
    let line = first.stderr.line("the control plane is on").await;
    let control: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    let at_home = format!("listen: \"{control}\", database");
    house.write(&house.fixed(CONTROL).replace("listen: \"127.0.0.1:0\", database", &at_home));
    let mut stranger = Client::connect(control).await;
    stranger.send_raw(b"GET / HTTP/1.1\r\nhost: x\r\n").await;
    let mut second = house.successor();
    second.addresses().await;
    assert!(first.ended().await.0.success());
    let mut stranger = Client::connect(control).await;
    stranger.send_raw(b"GET / HTTP/1.1\r\nhost: x\r\n").await;
    second.signal(Signal::TERM);
    assert!(second.ended().await.0.success());
}

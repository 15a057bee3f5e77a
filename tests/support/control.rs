//! A control plane on a free port, over SQLite in a folder of its own or over a PostgreSQL server that is started for it.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use keymeter::server::{control_plane, handover::Sockets};
use keymeter_config::{self as config, Control as Settings, Database};
use keymeter_control::{ControlPlane, store::Store};
use keymeter_core::{
    key::Secret,
    limit::{Limit, Limits},
};
use reqwest::{Client, Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{canary, client::PATIENCE};

pub const OPERATOR: &str = "operator-token-of-the-tests-0123456789";
pub const GATEWAYS: &str = "gateway-token-of-the-tests-0123456789";

/// What keys have that have no limits of their own.
const LIMITS: Limits = Limits {
    requests_per_minute: Limit::Unlimited,
    tokens_per_minute: Limit::Unlimited,
    concurrent_requests: Limit::Unlimited,
};

/// A running control plane.
pub struct Plane {
    pub control: ControlPlane,
    client: Client,
    database: Database,
    section: String,
    keeps: Arc<dyn Send + Sync>,
}

/// The answer to a call.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Its JSON, if it has this status.
    pub fn with(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// Asserts that it is an error of this status and code, and gives the field that it names.
    pub fn refused(self, status: u16, code: &str) -> Value {
        let body = self.with(status);
        let error = &body["error"];
        assert_eq!(error["code"], code, "{body}");
        assert_eq!(error.as_object().unwrap().len(), 4, "{body}");
        error["param"].clone()
    }
}

impl Plane {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(folder.path().join("data/keymeter.db"));
        Self::over(database, LIMITS, "", Arc::new(folder)).await
    }

    pub async fn postgres() -> Self {
        let server = Postgres::start();
        Self::over(Database::Postgres(server.url.as_str().into()), LIMITS, "", Arc::new(server)).await
    }

    /// Over a database in a file that `made` has made, of which it is given the URL.
    pub async fn sqlite_of(made: impl AsyncFnOnce(String)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keymeter.db");
        made(format!("sqlite://{}?mode=rwc", path.display())).await;
        Self::over(Database::Sqlite(path), LIMITS, "", Arc::new(folder)).await
    }

    /// Over a database on a server that `made` has made, of which it is given the URL.
    pub async fn postgres_of(made: impl AsyncFnOnce(String)) -> Self {
        let server = Postgres::start();
        made(server.url.clone()).await;
        Self::over(Database::Postgres(server.url.as_str().into()), LIMITS, "", Arc::new(server)).await
    }

    /// With limits for all keys, over SQLite.
    pub async fn limited(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(folder.path().join("keymeter.db"));
        Self::over(database, limits, "", Arc::new(folder)).await
    }

    /// With more in its section of the configuration, over SQLite.
    pub async fn with(section: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(folder.path().join("keymeter.db"));
        Self::over(database, LIMITS, section, Arc::new(folder)).await
    }

    /// The same over PostgreSQL.
    pub async fn postgres_with(section: &str) -> Self {
        let server = Postgres::start();
        Self::over(Database::Postgres(server.url.as_str().into()), LIMITS, section, Arc::new(server)).await
    }

    /// Over a database that somebody else keeps.
    pub async fn of(database: Database) -> Self {
        Self::over(database, LIMITS, "", Arc::new(())).await
    }

    /// With fields of `server`, over SQLite.
    pub async fn with_server(fields: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(folder.path().join("keymeter.db"));
        let settings = settings(fields, database, "");
        Self::started(settings, LIMITS, "", Arc::new(folder)).await
    }

    async fn over(database: Database, limits: Limits, section: &str, keeps: Arc<dyn Send + Sync>) -> Self {
        Self::started(settings("", database, section), limits, section, keeps).await
    }

    async fn started(settings: Settings, limits: Limits, section: &str, keeps: Arc<dyn Send + Sync>) -> Self {
        let database = settings.database.clone();
        canary::watch();
        let control = control_plane::start(&settings, limits, &mut Sockets::none()).await;
        let control = control.unwrap_or_else(|error| panic!("{error}"));
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { control, client, database, section: section.to_owned(), keeps }
    }

    /// Another instance over the same database.
    pub async fn beside(&self) -> Self {
        Self::over(self.database.clone(), LIMITS, &self.section, self.keeps.clone()).await
    }

    /// Another instance over the same database, with more in its section of the configuration.
    pub async fn beside_with(&self, section: &str) -> Self {
        Self::over(self.database.clone(), LIMITS, section, self.keeps.clone()).await
    }

    pub fn store(&self) -> &Store {
        self.control.store()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.control.address)
    }

    /// The `keys` section of a gateway that asks here.
    pub fn as_source(&self) -> String {
        format!(
            "{{http: {{url: \"{}\", events_url: \"{}\", usage_url: \"{}\", token: {GATEWAYS}}}}}",
            self.url("/v1/keys/{hash}"),
            self.url("/v1/keys/events"),
            self.url("/v1/usage/records")
        )
    }

    pub async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        self.call_with(token, method, path, body, &[]).await
    }

    pub async fn call_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let method: Method = method.parse().unwrap();
        let mut request = self.client.request(method, self.url(path)).bearer_auth(token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, "GET", path, Value::Null).await
    }

    /// A call of the operator's.
    pub async fn operate(&self, method: &str, path: &str, body: Value) -> Answer {
        self.call(OPERATOR, method, path, body).await
    }

    /// Makes a user, and gives their token.
    pub async fn user(&self, id: &str) -> String {
        let made = self.operate("POST", "/api/v1/users", json!({"id": id, "name": format!("User {id}")})).await;
        made.with(201)["token"].as_str().unwrap().to_owned()
    }

    /// Makes a team of a user's.
    pub async fn team(&self, id: &str, owner: &str) {
        let team = json!({"id": id, "name": format!("Team {id}"), "owner": owner});
        self.operate("POST", "/api/v1/teams", team).await.with(201);
    }

    pub async fn balance(&self, wallet: &str) -> String {
        let shown = self.get(OPERATOR, &format!("/api/v1/wallets/{wallet}")).await.with(200);
        shown["balance_usd"].as_str().unwrap().to_owned()
    }

    pub async fn credit(&self, wallet: &str, usd: &str, idempotency_key: &str) -> Value {
        let credit = json!({"usd": usd, "idempotency_key": idempotency_key});
        self.operate("POST", &format!("/api/v1/wallets/{wallet}/credits"), credit).await.with(200)
    }

    /// Makes a key, and gives its id and its secret.
    pub async fn key(&self, token: &str, body: Value) -> (String, String) {
        let made = self.call(token, "POST", "/api/v1/keys", body).await.with(201);
        (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
    }

    /// What a gateway is told of a secret.
    pub async fn look_up(&self, secret: &str) -> Answer {
        self.get(GATEWAYS, &format!("/v1/keys/{}", Secret::new(secret).hash().to_hex())).await
    }

    pub async fn state(&self, secret: &str) -> String {
        self.look_up(secret).await.with(200)["state"].as_str().unwrap().to_owned()
    }
}

fn settings(server: &str, database: Database, section: &str) -> Settings {
    let text = format!(
        "server: {{{server}}}\nupstreams: [{{name: a, url: 'http://127.0.0.1:1'}}]\nkeys: {{yaml: {{path: keys.yaml}}}}\n\
         control: {{listen: '127.0.0.1:0', token: {OPERATOR}, gateway_token: {GATEWAYS}, {section}}}"
    );
    let settings = config::parse(&text, Path::new("/keymeter.yaml"), &|_| None).unwrap().control.unwrap();
    Settings { database, ..settings }
}

/// A PostgreSQL server of Debian's package on a free port, in a temporary folder.
pub struct Postgres {
    pub url: String,
    port: u16,
    server: Child,
    folder: TempDir,
}

impl Postgres {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // It does not run as root: then the folder is given to the user that Debian makes for it.
        if rustix_is_root() {
            run(Command::new("chown").arg("postgres").arg(folder.path()));
        }
        let options = ["-A", "trust", "-U", "keymeter", "--no-sync", "-E", "UTF8", "--locale=C"];
        run(program("initdb").arg("-D").arg(folder.path().join("data")).args(options));
        // The port may be taken before the server has it: then another is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(server) = serve(port, &folder) {
                let url = format!("postgres://keymeter@127.0.0.1:{port}/postgres");
                return Self { url, port, server, folder };
            }
        }
        panic!("PostgreSQL does not start");
    }

    /// Kills it, and starts it again where it was.
    pub fn crash(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        let start = std::time::Instant::now();
        // What it had started has to end first.
        self.server = loop {
            if let Some(server) = serve(self.port, &self.folder) {
                break server;
            }
            assert!(start.elapsed() < PATIENCE, "PostgreSQL does not come back");
        };
    }
}

fn serve(port: u16, folder: &TempDir) -> Option<Child> {
    let mut command = program("postgres");
    command.arg("-D").arg(folder.path().join("data"));
    command.args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", "", "-F"]);
    let mut server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    is_up(&mut server, port).then_some(server)
}

/// One of its programs, as the user that it may run as.
fn program(name: &str) -> Command {
    let path = binaries().join(name);
    if !rustix_is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
    command
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn is_up(server: &mut Child, port: u16) -> bool {
    let start = std::time::Instant::now();
    while start.elapsed() < PATIENCE && server.try_wait().unwrap().is_none() {
        let ready = binaries().join("pg_isready");
        let mut command = Command::new(ready);
        command.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string(), "-U", "keymeter"]);
        if command.status().unwrap().success() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = server.kill();
    let _ = server.wait();
    false
}

/// Where Debian puts the server's programs.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("`make test` installs postgresql");
    let mut versions: Vec<_> = versions.map(|entry| entry.unwrap().path().join("bin")).collect();
    versions.retain(|path| path.join("initdb").exists());
    versions.sort();
    versions.pop().expect("a version of PostgreSQL with a server")
}

fn rustix_is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

//! A disk that is full, or that cannot be written to while a response runs.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use super::*;
use crate::support::{
    client::PATIENCE,
    process::{Process, keymeter},
};

/// A gateway in a process of its own.
struct Apart {
    process: Process,
    address: std::net::SocketAddr,
    directory: tempfile::TempDir,
    usage_service: UsageService,
    _service: KeyService,
    _upstream: ScriptedUpstream,
}

/// Starts it through `sh`, with `script` to begin with; in that `$0` is its directory and `"$@"` is the gateway.
async fn apart(shell: &[&str], script: &str, extra: &str, gate: &Gate) -> Apart {
    let gate = gate.clone();
    let (service, usage_service) = (KeyService::start().await, UsageService::start().await);
    let upstream = ScriptedUpstream::start(move |request| match request.json()["stream"] {
        // Before `[DONE]`.
        Value::Bool(true) => Script::stream_of(request, 3, &usage(7, 3)).gated(5, &gate),
        _ => Script::json(200, &completion("m", 5)),
    })
    .await;
    service.set(record());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    fs::write(&path, recording(&upstream, &service, &usage_service, extra)).unwrap();
    let serve = keymeter(&["serve", "--config", path.to_str().unwrap()]);
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).args(["sh", "-c", script]).arg(directory.path());
    command.arg(serve.get_program()).args(serve.get_args()).env_remove("RUST_LOG");
    let process = Process::start(command);
    let (address, _) = process.addresses().await;
    Apart { process, address, directory, usage_service, _service: service, _upstream: upstream }
}

impl Apart {
    async fn ask(&self) -> Response {
        Client::connect(self.address).await.chat(SECRET, &json_chat("m")).await
    }

    /// Waits until a new request is answered so, and says after what time that was.
    async fn answers(&self, status: u16) -> Duration {
        let start = Instant::now();
        loop {
            let answer = self.ask().await;
            if answer.status == status {
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "it goes on answering {}: {}", answer.status, answer.text());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Has the shell beside the gateway do this, where there is one.
    async fn within(&self, script: &str) {
        let path = self.directory.path().join("do");
        crate::support::gateway::replace(&path, script);
        let start = Instant::now();
        while path.exists() {
            assert!(start.elapsed() < PATIENCE, "nobody does what is to be done");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn running_stream(&self) -> (Client, String) {
        let mut client = Client::connect(self.address).await;
        let head = client.chat_stream(SECRET, &chat("m", "Hello", true)).await;
        read_up_to_end(&mut client).await;
        (client, head.header("x-request-id").unwrap().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_new_work_is_refused_and_what_runs_is_recorded() {
    let gate = Gate::new();
    // The disk is seen by the gateway alone, and by a shell beside it that does what stands in the file `do`.
    let script = r#"cd "$0" && mkdir disk && mount -t tmpfs -o size=32m none disk || exit 1
        (while [ -d "$0" ]; do if [ -e do ]; then sh ./do; rm do; fi; sleep 0.02; done) >/dev/null 2>&1 &
        exec "$@""#;
    let shell = ["unshare", "--map-root-user", "--mount"];
    let gateway = apart(&shell, script, "ledger: {directory: disk/spool}", &gate).await;
    assert_eq!(gateway.ask().await.status, 200);
    let (mut stream, id) = gateway.running_stream().await;
    gateway.usage_service.fail(Failure::Status(503));

    gateway.within("head -c 64M /dev/zero > disk/ballast").await;
    let refused_after = gateway.answers(503).await;
    assert!(refused_after < Duration::from_secs(1), "{refused_after:?}");
    let answer = gateway.ask().await;
    assert_eq!(
        (answer.json()["error"]["code"].as_str(), answer.header("retry-after")),
        (Some("ledger_unavailable"), Some("1"))
    );
    gate.open();
    let (body, end) = stream.rest().await;
    assert_eq!((events(&body).last().map(String::as_str), end), (Some("[DONE]"), Arrival::End));
    gateway.within("cp -r disk/spool copy").await;
    assert!(spooled(&gateway.directory.path().join("copy")).iter().any(|record| record.id.as_str() == id));

    gateway.within("rm disk/ballast").await;
    let served_after = gateway.answers(200).await;
    assert!(served_after < Duration::from_secs(1), "{served_after:?}");
    gateway.usage_service.fail(Failure::None);
    gateway.usage_service.record(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_cannot_be_recorded_never_ends_and_its_record_is_not_lost() {
    let gate = Gate::new();
    // A write beyond the limit that is set later shall fail, and not kill the process.
    let gateway = apart(&["env"], r#"trap "" XFSZ; exec "$@""#, "", &gate).await;
    assert_eq!(gateway.ask().await.status, 200);
    let (mut stream, id) = gateway.running_stream().await;
    limit_files(&gateway.process, "0");
    gate.open();
    let (body, end) = stream.rest().await;
    let told = events(&body);
    assert!(!told.iter().any(|event| event == "[DONE]"), "{told:?}");
    let error: Value = serde_json::from_str(told.last().unwrap_or_else(|| panic!("{end:?}"))).unwrap();
    assert_eq!(error["error"]["code"], "ledger_unavailable");
    let answer = gateway.ask().await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("ledger_unavailable")));
    assert!(!gateway.usage_service.records().contains_key(&id));

    limit_files(&gateway.process, "unlimited");
    gateway.answers(200).await;
    let record = gateway.usage_service.record(&id).await;
    assert_eq!((record.input_tokens, record.output_tokens, record.status), (7, 3, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_response_that_cannot_be_recorded_is_an_error() {
    let gateway = apart(&["env"], r#"trap "" XFSZ; exec "$@""#, "", &Gate::new()).await;
    assert_eq!(gateway.ask().await.status, 200);
    limit_files(&gateway.process, "0");
    let answer = gateway.ask().await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("ledger_unavailable")));
}

/// From now on the process may write to no file beyond so many bytes.
fn limit_files(process: &Process, bytes: &str) {
    let limit = format!("--fsize={bytes}:");
    let status = Command::new("prlimit").args(["--pid", &process.id().to_string(), &limit]).status();
    assert!(status.expect("prlimit is part of util-linux").success());
}

//! A control plane whose configuration names no tokens makes its own, once, and the gateway beside it needs none.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt};

use serde_json::json;

use super::{Files, chat, upstream};
use crate::support::{
    client::Client,
    gateway::config,
    process::{Process, Signal, keymeter},
    script::Gate,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_the_tokens_and_all_later_ones_keep_them() {
    let upstream = upstream(&Gate::new()).await;
    // The gateway is told where the control plane will be.
    let control = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let section = format!("control: {{listen: \"{control}\"}}");
    let service = format!(
        "keys: {{http: {{url: \"http://{control}/v1/keys/{{hash}}\", events_url: \"http://{control}/v1/keys/events\"}}}}"
    );
    let text = config(&upstream, &section).replace("keys: {yaml: {path: keys.yaml}}", &service);
    let files = Files::new(&text, "keys: []");
    let folder = files.path.parent().unwrap().to_owned();
    let token = || fs::read_to_string(folder.join("data/operator.token")).unwrap();

    let mut process = Process::serve(&files.path);
    let (gateway, _) = process.addresses().await;
    process.stderr.line("the operator's token is in /").await;
    let first = token();
    assert_eq!((first.trim().len(), first.lines().count()), (64, 1), "cat takes it as it is");
    for file in ["operator.token", "gateways.token"] {
        let mode = fs::metadata(folder.join("data").join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }

    let mut command = keymeter(&["keys", "create", "--name", "Some key", "--control", &format!("http://{control}")]);
    let made = command.env("KEYMETER_CONTROL_TOKEN", first.trim()).output().unwrap();
    let secret = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert_eq!(Client::connect(gateway).await.chat(&secret, &chat()).await.status, 200);

    // A reload finds nothing that a restart would have to change.
    process.signal(Signal::HUP);
    let reloaded = process.stderr.line("reloaded: ").await;
    assert!(reloaded.contains("nothing is other than before"), "{reloaded}");
    assert!(process.stderr.all().iter().all(|line| !line.contains("a restart is needed")));

    process.signal(Signal::TERM);
    process.ended().await;
    let said = process.stderr.to_the_end().await.concat();
    assert!(!said.contains(first.trim()), "the token is in no log");
    let process = Process::serve(&files.path);
    let (gateway, _) = process.addresses().await;
    assert_eq!(token(), first);
    assert_eq!(Client::connect(gateway).await.chat(&secret, &chat()).await.status, 200);
    let nobody = Client::connect(control).await.request("GET", "/api/v1/keys", &[], b"").await;
    assert_eq!((nobody.status, nobody.json()["error"]["code"].clone()), (401, json!("invalid_token")));
}

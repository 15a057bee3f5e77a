//! The ways in which such servers are run: with passwords, with TLS, as a cluster, behind sentinels.

use super::*;

async fn shares_ten(upstream: &ScriptedUpstream, shared: &str) {
    let keys = keys(8, "limits: {requests_per_minute: 10}");
    let gateways = gateways(2, upstream, shared, &keys).await;
    for key in 0..8 {
        let mut admitted = 0;
        for gateway in &gateways {
            let mut client = gateway.connect().await;
            for _ in 0..8 {
                admitted += u32::from(ask(&mut client, key).await.status == 200);
            }
        }
        assert_eq!(admitted, 10, "key {key}");
    }
}

#[tokio::test]
async fn a_server_with_a_password() {
    let (redis, upstream) = (Redis::with(&["--requirepass", "geheim"]), upstream().await);
    shares_ten(&upstream, &format!("url: \"{}\", password: geheim", redis.url())).await;
    redis.ask(&["PING"]);
}

#[tokio::test]
async fn a_server_with_a_user() {
    let (redis, upstream) = (Redis::start(), upstream().await);
    let rules = ["ACL", "SETUSER", "meter", "on", ">geheim", "~keymeter:*", "+@all", "-@dangerous"];
    assert_eq!(redis.ask(&rules), "+OK");
    assert_eq!(redis.ask(&["ACL", "SETUSER", "default", "off"]), "+OK");
    shares_ten(&upstream, &format!("url: \"{}/0\", username: meter, password: geheim", redis.url())).await;
}

#[tokio::test]
async fn a_server_with_a_certificate() {
    let upstream = upstream().await;
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.key_pair.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let _redis = Redis::with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        cert,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        cert,
        "--tls-auth-clients",
        "no",
    ]);
    shares_ten(&upstream, &format!("url: \"rediss://127.0.0.1:{port}\", ca: \"{cert}\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster() {
    let upstream = upstream().await;
    let nodes = [Redis::with(&["--cluster-enabled", "yes"]), Redis::with(&["--cluster-enabled", "yes"])];
    assert_eq!(nodes[0].ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]), "+OK");
    assert_eq!(nodes[1].ask(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]), "+OK");
    assert_eq!(nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &nodes[1].port.to_string()]), "+OK");
    let start = Instant::now();
    while nodes.iter().any(|node| !node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")) {
        assert!(start.elapsed() < Duration::from_secs(20), "the cluster does not come up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let shared = format!("url: \"redis-cluster://127.0.0.1:{}\"", nodes[0].port);
    shares_ten(&upstream, &shared).await;
    let empty = nodes.iter().filter(|node| node.ask(&["DBSIZE"]) == ":0").count();
    assert_eq!(empty, 1, "what one script touches is on one of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_fails_over() {
    let (mut primary, upstream) = (Redis::start(), upstream().await);
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let sentinel = Redis::sentinel(&format!(
        "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 300\n\
         sentinel failover-timeout main 2000\n",
        primary.port
    ));
    let start = Instant::now();
    while !primary.ask(&["INFO", "replication"]).contains("state=online") {
        assert!(start.elapsed() < PATIENCE, "the replica does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while !sentinel.ask(&["INFO", "sentinel"]).contains("slaves=1") {
        assert!(start.elapsed() < Duration::from_secs(25), "the sentinel does not see it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let shared = format!("url: \"redis-sentinel://127.0.0.1:{}/main\"", sentinel.port);
    let keys = keys(2, "limits: {requests_per_minute: 10}");
    let gateways = gateways(2, &upstream, &shared, &keys).await;
    let mut clients = [gateways[0].connect().await, gateways[1].connect().await];
    for client in &mut clients {
        for _ in 0..3 {
            assert_eq!(ask(client, 0).await.status, 200);
        }
    }
    primary.kill();
    for client in &mut clients {
        assert_eq!(ask(client, 1).await.status, 200, "meanwhile each has its share");
    }
    for gateway in &gateways {
        let start = Instant::now();
        while gateway.metric("keymeter_shared_limits_reachable").await < 1.0
            || gateway.metric("keymeter_shared_limits_changes_total{to=\"local\"}").await < 1.0
        {
            assert!(start.elapsed() < Duration::from_secs(30), "it is not found again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    // What was replicated counts on.
    let mut admitted = 0;
    for client in &mut clients {
        for _ in 0..10 {
            admitted += u32::from(ask(client, 0).await.status == 200);
        }
    }
    assert!((4..=5).contains(&admitted), "{admitted} of 4 that were left");
    drop(replica);
}

#[tokio::test]
async fn a_server_that_forgets_when_it_is_full_is_warned_of() {
    use crate::support::process::Process;
    let upstream = upstream().await;
    for (policy, warns) in [("allkeys-lru", true), ("noeviction", false)] {
        let redis = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", policy]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keymeter.yaml");
        let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
        let text = configuration(&upstreams, "", &format!("limits: {{shared: {{url: \"{}\"}}}}", redis.url()));
        std::fs::write(&path, text).unwrap();
        std::fs::write(directory.path().join("keys.yaml"), "keys: []").unwrap();
        let process = Process::serve(&path);
        process.stderr.line("limits are shared").await;
        let warned = process.stderr.all().iter().any(|line| line.contains("set maxmemory-policy to noeviction"));
        assert_eq!(warned, warns, "{policy}: {:?}", process.stderr.all());
    }
}

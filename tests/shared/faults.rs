//! The server away, slow, read-only, full, flushed: never unlimited, never everyone refused, and nobody waits.

use super::*;
use crate::support::line::{Fault, Line};

const LIMIT: u64 = 12;
const GATEWAYS: u64 = 3;

/// Gateways that reach the server over lines of the test's.
struct Scene {
    redis: Redis,
    lines: Vec<Line>,
    gateways: Vec<Gateway>,
    upstream: ScriptedUpstream,
}

impl Scene {
    async fn new(rest: &str) -> Self {
        let (redis, upstream) = (Redis::start(), upstream().await);
        let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
        let keys = keys(30, &format!("limits: {{requests_per_minute: {LIMIT}}}"));
        let (mut lines, mut gateways) = (Vec::new(), Vec::new());
        for _ in 0..GATEWAYS {
            let line = Line::to(([127, 0, 0, 1], redis.port).into()).await;
            let shared = format!("limits: {{shared: {{url: \"redis://{}\"{rest}}}}}", line.address);
            gateways.push(Gateway::start(&configuration(&upstreams, "", &shared), &keys));
            lines.push(line);
        }
        let scene = Self { redis, lines, gateways, upstream };
        for gateway in &scene.gateways {
            gateway.metric_becomes("keymeter_shared_limits_gateways", GATEWAYS as f64).await;
        }
        scene
    }

    fn lines(&self, error: Fault) {
        for line in &self.lines {
            line.set(error);
        }
    }

    /// Whether the server decides, at each gateway.
    async fn shares(&self, shares: bool) {
        for gateway in &self.gateways {
            gateway.metric_becomes("keymeter_shared_limits_reachable", f64::from(u8::from(shares))).await;
        }
    }

    /// Sends twice the limit of a key through each gateway; none may take long. Returns how many of each it admitted.
    async fn pour(&self, key: usize) -> Vec<u64> {
        let mut admitted = Vec::new();
        for gateway in &self.gateways {
            let mut client = gateway.connect().await;
            let mut count = 0;
            for _ in 0..2 * LIMIT {
                let start = Instant::now();
                let answer = ask(&mut client, key).await;
                assert!(start.elapsed() < Duration::from_millis(scaled(2000, 500)), "it took {:?}", start.elapsed());
                assert!(matches!(answer.status, 200 | 429), "{} {}", answer.status, answer.text());
                count += u64::from(answer.status == 200);
            }
            admitted.push(count);
        }
        admitted
    }
}

/// How often each gateway has changed to counting by itself.
async fn changes(scene: &Scene) -> Vec<f64> {
    let mut changes = Vec::new();
    for gateway in &scene.gateways {
        changes.push(gateway.metric("keymeter_shared_limits_changes_total{to=\"local\"}").await);
    }
    changes
}

/// Each gateway has its share, whatever it is that is wrong; and afterwards the limit is one again.
async fn each_has_its_share(error: impl AsyncFn(&mut Scene), end: impl AsyncFn(&mut Scene)) {
    let mut scene = Scene::new("").await;
    assert_eq!(scene.pour(0).await.iter().sum::<u64>(), LIMIT);
    error(&mut scene).await;
    // Some faults are found out by the first requests.
    for gateway in &scene.gateways {
        let mut client = gateway.connect().await;
        for _ in 0..4 {
            ask(&mut client, 1).await;
        }
    }
    scene.shares(false).await;
    assert_eq!(scene.pour(2).await, [LIMIT / GATEWAYS; 3], "a share for each");
    // What the server had admitted counts here, too: no gateway gives a key more than its share beyond it.
    let again: u64 = scene.pour(0).await.iter().sum();
    assert!(again <= LIMIT - LIMIT / GATEWAYS, "{again} more of a key that had used all");
    assert_eq!(changes(&scene).await, [1.0; 3]);
    end(&mut scene).await;
    scene.shares(true).await;
    assert_eq!(scene.pour(3).await.iter().sum::<u64>(), LIMIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_killed() {
    let kill = async |scene: &mut Scene| scene.redis.kill();
    each_has_its_share(kill, async |scene: &mut Scene| scene.redis.restart()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_hangs() {
    let stop = async |scene: &mut Scene| scene.redis.signal("STOP");
    each_has_its_share(stop, async |scene: &mut Scene| scene.redis.signal("CONT")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_slow() {
    let slow = async |scene: &mut Scene| scene.lines(Fault::Delay(Duration::from_millis(60)));
    each_has_its_share(slow, async |scene: &mut Scene| scene.lines(Fault::None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_to_the_server_is_cut() {
    let cut = async |scene: &mut Scene| scene.lines(Fault::Cut);
    each_has_its_share(cut, async |scene: &mut Scene| scene.lines(Fault::None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_to_the_server_is_half_open() {
    let silent = async |scene: &mut Scene| scene.lines(Fault::Silent);
    each_has_its_share(silent, async |scene: &mut Scene| scene.lines(Fault::None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_takes_no_writes() {
    let demote = async |scene: &mut Scene| {
        // A replica of a primary that is not there.
        scene.redis.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    };
    let promote = async |scene: &mut Scene| {
        scene.redis.ask(&["REPLICAOF", "NO", "ONE"]);
    };
    each_has_its_share(demote, promote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_full() {
    let fill = async |scene: &mut Scene| {
        scene.redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    };
    let empty = async |scene: &mut Scene| {
        scene.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    };
    each_has_its_share(fill, empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_everything_lets_a_key_use_its_limit_once_more_at_most() {
    let scene = Scene::new("").await;
    for forget in [vec!["FLUSHALL"], vec!["SCRIPT", "FLUSH"]] {
        assert!(scene.pour(0).await.iter().sum::<u64>() <= LIMIT);
        scene.redis.ask(&forget);
    }
    assert_eq!(scene.pour(0).await, [0; 3]);
    assert_eq!(changes(&scene).await, [0.0; 3], "it was never out of reach");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_that_is_cut_off_has_its_share_and_the_others_go_on() {
    let scene = Scene::new("").await;
    scene.lines[0].set(Fault::Silent);
    let mut client = scene.gateways[0].connect().await;
    for _ in 0..4 {
        ask(&mut client, 1).await;
    }
    scene.gateways[0].metric_becomes("keymeter_shared_limits_reachable", 0.0).await;
    let admitted = scene.pour(2).await;
    assert_eq!((admitted[0], admitted[1] + admitted[2]), (LIMIT / GATEWAYS, LIMIT));
    assert_eq!(changes(&scene).await, [1.0, 0.0, 0.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_wanted_so_nothing_is_admitted_without_the_server() {
    let mut scene = Scene::new(", when_unreachable: refuse").await;
    scene.redis.kill();
    let mut client = scene.gateways[0].connect().await;
    let answer = ask(&mut client, 0).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["error"]["code"], "limits_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    scene.redis.restart();
    scene.shares(true).await;
    assert_eq!(ask(&mut client, 0).await.status, 200);
    assert_eq!(ask(&mut client, 0).await.header("x-ratelimit-remaining-requests"), Some("10"), "refusals took nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_taken_again_from_a_server_that_forgot_them() {
    let (redis, gate) = (Redis::start(), Gate::new());
    let held = gate.clone();
    let upstream = ScriptedUpstream::start(move |_| Script::json(200, &completion("m", 3)).gated(0, &held)).await;
    let keys = keys(1, "limits: {concurrent_requests: 3}");
    let gateways = gateways(2, &upstream, &format!("url: \"{}\"", redis.url()), &keys).await;
    let mut running = Vec::new();
    for number in 0..3 {
        let mut client = gateways[0].connect().await;
        running.push(tokio::spawn(async move { ask(&mut client, 0).await.status }));
        upstream.wait_for_request(number + 1).await;
    }
    redis.ask(&["FLUSHALL"]);
    let start = Instant::now();
    while redis.ask(&["ZCARD", "keymeter:{keymeter}:key/key_0:running"]) != ":3" {
        assert!(start.elapsed() < Duration::from_secs(5), "they are not taken again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ask(&mut gateways[1].connect().await, 0).await.status, 429);
    gate.open();
    for task in running {
        assert_eq!(task.await.unwrap(), 200);
    }
    while redis.ask(&["ZCARD", "keymeter:{keymeter}:key/key_0:running"]) != ":0" {
        assert!(start.elapsed() < PATIENCE, "they stay taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stood_still_takes_its_places_again() {
    // Its process is stopped for longer than its places are kept, and comes back.
    use crate::support::process::{Process, Signal};
    let (redis, gate) = (Redis::start(), Gate::new());
    let held = gate.clone();
    let upstream = ScriptedUpstream::start(move |_| Script::json(200, &completion("m", 3)).gated(0, &held)).await;
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    // Long enough that no gateway decides by itself because the machine is busy.
    let limits = format!("limits: {{shared: {{url: \"{}\", timeout: 5s}}}}", redis.url());
    let text = configuration(&upstreams, "", &limits);
    let keys = keys(1, "limits: {concurrent_requests: 1}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    std::fs::write(&path, &text).unwrap();
    std::fs::write(directory.path().join("keys.yaml"), &keys).unwrap();
    let slow = Process::serve(&path);
    let (address, admin) = slow.addresses().await;
    slow.stderr.line("limits are shared").await;
    let send = async |address| {
        let mut client = Client::connect(address).await;
        client.send("POST", "/v1/chat/completions", &[("x-api-key", &secret(0))], body().to_string().as_bytes()).await;
        client
    };
    let mut running = send(address).await;
    upstream.wait_for_request(1).await;
    slow.signal(Signal::STOP);

    let other = Gateway::start(&text, &keys);
    other.metric_becomes("keymeter_shared_limits_reachable", 1.0).await;
    let mut client = other.connect().await;
    assert_eq!(ask(&mut client, 0).await.status, 429);
    let start = Instant::now();
    // The time that the place of a silent gateway is kept is the server's, and real.
    let theirs = loop {
        let mut client = send(other.address()).await;
        tokio::select! {
            _ = upstream.wait_for_request(2) => break client,
            refusal = client.head() => assert_eq!(refusal.status, 429),
        }
        assert!(start.elapsed() < Duration::from_secs(12), "the place is never free");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    slow.signal(Signal::CONT);
    crate::support::process::answer_becomes(admin, "/metrics", "one over the limit", |answer| {
        answer.text().contains("keymeter_shared_limits_excess_total 1")
    })
    .await;
    assert_eq!(redis.ask(&["ZCARD", "keymeter:{keymeter}:key/key_0:running"]), ":2");
    gate.open();
    assert_eq!(running.response().await.status, 200);
    drop(theirs);
}

/// Much that ends, over a long way: places are renewed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_gateway_far_from_the_server_keeps_to_it() {
    let scene = Scene::new(", timeout: 1s").await;
    scene.lines(Fault::Delay(Duration::from_millis(3)));
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", scene.upstream.url());
    let shared = format!("limits: {{shared: {{url: \"redis://{}\", timeout: 1s}}}}", scene.lines[0].address);
    let gateway =
        Gateway::start(&configuration(&upstreams, "", &shared), &keys(1, "limits: {concurrent_requests: 900}"));
    gateway.metric_becomes("keymeter_shared_limits_reachable", 1.0).await;
    let end = Instant::now() + Duration::from_secs(scaled(10, 60));
    let mut tasks = Vec::new();
    for _ in 0..32 {
        let mut client = gateway.connect().await;
        tasks.push(tokio::spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                assert_eq!(ask(&mut client, 0).await.status, 200);
                count += 1;
            }
            count
        }));
    }
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap();
    }
    assert!(count > 1000, "{count}");
    assert_eq!(
        gateway.metric("keymeter_shared_limits_changes_total{to=\"local\"}").await,
        0.0,
        "after {count} requests"
    );
    assert_eq!(gateway.metric("keymeter_shared_limits_excess_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_hands_everything_in() {
    let (redis, upstream) = (Redis::start(), upstream().await);
    let keys = keys(1, "limits: {requests_per_minute: 1000, concurrent_requests: 100}");
    let gateway = gateways(1, &upstream, &format!("url: \"{}\", lease: 10%", redis.url()), &keys).await.remove(0);
    let mut client = gateway.connect().await;
    for _ in 0..10 {
        assert_eq!(ask(&mut client, 0).await.status, 200);
    }
    drop(client);
    gateway.server.drain(PATIENCE).await;
    let counted = redis.ask(&["HGET", "keymeter:{keymeter}:key/key_0:windows", "r"]);
    assert_eq!(counted, "10", "what was taken in advance is given back");
    let now = redis.ask(&["ZCOUNT", "keymeter:{keymeter}:key/key_0:running", "-inf", "+inf"]);
    assert_eq!(now, ":0");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_patient_is_answered_however_slow_the_server_is() {
    let scene = Scene::new(", timeout: 4s").await;
    scene.lines(Fault::Delay(Duration::from_millis(600)));
    let mut client = scene.gateways[0].connect().await;
    let answer = ask(&mut client, 0).await;
    assert_eq!((answer.status, answer.header("x-ratelimit-remaining-requests")), (200, Some("11")));
    assert_eq!(changes(&scene).await, [0.0; 3]);
}

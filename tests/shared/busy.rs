//! A machine that has more to do than it can: its gateways are late themselves, and do not take that for the server's
//! silence.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::sync::Barrier;

use super::*;
use crate::support::process::{Process, Signal, ask as ask_address};

const LIMIT: usize = 10;
const AT_ONCE: usize = 200;

/// Threads that do nothing, as fast as they can. They end with the test.
struct BusyLoops(Arc<AtomicBool>);

impl BusyLoops {
    fn start(count: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        for _ in 0..count {
            let is_over = is_over.clone();
            thread::spawn(move || while !is_over.load(Ordering::Relaxed) {});
        }
        Self(is_over)
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gateways that are processes of their own, before one upstream, with one server.
struct Scene {
    redis: Redis,
    gateways: Vec<Process>,
    addresses: Vec<(SocketAddr, SocketAddr)>,
    _folder: tempfile::TempDir,
    _upstream: ScriptedUpstream,
}

impl Scene {
    /// It does not wait until they have met the server, or know of each other.
    async fn new(keys: &str) -> Self {
        let (redis, upstream, folder) = (Redis::start(), upstream().await, tempfile::tempdir().unwrap());
        let path = folder.path().join("keymeter.yaml");
        let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
        let shared = format!("limits: {{shared: {{url: \"{}\"}}}}", redis.url());
        std::fs::write(&path, configuration(&upstreams, "", &shared)).unwrap();
        std::fs::write(folder.path().join("keys.yaml"), keys).unwrap();
        let gateways = vec![Process::serve(&path), Process::serve(&path)];
        let mut addresses = Vec::new();
        for gateway in &gateways {
            addresses.push(gateway.addresses().await);
        }
        Self { redis, gateways, addresses, _folder: folder, _upstream: upstream }
    }

    /// Waits until each gateway has heard of the other: a server that hangs before that leaves one alone with the whole.
    async fn know_each_other(&self) {
        for (_, admin) in &self.addresses {
            crate::support::process::answer_becomes(*admin, "/metrics", "both are known", |answer| {
                answer.text().contains("keymeter_shared_limits_gateways 2")
            })
            .await;
        }
    }

    async fn clients(&self, count: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        for number in 0..count {
            clients.push(Client::connect(self.addresses[number % self.addresses.len()].0).await);
        }
        clients
    }

    /// The sum of all gateways' series that begin so.
    async fn sum(&self, beginning: &str) -> f64 {
        let mut sum = 0.0;
        for (_, admin) in &self.addresses {
            let text = ask_address(*admin, "GET", "/metrics").await.text();
            let series = text.lines().filter(|line| line.starts_with(beginning));
            sum += series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>();
        }
        sum
    }
}

/// Sends one request of a key by each client at once. Returns the clients, and how many were admitted.
async fn burst(clients: Vec<Client>, key: usize) -> (Vec<Client>, usize) {
    let together = Arc::new(Barrier::new(clients.len()));
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let together = together.clone();
            tokio::spawn(async move {
                together.wait().await;
                let answer = ask(&mut client, key).await;
                assert!(matches!(answer.status, 200 | 429), "{} {}", answer.status, answer.text());
                (client, answer.status == 200)
            })
        })
        .collect();
    let (mut clients, mut admitted) = (Vec::new(), 0);
    for task in tasks {
        let (client, is_admitted) = task.await.unwrap();
        clients.push(client);
        admitted += usize::from(is_admitted);
    }
    (clients, admitted)
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_four_busy_loops_two_gateways_admit_no_more_and_no_fewer_than_the_limit() {
    let (runs, bursts) = (scaled(1, 12), scaled(10, 25));
    let keys = keys(bursts, &format!("limits: {{requests_per_minute: {LIMIT}}}"));
    let mut wrong = Vec::new();
    for run in 0..runs {
        let loops = BusyLoops::start(4);
        let scene = Scene::new(&keys).await;
        let mut clients = scene.clients(AT_ONCE).await;
        for key in 0..bursts {
            let admitted;
            (clients, admitted) = burst(clients, key).await;
            if admitted != LIMIT {
                wrong.push((run, key, admitted));
            }
        }
        drop(loops);
        let counted = |outcome: &str| format!("keymeter_shared_limits_requests_total{{outcome=\"{outcome}\"}}");
        println!(
            "run {run}: {} bursts were wrong so far; {} answers in vain, {} not asked for, {} changes to local limits",
            wrong.len(),
            scene.sum(&counted("failed")).await,
            scene.sum(&counted("skipped")).await,
            scene.sum("keymeter_shared_limits_changes_total{to=\"local\"}").await,
        );
    }
    assert!(wrong.is_empty(), "(run, burst, admitted): {wrong:?} of {} bursts", runs * bursts);
}

/// The server hangs, and the machine is busy: nobody waits for ever, and each gateway has its share.
#[tokio::test(flavor = "multi_thread")]
async fn beside_four_busy_loops_a_server_that_hangs_is_given_up() {
    let keys = keys(4, &format!("limits: {{requests_per_minute: {LIMIT}}}"));
    let scene = Scene::new(&keys).await;
    let mut clients = scene.clients(2).await;
    for client in &mut clients {
        assert_eq!(ask(client, 0).await.status, 200);
    }
    scene.know_each_other().await;
    let _loops = BusyLoops::start(4);
    scene.redis.signal("STOP");
    for (gateway, client) in scene.gateways.iter().zip(&mut clients) {
        for _ in 0..4 {
            let start = Instant::now();
            assert!(matches!(ask(client, 1).await.status, 200 | 429));
            // A wait lasts 5 s, and the machine may have much else to do.
            assert!(start.elapsed() < Duration::from_secs(30), "it took {:?}", start.elapsed());
        }
        gateway.stderr.line(": no answer within").await;
    }
    let mut admitted = 0;
    for client in &mut clients {
        for _ in 0..LIMIT {
            admitted += usize::from(ask(client, 2).await.status == 200);
        }
    }
    assert_eq!(admitted, LIMIT, "a share for each");
    scene.redis.signal("CONT");
    for (_, admin) in &scene.addresses {
        crate::support::process::answer_becomes(*admin, "/metrics", "shared again", |answer| {
            answer.text().contains("keymeter_shared_limits_reachable 1")
        })
        .await;
    }
}

/// A gateway that stood still for longer than its places are kept asks the server all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stood_still_does_not_take_that_for_the_servers_silence() {
    let keys = keys(2, &format!("limits: {{requests_per_minute: {LIMIT}}}"));
    let scene = Scene::new(&keys).await;
    for gateway in &scene.gateways {
        gateway.stderr.line("limits are shared").await;
    }
    let (clients, admitted) = burst(scene.clients(20).await, 0).await;
    assert_eq!(admitted, LIMIT);
    scene.gateways[0].signal(Signal::STOP);
    // What renews the permits is the gateway's clock, and real.
    tokio::time::sleep(Duration::from_millis(8_500)).await;
    let waking = async {
        // The requests are there when it wakes up.
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.gateways[0].signal(Signal::CONT);
    };
    let ((_, admitted), ()) = tokio::join!(burst(clients, 1), waking);
    let local = scene.sum("keymeter_shared_limits_changes_total{to=\"local\"}").await;
    let said: Vec<_> = scene.gateways.iter().flat_map(|gateway| gateway.stderr.all()).collect();
    assert_eq!((admitted, local), (LIMIT, 0.0), "{said:#?}");
}

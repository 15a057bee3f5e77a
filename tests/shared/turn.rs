//! A month that turns, with whole processes whose clocks say so: a quota begins anew once, whichever gateway and whatever
//! restart is first.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use jiff::Timestamp;
use tempfile::TempDir;

use super::{scopes::sharing, *};
use crate::support::process::{Process, Signal, keymeter};

const LIMIT: usize = 3;

/// The moments at which a month ends in Berlin: one that began an hour of summer time earlier, and one that began an hour later.
const TURNS: [&str; 2] = ["2026-03-31T22:00:00Z", "2026-10-31T23:00:00Z"];

/// A clock that is ahead of ours. It goes on as ours does, and the monotonic one is left alone.
#[derive(Clone)]
struct Clock {
    library: String,
    ahead: i64,
}

impl Clock {
    /// The one by which it is so long until `turn`.
    fn before(turn: Timestamp, lead: Duration) -> Self {
        let found = libraries();
        let library = found.first().expect("libfaketime is missing: `make test` installs faketime");
        let ahead = turn.as_second() - i64::try_from(lead.as_secs()).unwrap() - Timestamp::now().as_second();
        Self { library: library.to_str().unwrap().to_owned(), ahead }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(Timestamp::now().as_microsecond() + self.ahead * 1_000_000).unwrap()
    }

    fn set(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("FAKETIME", format!("{:+}s", self.ahead));
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1").env("TZ", "UTC");
    }

    /// The same of Redis, whose allocator asks for the time before the library can tell it: it gets that of libc.
    fn set_of_redis(&self, command: &mut Command) {
        self.set(command);
        command.env("LD_PRELOAD", format!("{} libc.so.6", self.library));
    }
}

fn libraries() -> Vec<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let of_folder = |folder: std::fs::DirEntry| folder.path().join("faketime/libfaketimeMT.so.1");
    folders.map(of_folder).filter(|path| path.exists()).collect()
}

struct Gateway {
    process: Process,
    folder: TempDir,
    client: Client,
}

impl Gateway {
    async fn start(text: &str, clock: &Clock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("keymeter.yaml"), text).unwrap();
        let keys = keys(1, &format!("limits: {{quotas: [{{requests: {LIMIT}, per: month, zone: Europe/Berlin}}]}}"));
        std::fs::write(folder.path().join("keys.yaml"), keys).unwrap();
        let (process, client) = serve(folder.path(), clock).await;
        Self { process, folder, client }
    }

    async fn restart(&mut self, clock: &Clock, end: Signal) {
        self.process.signal(end);
        self.process.ended().await;
        (self.process, self.client) = serve(self.folder.path(), clock).await;
    }

    async fn is_admitted(&mut self) -> bool {
        let answer = ask(&mut self.client, 0).await;
        assert!(matches!(answer.status, 200 | 429), "{}", answer.text());
        answer.status == 200
    }
}

async fn serve(folder: &Path, clock: &Clock) -> (Process, Client) {
    let mut command = keymeter(&["serve", "--config", folder.join("keymeter.yaml").to_str().unwrap()]);
    clock.set(&mut command);
    let process = Process::start(command);
    let (address, _) = process.addresses().await;
    if std::fs::read_to_string(folder.join("keymeter.yaml")).unwrap().contains("shared:") {
        process.stderr.line("limits are shared with").await;
    }
    let client = Client::connect(address).await;
    (process, client)
}

/// Lets gateways come to a turn with a quota that is used up, and says whether all of that was done before it.
async fn uses_all_before(gateways: &mut [Gateway], turn: Timestamp, clock: &Clock) -> bool {
    let count = gateways.len();
    for number in 0..LIMIT {
        if !gateways[number % count].is_admitted().await {
            return false;
        }
    }
    let mut are_refused = true;
    for gateway in gateways.iter_mut() {
        are_refused &= !gateway.is_admitted().await;
    }
    let is_before = clock.now() < turn;
    assert!(are_refused || !is_before, "a used up quota admits");
    is_before
}

/// After the turn the quota is there once more, whoever asks, and once only.
async fn begins_anew_once(gateways: &mut [Gateway], turn: Timestamp, clock: &Clock) {
    let count = gateways.len();
    let first = loop {
        let admitted = gateways[count - 1].is_admitted().await;
        if admitted || clock.now() > turn.checked_add(jiff::SignedDuration::from_secs(5)).unwrap() {
            break admitted;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(first && clock.now() >= turn, "it begins anew at {turn}, and it is {}", clock.now());
    let mut admitted = 1;
    for number in 0..2 * LIMIT {
        admitted += usize::from(gateways[number % count].is_admitted().await);
    }
    assert_eq!(admitted, LIMIT);
    for end in [Signal::TERM, Signal::KILL] {
        for gateway in gateways.iter_mut() {
            gateway.restart(clock, end).await;
            assert!(!gateway.is_admitted().await, "it does not begin anew once more");
        }
    }
}

/// A slow machine gets more time.
const LEADS: [u64; 3] = [6, 25, 100];

#[tokio::test(flavor = "multi_thread")]
async fn a_months_quota_begins_anew_once_on_two_gateways() {
    let upstream = upstream().await;
    for turn in TURNS.map(|turn| turn.parse::<Timestamp>().unwrap()) {
        let mut is_done = false;
        for lead in LEADS {
            let clock = Clock::before(turn, Duration::from_secs(lead));
            let redis = Redis::under(|command| clock.set_of_redis(command));
            let text = sharing(&upstream, &format!("url: \"{}\", timeout: 2s", redis.url()));
            let mut gateways = [Gateway::start(&text, &clock).await, Gateway::start(&text, &clock).await];
            if uses_all_before(&mut gateways, turn, &clock).await {
                begins_anew_once(&mut gateways, turn, &clock).await;
                is_done = true;
                break;
            }
        }
        assert!(is_done, "the machine is too slow");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_months_quota_begins_anew_once_on_one_gateway_with_a_store() {
    let upstream = upstream().await;
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    let text = configuration(&upstreams, "", "");
    for turn in TURNS.map(|turn| turn.parse::<Timestamp>().unwrap()) {
        let mut is_done = false;
        for lead in LEADS {
            let clock = Clock::before(turn, Duration::from_secs(lead));
            let mut gateways = [Gateway::start(&text, &clock).await];
            if uses_all_before(&mut gateways, turn, &clock).await {
                gateways[0].restart(&clock, Signal::KILL).await;
                begins_anew_once(&mut gateways, turn, &clock).await;
                is_done = true;
                break;
            }
        }
        assert!(is_done, "the machine is too slow");
    }
}

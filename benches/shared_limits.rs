//! What limits over several gateways cost, and where they bend. First a real Redis server is measured: processor time for
//! an admission and its settlement, and what a request waits. Then more than fits on one machine is simulated
//! with these figures: how long requests wait at a server's queue, at how many requests a second.
//!
//! `cargo bench --bench shared_limits`; it needs `redis-server`. The tables are those of docs/shared-limits.md.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    reason = "a benchmark prints, counts in floating point, and stops at the first surprise"
)]

#[path = "../tests/support/redis.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod redis;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use keymeter::{
    limits::{kept::KeptQuotas, shared::SharedLimits},
    observe::metrics::Metrics,
};
use keymeter_config::{self as config};
use keymeter_core::{
    clock::Now,
    glob::Glob,
    limit::{Amounts, Limit, LimitMode, Limits, ModelLimits, Quotas, RequestLimits, ScopeLimits, Scopes, Zone},
};

use self::redis::Redis;

fn main() {
    // `cargo test --benches` asks for a list, and wants none of this.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let cost = runtime.block_on(measured());
    simulated(&cost);
}

/// What was measured.
struct Cost {
    /// Processor seconds of the server for an admission and its settlement.
    admission: f64,
    /// The same for a refusal.
    refusal: f64,
}

const ROUND: Duration = Duration::from_secs(4);

async fn measured() -> Cost {
    println!("## Measured: one Redis server, one gateway, one machine\n");
    println!(
        "| requests at once | keys | admissions a second | waited, median | 99 % | server's CPU for one | of a script |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut least = f64::MAX;
    for (at_once, keys) in [(1, 1), (1, 1000), (16, 1000), (64, 1), (64, 1000), (64, 100_000), (256, 1000)] {
        let round = Round { at_once, keys, limits: limits(u64::MAX >> 12).into(), lease: 0 };
        let figures = round.run().await;
        println!("| {at_once} | {keys} | {} |", figures.row());
        if at_once == 64 && keys == 1000 {
            least = figures.cpu;
        }
    }
    let refused = Round { at_once: 64, keys: 1000, limits: limits(1).into(), lease: 0 }.run().await;
    println!("| 64, refused | 1000 | {} |", refused.row());
    let leased = Round { at_once: 64, keys: 1, limits: limits(100_000_000).into(), lease: 5 }.run().await;
    println!("| 64, `lease: 5%` | 1 | {} |", leased.row());
    for (what, limits) in [
        ("and a team", of_scopes(&[], false)),
        ("and a team, an owner and a model", of_scopes(&[], true)),
        ("and two quotas", key_with(&["tokens_per_day", "usd_per_month"])),
        ("and all of that, four quotas", of_scopes(&["tokens_per_day"], true)),
        ("the same, of lengths that slide", of_scopes(&["tokens_per_5h"], true)),
    ] {
        let figures = Round { at_once: 64, keys: 1000, limits, lease: 0 }.run().await;
        println!("| 64, {what} | 1000 | {} |", figures.row());
    }
    println!();
    Cost { admission: least, refusal: refused.cpu }
}

fn limits(requests: u64) -> Limits {
    let limit = |number| Limit::at(number).unwrap_or(Limit::Unlimited);
    Limits {
        requests_per_minute: limit(requests),
        tokens_per_minute: limit(1_000_000_000_000),
        concurrent_requests: limit(1_000_000),
    }
}

fn quotas(names: &[&str]) -> Quotas {
    let quota = |name: &&str| keymeter_core::limit::Quota {
        name: name.parse().unwrap(),
        amount: (1 << 60).try_into().unwrap(),
        zone: Zone::UTC,
        carried: None,
    };
    Quotas::new(names.iter().map(quota).collect()).unwrap()
}

fn key_with(names: &[&str]) -> RequestLimits {
    ScopeLimits { minute: limits(u64::MAX >> 12), quotas: quotas(names) }.into()
}

/// A key's, its team's, and if `all` also its owner's and a model's, each with these quotas.
fn of_scopes(names: &[&str], all: bool) -> RequestLimits {
    let each = || ScopeLimits { minute: limits(u64::MAX >> 12), quotas: quotas(names) };
    let model = all.then(|| ModelLimits { models: Glob::new("m"), limits: each() });
    RequestLimits {
        scopes: Scopes { team: Some(each()), owner: all.then(each), key: each() },
        models: model.into_iter().collect(),
        mode: LimitMode::Enforce,
    }
}

struct Round {
    at_once: usize,
    keys: usize,
    limits: RequestLimits,
    lease: u8,
}

struct Figures {
    rate: f64,
    median: Duration,
    most: Duration,
    cpu: f64,
    /// Seconds that one call of a script took on the server; most are admissions.
    script: f64,
}

impl Figures {
    fn row(&self) -> String {
        let Self { rate, median, most, cpu, script } = self;
        let micros = |time: &Duration| time.as_secs_f64() * 1e6;
        format!(
            "{rate:.0} | {:.0} µs | {:.0} µs | {:.1} µs | {:.1} µs",
            micros(median),
            micros(most),
            cpu * 1e6,
            script * 1e6
        )
    }
}

impl Round {
    async fn run(&self) -> Figures {
        let redis = Redis::start();
        let text = format!(
            "{{upstreams: [{{name: a, url: 'http://127.0.0.1:1'}}], keys: {{yaml: {{path: none}}}},
            limits: {{shared: {{url: '{}', timeout: 5s, lease: {}%}}}}}}",
            redis.url(),
            self.lease
        );
        let terms = config::parse(&text, Path::new("keymeter.yaml"), &|_| None).unwrap().limits.shared.unwrap();
        let series = Metrics::new(1).unwrap().shared().unwrap();
        let shared = Arc::new(SharedLimits::new(terms, series, Arc::new(KeptQuotas::nowhere())).unwrap());
        let syncing = tokio::spawn({
            let shared = shared.clone();
            async move { shared.run().await }
        });
        let (before, start) = (cpu(&redis), Instant::now());
        let tasks: Vec<_> = (0..self.at_once).map(|number| tokio::spawn(self.asks(&shared, number, start))).collect();
        let mut waits = Vec::new();
        for task in tasks {
            waits.extend(task.await.unwrap());
        }
        let (elapsed, used) = (start.elapsed(), cpu(&redis) - before);
        syncing.abort();
        waits.sort_unstable();
        let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
        Figures {
            rate: waits.len() as f64 / elapsed.as_secs_f64(),
            median: at(0.5),
            most: at(0.99),
            cpu: used / waits.len() as f64,
            script: script_time(&redis),
        }
    }

    fn asks(
        &self,
        shared: &Arc<SharedLimits>,
        number: usize,
        start: Instant,
    ) -> impl Future<Output = Vec<Duration>> + use<> {
        let (shared, keys, limits) = (shared.clone(), self.keys, self.limits.clone());
        let (mut next, mut waits) = (number.wrapping_mul(7919), Vec::new());
        async move {
            while start.elapsed() < ROUND {
                next = next.wrapping_mul(31).wrapping_add(17);
                let key = format!("key_{}", next % keys);
                let names = Scopes { team: Some("research"), owner: Some("ada"), key: &*key };
                let asked = Instant::now();
                let answer = shared.reserve(&names, &limits, Amounts::tokens(500), Now::read()).await;
                waits.push(asked.elapsed());
                if let Ok(ticket) = answer {
                    ticket.settle(Amounts::tokens(400), &[], Now::read());
                }
            }
            waits
        }
    }
}

/// Seconds that a call of a script took on the server, on average.
fn script_time(redis: &Redis) -> f64 {
    let said = redis.ask(&["INFO", "commandstats"]);
    let line = said.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:")).unwrap();
    let micros = line.split(',').find_map(|part| part.strip_prefix("usec_per_call=")).unwrap();
    micros.parse::<f64>().unwrap() / 1e6
}

/// Processor seconds that the server has used.
fn cpu(redis: &Redis) -> f64 {
    let said = redis.ask(&["INFO", "cpu"]);
    let seconds = |name: &str| -> f64 {
        said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok()).unwrap()
    };
    seconds("used_cpu_sys") + seconds("used_cpu_user")
}

fn simulated(cost: &Cost) {
    let service = cost.admission;
    println!("## Simulated: many gateways, one server, from {:.1} µs for a request\n", service * 1e6);
    println!("A server that did nothing else would carry {:.0} requests a second.\n", 1.0 / service);
    println!("What a request waits, median and 99.9 %, in ms, by the server's load and the way to it:\n");
    println!("| load of the server | requests a second | 0.2 ms away | 1 ms | 5 ms |");
    println!("|---|---|---|---|---|");
    for load in [0.2, 0.5, 0.7, 0.8, 0.9, 0.95] {
        let rate = load / service;
        let waits = Queue { service, rate }.waits();
        let ways: Vec<_> = [0.0002, 0.001, 0.005]
            .into_iter()
            .map(|way| format!("{:.2} / {:.2}", (way + waits.median) * 1e3, (way + waits.most) * 1e3))
            .collect();
        println!("| {:.0} % | {rate:.0} | {} |", load * 100.0, ways.join(" | "));
    }
    println!("\nWith `lease: 5%` a gateway asks once for so many requests of a key that makes so many through it:\n");
    println!("| requests a minute allowed | 1/s through it | 10/s | 100/s | 1,000/s |");
    println!("|---|---|---|---|---|");
    for limit in [600.0, 6_000.0, 60_000.0, 600_000.0_f64] {
        let row: Vec<_> = [1.0, 10.0, 100.0, 1000.0_f64]
            .iter()
            .map(|rate| {
                // A stock is 5 % of the limit, 1,000 at most, and lasts a second. Keys that ask less than once a
                // second get none.
                let stock = (limit * 0.05).floor().min(1000.0).min(*rate);
                if *rate > limit / 60.0 {
                    "over the limit".to_owned()
                } else {
                    format!("{:.0}", (stock + 1.0).max(1.0))
                }
            })
            .collect();
        println!("| {limit:.0} | {} |", row.join(" | "));
    }
    println!(
        "\nA refusal takes {:.1} µs of the server, so a flood of them from one key, 16,000 a second, takes {:.0} % of it.",
        cost.refusal * 1e6,
        16_000.0 * cost.refusal * 100.0
    );
}

/// Requests that come at random to a server that does one after the other.
struct Queue {
    service: f64,
    /// A second.
    rate: f64,
}

struct Waits {
    median: f64,
    most: f64,
}

impl Queue {
    /// How long they are there, in seconds: Lindley's recursion over two million of them, a quarter of which come in
    /// bursts of ten at once, as programs that fan out send them.
    fn waits(&self) -> Waits {
        const REQUESTS: usize = 2_000_000;
        let (mut random, mut wait) = (Random(0x5eed), 0.0_f64);
        let mut waits = Vec::with_capacity(REQUESTS);
        while waits.len() < REQUESTS {
            let burst = if random.next() < 1.0 / 31.0 { 10 } else { 1 };
            for _ in 0..burst {
                waits.push(wait + self.service);
                wait += self.service;
            }
            // Arrivals are (30 + 10) / 31 requests on average.
            let gap = -(1.0 - random.next()).ln() * (40.0 / 31.0) / self.rate;
            wait = (wait - gap).max(0.0);
        }
        waits.sort_unstable_by(f64::total_cmp);
        Waits { median: waits[REQUESTS / 2], most: waits[REQUESTS * 999 / 1000] }
    }
}

/// The same numbers each time (Knuth's linear congruential generator for 64 bits).
struct Random(u64);

impl Random {
    /// From 0 up to, not including, 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

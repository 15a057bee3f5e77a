//! What the hot path costs in instructions, which do not vary with the machine's load: a request from its head to its end,
//! and what it consists of; for each API an event of its stream, and an answer in one piece. Twice the same change by less
//! than 0.1 %, so that a change of 1 % is seen.
//!
//! `cargo bench --bench instructions`, or `make bench`. It runs itself under Valgrind, each case with some repetitions
//! and with twice as many: the difference is theirs alone, whatever the process does beside them.

#![allow(missing_docs, clippy::expect_used, clippy::panic, reason = "a benchmark stops at the first surprise")]

mod workload;

use std::{env, hint::black_box, num::NonZeroU64, process::Command, sync::Arc, time::Duration};

use jiff::Timestamp;
use keymeter::{Pool, Pools, Wanted, admission::Now, observe::metrics::Metrics};
use keymeter_config as config;
use keymeter_core::{
    body::{Change, Shape, scan},
    clock::MonotonicTime,
    glob::Glob,
    limit::{
        Amounts, Counters, Limit, Limits, ModelLimits, Quota, Quotas, RequestLimits, Reservation, ScopeLimits, Scopes,
        Zone,
    },
    record::Record,
};

use workload::{
    ANSWERS, Answer, KINDS, Kind, STREAMS, Stream,
    requests::{RECORD, chat, exchange, gate, head, identified},
};

/// How often a case is repeated, or how many events a stream has: their text stays below what the meter keeps.
const REPETITIONS: usize = 1000;

const KIB: usize = 1 << 10;

fn main() {
    match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [command, case, repetitions] if command == RUN => {
            run(case, repetitions.parse().expect("a number of repetitions"));
        }
        _ => report(),
    }
}

const RUN: &str = "run-under-valgrind";

/// Runs one case in this process.
fn run(case: &str, repetitions: usize) {
    let (_, work) =
        streams().chain(answers()).chain(requests()).find(|(name, _)| name == case).expect("the name of a case");
    work(repetitions);
}

type Case = (String, Box<dyn FnOnce(usize)>);

fn streams() -> impl Iterator<Item = Case> {
    STREAMS.iter().flat_map(|stream| KINDS.map(|(_, kind)| of_stream(stream, kind)))
}

fn of_stream(stream: &'static Stream, kind: Kind) -> Case {
    let work = move |count| {
        stream.meter(&stream.events(kind), count);
    };
    (format!("{} {kind:?}", stream.name), Box::new(work))
}

fn answers() -> impl Iterator<Item = Case> {
    ANSWERS.iter().flat_map(|answer| [1, 17].map(|kib| of_answer(answer, kib)))
}

fn of_answer(answer: &'static Answer, kib: usize) -> Case {
    let work = move |count| {
        let bytes = answer.of_length(kib * KIB);
        for _ in 0..count {
            answer.meter(&bytes);
        }
    };
    (format!("{} of {kib} KiB", answer.name), Box::new(work))
}

type Work = fn(usize);

/// What the gate does of a request, without a socket.
fn requests() -> impl Iterator<Item = Case> {
    let cases: [(&str, Work); 11] = [
        ("scan a body of 1 KiB", |count| {
            let body = chat(KIB);
            repeat(count, || scan(&body, Shape::Chat).expect("a good body").prompt_text_bytes);
        }),
        ("splice include_usage into it", |count| {
            let scanned = scan(&chat(KIB), Shape::Chat).expect("a good body");
            let change = Change { include_usage: true, ..Change::default() };
            repeat(count, || scanned.splice(&change));
        }),
        ("identify", |count| {
            let (gate, head) = (gate(1), head(0));
            let runtime = runtime();
            repeat(count, || runtime.block_on(identified(&gate, &head, Now::read())).context.path.len());
        }),
        ("identify, admit and settle", |count| {
            let (gate, head) = (gate(1), head(0));
            let mut body = Box::new(scan(&chat(KIB), Shape::Chat).expect("a good body"));
            let runtime = runtime();
            for _ in 0..count {
                body = runtime.block_on(exchange(&gate, &head, body));
            }
        }),
        ("reserve and settle", |count| {
            reserve(count, &Scopes::of_key(Arc::default()), RequestLimits::from(roomy()));
        }),
        ("reserve and settle in four scopes with four quotas", |count| {
            let counters = Scopes { team: Some(Arc::default()), owner: Some(Arc::default()), key: Arc::default() };
            let quota = |name: &str| Quota {
                name: name.parse().expect("a quota"),
                amount: NonZeroU64::MAX,
                zone: Zone::UTC,
                carried: None,
            };
            let with =
                |name| ScopeLimits { minute: roomy(), quotas: Quotas::new(vec![quota(name)]).expect("one quota") };
            let limits = RequestLimits {
                scopes: Scopes {
                    team: Some(with("usd_per_month")),
                    owner: Some(with("tokens_per_day")),
                    key: with("tokens_per_5h"),
                },
                models: [ModelLimits { models: Glob::new("m*"), limits: with("requests_per_week") }].into(),
                ..RequestLimits::from(roomy())
            };
            reserve(count, &counters, limits);
        }),
        ("choose among 1 replica", |count| choose(1, 0, count)),
        ("choose among 10 replicas", |count| choose(10, 5, count)),
        ("choose among 100 replicas", |count| choose(100, 50, count)),
        ("choose among 100 busy replicas", |count| choose(100, 250, count)),
        ("write a record", |count| {
            let record = Record::parse(RECORD.as_bytes()).expect("a record");
            repeat(count, || record.to_json());
        }),
    ];
    cases.into_iter().map(|(name, work)| (name.to_owned(), Box::new(work) as Box<dyn FnOnce(usize)>))
}

/// Limits that are never reached.
fn roomy() -> Limits {
    Limits {
        requests_per_minute: Limit::at(1_000_000).expect("not zero"),
        tokens_per_minute: Limit::at(1_000_000_000).expect("not zero"),
        concurrent_requests: Limit::at(1000).expect("not zero"),
    }
}

/// Admits a request each 20 ms, and settles it.
fn reserve(count: usize, counters: &Scopes<Arc<Counters>>, limits: RequestLimits) {
    let (limits, mut moment) = (Arc::new(limits), MonotonicTime::from_nanos(0));
    let amounts = |tokens| Amounts { tokens, output_tokens: tokens / 2, nano_usd: tokens };
    repeat(count, || {
        moment = moment + Duration::from_millis(20);
        let now = Now { moment, date: Timestamp::UNIX_EPOCH + Duration::from_nanos(moment.as_nanos()) };
        let reserved = Reservation::take(counters.clone(), &limits, amounts(100), now).expect("room");
        reserved.settle(amounts(50), now)
    });
}

/// Takes a place on the least loaded of so many replicas, on which so many requests run, and gives it back.
fn choose(replicas: usize, running: usize, count: usize) {
    let (pool, wanted) = (pool(replicas), Wanted { tokens: 100, ..Wanted::default() });
    let now = MonotonicTime::now();
    let _others: Vec<_> = (0..running).map(|_| pool.place_now(&wanted, now)).collect();
    repeat(count, || pool.place_now(&wanted, now).is_some());
}

/// A pool of so many replicas.
fn pool(replicas: usize) -> Arc<Pool> {
    let replicas: Vec<_> = (0..replicas).map(|number| format!("{{url: 'http://10.0.0.{number}:1'}}")).collect();
    let text =
        format!("upstreams: [{{name: pool, replicas: [{}]}}]\nkeys: {{yaml: {{path: k}}}}\n", replicas.join(", "));
    let config = config::parse(&text, std::path::Path::new("/keymeter.yaml"), &|_| None).expect("a configuration");
    let metrics = Metrics::new(1).expect("metrics");
    Pools::new(metrics.pools().clone()).renew(&config.upstreams, MonotonicTime::now()).remove(0)
}

fn repeat<T>(count: usize, mut work: impl FnMut() -> T) {
    for _ in 0..count {
        black_box(work());
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

fn report() {
    println!("instructions of a request:");
    for (case, _) in requests() {
        println!("{case:32}{:>12}", instructions(&case));
    }
    println!();
    println!("instructions an event of a stream:");
    println!("{:24}{}", "", KINDS.map(|(name, _)| format!("{name:>20}")).concat());
    for stream in &STREAMS {
        let counts = KINDS.map(|(_, kind)| instructions(&of_stream(stream, kind).0));
        println!("{:24}{}", stream.name, counts.map(|count| format!("{count:>20}")).concat());
    }
    println!("\ninstructions an answer in one piece:");
    println!("{:24}{:>20}{:>20}", "", "of 1 KiB", "each KiB more");
    for answer in &ANSWERS {
        let [short, long] = [1, 17].map(|kib| instructions(&of_answer(answer, kib).0));
        println!("{:24}{short:>20}{:>20}", answer.name, (long - short) / 16);
    }
}

/// The instructions that one repetition of a case takes.
fn instructions(case: &str) -> u64 {
    let [once, twice] = [REPETITIONS, 2 * REPETITIONS].map(|repetitions| counted(case, repetitions));
    (twice - once) / REPETITIONS as u64
}

/// The instructions that a process takes which runs a case so often.
fn counted(case: &str, repetitions: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("the path of this program"))
        .args([RUN, case, &repetitions.to_string()])
        .output()
        .expect("valgrind, which has to be installed");
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = collected.unwrap_or_else(|| panic!("valgrind said no count of {case}: {said}"));
    count.trim().parse().expect("a number of instructions")
}

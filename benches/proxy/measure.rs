//! The cases, the rounds and the tables.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    load::{Client, Question, ask},
    operator, pool,
    target::{Kind, Programs, Target},
    upstream::{self, Answers, EVENTS},
};

/// How often each target is measured in each case.
const ROUNDS: usize = 7;
const STREAMS: usize = 200;

/// Measures everything, or the cases that are named.
pub(super) fn all(keymeter: &str, bare: &str, only: &[&str]) {
    // Whoever asks and answers stays away from the targets' core.
    let pinned = std::process::Command::new("taskset").args(["-pc", "0", &std::process::id().to_string()]).output();
    assert!(pinned.unwrap().status.success(), "taskset is missing");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let answers = Answers::new();
        let mut replicas = Vec::new();
        for _ in 0..3 {
            replicas.push(upstream::start(answers.clone()).await);
        }
        let programs = Programs { keymeter: keymeter.into(), bare: bare.into(), replicas };
        let bench = Bench { programs, upstream: upstream::start(answers.clone()).await, answers };
        let wants = |name: &str| only.is_empty() || only.contains(&name);
        if wants("requests") {
            bench.requests().await;
        }
        if wants("prompt") {
            bench.prompt().await;
        }
        if wants("streams") {
            bench.streams().await;
        }
        if wants("refusals") {
            bench.refusals().await;
        }
        if wants("keys") {
            bench.keys(&[1, 100_000]).await;
        }
        if only.contains(&"million") {
            bench.keys(&[1, 1_000_000]).await;
        }
        if wants("threads") {
            bench.threads().await;
        }
        if wants("latency") {
            bench.latency().await;
        }
        if wants("memory") {
            bench.memory().await;
        }
        if wants("rest") {
            operator::rest(&bench.programs, bench.upstream, &bench.question("m", 900, 1000)).await;
        }
        if wants("file") {
            operator::file(&bench.programs, bench.upstream, &bench.question("m", 900, 100), 100_000).await;
        }
        if only.contains(&"large-file") {
            operator::file(&bench.programs, bench.upstream, &bench.question("m", 900, 100), 1_000_000).await;
        }
        if wants("pool") {
            pool::compare(&bench.programs, bench.upstream).await;
        }
        if wants("instructions") {
            bench.instructions().await;
        }
        if wants("syscalls") {
            bench.syscalls().await;
        }
        if only.contains(&"profile") {
            bench.profile().await;
        }
        if only.contains(&"train") {
            bench.train().await;
        }
    });
}

struct Bench {
    programs: Programs,
    upstream: SocketAddr,
    answers: Arc<Answers>,
}

/// One way to load a target.
#[derive(Clone, Copy)]
enum Load {
    /// So many requests over so many connections.
    Requests { connections: usize, count: usize },
    /// So many streams at once, so often.
    Streams { times: usize },
}

impl Bench {
    fn start(&self, kind: Kind) -> Target {
        Target::start(kind, &self.programs, self.upstream, &[])
    }

    fn question(&self, model: &str, size: usize, keys: usize) -> Question {
        let stream = model != "m";
        let filler = "word ".repeat(size / 5);
        let body = format!(
            "{{\"model\":\"{model}\",\"stream\":{stream},\"max_tokens\":200,\"messages\":[{{\"role\":\"user\",\
             \"content\":\"{filler}\"}}]}}"
        );
        let expected = if stream { &self.answers.stream } else { &self.answers.body };
        Question { body: Arc::new(body.into_bytes()), keys, status: 200, expected: Some(Arc::new(expected.clone())) }
    }

    async fn requests(&self) {
        let kinds = [Kind::Bare, Kind::Alike, Kind::Nginx, Kind::Keymeter, Kind::Bare];
        let chat = self.question("m", 900, 1000);
        println!("\n### CPU a request, µs\n");
        self.compare("1 KiB, 64 connections", &kinds, &chat, Load::Requests { connections: 64, count: 10_000 }).await;
        self.compare("1 KiB, 1 connection", &kinds, &chat, Load::Requests { connections: 1, count: 4_000 }).await;
    }

    async fn prompt(&self) {
        let kinds = [Kind::Bare, Kind::Alike, Kind::Nginx, Kind::Keymeter, Kind::Bare];
        let large = self.question("m", 200_000, 1000);
        println!("\n### CPU of a long prompt, µs\n");
        self.compare("200 KB, 16 connections", &kinds, &large, Load::Requests { connections: 16, count: 1_000 }).await;
    }

    async fn streams(&self) {
        let kinds = [Kind::Bare, Kind::Alike, Kind::Nginx, Kind::Keymeter, Kind::Bare];
        println!("\n### CPU an event of a stream, µs\n");
        let paced = self.question("paced", 900, 1000);
        self.compare("200 streams, 100 events 10 ms apart", &kinds, &paced, Load::Streams { times: 1 }).await;
        let flat = self.question("flat", 900, 1000);
        self.compare("200 streams, 16 events a write", &kinds, &flat, Load::Streams { times: 4 }).await;
    }

    /// Each target in turn, round after round.
    async fn compare(&self, title: &str, kinds: &[Kind], question: &Question, load: Load) {
        let targets: Vec<_> = kinds.iter().map(|kind| self.start(*kind)).collect();
        let mut figures = vec![Vec::with_capacity(ROUNDS); targets.len()];
        for target in &targets {
            run(target, question, load).await;
        }
        for _ in 0..ROUNDS {
            for (target, figures) in targets.iter().zip(&mut figures) {
                figures.push(run(target, question, load).await);
            }
        }
        println!("| {title} | median | least – most | to bare Pingora |\n|---|---|---|---|");
        let first = median(&figures[0]);
        for (index, (target, figures)) in targets.iter().zip(&figures).enumerate() {
            let again = if index > 0 && target.kind == Kind::Bare { " (itself again)" } else { "" };
            let (least, most) = (minimum(figures), maximum(figures));
            let ratio = median(figures) / first;
            println!(
                "| {}{again} | {:.1} | {least:.1} – {most:.1} | {ratio:.2} |",
                target.kind.name(),
                median(figures)
            );
        }
        println!();
    }

    async fn refusals(&self) {
        println!("\n### A refusal, CPU in µs\n");
        let mut target = self.start(Kind::Keymeter);
        let load = Load::Requests { connections: 64, count: 10_000 };
        let chat = self.question("m", 900, 1000);
        let mut few = Question { keys: upstream::FEW, status: 429, expected: None, ..chat.clone() };
        let nobody = Question { keys: 0, status: 401, expected: None, ..chat.clone() };
        run(&target, &chat, load).await;
        // The one request that it may make.
        ask(target.address, &Question { status: 200, ..few.clone() }, 1, 1).await;
        let mut rows = vec![("a request that is passed on", Vec::new()), ("429, over its limit", Vec::new())];
        for _ in 0..ROUNDS {
            rows[0].1.push(run(&target, &chat, load).await);
            rows[1].1.push(run(&target, &few, load).await);
        }
        // Bad keys from one address are throttled after 20 a second: then they cost no look-up.
        few = nobody;
        let start = (target.cpu(), Instant::now());
        ask_any(target.address, &few, 64, 10_000).await;
        let throttled = target.cpu().saturating_sub(start.0).as_secs_f64() * 1e6 / 10_000.0;
        println!("| | median | least – most | to a request |\n|---|---|---|---|");
        let first = median(&rows[0].1);
        for (name, figures) in &rows {
            let (middle, least, most) = (median(figures), minimum(figures), maximum(figures));
            println!("| {name} | {middle:.1} | {least:.1} – {most:.1} | {:.2} |", middle / first);
        }
        println!("| 401 and 429, a flood of bad keys | {throttled:.1} | | {:.2} |\n", throttled / first);
        target.stop();
    }

    async fn keys(&self, numbers: &[usize]) {
        println!("\n### CPU a request by the number of keys, each in turn, µs\n");
        println!("| keys | median | least – most | to one key | MiB |\n|---|---|---|---|---|");
        let mut first = 0.0;
        for number in numbers {
            let target = self.start(Kind::Keymeter);
            let question = self.question("m", 900, *number);
            // Every key is looked up once.
            ask(target.address, &question, 64, *number).await;
            let load = Load::Requests { connections: 64, count: 10_000.max(number / 7) };
            let mut figures = Vec::new();
            for _ in 0..ROUNDS {
                figures.push(run(&target, &question, load).await);
            }
            if first == 0.0 {
                first = median(&figures);
            }
            let (middle, least, most) = (median(&figures), minimum(&figures), maximum(&figures));
            let memory = target.memory() / 1024;
            println!("| {number} | {middle:.1} | {least:.1} – {most:.1} | {:.2} | {memory} |", middle / first);
        }
    }

    /// Targets take turns, since who asks runs on one of the cores too.
    async fn threads(&self) {
        println!("\n### CPU a request by the number of threads, µs (must: 1.15 of one thread's)\n");
        println!("| threads | median | least – most | to one thread |\n|---|---|---|---|");
        let numbers = [1, 2, 4];
        let targets = numbers.map(|number| self.start(Kind::Threads(number)));
        let question = self.question("m", 900, 1000);
        let load = Load::Requests { connections: 64, count: 10_000 };
        let mut figures = numbers.map(|_| Vec::new());
        for target in &targets {
            run(target, &question, load).await;
        }
        for _ in 0..ROUNDS {
            for (target, figures) in targets.iter().zip(&mut figures) {
                figures.push(run(target, &question, load).await);
            }
        }
        let first = median(&figures[0]);
        for (number, figures) in numbers.iter().zip(&figures) {
            let (middle, least, most) = (median(figures), minimum(figures), maximum(figures));
            println!("| {number} | {middle:.1} | {least:.1} – {most:.1} | {:.2} |", middle / first);
        }
    }

    async fn latency(&self) {
        println!("\n### Time a request on 2 connections, µs\n");
        println!("| | median | 99 % | to bare Pingora |\n|---|---|---|---|");
        let question = self.question("m", 900, 1000);
        let kinds = [Kind::Bare, Kind::Alike, Kind::Nginx, Kind::Keymeter];
        let targets: Vec<_> = kinds.iter().map(|kind| self.start(*kind)).collect();
        let mut times = vec![Vec::new(); targets.len()];
        for round in 0..=ROUNDS {
            for (target, times) in targets.iter().zip(&mut times) {
                let taken = ask(target.address, &question, 2, 2_000).await;
                if round > 0 {
                    times.extend(taken);
                }
            }
        }
        let mut first = 0.0;
        for (target, times) in targets.iter().zip(&mut times) {
            times.sort_unstable();
            let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
            if first == 0.0 {
                first = at(50);
            }
            println!("| {} | {:.0} | {:.0} | {:.2} |", target.kind.name(), at(50), at(99), at(50) / first);
        }
    }

    async fn memory(&self) {
        println!("\n### Memory, MiB\n");
        println!("| | idle | 200 streams | 1,000 streams | KiB a stream |\n|---|---|---|---|---|");
        for kind in [Kind::Bare, Kind::Alike, Kind::Nginx, Kind::Keymeter] {
            let target = self.start(kind);
            let question = self.question("paced", 900, 1000);
            // The code of a request is loaded.
            run(&target, &self.question("m", 900, 1000), Load::Requests { connections: 2, count: 100 }).await;
            let idle = target.memory();
            let mut sizes = Vec::new();
            for count in [200, 1000] {
                let mut clients = Vec::new();
                for number in 0..count {
                    let mut client = Client::connect(target.address).await;
                    client.send(&question, number).await;
                    clients.push(client);
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
                sizes.push(target.memory());
                for client in &mut clients {
                    client.answer(&question).await;
                }
            }
            let of_one = (sizes[1] - sizes[0]) as f64 / 800.0;
            let mib = |size: u64| size / 1024;
            println!("| {} | {} | {} | {} | {of_one:.0} |", kind.name(), mib(idle), mib(sizes[0]), mib(sizes[1]));
        }
    }

    /// Instructions in user space, by Callgrind: of many requests less those of few.
    async fn instructions(&self) {
        println!("\n### Instructions\n");
        println!("| | a request | to built alike | an event | to built alike |\n|---|---|---|---|---|");
        let (chat, flat) = (self.question("m", 900, 100), self.question("flat", 900, 100));
        let mut first = None;
        for kind in [Kind::Alike, Kind::Bare, Kind::Nginx, Kind::Keymeter, Kind::Pool("least_tokens")] {
            let of_request = self.counted(kind, &chat, 1_000, 1_200).await;
            let of_stream = self.counted(kind, &flat, 200, 1_600).await;
            let of_event = (of_stream - of_request) / EVENTS as f64;
            let (request, event) = *first.get_or_insert((of_request, of_event));
            println!(
                "| {} | {of_request:.0} | {:.3} | {of_event:.0} | {:.3} |",
                kind.name(),
                of_request / request,
                of_event / event
            );
        }
    }

    /// Calls of the system for a request, by `strace`.
    async fn syscalls(&self) {
        println!("\n### Calls of the system a request, 1 KiB over 4 connections\n");
        let chat = self.question("m", 900, 100);
        for kind in [Kind::Alike, Kind::Nginx, Kind::Keymeter] {
            let mut counts = [BTreeMap::new(), BTreeMap::new()];
            for (counts, number) in counts.iter_mut().zip([500, 2_500]) {
                let mut target = Target::start(kind, &self.programs, self.upstream, &["strace", "-f", "-c"]);
                ask(target.address, &chat, 4, number).await;
                target.stop();
                *counts = called(&target.said());
            }
            let [few, many] = counts;
            let of_one = |name: &String| (many[name] - few.get(name).unwrap_or(&0.0)) / 2_000.0;
            let calls: Vec<_> =
                many.keys().map(|name| (name, of_one(name))).filter(|(_, number)| *number > 0.02).collect();
            let total: f64 = calls.iter().map(|(_, number)| number).sum();
            let each: Vec<_> = calls.iter().map(|(name, number)| format!("{name} {number:.2}")).collect();
            println!("- {}: {total:.1} ({})", kind.name(), each.join(", "));
        }
    }

    /// Leaves Callgrind's profiles in target/, for `callgrind_annotate --inclusive=yes`: of 1,200 requests in which all is loaded
    /// and the model becomes known, and of 1,000 more; and of streams.
    async fn profile(&self) {
        let (chat, flat) = (self.question("m", 900, 100), self.question("flat", 900, 100));
        for (what, question, count) in [("few", &chat, 1_200), ("requests", &chat, 2_200), ("streams", &flat, 300)] {
            for (kind, name) in [(Kind::Alike, "alike"), (Kind::Keymeter, "keymeter")] {
                let file = format!("target/callgrind.{name}.{what}");
                let option = format!("--callgrind-out-file={file}");
                let wrapper = ["valgrind", "--tool=callgrind", &option];
                let mut target = Target::start(kind, &self.programs, self.upstream, &wrapper);
                ask(target.address, question, 4, count).await;
                target.stop();
                println!("{file}");
            }
        }
    }

    /// Some of everything, for builds that count how often their code runs (`make pgo`).
    async fn train(&self) {
        for kind in [Kind::Keymeter, Kind::File(1000), Kind::Pool("least_tokens"), Kind::Pool("round_robin")] {
            let mut target = self.start(kind);
            for (model, size, load) in [
                ("m", 900, Load::Requests { connections: 64, count: 6_000 }),
                ("m", 900, Load::Requests { connections: 1, count: 1_000 }),
                ("m", 200_000, Load::Requests { connections: 16, count: 200 }),
                ("paced", 900, Load::Streams { times: 1 }),
                ("flat", 900, Load::Streams { times: 2 }),
            ] {
                run(&target, &self.question(model, size, 1000), load).await;
            }
            let refused = Question { keys: upstream::FEW, expected: None, ..self.question("m", 900, 1000) };
            ask_any(target.address, &refused, 16, 1_000).await;
            ask_any(target.address, &Question { keys: 0, ..refused }, 16, 1_000).await;
            target.stop();
            println!("trained: {}", kind.name());
        }
    }

    /// Of `count` requests, after `few`, in which everything was loaded and the model became known.
    async fn counted(&self, kind: Kind, question: &Question, count: usize, few: usize) -> f64 {
        let mut counts = Vec::new();
        for number in [few, few + count] {
            let wrapper = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
            let mut target = Target::start(kind, &self.programs, self.upstream, &wrapper);
            ask(target.address, question, 4, number).await;
            target.stop();
            let said = target.said();
            let line = said.lines().find_map(|line| line.split("Collected : ").nth(1));
            counts.push(line.unwrap_or_else(|| panic!("{said}")).trim().parse::<f64>().unwrap());
        }
        (counts[1] - counts[0]) / count as f64
    }
}

/// How often each call was made, by the table that `strace` prints at the end.
fn called(said: &str) -> BTreeMap<String, f64> {
    let row = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.first()?.parse::<f64>().ok()?;
        let (calls, name) = (words.get(3)?.parse().ok()?, words.last()?);
        (*name != "total").then(|| ((*name).to_owned(), calls))
    };
    said.lines().filter_map(row).collect()
}

/// Microseconds of processor time for one request, or for one event.
async fn run(target: &Target, question: &Question, load: Load) -> f64 {
    let mut question = question.clone();
    if !target.kind.knows_keys() {
        question.keys = question.keys.clamp(1, 1000);
    }
    let before = target.cpu();
    let units = match load {
        Load::Requests { connections, count } => {
            ask(target.address, &question, connections, count).await;
            count
        }
        Load::Streams { times } => {
            ask(target.address, &question, STREAMS, STREAMS * times).await;
            STREAMS * times * EVENTS
        }
    };
    // What is written after the last byte belongs to it.
    tokio::time::sleep(Duration::from_millis(20)).await;
    target.cpu().saturating_sub(before).as_secs_f64() * 1e6 / units as f64
}

/// The same, whatever the answers are.
async fn ask_any(address: SocketAddr, question: &Question, connections: usize, count: usize) {
    let question = Question { status: 0, ..question.clone() };
    ask(address, &question, connections, count).await;
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

fn median(figures: &[f64]) -> f64 {
    sorted(figures)[figures.len() / 2]
}

fn minimum(figures: &[f64]) -> f64 {
    sorted(figures)[0]
}

fn maximum(figures: &[f64]) -> f64 {
    sorted(figures)[figures.len() - 1]
}

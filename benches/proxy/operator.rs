//! What an operator feels first: the memory that the gateway takes at rest, and what a large file of keys costs, at the start
//! and whenever one of them changes.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    load::{Question, ask},
    target::{Kind, Programs, Target},
};

/// How often a key is changed.
const ROUNDS: usize = 5;

/// Memory at rest, and after requests that state their usage.
pub(super) async fn rest(programs: &Programs, upstream: SocketAddr, question: &Question) {
    println!("\n### At rest, MiB (must: 30 and 30)\n");
    println!("| | at rest | after 10,000 requests |\n|---|---|---|");
    for kind in [Kind::Alike, Kind::Keymeter] {
        let target = Target::start(kind, programs, upstream, &[]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let rest = target.memory() / 1024;
        ask(target.address, question, 16, 10_000).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        println!("| {} | {rest} | {} |", kind.name(), target.memory() / 1024);
    }
}

/// The start from a file of `keys`, and reloads of one changed key.
pub(super) async fn file(programs: &Programs, upstream: SocketAddr, question: &Question, keys: usize) {
    println!(
        "\n### {keys} keys in a file (must, of 100,000: 0.8 s, 200 MiB, 0.6 s, 3; of 1,000,000: 8 s, 1,638 MiB)\n"
    );
    let target = Target::start(Kind::File(keys), programs, upstream, &[]);
    println!("- start: {:.2} s, at most {} MiB", target.started_in.as_secs_f64(), target.peak_memory() / 1024);
    // The keys that ask are known.
    ask(target.address, question, 2, 2_000).await;
    let mut alone = Vec::new();
    for round in 0..ROUNDS {
        // Who reads the file is a thread that ends.
        let before = (target.whole_cpu(), target.reloads());
        target.change_key(2 * round);
        until_reloaded(&target, before.1).await;
        // What follows the line in the log belongs to it.
        tokio::time::sleep(Duration::from_millis(500)).await;
        alone.push(target.whole_cpu().saturating_sub(before.0));
    }
    alone.sort_unstable();
    let (middle, most) = (alone[ROUNDS / 2].as_secs_f64(), target.peak_memory() / 1024);
    println!("- a reload of one changed key: {middle:.2} s of the processor, at most {most} MiB");
    let (mut quiet, mut meanwhile) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        quiet.extend(ask(target.address, question, 2, 4_000).await);
        let before = target.reloads();
        target.change_key(2 * round + 1);
        while target.reloads() == before {
            meanwhile.extend(ask(target.address, question, 2, 200).await);
        }
    }
    let [quiet, meanwhile] = [quiet, meanwhile].map(|times| percentile_99(times).as_secs_f64() * 1e6);
    println!("- p99 of requests: {quiet:.0} µs, {meanwhile:.0} µs during a reload: {:.1}", meanwhile / quiet);
}

async fn until_reloaded(target: &Target, before: usize) {
    let start = Instant::now();
    while target.reloads() == before {
        assert!(start.elapsed() < Duration::from_mins(1), "it is not reloaded: {}", target.said());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn percentile_99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

//! The ways to choose, compared by a simulation: three servers of which one is slow, each running some requests at once and
//! letting others wait within itself, as inference servers do.

use std::collections::VecDeque;

use super::*;

/// Requests that a server runs at once.
const SLOTS: usize = 8;
/// What a server takes for a prompt, and for a token, in µs; the last takes so many times as long.
const PREFILL: u64 = 10_000;
const TOKEN: u64 = 500;
const SLOWER: [u64; 3] = [1, 1, 3];
/// The mean time between two arrivals in µs: some two thirds of what the three can do.
const GAP: f64 = 1e6 / 58.0;
const REQUESTS: usize = 1_200;
const ROUNDS: u64 = 40;

#[test]
fn beside_a_slow_replica_tokens_do_as_well_as_requests() {
    let [tokens, requests, turns] = ["least_tokens", "least_requests", "round_robin"].map(times_to_first_byte);
    let told = format!("tokens {tokens:?}, requests {requests:?}, turns {turns:?}, all in µs");
    assert!(tokens.mean <= requests.mean * 11 / 10 && tokens.p99 <= requests.p99 * 11 / 10, "{told}");
    assert!(tokens.p90 <= requests.p90 && tokens.mean < turns.mean / 2, "{told}");
}

#[derive(Debug)]
struct Times {
    mean: u64,
    p90: u64,
    p99: u64,
}

fn times_to_first_byte(balance: &str) -> Times {
    let mut times: Vec<_> = (1..=ROUNDS).flat_map(|seed| Simulation::new(balance, seed).run()).collect();
    times.sort_unstable();
    let mean = times.iter().sum::<u64>() / times.len() as u64;
    Times { mean, p90: times[times.len() * 90 / 100], p99: times[times.len() * 99 / 100] }
}

struct Simulation {
    pool: Arc<Pool>,
    random: Random,
    servers: [Server; 3],
    times: Vec<u64>,
}

#[derive(Default)]
struct Server {
    /// When each that runs ends.
    running: Vec<(u64, Permit)>,
    /// Those that wait: since when, and for how many tokens.
    waiting: VecDeque<(u64, u64, Permit)>,
}

impl Simulation {
    fn new(balance: &str, seed: u64) -> Self {
        let pool = pool(&format!("balance: {balance}, {THREE}"));
        Self { pool, random: Random(seed), servers: Default::default(), times: Vec::new() }
    }

    /// The time to the first byte of each request.
    fn run(mut self) -> Vec<u64> {
        let mut now = 0;
        for _ in 0..REQUESTS {
            // Gaps are exponential; answers have as often from 20 to 200 tokens as from 200 to 2,000.
            now += (-self.random.next().ln() * GAP) as u64;
            let tokens = (20.0 * 100_f64.powf(self.random.next())) as u64;
            self.end_until(now);
            let permit = self.pool.place_now(&wanted(1, tokens + 8), at(now / 1000)).unwrap().unwrap();
            let place = usize::from(permit.replica.name.as_bytes()[0] - b'a');
            self.servers[place].waiting.push_back((now, tokens, permit));
            self.begin(place, now);
        }
        self.end_until(u64::MAX);
        self.times
    }

    fn begin(&mut self, place: usize, now: u64) {
        let (server, slower) = (&mut self.servers[place], SLOWER[place]);
        while server.running.len() < SLOTS
            && let Some((since, tokens, permit)) = server.waiting.pop_front()
        {
            self.times.push(now - since + PREFILL * slower);
            server.running.push((now + (PREFILL + TOKEN * tokens) * slower, permit));
        }
    }

    fn end_until(&mut self, now: u64) {
        let ends = |servers: &[Server; 3]| {
            let all = servers.iter().enumerate();
            all.flat_map(|(place, server)| server.running.iter().map(move |(end, _)| (*end, place))).min()
        };
        while let Some((end, place)) = ends(&self.servers).filter(|(end, _)| *end <= now) {
            let running = &mut self.servers[place].running;
            running.swap_remove(running.iter().position(|(other, _)| *other == end).unwrap());
            self.begin(place, end);
        }
    }
}

/// Numbers above 0 and up to 1, the same for a seed each time (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        ((mixed >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

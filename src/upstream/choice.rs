//! Which replica takes a request: the one that made what it goes on from, its home, or the least loaded.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use keymeter_config::Balance;
use keymeter_core::clock::MonotonicTime;

use super::{
    members::{CLOSENESS, Members, Seat},
    replica::{Replica, ServerId},
    running::Running,
};

/// What a request wants of a pool.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// A number that stands for its key.
    pub key: u64,
    /// A lower one goes first.
    pub priority: i8,
    /// What it is planned to take, prompt and output.
    pub tokens: u64,
    /// By which its home is found, where requests have one.
    pub affinity: Option<u64>,
    /// The answer that it goes on from, by a hash of its id.
    pub previous: Option<u64>,
    /// The replicas that failed it, which it is not sent to again.
    pub tried: Vec<Arc<str>>,
}

/// Why a search finds no replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoReplica {
    /// None may be asked.
    NoneUp,
    /// Those that may be asked are full, or the one that it has to go to.
    Full,
}

/// Chooses replicas of one upstream.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    /// Where a search begins, so that equal ones are taken in turn.
    turn: AtomicUsize,
    /// The requests that have a place on any of them.
    pub running: Running,
}

impl Chooser {
    /// The replica that can take the request soonest; `maker` made the answer that it goes on from.
    pub fn choose<'members>(
        &self,
        members: &'members Members,
        wanted: &Wanted,
        maker: Option<ServerId>,
        now: MonotonicTime,
    ) -> Result<&'members Arc<Replica>, NoReplica> {
        let may_be_asked = members.may_be_asked(now);
        let is_candidate = |replica: &Replica| !wanted.tried.contains(&replica.name) && may_be_asked(replica);
        if let [only] = members.replicas.as_slice() {
            return match (is_candidate(only), only.has_room()) {
                (false, _) => Err(NoReplica::NoneUp),
                (true, false) => Err(NoReplica::Full),
                (true, true) => Ok(only),
            };
        }
        if let Some(maker) = maker
            && let Some(replica) = members.replicas.iter().find(|replica| replica.server == maker)
            && is_candidate(replica)
        {
            // No other one knows what it goes on from.
            return if replica.has_room() { Ok(replica) } else { Err(NoReplica::Full) };
        }
        if let (Some((ring, affinity)), Some(hash)) = (members.homes(), wanted.affinity) {
            let candidates = || members.replicas.iter().filter(|replica| is_candidate(replica));
            let mean = Mean::of(candidates(), members.upstream.pool.balance);
            let walk = ring.walk(hash).filter_map(|at| members.replicas.get(at));
            let mut walk = walk.filter(|replica| is_candidate(replica) && replica.has_room());
            if let Some(home) = walk.find(|replica| !mean.is_over(replica, affinity.load)) {
                return Ok(home);
            }
        }
        let found = self.least_loaded(members, &wanted.tried, now)?;
        members.replicas.get(found).ok_or(NoReplica::NoneUp)
    }

    /// Where the least loaded is of those that may be asked, were not tried and have room.
    fn least_loaded(&self, members: &Members, tried: &[Arc<str>], now: MonotonicTime) -> Result<usize, NoReplica> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = members.seats.len().max(1);
        let search = |first| Search { members, tried, first };
        let found = match members.upstream.pool.balance {
            Balance::RoundRobin => search(weighted_turn(members, first)).run(now, |_, _, _| 0),
            Balance::LeastRequests => search(first % count).run(now, |_, running, _| running),
            Balance::LeastTokens => {
                let typical = self.running.typical();
                search(first % count).run(now, |seat, running, closeness| {
                    seat.state.load_tokens().saturating_add(crowd(running, typical, closeness))
                })
            }
        };
        found.map(|seat| seat.place)
    }
}

/// What so many requests weigh on a replica besides their tokens, a typical one being of so many: half as much as that for
/// each that it joins, times [`Seat::closeness`].
///
/// A server can only run some at once, so that the next one waits behind many short ones where it would not behind one that is
/// long. Of a few it is their tokens that count, of many their number.
#[inline]
fn crowd(running: u64, typical: u64, closeness: u64) -> u64 {
    // A million requests of a thousand tokens each fit, by far: nothing wraps, and each check would cost for each replica.
    typical.wrapping_mul(closeness).wrapping_mul(running).wrapping_mul(running) / (4 * CLOSENESS)
}

/// A search for the least loaded replica, from one on, so that of equal ones the first is found.
struct Search<'members> {
    members: &'members Members,
    tried: &'members [Arc<str>],
    first: usize,
}

/// What a search came to.
#[derive(Default)]
struct Found<'members> {
    best: Option<&'members Seat>,
    /// Whether any may be asked, tried or not.
    is_any_open: bool,
    /// Whether any may be asked that was not tried.
    is_any_candidate: bool,
}

impl<'members> Search<'members> {
    /// `load` is that of a replica on which so many run, of such a closeness.
    fn run(&self, now: MonotonicTime, load: impl Fn(&Seat, u64, u64) -> u64) -> Result<&'members Seat, NoReplica> {
        let is_plain = self.tried.is_empty() && self.members.has_even_weights;
        if is_plain && let Some(best) = self.plain(now, |seat, running| load(seat, running, CLOSENESS)) {
            return Ok(best);
        }
        self.thorough(now, |seat, running| load(seat, running, seat.closeness))
    }

    /// The least loaded of those that are up and have room, where all have one weight and none was tried, as for nearly every
    /// request. Each instruction here is taken for each replica: no more is found out of one than that. `None` where there is
    /// none, for whatever reason.
    fn plain(&self, now: MonotonicTime, load: impl Fn(&Seat, u64) -> u64) -> Option<&'members Seat> {
        let (mut best, mut least) = (None, u64::MAX);
        let (before, after) = self.parts();
        for part in [after, before] {
            for seat in part {
                let running = seat.state.in_flight();
                if running >= seat.most || !seat.state.may_be_open(now) {
                    continue;
                }
                let load = load(seat, running);
                if load < least {
                    (best, least) = (Some(seat), load);
                    if load == 0 {
                        return best;
                    }
                }
            }
        }
        best
    }

    /// The same of any weights, without those that were tried; and why there is none.
    fn thorough(&self, now: MonotonicTime, load: impl Fn(&Seat, u64) -> u64) -> Result<&'members Seat, NoReplica> {
        let mut found = self.pass(|seat| seat.state.may_be_open(now), &load);
        if !found.is_any_open {
            // Where none may be asked, those are asked all the same that only a failed request keeps out.
            found = self.pass(|seat| seat.state.is_only_kept_out(now), &load);
        }
        found.best.ok_or(if found.is_any_candidate { NoReplica::Full } else { NoReplica::NoneUp })
    }

    /// Those before the first one that is looked at, and the others, which come before them.
    fn parts(&self) -> (&'members [Seat], &'members [Seat]) {
        let seats = &self.members.seats;
        seats.split_at(self.first.min(seats.len()))
    }

    /// Looks at each replica once, and goes no further than to an idle one.
    fn pass(&self, is_open: impl Fn(&Seat) -> bool, load: impl Fn(&Seat, u64) -> u64) -> Found<'members> {
        let (mut found, mut least) = (Found::default(), Load { load: u64::MAX, weight: 0 });
        let (before, after) = self.parts();
        for part in [after, before] {
            for seat in part {
                if !is_open(seat) {
                    continue;
                }
                found.is_any_open = true;
                if self.was_tried(seat) {
                    continue;
                }
                found.is_any_candidate = true;
                let running = seat.state.in_flight();
                if running >= seat.most {
                    continue;
                }
                let load = Load { load: load(seat, running), weight: seat.weight };
                if found.best.is_none() || load.is_less_than(least) {
                    (found.best, least) = (Some(seat), load);
                    if load.load == 0 {
                        return found;
                    }
                }
            }
        }
        found
    }

    fn was_tried(&self, seat: &Seat) -> bool {
        let was_tried = |replica: &Arc<Replica>| self.tried.contains(&replica.name);
        !self.tried.is_empty() && self.members.replicas.get(seat.place).is_some_and(was_tried)
    }
}

/// Where the turn is, each replica having as many of them as its weight.
fn weighted_turn(members: &Members, turn: usize) -> usize {
    if members.has_even_weights {
        return turn % members.seats.len().max(1);
    }
    let weight = |seat: &Seat| seat.weight as usize;
    let all: usize = members.seats.iter().map(weight).sum();
    let mut left = turn % all.max(1);
    for seat in &members.seats {
        match left.checked_sub(weight(seat)) {
            Some(rest) => left = rest,
            None => return seat.place,
        }
    }
    0
}

/// What a replica has to do, and the part of all that it should have.
#[derive(Clone, Copy, Debug)]
struct Load {
    load: u64,
    weight: u32,
}

impl Load {
    fn of(replica: &Replica, balance: Balance) -> Self {
        let load = match balance {
            Balance::LeastTokens => replica.load_tokens(),
            Balance::LeastRequests | Balance::RoundRobin => replica.in_flight(),
        };
        Self { load, weight: replica.config.weight }
    }

    fn is_less_than(self, other: Self) -> bool {
        // 64 bits by 32 fit into 128: nothing wraps, and a checked product costs a call for each replica.
        let product = |load: u64, weight: u32| u128::from(load).wrapping_mul(u128::from(weight));
        if self.weight == other.weight {
            return self.load < other.load;
        }
        product(self.load, other.weight) < product(other.load, self.weight)
    }
}

/// What all candidates have to do together.
struct Mean {
    load: u128,
    weight: u128,
    balance: Balance,
}

impl Mean {
    fn of<'replica>(replicas: impl Iterator<Item = &'replica Arc<Replica>>, balance: Balance) -> Self {
        let none = Self { load: 0, weight: 0, balance };
        replicas.fold(none, |mean, replica| {
            let Load { load, weight } = Load::of(replica, balance);
            Self { load: mean.load + u128::from(load), weight: mean.weight + u128::from(weight), balance }
        })
    }

    /// Whether a replica has more than `percent` of the mean for its weight.
    fn is_over(&self, replica: &Replica, percent: u32) -> bool {
        let Load { load, weight } = Load::of(replica, self.balance);
        u128::from(load) * self.weight * 100 > self.load * u128::from(weight) * u128::from(percent)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::{observe::metrics::Metrics, upstream::Pools};

    proptest! {
        #[test]
        fn the_short_way_finds_what_the_thorough_one_does(
            loads in prop::collection::vec((prop::collection::vec(0_u64..2000, 0..6), any::<bool>()), 1..20),
            (first, typical) in (0_usize..20, 0_u64..2000),
        ) {
            let replicas: Vec<_> = (0..loads.len()).map(|at| format!("{{url: 'http://10.0.0.{at}:1'}}")).collect();
            let upstream = format!("{{name: pool, max_in_flight: 5, replicas: [{}]}}", replicas.join(", "));
            let text = format!("upstreams: [{upstream}]\nkeys: {{yaml: {{path: keys.yaml}}}}\n");
            let config = keymeter_config::parse(&text, Path::new("/keymeter.yaml"), &|_| None).unwrap();
            let now = MonotonicTime::from_nanos(1);
            let metrics = Metrics::new(1).unwrap();
            let members = Pools::new(metrics.pools().clone()).renew(&config.upstreams, now).remove(0).members();
            for (replica, (running, is_up)) in members.replicas.iter().zip(&loads) {
                prop_assert!(running.iter().all(|tokens| replica.take(*tokens)));
                replica.set_drained(!is_up);
            }
            let search = Search { members: &members, tried: &[], first: first % loads.len() };
            let load = |seat: &Seat, running| seat.state.load_tokens() + crowd(running, typical, seat.closeness);
            let (short, thorough) = (search.plain(now, load), search.thorough(now, load).ok());
            prop_assert_eq!(short.map(|seat| seat.place), thorough.map(|seat| seat.place));
        }
    }
}

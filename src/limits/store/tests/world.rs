//! Any sequence of requests, restarts, crashes, snapshots and steps of time, with processes beside each other: what is restored
//! is what was appended and still counts, once.

use std::{collections::HashMap, os::unix::fs::FileExt};

use proptest::prelude::*;

use super::*;
use crate::journal::frame::framed;

const IDS: [&str; 4] = ["a", "b", "key_long_enough_to_be_one", "ü"];
const NAMES: [&str; 5] = ["tokens_per_day", "usd_per_day", "requests_per_1h", "tokens_per_2m", "output_tokens_per_31d"];
const SCOPES: [Scope; 4] = [Scope::Team, Scope::Owner, Scope::Key, Scope::Model];

#[derive(Clone, Debug)]
struct Wanted {
    scope: Scope,
    id: &'static str,
    models: Option<&'static str>,
    name: &'static str,
    amount: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Start,
    Request(usize, Vec<Wanted>),
    /// An account is swept.
    Forget(usize, Scope, &'static str),
    Poll(usize),
    /// It looks at all that there is.
    Check(usize),
    TurnOver(usize),
    Compact(usize),
    /// It is killed while it compacts: before the rename, or when so much is deleted.
    CompactKilled(usize, Option<u8>),
    /// It ends by itself.
    End(usize),
    /// It is killed while it writes a frame, of which so much is there, or something else is.
    Kill(usize, prop::sample::Index, bool),
    Wait(i64),
}

fn any_wanted() -> impl Strategy<Value = Wanted> {
    let (scope, id, name) =
        (prop::sample::select(&SCOPES[..]), prop::sample::select(&IDS[..]), prop::sample::select(&NAMES[..]));
    (scope, id, prop::sample::select(&["m*", "", "n"][..]), name, 1_u64..1000).prop_map(
        |(scope, id, models, name, amount)| {
            let models = (scope == Scope::Model).then_some(models);
            Wanted { scope, id, models, name, amount }
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let which = any::<usize>;
    let accounts = (prop::sample::select(&SCOPES[..3]), prop::sample::select(&IDS[..]));
    prop_oneof![
        2 => Just(Step::Start),
        10 => (which(), prop::collection::vec(any_wanted(), 1..5)).prop_map(|(which, uses)| Step::Request(which, uses)),
        2 => (which(), accounts).prop_map(|(which, (scope, id))| Step::Forget(which, scope, id)),
        2 => which().prop_map(Step::Poll),
        2 => which().prop_map(Step::Check),
        2 => which().prop_map(Step::TurnOver),
        2 => which().prop_map(Step::Compact),
        1 => (which(), prop::option::of(any::<u8>())).prop_map(|(which, left)| Step::CompactKilled(which, left)),
        1 => which().prop_map(Step::End),
        1 => (which(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(which, cut, is_garbage)| Step::Kill(which, cut, is_garbage)),
        1 => (1_i64..200).prop_map(Step::Wait),
        1 => (1_i64..100_000).prop_map(Step::Wait),
    ]
}

struct Process {
    store: QuotaStore,
    live: HashMap<(Scope, &'static str), Counters>,
}

impl Process {
    fn counters(&mut self, scope: Scope, id: &'static str) -> &Counters {
        let Self { store, live } = self;
        live.entry((if scope == Scope::Model { Scope::Key } else { scope }, id)).or_insert_with(|| {
            let counters = Counters::default();
            store.restore(scope, id, &counters);
            counters
        })
    }

    fn request(&mut self, wanted: &[Wanted], second: i64) {
        let of = |wanted: &Wanted| used(wanted.scope, wanted.models, wanted.name, second, wanted.amount);
        let uses: Vec<_> = wanted.iter().map(|wanted| (wanted.id, of(wanted))).collect();
        for (id, QuotaUse { scope, models, name, slot, amount }) in &uses {
            self.counters(*scope, id).restore(models.as_ref(), *name, *slot, *amount);
        }
        let kept: Vec<_> = uses.iter().map(|(id, used)| Kept { id, used }).collect();
        self.store.append(&kept).unwrap();
    }

    fn poll(&mut self, now: Timestamp) {
        for (scope, id) in self.store.poll_others(now).unwrap() {
            let live = self.live.iter().find(|((known, name), _)| *known == scope && **name == id);
            if let Some((_, counters)) = live {
                self.store.restore(scope, &id, counters);
            }
        }
    }

    fn sums(&mut self, now: Timestamp) -> Sums {
        self.poll(now);
        let mut all = Sums::new();
        for scope in &SCOPES[..3] {
            for id in IDS {
                all.extend(held(*scope, id, self.counters(*scope, id), now));
            }
        }
        all
    }

    fn kill(self, torn: &[u8]) {
        let directory = self.store.journal.directory().to_owned();
        let end = self.store.journal.end().unwrap();
        kill(self.store);
        let file = File::options().write(true).open(segment::path(&directory, end.segment)).unwrap();
        file.write_all_at(torn, end.offset).unwrap();
    }

    /// Compacts and is killed in between. Of what was deleted, `left` says what was not yet.
    fn compact_and_be_killed(self, left: Option<u8>, now: Timestamp) {
        let root = self.store.root.clone();
        let before = root.join("before");
        let copied = |from: &Path, to: &Path| {
            assert!(Command::new("cp").args(["-al"]).args([from, to]).status().unwrap().success());
        };
        fs::create_dir(&before).unwrap();
        for (session, path) in Claimed::all(&root).unwrap() {
            copied(&path, &before.join(session.as_str()));
        }
        let _ = fs::hard_link(root.join("snapshot"), before.join("snapshot"));
        if compact(&self.store, now) {
            let own = self.store.session.clone();
            self.kill(&[]);
            if left.is_none() {
                fs::rename(root.join("snapshot"), root.join("snapshot.new")).unwrap();
                let _ = fs::rename(before.join("snapshot"), root.join("snapshot"));
            }
            for (number, (session, path)) in Claimed::all(&before).unwrap().into_iter().enumerate() {
                let there = root.join(session.as_str());
                let is_left = |part: usize| left.is_none_or(|left| left >> (part % 8) & 1 == 1);
                if session == own {
                    for segment in segment::numbers(&path).unwrap() {
                        let (from, to) = (segment::path(&path, segment), segment::path(&there, segment));
                        if !to.exists() && is_left(usize::try_from(segment).unwrap()) {
                            fs::rename(from, to).unwrap();
                        }
                    }
                } else if !there.exists() && is_left(number) {
                    // A lock of its own, that nobody holds.
                    fs::remove_file(path.join("lock")).unwrap();
                    File::create(path.join("lock")).unwrap();
                    fs::rename(path, there).unwrap();
                }
            }
        } else {
            self.kill(&[]);
        }
        fs::remove_dir_all(before).unwrap();
    }
}

struct World {
    root: tempfile::TempDir,
    second: i64,
    processes: Vec<Process>,
    appended: Sums,
}

impl World {
    fn now(&self) -> Timestamp {
        at(self.second)
    }

    fn expected(&self) -> Sums {
        let counts = |(.., name, slot): &Place| name.parse::<QuotaName>().unwrap().span.leaves(*slot) > self.now();
        self.appended.iter().filter(|(place, _)| counts(place)).map(|(place, sum)| (place.clone(), *sum)).collect()
    }

    fn start(&mut self) {
        let store = QuotaStore::open(self.root.path(), self.now()).unwrap();
        self.processes.push(Process { store, live: HashMap::new() });
    }

    fn process(&mut self, which: usize) -> &mut Process {
        if self.processes.is_empty() {
            self.start();
        }
        let at = which % self.processes.len();
        &mut self.processes[at]
    }

    fn taken_out(&mut self, which: usize) -> Process {
        self.process(which);
        let at = which % self.processes.len();
        self.processes.remove(at)
    }

    fn check(&mut self, which: usize) {
        let (now, expected) = (self.now(), self.expected());
        assert_eq!(self.process(which).sums(now), expected);
    }

    fn run(&mut self, step: Step) {
        let now = self.now();
        match step {
            Step::Start if self.processes.len() < 3 => self.start(),
            Step::Start => {}
            Step::Request(which, wanted) => {
                let second = self.second;
                self.process(which).request(&wanted, second);
                for Wanted { scope, id, models, name, amount } in wanted {
                    let scope = if scope == Scope::Model { Scope::Key } else { scope };
                    let slot = slot(name.parse().unwrap(), second);
                    let place = (scope.as_str().into(), id.into(), models.map(str::to_owned), name.into(), slot);
                    *self.appended.entry(place).or_default() += amount;
                }
            }
            Step::Forget(which, scope, id) => {
                let process = self.process(which);
                if let Some(counters) = process.live.remove(&(scope, id)) {
                    process.store.forget(scope, id, &counters, now);
                }
            }
            Step::Poll(which) => self.process(which).poll(now),
            Step::Check(which) => self.check(which),
            Step::TurnOver(which) => self.process(which).store.journal.turn_over(),
            Step::Compact(which) => {
                let is_alone = self.processes.len() <= 1;
                assert_eq!(compact(&self.process(which).store, now), is_alone);
            }
            Step::CompactKilled(which, left) => self.taken_out(which).compact_and_be_killed(left, now),
            Step::End(which) => drop(self.taken_out(which)),
            Step::Kill(which, cut, is_garbage) => {
                let mut torn = framed(b"what a request came to, of which nobody saw the end").unwrap();
                if is_garbage {
                    torn = torn.into_iter().map(|byte| byte ^ 0x5a).collect();
                }
                torn.truncate(cut.index(torn.len()));
                self.taken_out(which).kill(&torn);
            }
            Step::Wait(seconds) => self.second += seconds,
        }
    }
}

fn rounds() -> u32 {
    if std::env::var_os("KEYMETER_SOAK").is_some() { 500 } else { 12 }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(rounds()) })]
    #[test]
    fn what_is_restored_is_what_was_appended_and_still_counts(steps in prop::collection::vec(any_step(), 1..60)) {
        let root = tempfile::tempdir().unwrap();
        let mut world = World { root, second: START, processes: Vec::new(), appended: Sums::new() };
        for step in steps {
            world.run(step);
        }
        for _ in 0..world.processes.len() {
            world.check(0);
            world.taken_out(0).kill(&[]);
        }
        world.check(0);
        world.process(0);
        assert!(compact(&world.processes[0].store, world.now()));
        world.taken_out(0).kill(&[]);
        world.check(0);
    }
}

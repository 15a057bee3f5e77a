//! The store on a real disk: what comes back after restarts, crashes and upgrades, and what happens when the disk is full.

mod crash;
mod damage;
mod disk;
mod scale;
mod upgrade;
mod world;

use std::{collections::BTreeMap, process::Command};

use keymeter_core::limit::{QuotaName, Slot};

use super::*;

/// What is counted: whose, of which models, of which quota, where.
type Place = (String, String, Option<String>, String, Slot);
type Sums = BTreeMap<Place, u64>;

const START: i64 = 1_790_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn now() -> Timestamp {
    at(START)
}

/// The slot in which something counts at a second.
fn slot(name: QuotaName, second: i64) -> Slot {
    match name.span {
        keymeter_core::limit::QuotaSpan::Length(length) => {
            let step = (i64::from(length.seconds()) * 1_000_000 + 59) / 60;
            (second * 1_000_000).div_euclid(step)
        }
        _ => (second / 86_400 + 1) * 86_400,
    }
}

fn of(name: &str, amount: u64) -> QuotaUse {
    used(Scope::Key, None, name, START, amount)
}

fn used(scope: Scope, models: Option<&str>, name: &str, second: i64, amount: u64) -> QuotaUse {
    let name: QuotaName = name.parse().unwrap();
    QuotaUse { scope, models: models.map(Glob::new), name, slot: slot(name, second), amount }
}

fn keep(store: &QuotaStore, id: &str, used: &QuotaUse) {
    store.append(&[Kept { id, used }]).unwrap();
}

/// What counters hold at a moment.
fn held(scope: Scope, id: &str, counters: &Counters, now: Timestamp) -> Sums {
    let mut sums = Sums::new();
    for (models, quota) in counters.quotas() {
        let (models, name) = (models.map(|models| models.as_str().to_owned()), quota.name);
        for (slot, amount) in quota.counted().filter(|(slot, _)| name.span.leaves(*slot) > now) {
            *sums
                .entry((scope.as_str().to_owned(), id.to_owned(), models.clone(), name.to_string(), slot))
                .or_default() += amount;
        }
    }
    sums
}

/// What is dormant of a key, taken out.
fn restored(store: &QuotaStore, id: &str) -> u64 {
    let counters = Counters::default();
    store.restore(Scope::Key, id, &counters);
    counters.quotas().iter().flat_map(|(_, quota)| quota.counted()).map(|(_, amount)| amount).sum()
}

/// Leaves the store as a killed process does: its lock is free, and nothing is tidied up.
fn kill(store: QuotaStore) {
    let path = store.journal.directory().to_owned();
    let copy = path.with_extension("copy");
    assert!(Command::new("cp").args(["-a", "--sparse=always"]).args([&path, &copy]).status().unwrap().success());
    drop(store);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::rename(&copy, &path).unwrap();
}

fn compact(store: &QuotaStore, now: Timestamp) -> bool {
    let lock = Lock::take(&store.root).unwrap().unwrap();
    store.replace_snapshot(&lock, now).unwrap()
}

fn processes(root: &Path) -> usize {
    Claimed::all(root).unwrap().len()
}

#[test]
fn a_restart_sets_nothing_back_and_counts_nothing_twice() {
    let root = tempfile::tempdir().unwrap();
    let store = QuotaStore::open(root.path(), now()).unwrap();
    assert!(store.has_room());
    let request = [
        used(Scope::Team, None, "usd_per_month", START, 5),
        used(Scope::Model, Some("text-*"), "tokens_per_day", START, 7),
        used(Scope::Key, None, "tokens_per_5h", START, 9),
    ];
    let ids = ["research", "key_a", "key_a"];
    let request: Vec<_> = ids.into_iter().zip(&request).map(|(id, used)| Kept { id, used }).collect();
    store.append(&request).unwrap();
    store.append(&request).unwrap();
    store.append(&[]).unwrap();
    for _ in 0..3 {
        let (team, key) = (Counters::default(), Counters::default());
        let store = QuotaStore::open(root.path(), now()).unwrap();
        store.restore(Scope::Team, "research", &team);
        store.restore(Scope::Key, "key_a", &key);
        store.restore(Scope::Key, "research", &key);
        let mut all = held(Scope::Team, "research", &team, now());
        all.extend(held(Scope::Key, "key_a", &key, now()));
        assert_eq!(all.into_values().collect::<Vec<_>>(), [18, 14, 10]);
        store.restore(Scope::Key, "key_a", &key);
        assert_eq!(held(Scope::Key, "key_a", &key, now()).into_values().collect::<Vec<_>>(), [18, 14], "only once");
    }
    drop(store);
    assert_eq!(processes(root.path()), 1, "who had nothing to keep left nothing");
}

#[test]
fn what_counts_no_longer_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    let store = QuotaStore::open(root.path(), now()).unwrap();
    keep(&store, "key_a", &of("tokens_per_day", 5));
    keep(&store, "key_a", &of("tokens_per_1h", 6));
    drop(store);
    let amount = |second| restored(&QuotaStore::open(root.path(), at(second)).unwrap(), "key_a");
    assert_eq!((amount(START), amount(START + 3700)), (11, 5));
    let tomorrow = slot("tokens_per_day".parse().unwrap(), START);
    assert_eq!((amount(tomorrow - 1), amount(tomorrow)), (5, 0));
}

#[test]
fn what_is_forgotten_comes_back_once() {
    let root = tempfile::tempdir().unwrap();
    let store = QuotaStore::open(root.path(), now()).unwrap();
    let counters = Counters::default();
    for (models, amount) in [(None, 5), (Some("a*"), 6), (Some("b*"), 7)] {
        let QuotaUse { name, slot, .. } = of("usd_per_day", amount);
        counters.restore(models.map(Glob::new).as_ref(), name, slot, amount);
    }
    store.forget(Scope::Key, "key_a", &counters, now());
    let again = Counters::default();
    store.restore(Scope::Key, "key_a", &again);
    assert_eq!(held(Scope::Key, "key_a", &again, now()), held(Scope::Key, "key_a", &counters, now()));
    assert_eq!(restored(&store, "key_a"), 0);
}

#[test]
fn journals_give_way_to_a_snapshot_once_they_have_grown() {
    let root = tempfile::tempdir().unwrap();
    let store = QuotaStore::open(root.path(), now()).unwrap();
    let use_of = |amount| of("tokens_per_day", amount);
    for round in 1..=20 {
        for number in 0..10 {
            keep(&store, &format!("key_{number}"), &use_of(round));
        }
        store.journal.turn_over();
        store.compact(now()).unwrap();
        let left = segment::numbers(store.journal.directory()).unwrap().len() as u64;
        assert!(left <= FEW_SEGMENTS + 2, "{left} segments");
    }
    kill(store);
    let store = QuotaStore::open(root.path(), now()).unwrap();
    assert!(compact(&store, now()));
    assert_eq!(processes(root.path()), 1, "who has ended leaves nothing");
    kill(store);
    let store = QuotaStore::open(root.path(), now()).unwrap();
    assert!((0..10).all(|number| restored(&store, &format!("key_{number}")) == 210));
}

#[test]
fn a_process_that_is_killed_again_and_again_fills_no_disk() {
    let root = tempfile::tempdir().unwrap();
    let times = MOST_ENDED + 4;
    for _ in 0..times {
        let store = QuotaStore::open(root.path(), now()).unwrap();
        keep(&store, "key_a", &of("tokens_per_day", 1));
        assert!(processes(root.path()) <= MOST_ENDED + 2);
        kill(store);
    }
    assert_eq!(restored(&QuotaStore::open(root.path(), now()).unwrap(), "key_a"), times as u64);
}

#[test]
fn a_request_may_have_more_quotas_than_a_frame_holds() {
    let root = tempfile::tempdir().unwrap();
    let store = QuotaStore::open(root.path(), now()).unwrap();
    let models: Vec<_> = (0..1000).map(|number| format!("{number:0200}*")).collect();
    let uses: Vec<_> =
        models.iter().map(|models| used(Scope::Model, Some(models), "tokens_per_day", START, 1)).collect();
    let request: Vec<_> = uses.iter().map(|used| Kept { id: "key_a", used }).collect();
    store.append(&request).unwrap();
    assert!(store.append(&[Kept { id: &"k".repeat(LONGEST_ID + 1), used: &uses[0] }]).is_err());
    kill(store);
    for _ in 0..2 {
        let store = QuotaStore::open(root.path(), now()).unwrap();
        assert!(compact(&store, now()));
        assert_eq!(restored(&store, "key_a"), 1000);
    }
}

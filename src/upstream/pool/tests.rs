#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "times and lengths are small"
)]
mod slow_replica;

use std::path::Path;

use keymeter_config as config;
use proptest::prelude::*;

use super::*;
use crate::{
    observe::metrics::{AttemptOutcome, Metrics},
    upstream::Pools,
};

/// A pool of this configuration.
fn pool(written: &str) -> Arc<Pool> {
    let text = format!("upstreams: [{{name: pool, {written}}}]\nkeys: {{yaml: {{path: keys.yaml}}}}\n");
    let config = config::parse(&text, Path::new("/keymeter.yaml"), &|_| None).unwrap();
    let pools = Pools::new(Metrics::new(1).unwrap().pools().clone());
    pools.renew(&config.upstreams, at(0)).remove(0)
}

fn at(millis: u64) -> MonotonicTime {
    MonotonicTime::from_nanos((1000 + millis) * 1_000_000)
}

fn wanted(key: u64, tokens: u64) -> Wanted {
    Wanted { key, tokens, ..Wanted::default() }
}

fn names(permits: &[Permit]) -> Vec<&str> {
    permits.iter().map(|permit| &*permit.replica.name).collect()
}

const THREE: &str = "replicas: [{url: 'http://10.0.0.1:1', name: a}, {url: 'http://10.0.0.2:1', name: b}, {url: 'http://10.0.0.3:1', name: c}]";

#[test]
fn equal_ones_are_taken_in_turn_and_the_least_loaded_before() {
    let pool = pool(THREE);
    let place = |tokens| pool.place_now(&wanted(1, tokens), at(0)).unwrap().unwrap();
    let first: Vec<_> = (0..3).map(|_| place(0)).collect();
    let mut all = names(&first);
    all.sort_unstable();
    assert_eq!(all, ["a", "b", "c"]);
    drop(first);
    let long = place(1000);
    let others: Vec<_> = (0..6).map(|_| place(100)).collect();
    assert!(others.iter().all(|other| other.replica.name != long.replica.name), "{:?}", names(&others));
}

#[test]
fn short_ones_go_where_no_long_one_runs() {
    for (tokens, count) in [(5_000, 4), (10_000, 6), (50_000, 15)] {
        let pool = pool(&THREE.replace(", {url: 'http://10.0.0.3:1', name: c}", ""));
        let long = pool.place_now(&wanted(1, tokens), at(0)).unwrap().unwrap();
        let short: Vec<_> = (0..count).map(|_| pool.place_now(&wanted(1, 500), at(0)).unwrap().unwrap()).collect();
        assert!(short.iter().all(|short| short.replica.name != long.replica.name), "{tokens}: {:?}", names(&short));
    }
}

#[test]
fn a_weight_is_a_part_of_the_load() {
    for (balance, tokens) in [("least_tokens", 10), ("least_requests", 0), ("round_robin", 7)] {
        let pool = pool(&format!("balance: {balance}, {}", THREE.replace("name: b", "name: b, weight: 2")));
        let all: Vec<_> = (0..40).map(|_| pool.place_now(&wanted(1, tokens), at(0)).unwrap().unwrap()).collect();
        let count = |name| names(&all).into_iter().filter(|other| *other == name).count();
        assert!(count("b").abs_diff(20) <= 1 && count("a").abs_diff(10) <= 1, "{balance}: {:?}", names(&all));
    }
}

#[test]
fn the_last_that_could_be_asked_is_neither_paused_nor_ejected() {
    let pool =
        pool("replicas: [{url: 'http://10.0.0.1:1', name: a}, {url: 'http://10.0.0.2:1', name: b}], eject: {after: 1}");
    for round in 0..20 {
        let Some(Ok(mut permit)) = pool.place_now(&wanted(round % 2, 1), at(round)) else { panic!("a place") };
        permit.attempted(AttemptOutcome::ServerError, 503, Some(Duration::from_mins(1)), at(round));
    }
    let open = pool.members().replicas.iter().filter(|replica| replica.may_be_open(at(30))).count();
    assert_eq!(open, 1);
}

#[test]
fn of_two_that_fail_at_once_one_goes_on() {
    for round in 0..300 {
        let pool = pool(
            "replicas: [{url: 'http://10.0.0.1:1', name: a}, {url: 'http://10.0.0.2:1', name: b}], eject: {after: 1}",
        );
        let permits: Vec<_> = (0..2).map(|_| pool.place_now(&wanted(1, 1), at(0)).unwrap().unwrap()).collect();
        assert_ne!(permits[0].replica.name, permits[1].replica.name);
        let together = std::sync::Barrier::new(2);
        let fail = |mut permit: Permit| {
            together.wait();
            permit.attempted(AttemptOutcome::ServerError, 503, Some(Duration::from_mins(1)), at(1));
        };
        std::thread::scope(|scope| permits.into_iter().for_each(|permit| drop(scope.spawn(|| fail(permit)))));
        let open = pool.members().replicas.iter().filter(|replica| replica.may_be_open(at(2))).count();
        assert_eq!(open, 1, "round {round}");
    }
}

#[test]
fn one_key_alone_finds_out_that_a_replica_is_gone() {
    let pool = pool(&format!("{THREE}, balance: round_robin"));
    let fail = |outcome| {
        for _ in 0..30 {
            let mut permit = pool.place_now(&wanted(1, 1), at(0)).unwrap().unwrap();
            let outcome = if &*permit.replica.name == "a" { outcome } else { AttemptOutcome::Success };
            permit.attempted(outcome, 0, None, at(0));
        }
        pool.members().replicas[0].availability(at(0))
    };
    assert_eq!(fail(AttemptOutcome::Closed), Availability::Up, "what it sends may do that");
    assert!(matches!(fail(AttemptOutcome::Connect), Availability::Ejected { .. }));
}

#[test]
fn after_an_ejection_one_request_decides() {
    let pool = pool(
        "replicas: [{url: 'http://10.0.0.1:1', name: a}, {url: 'http://10.0.0.2:1', name: b}], eject: {after: 2, for: 1s}, balance: round_robin",
    );
    let fail = |key: u64, millis| {
        let members = pool.members();
        let mut permit = loop {
            let permit = pool.place_now(&wanted(key, 0), at(millis)).unwrap().unwrap();
            if permit.replica.name == members.replicas[0].name {
                break permit;
            }
        };
        permit.attempted(AttemptOutcome::Closed, 0, None, at(millis));
    };
    fail(1, 0);
    fail(2, 1);
    let at_once: Vec<_> = (0..4).map(|_| pool.place_now(&wanted(1, 0), at(500)).unwrap().unwrap()).collect();
    assert_eq!(names(&at_once), ["b"; 4]);
    let later: Vec<_> = (0..4).map(|_| pool.place_now(&wanted(1, 0), at(1100)).unwrap().unwrap()).collect();
    assert_eq!(later.iter().filter(|permit| *permit.replica.name == *"a").count(), 1, "{:?}", names(&later));
    drop(later);
    let unused: Vec<_> = (0..4).map(|_| pool.place_now(&wanted(1, 0), at(1200)).unwrap().unwrap()).collect();
    let mut probe = unused.into_iter().find(|permit| *permit.replica.name == *"a").expect("another may decide");
    probe.attempted(AttemptOutcome::Success, 200, None, at(1200));
    assert!(pool.members().replicas[0].may_be_open(at(1200)));
}

#[tokio::test]
async fn who_waits_gets_the_next_place_and_who_left_none() {
    let pool = pool("url: 'http://10.0.0.1:1', max_in_flight: 1");
    let running = pool.place_now(&wanted(1, 5), at(0)).unwrap().unwrap();
    assert!(pool.place_now(&wanted(1, 5), at(0)).is_none());
    let left = tokio::spawn({
        let pool = pool.clone();
        async move { pool.wait(wanted(1, 5), at(0), MonotonicTime::now).await.is_ok() }
    });
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.wait(wanted(2, 5), at(0), MonotonicTime::now).await.is_ok() }
    });
    while pool.queue(at(1)).0 < 2 {
        tokio::task::yield_now().await;
    }
    left.abort();
    assert!(left.await.is_err());
    drop(running);
    assert!(waiting.await.unwrap());
    assert_eq!(
        (pool.queue(at(1)).0, pool.members().replicas[0].in_flight(), pool.members().replicas[0].load_tokens()),
        (0, 0, 0)
    );
}

/// A request in the queue, which tells on which replica it gets its place, and keeps that.
async fn queued(pool: &Arc<Pool>, wanted: Wanted) -> tokio::task::JoinHandle<Permit> {
    let length = pool.queue(at(0)).0;
    let task = tokio::spawn({
        let pool = pool.clone();
        async move { pool.wait(wanted, at(0), || at(0)).await.unwrap() }
    });
    while pool.queue(at(0)).0 == length && !task.is_finished() {
        tokio::task::yield_now().await;
    }
    task
}

/// A pool of two replicas with a place each, `a` having made the answer 7 and being full, and who runs there.
fn with_a_full_maker(more: &str) -> (Arc<Pool>, Permit) {
    let pool = pool(&format!("{}, max_in_flight: 1{more}", THREE.replace(", {url: 'http://10.0.0.3:1', name: c}", "")));
    pool.makers.remember(9, 7, pool.members().replicas[0].server);
    let running = pool.place_now(&going_on(9), at(0)).unwrap().unwrap();
    assert_eq!(*running.replica.name, *"a");
    (pool, running)
}

fn going_on(key: u64) -> Wanted {
    Wanted { previous: Some(7), ..wanted(key, 10) }
}

#[tokio::test]
async fn who_goes_on_waits_for_the_maker_and_holds_up_nobody() {
    let (pool, running) = with_a_full_maker("");
    assert!(pool.place_now(&going_on(1), at(0)).is_none(), "another one does not know the answer");
    let waiting = queued(&pool, going_on(1)).await;
    for key in [1, 2] {
        let other = queued(&pool, wanted(key, 10)).await.await.unwrap();
        assert_eq!(*other.replica.name, *"b");
    }
    assert_eq!((pool.queue(at(0)).0, waiting.is_finished()), (1, false));
    drop(running);
    assert_eq!(*waiting.await.unwrap().replica.name, *"a");
}

#[tokio::test]
async fn who_goes_on_goes_elsewhere_once_the_maker_may_not_be_asked() {
    let (pool, _running) = with_a_full_maker("");
    let waiting = queued(&pool, going_on(1)).await;
    pool.members().replicas[0].set_drained(true);
    pool.serve(at(0));
    assert_eq!(*waiting.await.unwrap().replica.name, *"b");
}

#[tokio::test]
async fn a_queue_full_of_those_that_wait_for_one_maker_refuses_nobody_else() {
    let (pool, running) = with_a_full_maker(", queue: {length: 2}");
    let waiting = [queued(&pool, going_on(1)).await, queued(&pool, going_on(1)).await];
    let other = pool.wait(wanted(2, 10), at(0), || at(0)).await.unwrap();
    assert_eq!(*other.replica.name, *"b");
    assert!(matches!(pool.wait(going_on(2), at(0), || at(0)).await, Err(PoolError::Overloaded { .. })));
    drop((running, other));
    for waiting in waiting {
        assert_eq!(*waiting.await.unwrap().replica.name, *"a");
    }
}

#[derive(Clone, Debug)]
enum Event {
    Begin { key: u64, tokens: u64, affinity: Option<u64> },
    End(usize, AttemptOutcome),
    Check(usize, bool),
    Drain(usize, bool),
}

fn any_event() -> impl Strategy<Value = Event> {
    let outcome = prop::sample::select(AttemptOutcome::ALL.to_vec());
    prop_oneof![
        4 => (0_u64..4, 0_u64..10_000, prop::option::of(any::<u64>()))
            .prop_map(|(key, tokens, affinity)| Event::Begin { key, tokens, affinity }),
        3 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Event::End(which, outcome)),
        1 => (0_usize..4, any::<bool>()).prop_map(|(which, passes)| Event::Check(which, passes)),
        1 => (0_usize..4, any::<bool>()).prop_map(|(which, drains)| Event::Drain(which, drains)),
    ]
}

proptest! {
    #[test]
    fn what_is_chosen_is_up_and_has_room_and_loads_return_to_zero(
        events in prop::collection::vec((any_event(), 0_u64..3000), 0..200),
        balance in prop::sample::select(vec!["least_tokens", "least_requests", "round_robin"]),
        weight in prop::sample::select(vec![1, 3]),
    ) {
        let pool = pool(&format!(
            "balance: {balance}, affinity: {{by: key}}, max_in_flight: 3, eject: {{after: 2, for: 1s}}, replicas: \
             [{{url: 'http://10.0.0.1:1'}}, {{url: 'http://10.0.0.2:1', weight: {weight}}}, {{url: 'http://10.0.0.3:1'}}, \
             {{url: 'http://10.0.0.4:1'}}]"
        ));
        let (members, mut now, mut running) = (pool.members(), 0, Vec::<Permit>::new());
        for (event, later) in events {
            now += later;
            match event {
                Event::Begin { key, tokens, affinity } => {
                    let may_be_asked = members.may_be_asked(at(now));
                    let before: Vec<_> = members.replicas.iter().map(|replica| may_be_asked(replica) && replica.has_room()).collect();
                    let wanted = Wanted { key, tokens, affinity, ..Wanted::default() };
                    match pool.place_now(&wanted, at(now)) {
                        Some(Ok(permit)) => {
                            let place = members.replicas.iter().position(|replica| Arc::ptr_eq(replica, &permit.replica)).unwrap();
                            prop_assert!(before[place], "{} was not to be asked", permit.replica.name);
                            prop_assert!(permit.replica.in_flight() <= 3);
                            running.push(permit);
                        }
                        Some(Err(error)) => {
                            prop_assert_eq!(error, PoolError::NoneUp);
                            prop_assert!(members.replicas.iter().all(|replica| !may_be_asked(replica)));
                        }
                        None => prop_assert!(before.iter().all(|fits| !fits), "there was room"),
                    }
                }
                Event::End(which, outcome) if !running.is_empty() => {
                    let mut permit = running.swap_remove(which % running.len());
                    permit.attempted(outcome, 0, None, at(now));
                }
                Event::End(..) => {}
                Event::Check(which, passes) => {
                    let replica = &members.replicas[which];
                    replica.update(|condition| if passes { condition.check_passed(at(now)) } else { condition.check_failed("no") });
                }
                Event::Drain(which, drains) => members.replicas[which].set_drained(drains),
            }
        }
        drop(running);
        for replica in &members.replicas {
            prop_assert_eq!((replica.in_flight(), replica.load_tokens()), (0, 0));
        }
    }
}

use std::{sync::atomic::AtomicUsize, time::Duration};

use keymeter_core::key::{KeyState, Retiring};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{fixture::record, *};

const HOUR: Duration = Duration::from_hours(1);

fn resolver(source: Arc<dyn KeySource>) -> Arc<Resolver> {
    let metrics = Arc::new(Metrics::new(100).unwrap());
    let terms = KeyCache { capacity: 1000, ttl: HOUR, unknown_ttl: HOUR, stale_for: HOUR };
    let accounts = Arc::new(Accounts::new(metrics.clone()));
    Arc::new(Resolver::new(source, &terms, accounts, metrics, Arc::default()))
}

impl Resolver {
    async fn find(self: &Arc<Self>, secret: &str) -> Resolved {
        self.find_at(secret, MonotonicTime::now()).await
    }

    async fn find_at(self: &Arc<Self>, secret: &str, now: MonotonicTime) -> Resolved {
        self.resolve(KeyHash::digest(secret.as_bytes()), now).await
    }

    fn all_changed(self: &Arc<Self>) {
        self.changed(Change::All, MonotonicTime::now());
    }
}

fn id(resolved: Resolved) -> Result<String, ResolveError> {
    resolved.map(|key| key.record.id.to_string())
}

/// A source that answers when the test lets it, with what it knew when it was asked.
#[derive(Default)]
struct Slow {
    record: Mutex<Option<Arc<KeyRecord>>>,
    asked: AtomicUsize,
    may_answer: Option<Semaphore>,
    fails: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl KeySource for Slow {
    async fn look_up(&self, _: &KeyHash, _: Option<&EntityTag>) -> Result<Answer, SourceError> {
        let record = self.record.lock().clone();
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(may_answer) = &self.may_answer {
            may_answer.acquire().await.unwrap().forget();
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(SourceError("it is told to fail".to_owned()));
        }
        Ok(record.map_or(Answer::Unknown, |record| {
            Answer::Key(Found { record, tag: None, believed_for: None, balance: None })
        }))
    }

    fn has_answered(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_known_key_is_asked_for_once_and_an_unknown_one_is_remembered() {
    let source = Arc::new(Slow { record: Mutex::new(Some(Arc::new(record("key_a", "a")))), ..Slow::default() });
    let resolver = resolver(source.clone());
    for _ in 0..3 {
        assert_eq!(id(resolver.find("a").await).unwrap(), "key_a");
    }
    *source.record.lock() = None;
    for _ in 0..3 {
        assert_eq!(resolver.find("b").await.err(), Some(ResolveError::Unknown));
    }
    assert_eq!(source.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn after_a_change_nothing_from_before_is_believed() {
    let yaml = Arc::new(YamlSource::new(vec![record("key_a", "a")]));
    let resolver = resolver(yaml.clone());
    let before = resolver.find("a").await.unwrap();
    assert_eq!(resolver.find("b").await.err(), Some(ResolveError::Unknown));
    yaml.replace(yaml.prepare(vec![record("key_a", "b")]));
    resolver.all_changed();
    assert_eq!(resolver.find("a").await.err(), Some(ResolveError::Unknown));
    let after = resolver.find("b").await.unwrap();
    assert!(Arc::ptr_eq(&before.account, &after.account), "a new secret sets no counter back");
}

#[tokio::test]
async fn a_look_up_under_way_never_brings_the_old_record_back() {
    for _ in 0..200 {
        let source = Arc::new(Slow {
            record: Mutex::new(Some(Arc::new(record("key_a", "a")))),
            may_answer: Some(Semaphore::new(0)),
            ..Slow::default()
        });
        let resolver = resolver(source.clone());
        let asking = tokio::spawn({
            let resolver = resolver.clone();
            async move { resolver.find("a").await.err() }
        });
        while source.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        *source.record.lock() = None;
        resolver.all_changed();
        source.may_answer.as_ref().unwrap().add_permits(10);
        assert_eq!(asking.await.unwrap(), Some(ResolveError::Unknown));
        assert_eq!(resolver.find("a").await.err(), Some(ResolveError::Unknown));
    }
}

#[tokio::test]
async fn an_unknown_from_before_a_change_is_not_believed_by_who_joins_the_question_after_it() {
    let source = Arc::new(Slow { may_answer: Some(Semaphore::new(0)), ..Slow::default() });
    let resolver = resolver(source.clone());
    let ask = || {
        let resolver = resolver.clone();
        tokio::spawn(async move { resolver.find("a").await.map(|key| key.record.id.to_string()) })
    };
    let before = ask();
    while source.asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    *source.record.lock() = Some(Arc::new(record("key_a", "a")));
    resolver.all_changed();
    let after = ask();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    source.may_answer.as_ref().unwrap().add_permits(10);
    assert_eq!(after.await.unwrap().unwrap(), "key_a");
    assert_eq!(before.await.unwrap().unwrap(), "key_a");
}

#[tokio::test]
async fn many_misses_at_once_are_one_question() {
    let source = Arc::new(Slow {
        record: Mutex::new(Some(Arc::new(record("key_a", "a")))),
        may_answer: Some(Semaphore::new(0)),
        ..Slow::default()
    });
    let resolver = resolver(source.clone());
    let waiting: Vec<_> = (0..5000)
        .map(|_| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.find("a").await.is_ok() })
        })
        .collect();
    tokio::task::yield_now().await;
    source.may_answer.as_ref().unwrap().add_permits(5000);
    for found in waiting {
        assert!(found.await.unwrap());
    }
    assert_eq!(source.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_retiring_secret_works_until_its_end() {
    let end: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
    let mut rotated = record("key_a", "new");
    rotated.retiring = [Retiring { hash: KeyHash::digest(b"old"), not_after: end }].into();
    let resolver = resolver(Arc::new(YamlSource::new(vec![rotated])));
    let key = resolver.find("old").await.unwrap();
    assert_eq!(
        (key.denial(end), key.denial(end + jiff::SignedDuration::from_nanos(1))),
        (None, Some(KeyDenial::Unknown))
    );
    assert_eq!(resolver.find("new").await.unwrap().denial(Timestamp::MAX), None);
}

fn known_and_failing() -> (Arc<Slow>, Arc<Resolver>) {
    let source = Arc::new(Slow { record: Mutex::new(Some(Arc::new(record("key_a", "a")))), ..Slow::default() });
    (source.clone(), resolver(source))
}

#[tokio::test]
async fn a_key_is_asked_for_again_before_it_grows_old_and_nobody_waits_for_it() {
    let (source, resolver) = known_and_failing();
    let start = MonotonicTime::now();
    resolver.find_at("a", start).await.unwrap();
    resolver.find_at("a", start + HOUR * 7 / 10).await.unwrap();
    assert_eq!(source.asked.load(Ordering::SeqCst), 1, "it is fresh");
    let due = start + HOUR * 9 / 10;
    resolver.find_at("a", due).await.unwrap();
    while source.asked.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    while resolver.freshness(&resolver.known.get(&KeyHash::digest(b"a")).unwrap(), due) != Freshness::Fresh {
        tokio::task::yield_now().await;
    }
    resolver.find_at("a", start + HOUR * 3 / 2).await.unwrap();
    assert_eq!(source.asked.load(Ordering::SeqCst), 2, "it was asked for at nine tenths of its life");
}

#[tokio::test]
async fn while_the_source_fails_a_known_key_is_served_until_it_is_too_old() {
    let (source, resolver) = known_and_failing();
    let start = MonotonicTime::now();
    resolver.find_at("a", start).await.unwrap();
    source.fails.store(true, Ordering::SeqCst);
    for age in [HOUR, HOUR + Duration::from_secs(1), HOUR * 199 / 100] {
        assert_eq!(id(resolver.find_at("a", start + age).await).unwrap(), "key_a", "{age:?}");
    }
    let too_old = resolver.find_at("a", start + HOUR * 2).await;
    assert!(matches!(too_old, Err(ResolveError::Unavailable(_))));
    assert!(matches!(resolver.find("b").await, Err(ResolveError::Unavailable(_))), "and never: unknown");
    source.fails.store(false, Ordering::SeqCst);
    assert_eq!(id(resolver.find_at("a", start + HOUR * 2).await).unwrap(), "key_a");
}

#[tokio::test]
async fn a_source_that_fails_is_not_asked_for_every_request() {
    let (source, resolver) = known_and_failing();
    let start = MonotonicTime::now();
    resolver.find_at("a", start).await.unwrap();
    source.fails.store(true, Ordering::SeqCst);
    for millis in 0..100 {
        resolver.find_at("a", start + HOUR + Duration::from_millis(millis)).await.unwrap();
    }
    assert_eq!(source.asked.load(Ordering::SeqCst), 2, "it rests after a failure");
    resolver.find_at("a", start + HOUR + Duration::from_secs(5)).await.unwrap();
    assert_eq!(source.asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_source_that_hangs_keeps_nobody_whose_key_is_known() {
    let source = Arc::new(Slow {
        record: Mutex::new(Some(Arc::new(record("key_a", "a")))),
        may_answer: Some(Semaphore::new(1)),
        ..Slow::default()
    });
    let resolver = resolver(source);
    let start = MonotonicTime::now();
    resolver.find_at("a", start).await.unwrap();
    assert_eq!(id(resolver.find_at("a", start + HOUR).await).unwrap(), "key_a");
}

#[tokio::test]
async fn a_changed_key_is_not_served_though_the_source_fails_and_others_are() {
    let yaml = Arc::new(YamlSource::new(vec![record("key_a", "a"), record("key_b", "b")]));
    let source = Arc::new(Failing { keys: yaml, fails: std::sync::atomic::AtomicBool::new(false) });
    let resolver = resolver(source.clone());
    for secret in ["a", "b"] {
        resolver.find(secret).await.unwrap();
    }
    source.fails.store(true, Ordering::SeqCst);
    resolver.changed(Change::Key { id: Some("key_a".parse().unwrap()), hash: None }, MonotonicTime::now());
    assert!(matches!(resolver.find("a").await, Err(ResolveError::Unavailable(_))));
    assert_eq!(id(resolver.find("b").await).unwrap(), "key_b");
    resolver.all_changed();
    assert_eq!(id(resolver.find("b").await).unwrap(), "key_b", "where all may have changed, what is known is better");
    resolver.changed(Change::Key { id: None, hash: Some(KeyHash::digest(b"b")) }, MonotonicTime::now());
    assert!(matches!(resolver.find("b").await, Err(ResolveError::Unavailable(_))));
    source.fails.store(false, Ordering::SeqCst);
    assert_eq!(id(resolver.find("a").await).unwrap(), "key_a");
}

/// Keys of a file that cannot be read at times.
struct Failing {
    keys: Arc<YamlSource>,
    fails: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl KeySource for Failing {
    async fn look_up(&self, hash: &KeyHash, known: Option<&EntityTag>) -> Result<Answer, SourceError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(SourceError("it is told to fail".to_owned()));
        }
        self.keys.look_up(hash, known).await
    }

    fn has_answered(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn an_event_for_an_unknown_id_makes_a_new_key_work_at_once() {
    let yaml = Arc::new(YamlSource::new(vec![]));
    let resolver = resolver(yaml.clone());
    assert_eq!(resolver.find("a").await.err(), Some(ResolveError::Unknown));
    yaml.replace(yaml.prepare(vec![record("key_a", "a")]));
    resolver.changed(Change::Key { id: Some("key_a".parse().unwrap()), hash: None }, MonotonicTime::now());
    assert_eq!(id(resolver.find("a").await).unwrap(), "key_a");
}

#[tokio::test]
async fn a_change_reaches_what_runs() {
    let yaml = Arc::new(YamlSource::new(vec![record("key_a", "a"), record("key_b", "b")]));
    let resolver = resolver(yaml.clone());
    let mut running = Vec::new();
    for secret in ["a", "b"] {
        let key = resolver.find(secret).await.unwrap();
        running.push(resolver.revocations().register(&key.record.id, *key.hash(), key.end()));
    }
    let disabled = KeyRecord { state: KeyState::Disabled, ..record("key_a", "a") };
    yaml.replace(yaml.prepare(vec![disabled, record("key_b", "b")]));
    resolver.changed(Change::Key { id: Some("key_a".parse().unwrap()), hash: None }, MonotonicTime::now());
    assert_eq!(revoked(&running[0]).await, KeyDenial::Disabled);
    yaml.replace(yaml.prepare(vec![]));
    resolver.all_changed();
    assert_eq!(revoked(&running[1]).await, KeyDenial::Unknown);
    assert_eq!(running[0].entry().denial(), Some(KeyDenial::Disabled));
}

async fn revoked(running: &crate::keys::revocation::RevocationGuard) -> KeyDenial {
    std::future::poll_fn(|context| running.entry().poll_revoked(context)).await
}

#[tokio::test]
async fn whoever_began_before_a_change_does_not_count_as_current() {
    let yaml = Arc::new(YamlSource::new(vec![record("key_a", "a")]));
    let resolver = resolver(yaml);
    let key = resolver.find("a").await.unwrap();
    assert!(resolver.is_current(&key));
    resolver.changed(Change::Key { id: Some("key_b".parse().unwrap()), hash: None }, MonotonicTime::now());
    assert!(resolver.is_current(&key));
    resolver.changed(Change::Key { id: Some("key_a".parse().unwrap()), hash: None }, MonotonicTime::now());
    assert!(!resolver.is_current(&key));
    let key = resolver.find("a").await.unwrap();
    resolver.all_changed();
    assert!(!resolver.is_current(&key));
}

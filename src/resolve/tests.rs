use std::{sync::atomic::AtomicUsize, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use crate::key::{KeyState, OwnLimits, Retiring};

fn record(id: &str, secret: &str) -> KeyRecord {
    KeyRecord {
        id: id.parse().unwrap(),
        name: "some key".parse().unwrap(),
        hash: KeyHash::of(secret.as_bytes()),
        state: KeyState::Active,
        owner: None,
        team: None,
        models: None,
        limits: OwnLimits::default(),
        expires_at: None,
        retiring: Vec::new(),
    }
}

fn resolver(source: Arc<dyn KeySource>) -> Resolver {
    let metrics = Arc::new(Metrics::new(100).unwrap());
    let hour = Duration::from_secs(3600);
    let cache = KeyCache { capacity: 1000, ttl: hour, unknown_ttl: hour, stale_for: hour };
    Resolver::new(source, &cache, Arc::new(Accounts::new(metrics.clone())), metrics)
}

/// A source that answers when the test lets it, with what it knew when it was asked.
#[derive(Default)]
struct Slow {
    record: Mutex<Option<Arc<KeyRecord>>>,
    asked: AtomicUsize,
    may_answer: Option<Semaphore>,
}

#[async_trait]
impl KeySource for Slow {
    async fn look_up(&self, _: &KeyHash) -> Result<Option<Arc<KeyRecord>>, SourceFault> {
        let answer = self.record.lock().clone();
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(may_answer) = &self.may_answer {
            may_answer.acquire().await.unwrap().forget();
        }
        Ok(answer)
    }
}

#[tokio::test]
async fn a_known_key_is_asked_for_once_and_an_unknown_one_is_remembered() {
    let source = Arc::new(Slow { record: Mutex::new(Some(Arc::new(record("key_a", "a")))), ..Slow::default() });
    let resolver = resolver(source.clone());
    for _ in 0..3 {
        assert_eq!(
            resolver.resolve(KeyHash::of(b"a")).await.map(|key| key.record.id.clone()).unwrap().as_str(),
            "key_a"
        );
    }
    *source.record.lock() = None;
    for _ in 0..3 {
        assert_eq!(resolver.resolve(KeyHash::of(b"b")).await.err(), Some(ResolveFault::Unknown));
    }
    assert_eq!(source.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn after_a_change_nothing_from_before_is_believed() {
    let yaml = Arc::new(YamlSource::new(vec![record("key_a", "a")]));
    let resolver = resolver(yaml.clone());
    let before = resolver.resolve(KeyHash::of(b"a")).await.unwrap();
    assert_eq!(resolver.resolve(KeyHash::of(b"b")).await.err(), Some(ResolveFault::Unknown));
    yaml.replace(vec![record("key_a", "b")]);
    resolver.forget_all();
    assert_eq!(resolver.resolve(KeyHash::of(b"a")).await.err(), Some(ResolveFault::Unknown));
    let after = resolver.resolve(KeyHash::of(b"b")).await.unwrap();
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
        let resolver = Arc::new(resolver(source.clone()));
        let asking = tokio::spawn({
            let resolver = resolver.clone();
            async move { resolver.resolve(KeyHash::of(b"a")).await.err() }
        });
        while source.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        *source.record.lock() = None;
        resolver.forget_all();
        source.may_answer.as_ref().unwrap().add_permits(10);
        assert_eq!(asking.await.unwrap(), Some(ResolveFault::Unknown));
        assert_eq!(resolver.resolve(KeyHash::of(b"a")).await.err(), Some(ResolveFault::Unknown));
    }
}

#[tokio::test]
async fn an_unknown_from_before_a_change_is_not_believed_by_who_joins_the_question_after_it() {
    let source = Arc::new(Slow { may_answer: Some(Semaphore::new(0)), ..Slow::default() });
    let resolver = Arc::new(resolver(source.clone()));
    let ask = || {
        let resolver = resolver.clone();
        tokio::spawn(async move { resolver.resolve(KeyHash::of(b"a")).await.map(|key| key.record.id.clone()) })
    };
    let before = ask();
    while source.asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    *source.record.lock() = Some(Arc::new(record("key_a", "a")));
    resolver.forget_all();
    let after = ask();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    source.may_answer.as_ref().unwrap().add_permits(10);
    assert_eq!(after.await.unwrap().unwrap().as_str(), "key_a");
    assert_eq!(before.await.unwrap().unwrap().as_str(), "key_a");
}

#[tokio::test]
async fn many_misses_at_once_are_one_question() {
    let source = Arc::new(Slow {
        record: Mutex::new(Some(Arc::new(record("key_a", "a")))),
        may_answer: Some(Semaphore::new(0)),
        ..Slow::default()
    });
    let resolver = Arc::new(resolver(source.clone()));
    let waiting: Vec<_> = (0..500)
        .map(|_| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.resolve(KeyHash::of(b"a")).await.is_ok() })
        })
        .collect();
    tokio::task::yield_now().await;
    source.may_answer.as_ref().unwrap().add_permits(500);
    for found in waiting {
        assert!(found.await.unwrap());
    }
    assert_eq!(source.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_retiring_secret_works_until_its_end() {
    let end: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
    let mut rotated = record("key_a", "new");
    rotated.retiring = vec![Retiring { hash: KeyHash::of(b"old"), not_after: end }];
    let resolver = resolver(Arc::new(YamlSource::new(vec![rotated])));
    let key = resolver.resolve(KeyHash::of(b"old")).await.unwrap();
    assert!(key.secret_works(end) && !key.secret_works(end + jiff::SignedDuration::from_nanos(1)));
    assert!(resolver.resolve(KeyHash::of(b"new")).await.unwrap().secret_works(Timestamp::MAX));
}

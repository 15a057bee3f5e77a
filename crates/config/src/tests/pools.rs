//! Upstreams of several replicas: what is written, what it means, and what is said of faults.

use super::*;
use crate::{Affinity, AffinityBy, Balance, Eject, HealthChecks, Queue};

/// The first upstream of a configuration with this one.
fn upstream(written: &str) -> Result<Arc<Upstream>, Vec<String>> {
    let text = format!("upstreams: [{{name: a, {written}}}]\nkeys: {{yaml: {{path: keys.yaml}}}}\n");
    let parsed = parsed(&text).map(|config| config.upstreams[0].clone());
    let short = |fault: &ConfigError| format!("f:{}:{}: {}", fault.line, fault.column, fault.message);
    parsed.map_err(|faults| faults.iter().map(short).collect())
}

#[test]
fn everything_of_a_pool_has_a_default() {
    let upstream =
        upstream("replicas: [{url: 'http://10.0.0.1:8000'}, {url: 'https://big', name: big, weight: 2}]").unwrap();
    let [first, big] = upstream.replicas.as_slice() else { panic!("{:?}", upstream.replicas) };
    assert_eq!((&*first.name, first.weight, first.max_in_flight), ("10.0.0.1:8000", 1, Limit::Unlimited));
    assert_eq!((&*big.name, big.weight, big.url.port), ("big", 2, 443));
    let pool = &upstream.pool;
    assert_eq!((pool.balance, &pool.affinity, &pool.health), (Balance::LeastTokens, &None, &None));
    assert_eq!(pool.eject, Eject { after: 5, lasts: Duration::from_secs(30) });
    assert_eq!(pool.queue, Queue { length: 1000, timeout: Duration::from_secs(10) });
    assert_eq!((pool.attempts, pool.send_priority, pool.resolve), (3, false, Duration::from_secs(5)));
    assert_eq!(pool.first_byte_timeout, upstream.read_timeout);
}

#[test]
fn every_field_of_a_pool_is_read_and_a_replica_may_say_its_own() {
    let upstream = upstream(
        "replicas: [{url: 'http://h:1', max_in_flight: 3, rename: {m: own}}, {url: 'http://h:2', api_key: k2}], api_key: k1,
         max_in_flight: 7, rename: {gpt-4o: llama}, balance: least_requests, affinity: {by: 'header:x-session', load: 150%},
         health: {path: /health, models: true, interval: 500ms, timeout: 1s, down_after: 2, up_after: 1},
         eject: {after: 9, for: 1m}, first_byte_timeout: 30s, attempts: 2, queue: {length: 5, timeout: 2s}, resolve: 1s,
         send_priority: true",
    )
    .unwrap();
    let [first, second] = upstream.replicas.as_slice() else { panic!("{:?}", upstream.replicas) };
    let key = |replica: &Replica| replica.api_key.as_ref().map(|key| key.0.reveal().to_owned());
    assert_eq!((first.max_in_flight, second.max_in_flight), (Limit::at(3).unwrap(), Limit::at(7).unwrap()));
    assert_eq!((key(first).as_deref(), key(second).as_deref()), (Some("k1"), Some("k2")));
    assert_eq!((first.rename.get("m").map(|name| &**name), second.rename.len()), (Some("own"), 1));
    let pool = &upstream.pool;
    let header = AffinityBy::Header("x-session".parse().unwrap());
    assert_eq!((pool.balance, &pool.affinity), (Balance::LeastRequests, &Some(Affinity { by: header, load: 150 })));
    let health = HealthChecks {
        path: Some("/health".into()),
        models: true,
        interval: Duration::from_millis(500),
        timeout: Duration::from_secs(1),
        down_after: 2,
        up_after: 1,
    };
    assert_eq!(pool.health, Some(health));
    assert_eq!(pool.eject, Eject { after: 9, lasts: Duration::from_mins(1) });
    assert_eq!((pool.first_byte_timeout, pool.attempts), (Duration::from_secs(30), 2));
    assert_eq!(pool.queue, Queue { length: 5, timeout: Duration::from_secs(2) });
    assert_eq!((pool.resolve, pool.send_priority), (Duration::from_secs(1), true));
}

#[test]
fn faults_of_a_pool_are_told_with_their_places() {
    for (written, fault) in [
        ("replicas: []", "f:1:33: at least one replica is needed, with a `url`"),
        (
            "url: 'http://h', replicas: [{url: 'http://h'}]",
            "f:1:50: an upstream has a `url` or `replicas`, and not both",
        ),
        (
            "replicas: [{name: b}]",
            "f:1:34: missing field `url` in upstreams[0].replicas[0]: such as http://10.0.0.1:8000",
        ),
        (
            "replicas: [{url: 'http://h:1', name: b}, {url: 'http://h:2', name: b}]",
            "f:1:90: the replica on line 1 is called `b` too",
        ),
        ("replicas: [{url: 'http://h:1'}, {url: 'http://h:1'}]", "f:1:55: the replica on line 1 is called `h:1` too"),
        ("replicas: [{url: 'http://h', weight: 0}]", "f:1:60: a weight is a whole number from 1 to 1000"),
        (
            "url: 'http://h', affinity: {load: 110%}",
            "f:1:50: missing field `by` in upstreams[0].affinity: prefix, key, or header: and its name",
        ),
        (
            "url: 'http://h', affinity: {by: 'header:a b'}",
            "f:1:55: `a b` is not a header name; an example is header:x-session-id",
        ),
        (
            "url: 'http://h', affinity: {by: model}",
            "f:1:55: `model` is not accepted here; accepted: prefix, key, or header: and its name",
        ),
        (
            "url: 'http://h', affinity: {by: key, load: 90%}",
            "f:1:66: a load is written as 100% to 10000%, such as 125%",
        ),
        (
            "url: 'http://h', health: {path: health}",
            "f:1:55: a path begins with `/` and has no spaces or `#`, such as /health",
        ),
        (
            "url: 'http://h', read_timeout: 5s, first_byte_timeout: 6s",
            "f:1:78: must be at most the upstream's `read_timeout`",
        ),
        ("url: 'http://h', attempts: 0", "f:1:50: must be a whole number, 1 or more"),
        ("url: 'http://h', rename: {a: ''}", "f:1:52: a model's name has 1 to 256 bytes and no control characters"),
    ] {
        assert_eq!(upstream(written).unwrap_err(), [fault], "{written}");
    }
}

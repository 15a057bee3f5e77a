//! What was used, as it is handed in and as it is asked for.

use serde_json::{Value, json};

use super::{
    money::{record, used},
    over_both,
};
use crate::support::{
    control::{GATEWAYS, OPERATOR, Plane},
    soak::scaled,
};

over_both! {
    usage_is_told_by_key_team_model_and_time
    sums_are_those_of_the_records_whatever_is_sent_however_often
    a_faulty_record_is_named_and_nothing_taken
    a_user_sees_the_usage_of_their_own_and_their_teams_keys
}

fn with(mut record: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        record[name] = value.clone();
    }
    record
}

async fn usage_is_told_by_key_team_model_and_time(plane: &Plane) {
    let base = |id, key| record(id, key, "ada", "0.5");
    used(
        plane,
        &[
            base("r1", "key_a"),
            with(base("r2", "key_a"), &json!({"model": "n", "time": "2026-06-01T11:00:00Z", "key_name": "New name"})),
            with(base("r3", "key_a"), &json!({"time": "2026-06-02T00:00:00Z", "key_name": "New name"})),
            with(base("r4", "key_b"), &json!({"team": "research", "output_tokens": 100, "key_name": "=SUM(1,2)"})),
        ],
    )
    .await;
    let ask = |query: &str| {
        let path = format!("/api/v1/usage?{query}");
        async move { plane.get(OPERATOR, &path).await.with(200)["rows"].as_array().unwrap().clone() }
    };
    let all = ask("").await;
    assert_eq!(all.len(), 1);
    assert_eq!(
        (&all[0]["requests"], &all[0]["cost_usd"], &all[0]["output_tokens"]),
        (&json!(4), &json!("2"), &json!(115))
    );
    assert_eq!((&all[0]["models"], &all[0]["last_used_at"]), (&json!(["m", "n"]), &json!("2026-06-02T00:00:00Z")));
    let by_key = ask("group_by=key").await;
    let keys: Vec<_> = by_key
        .iter()
        .map(|row| (row["key"].as_str().unwrap(), row["key_name"].as_str().unwrap(), row["requests"].as_i64().unwrap()))
        .collect();
    assert_eq!(keys, [("key_a", "New name", 3), ("key_b", "=SUM(1,2)", 1)]);
    let by_day = ask("group_by=day,model&key=key_a").await;
    let days: Vec<_> =
        by_day.iter().map(|row| (row["day"].as_str().unwrap(), row["model"].as_str().unwrap())).collect();
    let (first, second) = ("2026-06-01T00:00:00Z", "2026-06-02T00:00:00Z");
    let mut days = days;
    days.sort_unstable();
    assert_eq!(days, [(first, "m"), (first, "n"), (second, "m")]);
    assert_eq!(ask("group_by=hour").await.len(), 3);
    assert_eq!(ask("group_by=team").await[1]["team"], "research");
    assert_eq!(ask("team=research").await[0]["requests"], 1);
    let within = ask("from=2026-06-01T11:00:00Z&to=2026-06-02T00:00:00Z").await;
    assert_eq!(within[0]["requests"], 1);
    assert_eq!(ask("key=key_none").await.len(), 0);
    plane.get(OPERATOR, "/api/v1/usage?group_by=colour").await.refused(400, "invalid_value");
    plane.get(OPERATOR, "/api/v1/usage?format=xml").await.refused(400, "invalid_value");
    let csv = plane.get(OPERATOR, "/api/v1/usage?group_by=key&format=csv").await.text;
    assert!(csv.starts_with("key,key_name,requests,"), "{csv}");
    assert!(csv.contains("key_b,\"'=SUM(1,2)\",1,7,1,2,100,0,0.5,2026-06-01T10:20:30Z,m\r\n"), "{csv}");
    let lines = plane.get(OPERATOR, "/api/v1/usage?group_by=key&format=jsonl").await.text;
    assert_eq!(lines.lines().count(), 2);
}

/// Pseudo-random numbers (xorshift), so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

async fn sums_are_those_of_the_records_whatever_is_sent_however_often(plane: &Plane) {
    plane.user("ada").await;
    plane.credit("ada", "1000", "first").await;
    let mut numbers = Numbers(0x2026_1126);
    let mut sent: Vec<Value> = Vec::new();
    for round in 0..30 {
        let batch: Vec<_> = (0..numbers.below(40))
            .map(|_| {
                if !sent.is_empty() && numbers.below(3) == 0 {
                    return sent[usize::try_from(numbers.below(sent.len() as u64)).unwrap()].clone();
                }
                let id = format!("r{round}-{}", numbers.below(1 << 40));
                let (key, hour, minute) = (numbers.below(4), numbers.below(30), numbers.below(60));
                let new = with(
                    record(&id, &format!("key_{key}"), "ada", &format!("0.{:09}", numbers.below(100_000_000))),
                    &json!({"time": format!("2026-06-{:02}T{:02}:{minute:02}:00Z", 1 + hour / 24, hour % 24),
                        "model": format!("m{}", numbers.below(3)), "output_tokens": numbers.below(1000),
                        "team": if numbers.below(2) == 0 { json!("research") } else { Value::Null }}),
                );
                sent.push(new.clone());
                new
            })
            .collect();
        used(plane, &batch).await;
        used(plane, &batch).await;
    }
    assert!(plane.store().sums_are_right("2026-06-01T00:00:00Z".parse().unwrap()).await.unwrap());
    assert_eq!(plane.store().unbalanced_wallets().await.unwrap(), Vec::<String>::new());
    let sum = |field: &str| sent.iter().map(|record| record[field].as_i64().unwrap()).sum::<i64>();
    let rows = plane.get(OPERATOR, "/api/v1/usage").await.with(200)["rows"].clone();
    assert_eq!(
        (rows[0]["requests"].as_u64(), rows[0]["output_tokens"].as_i64()),
        (Some(sent.len() as u64), Some(sum("output_tokens")))
    );
    plane.store().forget_records("2026-06-02T00:00:00Z".parse().unwrap()).await.unwrap();
    assert!(plane.store().sums_are_right("2026-06-02T00:00:00Z".parse().unwrap()).await.unwrap());
    assert!(!plane.store().sums_are_right("2026-06-01T00:00:00Z".parse().unwrap()).await.unwrap(), "the test can fail");
    assert_eq!(plane.get(OPERATOR, "/api/v1/usage").await.with(200)["rows"], rows, "sums stay");
}

async fn a_faulty_record_is_named_and_nothing_taken(plane: &Plane) {
    let faulty = with(record("r2", "key_a", "ada", "1"), &json!({"input_tokens": -1}));
    let batch = json!({"gateway": "0123456789abcdef", "records": [record("r1", "key_a", "ada", "1"), faulty]});
    let field = plane.call(GATEWAYS, "POST", "/v1/usage/records", batch).await.refused(422, "invalid_record");
    assert_eq!(field, "records[1]");
    assert_eq!(plane.get(OPERATOR, "/api/v1/usage").await.with(200)["rows"], json!([]));
}

async fn a_user_sees_the_usage_of_their_own_and_their_teams_keys(plane: &Plane) {
    let (_, bob, eve) = (plane.user("ada").await, plane.user("bob").await, plane.user("eve").await);
    plane.team("research", "ada").await;
    plane.operate("PUT", "/api/v1/teams/research/members/bob", json!({"role": "member"})).await.with(200);
    used(
        plane,
        &[
            record("r1", "key_bob", "bob", "1"),
            record("r2", "key_eve", "eve", "2"),
            with(record("r3", "key_team", "research", "4"), &json!({"team": "research", "owner": null})),
        ],
    )
    .await;
    let cost = |token: String| async move {
        plane.get(&token, "/api/v1/usage").await.with(200)["rows"][0]["cost_usd"].clone()
    };
    assert_eq!(cost(bob).await, "5");
    assert_eq!(cost(eve).await, "2");
    assert_eq!(cost(OPERATOR.to_owned()).await, "7");
}

/// As many records as a busy year has, made in the database itself.
const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < COUNT) \
    INSERT INTO usage_records SELECT 'r' || i, 'g', HOUR0 + (i / 1000 % 720) * 3600000000, 'key_' || (i % 1000), 'Key', '', \
    'team_' || (i % 50), '', 'model_' || (i / 720000 % 3), 7, 1, 0, 5, 0, 1000, 200, 'upstream', 0 FROM n";
const SUMMED: &str = "INSERT INTO usage_TABLE SELECT at - at % SPAN AS since, key_id, owner, team, model, 'Key', \
    COUNT(*), SUM(input_tokens), SUM(cached_input_tokens), SUM(cache_write_tokens), SUM(output_tokens), \
    SUM(reasoning_tokens), SUM(cost_nanos), MAX(at) FROM usage_records GROUP BY since, key_id, owner, team, model";

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_told_in_no_time_whatever_there_is() {
    let plane = Plane::sqlite().await;
    let records: u64 = scaled(20_000, 10_000_000);
    let first = "2026-06-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond();
    let mut tx = plane.store().begin().await.unwrap();
    let many = MANY.replace("COUNT", &records.to_string()).replace("HOUR0", &first.to_string());
    sqlx::query(&many).execute(&mut *tx).await.unwrap();
    for (table, span) in [("hours", "3600000000"), ("days", "86400000000")] {
        let summed = SUMMED.replace("TABLE", table).replace("SPAN", span);
        sqlx::query(&summed).execute(&mut *tx).await.unwrap();
    }
    plane.store().commit(tx).await.unwrap();
    for query in [
        "group_by=key",
        "group_by=model,day",
        "group_by=hour&key=key_7",
        "group_by=key&team=team_3",
        "group_by=key&from=2026-06-10T00:00:00Z&to=2026-06-11T00:00:00Z",
        "",
    ] {
        let start = std::time::Instant::now();
        let told = plane.get(OPERATOR, &format!("/api/v1/usage?{query}")).await.with(200);
        println!(
            "of {records} records, {query:?}: {} rows in {:?}",
            told["rows"].as_array().unwrap().len(),
            start.elapsed()
        );
        assert!(start.elapsed() < std::time::Duration::from_secs(30));
    }
    let start = std::time::Instant::now();
    used(&plane, &(0..500).map(|number| record(&format!("new{number}"), "key_7", "nobody", "0.1")).collect::<Vec<_>>())
        .await;
    println!("500 more are taken in {:?}", start.elapsed());
    let all = plane.get(OPERATOR, "/api/v1/usage").await.with(200)["rows"][0]["requests"].clone();
    assert_eq!(all, records + 500);
}

//! What is charged where nothing is stated, and what the stated counts of one key's requests change, and for whom.

use super::*;

/// One message of 400 bytes.
const LONG: &str = r#"{"model":"m","messages":[{"role":"user","content":"all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play"}]}"#;

/// The tokens that are reserved for a request of this key at this moment, and given back.
async fn reserved(fixture: &Fixture, key: &str) -> u64 {
    let request = fixture.ask(&format!("sk-{key}"), LONG, now()).await.ok().unwrap();
    let (before, failed) = (request.standing(now()).tokens.used, Outcome::default());
    let account = request.admitted().key.account.clone();
    let limits = request.admitted().limits.clone();
    request.settle(&failed, now());
    before - account.counters.standing(&limits.scopes.key.minute, now()).tokens.used
}

/// A request of this key, of which the upstream states so many tokens.
async fn ends(fixture: &Fixture, key: &str, prompt: u64, output: u64) {
    let mut request = fixture.ask(&format!("sk-{key}"), LONG, now()).await.ok().unwrap();
    request.answered(200, "application/json", Vec::new());
    let answer = format!(
        r#"{{"choices":[{{"message":{{"content":"word"}}}}],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{output}}}}}"#
    );
    let _ = request.pass(Bytes::from(answer));
    request.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
}

fn two_keys() -> Fixture {
    let records = ["key_a", "key_b"].map(|id| limited(id, 1_000_000, 1_000_000_000, 10));
    Fixture::new(records.into(), "", 100_000)
}

#[tokio::test]
async fn twenty_answers_teach_what_their_keys_requests_take() {
    let fixture = two_keys();
    assert_eq!(reserved(&fixture, "key_a").await, 107 + 1024);
    for _ in 0..20 {
        ends(&fixture, "key_a", 200, 30).await;
    }
    let taught = reserved(&fixture, "key_a").await;
    assert!((220..=245).contains(&taught), "{taught}");
    fixture.gate.replace_settings(settings(""));
    assert_eq!(reserved(&fixture, "key_a").await, taught, "a reload forgets nothing");
}

#[tokio::test]
async fn no_keys_odd_requests_change_what_is_reserved_for_another() {
    let fixture = two_keys();
    let first = reserved(&fixture, "key_b").await;
    for (prompt, output) in [(400, 100_000), (1, 1)] {
        for _ in 0..300 {
            ends(&fixture, "key_a", prompt, output).await;
        }
        assert_eq!(reserved(&fixture, "key_b").await, first, "{prompt} tokens of prompt, {output} of output");
    }
}

#[tokio::test]
async fn where_nothing_is_stated_a_prompt_is_charged_as_its_familys_template_counts_it() {
    for (body, tokens) in [
        (r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}"#, 8),
        (r#"{"model":"claude-sonnet-4-5","messages":[{"role":"user","content":"Hi"}]}"#, 8),
        (r#"{"model":"llama-3.3-70b","messages":[{"role":"user","content":"Hi"}]}"#, 36),
        (r#"{"model":"openai/gpt-oss-120b","messages":[{"role":"user","content":"Hi"}]}"#, 68),
        (r#"{"model":"deepseek-chat","messages":[{"role":"user","content":"Hi"}]}"#, 4),
        (r#"{"model":"mistral-large-latest","messages":[{"role":"user","content":"Hi"}]}"#, 5),
    ] {
        let fixture = Fixture::of(record("key_a"));
        let mut request = fixture.admitted(body).await;
        request.answered(200, "application/json", Vec::new());
        let _ = request.pass(Bytes::from_static(br#"{"choices":[{"message":{"content":"Hello there"}}]}"#));
        request.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
        let line = fixture.lines().pop().unwrap();
        assert_eq!((&line["input_tokens"], &line["usage_source"]), (&tokens.into(), &"estimated".into()), "{body}");
    }
}

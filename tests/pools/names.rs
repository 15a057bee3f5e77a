//! What requests have in common that stay at one replica, and what models are called there.

use serde_json::json;

use super::*;
use crate::support::{
    gateway::one_key,
    scene::{configuration, sum_becomes},
};

#[tokio::test(flavor = "multi_thread")]
async fn conversations_stay_where_they_began() {
    let mut replicas = Vec::new();
    for _ in 0..4 {
        replicas.push(answering(4).await);
    }
    let gateway = gateway(&pool(&urls(&replicas), ", affinity: {by: prefix}"), &one_key(""));
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    for turn in 0..3 {
        for conversation in 0..10 {
            let mut messages = vec![message("user", &format!("Conversation {conversation}: hello"))];
            for past in 0..turn {
                messages.extend([message("assistant", "Yes?"), message("user", &format!("And {past}?"))]);
            }
            assert_eq!(gateway.chat(&json!({"model": "m", "messages": messages})).await.status, 200);
            // A home with more than its share of what runs hands on, and what ran last ends a moment after its client saw that.
            sum_becomes(&gateway, "keymeter_replica_in_flight", 0.0).await;
        }
    }
    let homes = |conversation: usize| {
        let begins = format!("Conversation {conversation}: hello");
        let has = |replica: &&ScriptedUpstream| {
            chats(replica).iter().any(|request| request.json()["messages"][0]["content"] == begins)
        };
        replicas.iter().filter(has).count()
    };
    assert!((0..10).all(|conversation| homes(conversation) == 1));
    assert!(replicas.iter().filter(|replica| !chats(replica).is_empty()).count() > 1, "and not all at one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_gone_on_from_where_it_was_made() {
    let mut replicas = Vec::new();
    for number in 0..3 {
        let made = move |request: &Received| match request.path.as_str() {
            "/v1/responses" => Script::json(
                200,
                &json!({"id": format!("resp_{number}"), "object": "response", "output": [],
                    "usage": {"input_tokens": 7, "output_tokens": 5}}),
            ),
            _ => answer(request, 1),
        };
        replicas.push(ScriptedUpstream::start(made).await);
    }
    let gateway = gateway(&pool(&urls(&replicas), ", balance: round_robin"), &one_key(""));
    let mut client = gateway.connect().await;
    let ask = async |client: &mut Client, body: Value| {
        crate::support::scene::post(client, "/v1/responses", SECRET, &body).await.json()["id"].clone()
    };
    let mut previous = ask(&mut client, json!({"model": "m", "input": "Hi!"})).await;
    for _ in 0..6 {
        let next = ask(&mut client, json!({"model": "m", "input": "On.", "previous_response_id": previous})).await;
        assert_eq!(next, previous, "by the replica that made it");
        previous = next;
        ask(&mut client, json!({"model": "m", "input": "Hi!"})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_renamed_for_the_upstream_alone() {
    let upstream = answering(4).await;
    let fields =
        ", apis: [openai, gemini], rename: {gpt-4o: \"meta/llama-3.1\", gemini-pro: \"a b\"}, send_priority: true";
    let text = configuration(
        &format!("{{name: pool, url: \"{}\"{fields}}}", upstream.url()),
        "",
        "models: [{name: gpt-4o, input: \"1\"}]",
    );
    let gateway = Gateway::start(&text, &one_key(", priority: -7"));
    let chat = json!({"model": "gpt-4o", "priority": 3, "messages": [{"role": "user", "content": "Hi!"}]});
    let answer = gateway.chat(&chat).await;
    assert_eq!(answer.json()["model"], "m", "the answer's bytes are the upstream's");
    let sent = chats(&upstream)[0].json();
    assert_eq!((&sent["model"], &sent["priority"]), (&json!("meta/llama-3.1"), &json!(-7)));
    let line = gateway.next_line();
    assert_eq!(line["model"], "gpt-4o");
    gateway.metric_becomes(r#"keymeter_requests_total{key_id="key_test",model="gpt-4o",status="200"}"#, 1.0).await;
    let mut client = gateway.connect().await;
    crate::support::scene::post(
        &mut client,
        "/v1beta/models/gemini-pro:generateContent",
        SECRET,
        &json!({"contents": []}),
    )
    .await;
    assert_eq!(upstream.received().last().unwrap().path, "/v1beta/models/a%20b:generateContent");
}

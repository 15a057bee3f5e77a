//! What a response used is counted as its upstream states it.

use serde_json::json;

use crate::support::{
    client::{Arrival, events},
    gateway::{Gateway, SECRET},
    script::{Script, usage},
    upstream::ScriptedUpstream,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_streams_usage_is_counted_and_its_event_taken_out() {
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 5, &usage(7, 5))).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let head = client.chat_stream(SECRET, &json!({"model": "m", "stream": true, "messages": []})).await;
    assert_eq!(head.status, 200);
    let (body, end) = client.rest().await;
    assert_eq!(end, Arrival::End);
    let events = events(&body);
    assert!(!events.iter().any(|event| event.contains("\"usage\":{")), "{events:?}");
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(upstream.received()[0].asks_for_usage());
    gateway.metric_becomes(r#"keymeter_tokens_total{key_id="key_test",model="other",type="output"}"#, 5.0).await;
    gateway.metric_becomes(r#"keymeter_tokens_total{key_id="key_test",model="other",type="input"}"#, 7.0).await;
    let line = gateway.next_line();
    assert_eq!((&line["usage_source"], &line["output_tokens"]), (&"upstream".into(), &5.into()));
}

//! Items of responses of every type count by the text they carry, where nothing is stated: once, however often it is sent.

use super::apis::found;
use super::*;

const RESPONSE: Case = Case { endpoint: Endpoint::Responses, ..STREAM };
const COMPLETED: &str = "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\"}}\n\n";

/// Items as servers send them, their text, and how many calls there are.
const ITEMS: [(&str, &str, u64); 8] = [
    (
        r#"{"id":"ls_1","type":"local_shell_call","call_id":"call_1","status":"completed","action":{"type":"exec","command":["bash","-lc","ls -la /srv"],"env":{}}}"#,
        r#"{"type":"exec","command":["bash","-lc","ls -la /srv"],"env":{}}"#,
        0,
    ),
    (
        r#"{"id":"ts_1","type":"tool_search_call","call_id":"call_1","execution":"client","status":"completed","arguments":{"goal":"Find the shipping tools"}}"#,
        r#"{"goal":"Find the shipping tools"}"#,
        0,
    ),
    (
        r#"{"id":"mr_1","type":"mcp_approval_request","name":"ask_question","server_label":"deepwiki","arguments":"{\"repo\":\"a/b\"}"}"#,
        r#"ask_question{"repo":"a/b"}"#,
        1,
    ),
    (
        r#"{"id":"ap_1","type":"apply_patch_call","call_id":"call_1","status":"completed","operation":{"type":"update_file","path":"a.py","diff":"@@\n-x\n+y"}}"#,
        "{\"type\":\"update_file\",\"path\":\"a.py\",\"diff\":\"@@\n-x\n+y\"}",
        0,
    ),
    (
        r#"{"id":"x_1","type":"dream_call","status":"completed","vision":["of tokens",{"that":"nobody counts"}],"depth":3}"#,
        r#"["of tokens",{"that":"nobody counts"}]"#,
        0,
    ),
    (r#"{"id":"x_1","type":"note","content":"As a string","role":"assistant"}"#, "As a string", 0),
    (
        r#"{"id":"ws_1","type":"web_search_call","status":"completed","action":{"type":"search","query":"weather in Oslo","sources":[{"url":"https://weather.example/a-very-long-address"}]}}"#,
        "weather in Oslo",
        0,
    ),
    (
        r#"{"id":"fs_1","type":"file_search_call","queries":["what is a meter"],"results":[{"text":"A meter is what the tool found"}]}"#,
        r#"["what is a meter"]"#,
        0,
    ),
];

/// What such a complete answer takes: its text, the tags around it, and those around each call.
fn taken(text: &str, calls: u64) -> Metered {
    framed(found(1000, &[text], &[]), 1 + 7 * calls)
}

#[test]
fn an_answers_items_count_by_all_their_text() {
    for (item, text, calls) in ITEMS {
        let answer = format!("{{\"object\":\"response\",\"output\":[{item}]}}");
        assert_eq!(Case { form: Form::Json, ..RESPONSE }.usage_unchanged(&answer), taken(text, calls), "{item}");
    }
}

#[test]
fn a_streams_items_count_when_they_are_complete() {
    for (item, text, calls) in ITEMS {
        let done = format!("data: {{\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{item}}}\n\n");
        assert_eq!(RESPONSE.usage_unchanged(&(done.clone() + COMPLETED)), taken(text, calls), "{item}");
        let repeated = COMPLETED.replace("\"id\":\"r\"", &format!("\"output\":[{item}]"));
        assert_eq!(RESPONSE.usage_unchanged(&(done + &repeated)), taken(text, calls), "{item} repeated");
        assert_eq!(RESPONSE.usage_unchanged(&repeated), taken(text, calls), "{item} at the end only");
    }
}

#[test]
fn an_item_that_is_begun_and_completed_counts_once() {
    for (item, text, calls) in ITEMS {
        for sorted in [false, true] {
            let event = |kind: &str| {
                let (kind, item) = (format!("\"type\":\"response.output_item.{kind}\""), format!("\"item\":{item}"));
                let members = if sorted { [item, kind] } else { [kind, item] };
                format!("data: {{{}}}\n\n", members.join(","))
            };
            let stream = event("added") + &event("done") + COMPLETED;
            assert_eq!(RESPONSE.usage_unchanged(&stream), taken(text, calls), "{item}, by name: {sorted}");
            let twice = event("added") + &event("done") + &event("added") + &event("done");
            let found = RESPONSE.usage_unchanged(&twice).usage.output;
            assert!(found.abs_diff(2 * count_tokens(text)) <= 2, "{found} for two of {item}, by name: {sorted}");
        }
    }
}

#[test]
fn what_came_piece_by_piece_is_not_counted_again() {
    let added = |item: &str| format!("data: {{\"type\":\"response.output_item.added\",\"item\":{item}}}\n\n");
    let done = |item: &str| format!("data: {{\"type\":\"response.output_item.done\",\"item\":{item}}}\n\n");
    let delta =
        |kind: &str, text: &str| format!("data: {{\"type\":\"response.{kind}.delta\",\"delta\":\"{text}\"}}\n\n");
    let reasoning = r#"{"type":"reasoning","summary":[{"type":"summary_text","text":"Let me see"}],"encrypted_content":"gAAAAABo"}"#;
    let message = r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Two and two"}]}"#;
    let call = r#"{"type":"function_call","name":"weather","arguments":"{}","call_id":"call_1"}"#;
    let shell = ITEMS[0].0;
    let stream = [
        added(r#"{"type":"reasoning","summary":[]}"#),
        delta("reasoning_summary_text", "Let me"),
        delta("reasoning_summary_text", " see"),
        done(reasoning),
        added(r#"{"type":"message","content":[]}"#),
        delta("output_text", "Two and"),
        delta("output_text", " two"),
        done(message),
        added(r#"{"type":"function_call","name":"weather","arguments":""}"#),
        delta("function_call_arguments", "{}"),
        done(call),
        done(shell),
    ];
    let repeated = COMPLETED.replace("\"id\":\"r\"", &format!("\"output\":[{reasoning},{message},{call},{shell}]"));
    let texts = found(1000, &[&format!("Two and twoweather{{}}{}", ITEMS[0].1)], &["Let me see"]);
    assert_eq!(RESPONSE.usage_unchanged(&(stream.concat() + &repeated)), framed(texts, 1 + 7));

    let silent = [done(reasoning), done(message), done(call), done(shell)].concat() + &repeated;
    assert_eq!(RESPONSE.usage_unchanged(&silent), framed(texts, 1 + 7), "without the pieces, it is the items'");
}

#[test]
fn items_that_are_open_together_count_once() {
    let event = |kind: &str, arguments: &str, index: u64| {
        format!(
            "data: {{\"type\":\"response.output_item.{kind}\",\"output_index\":{index},\"item\":{{\"type\":\"function_call\",\"name\":\"weather\",\"arguments\":\"{arguments}\"}}}}\n\n"
        )
    };
    let delta = "data: {\"type\":\"response.function_call_arguments.delta\",\"delta\":\"{}\"}\n\n";
    let begun = [event("added", "", 0), event("added", "", 1)].concat();
    let stream = format!("{begun}{delta}{delta}{}{}", event("done", "{}", 0), event("done", "{}", 1));
    assert_eq!(RESPONSE.usage_unchanged(&stream), found(1000, &["weatherweather{}{}"], &[]));
}

#[test]
fn what_tools_found_is_no_output() {
    let sorted =
        r#"{"arguments":"{}","id":"mcp_1","name":"ask","output":"A long text that a tool found","type":"mcp_call"}"#;
    let answer = format!("{{\"output\":[{sorted}]}}");
    assert_eq!(Case { form: Form::Json, ..RESPONSE }.usage_unchanged(&answer), taken("{}ask", 1));
    for item in [
        r#"{"type":"mcp_list_tools","server_label":"a","tools":[{"name":"x","description":"A long text of a tool"}]}"#,
        r#"{"type":"local_shell_call_output","output":"total 0"}"#,
        r#"{"type":"tool_search_output","tools":[{"name":"x"}],"call_id":"call_1"}"#,
        r#"{"type":"image_generation_call","status":"completed","result":"iVBORw0KGgo="}"#,
        r#"{"type":"compaction","encrypted_content":"gAAAAABo"}"#,
        r#"{"type":"reasoning","summary":[],"encrypted_content":"gAAAAABo"}"#,
    ] {
        let done = format!("data: {{\"type\":\"response.output_item.done\",\"item\":{item}}}\n\n");
        assert_eq!(RESPONSE.usage_unchanged(&done), estimated(1000, 0), "{item}");
    }
}

/// A server that repeats a call's name in each event (functionary's), of which one event says nothing of its choice.
#[test]
fn a_name_that_comes_again_counts_the_same_however_the_stream_is_cut() {
    let event = |index: &str, arguments: &str| {
        format!(
            "data: {{\"choices\":[{{{index}\"delta\":{{\"function_call\":{{\"name\":\"weather\",\"arguments\":\"{arguments}\"}}}}}}]}}\n\n"
        )
    };
    let here = "\"index\":0,";
    let events = [(here, "a"), (here, "b"), (here, "c"), ("", "d"), (here, "e"), (here, "f")];
    let text: String = events.iter().map(|(index, arguments)| event(index, arguments)).collect();
    assert!(EARLY.in_every_cut(&text).metered.usage.output > 0);
}

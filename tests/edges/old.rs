//! Clients of HTTP/1.0, nginx' default towards its upstreams among them: a response that states no length ends with its
//! connection.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    client::within,
    gateway::{Gateway, SECRET, config, one_key},
    script::{Script, completion, usage},
    upstream::ScriptedUpstream,
};

/// The head and the body of the answer to a chat over HTTP/1.0. It is read to the connection's end.
async fn ask(gateway: &Gateway, body: &str, lines: &str) -> (String, String) {
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    let length = body.len();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nx-api-key: {SECRET}\r\n{lines}content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("the end of the answer", stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_not_chunked_and_ends_with_its_connection() {
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 3, &usage(7, 3))).await;
    for extra in ["", "on_client_abort: drain", "on_revoke: finish"] {
        let gateway = Gateway::start(&config(&upstream, extra), &one_key(""));
        for lines in ["", "connection: close\r\n", "connection: keep-alive\r\n"] {
            let (head, body) = ask(&gateway, r#"{"model":"m","stream":true}"#, lines).await;
            assert!(head.starts_with("http/1.1 200"), "{head}");
            assert!(
                !head.contains("transfer-encoding") && head.contains("connection: close"),
                "{extra} {lines}: {head}"
            );
            assert!(body.starts_with("data: {") && body.ends_with("data: [DONE]\n\n"), "{extra} {lines}: {body}");
            assert_eq!(gateway.next_line()["output_tokens"], 3);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_one_piece_is_not_chunked_either() {
    let whole = Script::json(200, &completion("m", 3));
    let chunked = Script { headers: vec![("content-type".to_owned(), "application/json".to_owned())], ..whole.clone() };
    for (script, states_length) in [(whole, true), (chunked, false)] {
        let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
        let gateway = Gateway::before(&upstream);
        let (head, body) = ask(&gateway, r#"{"model":"m"}"#, "").await;
        assert!(head.starts_with("http/1.1 200") && !head.contains("transfer-encoding"), "{head}");
        assert_eq!(head.contains("content-length"), states_length, "{head}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer, completion("m", 3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_its_length() {
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 3))).await;
    let gateway = Gateway::before(&upstream);
    let (head, body) = ask(&gateway, "{", "").await;
    assert!(head.starts_with("http/1.1 400") && head.contains(&format!("content-length: {}", body.len())), "{head}");
}

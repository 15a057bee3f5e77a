//! A body that breaks off leaves a connection of which nobody can say where the next request begins: it ends with the
//! answer, whatever was asked and whoever asked it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{chat_of, head, request, with_server};
use crate::{
    admission::answering,
    support::{
        client::within,
        gateway::{Gateway, SECRET, config, one_key},
        upstream::ScriptedUpstream,
    },
};

/// All that is answered to these bytes until the server closes the connection.
async fn answers(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answers = Vec::new();
    // What came before a reset is there all the same.
    let read = async {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut piece).await {
            answers.extend_from_slice(&piece[..length]);
        }
    };
    within("the close", read).await;
    String::from_utf8(answers).unwrap()
}

fn statuses(answers: &str) -> Vec<&str> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

/// Bodies in chunks that are none, from their first byte or later on.
const BROKEN: [&str; 6] =
    ["5\r\n{\"mod\r\nZZ\r\n", "5\r\n{\"modX5\r\n", "zz\r\n", "-1\r\n", "ffffffffffffffffff\r\n", "5 5\r\nabcde\r\n"];

fn chunked(lines: &str, body: &str) -> Vec<u8> {
    [head(&format!("transfer-encoding: chunked{lines}")), body.as_bytes().to_vec()].concat()
}

async fn gateway() -> (ScriptedUpstream, Gateway) {
    let upstream = answering(5).await;
    let configuration = config(&upstream, "").replace("name: scripted,", "name: scripted, models: [m],");
    let gateway = Gateway::start(&configuration, &one_key(""));
    (upstream, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_after_a_broken_chunk_is_taken_for_a_request() {
    let (upstream, gateway) = gateway().await;
    for body in BROKEN {
        let bytes = [chunked("", body), request(&chat_of(100)), request(&chat_of(100))].concat();
        let answers = answers(&gateway, &bytes).await;
        let statuses = statuses(&answers);
        assert_eq!(statuses, ["400"], "{body:?}: {answers}");
        assert!(answers.to_lowercase().contains("connection: close"), "{body:?}: {answers}");
        assert_eq!(upstream.received().len(), 0, "{body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_before_the_body_has_no_second_request_behind_a_broken_one() {
    let (upstream, gateway) = gateway().await;
    let replaced = |bytes: Vec<u8>, from: &str, to: &str| String::from_utf8(bytes).unwrap().replacen(from, to, 1);
    let path = "POST /v1/chat/completions";
    for body in BROKEN {
        for (bytes, expected) in [
            (replaced(chunked("", body), SECRET, "sk-nobody"), "401"),
            (replaced(chunked("", body), "/v1/chat", "/v1/chess"), "404"),
            (replaced(chunked("", body), "POST", "PUT"), "405"),
            (replaced(chunked("\r\ncontent-encoding: compress", body), "", ""), "415"),
            (replaced(chunked("", body), path, "GET /v1/models"), "200"),
            (replaced(chunked("", body), path, "GET /v1/usage"), "200"),
            (replaced(chunked("", body), path, "GET /v1/models/none"), "404"),
        ] {
            let answers = answers(&gateway, &[bytes.as_bytes(), &request(&chat_of(100))].concat()).await;
            let statuses = statuses(&answers);
            assert_eq!(statuses, [expected], "{body:?}: {answers}");
            assert!(answers.to_lowercase().contains("connection: close"), "{expected}, {body:?}: {answers}");
        }
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_where_it_is_passed_over_ends_its_connection() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "max_request_body: 64KiB");
    // It is too long, and what is left of it is read, until that breaks.
    let long = format!("10001\r\n{}\r\n5\r\nabcdeXX", "a".repeat(65_537));
    let answers = answers(&gateway, &[chunked("", &long), request(&chat_of(100))].concat()).await;
    assert_eq!(statuses(&answers), ["413"], "{answers}");
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_whose_size_has_no_digits_ends_a_refused_body_and_its_connection() {
    let (upstream, gateway) = gateway().await;
    for body in [";\r\n\r\n", ";x\r\nPOST / HTTP/1.1\r\n\r\n", "5\r\n{\"mod\r\n;0\r\n\r\n", "0\r\n\r\n"] {
        let bytes = [chunked("", body), request(&chat_of(100)), request(&chat_of(100))].concat();
        let answers = answers(&gateway, &bytes).await;
        assert_eq!(statuses(&answers), ["400"], "{body:?}: {answers}");
        assert!(answers.to_lowercase().contains("connection: close"), "{body:?}: {answers}");
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_that_can_be_read_in_two_ways_ends_its_connection() {
    let (upstream, gateway) = gateway().await;
    for lines in ["\r\ncontent-length: 5", "\r\nContent-Length: 0"] {
        let bytes = [chunked(lines, "d\r\n{\"model\":\"m\"}\r\n0\r\n\r\n"), request(&chat_of(100))].concat();
        let answers = answers(&gateway, &bytes).await;
        assert_eq!(statuses(&answers), ["400"], "{answers}");
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_of_chunks_and_trailers_are_passed_over() {
    let (upstream, gateway) = gateway().await;
    let body = "d;name=value;other=\"x\"\r\n{\"model\":\"m\"}\r\n0;last\r\nx-sum: 1\r\nnot a trailer\r\n\r\n";
    let last = String::from_utf8(request(&chat_of(100))).unwrap().replacen("\r\n", "\r\nconnection: close\r\n", 1);
    let answers = answers(&gateway, &[chunked("", body), last.into_bytes()].concat()).await;
    assert_eq!(statuses(&answers), ["200", "200"], "{answers}");
    let bodies: Vec<_> = upstream.received().iter().map(|seen| seen.body.len()).collect();
    assert_eq!(bodies, [13, 100]);
}

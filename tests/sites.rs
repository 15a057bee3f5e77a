//! A page that the operator happens to look at orders nothing at their addresses and reads nothing there, whatever name it
//! makes them go by; and nothing is done by halves.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    admission::answering,
    support::{
        client::{Client, within},
        control::{OPERATOR, Plane},
        gateway::{Gateway, config, one_key},
    },
};

/// Sends these lines as a head, and gives the status of what comes; 0: the connection is closed.
async fn status(address: SocketAddr, lines: &[&str]) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    if within("an answer", stream.read_exact(&mut answer)).await.is_err() {
        return 0;
    }
    std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_only_hosts_of_ours_are_answered() {
    let upstream = answering(5).await;
    let configuration = config(&upstream, "")
        .replace("admin: {listen: \"127.0.0.1:0\"", "admin: {listen: \"127.0.0.1:0\", hosts: [metrics.example]");
    let gateway = Gateway::start(&configuration, &one_key(""));
    let admin = gateway.server.admin_address;
    let own = admin.to_string();
    for host in ["localhost", "LocalHost:1", "localhost.", "127.0.0.1", &own, "[::1]:9", "Metrics.Example.:80"] {
        let host = format!("Host: {host}");
        assert_eq!(status(admin, &["GET /metrics HTTP/1.1", &host]).await, 200, "{host}");
        assert_eq!(status(admin, &["POST /-/reload HTTP/1.1", &host, "content-length: 0"]).await, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil.example"] {
        let host = format!("Host: {host}");
        for line in ["GET /metrics HTTP/1.1", "GET /-/healthy HTTP/1.1", "GET /none HTTP/1.1", "HEAD /-/ready HTTP/1.0"]
        {
            assert_eq!(status(admin, &[line, &host]).await, 403, "{line} {host}");
        }
        assert_eq!(status(admin, &["POST /-/reload HTTP/1.1", &host, "content-length: 0"]).await, 403, "{host}");
    }
    assert_eq!(status(admin, &["GET /-/healthy HTTP/1.0"]).await, 200, "a program of the old kind");
    let twice = ["GET /-/healthy HTTP/1.1", "Host: localhost", "Host: evil.example"];
    assert!([0, 400, 403].contains(&status(admin, &twice).await));
    let absolute = ["GET http://evil.example/-/healthy HTTP/1.1", "Host: localhost"];
    assert!([0, 400, 403].contains(&status(admin, &absolute).await));
    let absolute = ["GET http://localhost/-/healthy HTTP/1.1", "Host: localhost"];
    assert_eq!(status(admin, &absolute).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_orders_nothing() {
    let upstream = answering(5).await;
    for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
        let admin = format!("admin: {{listen: \"{listen}\", token: admin-token-0123456789-0123456789-0123456789}}");
        let configuration = config(&upstream, "").replace("admin: {listen: \"127.0.0.1:0\"}", &admin);
        let gateway = Gateway::start(&configuration, &one_key(""));
        let admin: SocketAddr = ([127, 0, 0, 1], gateway.server.admin_address.port()).into();
        let (host, own) = (format!("Host: {admin}"), format!("Origin: http://{admin}"));
        for (line, expected) in [
            ("Sec-Fetch-Site: cross-site", 403),
            ("Sec-Fetch-Site: same-site", 403),
            ("Origin: http://evil.example", 403),
            ("Origin: null", 403),
            ("Origin: http://127.0.0.1:1", 403),
            ("Sec-Fetch-Site: same-origin", 200),
            ("Sec-Fetch-Site: none", 200),
            (own.as_str(), 200),
            ("x-nothing: 1", 200),
        ] {
            for path in ["/-/reload", "/-/keys/invalidate"] {
                let post = format!("POST {path} HTTP/1.1");
                let head = [
                    &post,
                    host.as_str(),
                    line,
                    "authorization: Bearer admin-token-0123456789-0123456789-0123456789",
                    "content-length: 0",
                ];
                let expected = if (expected, path) == (200, "/-/keys/invalidate") { 204 } else { expected };
                assert_eq!(status(admin, &head).await, expected, "{listen} {path} {line}");
            }
            // What changes nothing may be linked to from everywhere.
            assert_eq!(status(admin, &["GET /metrics HTTP/1.1", &host, line]).await, 200, "{line}");
        }
        if listen.starts_with('0') {
            assert_eq!(status(admin, &["GET /metrics HTTP/1.1", "Host: metrics.example"]).await, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_or_does_not_come_is_not_obeyed() {
    let upstream = answering(5).await;
    let configuration = config(&upstream, "").replace("server: {", "server: {body_timeout: 300ms, ");
    let gateway = Gateway::start(&configuration, &one_key(""));
    let admin = gateway.server.admin_address;
    let reloads = "keymeter_config_last_reload_success_timestamp_seconds";
    assert!(gateway.admin("GET", "/metrics").await.text().contains(reloads));
    // A reload would find a fault, and say so.
    gateway.write_config("no: configuration");
    gateway.metric_becomes("keymeter_config_last_reload_successful", 0.0).await;
    gateway.write_config(&configuration);
    gateway.metric_becomes("keymeter_config_last_reload_successful", 1.0).await;

    let host = format!("host: {admin}");
    for framing in ["content-length: 9", "transfer-encoding: chunked"] {
        for closes in [true, false] {
            for path in ["/-/log", "/-/keys/invalidate", "/-/reload"] {
                let body = if framing.starts_with('c') { "error" } else { "5\r\nerror\r\n3\r\n" };
                let head = format!("POST {path} HTTP/1.1\r\n{host}\r\n{framing}\r\n\r\n{body}");
                let mut stream = TcpStream::connect(admin).await.unwrap();
                stream.write_all(head.as_bytes()).await.unwrap();
                if closes {
                    stream.shutdown().await.unwrap();
                }
                let mut answer = String::new();
                within("the end", stream.read_to_string(&mut answer)).await.unwrap();
                let expected = if closes { "HTTP/1.1 400" } else { "HTTP/1.1 408" };
                assert!(answer.is_empty() || answer.starts_with(expected), "{path} {framing}: {answer}");
            }
        }
    }
    assert!(!gateway.admin("GET", "/-/log").await.text().starts_with("error"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_answers_to_its_own_names_only() {
    let plane = Plane::sqlite().await;
    let address = plane.control.address;
    let token = format!("authorization: Bearer {OPERATOR}");
    for path in ["/", "/sign-in", "/healthz", "/api/v1/keys", "/assets/style.css", "/none"] {
        let get = format!("GET {path} HTTP/1.1");
        assert_eq!(status(address, &[&get, "Host: evil.example", &token]).await, 403, "{path}");
        assert_ne!(status(address, &[&get, "Host: localhost:9091", &token]).await, 403, "{path}");
    }
    let mut client = Client::connect(address).await;
    assert_eq!(client.request("GET", "/healthz", &[("host", &address.to_string())], b"").await.status, 200);
}

/// A call whose body does not come holds its connection no longer than a body may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_body_does_not_come_is_answered_and_closed() {
    let plane = Plane::with_server("body_timeout: 300ms, head_timeout: 300ms, keep_alive: 300ms").await;
    let head = format!(
        "POST /api/v1/users HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {OPERATOR}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    let mut stream = TcpStream::connect(plane.control.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(Duration::from_secs(8), stream.read_to_string(&mut answer)).await;
    read.expect("the connection is closed").unwrap();
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

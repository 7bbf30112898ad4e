//! What is promised about clients who send or take nothing.

use crate::common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::upstream::{Script, Upstream, chat_on};
use common::{Home, Server, Setup};

fn connect(server: &Server) -> (TcpStream, String) {
    let host = server.base.trim_start_matches("http://").to_owned();
    let stream = TcpStream::connect(&host).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
    (stream, host)
}

#[tokio::test]
async fn a_body_that_dribbles_in_is_given_up_and_holds_up_nobody() {
    let home = Home::new();
    let upstream = Upstream::start(Script::default());
    let settings = format!("{}\nserver.body_timeout_s=1\nserver.request_timeout_ms=1000", chat_on(&[&upstream]));
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    let (length, upgrade) = ("Content-Length: 500", "Connection: upgrade\r\nUpgrade: websocket");
    for (method, path, more) in [
        ("POST", "/v1/answers", length),
        ("POST", "/v1/chat/completions", length),
        ("POST", "/v1/search", length),
        ("POST", "/v1/events", length),
        ("PUT", "/v1/documents/slow.md", length),
        // All that follows is the body of these, or a body for its length.
        ("POST", "/v1/search", upgrade),
        ("POST", "/v1/search", "Upgrade: x\r\nContent-Length: 500"),
    ] {
        let (mut stream, host) = connect(&server);
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{more}\r\n\r\n{{"
        )
        .expect("sent");
        let began = Instant::now();
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a time limit");
        let mut heard = Vec::new();
        while began.elapsed() < common::PATIENCE && !String::from_utf8_lossy(&heard).contains("body_timeout_s") {
            let _ = stream.write_all(b" ");
            let mut some = [0; 4096];
            if let Ok(bytes) = stream.read(&mut some) {
                heard.extend_from_slice(&some[..bytes]);
            }
        }
        let response = String::from_utf8_lossy(&heard);
        assert!(response.starts_with("HTTP/1.1 408"), "{method} {path}, {more}: {response}");
    }
    // A head that never ends.
    let (mut stream, host) = connect(&server);
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {host}\r\nX-Slow: ").expect("sent");
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    assert!(!String::from_utf8_lossy(&heard).contains("200"), "it was answered");
    // On a connection of its own: nobody looked after the others meanwhile.
    let after = answerd::http::client().expect("a client").get(server.url("/healthz")).send().await;
    assert_eq!(after.expect("a response").status(), 200);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_takes_nothing_of_its_response_is_disconnected() {
    let home = Home::new();
    let settings = "server.write_timeout_s=2".to_owned();
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    let text = "A long document about nothing in particular. ".repeat(4000);
    server.put_visible("long.md", &text).await;
    let (mut stream, host) = connect(&server);
    common::receive_little(&stream);
    write!(stream, "GET /v1/documents/long.md HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("sent");
    tokio::time::sleep(Duration::from_secs(8)).await;
    let mut heard = Vec::new();
    let ended = stream.read_to_end(&mut heard);
    assert!(heard.len() < text.len(), "all {} bytes came ({ended:?})", heard.len());
}

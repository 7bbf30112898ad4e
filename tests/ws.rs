//! What is promised over a WebSocket.

use crate::common;

use std::time::Duration;

use common::upstream::{Script, Upstream, chat_on, said};
use common::{Home, PATIENCE, Server, Setup, problem};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const ASK: &str = "How many days of annual leave are there?";

async fn serve(home: &Home, upstream: &Upstream, settings: &str) -> Server {
    let settings = format!("{}\n{settings}", chat_on(&[upstream]));
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    server.put_visible("leave.md", "# Leave\n\nEvery employee has 28 days of annual leave.").await;
    server
}

struct Socket(WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>);

impl Socket {
    async fn open(server: &Server) -> Self {
        let url = format!("{}/v1/ws", server.base.replace("http://", "ws://"));
        Self(connect_async(url).await.expect("a WebSocket").0)
    }

    async fn send(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("sent");
    }

    async fn next(&mut self) -> Option<Message> {
        tokio::time::timeout(PATIENCE, self.0.next()).await.expect("something comes").and_then(Result::ok)
    }

    /// The next frame that is JSON.
    async fn frame(&mut self) -> Value {
        loop {
            match self.next().await.expect("a frame") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Close(reason) => panic!("closed: {reason:?}"),
                _ => {}
            }
        }
    }

    /// The frames until so many questions have ended.
    async fn until_ended(&mut self, mut questions: usize) -> Vec<Value> {
        let mut frames = Vec::new();
        while questions > 0 {
            let frame = self.frame().await;
            questions -= usize::from(frame["event"] == "done" || frame["event"] == "error");
            frames.push(frame);
        }
        frames
    }

    /// How the connection is closed.
    async fn closed(&mut self) -> CloseFrame {
        loop {
            match self.next().await {
                Some(Message::Close(frame)) => return frame.expect("a reason"),
                Some(_) => {}
                None => panic!("the connection ended without a word"),
            }
        }
    }
}

fn text_of(frames: &[Value], id: &str) -> String {
    let tokens = frames.iter().filter(|frame| frame["id"] == id && frame["event"] == "token");
    tokens.filter_map(|frame| frame["data"]["text"].as_str()).collect()
}

fn names<'f>(frames: &'f [Value], id: &str) -> Vec<&'f str> {
    frames.iter().filter(|frame| frame["id"] == id).filter_map(|frame| frame["event"].as_str()).collect()
}

async fn nobody_is_inside(server: &Server, upstream: &Upstream) {
    server.until_idle().await;
    server.until("no stream is open", async || upstream.open() == 0).await;
}

#[tokio::test]
async fn several_questions_on_one_connection_are_answered_at_once_with_the_events_of_an_answer() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(20, 10)));
    let server = serve(&home, &upstream, "").await;
    let mut socket = Socket::open(&server).await;
    for n in 0..5 {
        socket.send(json!({ "type": "ask", "id": format!("q{n}"), "question": ASK, "max_tokens": 10 + n })).await;
    }
    let frames = socket.until_ended(5).await;
    for n in 0..5 {
        let id = format!("q{n}");
        assert_eq!(text_of(&frames, &id), said(10 + n));
        let names = names(&frames, &id);
        let at = |name: &str| names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no {name}: {names:?}"));
        assert!(at("status") < at("sources") && at("sources") < at("token") && at("token") < at("usage"));
        assert_eq!(names.last(), Some(&"done"));
    }
    let first_end = frames.iter().position(|frame| frame["event"] == "done").unwrap();
    let begun = (0..5).filter(|n| !text_of(&frames[..first_end], &format!("q{n}")).is_empty()).count();
    assert_eq!(begun, 5, "none waited for another's end");
    // An id is free again once its answer has ended.
    socket.send(json!({ "type": "ask", "id": "q0", "question": ASK, "max_tokens": 3 })).await;
    assert_eq!(text_of(&socket.until_ended(1).await, "q0"), said(3));
    nobody_is_inside(&server, &upstream).await;
}

#[tokio::test]
async fn one_question_is_cancelled_and_the_others_go_on() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(100, 10)));
    let server = serve(&home, &upstream, "").await;
    let mut socket = Socket::open(&server).await;
    for id in ["stays", "goes"] {
        socket.send(json!({ "type": "ask", "id": id, "question": ASK, "max_tokens": 100 })).await;
    }
    let mut frames = Vec::new();
    while text_of(&frames, "goes").is_empty() {
        frames.push(socket.frame().await);
    }
    socket.send(json!({ "type": "cancel", "id": "goes" })).await;
    frames.extend(socket.until_ended(2).await);
    let done = |id: &str| {
        let frame = frames.iter().find(|frame| frame["id"] == id && frame["event"] == "done").unwrap();
        frame["data"]["finish_reason"].as_str().unwrap().to_owned()
    };
    assert_eq!((done("goes").as_str(), text_of(&frames, "stays")), ("cancelled", said(100)));
    assert!(text_of(&frames, "goes").len() < said(100).len());
    // What has ended can be cancelled: nothing comes of it.
    socket.send(json!({ "type": "cancel", "id": "goes" })).await;
    socket.send(json!({ "type": "ping" })).await;
    assert_eq!(socket.frame().await, json!({ "type": "pong" }));
    nobody_is_inside(&server, &upstream).await;
}

#[tokio::test]
async fn a_connection_that_is_lost_is_resumed_on_another_one() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(60, 10)));
    let server = serve(&home, &upstream, "").await;
    let mut socket = Socket::open(&server).await;
    socket.send(json!({ "type": "ask", "id": "a", "question": ASK, "max_tokens": 60 })).await;
    let mut frames = Vec::new();
    while text_of(&frames, "a").len() < 20 {
        frames.push(socket.frame().await);
    }
    drop(socket);
    let last = frames.last().unwrap()["event_id"].clone();
    let mut socket = Socket::open(&server).await;
    socket.send(json!({ "type": "resume", "id": "a", "last_event_id": last })).await;
    frames.extend(socket.until_ended(1).await);
    assert_eq!(text_of(&frames, "a"), said(60));
    let ids: Vec<&str> = frames.iter().map(|frame| frame["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len(), "nothing came twice");
    socket.send(json!({ "type": "resume", "id": "b", "last_event_id": "nothing:3" })).await;
    assert_eq!(socket.frame().await["data"]["type"], "urn:answerd:problem:not-found");
    assert_eq!(upstream.asked().len(), 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_question_is_its_own_error_and_the_connection_goes_on() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(3, 0)));
    let server = serve(&home, &upstream, "").await;
    let mut socket = Socket::open(&server).await;
    for (frame, kind) in [
        (json!({ "type": "ask", "id": "a" }), "invalid-json"),
        (json!({ "type": "ask", "id": "a", "question": "x", "colour": "red" }), "invalid-json"),
        (json!({ "type": "ask", "id": "a", "question": "  " }), "invalid-request"),
        (json!({ "type": "ask", "id": "a", "question": "x", "temperature": 99 }), "invalid-request"),
        (json!({ "type": "ask", "id": "a", "question": "word ".repeat(3000) }), "question-too-long"),
        (json!({ "type": "ask", "question": ASK }), "invalid-request"),
        (json!({ "type": "ask", "id": "a".repeat(200), "question": ASK }), "invalid-request"),
        (json!({ "type": "sing", "id": "a" }), "invalid-json"),
        (json!({ "id": "a" }), "invalid-json"),
        (json!({}), "invalid-json"),
    ] {
        socket.send(frame.clone()).await;
        let error = socket.frame().await;
        assert_eq!(error["event"], "error", "{frame}");
        assert_eq!(error["data"]["type"], format!("urn:answerd:problem:{kind}"), "{frame}: {error}");
    }
    socket.send(json!({ "type": "ping" })).await;
    assert_eq!(socket.frame().await, json!({ "type": "pong" }));
    socket.0.send(Message::Ping(Bytes::from_static(b"hello"))).await.unwrap();
    assert_eq!(socket.next().await, Some(Message::Pong(Bytes::from_static(b"hello"))));
    upstream.play(Script::paced(100, 10));
    socket.send(json!({ "type": "ask", "id": "a", "question": ASK })).await;
    socket.send(json!({ "type": "ask", "id": "a", "question": ASK })).await;
    let frames = socket.until_ended(1).await;
    let refused = frames.iter().find(|frame| frame["event"] == "refused").expect("the second of this id");
    assert_eq!(refused["data"]["type"], "urn:answerd:problem:invalid-request");
    assert_eq!(text_of(&frames, "a"), said(100), "the first goes on");
    socket.0.close(None).await.unwrap();
    nobody_is_inside(&server, &upstream).await;
}

#[tokio::test]
async fn what_is_wrong_with_the_connection_closes_it_with_a_code() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(1000, 10)));
    let settings = "server.max_json_bytes=4096\nserver.keep_alive_s=1\nanswer.resume_grace_s=0";
    let server = serve(&home, &upstream, settings).await;
    for (message, code) in [
        (Message::binary(vec![1, 2, 3]), CloseCode::Unsupported),
        (Message::text("no JSON"), CloseCode::Invalid),
        (Message::text("[1]"), CloseCode::Invalid),
        (Message::text("x".repeat(10_000)), CloseCode::Size),
    ] {
        let mut socket = Socket::open(&server).await;
        socket.0.send(message.clone()).await.unwrap();
        assert_eq!(socket.closed().await.code, code, "{message:?}");
    }
    // A frame that only claims to be large is not waited for, and one in many parts is counted as a whole.
    for head in [vec![0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], vec![0x01, 0x80, 0, 0, 0, 0]] {
        use std::io::{Read, Write};
        let mut stream = raw(&server);
        stream.write_all(&head).unwrap();
        let mut part = vec![0x00, 0xfe, 0x10, 0x00, 0, 0, 0, 0];
        part.resize(8 + 4096, b'x');
        for _ in 0..128 {
            // It reads on for a while, so that the client hears why it ends; or has closed the connection already.
            let _ = stream.write_all(&part);
        }
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).expect("a close frame");
        assert_eq!((heard[0], &heard[2..]), (0x88, &1009u16.to_be_bytes()[..]), "{heard:?}");
    }
    // Too many open questions.
    let mut socket = Socket::open(&server).await;
    for n in 0..65 {
        socket.send(json!({ "type": "ask", "id": format!("q{n}"), "question": ASK })).await;
    }
    let refused = loop {
        let frame = socket.frame().await;
        if frame["event"] == "error" {
            break frame;
        }
    };
    assert_eq!(refused["data"]["type"], "urn:answerd:problem:overloaded", "{refused}");
    drop(socket);
    nobody_is_inside(&server, &upstream).await;

    // One that answers no pings, and one that reads nothing at all.
    let mut silent = raw(&server);
    let mut greedy = raw(&server);
    let question = json!({ "type": "ask", "id": "a", "question": ASK, "max_tokens": 200 }).to_string();
    send_raw(&mut silent, &json!({ "type": "ping" }).to_string());
    send_raw(&mut greedy, &question);
    server.until("it is being answered", async || upstream.open() == 1).await;
    let mut heard = Vec::new();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    std::io::Read::read_to_end(&mut silent, &mut heard).expect("it is closed");
    assert!(String::from_utf8_lossy(&heard).contains("no answer to pings"));
    nobody_is_inside(&server, &upstream).await;
    drop(greedy);

    // Where the service stops it says so.
    let mut socket = Socket::open(&server).await;
    socket.send(json!({ "type": "ping" })).await;
    socket.frame().await;
    server.signal(libc::SIGTERM);
    assert_eq!(socket.closed().await.code, CloseCode::Away);
}

/// A WebSocket by hand, that answers nothing by itself.
fn raw(server: &Server) -> std::net::TcpStream {
    use std::io::{Read, Write};
    let host = server.base.trim_start_matches("http://").to_owned();
    let mut stream = std::net::TcpStream::connect(&host).expect("a connection");
    let head = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    write!(stream, "GET /v1/ws HTTP/1.1\r\nHost: {host}\r\n{head}\r\n\r\n").expect("sent");
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        response.push(byte[0]);
    }
    assert!(response.starts_with(b"HTTP/1.1 101"));
    stream
}

fn send_raw(stream: &mut std::net::TcpStream, text: &str) {
    use std::io::Write;
    let length = text.len();
    assert!(length < 126, "one byte has the length");
    // A mask of zeros changes nothing.
    let mut frame = vec![0x81, 0x80 | length as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).expect("sent");
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_answers_and_a_plain_request_is_told_to_upgrade() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(1000, 10)));
    let server = serve(&home, &upstream, "answer.resume_grace_s=0").await;
    let mut socket = Socket::open(&server).await;
    socket.send(json!({ "type": "ask", "id": "a", "question": ASK, "max_tokens": 200 })).await;
    server.until("it is being answered", async || upstream.open() == 1).await;
    drop(socket);
    nobody_is_inside(&server, &upstream).await;
    problem(&server.get("/v1/ws").await, 426, "upgrade-required");
    // Browsers open WebSockets for any page: those of other sites are turned away.
    let url = server.base.replace("http://", "ws://") + "/v1/ws";
    for (origin, taken) in [("http://evil.example", false), (server.base.as_str(), true)] {
        let mut request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(&url).unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        assert_eq!(connect_async(request).await.is_ok(), taken, "{origin}");
    }
}

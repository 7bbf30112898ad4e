//! What is promised of the start and of the end: probes that answer from the first moment, and a SIGTERM that lets answers
//! end, tells those that cannot, and loses nothing.

use crate::common;

use std::time::Instant;

use common::redis::Redis;
use common::upstream::{Script, Upstream, chat_on, said};
use common::{Event, Home, PATIENCE, Server, Setup, one, outcome, problem, read_events, text_of};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

const LEAVE: &str = "# Leave\n\nEvery employee has 28 days of annual leave.";

/// An answerd whose model is a scripted server, with one document.
async fn serve(home: &Home, upstream: &Upstream, settings: &str) -> Server {
    let settings = format!("{}\n{settings}", chat_on(&[upstream]));
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    server.put_visible("leave.md", LEAVE).await;
    server
}

/// Asks, and comes back once the model writes.
async fn begin(server: &Server, upstream: &Upstream) -> Response {
    let response =
        server.ask(json!({ "question": "How many days of annual leave are there?", "max_tokens": 200 })).await;
    assert_eq!(response.status(), StatusCode::OK);
    server.until("it is being written", async || upstream.open() == 1).await;
    response
}

/// Waits for its end, which is a good one.
async fn ended(mut server: Server) {
    let began = Instant::now();
    loop {
        if let Some(status) = server.child.try_wait().expect("wait") {
            return assert!(status.success(), "{status}");
        }
        assert!(began.elapsed() < PATIENCE, "it does not end");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn probes_answer_from_the_first_moment_and_nobody_is_turned_away_when_the_service_takes_over() {
    let home = Home::new();
    let port = common::free_port();
    let settings = format!("server.bind=127.0.0.1:{port}");
    let setup = Setup { settings, failpoints: "start=sleep(3000)".into(), ..Setup::default() };
    let http = answerd::http::client().expect("a client");
    let get = async |path: &str| http.get(format!("http://127.0.0.1:{port}{path}")).send().await;
    let spawned = home.spawn(&setup);
    let asks = async {
        common::until_listening(port, "answerd").await;
        assert_eq!(outcome(get("/healthz").await.expect("a response")).await.0, StatusCode::OK);
        for path in ["/startupz", "/readyz", "/v1/models", "/admin", "/nowhere"] {
            let response = get(path).await.expect("a response");
            assert!(response.headers()["retry-after"].to_str().is_ok_and(|seconds| seconds != "0"), "{response:?}");
            let response = outcome(response).await;
            assert!(problem(&response, 503, "unavailable").contains("embedding model"), "{path}: {}", response.1);
            assert_eq!(response.1["reasons"], json!(["the embedding model is being loaded"]));
        }
        // Every one of these is answered, by the one or by the other.
        let mut asked = 0;
        while get("/startupz").await.expect("a response").status() != StatusCode::OK {
            assert_eq!(get("/healthz").await.expect("a response").status(), StatusCode::OK);
            asked += 1;
        }
        assert!(asked > 10, "only {asked}");
    };
    let (server, ()) = tokio::join!(spawned, asks);
    assert_eq!(server.get("/startupz").await, (StatusCode::OK, json!({ "status": "started" })));
    assert_eq!(server.get("/readyz").await.0, StatusCode::OK);
    assert_eq!(server.get("/v1/models").await.0, StatusCode::OK);
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_sigterm_ends_a_start_that_is_not_over() {
    let home = Home::new();
    let port = common::free_port();
    let settings = format!("server.bind=127.0.0.1:{port}");
    let setup = Setup { settings, failpoints: "start=sleep(600000)".into(), ..Setup::default() };
    let mut child = home.command(&setup).arg("serve").spawn().expect("answerd starts");
    common::until_listening(port, "answerd").await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    let began = Instant::now();
    let status = loop {
        match child.try_wait().expect("wait") {
            Some(status) => break status,
            None => assert!(began.elapsed() < PATIENCE, "it does not end"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn the_start_is_over_once_what_lay_in_the_folders_can_be_found_and_stays_over() {
    let home = Home::new();
    let folder = tempfile::tempdir().expect("a folder");
    for n in 0..30 {
        std::fs::write(folder.path().join(format!("d{n}.md")), format!("# D{n}\n\nA word: everywhere."))
            .expect("a file");
    }
    let setup = Setup { folder: Some(folder.path().to_owned()), ..Setup::default() };
    let server = home.spawn(&setup).await;
    server.until("it has started", async || server.get("/startupz").await.0 == StatusCode::OK).await;
    assert_eq!(server.found("everywhere", "lexical").await.len(), 30);
    assert_eq!(server.get("/admin/status").await.1["starting"], json!([]));
    // Whatever fails later is no start.
    server.signal(libc::SIGTERM);
    server
        .until("it stops", async || {
            let startup = server.get("/startupz").await.0;
            assert!(startup == StatusCode::OK || startup == StatusCode::IM_A_TEAPOT, "{startup}");
            startup == StatusCode::IM_A_TEAPOT
        })
        .await;
}

#[tokio::test]
async fn a_model_that_is_not_there_yet_is_what_the_start_waits_for() {
    let home = Home::new();
    let server = home.spawn(&Setup::default()).await;
    // A model is loaded in less time than this takes to ask: what is certain is the order.
    server
        .until("it has started", async || {
            let startup = server.get("/startupz").await;
            // A connection to what served the start ends with that.
            if ![StatusCode::OK, StatusCode::IM_A_TEAPOT].contains(&startup.0) {
                problem(&startup, 503, "unavailable");
                assert!(!startup.1["reasons"].as_array().expect("reasons").is_empty());
            }
            startup.0 == StatusCode::OK
        })
        .await;
    assert_eq!(server.get("/readyz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn answers_under_way_end_after_a_sigterm_while_new_questions_are_sent_elsewhere() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(60, 50)));
    let server = serve(&home, &upstream, "server.shutdown_timeout_s=120").await;
    let response = begin(&server, &upstream).await;
    let place = response.headers()["location"].to_str().expect("an address").to_owned();
    server.signal(libc::SIGTERM);
    server
        .until("it is not ready", async || {
            let ready = server.get("/readyz").await;
            ready.0 == StatusCode::SERVICE_UNAVAILABLE && problem(&ready, 503, "unavailable").contains("stopping")
        })
        .await;
    let question = json!({ "question": "How many days of annual leave are there?" });
    let refused = server.http.post(server.url("/v1/answers")).json(&question).send().await.expect("a response");
    assert!(refused.headers().contains_key("retry-after"), "{refused:?}");
    assert_eq!(refused.headers()["connection"], "close");
    assert!(problem(&outcome(refused).await, 503, "unavailable").contains("stopping"));
    let chat = json!({ "model": "far", "messages": [{ "role": "user", "content": "Say something." }] });
    let (status, error) = server.post("/v1/chat/completions", chat).await;
    assert_eq!((status, &error["error"]["type"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("server_error")), "{error}");
    // What is no new question is served: alive, found, read on.
    assert_eq!(server.get("/healthz").await.0, StatusCode::OK);
    assert_eq!(server.found("annual leave", "lexical").await, ["leave.md"]);
    assert_eq!(server.get(&place).await.1["status"], "running");
    assert_eq!(upstream.open(), 1, "all of this came to pass while it was being written");
    let events = read_events(response).await;
    assert_eq!((text_of(&events), &one(&events, "done")["finish_reason"]), (said(60), &json!("stop")));
    ended(server).await;
}

#[tokio::test]
async fn an_answer_that_does_not_end_in_time_is_told_that_the_service_stops() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(5000, 50)));
    let settings = "server.shutdown_timeout_s=1\nanswer.max_output_tokens=1200\nanswer.evidence_tokens=64\nanswer.max_question_tokens=64";
    let server = serve(&home, &upstream, settings).await;
    let question = json!({ "question": "How many days of annual leave are there?", "max_tokens": 1200 });
    let stream = server.ask(question.clone()).await;
    let whole = server.http.post(server.url("/v1/answers")).json(&question).send();
    server.until("it is being written", async || upstream.open() >= 1).await;
    let (whole, stream) = (tokio::spawn(whole), tokio::spawn(read_events(stream)));
    server.until("both are being written", async || upstream.open() == 2).await;
    server.signal(libc::SIGTERM);
    let events = stream.await.expect("events");
    assert!(text_of(&events).starts_with("w0 w1"), "{events:?}");
    let error = &events.last().expect("an event").data;
    assert_eq!((&error["type"], &error["resumable"]), (&json!("urn:answerd:problem:unavailable"), &json!(false)));
    assert!(error["detail"].as_str().is_some_and(|detail| detail.contains("the service stops")), "{error}");
    let whole = whole.await.expect("a task").expect("a response");
    assert!(whole.headers().contains_key("retry-after"));
    problem(&outcome(whole).await, 503, "unavailable");
    ended(server).await;
    assert_eq!(upstream.open(), 0, "and the model is told");
}

/// Everything of an answer after an event.
async fn after(server: &Server, place: &str, last: &str) -> Vec<Event> {
    let request = server.http.get(server.url(&format!("{place}/events"))).header("last-event-id", last);
    let response = request.send().await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    read_events(response).await
}

#[tokio::test]
async fn what_was_said_of_an_answer_that_did_not_end_in_time_is_read_on_another_replica() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::paced(5000, 50)));
    let settings = format!(
        "redis.url={}\nanswer.max_output_tokens=1200\nanswer.evidence_tokens=64\nanswer.max_question_tokens=64\nserver.shutdown_timeout_s=1",
        redis.url()
    );
    let (here, there) = (Home::new(), Home::new());
    let a = serve(&here, &upstream, &settings).await;
    let b =
        there.serve(&Setup { settings: format!("{}\n{settings}", chat_on(&[&upstream])), ..Setup::default() }).await;
    let question = json!({ "question": "How many days of annual leave are there?", "max_tokens": 1200 });
    let response = a.ask(question).await;
    let place = response.headers()["location"].to_str().expect("an address").to_owned();
    a.until("it is being written", async || upstream.open() == 1).await;
    // Somebody reads it on the other replica as well, and another one comes there afterwards.
    b.until("it can be found", async || b.get(&place).await.0 == StatusCode::OK).await;
    let elsewhere = b.http.get(b.url(&format!("{place}/events"))).send().await.expect("a response");
    let elsewhere = tokio::spawn(read_events(elsewhere));
    a.signal(libc::SIGTERM);
    let events = read_events(response).await;
    let error = events.last().expect("an event").data.clone();
    assert_eq!((&error["status"], &error["resumable"]), (&json!(503), &json!(true)), "{error}");
    ended(a).await;
    let same = |read: &[Event], from: usize| {
        let of = |events: &[Event]| -> Vec<(String, Value)> {
            events.iter().map(|event| (event.id.clone(), event.data.clone())).collect()
        };
        assert_eq!(of(read), of(&events[from..]));
    };
    same(&elsewhere.await.expect("events"), 0);
    same(&after(&b, &place, &events[4].id).await, 5);
    let (_, whole) = b.get(&place).await;
    assert_eq!((&whole["status"], &whole["error"]), (&json!("ended"), &error), "{whole}");
}

#[tokio::test]
async fn who_reads_an_answer_of_another_replica_comes_again_there() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::paced(120, 50)));
    let settings = format!("redis.url={}\nserver.shutdown_timeout_s=1", redis.url());
    let (here, there) = (Home::new(), Home::new());
    let a = serve(&here, &upstream, &settings).await;
    let b =
        there.serve(&Setup { settings: format!("{}\n{settings}", chat_on(&[&upstream])), ..Setup::default() }).await;
    let begun = begin(&a, &upstream).await;
    let place = begun.headers()["location"].to_str().expect("an address").to_owned();
    let begun = tokio::spawn(read_events(begun));
    b.until("it can be found", async || b.get(&place).await.0 == StatusCode::OK).await;
    let read = b.http.get(b.url(&format!("{place}/events"))).send().await.expect("a response");
    let read = tokio::spawn(read_events(read));
    b.signal(libc::SIGTERM);
    let mut read = read.await.expect("events");
    let error = read.pop().expect("an event");
    assert_eq!((error.name.as_str(), &error.data["resumable"]), ("error", &json!(true)), "{error:?}");
    ended(b).await;
    // It went on where it is written: nothing is missing, nothing comes twice.
    read.extend(after(&a, &place, &read.last().expect("an event").id).await);
    assert_eq!(text_of(&read), said(120));
    assert_eq!(text_of(&begun.await.expect("events")), said(120));
}

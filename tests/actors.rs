//! The panic rule: the message at hand fails with an error, the actor works again, its restart is counted by
//! cause, and nobody else's stream notices. Proven for each actor, with panics injected into the real process.

#![cfg(feature = "failpoints")]

use crate::common;

use common::upstream::{Script, Upstream, chat_on, said};
use common::{Home, Server, Setup, one, read_events, text_of};
use reqwest::StatusCode;
use serde_json::{Value, json};

fn failing(point: &str) -> Setup {
    Setup { failpoints: format!("{point}=1*panic(injected)"), ..Setup::default() }
}

/// The actor was restarted once, for a panic, and works.
async fn restarted(server: &Server, name: &str, cause: &str) -> Value {
    server
        .until(&format!("{name} restarted"), async || {
            let status = server.actor(name).await;
            status["restarts"][cause] == 1 && status["state"] == "running"
        })
        .await;
    let status = server.actor(name).await;
    println!("{name}: worked again after {} ms", status["last_recovery_ms"]);
    assert!(status["last_error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{status}");
    status
}

#[tokio::test]
async fn a_panic_in_the_ingestor_fails_its_message_alone() {
    let home = Home::new();
    let server = home.serve(&failing("ingestor")).await;
    let first = server.put("/v1/documents/a", "text/plain", "first").await;
    common::problem(&first, 500, "internal");
    server.put_visible("b", "second").await;
    restarted(&server, "write/ingestor", "panic").await;
    server.put_visible("a", "first again").await;
}

#[tokio::test]
async fn a_panic_in_a_document_worker_is_tried_again_and_nothing_is_lost() {
    let home = Home::new();
    let server = home.serve(&failing("document")).await;
    server.put_visible("a", "the persistent narwhal").await;
    restarted(&server, "write/documents", "panic").await;
    assert_eq!(server.found("narwhal", "lexical").await, ["a"]);
}

#[tokio::test]
async fn a_document_that_panics_every_time_is_given_up_with_its_reason_and_the_rest_goes_on() {
    let home = Home::new();
    let setup = Setup {
        settings: "ingest.max_attempts = 3".into(),
        failpoints: "document=3*panic(injected)".into(),
        ..Setup::default()
    };
    let server = home.serve(&setup).await;
    let (_, body) = server.put("/v1/documents/poison?wait=true", "text/plain", "poison").await;
    assert_eq!(body["status"], "failed", "{body}");
    assert!(body["reason"].as_str().unwrap().contains("3 times"), "{body}");
    server.put_visible("healthy", "healthy").await;
    // The cause may have been ours: sent again, it is taken.
    server.put_visible("poison", "poison").await;
}

#[tokio::test]
async fn a_panic_in_the_embedder_fails_its_request_and_its_threads_go_on() {
    let home = Home::new();
    let server = home.serve(&failing("embedder")).await;
    server.put_visible("a", "the embedded narwhal").await;
    restarted(&server, "embedder", "panic").await;
    assert_eq!(server.found("narwhal", "vector").await, ["a"]);
}

#[tokio::test]
async fn a_panic_in_the_indexer_leaves_the_document_to_its_next_life() {
    let home = Home::new();
    let setup = Setup { failpoints: "indexer=1*off->1*panic(injected)->off".into(), ..Setup::default() };
    let server = home.serve(&setup).await;
    server.put_visible("a", "the indexed narwhal").await;
    restarted(&server, "write/indexer", "panic").await;
    for mode in ["lexical", "vector"] {
        assert_eq!(server.found("narwhal", mode).await, ["a"], "{mode}");
    }
}

#[tokio::test]
async fn a_panic_in_the_maintainer_is_made_up_for_in_its_next_round() {
    let home = Home::new();
    let server = home.serve(&failing("maintainer")).await;
    restarted(&server, "write/maintainer", "panic").await;
    server.put_visible("a", "the maintained narwhal").await;
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_panic_in_a_watched_folder_loses_no_file() {
    let watched = tempfile::tempdir().unwrap();
    std::fs::write(watched.path().join("a.md"), "the watched narwhal").unwrap();
    let home = Home::new();
    let server = home.serve(&Setup { folder: Some(watched.path().to_owned()), ..failing("folder") }).await;
    server.until("found", async || server.found("narwhal", "lexical").await == ["a.md"]).await;
    restarted(&server, "write/folder-1", "panic").await;
}

#[tokio::test]
async fn a_panic_in_the_cache_costs_time_and_nothing_else() {
    let home = Home::new();
    let upstream = Upstream::start(Script::default());
    let settings = format!("{}\ncache.enabled=true", chat_on(&[&upstream]));
    let server = home.serve(&Setup { settings, ..failing("cache") }).await;
    server.put_visible("narwhals", "# Narwhals\n\nNarwhals live in Arctic waters and have one long tusk.").await;
    let cached = async || one(&server.answer("Where do narwhals live?").await, "done")["cached"].clone();
    assert_eq!(cached().await, false);
    restarted(&server, "read/cache", "panic").await;
    server.answer("Where do narwhals live?").await;
    assert_eq!(cached().await, true);
}

#[tokio::test]
async fn a_panic_in_the_retriever_fails_one_search_and_no_stream() {
    let home = Home::new();
    let setup = Setup { failpoints: "retriever=1*off->1*panic(injected)->off".into(), ..Setup::default() };
    let server = home.serve(&setup).await;
    let text = "# Narwhals\n\nNarwhals live in Arctic waters and have one long tusk.";
    server.put_visible("narwhals", text).await;
    let stream = server.ask(json!({ "question": "Where do narwhals live?", "max_tokens": 40 })).await;
    let (events, failed) =
        tokio::join!(read_events(stream), async { server.post("/v1/search", json!({ "query": "narwhals" })).await });
    // One of the two met the panic, and the other did not notice.
    let stream_failed = events.iter().any(|event| event.name == "error");
    assert_eq!(stream_failed, failed.0 == StatusCode::OK, "{events:?} {failed:?}");
    restarted(&server, "read/retriever", "panic").await;
    assert_eq!(server.found("narwhals", "hybrid").await, ["narwhals"]);
}

#[tokio::test]
async fn a_panic_in_the_pool_or_a_worker_fails_one_answer_and_no_other_stream() {
    for (point, actor) in [("model_pool", "read/model-pool"), ("model_worker", "read/model-pool/worker-1")] {
        let home = Home::new();
        let setup = Setup { failpoints: format!("{point}=1*off->1*panic(injected)->off"), ..Setup::default() };
        let server = home.serve(&setup).await;
        server.put_visible("narwhals", "# Narwhals\n\nNarwhals live in Arctic waters and have one long tusk.").await;
        let first = server.ask(json!({ "question": "Where do narwhals live?", "max_tokens": 60 })).await;
        let (first, second) = tokio::join!(read_events(first), async {
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            read_events(server.ask(json!({ "question": "What do narwhals have?" })).await).await
        });
        let failed: Vec<_> = second.iter().filter(|event| event.name == "error").collect();
        assert_eq!(failed.len(), 1, "{point}: {second:?}");
        assert!(!text_of(&first).is_empty(), "{point}: {first:?}");
        one(&first, "done");
        restarted(&server, actor, "panic").await;
        let third = server.answer("Where do narwhals live?").await;
        assert!(!text_of(&third).is_empty(), "{third:?}");
    }
}

#[tokio::test]
async fn a_panic_on_the_write_path_is_noticed_by_no_stream() {
    for point in ["ingestor", "document", "embedder", "indexer", "maintainer"] {
        let home = Home::new();
        let upstream = Upstream::start(Script::paced(200, 25));
        let setup = Setup {
            settings: chat_on(&[&upstream]),
            // The document that the answer rests on gets through; the maintainer makes a round each 2 s.
            failpoints: format!("{point}={}*off->1*panic(injected)->off", if point == "maintainer" { 1 } else { 3 }),
            ..Setup::default()
        };
        let server = home.serve(&setup).await;
        server.put_visible("narwhals", "# Narwhals\n\nNarwhals live in Arctic waters.").await;
        let stream = server.ask(json!({ "question": "Where do narwhals live?", "max_tokens": 200 })).await;
        let reading = tokio::spawn(read_events(stream));
        server.until("it is being said", async || upstream.open() == 1).await;
        let name = match point {
            "embedder" => "embedder".to_owned(),
            "document" => "write/documents".to_owned(),
            other => format!("write/{other}"),
        };
        let mut put = 0;
        while server.actor(&name).await["restarts"]["panic"] != 1 {
            server.put(&format!("/v1/documents/more-{put}?wait=true"), "text/plain", format!("more {put}")).await;
            put += 1;
        }
        assert_eq!(upstream.open(), 1, "{point}: the stream outlasts the panic");
        let events = reading.await.unwrap();
        assert_eq!(text_of(&events), said(200), "{point}");
        one(&events, "done");
        restarted(&server, &name, "panic").await;
    }
}

#[tokio::test]
async fn an_engine_that_panics_fails_its_own_sequences_is_rebuilt_and_takes_the_waiting_ones() {
    let home = Home::new();
    let setup = Setup {
        settings: "models.chat.slots = 1".into(),
        failpoints: "engine::step=6*off->1*panic(injected)->off".into(),
        ..Setup::default()
    };
    let server = home.serve(&setup).await;
    server.put_visible("narwhals", "# Narwhals\n\nNarwhals live in Arctic waters and have one long tusk.").await;
    let ask = async || {
        read_events(server.ask(json!({ "question": "Where do narwhals live?", "max_tokens": 40 })).await).await
    };
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    let failed = [&a, &b, &c].iter().filter(|events| events.iter().any(|event| event.name == "error")).count();
    assert_eq!(failed, 1, "the one that ran: {a:?} {b:?} {c:?}");
    restarted(&server, "read/model-pool/worker-1", "died").await;
    assert!(!text_of(&server.answer("Where do narwhals live?").await).is_empty());
}

#[tokio::test]
async fn an_actor_that_keeps_failing_makes_readiness_say_why() {
    let home = Home::new();
    let setup = Setup {
        settings: "actors.unhealthy_restarts = 3\nactors.restart_backoff_ms = 1".into(),
        failpoints: "retriever=panic(injected)".into(),
        ..Setup::default()
    };
    let server = home.serve(&setup).await;
    for _ in 0..3 {
        let response = server.post("/v1/search", json!({ "query": "x", "mode": "lexical" })).await;
        common::problem(&response, 500, "internal");
    }
    server.until("not ready", async || server.get("/readyz").await.0 == StatusCode::SERVICE_UNAVAILABLE).await;
    let detail = common::problem(&server.get("/readyz").await, 503, "unavailable");
    assert!(detail.contains("read/retriever") && detail.contains("injected"), "{detail}");
    assert_eq!(server.get("/healthz").await.0, StatusCode::OK);
}

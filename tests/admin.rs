//! What operators look at and do, over HTTP; what people think of answers.

use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::common;
use common::nats::{Nats, all_taken, publish, stream_is_there};
use common::upstream::{Script, Upstream, chat_on};
use common::{Home, Server, Setup, problem, texts};

/// Reads the events of the admin page until one is as wanted; gives it.
async fn told(server: &Server, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let response = server.http.get(server.url("/admin/events")).send().await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    let mut events = response.bytes_stream().eventsource();
    let found = async {
        loop {
            let event = events.next().await.expect("an event").expect("an event");
            let data: Value = serde_json::from_str(&event.data).expect("JSON");
            if event.event == name && wanted(&data) {
                return data;
            }
        }
    };
    tokio::time::timeout(common::PATIENCE, found).await.expect("it is told")
}

#[tokio::test]
async fn the_state_is_told_as_it_changes_and_the_last_hour_in_figures() {
    let home = Home::new();
    let upstream = Upstream::start(Script::paced(20, 5));
    let server = home.serve(&Setup { settings: chat_on(&[&upstream]), ..Setup::default() }).await;
    let first = told(&server, "status", |_| true).await;
    assert_eq!((&first["ready"], first["cores"].as_u64().is_some_and(|cores| cores > 0)), (&json!(true), true));
    server.put_visible("a.md", "# Leave\n\nThere are 28 days of annual leave.").await;
    let later = told(&server, "status", |status| status["catalog"]["documents"] == 1).await;
    assert!(later["uptime_s"].as_u64() >= first["uptime_s"].as_u64());

    let watching = told(&server, "sample", |sample| sample["output_tokens"].as_f64() > Some(0.0));
    let asking = async {
        for n in 0..3 {
            let (status, answer) =
                server.post("/v1/answers", json!({ "question": format!("How many days, {n}?") })).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
        }
    };
    let (sample, ()) = tokio::join!(watching, asking);
    for name in ["input_tokens", "requests_ok", "first_token_p50_ms", "token_p95_ms", "resident_bytes"] {
        assert!(sample[name].as_f64() > Some(0.0), "{name}: {sample}");
    }
    assert!(sample["cpu_share"].as_f64().is_some_and(|share| (0.0..=64.0).contains(&share)), "{sample}");
    // A connection that was idle for as long as a sample takes is being closed by the server at this very moment.
    server.until("it answers", async || server.get("/healthz").await.0 == StatusCode::OK).await;
    let (_, series) = server.get("/admin/series").await;
    let (times, tokens) = (series["at_ms"].as_array().expect("times"), series["series"]["output_tokens"].as_array());
    assert_eq!(times.len(), tokens.expect("a column").len());
    let sum = |name: &str| series["series"][name].as_array().expect(name).iter().filter_map(Value::as_f64).sum::<f64>();
    // What ended after the last sample is in the next one.
    assert!(sum("requests_ok") <= 3.0 && sum("requests_ok") >= 1.0, "{series}");
    assert!(sum("ingested") >= 1.0, "{series}");
    problem(&server.post("/admin/status", json!({})).await, 405, "method-not-allowed");
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn what_happened_to_an_actor_is_on_the_time_line() {
    let home = Home::new();
    let setup = Setup { failpoints: "retriever=1*panic(injected)".into(), ..Setup::default() };
    let server = home.serve(&setup).await;
    let _ = server.post("/v1/search", json!({ "query": "x", "mode": "lexical" })).await;
    let status =
        told(&server, "status", |status| texts(&status["incidents"], "what").iter().any(|what| what == "recovered"))
            .await;
    let of_it: Vec<(&str, &str)> = status["incidents"]
        .as_array()
        .expect("incidents")
        .iter()
        .filter(|incident| incident["actor"] == "read/retriever")
        .map(|incident| (incident["what"].as_str().unwrap_or(""), incident["message"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(of_it, [("started", ""), ("panicked", "injected"), ("recovered", "")], "{status}");
}

#[tokio::test]
async fn the_settings_in_effect_are_shown_without_secrets() {
    let home = Home::new();
    let settings = "search.limit_max=77\nnats.password=s3cret\nredis.url=redis://ann:s3cret@127.0.0.1:1/0";
    let server = home.serve(&Setup { settings: settings.into(), ..Setup::default() }).await;
    let (status, shown) = server.get("/admin/config").await;
    assert_eq!((status, &shown["search"]["limit_max"]), (StatusCode::OK, &json!(77)));
    assert_eq!(
        (&shown["nats"]["password"], &shown["redis"]["url"]),
        (&json!("***"), &json!("redis://***@127.0.0.1:1/0"))
    );
    assert!(!shown.to_string().contains("s3cret"));
    assert!(
        !server.get("/admin/status").await.1.to_string().contains("s3cret") && !server.log_text().contains("s3cret")
    );
}

#[tokio::test]
async fn dead_letters_are_listed_published_again_and_removed() {
    let nats = Nats::start().await;
    let home = Home::new();
    let server = home.serve(&Setup { settings: nats.settings(), ..Setup::default() }).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    for n in 0..3 {
        publish(
            &bus,
            &format!("poison-{n}.pdf"),
            "upserted",
            &format!("e{n}"),
            &[("content-type", "application/pdf")],
            "no PDF",
        )
        .await;
    }
    all_taken(&server, &bus).await;
    let list = async |query: &str| server.get(&format!("/admin/dead-letters{query}")).await.1;
    server.until("three letters", async || texts(&list("").await["letters"], "id").len() == 3).await;
    let first = list("?limit=2").await;
    let rest = list(&format!("?limit=2&after={}", first["next"].as_str().expect("more"))).await;
    assert_eq!((&first["bus"], texts(&first["letters"], "id").len(), &rest["next"]), (&json!(true), 2, &Value::Null));
    // They were worked on at the same time.
    for (member, wanted) in
        [("document_id", ["poison-0.pdf", "poison-1.pdf", "poison-2.pdf"]), ("event_id", ["e0", "e1", "e2"])]
    {
        let mut found = [texts(&first["letters"], member), texts(&rest["letters"], member)].concat();
        found.sort();
        assert_eq!(found, wanted);
    }
    let letter = &first["letters"][0];
    assert!(
        letter["reason"].as_str().is_some_and(|reason| !reason.is_empty())
            && letter["at_ms"].as_u64() > Some(1_700_000_000_000),
        "{letter}"
    );

    // Published again, it fails again, and comes back with another number.
    let id = letter["id"].as_str().expect("an id").to_owned();
    let document = letter["document_id"].as_str().expect("a document").to_owned();
    let (status, _) = server.post(&format!("/admin/dead-letters/{id}/retry"), json!({})).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    server
        .until("it is back", async || {
            let letters = list("").await["letters"].clone();
            texts(&letters, "document_id").iter().filter(|id| **id == document).count() == 1
                && !texts(&letters, "id").contains(&id)
        })
        .await;
    let ids = texts(&list("").await["letters"], "id");
    assert_eq!(server.delete(&format!("/admin/dead-letters/{}", ids[0])).await.0, StatusCode::NO_CONTENT);
    assert_eq!(texts(&list("").await["letters"], "id"), ids[1..]);
    problem(&server.delete(&format!("/admin/dead-letters/{}", ids[0])).await, 404, "not-found");
    problem(&server.get("/admin/dead-letters?limit=0").await, 422, "invalid-request");
}

#[tokio::test]
async fn without_a_bus_there_are_no_dead_letters() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    assert_eq!(server.get("/admin/dead-letters").await.1, json!({ "bus": false, "letters": [], "next": null }));
    problem(&server.delete("/admin/dead-letters/1").await, 404, "not-found");
}

#[tokio::test]
async fn what_people_think_of_answers_is_kept_and_exported() {
    let home = Home::new();
    let upstream = Upstream::start(Script::default());
    let setup = Setup { settings: chat_on(&[&upstream]), ..Setup::default() };
    let server = home.serve(&setup).await;
    server.put_visible("a.md", "# Leave\n\nThere are 28 days of annual leave.").await;
    let (_, answer) = server.post("/v1/answers", json!({ "question": "How many days of leave?" })).await;
    let place = format!("/v1/answers/{}/feedback", answer["id"].as_str().expect("an id"));
    let down =
        json!({ "rating": "down", "note": "It says nothing of part-time.", "question": "How many days of leave?" });
    for rating in [json!({ "rating": "up" }), down] {
        assert_eq!(server.post(&place, rating).await.0, StatusCode::NO_CONTENT);
    }
    let export = || {
        let output = home.run(&setup, &["feedback"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).expect("text");
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    };
    let all = export();
    assert_eq!(all.len(), 1, "{all:?}");
    let record = &all[0];
    assert_eq!((&record["rating"], &record["answer"]), (&json!("down"), &answer["answer"]), "{record}");
    assert_eq!(
        (&record["note"], &record["sources"][0]["document_id"]),
        (&json!("It says nothing of part-time."), &json!("a.md"))
    );
    // What is wrong is refused, and so is what is said of an answer that nobody gave.
    problem(&server.post(&place, json!({ "rating": "sideways" })).await, 400, "invalid-json");
    problem(&server.post(&place, json!({ "rating": "up", "note": "x".repeat(5000) })).await, 422, "invalid-request");
    let never = format!("/v1/answers/{}/feedback", uuid::Uuid::now_v7().simple());
    problem(&server.post(&never, json!({ "rating": "up" })).await, 404, "not-found");
    assert_eq!(server.delete(&place).await.0, StatusCode::NO_CONTENT);
    assert_eq!(export().len(), 0);
}

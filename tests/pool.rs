//! What is promised about who waits for a model, who runs, and what happens when one of several fails.

use crate::common;

use std::time::Instant;

use common::upstream::{Script, Upstream, chat_on};
use common::{Event, Home, Server, Setup, one, problem, read_events, text_of};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

const ASK: &str = "How many days of annual leave are there?";

async fn fill(server: &Server) {
    server.put_visible("leave.md", "# Leave\n\nEvery employee has 28 days of annual leave.").await;
}

/// An answerd whose model is a scripted server that says 20 words in 200 ms, with two slots.
async fn scripted(home: &Home, settings: &str) -> (Server, Upstream) {
    let upstream = Upstream::start(Script::paced(20, 10));
    let settings = format!("{}\nmodels.chat.slots=2\n{settings}", chat_on(&[&upstream]));
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    fill(&server).await;
    (server, upstream)
}

async fn ask_as(server: &Server, key: &str, body: Value) -> Response {
    let request = server.http.post(server.url("/v1/answers")).header("accept", "text/event-stream");
    request.header("x-api-key", key).json(&body).send().await.expect("a response")
}

async fn pool(server: &Server) -> Value {
    server.actor("read/model-pool").await["detail"]["admission"].clone()
}

/// Reads an answer in a task of its own; gives when it ended as well.
fn reading(response: Response) -> tokio::task::JoinHandle<(Vec<Event>, Instant)> {
    assert_eq!(response.status(), StatusCode::OK);
    tokio::spawn(async { (read_events(response).await, Instant::now()) })
}

#[tokio::test]
async fn a_key_that_asks_for_much_does_not_hold_up_another_one() {
    let home = Home::new();
    let (server, _upstream) = scripted(&home, "models.chat.queue=30").await;
    let body = json!({ "question": ASK, "max_tokens": 20 });
    let mut greedy = Vec::new();
    for _ in 0..24 {
        greedy.push(reading(ask_as(&server, "greedy", body.clone()).await));
    }
    server.until("they wait", async || pool(&server).await["waiting"].as_u64() > Some(10)).await;
    let modest = reading(ask_as(&server, "modest", body.clone()).await);
    let (events, modest_end) = modest.await.unwrap();
    assert_eq!(one(&events, "done")["finish_reason"], "stop");
    let mut later = 0;
    for greedy in greedy {
        let (events, end) = greedy.await.unwrap();
        assert_eq!(one(&events, "done")["finish_reason"], "stop");
        later += usize::from(end > modest_end);
    }
    assert!(later >= 8, "only {later} of 24 came after the one that came last");
    server.until_idle().await;
}

#[tokio::test]
async fn batch_requests_wait_for_interactive_ones() {
    let home = Home::new();
    let (server, _upstream) = scripted(&home, "models.chat.queue=30").await;
    let batch = json!({ "question": ASK, "max_tokens": 20, "priority": "batch" });
    let mut waiting = Vec::new();
    for _ in 0..12 {
        waiting.push(reading(ask_as(&server, "one", batch.clone()).await));
    }
    server.until("they wait", async || pool(&server).await["waiting"].as_u64() > Some(4)).await;
    let mut urgent = Vec::new();
    for _ in 0..4 {
        urgent.push(reading(ask_as(&server, "one", json!({ "question": ASK, "max_tokens": 20 })).await));
    }
    let mut last_urgent = None;
    for answer in urgent {
        last_urgent = last_urgent.max(Some(answer.await.unwrap().1));
    }
    let mut ends = Vec::new();
    for answer in waiting {
        let (events, end) = answer.await.unwrap();
        assert_eq!(one(&events, "done")["finish_reason"], "stop");
        ends.push(end);
    }
    assert!(ends.iter().filter(|end| Some(**end) > last_urgent).count() >= 3);
    server.until_idle().await;
}

#[tokio::test]
async fn who_cannot_be_served_in_time_is_refused_at_once_with_when_to_come_again_and_the_counts() {
    let home = Home::new();
    let settings = "models.chat.queue=1000\nmodels.chat.first_token_s=1";
    let (server, upstream) = scripted(&home, settings).await;
    // What one takes is measured.
    upstream.play(Script::paced(60, 20));
    for _ in 0..3 {
        read_events(server.ask(json!({ "question": ASK, "max_tokens": 60 })).await).await;
    }
    let mut taken = Vec::new();
    let refused = loop {
        let response = ask_as(&server, "one", json!({ "question": ASK, "max_tokens": 60 })).await;
        if response.status() != StatusCode::OK {
            break response;
        }
        taken.push(reading(response));
        assert!(taken.len() < 50, "none is refused");
    };
    let retry: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    let body: Value = refused.json().await.unwrap();
    let detail = problem(&(StatusCode::TOO_MANY_REQUESTS, body.clone()), 429, "overloaded");
    assert!(detail.contains("first token"), "{detail}");
    assert!(body["expected_first_token_ms"].as_u64() > Some(1000), "{body}");
    assert_eq!((&body["slots"], &body["max_waiting"]), (&json!(2), &json!(1000)), "{body}");
    assert_eq!(body["retry_after_s"], retry);
    // A batch request has more time, and waits.
    let batch = json!({ "question": ASK, "max_tokens": 60, "priority": "batch" });
    taken.push(reading(ask_as(&server, "one", batch).await));
    for answer in taken {
        one(&answer.await.unwrap().0, "done");
    }
    server.until_idle().await;
    assert!(pool(&server).await["refused"].as_u64() >= Some(1));
}

#[tokio::test]
async fn what_waits_is_bounded_by_the_tokens_of_its_prompts_and_by_the_answers_open() {
    let home = Home::new();
    let (server, _upstream) = scripted(&home, "models.chat.queue_tokens=3000\nanswer.max_open=12").await;
    let body = |key: usize| json!({ "question": format!("{ASK} {key}"), "max_tokens": 20 });
    let answers = futures_util::future::join_all((0..30).map(|n| ask_as(&server, "one", body(n)))).await;
    let mut reasons = Vec::new();
    let mut taken = Vec::new();
    for response in answers {
        if response.status() == StatusCode::OK {
            taken.push(reading(response));
        } else {
            reasons.push(problem(&(response.status(), response.json().await.unwrap()), 429, "overloaded"));
        }
    }
    assert!(reasons.iter().all(|reason| reason.contains("tokens wait") || reason.contains("max_open")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("tokens wait")), "{reasons:?}");
    for answer in taken {
        one(&answer.await.unwrap().0, "done");
    }
    server.until_idle().await;
}

#[tokio::test]
async fn several_models_are_there_by_name_and_one_that_cannot_be_loaded_is_told_at_the_start() {
    let upstream = Upstream::start(Script::paced(5, 0));
    let home = Home::new();
    let settings = format!(
        "models.more=[{{ name = \"far\", engine = \"openai\", slots = 4 }}, {{ name = \"broken\", path = \"/nowhere.gguf\" }}]\n\
         models.upstreams=[{{ serves = \"far\", url = \"{}\" }}]",
        upstream.url()
    );
    // A model that cannot be loaded at the start is the operator's mistake: the process ends and says so.
    let ended = home.run(&Setup { settings: settings.clone(), ..Setup::default() }, &["serve"]);
    let message = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success());
    assert!(message.contains("/nowhere.gguf"), "{message}");

    let settings = settings.replace(", { name = \"broken\", path = \"/nowhere.gguf\" }", "");
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    fill(&server).await;
    let chat =
        |model: &str| json!({ "model": model, "max_tokens": 5, "messages": [{ "role": "user", "content": "Hi" }] });
    for model in ["far", "smollm2-135m-instruct"] {
        let (status, body) = server.post("/v1/chat/completions", chat(model)).await;
        assert_eq!(status, StatusCode::OK, "{model}: {body}");
        assert!(!body["choices"][0]["message"]["content"].as_str().unwrap().is_empty(), "{body}");
    }
    assert!(!text_of(&server.answer(ASK).await).is_empty());
}

#[tokio::test]
async fn a_conversation_finds_what_it_said_before_whatever_others_asked_meanwhile() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let chat = async |messages: &Value| {
        let body =
            json!({ "model": "smollm2-135m-instruct", "max_tokens": 12, "temperature": 0, "messages": messages });
        let (status, body) = server.post("/v1/chat/completions", body).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    };
    let long =
        "Tell me about the weather in Lisbon, the trains in Bern and the food in Lyon, in this order. ".repeat(4);
    let first = json!([{ "role": "user", "content": long }]);
    let answer = chat(&first).await;
    for n in 0..5 {
        chat(&json!([{ "role": "user", "content": format!("What is {n} and {n}?") }])).await;
    }
    let said = &answer["choices"][0]["message"]["content"];
    let second =
        json!([first[0], { "role": "assistant", "content": said }, { "role": "user", "content": "And in May?" }]);
    let usage = chat(&second).await["usage"].clone();
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= answer["usage"]["prompt_tokens"].as_u64().unwrap(), "{answer} {usage}");
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn an_engine_that_dies_is_replaced_while_the_other_workers_serve() {
    let home = Home::new();
    let setup = Setup {
        settings: "models.chat.workers=2\nmodels.chat.slots=1\nactors.restart_backoff_ms=1500".into(),
        failpoints: "engine::step=8*off->1*panic(injected)->off".into(),
        ..Setup::default()
    };
    let server = home.serve(&setup).await;
    fill(&server).await;
    let answers = async || {
        let ask = async || read_events(server.ask(json!({ "question": ASK, "max_tokens": 30 })).await).await;
        futures_util::join!(ask(), ask(), ask(), ask())
    };
    let (a, b, c, d) = answers().await;
    let failed = [&a, &b, &c, &d].iter().filter(|events| events.iter().any(|event| event.name == "error")).count();
    assert_eq!(failed, 1, "the one that ran on it");
    // The pool of a model that works is ready, and says what does not.
    assert_eq!(server.get("/readyz").await.0, StatusCode::OK);
    server
        .until("both work again", async || {
            let (one, two) =
                (server.actor("read/model-pool/worker-1").await, server.actor("read/model-pool/worker-2").await);
            one["detail"]["state"] == "ready" && two["detail"]["state"] == "ready"
        })
        .await;
    let (a, b, c, d) = answers().await;
    for events in [a, b, c, d] {
        one(&events, "done");
    }
    server.until_idle().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn an_engine_that_hangs_is_replaced_and_what_had_not_begun_goes_on() {
    let home = Home::new();
    let setup = Setup {
        settings: "models.chat.slots=1\nmodels.chat.stall_s=2".into(),
        failpoints: "engine::step=6*off->1*sleep(600000)->off".into(),
        ..Setup::default()
    };
    let server = home.serve(&setup).await;
    fill(&server).await;
    let ask = async || read_events(server.ask(json!({ "question": ASK, "max_tokens": 20 })).await).await;
    let (a, b) = futures_util::join!(ask(), ask());
    let failed: Vec<_> =
        [&a, &b].into_iter().filter(|events| events.iter().any(|event| event.name == "error")).collect();
    assert_eq!(failed.len(), 1, "{a:?} {b:?}");
    let detail = one(failed[0], "error")["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("hangs"), "{detail}");
    assert!(!text_of(&ask().await).is_empty());
    server.until_idle().await;
    assert!(server.stop().await.success());
}

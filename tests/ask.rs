//! What is promised about answers.

use crate::common;

use common::{Home, Server, Setup, one, problem, read_events, text_of};
use futures_util::StreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn fill(server: &Server) {
    server
        .put_visible(
            "expenses.md",
            "# Expenses\n\n## Meals\n\nThe daily limit for meals is 48 euros.\n\n## Hotels\n\nHotels may cost up to 140 euros a night.",
        )
        .await;
    server
        .put_visible(
            "oncall.md",
            "# On call\n\nThe engineer on call answers a page within 15 minutes. The rota changes on Tuesdays.",
        )
        .await;
}

#[tokio::test]
async fn an_answer_streams_its_stages_sources_text_and_account_in_order() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    fill(&server).await;
    let response = server.ask(json!({ "question": "What is the daily limit for meals?", "max_tokens": 60 })).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let events = read_events(response).await;

    let answer = events[0].id.rsplit_once(':').unwrap().0.to_owned();
    for (position, event) in events.iter().enumerate() {
        assert_eq!(event.id, format!("{answer}:{position}"));
    }
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    let at = |name: &str| names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no {name} in {names:?}"));
    assert_eq!(names[0], "status");
    assert!(at("sources") < at("token") && at("token") < at("usage") && at("usage") < at("done"));
    assert_eq!(*names.last().unwrap(), "done");

    let source = &one(&events, "sources")["sources"][0];
    assert_eq!((&source["n"], &source["document_id"]), (&json!(1), &json!("expenses.md")));
    assert!(source["snippet"].as_str().unwrap().contains("48 euros"), "{source}");
    assert!(!text_of(&events).is_empty());
    let usage = one(&events, "usage");
    let count = |name: &str| usage[name].as_u64().unwrap();
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    assert!(count("prompt_tokens") > 40 && (1..=60).contains(&count("completion_tokens")), "{usage}");
    let done = one(&events, "done");
    assert!(["stop", "length"].contains(&done["finish_reason"].as_str().unwrap()));
    assert_eq!((&done["cached"], &done["lag_ms"]), (&json!(false), &json!(0)));
}

#[tokio::test]
async fn the_same_answer_comes_as_one_json_object_when_asked_for() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    fill(&server).await;
    let (status, body) =
        server.post("/v1/answers", json!({ "question": "How much may a hotel cost?", "max_tokens": 60 })).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    // What a model this small says of it is its own affair.
    assert!(!body["answer"].as_str().unwrap().is_empty(), "{body}");
    assert_eq!(body["sources"][0]["document_id"], "expenses.md");
    assert!(body["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    for member in ["id", "finish_reason", "cached", "seq", "lag_ms", "lag_events"] {
        assert!(!body[member].is_null(), "{member}: {body}");
    }
}

#[tokio::test]
async fn every_citation_names_a_source_of_the_answer() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    fill(&server).await;
    for question in ["What is the daily limit for meals?", "How fast must the engineer on call answer a page?"] {
        let events = server.answer(question).await;
        let sources = one(&events, "sources")["sources"].as_array().unwrap().len();
        let text = text_of(&events);
        let cited: Vec<usize> =
            text.split('[').skip(1).filter_map(|rest| rest.split(']').next()?.parse().ok()).collect();
        assert!(cited.iter().all(|n| (1..=sources).contains(n)), "{cited:?} of {sources}: {text}");
    }
}

#[tokio::test]
async fn where_nothing_relevant_is_found_it_says_so_and_calls_no_model() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let empty = server.answer("What is the daily limit for meals?").await;
    assert_eq!(one(&empty, "done")["finish_reason"], "not_found");
    fill(&server).await;
    let events = server.answer("Which team won the 1974 football world cup?").await;
    assert_eq!(one(&events, "done")["finish_reason"], "not_found", "{}", text_of(&events));
    assert_eq!(one(&events, "sources")["sources"], json!([]));
    assert_eq!(one(&events, "usage")["completion_tokens"], 0);
    assert!(!text_of(&events).is_empty());
}

#[tokio::test]
async fn a_follow_up_is_searched_with_what_was_asked_before() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    fill(&server).await;
    let messages = json!([
        { "role": "user", "content": "What is the daily limit for meals?" },
        { "role": "assistant", "content": "The daily limit for meals is 48 euros [1]." }
    ]);
    let sources = async |messages: &Value| {
        let body = json!({ "question": "How much is that in all?", "messages": messages, "max_tokens": 8 });
        one(&read_events(server.ask(body).await).await, "sources")["sources"].clone()
    };
    assert_eq!(sources(&messages).await[0]["document_id"], "expenses.md");
    assert_eq!(sources(&json!([])).await, json!([]), "by itself it asks about nothing");
}

#[tokio::test]
async fn a_filter_keeps_other_documents_out_of_the_evidence() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    fill(&server).await;
    let body =
        json!({ "question": "What is the daily limit for meals?", "filter": { "id": "oncall.md" }, "max_tokens": 10 });
    let events = read_events(server.ask(body).await).await;
    for source in one(&events, "sources")["sources"].as_array().unwrap() {
        assert_eq!(source["document_id"], "oncall.md");
    }
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_generation() {
    let home = Home::new();
    let setup = Setup {
        settings: "answer.max_output_tokens = 1024\nmodels.chat.context = 4096\nanswer.resume_grace_s = 0".into(),
        ..Setup::default()
    };
    let server = home.serve(&setup).await;
    fill(&server).await;
    let question = "Write a very long story about the daily limit for meals, with many details.";
    let running = async || {
        let load = &server.actor("read/model-pool/worker-1").await["detail"]["load"];
        load["running"].as_u64().unwrap() + load["parked"].as_u64().unwrap()
    };
    let mut left = 0;
    for _ in 0..3 {
        let response = server.ask(json!({ "question": question, "max_tokens": 1024, "temperature": 1.0 })).await;
        let mut bytes = response.bytes_stream();
        let mut seen = String::new();
        while !seen.contains("event: token") {
            let Some(more) = bytes.next().await else { break };
            seen.push_str(&String::from_utf8_lossy(&more.unwrap()));
        }
        left += u64::from(!seen.contains("event: done"));
        drop(bytes);
        server.until("the slot is free", async || running().await == 0).await;
    }
    assert!(left > 0, "the client never left in the middle");
    let log = server.log_text();
    assert!(log.contains("Cancelled"), "a generation was cancelled:\n{log}");
}

#[tokio::test]
async fn many_questions_at_once_are_all_answered_and_more_than_that_refused() {
    let home = Home::new();
    let setup = Setup { settings: "models.chat.slots = 2\nmodels.chat.queue = 2".into(), ..Setup::default() };
    let server = home.serve(&setup).await;
    fill(&server).await;
    let ask = async |n: usize| {
        let response = server
            .ask(json!({ "question": format!("What is the daily limit for meals, in words, {n}?"), "max_tokens": 40 }))
            .await;
        let status = response.status();
        if status == StatusCode::OK {
            let events = read_events(response).await;
            one(&events, "done");
            return (status, Value::Null, None);
        }
        let retry = response.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
        (status, response.json::<Value>().await.unwrap(), retry)
    };
    let all = futures_util::future::join_all((0..12).map(ask)).await;
    let answered = all.iter().filter(|(status, ..)| *status == StatusCode::OK).count();
    assert!(answered >= 4, "{answered}");
    assert!(answered < 12, "none was refused");
    for (status, body, retry) in all.into_iter().filter(|(status, ..)| *status != StatusCode::OK) {
        problem(&(status, body), 429, "overloaded");
        assert!(retry.is_some_and(|seconds| seconds.parse::<u64>().unwrap() > 0));
    }
    server.until("all places are free", async || server.actor("read/model-pool").await["depth"] == 0).await;
}

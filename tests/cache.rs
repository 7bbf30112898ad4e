//! What is promised about answers that are kept, and about those that many ask for at once.

use crate::common;

use std::collections::BTreeMap;

use common::upstream::{Fault, Script, Upstream, chat_on, said};
use common::{Event, Home, Server, Setup, one, problem, read_events, text_of};
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::StatusCode;
use serde_json::{Value, json};

const MEALS: &str = "# Expenses\n\nThe daily limit for meals is 48 euros.";
const QUESTION: &str = "What is the daily limit for meals?";

async fn serve(home: &Home, upstream: &Upstream, settings: &str) -> Server {
    let settings = format!("{}\ncache.enabled=true\n{settings}", chat_on(&[upstream]));
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    server.put_visible("expenses.md", MEALS).await;
    server
}

async fn send(server: &Server, body: &Value, cache: &str) -> reqwest::Response {
    let request = server.http.post(server.url("/v1/answers")).header("accept", "text/event-stream");
    request.header("cache-control", cache).json(body).send().await.expect("a response")
}

/// Asks with a `Cache-Control`, and gives the whole stream.
async fn ask(server: &Server, body: Value, cache: &str) -> Vec<Event> {
    let response = send(server, &body, cache).await;
    assert_eq!(response.status(), StatusCode::OK);
    read_events(response).await
}

/// Asks for what was answered just now. It is kept a moment after its end was told, and who asks in between shares it instead.
async fn again(server: &Server, body: Value) -> Vec<Event> {
    let began = std::time::Instant::now();
    loop {
        let response = send(server, &body, "only-if-cached").await;
        if response.status() != StatusCode::GATEWAY_TIMEOUT || began.elapsed() > common::PATIENCE {
            assert_eq!(response.status(), StatusCode::OK, "{body}");
            return read_events(response).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn is_cached(events: &[Event]) -> bool {
    one(events, "done")["cached"] == true
}

/// The usage records, once there are so many.
async fn records(home: &Home, server: &Server, wanted: usize) -> Vec<Value> {
    let read = || -> Vec<Value> {
        let files = std::fs::read_dir(home.data().join("usage")).expect("the records");
        let texts = files.map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("a text"));
        texts
            .flat_map(|text| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>())
            .collect()
    };
    server.until("the records are written", async || read().len() >= wanted).await;
    read()
}

#[tokio::test]
async fn the_same_question_again_is_replayed_and_says_so() {
    let upstream = Upstream::start(Script::default());
    let home = Home::new();
    let server = serve(&home, &upstream, "").await;
    let first = server.answer(QUESTION).await;
    assert!(!is_cached(&first) && text_of(&first).contains("w19"));
    let same = again(&server, json!({ "question": QUESTION, "max_tokens": 48 })).await;
    let otherwise_written = server.answer("  What is the daily limit\nfor meals ? ").await;
    for again in [same, otherwise_written] {
        assert!(is_cached(&again), "{again:?}");
        assert_ne!(again[0].id, first[0].id, "it is an answer of its own");
        assert_eq!((text_of(&again), one(&again, "sources")), (text_of(&first), one(&first, "sources")));
        assert_eq!(
            again.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(),
            ["status", "sources", "token", "usage", "done"]
        );
        let usage = one(&again, "usage");
        assert_eq!((&usage["completion_tokens"], &usage["cached_prompt_tokens"]), (&json!(20), &json!(11)), "{usage}");
        // It can be read again like any other.
        let id = again[0].id.rsplit_once(':').unwrap().0;
        let (_, shown) = server.get(&format!("/v1/answers/{id}")).await;
        assert_eq!((&shown["cached"], &shown["answer"]), (&json!(true), &json!(text_of(&first))));
    }
    let (_, object) = server.post("/v1/answers", json!({ "question": QUESTION, "max_tokens": 48 })).await;
    assert_eq!((&object["cached"], &object["answer"]), (&json!(true), &json!(text_of(&first))));
    // Another limit, temperature, filter or conversation is another question.
    for other in [
        json!({ "max_tokens": 47 }),
        json!({ "max_tokens": 48, "temperature": 0.5 }),
        json!({ "max_tokens": 48, "stop": ["w3"] }),
        json!({ "max_tokens": 48, "messages": [{ "role": "user", "content": "I am in Lisbon." }] }),
    ] {
        let mut body = other;
        body["question"] = QUESTION.into();
        assert!(!is_cached(&ask(&server, body.clone(), "").await), "{body}");
        assert!(is_cached(&again(&server, body.clone()).await), "{body}");
    }
    assert_eq!(upstream.asked().len(), 5);
    let records = records(&home, &server, 12).await;
    let by = |served: &str| records.iter().filter(|record| record["served"] == served).collect::<Vec<_>>();
    assert_eq!((by("model").len(), by("cache").len()), (5, 7));
    assert!(by("cache").iter().all(|record| record["completion_tokens"] == 0 && record["prompt_tokens"] == 0));
    let metrics = server.http.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    for line in ["answerd_cache_events_total{event=\"answer\"} 7", "answerd_cache_events_total{event=\"generated\"} 5"]
    {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn an_answer_lives_as_long_as_what_it_rests_on() {
    let upstream = Upstream::start(Script::default());
    let home = Home::new();
    let server = serve(&home, &upstream, "answer.max_passages=1").await;
    let asked = async || {
        let before = upstream.asked().len();
        let cached = is_cached(&server.answer(QUESTION).await);
        assert_eq!(cached, upstream.asked().len() == before);
        again(&server, json!({ "question": QUESTION, "max_tokens": 48 })).await;
        cached
    };
    assert!(!asked().await && asked().await);
    // A document that has nothing to do with it moves the index, and changes no passage.
    server.put_visible("oncall.md", "# On call\n\nThe rota of the engineers changes on Tuesdays.").await;
    assert!(asked().await);
    server.put_visible("expenses.md", &MEALS.replace("48", "52")).await;
    assert!(!asked().await && asked().await);
    // As it was: the first answer is right again.
    server.put_visible("expenses.md", MEALS).await;
    assert!(asked().await);
    // One that belongs to the evidence.
    server.put_visible("limits.md", "# The daily limit for meals\n\nThe daily limit for meals is 40 euros.").await;
    assert!(!asked().await && asked().await);
    assert_eq!(server.delete("/v1/documents/limits.md?wait=true").await.0, StatusCode::OK);
    assert!(asked().await);
    assert_eq!(server.delete("/v1/documents/expenses.md?wait=true").await.0, StatusCode::OK);
    let gone = server.answer(QUESTION).await;
    assert_eq!(one(&gone, "done")["finish_reason"], "not_found");
    // Kept as well: the same, without a search.
    assert_eq!(one(&server.answer(QUESTION).await, "done")["finish_reason"], "not_found");
    // What rested on the deleted document is forgotten, though it comes again as it was.
    server.put_visible("expenses.md", MEALS).await;
    assert!(!asked().await && asked().await);
}

#[tokio::test]
async fn cache_control_is_obeyed_by_every_protocol() {
    let upstream = Upstream::start(Script::default());
    let home = Home::new();
    let server = serve(&home, &upstream, "").await;
    let body = json!({ "question": QUESTION, "max_tokens": 48 });
    let only = async || {
        let request = server.http.post(server.url("/v1/answers")).header("cache-control", "only-if-cached");
        let response = request.json(&body).send().await.unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    problem(&only().await, 504, "not-cached");
    // Not kept, and not told of.
    ask(&server, body.clone(), "max-age=0, No-Store").await;
    problem(&only().await, 504, "not-cached");
    assert_eq!(upstream.asked().len(), 1);
    ask(&server, body.clone(), "").await;
    again(&server, body.clone()).await;
    let (status, kept) = only().await;
    assert_eq!((status, &kept["cached"]), (StatusCode::OK, &json!(true)), "{kept}");
    // Anew, and that one is kept.
    upstream.play(Script { tokens: 7, ..Script::default() });
    assert_eq!(text_of(&ask(&server, body.clone(), "no-cache").await).trim(), said(7).trim());
    let is_new = async || only().await.1["answer"].as_str().is_some_and(|text| text.trim() == said(7).trim());
    server.until("the new one is kept", is_new).await;
    // OpenAI's protocol asks the same question.
    let chat = json!({
        "model": "answerd", "max_tokens": 48, "messages": [{ "role": "user", "content": QUESTION }]
    });
    let asked = upstream.asked().len();
    let (_, completion) = server.post("/v1/chat/completions", chat.clone()).await;
    assert_eq!(completion["choices"][0]["message"]["content"].as_str().unwrap().trim(), said(7).trim());
    assert_eq!(upstream.asked().len(), asked);
    let request = server.http.post(server.url("/v1/chat/completions")).header("cache-control", "no-cache");
    request.json(&chat).send().await.unwrap().text().await.unwrap();
    assert_eq!(upstream.asked().len(), asked + 1);
    let mut other = chat;
    other["max_tokens"] = 12.into();
    let request = server.http.post(server.url("/v1/chat/completions")).header("cache-control", "only-if-cached");
    let refused = request.json(&other).send().await.unwrap();
    assert_eq!(refused.status(), 504);
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn almost_the_same_words_share_an_answer_and_another_question_does_not() {
    let upstream = Upstream::start(Script::default());
    let home = Home::new();
    let server = serve(&home, &upstream, "answer.max_passages=1").await;
    server.put_visible("travel.md", "# Travel\n\nOnly the head of a team may approve travel to other countries.").await;
    server.answer(QUESTION).await;
    again(&server, json!({ "question": QUESTION, "max_tokens": 48 })).await;
    for near in ["what's the daily limit for meals", "Please tell me: what is the daily limit for a meal?"] {
        let events = server.answer(near).await;
        assert!(is_cached(&events), "{near}: {events:?}");
    }
    assert_eq!(upstream.asked().len(), 1);
    for other in [
        "What is the weekly limit for meals?",
        "What is the daily limit for meals in Lisbon?",
        "What was the daily limit for meals?",
        "Is 50 the daily limit for meals?",
        "What isn't the daily limit for meals?",
        "Who may approve travel?",
        "Who may not approve travel?",
    ] {
        assert!(!is_cached(&server.answer(other).await), "{other}");
    }
}

#[tokio::test]
async fn many_who_ask_at_once_cost_one_generation_and_each_has_an_answer_of_its_own() {
    const CLIENTS: usize = 100;
    let upstream = Upstream::start(Script::paced(20, 50));
    let home = Home::new();
    // Fewer may wait, and even fewer run, than ask.
    let server = serve(&home, &upstream, "models.chat.queue=4\nmodels.chat.slots=2").await;
    let answers = join_all((0..CLIENTS).map(|_| server.answer(QUESTION))).await;
    assert_eq!(upstream.asked().len(), 1);
    let mut ids: Vec<&str> = answers.iter().map(|events| events[0].id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), CLIENTS);
    for events in &answers {
        assert_eq!(text_of(events).trim(), said(20).trim());
        assert_eq!(one(events, "done")["finish_reason"], "stop");
        assert_eq!(one(events, "sources")["sources"][0]["document_id"], "expenses.md");
        assert_eq!(one(events, "usage")["completion_tokens"], 20);
    }
    let records = records(&home, &server, CLIENTS).await;
    assert_eq!(records.iter().filter(|record| record["served"] == "model").count(), 1);
    assert_eq!(records.iter().map(|record| record["completion_tokens"].as_u64().unwrap()).sum::<u64>(), 20);
    server.until_idle().await;
}

#[tokio::test]
async fn who_leaves_or_cancels_ends_its_own_answer_and_the_last_one_the_generation() {
    let upstream = Upstream::start(Script::paced(40, 50));
    let home = Home::new();
    let server = serve(&home, &upstream, "answer.resume_grace_s=0").await;
    let body = json!({ "question": QUESTION, "max_tokens": 48 });
    let first = server.ask(body.clone()).await;
    let place = first.headers()["location"].to_str().unwrap().to_owned();
    server.until("it is asked", async || upstream.open() == 1).await;
    let (second, third) = (server.ask(body.clone()).await, server.ask(body.clone()).await);
    let first = tokio::spawn(read_events(first));
    // The one that all began with.
    assert_eq!(server.delete(&place).await.0, StatusCode::NO_CONTENT);
    let first = first.await.unwrap();
    assert_eq!(one(&first, "done")["finish_reason"], "cancelled");
    // One goes without a word, the other hears the rest.
    drop(second);
    let third = read_events(third).await;
    assert_eq!(
        (text_of(&third).trim(), one(&third, "done")["finish_reason"].as_str()),
        (said(40).trim(), Some("stop"))
    );
    assert_eq!(upstream.asked().len(), 1);

    // The last one that leaves ends it, and what was cut short is not kept.
    let body = json!({ "question": QUESTION, "max_tokens": 47 });
    let (one_of_two, other) = (server.ask(body.clone()).await, server.ask(body.clone()).await);
    server.until("it is asked", async || upstream.open() == 1).await;
    drop((one_of_two, other));
    server.until("nobody reads", async || upstream.open() == 0).await;
    assert!(!is_cached(&ask(&server, body, "").await));
    server.until_idle().await;
}

#[tokio::test]
async fn one_that_fails_fails_for_all_who_wait_for_it_and_for_nobody_after_them() {
    let upstream = Upstream::start(Script { fault: Some(Fault::Breaks(3)), ..Script::paced(20, 40) });
    let home = Home::new();
    let server = serve(&home, &upstream, "").await;
    let answers = join_all((0..4).map(|_| server.answer(QUESTION))).await;
    assert_eq!(upstream.asked().len(), 1);
    for events in &answers {
        assert_eq!(events.last().unwrap().name, "error", "{events:?}");
    }
    upstream.play(Script::default());
    let next = server.answer(QUESTION).await;
    assert!(!is_cached(&next) && text_of(&next).contains("w19"));
    server.until_idle().await;
}

#[tokio::test]
async fn who_asks_while_the_index_moves_joins_what_rests_on_the_same_passages() {
    let upstream = Upstream::start(Script::paced(20, 60));
    let home = Home::new();
    let server = serve(&home, &upstream, "answer.max_passages=1").await;
    let body = json!({ "question": QUESTION, "max_tokens": 48 });
    let first = tokio::spawn(read_events(server.ask(body.clone()).await));
    server.until("it is asked", async || upstream.open() == 1).await;
    server.put_visible("oncall.md", "# On call\n\nThe rota of the engineers changes on Tuesdays.").await;
    let second = read_events(server.ask(body.clone()).await).await;
    server.put_visible("expenses.md", &MEALS.replace("48", "52")).await;
    let third = read_events(server.ask(body).await).await;
    let first = first.await.unwrap();
    assert_eq!(text_of(&second), text_of(&first));
    assert!(!is_cached(&second));
    let seq = |events: &[Event]| one(events, "done")["seq"].as_u64().unwrap();
    assert!(seq(&first) < seq(&second) && seq(&second) < seq(&third), "each says what it saw");
    assert_eq!(upstream.asked().len(), 2, "the third rests on another passage");
}

/// What happens to the documents, and who asks.
#[derive(Debug, Clone)]
enum Step {
    Put(usize, usize),
    Delete(usize),
    Ask(usize, usize),
    Remark,
}

const DOCUMENTS: usize = 4;
const TENANTS: usize = 2;
const TOPICS: [&str; 2] = ["narwhals", "glaciers"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..DOCUMENTS, 0..TENANTS).prop_map(|(document, tenant)| Step::Put(document, tenant)),
        1 => (0..DOCUMENTS).prop_map(Step::Delete),
        9 => (0..TENANTS, 0..TOPICS.len()).prop_map(|(tenant, topic)| Step::Ask(tenant, topic)),
        1 => Just(Step::Remark),
    ]
}

/// The model repeats its prompt: what an answer says shows on which passages it rests. Every document belongs to a tenant,
/// and a tenant asks about its own documents only. Some writes change the text, some only whose it is.
#[tokio::test]
async fn no_answer_is_ever_stale_or_of_another_tenant_in_random_histories() {
    let upstream = Upstream::start(Script { echo: true, ..Script::default() });
    let home = Home::new();
    let settings = "search.min_similarity=-1\nsearch.min_similarity_agreed=-1";
    let server = serve(&home, &upstream, settings).await;
    let mut runner = TestRunner::default();
    let mut cached = 0;
    let mut asked = 0;
    for history in 0..6 {
        let steps = proptest::collection::vec(step(), 80).new_tree(&mut runner).expect("a history").current();
        // Of each document that is there: whose it is, and what it says.
        let mut now: BTreeMap<usize, (usize, String)> = BTreeMap::new();
        for (n, step) in steps.iter().enumerate() {
            let id = |document: &usize| format!("h{history}d{document}");
            match step {
                Step::Put(document, tenant) => {
                    // Now and then only its tenant changes, or nothing does.
                    let before = now.get(document).map(|(_, mark)| mark.clone()).filter(|_| n % 2 == 0);
                    let mark = before.unwrap_or_else(|| format!("fact{history}x{document}x{n}"));
                    let topic = TOPICS[document % TOPICS.len()];
                    let text = format!("# About {topic}\n\nThe fact about {topic} is {mark}.");
                    let body = json!({
                        "content": text, "media_type": "text/markdown", "metadata": { "tenant": format!("t{history}-{tenant}") }
                    });
                    let address = server.url(&format!("/v1/documents/{}?wait=true", id(document)));
                    let response = server.http.put(address).json(&body).send().await.unwrap();
                    assert!(response.status().is_success(), "{}", response.text().await.unwrap());
                    now.insert(*document, (*tenant, mark));
                }
                Step::Delete(document) => {
                    server.delete(&format!("/v1/documents/{}?wait=true", id(document))).await;
                    now.remove(document);
                }
                Step::Ask(tenant, topic) => {
                    let body = json!({
                        "question": format!("What is the fact about {}?", TOPICS[*topic]),
                        "filter": { "metadata.tenant": format!("t{history}-{tenant}") },
                    });
                    let events = ask(&server, body, "").await;
                    asked += 1;
                    cached += usize::from(one(&events, "done")["cached"] == true);
                    let own: Vec<&(usize, String)> = now.values().filter(|(of, _)| of == tenant).collect();
                    let text = text_of(&events);
                    let said: Vec<&str> = text
                        .split(|c: char| !c.is_alphanumeric())
                        .filter(|word| word.starts_with("fact") && word.len() > 4)
                        .collect();
                    // All of them fit the prompt, so that what is missing would be stale as well.
                    assert_eq!(said.len(), own.len(), "{text} in {steps:?} at {n}");
                    for (_, mark) in own {
                        assert!(said.contains(&mark.as_str()), "{mark} is not in {text}: {steps:?} at {n}");
                    }
                    let sources = one(&events, "sources")["sources"].as_array().unwrap().len();
                    assert_eq!(sources, said.len());
                }
                Step::Remark => {
                    server.put_visible(&format!("h{history}r{n}"), "# A remark\n\nNobody asks for this.").await;
                }
            }
        }
    }
    println!("{cached} of {asked} answers were kept ones");
    assert!(cached * 5 > asked, "{cached} of {asked}: the cache was not tested");
}

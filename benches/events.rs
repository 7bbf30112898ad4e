//! Events from a real nats-server: how fast, what they do to answers, and whether faults lose any.
//!
//! - *visible*: one one-page document at a time on an idle server, from the publish to the first search that finds it
//! - *bulk*: small documents through the whole write path, events and megabytes a second until all are searchable
//! - *questions*: time to the first token of the same questions on an idle server and during a bulk load
//! - *faults*: a stream with duplicates, reordering and poison, while nats-server and answerd are killed; what is served in the
//!   end is compared with what applying each newest revision once gives
//!
//! Environment: `BENCH_SECTION` (one of these), `BENCH_EVENTS` (of the faults, default 10,000).

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use answerd::eval::percentile;
use async_nats::header::HeaderMap;
use async_nats::jetstream::Context;
use common::nats::Nats;
use common::{Home, Server, Setup, sample};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use serde_json::{Value, json};

fn main() {
    support::run(async {
        let only = std::env::var("BENCH_SECTION").ok();
        let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
        if wanted("visible") {
            visible().await;
        }
        if wanted("bulk") {
            bulk().await;
        }
        if wanted("questions") {
            questions().await;
        }
        if wanted("faults") {
            faults().await;
        }
    });
}

/// An event to publish.
#[derive(Clone)]
struct Event {
    document: String,
    revision: Option<u64>,
    id: String,
    text: String,
}

async fn publish(bus: &Context, event: &Event) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-type", "bench.document.upserted");
    headers.insert("ce-source", "//bench");
    headers.insert("ce-id", event.id.as_str());
    headers.insert("ce-subject", event.document.as_str());
    headers.insert("content-type", "text/markdown");
    if let Some(revision) = event.revision {
        headers.insert("ce-revision", revision.to_string().as_str());
    }
    let sent = bus.publish_with_headers("documents.bench.upserted", headers, event.text.clone().into()).await;
    sent.map_err(|error| error.to_string())?.await.map_err(|error| error.to_string()).map(|_| ())
}

async fn start(home: &Home, nats: &Nats) -> (Server, Context) {
    let settings = format!("{}\nmodels.chat.threads=2", nats.settings().replace("ack_wait_s=2", "ack_wait_s=30"));
    let server = home.serve(&Setup { settings, folder: Some(sample()), ..Setup::default() }).await;
    let bus = nats.jetstream().await;
    server.until("the stream", async || bus.get_stream("DOCUMENTS").await.is_ok()).await;
    caught_up(&server, 13).await;
    (server, bus)
}

/// Waits until so many documents are there and nothing is at work.
async fn caught_up(server: &Server, documents: u64) {
    loop {
        let (_, status) = server.get("/admin/status").await;
        if status["catalog"]["documents"].as_u64() >= Some(documents)
            && status["freshness"]["lag_events"] == 0
            && status["events"]["at_work"] == 0
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A page of text that is like no other.
fn page(n: usize, words: usize) -> String {
    let mut text = format!("# Page number{n}\n\n");
    let mut state = n.wrapping_mul(2_654_435_761) + 1;
    for word in 0..words {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(support::WORDS[(state >> 33) % support::WORDS.len()]);
        text.push_str(if word % 14 == 13 { ".\n" } else { " " });
    }
    text
}

fn event(n: usize, words: usize) -> Event {
    Event { document: format!("bench/{n}.md"), revision: None, id: n.to_string(), text: page(n, words) }
}

async fn visible() {
    let (nats, home) = (Nats::start().await, Home::new());
    let (server, bus) = start(&home, &nats).await;
    let mut times = Vec::new();
    for n in 0..210 {
        let event = event(n, 400);
        let began = Instant::now();
        publish(&bus, &event).await.expect("published");
        let query = json!({ "query": format!("number{n}"), "mode": "lexical", "filter": { "id": event.document } });
        loop {
            let (_, found) = server.post("/v1/search", query.clone()).await;
            if found["results"].as_array().is_some_and(|results| !results.is_empty()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // The first ones warm caches.
        if n >= 10 {
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!(
        "visible: a one-page document from publish to search, {} of them: p50 {:.0} ms, p99 {:.0} ms",
        times.len(),
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99)
    );
}

async fn bulk() {
    let (nats, home) = (Nats::start().await, Home::new());
    let (server, bus) = start(&home, &nats).await;
    const COUNT: usize = 2000;
    let began = Instant::now();
    let mut bytes = 0;
    for n in 0..COUNT {
        let event = event(n, 60);
        bytes += event.text.len();
        publish(&bus, &event).await.expect("published");
    }
    caught_up(&server, 13 + COUNT as u64).await;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "bulk: {COUNT} documents of {} bytes, published one by one, all searchable after {seconds:.1} s: {:.0} events/s, {:.2} MB/s",
        bytes / COUNT,
        COUNT as f64 / seconds,
        bytes as f64 / 1e6 / seconds
    );
}

/// Milliseconds until the first token.
async fn first_token(server: &Server, question: &str) -> f64 {
    let began = Instant::now();
    let response = server
        .ask(
            json!({ "question": question, "max_tokens": 4, "temperature": 0.0, "filter": { "collection": "watched" } }),
        )
        .await;
    let mut events = response.bytes_stream().eventsource();
    let mut first = None;
    while let Some(Ok(event)) = events.next().await {
        if first.is_none() && matches!(event.event.as_str(), "token" | "usage") {
            first = Some(began.elapsed());
        }
    }
    first.expect("an answer").as_secs_f64() * 1000.0
}

async fn questions() {
    let (nats, home) = (Nats::start().await, Home::new());
    let (server, bus) = start(&home, &nats).await;
    let questions: Vec<Value> =
        serde_json::from_str(include_str!("../tests/sample_questions.json")).expect("the sample questions");
    let questions: Vec<&str> = questions.iter().filter_map(|q| q["question"].as_str()).collect();
    let round = async || {
        let mut times = Vec::new();
        for question in &questions {
            times.push(first_token(&server, question).await);
        }
        times
    };
    round().await;
    let mut idle = round().await;
    idle.extend(round().await);
    // More than is worked off while the questions are asked.
    let stream: Vec<Event> = (0..20_000).map(|n| event(n, 400)).collect();
    for some in stream.chunks(100) {
        let sent = futures_util::future::join_all(some.iter().map(|event| publish(&bus, event))).await;
        sent.into_iter().for_each(|sent| sent.expect("published"));
    }
    let mut busy = round().await;
    busy.extend(round().await);
    let (_, status) = server.get("/admin/status").await;
    let figures = |times: &mut [f64]| (percentile(times, 0.5), percentile(times, 0.95));
    let ((idle_50, idle_95), (busy_50, busy_95)) = (figures(&mut idle), figures(&mut busy));
    println!("questions: first token on an idle server p50 {idle_50:.0} ms, p95 {idle_95:.0} ms");
    println!(
        "    during a bulk load p50 {busy_50:.0} ms, p95 {busy_95:.0} ms; ratio of p95 {:.2}; {} events still waited at the end, {} were taken",
        busy_95 / idle_95,
        status["freshness"]["lag_events"],
        status["events"]["taken"]
    );
}

async fn faults() {
    let count = support::number("BENCH_EVENTS", 10_000);
    let (mut nats, home) = (Nats::start().await, Home::new());
    let mut seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").subsec_nanos() as usize;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    // A tenth as many documents as events, each with rising revisions.
    let mut revisions: BTreeMap<String, u64> = BTreeMap::new();
    let mut events: Vec<Event> = Vec::new();
    let mut poison = 0;
    while events.len() < count {
        let n = events.len();
        match random(100) {
            0..10 if n > 0 => events.push(events[random(n)].clone()),
            10..12 => {
                poison += 1;
                let (document, text) = (format!("poison/{n}"), String::from("a\0b\0\u{1}\u{2}\0"));
                events.push(Event { document, revision: None, id: format!("p{n}"), text });
            }
            _ => {
                let document = format!("bench/{}.md", random(count / 10));
                let revision = revisions.entry(document.clone()).or_default();
                *revision += 1;
                let text = format!("# {document}\n\nThis is revision{revision}x of {document}.\n");
                let id = format!("{document}@{revision}");
                events.push(Event { document, revision: Some(*revision), id, text });
            }
        }
    }
    for _ in 0..count / 20 {
        let (a, b) = (random(count), random(count));
        events.swap(a, b);
    }
    // Poison may have been chosen as a duplicate too; it is still one dead letter.
    let began = Instant::now();
    let (mut server, mut bus) = start(&home, &nats).await;
    let (mut nats_kills, mut own_kills) = (0, 0);
    for (n, event) in events.iter().enumerate() {
        if n % (count / 4) == count / 8 && nats_kills < 3 {
            nats.kill();
            tokio::time::sleep(Duration::from_millis(500)).await;
            nats.run().await;
            nats_kills += 1;
            bus = nats.jetstream().await;
        }
        if n % (count / 6) == count / 9 && own_kills < 5 {
            server.kill();
            let settings = nats.settings();
            server = home.serve(&Setup { settings, folder: Some(sample()), ..Setup::default() }).await;
            own_kills += 1;
        }
        // A publisher that is not told that its event is stored publishes it again.
        while let Err(error) = publish(&bus, event).await {
            eprintln!("published again: {error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    caught_up(&server, 13 + revisions.len() as u64).await;
    // All of the stream is acknowledged, too.
    server
        .until("all is acknowledged", async || {
            let Ok(stream) = bus.get_stream("DOCUMENTS").await else { return false };
            stream.consumer_info("answerd").await.is_ok_and(|info| info.num_pending + info.num_ack_pending as u64 == 0)
        })
        .await;
    let (mut lost, mut wrong) = (0, 0);
    for (document, revision) in &revisions {
        let (_, served) = server.get(&format!("/v1/documents/{document}")).await;
        match served["text"].as_str() {
            None => lost += 1,
            Some(text) if !text.contains(&format!("revision{revision}x")) || served["served_revision"] != *revision => {
                wrong += 1
            }
            Some(_) => {}
        }
    }
    let (_, status) = server.get("/admin/status").await;
    let surplus = status["catalog"]["documents"].as_u64().expect("a count") as i64 - 13 - revisions.len() as i64;
    let letters = bus.get_stream("ANSWERD_DLQ").await.expect("the dead letters").cached_info().state.messages;
    println!(
        "faults: {count} events of {} documents, NATS killed {nats_kills} times, answerd {own_kills} times, {:.0} s: lost {lost}, wrong {wrong}, surplus {surplus}, poison {poison}, dead letters {letters}",
        revisions.len(),
        began.elapsed().as_secs_f64()
    );
    assert_eq!((lost, wrong, surplus, letters), (0, 0, 0, poison));
}

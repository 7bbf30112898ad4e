//! What keeping answers is worth, and what it may not do.
//!
//! - *kept*: a kept answer over HTTP as one JSON object, one at a time (p50, p99) and by many connections at once (requests a
//!   second); beside it the same with the search, after the index has moved, and through Redis, after a restart
//! - *together*: 1,000 clients who ask one new question at once, of a scripted model: generations, and how far apart their
//!   first tokens are
//! - *callers*: a kept answer where everybody may ask, where each says who it is and has a budget, and where traces are taken, in turn
//! - *near*: pairs of questions that ask the same, and pairs that do not (`tests/question_pairs.json`): how many of each
//!   would share an answer by similarity alone, by their gist alone, and by both
//!
//! Environment: `BENCH_SECTION` (one of these), `BENCH_CLIENTS` (default 1,000), `BENCH_SECONDS` (default 5).

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use answerd::answer::evidence::gist;
use answerd::eval::percentile;
use answerd::models::Embedder;
use answerd::models::minilm::MiniLm;
use common::collector::Collector;
use common::redis::Redis;
use common::upstream::{Script, Upstream, chat_on};
use common::{Home, Server, Setup, sample};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};

const QUESTION: &str = "What is the daily limit for meals?";

fn main() {
    support::run(async {
        let only = std::env::var("BENCH_SECTION").ok();
        let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
        if wanted("kept") {
            kept().await;
            through_redis().await;
        }
        if wanted("together") {
            together().await;
        }
        if wanted("callers") {
            callers().await;
        }
        if wanted("near") {
            near();
        }
    });
}

async fn serve(home: &Home, upstream: &Upstream, more: &str) -> Server {
    let settings = format!("{}\ncache.enabled=true{more}", chat_on(&[upstream]));
    let server = home.serve(&Setup { folder: Some(sample()), settings, ..Setup::default() }).await;
    server
        .until("the documents are visible", async || {
            let (_, status) = server.get("/admin/status").await;
            status["catalog"]["documents"].as_u64() >= Some(13) && status["freshness"]["lag_events"] == 0
        })
        .await;
    server
}

/// Asks, and gives the milliseconds it took and whether the answer was a kept one.
async fn ask(server: &Server, question: &str) -> (f64, bool) {
    let start = Instant::now();
    let (status, answer) = server.post("/v1/answers", json!({ "question": question })).await;
    assert!(status.is_success(), "{answer}");
    (start.elapsed().as_secs_f64() * 1e3, answer["cached"] == true)
}

// ---------------------------------------------------------------- a kept answer

async fn kept() {
    let upstream = Upstream::start(Script { tokens: 200, ..Script::default() });
    let home = Home::new();
    let server = serve(&home, &upstream, "").await;
    ask(&server, QUESTION).await;
    let mut first_level = Vec::new();
    for n in 0..5_000 {
        let (ms, cached) = ask(&server, QUESTION).await;
        assert!(cached);
        if n >= 500 {
            first_level.push(ms);
        }
    }
    println!(
        "kept, the index has not moved: p50 {:.3} ms, p99 {:.3} ms, one at a time, HTTP and the client included",
        percentile(&mut first_level, 0.5),
        percentile(&mut first_level, 0.99)
    );
    let mut second_level = Vec::new();
    for n in 0..300 {
        // Moves the index, and belongs to no evidence.
        server.put_visible("remark.md", &format!("# A remark\n\nNobody asks for number {n}.")).await;
        let (ms, cached) = ask(&server, QUESTION).await;
        assert!(cached);
        second_level.push(ms);
    }
    println!(
        "kept, the index has moved (searched again): p50 {:.3} ms, p99 {:.3} ms",
        percentile(&mut second_level, 0.5),
        percentile(&mut second_level, 0.99)
    );
    let seconds = support::number("BENCH_SECONDS", 5) as u64;
    let end = Instant::now() + Duration::from_secs(seconds);
    let counts = join_all((0..32).map(|_| async {
        let mut n = 0u64;
        while Instant::now() < end {
            assert!(ask(&server, QUESTION).await.1);
            n += 1;
        }
        n
    }))
    .await;
    println!(
        "kept, 32 connections: {:.0} requests/s; the client takes its share of the two cores",
        counts.iter().sum::<u64>() as f64 / seconds as f64
    );
}

/// The same kept answer from a service that does not ask who calls, from one that does and counts what it may, and from such
/// ones that tell a collector of each request, or of each tenth. All are asked with a key, in turn.
async fn callers() {
    let (upstream, collector) = (Upstream::start(Script { tokens: 200, ..Script::default() }), Collector::start());
    let known = "identity.enabled=true\nbudgets.requests_per_minute=1000000\nbudgets.tokens_per_minute=1000000000\nbudgets.tokens_per_day=1000000000000\nbudgets.streams=1000";
    let traced = format!("{known}\n{}", collector.settings());
    let kinds = [
        ("without", String::new()),
        ("with identity and budgets", known.to_owned()),
        ("and every trace", traced.clone()),
        ("and one trace in ten", format!("{traced}\ntraces.sample=0.1")),
    ];
    let mut servers = Vec::new();
    for (kind, more) in kinds {
        let settings = format!("{}\ncache.enabled=true\n{more}", chat_on(&[&upstream]));
        let (home, setup) = (Home::new(), Setup { settings, folder: Some(sample()), ..Setup::default() });
        let key = common::make_key(&home, &setup, &["bench", "--groups", "staff"]);
        let server = home.serve(&setup).await;
        servers.push((kind, server, key, home));
    }
    let ask = async |server: &Server, key: &str| {
        let start = Instant::now();
        let request = server.http.post(server.url("/v1/answers")).json(&json!({ "question": QUESTION }));
        let answer: Value = request.bearer_auth(key).send().await.expect("a response").json().await.expect("JSON");
        (start.elapsed().as_secs_f64() * 1e3, answer)
    };
    for (_, server, key, _) in &servers {
        // What is still embedded takes the processors from those that are asked.
        server
            .until("it has its documents, and the answer is kept", async || {
                let (_, answer) = ask(server, key).await;
                answer["cached"] == true && answer["lag_events"] == 0
            })
            .await;
    }
    const ROUNDS: usize = 5_000;
    let mut times = vec![Vec::new(); servers.len()];
    let mut cpu = vec![0.0; servers.len()];
    // By blocks, so that what one does beside its answers is seen in its own processor time.
    for block in 0..ROUNDS / 100 {
        for ((_, server, key, _), (times, cpu)) in servers.iter().zip(times.iter_mut().zip(&mut cpu)) {
            let before = support::cpu_seconds(server.child.id());
            for _ in 0..100 {
                let (ms, answer) = ask(server, key).await;
                assert!(answer["cached"] == true, "{answer}");
                if block >= 5 {
                    times.push(ms);
                }
            }
            // What it does afterwards, sending its spans mostly, is its own and not the next one's.
            tokio::time::sleep(Duration::from_millis(50)).await;
            *cpu += support::cpu_seconds(server.child.id()) - before;
        }
    }
    let (mut first, cpu_first) = (None, cpu[0]);
    for (((kind, ..), times), cpu) in servers.iter().zip(&mut times).zip(&cpu) {
        let (p50, p99) = (percentile(times, 0.5), percentile(times, 0.99));
        println!(
            "kept, {kind}: p50 {p50:.3} ms, p99 {p99:.3} ms, {:.2} at the median; processor time {:.3} ms an answer, {:.2}",
            p50 / *first.get_or_insert(p50),
            cpu * 1e3 / ROUNDS as f64,
            cpu / cpu_first
        );
    }
}

/// Answers that were kept before a restart: what the process does not have, Redis has.
async fn through_redis() {
    const QUESTIONS: usize = 500;
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script { tokens: 200, ..Script::default() }));
    let home = Home::new();
    let more = format!("\nredis.url={}", redis.url());
    let question = |n: usize| format!("What is the daily limit for meals in case {n}?");
    let server = serve(&home, &upstream, &more).await;
    for n in 0..QUESTIONS {
        ask(&server, &question(n)).await;
    }
    assert!(server.stop().await.success());
    let server = serve(&home, &upstream, &more).await;
    let mut times = Vec::new();
    for n in 0..QUESTIONS {
        let (ms, cached) = ask(&server, &question(n)).await;
        assert!(cached);
        times.push(ms);
    }
    println!(
        "kept in Redis, the index has not moved: p50 {:.3} ms, p99 {:.3} ms",
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99)
    );
}

// ---------------------------------------------------------------- many at once

async fn together() {
    let clients = support::number("BENCH_CLIENTS", 1000);
    answerd::cli::allow_many_connections();
    let upstream = Upstream::start(Script { first: Duration::from_secs(2), ..Script::paced(40, 25) });
    let home = Home::new();
    let server = serve(&home, &upstream, "").await;
    let http = answerd::http::client_builder(None).expect("TLS").pool_max_idle_per_host(0).build().expect("a client");
    let start = Instant::now();
    let answers = join_all((0..clients).map(|_| async {
        let request = http.post(server.url("/v1/answers")).header("accept", "text/event-stream");
        let response = request.json(&json!({ "question": QUESTION })).send().await.expect("a response");
        let mut events = response.bytes_stream().eventsource();
        let (mut first, mut text) = (None, String::new());
        while let Some(Ok(event)) = events.next().await {
            if event.event == "token" {
                first.get_or_insert_with(|| start.elapsed().as_secs_f64() * 1e3);
                let data: Value = serde_json::from_str(&event.data).expect("JSON");
                text.push_str(data["text"].as_str().unwrap_or_default());
            }
        }
        (first.expect("a token"), text)
    }))
    .await;
    let same = answers.iter().all(|(_, text)| *text == answers[0].1);
    let mut firsts: Vec<f64> = answers.into_iter().map(|(first, _)| first).collect();
    let of = |values: &mut Vec<f64>, p| percentile(values, p);
    println!(
        "{clients} clients, one new question: {} generation(s), all texts the same: {same}; first token after {:.0} ms \
         (first), {:.0} (p50), {:.0} (p99), {:.0} (last)",
        upstream.asked().len(),
        of(&mut firsts, 0.0),
        of(&mut firsts, 0.5),
        of(&mut firsts, 0.99),
        of(&mut firsts, 1.0)
    );
}

// ---------------------------------------------------------------- almost the same words

fn near() {
    let pairs: Value = serde_json::from_str(include_str!("../tests/question_pairs.json")).expect("pairs");
    let model = MiniLm::load(&support::models().join("all-MiniLM-L6-v2")).expect("the model");
    let judged = |kind: &str| -> Vec<(f32, bool)> {
        let pairs = pairs[kind].as_array().expect("pairs");
        let judge = |pair: &Value| {
            let (one, other) = (pair[0].as_str().expect("a question"), pair[1].as_str().expect("a question"));
            let vectors = model.embed(&[one, other]).expect("vectors");
            let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
            (cosine, gist(one) == gist(other))
        };
        pairs.iter().map(judge).collect()
    };
    let (same, different) = (judged("same"), judged("different"));
    println!(
        "of {} pairs that ask the same, and of {} that do not, would share an answer:",
        same.len(),
        different.len()
    );
    let share =
        |pairs: &[(f32, bool)], counts: &dyn Fn(&(f32, bool)) -> bool| pairs.iter().filter(|pair| counts(pair)).count();
    for threshold in [0.80, 0.85, 0.90, 0.95, 0.98] {
        let alone = |pair: &(f32, bool)| pair.0 >= threshold;
        let both = |pair: &(f32, bool)| pair.0 >= threshold && pair.1;
        println!(
            "similarity {threshold:.2}: alone {:2} and {:2}; with the same gist {:2} and {:2}",
            share(&same, &alone),
            share(&different, &alone),
            share(&same, &both),
            share(&different, &both)
        );
    }
    let gist = |pair: &(f32, bool)| pair.1;
    println!("the same gist alone: {} and {}", share(&same, &gist), share(&different, &gist));
    let mut least: Vec<f32> = same.iter().filter(|pair| pair.1).map(|pair| pair.0).collect();
    least.sort_by(f32::total_cmp);
    println!(
        "least similarity of a pair of the same gist that asks the same: {:.3}",
        least.first().copied().unwrap_or(0.0)
    );
}

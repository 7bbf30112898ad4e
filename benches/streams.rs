//! What answerd adds to the streams of a model elsewhere, and what readers who stall or break off do to others.
//!
//! - *upstream*: streams of a scripted model server (`tests/common/upstream.rs`), asked directly and through answerd in
//!   turn: time to the first token, and memory a stream; LiteLLM's proxy at a load it can bear beside both
//! - *stalled*: sixteen answers of the real model, by themselves and among readers that take nothing of theirs
//! - *resume*: streams that are cut at random points and resumed, until their text is complete
//!
//! Environment: `BENCH_SECTION` (one of these), `BENCH_STREAMS` (of the first section, default 2,000), `BENCH_ROUNDS`
//! (default 3), `BENCH_LITELLM_STREAMS` (default 100), `ANSWERD_BENCH_PYTHON` (a Python with litellm[proxy]; without it
//! only answerd is measured).

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use answerd::eval::percentile;
use common::upstream::{Script, Upstream, chat_on_with, said};
use common::{Home, Server, Setup};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};

/// Tokens of a scripted stream, and the time between two.
const TOKENS: usize = 12;
const EVERY: Duration = Duration::from_millis(500);
/// Time to its first token.
const FIRST: Duration = Duration::from_millis(300);
/// The streams of a round begin within this time, evenly.
const BEGIN: Duration = Duration::from_secs(4);

fn main() {
    support::run(async {
        let only = std::env::var("BENCH_SECTION").ok();
        let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
        if wanted("upstream") {
            upstream().await;
        }
        if wanted("stalled") {
            stalled().await;
        }
        if wanted("resume") {
            resume().await;
        }
    });
}

fn client() -> Client {
    // Each stream has a connection of its own, as from a program of its own.
    answerd::http::client_builder(None).expect("TLS").pool_max_idle_per_host(0).build().expect("a client")
}

// ---------------------------------------------------------------- streams of a model elsewhere

async fn upstream() {
    let (streams, rounds) = (support::number("BENCH_STREAMS", 2000), support::number("BENCH_ROUNDS", 3));
    answerd::cli::allow_many_connections();
    let upstream = Upstream::start(Script { first: FIRST, ..Script::paced(TOKENS, EVERY.as_millis() as u64) });
    let home = Home::new();
    let settings = format!(
        "{}\nmodels.chat.queue=10000\nanswer.max_open=10000\nserver.max_connections=20000",
        chat_on_with(&[&upstream], 10_000, 60_000)
    );
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    let http = client();
    let (direct, through) = (upstream.url(), format!("{}/v1", server.base));
    println!(
        "{streams} streams at once of {TOKENS} tokens, one each {} ms, begun within {} s",
        EVERY.as_millis(),
        BEGIN.as_secs()
    );
    measured(&[("direct", &direct), ("answerd", &through)], &http, "far", streams, rounds, &server).await;

    let streams = support::number("BENCH_LITELLM_STREAMS", 100);
    let Some(proxy) = LiteLlm::start(&upstream.url()).await else {
        println!("LiteLLM is not measured: no Python with litellm[proxy] in ANSWERD_BENCH_PYTHON");
        return;
    };
    println!("{streams} streams at once, LiteLLM's proxy beside:");
    let targets = [("direct", direct.as_str()), ("answerd", &through), ("LiteLLM", &proxy.url)];
    measured(&targets, &http, "far", streams, rounds, &server).await;
}

/// Measures each target in turn, round by round; of each round the figures are those over the direct way.
async fn measured(
    targets: &[(&str, &str)],
    http: &Client,
    model: &str,
    streams: usize,
    rounds: usize,
    server: &Server,
) {
    let mut added = vec![(Vec::new(), Vec::new()); targets.len()];
    let mut memory = Vec::new();
    let idle = resident(server).await;
    // A round that nobody counts warms connections and allocators.
    for round in 0..=rounds {
        let mut base = None;
        for (n, (name, url)) in targets.iter().enumerate() {
            let peak = async {
                if *name != "answerd" {
                    return None;
                }
                // All have begun, and none has ended.
                tokio::time::sleep(BEGIN + FIRST + EVERY).await;
                Some(resident(server).await)
            };
            let (mut firsts, peak) = tokio::join!(run(http, url, model, streams), peak);
            let (p50, p99) = (percentile(&mut firsts, 0.5), percentile(&mut firsts, 0.99));
            let (base_p50, base_p99) = *base.get_or_insert((p50, p99));
            if round > 0 {
                added[n].0.push(p50 - base_p50);
                added[n].1.push(p99 - base_p99);
                memory.extend(peak.map(|peak| (peak - idle) / 1024.0 / streams as f64));
                println!("  round {round}, {name}: first token p50 {p50:.1} ms, p99 {p99:.1} ms");
            }
        }
    }
    for ((name, _), (mut p50, mut p99)) in targets.iter().zip(added).skip(1) {
        let (p50, p99) = (support::median(&mut p50), support::median(&mut p99));
        println!("{name} adds to the first token: p50 {p50:.1} ms, p99 {p99:.1} ms");
    }
    // What was needed once is kept: only the first rounds tell.
    if streams > 1000 {
        let idle = idle / f64::from(1 << 20);
        let each = support::median(&mut memory);
        println!("answerd's memory a stream: {each:.1} KiB above the {idle:.0} MiB of the idle server");
    }
}

async fn resident(server: &Server) -> f64 {
    server.get("/admin/status").await.1["resident_bytes"].as_f64().expect("its memory")
}

/// Runs so many streams; gives the milliseconds to the first token of each.
async fn run(http: &Client, url: &str, model: &str, streams: usize) -> Vec<f64> {
    let begun = Instant::now();
    let answers = (0..streams).map(|n| async move {
        tokio::time::sleep_until((begun + BEGIN * n as u32 / streams as u32).into()).await;
        let body = json!({
            "model": model, "stream": true, "max_tokens": TOKENS,
            "messages": [{ "role": "user", "content": format!("Say something, number {n}.") }]
        });
        let began = Instant::now();
        let request = http.post(format!("{url}/chat/completions")).bearer_auth("bench").json(&body);
        let response = request.send().await.expect("a response");
        assert!(response.status().is_success(), "{}", response.text().await.unwrap_or_default());
        let (mut text, mut first) = (String::new(), None);
        let mut events = response.bytes_stream().eventsource();
        while let Some(event) = events.next().await {
            let event = event.expect("an event").data;
            let chunk: Value = serde_json::from_str(&event).unwrap_or_default();
            if let Some(more) = chunk["choices"][0]["delta"]["content"].as_str().filter(|more| !more.is_empty()) {
                first.get_or_insert_with(|| began.elapsed().as_secs_f64() * 1e3);
                text.push_str(more);
            }
        }
        assert_eq!(text, said(TOKENS));
        first.expect("a token")
    });
    join_all(answers).await
}

/// LiteLLM's proxy before the scripted server.
struct LiteLlm {
    child: Child,
    url: String,
    _home: Home,
}

impl LiteLlm {
    async fn start(upstream: &str) -> Option<Self> {
        let python = std::path::PathBuf::from(std::env::var_os("ANSWERD_BENCH_PYTHON")?);
        let program = python.parent()?.join("litellm");
        if !program.is_file() {
            return None;
        }
        let home = Home::new();
        let config = home.folder.path().join("litellm.yaml");
        let text = format!(
            "model_list:\n  - model_name: far\n    litellm_params:\n      model: openai/far-away\n      api_base: {upstream}\n      \
             api_key: bench\n"
        );
        std::fs::write(&config, text).expect("its configuration");
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let log = std::fs::File::create(home.folder.path().join("litellm.log")).expect("a log");
        let child = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--config"])
            .arg(&config)
            .args(["--num_workers", "2", "--telemetry", "False"])
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("LITELLM_LOG", "ERROR")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .ok()?;
        let proxy = Self { child, url: format!("http://127.0.0.1:{port}/v1"), _home: home };
        let http = client();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(180) {
            let alive = http.get(format!("http://127.0.0.1:{port}/health/liveliness")).send().await;
            if alive.is_ok_and(|response| response.status().is_success()) {
                return Some(proxy);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let log = std::fs::read_to_string(proxy._home.folder.path().join("litellm.log")).unwrap_or_default();
        println!("LiteLLM does not start: {log}");
        None
    }
}

impl Drop for LiteLlm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---------------------------------------------------------------- readers that stall

const LIVE: usize = 16;
const STALLED: usize = 200;

async fn stalled() {
    let home = Home::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let settings = format!(
        "models.chat.threads={threads}\nmodels.chat.queue=1000\nmodels.chat.first_token_s=3600\nanswer.max_time_s=3600\n\
         answer.stall_timeout_s=3600\nserver.write_timeout_s=3600\nanswer.window=16\nanswer.max_output_tokens=1024"
    );
    // The evidence and the longest output do not fit the context together: nobody asks for both here.
    let settings = format!("{settings}\nmodels.chat.context=4096");
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    live(&server, 0).await;
    let before = live(&server, 1).await;
    let began = Instant::now();
    let mut connections = Vec::new();
    loop {
        let load = server.actor("read/model-pool/worker-1").await["detail"]["load"].clone();
        let count = |name: &str| load[name].as_u64().expect("a count") as usize;
        if count("parked") >= STALLED {
            break;
        }
        // Some stories end before their reader is behind.
        if count("running") + count("waiting") == 0 {
            for _ in count("parked")..STALLED {
                connections.push(stall(&server, connections.len()));
            }
        }
        assert!(began.elapsed() < Duration::from_secs(1800), "they do not stall: {load}");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    println!("{STALLED} readers have stalled after {:.0} s", began.elapsed().as_secs_f64());
    let among = live(&server, 2).await;
    drop(connections);
    server
        .until("they are gone", async || {
            server.actor("read/model-pool/worker-1").await["detail"]["load"]["parked"] == 0
        })
        .await;
    let after = live(&server, 3).await;
    let alone = (before + after) / 2.0;
    println!(
        "{LIVE} live answers: {before:.1} and {after:.1} tok/s alone, {among:.1} tok/s among {STALLED} stalled readers: \
         ratio {:.3}",
        among / alone
    );
}

/// Tokens a second of the live answers together.
async fn live(server: &Server, round: usize) -> f64 {
    let began = Instant::now();
    let answers = (0..LIVE).map(|n| async move {
        let body = json!({
            "model": "smollm2-135m-instruct", "max_tokens": 96, "temperature": 1.0, "seed": n,
            "messages": [{ "role": "user", "content": format!("Write a long story about the number {n}{round}.") }]
        });
        let (status, answer) = server.post("/v1/chat/completions", body).await;
        assert!(status.is_success(), "{answer}");
        answer["usage"]["completion_tokens"].as_f64().expect("a count")
    });
    let tokens: f64 = join_all(answers).await.into_iter().sum();
    tokens / began.elapsed().as_secs_f64()
}

/// Asks, and reads nothing.
fn stall(server: &Server, n: usize) -> TcpStream {
    let host = server.base.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&host).expect("a connection");
    common::receive_little(&stream);
    let body = json!({
        "model": "smollm2-135m-instruct", "max_tokens": 1024, "temperature": 1.0, "seed": n, "stream": true,
        "messages": [{ "role": "user", "content": format!("Write a very long story about the number {n}.") }]
    })
    .to_string();
    let length = body.len();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("sent");
    stream
}

// ---------------------------------------------------------------- streams that are cut

async fn resume() {
    const STREAMS: usize = 1000;
    const AT_ONCE: usize = 100;
    const WORDS: usize = 60;
    let upstream = Upstream::start(Script::paced(WORDS, 15));
    let home = Home::new();
    let settings = format!("{}\nmodels.chat.queue=10000", chat_on_with(&[&upstream], 1000, 60_000));
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    server.put_visible("leave.md", "# Leave\n\nEvery employee has 28 days of annual leave.").await;
    let (server, began) = (&server, Instant::now());
    let clients = futures_util::stream::iter(0..STREAMS).map(|n| async move {
        let mut chance = n as u64 * 2_654_435_761 + 12345;
        let mut random = move |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % below
        };
        let question = json!({ "question": "How many days of annual leave are there?", "max_tokens": WORDS });
        let response = server.ask(question).await;
        let place = response.headers()["location"].to_str().expect("an address").to_owned();
        let (mut text, mut last, mut cuts, mut ended) = (String::new(), String::new(), 0, false);
        let mut next = Some(response);
        while let Some(response) = next.take() {
            // Cut after some bytes, wherever in an event that is.
            let most = if cuts < 5 { random(6000) as usize } else { usize::MAX };
            let mut bytes = 0;
            let cut = response.bytes_stream().take_while(move |chunk| {
                bytes += chunk.as_ref().map_or(0, |chunk| chunk.len());
                std::future::ready(bytes <= most)
            });
            let mut events = Box::pin(cut.eventsource());
            while let Some(Ok(event)) = events.next().await {
                let data: Value = serde_json::from_str(&event.data).expect("JSON");
                text.push_str(data["text"].as_str().unwrap_or_default());
                last = event.id;
                ended |= event.event == "done";
                assert_ne!(event.event, "error", "{data}");
            }
            if !ended {
                cuts += 1;
                let request = server.http.get(server.url(&format!("{place}/events"))).header("last-event-id", &last);
                next = Some(request.send().await.expect("a response"));
            }
        }
        (text == said(WORDS), cuts)
    });
    let outcomes: Vec<(bool, usize)> = clients.buffer_unordered(AT_ONCE).collect().await;
    let right = outcomes.iter().filter(|(same, _)| *same).count();
    let cuts: usize = outcomes.iter().map(|(_, cuts)| cuts).sum();
    println!(
        "{STREAMS} streams, cut {cuts} times, in {:.0} s: {right} ended with exactly the text of an uncut one; {} generations",
        began.elapsed().as_secs_f64(),
        upstream.asked().len()
    );
    assert_eq!((right, upstream.asked().len()), (STREAMS, STREAMS));
}

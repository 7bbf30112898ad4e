//! The real model over OpenAI's protocol, beside llama.cpp's own Python server (llama-cpp-python's) on the same file with
//! the same prompts: time to the first token and tokens a second at 1, 4 and 16 streams, with prompts that have nothing
//! in common and with prompts that share a long head.
//!
//! Both servers run all the time and are asked in turn. Environment: `ANSWERD_BENCH_PYTHON` (a Python with
//! llama-cpp-python[server]; without it only our figures are shown), `BENCH_ROUNDS` (default 3).

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "support/mod.rs"]
mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Home, Setup, models, sample};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};

const TOKENS: usize = 48;

fn main() {
    support::run(measure());
}

async fn measure() {
    let rounds = support::number("BENCH_ROUNDS", 3);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let home = Home::new();
    let settings = format!("models.chat.threads={threads}\nmodels.chat.first_token_s=3600\nmodels.chat.slots=16");
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    let reference = Reference::start(threads).await;
    let http = answerd::http::client_builder(None).expect("TLS").pool_max_idle_per_host(0);
    let http = http.build().expect("a client");
    let mut targets = vec![("answerd", format!("{}/v1", server.base))];
    targets.extend(reference.as_ref().map(|reference| ("llama.cpp's server", reference.url.clone())));
    let material = text();
    println!("{threads} threads, {rounds} rounds, {TOKENS} tokens an answer; medians");
    let mut fresh = 0;
    for (name, shared) in [("prompts with nothing in common", false), ("prompts that share a head", true)] {
        for streams in [1, 4, 16] {
            let mut figures = vec![(Vec::new(), Vec::new()); targets.len()];
            // A round that nobody counts warms caches and clock.
            for round in 0..=rounds {
                for (n, (_, url)) in targets.iter().enumerate() {
                    // What one has computed before is of no use to it later, save for the head.
                    fresh += streams;
                    let prompts = (fresh - streams..fresh).map(|n| prompt(&material, n, shared));
                    let (first, speed) = run(&http, url, prompts.collect()).await;
                    if round > 0 {
                        figures[n].0.push(first);
                        figures[n].1.push(speed);
                    }
                }
            }
            let mut shown = Vec::new();
            for ((target, _), (first, speed)) in targets.iter().zip(&figures) {
                let (first, speed) = (support::median(&mut first.clone()), support::median(&mut speed.clone()));
                println!("{name}, {streams} streams, {target}: first token {:.0} ms, {speed:.1} tok/s", first * 1e3);
                shown.push((first, speed));
            }
            if let [ours, theirs] = shown[..] {
                println!(
                    "    first token {:.2} times as soon, {:.2} times the tokens",
                    theirs.0 / ours.0,
                    ours.1 / theirs.1
                );
            }
        }
    }
}

/// Words of the sample documents.
fn text() -> Vec<String> {
    let files = walkdir::WalkDir::new(sample()).sort_by_file_name().into_iter().filter_map(Result::ok);
    let files = files.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "md"));
    let texts = files.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// A conversation of some 400 tokens; its first words are its own, or those of all.
fn prompt(words: &[String], n: usize, shared: bool) -> Value {
    let from = if shared { 0 } else { n * 211 % (words.len() - 260) };
    let head = words[from..from + 240].join(" ");
    let head = if shared { head } else { format!("Case {n}. {head}") };
    json!([
        { "role": "system", "content": format!("{head}\n\nYou answer at length.") },
        { "role": "user", "content": format!("Tell a long story about the number {n}.") }
    ])
}

/// Asks all at once; gives the mean time to the first token, in seconds, and the tokens a second of all.
async fn run(http: &Client, url: &str, prompts: Vec<Value>) -> (f64, f64) {
    let began = Instant::now();
    let answers = prompts.into_iter().map(|messages| async move {
        let body = json!({
            "model": "smollm2-135m-instruct", "messages": messages, "stream": true, "max_tokens": TOKENS,
            "temperature": 0.0
        });
        let asked = Instant::now();
        let response = http.post(format!("{url}/chat/completions")).json(&body).send().await.expect("a response");
        assert!(response.status().is_success(), "{}", response.text().await.unwrap_or_default());
        let (mut first, mut tokens) = (None, 0);
        let mut events = response.bytes_stream().eventsource();
        while let Some(event) = events.next().await {
            let chunk: Value = serde_json::from_str(&event.expect("an event").data).unwrap_or_default();
            if chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|more| !more.is_empty()) {
                first.get_or_insert_with(|| asked.elapsed().as_secs_f64());
                tokens += 1;
            }
        }
        (first.expect("a token"), tokens)
    });
    let seen: Vec<(f64, usize)> = join_all(answers).await;
    let first = seen.iter().map(|(first, _)| first).sum::<f64>() / seen.len() as f64;
    let tokens: usize = seen.iter().map(|(_, tokens)| tokens).sum();
    (first, tokens as f64 / began.elapsed().as_secs_f64())
}

/// llama-cpp-python's server.
struct Reference {
    child: Child,
    url: String,
    _home: Home,
}

impl Reference {
    async fn start(threads: usize) -> Option<Self> {
        let python = std::env::var_os("ANSWERD_BENCH_PYTHON")?;
        let home = Home::new();
        let port = std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let log = home.folder.path().join("log");
        let child = Command::new(python)
            .args(["-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--n_ctx", "2048", "--n_threads", &threads.to_string(), "--n_threads_batch", &threads.to_string()])
            // Otherwise a new request ends the one that is being answered.
            .args(["--interrupt_requests", "False", "--model"])
            .arg(models().join("SmolLM2-135M-Instruct.Q4_1.gguf"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).ok()?)
            .spawn()
            .ok()?;
        let reference = Self { child, url: format!("http://127.0.0.1:{port}/v1"), _home: home };
        let http = answerd::http::client().expect("a client");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if http.get(format!("{}/models", reference.url)).send().await.is_ok() {
                return Some(reference);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        println!("llama.cpp's server does not start: {}", std::fs::read_to_string(&log).unwrap_or_default());
        None
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

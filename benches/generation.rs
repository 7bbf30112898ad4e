//! How fast answers are generated: a real server asked over `POST /v1/answers`, beside llama.cpp driven directly.
//!
//! Three sections: the prompt (time to the first token, retrieval and HTTP included), one answer, eight answers asked
//! at once. After each round of ours llama.cpp (`scripts/bench_llama_cpp_python.py`) computes the same numbers of
//! prompt and output tokens on the same model, behind as many that its cache holds already, once with its defaults and
//! once without flash attention, so that what else the machine does hits all; medians and the median of the rounds'
//! ratios are shown. What the eight say once all of them have their first token is compared with as many tokens of each.
//!
//! `ANSWERD__MODELS__CHAT__FLASH_ATTENTION=true` measures answerd with the attention that llama.cpp uses by default.
//!
//! Environment: `ANSWERD_BENCH_PYTHON` (a Python with llama-cpp-python; without it only our figures are shown),
//! `BENCH_ROUNDS` (default 5), `BENCH_THREADS` (default one a core), `BENCH_SECTION` (prefill, decode or together).

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use common::{Home, Server, Setup, models, sample};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};

fn main() {
    support::run(measure());
}

async fn measure() {
    let threads = support::number("BENCH_THREADS", std::thread::available_parallelism().map_or(1, usize::from));
    let rounds = support::number("BENCH_ROUNDS", 5);
    let only = std::env::var("BENCH_SECTION").ok();
    let mut references: Vec<Reference> = [("llama.cpp", "-1"), ("llama.cpp without flash attention", "0")]
        .into_iter()
        .filter_map(|(name, flash)| Reference::start(name, flash, threads))
        .collect();
    let home = Home::new();
    let settings = format!("models.chat.threads={threads}");
    let mut server = home.serve(&Setup { folder: Some(sample()), settings, ..Setup::default() }).await;
    // The reference holds up this thread: idle connections would be closed by the server without being noticed here.
    server.http =
        answerd::http::client_builder(None).expect("TLS").pool_max_idle_per_host(0).build().expect("a client");
    server
        .until("the documents are visible", async || {
            let (_, status) = server.get("/admin/status").await;
            status["catalog"]["documents"].as_u64() >= Some(13) && status["freshness"]["lag_events"] == 0
        })
        .await;
    let questions: Vec<Value> =
        serde_json::from_str(include_str!("../tests/sample_questions.json")).expect("the sample questions");
    let mut questions = questions.iter().filter_map(|q| q["question"].as_str()).cycle();
    println!("{threads} threads, {rounds} rounds");
    for section in [Section::Prefill, Section::Decode, Section::Together] {
        if only.as_ref().is_some_and(|only| only != section.name()) {
            continue;
        }
        let mut ours = Vec::new();
        let mut theirs = vec![Vec::new(); references.len()];
        // A round that nobody counts warms caches and clock.
        for round in 0..=rounds {
            let (streams, tokens) = section.shape();
            let asked: Vec<&str> = questions.by_ref().take(streams).collect();
            let start = Instant::now();
            let mut seen = join_all(asked.iter().map(|question| ask(&server, question, tokens))).await;
            // What the documents do not tell is declined without the model.
            seen.retain(|seen| seen.generated > 0);
            let own = section.figures(&seen, start);
            let others: Vec<[f64; 2]> =
                references.iter_mut().map(|reference| reference.measure(section, &seen)).collect();
            if round > 0 {
                ours.push(own);
                others.into_iter().zip(&mut theirs).for_each(|(figures, all)| all.push(figures));
            }
        }
        for (n, name) in section.figure_names().iter().enumerate() {
            let of =
                |all: &[[f64; 2]]| support::median(&mut all.iter().map(|figures| figures[n]).collect::<Vec<f64>>());
            println!("{name}: answerd {:.1}", of(&ours));
            for (reference, all) in references.iter().zip(&theirs) {
                let mut ratios: Vec<f64> = ours.iter().zip(all).map(|(own, other)| own[n] / other[n]).collect();
                println!("    {} {:.1}, ratio {:.3}", reference.name, of(all), support::median(&mut ratios));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Section {
    Prefill,
    Decode,
    Together,
}

impl Section {
    fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Together => "together",
        }
    }

    /// Answers asked at once, and most tokens of each.
    fn shape(self) -> (usize, usize) {
        match self {
            Self::Prefill => (1, 1),
            Self::Decode => (1, 128),
            Self::Together => (8, 64),
        }
    }

    fn figure_names(self) -> &'static [&'static str] {
        match self {
            Self::Prefill => &["prefill, prompt tok/s until the first token"],
            Self::Decode => &["decode, one answer, tok/s"],
            Self::Together => {
                &["eight answers at once, generated tok/s in all", "the same, once all have their first token"]
            }
        }
    }

    fn figures(self, seen: &[Seen], start: Instant) -> [f64; 2] {
        let seconds = |from: Instant, to: Instant| (to - from).as_secs_f64();
        let first = seen.iter().map(|seen| seen.first).max().unwrap_or(start);
        let end = seen.iter().map(|seen| seen.end).max().unwrap_or(start);
        let computed: usize = seen.iter().map(|seen| seen.prompt).sum();
        let generated: usize = seen.iter().map(|seen| seen.generated).sum();
        match self {
            Self::Prefill => [computed as f64 / seconds(start, first), 0.0],
            Self::Decode => [(generated - 1) as f64 / seconds(first, end), 0.0],
            Self::Together => {
                let early: usize = early(seen).iter().sum();
                [generated as f64 / seconds(start, end), (generated - early) as f64 / seconds(first, end)]
            }
        }
    }
}

/// How many tokens each answer had said when the last of them said its first.
fn early(seen: &[Seen]) -> Vec<usize> {
    let first = seen.iter().map(|seen| seen.first).max();
    seen.iter()
        .map(|seen| {
            // An event may carry more than one token.
            let events = seen.tokens.iter().filter(|at| Some(**at) <= first).count();
            (seen.generated * events / seen.tokens.len().max(1)).clamp(1, seen.generated)
        })
        .collect()
}

/// What was seen of an answer.
struct Seen {
    /// Prompt tokens that were computed before.
    cached: usize,
    /// The others.
    prompt: usize,
    generated: usize,
    first: Instant,
    end: Instant,
    tokens: Vec<Instant>,
}

async fn ask(server: &Server, question: &str, max_tokens: usize) -> Seen {
    let response = server.ask(json!({ "question": format!("Explain at length, with an example: {question}"), "max_tokens": max_tokens, "temperature": 0.0 })).await;
    assert!(response.status().is_success(), "{}", response.text().await.unwrap_or_default());
    let mut events = response.bytes_stream().eventsource();
    let (mut tokens, mut usage, mut end) = (Vec::new(), Value::Null, None);
    while let Some(event) = events.next().await {
        let event = event.expect("a well-formed event");
        match event.event.as_str() {
            "token" => tokens.push(Instant::now()),
            "usage" => {
                end = Some(Instant::now());
                usage = serde_json::from_str(&event.data).expect("JSON");
            }
            "error" => panic!("{question}: {}", event.data),
            _ => {}
        }
    }
    let end = end.expect("every answer ends with its usage");
    let count = |member: &str| usage[member].as_u64().expect("a count") as usize;
    let cached = count("cached_prompt_tokens");
    Seen {
        cached,
        prompt: count("prompt_tokens") - cached,
        generated: count("completion_tokens"),
        first: tokens.first().copied().unwrap_or(end),
        end,
        tokens,
    }
}

/// llama.cpp in a Python process of its own.
struct Reference {
    name: &'static str,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reference {
    fn start(name: &'static str, flash_attention: &str, threads: usize) -> Option<Self> {
        let python = std::env::var_os("ANSWERD_BENCH_PYTHON")?;
        let mut child = Command::new(&python)
            .arg("scripts/bench_llama_cpp_python.py")
            .arg(models().join("SmolLM2-135M-Instruct.Q4_1.gguf"))
            .args(["--threads", &threads.to_string(), &format!("--flash-attention={flash_attention}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .inspect_err(|error| eprintln!("{} cannot be started: {error}", python.display()))
            .ok()?;
        let (requests, answers) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        let mut reference = Self { name, child, requests, answers };
        println!("{name}: llama-cpp-python {}", reference.line()["llama_cpp_python"].as_str().unwrap_or("?"));
        Some(reference)
    }

    /// Lets it compute as many tokens as answerd did.
    fn measure(&mut self, section: Section, seen: &[Seen]) -> [f64; 2] {
        let cached: Vec<usize> = seen.iter().map(|seen| seen.cached).collect();
        let prompts: Vec<usize> = seen.iter().map(|seen| seen.prompt).collect();
        let tokens: Vec<usize> = seen.iter().map(|seen| seen.generated).collect();
        let early = early(seen);
        writeln!(
            self.requests,
            "{}",
            json!({ "cached": cached, "prompts": prompts, "early": early, "tokens": tokens })
        )
        .expect("the reference reads");
        let answer = self.line();
        let seconds = |key: &str| answer[key].as_f64().expect("seconds");
        let (prefill, late) = (seconds("prefill_seconds"), seconds("late_seconds"));
        let sum = |counts: &[usize]| counts.iter().sum::<usize>() as f64;
        match section {
            Section::Prefill => [sum(&prompts) / prefill, 0.0],
            Section::Decode => [(sum(&tokens) - 1.0) / late, 0.0],
            Section::Together => {
                let all = prefill + seconds("early_seconds") + late;
                [sum(&tokens) / all, (sum(&tokens) - sum(&early)) / late]
            }
        }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the reference answers");
        serde_json::from_str(&line).expect("the reference answers in JSON; its own words are above")
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

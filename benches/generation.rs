//! How fast the engine generates, beside llama.cpp itself: `cargo bench --bench generation`.
//!
//! Three sections: the prompt (prefill), one sequence (decode), eight sequences together. Rounds of the engine and of
//! llama.cpp (`scripts/bench_llama_cpp_python.py`) alternate on the same model with the same tokens, so that what else
//! the machine does hits both; the medians and the median of the rounds' ratios are shown. Without that Python only the
//! engine's own figures are.
//!
//! Environment: `ANSWERD_MODELS` (folder of the model), `ANSWERD_BENCH_PYTHON` (a Python with llama-cpp-python),
//! `BENCH_ROUNDS` (default 7), `BENCH_THREADS` (default one a core).

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use answerd::models::llama_cpp::{LlamaCpp, LlamaOptions};
use answerd::models::{Finished, Generator, ModelError, Sampling, Segment, Sequence, Sink};
use serde_json::{Value, json};

/// Sentences of an invented company; a prompt is made of them in an order of its own.
const SENTENCES: [&str; 12] = [
    "The warehouse in Lindau receives deliveries from Monday to Friday between seven in the morning and four in the afternoon. ",
    "Travel expenses are refunded within two weeks once the form and all receipts have been handed in. ",
    "Every new employee gets a laptop, a key card, and an introduction to the safety rules of the plant. ",
    "The pump P-204 must be inspected every five hundred hours of operation, and its seal be replaced once a year. ",
    "Customers may return a product within thirty days, if it is complete and was not used. ",
    "Backups of the order database are taken every night at two and kept for ninety days. ",
    "Meetings of more than six people need an agenda, which the organiser sends a day before. ",
    "The canteen offers two warm meals a day; what is left is sold at half the price after two. ",
    "Invoices above ten thousand are approved by the head of the department and by the finance office. ",
    "In the event of a fire the building is left by the nearest staircase, and nobody uses the lifts. ",
    "The quarterly report lists revenue, costs, and the plans of all departments for the coming months. ",
    "Passwords are at least fourteen characters long, and are changed when there is a reason to. ",
];

fn main() {
    // `cargo test` also runs benches, to see that they build; that is no time to measure.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let number = |name: &str, default: usize| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let models = std::env::var("ANSWERD_MODELS")
        .unwrap_or_else(|_| format!("{}/.cache/answerd/models", std::env::var("HOME").unwrap_or_default()));
    let path = PathBuf::from(models).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let mut options = LlamaOptions::new(&path, "bench");
    options.threads = number("BENCH_THREADS", options.threads);
    let engine = match LlamaCpp::load(options.clone()) {
        Ok(engine) => engine,
        Err(error) => {
            eprintln!("{error}\n`make setup` fetches the model.");
            std::process::exit(1);
        }
    };
    let mut reference = Reference::start(&options);
    println!("{}, {} threads, {} slots", path.display(), options.threads, options.slots);
    if let Some(reference) = &reference {
        println!("beside llama-cpp-python {}", reference.version);
    }
    let rounds = number("BENCH_ROUNDS", 7);
    let only = std::env::var("BENCH_SECTION").ok();
    for section in [Section::Prefill, Section::Decode, Section::Together] {
        if only.as_ref().is_some_and(|only| only != section.mode()) {
            continue;
        }
        // A round that nobody counts warms caches and clock.
        let measured: Vec<Round> =
            (0..=rounds).map(|n| section.round(&engine, reference.as_mut(), n)).skip(1).collect();
        section.show(&measured);
    }
    let totals = engine.totals();
    println!(
        "engine: {} steps, {} prompt tokens, {} generated, {:.1} s busy",
        totals.steps, totals.prefill_tokens, totals.decode_tokens, totals.busy_seconds
    );
}

#[derive(Clone, Copy)]
enum Section {
    Prefill,
    Decode,
    Together,
}

/// Tokens per second of one round: the engine's, and llama.cpp's. The second figure of a section is of decode alone.
struct Round {
    engine: [f64; 2],
    reference: Option<[f64; 2]>,
}

impl Section {
    fn mode(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Together => "together",
        }
    }

    /// Prompt lengths, and tokens to generate for each.
    fn shape(self) -> (Vec<usize>, usize) {
        match self {
            Self::Prefill => (vec![680], 1),
            Self::Decode => (vec![300], 128),
            Self::Together => ((0..8).map(|n| 300 + n * 380 / 7).collect(), 64),
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Prefill => &["prefill, 680 tokens: prompt tok/s"],
            Self::Decode => &["decode, one sequence, 128 tokens: tok/s"],
            Self::Together => &[
                "eight sequences, prompts of 300-680, 64 tokens each: generated tok/s in all",
                "the same, once all prompts are read",
            ],
        }
    }

    fn round(self, engine: &LlamaCpp, reference: Option<&mut Reference>, n: usize) -> Round {
        let (lengths, tokens) = self.shape();
        // Other prompts in each round and for each sequence, alike from the first token on: nothing is cached.
        let prompts: Vec<Vec<i32>> = lengths
            .iter()
            .enumerate()
            .map(|(k, length)| prompt(engine, n * 31 + k * 7 + self as usize, *length))
            .collect();
        let figures = |start: Instant, first: Instant, end: Instant, read: usize, generated: usize, after: usize| {
            let (prefill, decode) = ((first - start).as_secs_f64(), (end - first).as_secs_f64());
            match self {
                Self::Prefill => [read as f64 / prefill, 0.0],
                Self::Decode => [after as f64 / decode, 0.0],
                Self::Together => [generated as f64 / (prefill + decode), after as f64 / decode],
            }
        };
        let run = |engine: &LlamaCpp| {
            let start = Instant::now();
            let seen = generate(engine, &prompts, tokens);
            let first = seen.iter().map(|seen| seen.first).max().unwrap_or(start);
            let end = seen.iter().map(|seen| seen.end).max().unwrap_or(start);
            let generated = seen.iter().map(|seen| seen.tokens.len()).sum();
            let after = seen.iter().flat_map(|seen| &seen.tokens).filter(|at| **at > first).count();
            figures(start, first, end, lengths.iter().sum(), generated, after)
        };
        let measure = |reference: &mut Reference| {
            let answer = reference.ask(&json!({ "mode": self.mode(), "prompts": prompts, "tokens": tokens }));
            let number = |key: &str| answer[key].as_f64().unwrap_or(f64::NAN);
            let (prefill, decode) = (number("prefill_seconds"), number("decode_seconds"));
            match self {
                Self::Prefill => [number("prompt_tokens") / prefill, 0.0],
                Self::Decode => [(number("generated_tokens") - 1.0) / decode, 0.0],
                Self::Together => {
                    [number("generated_tokens") / (prefill + decode), (number("generated_tokens") - 8.0) / decode]
                }
            }
        };
        // Who comes first alternates, too.
        match reference {
            None => Round { engine: run(engine), reference: None },
            Some(reference) if n.is_multiple_of(2) => {
                let own = run(engine);
                Round { engine: own, reference: Some(measure(reference)) }
            }
            Some(reference) => {
                let other = measure(reference);
                Round { engine: run(engine), reference: Some(other) }
            }
        }
    }

    fn show(self, rounds: &[Round]) {
        for (n, name) in self.names().iter().enumerate() {
            let own = median(rounds.iter().map(|round| round.engine[n]));
            let other = median(rounds.iter().filter_map(|round| Some(round.reference?[n])));
            let ratio = median(rounds.iter().filter_map(|round| Some(round.engine[n] / round.reference?[n])));
            match (other, ratio) {
                (Some(other), Some(ratio)) => {
                    println!("{name}: {:.1}, llama.cpp {other:.1}, ratio {ratio:.3}", own.unwrap_or(f64::NAN));
                }
                _ => println!("{name}: {:.1}", own.unwrap_or(f64::NAN)),
            }
        }
    }
}

fn median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        n if n % 2 == 1 => Some(numbers[middle]),
        _ => Some(f64::midpoint(numbers[middle - 1], numbers[middle])),
    }
}

/// A prompt of exactly so many tokens that begins unlike those of other seeds.
fn prompt(engine: &LlamaCpp, seed: usize, length: usize) -> Vec<i32> {
    let mut text = format!("{seed}. ");
    let mut n = seed;
    loop {
        n = n.wrapping_mul(5).wrapping_add(7);
        text.push_str(SENTENCES[(n / 3) % SENTENCES.len()]);
        let mut tokens = engine.tokenize(&[Segment::Text(text.clone())]);
        if tokens.len() >= length {
            tokens.truncate(length);
            return tokens;
        }
    }
}

/// When a sequence's tokens came.
struct Seen {
    first: Instant,
    end: Instant,
    tokens: Vec<Instant>,
}

struct Clock {
    tokens: Vec<Instant>,
    end: Sender<(Vec<Instant>, Instant, Result<Finished, ModelError>)>,
}

impl Sink for Clock {
    fn wanted(&self) -> bool {
        true
    }
    fn started(&mut self) {}
    fn text(&mut self, _text: &str) {
        self.tokens.push(Instant::now());
    }
    fn finish(&mut self, result: Result<Finished, ModelError>) {
        let _ = self.end.send((std::mem::take(&mut self.tokens), Instant::now(), result));
    }
}

/// Runs all prompts at once to their end. Fails where one ends early or finds something cached: its figures would not
/// compare.
fn generate(engine: &LlamaCpp, prompts: &[Vec<i32>], tokens: usize) -> Vec<Seen> {
    let (end, ended) = channel();
    for prompt in prompts {
        let sink = Box::new(Clock { tokens: Vec::new(), end: end.clone() });
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, repeat_penalty: 1.0, seed: 0 };
        let sequence = Sequence { prompt: prompt.clone(), sampling, max_tokens: tokens, stop: Vec::new(), sink };
        engine.start(sequence).expect("the engine takes the sequence");
    }
    drop(end);
    let seen: Vec<Seen> = ended
        .iter()
        .map(|(at, end, result)| {
            let finished = result.expect("the engine generates");
            assert_eq!(finished.completion_tokens, tokens, "a sequence ended early: {:?}", finished.reason);
            assert!(finished.cached_prompt_tokens < 8, "the prompt was cached: {}", finished.cached_prompt_tokens);
            Seen { first: at.first().copied().unwrap_or(end), end, tokens: at }
        })
        .collect();
    assert_eq!(seen.len(), prompts.len());
    seen
}

/// llama.cpp in a Python process of its own.
struct Reference {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    version: String,
}

impl Reference {
    fn start(options: &LlamaOptions) -> Option<Self> {
        let python = std::env::var_os("ANSWERD_BENCH_PYTHON")?;
        let script = "scripts/bench_llama_cpp_python.py";
        let mut child = Command::new(&python)
            .arg(script)
            .arg(&options.path)
            .args(["--sequences", &options.slots.to_string(), "--context", &options.context_per_slot.to_string()])
            .args(["--batch", &options.batch_tokens.to_string(), "--threads", &options.threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .inspect_err(|error| eprintln!("{} cannot be started: {error}", PathBuf::from(&python).display()))
            .ok()?;
        let (requests, answers) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        let mut reference = Self { child, requests, answers, version: String::new() };
        let hello = reference.line();
        reference.version = hello["llama_cpp_python"].as_str().unwrap_or("of unknown version").to_owned();
        Some(reference)
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests, "{request}").expect("the reference reads");
        self.line()
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

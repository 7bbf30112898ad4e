//! Embedding: tokens a second beside ONNX Runtime in fp32, with the same model and texts, rounds in turn.
//!
//! `ANSWERD_BENCH_PYTHON`: a Python with the packages of `scripts/bench-requirements.txt` (`make bench` sets it up).

#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use answerd::models::Embedder;
use answerd::models::minilm::MiniLm;
use serde_json::Value;

const TEXTS: usize = 240;
const ROUNDS: usize = 7;

fn main() {
    let folder = support::models().join("all-MiniLM-L6-v2");
    let model = MiniLm::load(&folder).expect("the embedding model");
    let corpus = std::fs::read_to_string(support::collections().join("chunking-eval/corpus.jsonl")).expect("the texts");
    let texts: Vec<String> = corpus
        .lines()
        .step_by(5)
        .take(TEXTS)
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["text"].as_str().expect("a text").to_owned())
        .collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);

    let python = std::env::var("ANSWERD_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = "scripts/bench_onnxruntime.py";
    let mut other = Command::new(python)
        .arg(script)
        .arg(&folder)
        .arg(threads.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut input = other.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(other.stdout.take().expect("a pipe")).lines();
    let mut ask = |line: String| -> Value {
        writeln!(input, "{line}").expect("sent");
        let answer = lines.next().expect("an answer").expect("a line");
        serde_json::from_str(&answer).expect("JSON")
    };
    let ready = ask(serde_json::to_string(&texts).expect("JSON"));

    // Both must compute the same thing.
    let first: Vec<&str> = texts[..8].iter().map(String::as_str).collect();
    for (ours, theirs) in model.embed(&first).expect("vectors").iter().zip(ready["first"].as_array().expect("vectors"))
    {
        let theirs: Vec<f32> =
            theirs.as_array().expect("a vector").iter().map(|v| v.as_f64().expect("a number") as f32).collect();
        let cosine: f32 = ours.iter().zip(&theirs).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.9999, "ONNX Runtime computes something else: cosine {cosine}");
    }

    let (mut ours, mut theirs, mut ratios, mut tokens) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    for _ in 0..ROUNDS {
        let answer = ask(String::from("go"));
        tokens = answer["tokens"].as_f64().expect("tokens");
        theirs.push(tokens / answer["seconds"].as_f64().expect("seconds"));
        let began = Instant::now();
        // As the embedder does it: each thread takes batches of its own.
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(4, std::sync::atomic::Ordering::Relaxed);
                        let Some(batch) = texts.get(at..(at + 4).min(texts.len())).filter(|batch| !batch.is_empty())
                        else {
                            break;
                        };
                        let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
                        model.embed(&batch).expect("vectors");
                    }
                });
            }
        });
        ours.push(tokens / began.elapsed().as_secs_f64());
        ratios.push(ours[ours.len() - 1] / theirs[theirs.len() - 1]);
    }
    println!("{} texts, {tokens:.0} tokens, {threads} threads, {ROUNDS} rounds in turn, medians", texts.len());
    println!("answerd                            {:>7.0} tokens/s", support::median(&mut ours));
    println!(
        "ONNX Runtime {} fp32, batches of {:<2} {:>7.0} tokens/s",
        ready["version"].as_str().unwrap_or_default(),
        ready["batch"],
        support::median(&mut theirs)
    );
    println!("ratio {:.2}", support::median(&mut ratios));
    // The end of its input ends it.
    drop(input);
    let _ = other.wait();
}

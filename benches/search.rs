//! Search over 100,000 chunks: latency of hybrid search without the query's embedding, recall of the graphs against the
//! exact scan, time to build both indexes from the catalog, memory.
//!
//! The chunks are made from the collection that the `quality` benchmark has ingested: each real chunk several times, its
//! words partly exchanged with those of another one, its vector moved by as much noise.

#[path = "support/mod.rs"]
mod support;

use std::time::Instant;

use answerd::actors::retriever::{Mode, Search};
use answerd::app::{App, Parts, resident_bytes};
use answerd::documents::event::{DocumentId, Metadata, Operation, Upsert};
use answerd::documents::{Format, ParsedDocument};
use answerd::eval::percentile;
use answerd::models::Embedder;
use answerd::models::minilm::MiniLm;
use answerd::stores::catalog::{Catalog, NewChunk, Progress};
use answerd::stores::hnsw::Plan;

const CHUNKS: usize = 100_000;
/// Chunks of a made document.
const DOCUMENT: usize = 10;
const QUERIES: usize = 1000;

fn main() {
    let model = MiniLm::load(&support::models().join("all-MiniLM-L6-v2")).expect("the embedding model");
    let data = support::kept("search");
    let mut config = support::config();
    config.data.dir = data.clone();
    if !data.join("complete").exists() {
        make(&data, &model);
    }
    let queries = support::collections().join("scifact-train/queries.jsonl");
    let queries = std::fs::read_to_string(queries).expect("the queries");
    let queries: Vec<(String, Vec<f32>)> = queries
        .lines()
        .take(QUERIES)
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["text"].as_str().expect("a text").to_owned()
        })
        .map(|text| (text.clone(), model.embed(&[&text]).expect("a vector").remove(0)))
        .collect();
    support::run(measure(config, queries));
}

async fn measure(config: answerd::config::Config, queries: Vec<(String, Vec<f32>)>) {
    let began = Instant::now();
    let app = App::start(config, Parts { folders: false, chat: false }).await.expect("it starts");
    app.until_caught_up().await;
    let start_s = began.elapsed().as_secs_f64();
    let view = app.indexes.views.current().expect("a view");
    println!(
        "{} chunks in {} graphs; open and indexed after {start_s:.1} s; {:.0} MiB resident",
        view.live.len(),
        app.indexes.vectors.stats(&view.live).segments,
        resident_bytes().unwrap_or_default() as f64 / f64::from(1 << 20)
    );
    println!(
        "mode      limit   p50 ms   p99 ms   (both indexes, fusion and reading the passages, {} queries, one at a time)",
        queries.len()
    );
    for (name, mode) in [("hybrid", Mode::Hybrid), ("lexical", Mode::Lexical), ("vector", Mode::Vector)] {
        for round in 0..2 {
            let mut times = Vec::new();
            for (query, vector) in &queries {
                let search =
                    Search { query: query.clone(), mode, filter: None, limit: 10, vector: Some(vector.clone()) };
                let began = Instant::now();
                app.retriever.ask(search).await.expect("found");
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
            // The first round only warms the caches.
            if round == 1 {
                println!(
                    "{name:<9} {:>5} {:>8.2} {:>8.2}",
                    10,
                    percentile(&mut times, 0.5),
                    percentile(&mut times, 0.99)
                );
            }
        }
    }
    let (mut hits, mut all, mut graph_ms, mut exact_ms) = (0, 0, Vec::new(), Vec::new());
    for (_, vector) in &queries {
        let timed = |plan| {
            let began = Instant::now();
            let found = app.indexes.vectors.search(vector, 10, &view.live, plan).expect("found");
            (found, began.elapsed().as_secs_f64() * 1e3)
        };
        let (graph, took) = timed(Plan::Auto);
        graph_ms.push(took);
        let (exact, took) = timed(Plan::Exact);
        exact_ms.push(took);
        all += exact.len();
        hits += exact.iter().filter(|hit| graph.iter().any(|found| found.chunk == hit.chunk)).count();
    }
    println!(
        "recall@10 of the graphs against the exact scan: {:.4}; p50 {:.2} ms against {:.2} ms",
        hits as f64 / all as f64,
        percentile(&mut graph_ms, 0.5),
        percentile(&mut exact_ms, 0.5)
    );
    drop(view);
    app.stop().await;
}

/// Fills a catalog with made chunks.
fn make(data: &std::path::Path, model: &MiniLm) {
    let _ = std::fs::remove_dir_all(data);
    let real = Catalog::open(&support::kept("quality"), model.name(), model.dimensions())
        .expect("run the `quality` benchmark first: its chunks are the material");
    let (_, versions) = real.live_versions().expect("the documents");
    let mut material: Vec<(String, Vec<f32>)> = Vec::new();
    for version in versions {
        let texts = real.chunk_texts(version.chunks.clone()).expect("texts");
        let vectors = real.vectors(version.chunks).expect("vectors");
        material.extend(texts.into_iter().map(|t| t.text).zip(vectors.into_iter().map(|(_, v)| v)));
    }
    assert!(!material.is_empty(), "there is nothing to make chunks of: run `make bench BENCH=quality` first");
    drop(real);
    let catalog = Catalog::open(data, model.name(), model.dimensions()).expect("a new catalog");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for n in 0..CHUNKS / DOCUMENT {
        let (mut text, mut chunks) = (String::new(), Vec::new());
        for _ in 0..DOCUMENT {
            let (base, other) = (next() as usize % material.len(), next() as usize % material.len());
            let words = material[base].0.split_whitespace();
            let mut others = material[other].0.split_whitespace();
            let start = text.len();
            for word in words {
                let word = if next() % 8 == 0 { others.next().unwrap_or(word) } else { word };
                text.push_str(word);
                text.push(' ');
            }
            let mut vector: Vec<f32> =
                material[base].1.iter().map(|v| v + ((next() % 2001) as f32 / 1000.0 - 1.0) * 0.02).collect();
            let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            vector.iter_mut().for_each(|v| *v /= norm);
            chunks.push(NewChunk {
                section: Vec::new(),
                span: start..text.len() - 1,
                page: None,
                tokens: 0,
                hash: [0; 32],
                vector,
            });
            text.push('\n');
        }
        let upsert = Upsert {
            id: DocumentId::parse(&format!("made/{n}")).expect("an id"),
            revision: None,
            media_type: None,
            title: Some(format!("Made document {n}")),
            url: None,
            collection: "made".to_owned(),
            metadata: Metadata::new(),
            content: n.to_string().into_bytes(),
        };
        let receipt = catalog.receive(&Operation::Upsert(upsert), None, 0).expect("received");
        let parsed = ParsedDocument::new(Format::Text, None, text);
        catalog.store_version(receipt.seq, &parsed, &chunks, Progress::default(), 0).expect("stored");
    }
    std::fs::write(data.join("complete"), "").expect("the mark");
    println!("made {CHUNKS} chunks of {} real ones", material.len());
}

//! Search over 100,000 chunks, by store, in one run: latency of hybrid search without the query's embedding, recall of the
//! vector stage against the exact scan, how fast chunks are taken and become visible, memory of this process.
//!
//! The chunks are made from the collection that the `quality` benchmark has ingested: each real chunk several times, its
//! words partly exchanged with those of another one, its vector moved by as much noise. `BENCH_STORE` names one store;
//! `BENCH_CHUNKS` another number of chunks.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::time::Instant;

use answerd::actors::retriever::{Mode, Search};
use answerd::app::{App, Parts, resident_bytes};
use answerd::config::{Config, StoreEngine};
use answerd::documents::event::{DocumentId, Metadata, Operation, Upsert};
use answerd::documents::{Format, ParsedDocument};
use answerd::eval::percentile;
use answerd::models::Embedder;
use answerd::models::minilm::MiniLm;
use answerd::retrieval::sight::Sight;
use answerd::stores::catalog::Catalog;
use answerd::stores::document_store::{NewChunk, Progress};
use common::postgres::Postgres;
use common::qdrant::Qdrant;
use futures_util::StreamExt;
use qdrant_client::qdrant::CollectionStatus;

const CHUNKS: usize = 100_000;
/// Chunks of a made document.
const DOCUMENT: usize = 10;
const QUERIES: usize = 1000;
/// Documents on their way to the store at once, as many as the document workers have.
const AT_ONCE: usize = 32;

/// A document to store.
#[derive(Clone)]
struct Made {
    id: String,
    text: String,
    chunks: Vec<NewChunk>,
}

/// A question, its embedding, and its ten nearest chunks: the document's id and where the chunk begins in it.
struct Query {
    text: String,
    vector: Vec<f32>,
    nearest: HashSet<(String, usize)>,
}

fn main() {
    let chunks = support::number("BENCH_CHUNKS", CHUNKS);
    let model = MiniLm::load(&support::models().join("all-MiniLM-L6-v2")).expect("the embedding model");
    let made = make(chunks, &model);
    let text =
        std::fs::read_to_string(support::collections().join("scifact-train/queries.jsonl")).expect("the queries");
    let queries: Vec<Query> = text
        .lines()
        .take(QUERIES)
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let text = line["text"].as_str().expect("a text").to_owned();
            let vector = model.embed(&[&text]).expect("a vector").remove(0);
            Query { nearest: nearest(&vector, &made), text, vector }
        })
        .collect();
    println!(
        "{chunks} chunks in {} documents, {} queries, one at a time, ten passages each",
        made.len(),
        queries.len()
    );
    println!("store     chunks/s in  mode      p50 ms   p99 ms  recall@10  MiB resident here");
    let wanted = std::env::var("BENCH_STORE").ok();
    let asked = |name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    if asked("embedded") {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = support::config();
        config.data.dir = folder.path().to_owned();
        support::run(measure("embedded", config, &made, &queries));
    }
    if asked("postgres") {
        // As an operator would run it on this machine.
        let server = ["-c", "fsync=on", "-c", "shared_buffers=2GB", "-c", "max_wal_size=4GB"];
        let postgres = Postgres::start_with(&server);
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = support::config();
        config.data.dir = folder.path().to_owned();
        config.store.engine = StoreEngine::Postgres;
        config.postgres.url = postgres.url();
        support::run(async {
            measure("postgres", config, &made, &queries).await;
            sizes(&postgres, chunks).await;
        });
    }
    if asked("qdrant") && std::env::var_os("ANSWERD_TEST_QDRANT_URL").is_some() {
        let qdrant = Qdrant::start();
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = support::config();
        config.data.dir = folder.path().to_owned();
        config.store.engine = StoreEngine::Qdrant;
        (config.qdrant.url, config.qdrant.collection) = (qdrant.url.clone(), qdrant.collection.clone());
        support::run(measure("qdrant", config, &made, &queries));
    }
}

async fn measure(name: &str, config: Config, made: &[Made], queries: &[Query]) {
    let app = App::start(config, Parts { folders: false, chat: false }).await.expect("it starts");
    let began = Instant::now();
    futures_util::stream::iter(made).for_each_concurrent(AT_ONCE, |document| ingest(&app, document.clone())).await;
    app.until_caught_up().await;
    let chunks: usize = made.iter().map(|document| document.chunks.len()).sum();
    let rate = chunks as f64 / began.elapsed().as_secs_f64();
    until_indexed(&app.config()).await;
    let resident = resident_bytes().unwrap_or_default() as f64 / f64::from(1 << 20);
    for (mode, word) in [(Mode::Hybrid, "hybrid"), (Mode::Lexical, "lexical"), (Mode::Vector, "vector")] {
        let (mut times, mut found) = (Vec::new(), 0);
        // The first round only warms the caches.
        for round in 0..2 {
            for query in queries {
                let vector = Some(query.vector.clone());
                let search = Search {
                    query: query.text.clone(),
                    mode,
                    filter: None,
                    sight: Sight::All.into(),
                    limit: 10,
                    vector,
                    settings: app.config().search.clone(),
                };
                let began = Instant::now();
                let answer = app.retriever.ask(search).await.expect("found");
                if round == 1 {
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                    let near = |passage: &&answerd::retrieval::passage::Passage| {
                        query.nearest.contains(&(passage.document_id.clone(), passage.start))
                    };
                    found += answer.passages.iter().filter(near).count();
                }
            }
        }
        let recall = match mode {
            Mode::Vector => format!("{:.4}", found as f64 / (10 * queries.len()) as f64),
            _ => "-".to_owned(),
        };
        let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
        println!("{name:<9} {rate:>11.0}  {word:<8} {p50:>7.2}  {p99:>7.2}  {recall:>9}  {resident:>7.0}");
    }
    app.stop().await;
}

/// Qdrant makes its graphs after it has taken the vectors.
async fn until_indexed(config: &Config) {
    if config.store.engine != StoreEngine::Qdrant {
        return;
    }
    let client =
        qdrant_client::Qdrant::from_url(&config.qdrant.url).skip_compatibility_check().build().expect("a client");
    let (chunks, began) = (format!("{}-chunks", config.qdrant.collection), Instant::now());
    loop {
        let info = client.collection_info(&chunks).await.expect("the collection").result.expect("its state");
        if info.status() == CollectionStatus::Green {
            break println!(
                "Qdrant had made its graphs {:.0} s after the last chunk was taken",
                began.elapsed().as_secs_f64()
            );
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

/// What a chunk takes on the server's disk.
async fn sizes(postgres: &Postgres, chunks: usize) {
    let sql = "SELECT pg_table_size('answerd.chunks'), pg_relation_size('answerd.chunks_embedding'), pg_relation_size('answerd.chunks_words'),
                      pg_total_relation_size('answerd.chunks') + pg_total_relation_size('answerd.documents') + pg_total_relation_size('answerd.operations')";
    let row = postgres.client().await.query_one(sql, &[]).await.expect("sizes");
    let per_chunk = |n: usize| row.get::<_, i64>(n) as f64 / chunks as f64;
    println!(
        "bytes a chunk in Postgres: row {:.0}, graph {:.0}, words {:.0}, all {:.0}",
        per_chunk(0),
        per_chunk(1),
        per_chunk(2),
        per_chunk(3)
    );
}

/// Takes a document as the actors do that have parsed and embedded it.
async fn ingest(app: &App, made: Made) {
    let Made { id, text, chunks } = made;
    let upsert = Upsert {
        id: DocumentId::parse(&id).expect("an id"),
        revision: None,
        media_type: None,
        title: Some(format!("Made document {id}")),
        url: None,
        collection: "made".to_owned(),
        metadata: Metadata::new(),
        content: id.into_bytes(),
    };
    let store = &app.library.store;
    let receipt = store.receive(Operation::Upsert(upsert), None, 0).await.expect("received");
    let parsed = ParsedDocument::new(Format::Text, None, text);
    store.store_version(receipt.seq, parsed, chunks, Progress::default(), 0).await.expect("stored");
}

/// The ten nearest chunks, by comparing all.
fn nearest(vector: &[f32], made: &[Made]) -> HashSet<(String, usize)> {
    let mut all: Vec<(f32, &str, usize)> = Vec::new();
    for document in made {
        for chunk in &document.chunks {
            let similarity = chunk.vector.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
            all.push((similarity, &document.id, chunk.span.start));
        }
    }
    all.select_nth_unstable_by(10, |a, b| b.0.total_cmp(&a.0));
    all[..10].iter().map(|(_, id, start)| ((*id).to_owned(), *start)).collect()
}

/// Makes chunks of the real ones.
fn make(chunks: usize, model: &MiniLm) -> Vec<Made> {
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
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let document = |n: usize| {
        let (mut text, mut made) = (String::new(), Vec::new());
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
            made.push(NewChunk {
                section: Vec::new(),
                span: start..text.len() - 1,
                page: None,
                tokens: 0,
                hash: [0; 32],
                vector,
            });
            text.push('\n');
        }
        Made { id: format!("made/{n}"), text, chunks: made }
    };
    (0..chunks / DOCUMENT).map(document).collect()
}

//! Search over 100,000 chunks, by store, in one run: latency of hybrid search without the query's embedding, recall of the
//! vector stage against the exact scan, how fast chunks are taken and become visible, memory of this process.
//!
//! `BENCH_STORE` names one store; `BENCH_CHUNKS` another number of chunks.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "support/made.rs"]
mod made;
#[path = "support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::time::Instant;

use answerd::actors::retriever::{Mode, Search};
use answerd::app::{App, Parts, resident_bytes};
use answerd::config::{Config, StoreEngine};
use answerd::eval::percentile;
use answerd::models::Embedder;
use answerd::models::minilm::MiniLm;
use answerd::retrieval::sight::Sight;
use common::postgres::Postgres;
use common::qdrant::Qdrant;
use made::{Made, ingest, make};
use qdrant_client::qdrant::CollectionStatus;

const CHUNKS: usize = 100_000;
const QUERIES: usize = 1000;

/// A question, its embedding, and its ten nearest chunks: the document's id and where the chunk begins in it.
struct Query {
    text: String,
    vector: Vec<f32>,
    nearest: HashSet<(String, usize)>,
}

fn main() {
    let chunks = support::number("BENCH_CHUNKS", CHUNKS);
    let model = MiniLm::load(&support::models().join("all-MiniLM-L6-v2")).expect("the embedding model");
    let made = make(chunks, &support::kept("quality"), &model);
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
    ingest(&app, made).await;
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

//! `kill -9` at random moments during ingestion, 50 rounds: after each, everything acknowledged is found, nothing is
//! doubled, and both indexes agree with the catalog.
//!
//! `ANSWERD_HANDBOOK`: folder of the documents (default `../shared/sample-docs/handbook-18f`). `ANSWERD_ROUNDS`: rounds.

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Home, Server, Setup, texts};
use reqwest::StatusCode;
use serde_json::json;

fn main() {
    actix::System::new().block_on(rounds());
}

async fn rounds() {
    let folder = std::env::var_os("ANSWERD_HANDBOOK")
        .map_or_else(|| PathBuf::from("../shared/sample-docs/handbook-18f"), PathBuf::from);
    let rounds: usize = std::env::var("ANSWERD_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(50);
    let mut documents: Vec<(String, String)> = std::fs::read_dir(&folder)
        .expect("the handbook")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            (
                path.file_name().expect("a name").to_string_lossy().into_owned(),
                std::fs::read_to_string(path).expect("text"),
            )
        })
        .collect();
    documents.sort();
    let home = Home::new();
    // What was acknowledged last for each document: the round that its text names.
    let mut acknowledged: BTreeMap<String, usize> = BTreeMap::new();
    let (mut acks, mut lost, mut doubled, mut disagreements) = (0, 0, 0, 0);
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").subsec_nanos();
    let began = Instant::now();
    for round in 0..rounds {
        let server = home.serve(&Setup::default()).await;
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let moment = Duration::from_millis(u64::from(seed >> 8) % 2500);
        let ingest = async {
            for (name, text) in documents.iter().cycle().skip(round * 5) {
                let text = format!("{text}\n\n## Round\n\nThis is of round{round}x of {name}.\n");
                let (status, _) = server.put(&format!("/v1/documents/{name}"), "text/markdown", text).await;
                if status == StatusCode::ACCEPTED || status == StatusCode::OK {
                    acknowledged.insert(name.clone(), round);
                    acks += 1;
                }
            }
        };
        tokio::select! {
            () = ingest => {}
            () = tokio::time::sleep(moment) => {}
        }
        server.kill();

        let server = home.serve(&Setup::default()).await;
        settled(&server).await;
        for (name, round) in &acknowledged {
            match served_round(&server, name).await {
                // One that was on its way when the process was killed may have got in as well.
                Some(served) if served >= *round => {}
                served => {
                    lost += 1;
                    println!("round {round}: {name} was acknowledged, round {served:?} is served");
                }
            }
            doubled += doubles(&server, name).await;
        }
        let (_, status) = server.get("/admin/status").await;
        let indexer = server.actor("write/indexer").await;
        let (chunks, detail) = (&status["catalog"]["chunks"], &indexer["detail"]);
        let count = |name: &str| detail["vectors"][name].as_u64().expect("a count");
        let vectors = json!(count("points") - count("tombstones"));
        if [&detail["live_chunks"], &detail["lexical_chunks"], &vectors].into_iter().any(|held| held != chunks) {
            disagreements += 1;
            println!("the catalog has {chunks} chunks, the indexes {detail}");
        }
        server.kill();
    }
    println!("rounds  acknowledged  lost  doubled  indexes disagree  seconds");
    println!(
        "{rounds:>6}  {acks:>12}  {lost:>4}  {doubled:>7}  {disagreements:>16}  {:>7.0}",
        began.elapsed().as_secs_f64()
    );
    assert_eq!((lost, doubled, disagreements), (0, 0, 0));
}

async fn settled(server: &Server) {
    server.until("all is settled", async || server.get("/admin/status").await.1["freshness"]["lag_events"] == 0).await;
}

/// The round that the served text of a document names, as both indexes find it.
async fn served_round(server: &Server, name: &str) -> Option<usize> {
    let (_, document) = server.get(&format!("/v1/documents/{name}")).await;
    let text = document["text"].as_str()?.to_owned();
    let round = text.rsplit("of round").next()?.split('x').next()?.parse().ok()?;
    for mode in ["lexical", "vector"] {
        let query = json!({ "query": format!("round{round}x"), "mode": mode, "filter": { "id": name }, "limit": 100 });
        let (_, found) = server.post("/v1/search", query).await;
        let texts = texts(&found["results"], "text");
        if !texts.iter().any(|text| text.contains(&format!("of round{round}x of {name}"))) {
            println!("{name}: the {mode} index does not find round {round}");
            return None;
        }
    }
    Some(round)
}

/// Passages of a document that are there twice.
async fn doubles(server: &Server, name: &str) -> usize {
    let query = json!({ "query": "the of and to", "mode": "vector", "filter": { "id": name }, "limit": 100 });
    let (_, found) = server.post("/v1/search", query).await;
    let spans: Vec<(u64, u64)> = found["results"]
        .as_array()
        .map(|all| all.iter().filter_map(|p| Some((p["start"].as_u64()?, p["end"].as_u64()?))).collect())
        .unwrap_or_default();
    let distinct: std::collections::BTreeSet<_> = spans.iter().collect();
    spans.len() - distinct.len()
}

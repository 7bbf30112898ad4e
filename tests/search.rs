//! What is promised about searches.

use crate::common;

use common::{Home, Server, Setup, problem, texts};
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn put(server: &Server, id: &str, collection: &str, metadata: Value, content: &str) {
    let envelope = json!({ "content": content, "collection": collection, "metadata": metadata });
    let (status, body) =
        server.put(&format!("/v1/documents/{id}?wait=true"), "application/json", envelope.to_string()).await;
    assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("visible")), "{body}");
}

#[tokio::test]
async fn a_search_gives_the_rank_and_score_of_each_stage() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    put(&server, "cats", "default", json!({}), "# Cats\n\nCats purr when they are content.").await;
    put(&server, "dogs", "default", json!({}), "# Dogs\n\nDogs bark at the postman.").await;
    let (status, body) = server.post("/v1/search", json!({ "query": "why do cats purr", "limit": 2 })).await;
    assert_eq!(status, StatusCode::OK);
    let best = &body["results"][0];
    assert_eq!(best["document_id"], "cats");
    assert_eq!(best["scores"]["lexical"]["rank"], 1);
    assert_eq!(best["scores"]["vector"]["rank"], 1);
    let fused = best["scores"]["fused"].as_f64().unwrap();
    assert!((fused - 2.5 / 11.0).abs() < 1e-6, "{fused}");
    let (start, end) = (best["start"].as_u64().unwrap() as usize, best["end"].as_u64().unwrap() as usize);
    let text = server.get("/v1/documents/cats").await.1["text"].as_str().unwrap().to_owned();
    assert_eq!(&text[start..end], best["text"].as_str().unwrap());
    assert_eq!(body["degraded"], json!([]));
    let (_, lexical) = server.post("/v1/search", json!({ "query": "purr", "mode": "lexical" })).await;
    assert_eq!(texts(&lexical["results"], "document_id"), ["cats"]);
    assert_eq!(lexical["results"][0]["scores"]["vector"], Value::Null);
}

#[tokio::test]
async fn filters_hold_in_every_mode_before_anything_is_ranked() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    for n in 0..60 {
        let team = ["red", "green", "blue"][n % 3];
        let metadata = json!({ "team": team, "year": 2000 + n, "tags": ["all", format!("t{}", n % 5)] });
        put(
            &server,
            &format!("doc-{n:02}"),
            if n < 30 { "old" } else { "new" },
            metadata,
            &format!("Quarterly report number {n} of the committee."),
        )
        .await;
    }
    let matching = |wanted: &dyn Fn(usize) -> bool| {
        (0..60).filter(|n| wanted(*n)).map(|n| format!("doc-{n:02}")).collect::<Vec<_>>()
    };
    let cases: Vec<(Value, Vec<String>)> = vec![
        (json!({ "metadata.team": "red" }), matching(&|n| n % 3 == 0)),
        (json!({ "metadata.team": ["red", "blue"], "collection": "new" }), matching(&|n| n % 3 != 1 && n >= 30)),
        (json!({ "metadata.year": { "gte": 2055 } }), matching(&|n| n >= 55)),
        (json!({ "metadata.tags": "t2", "not": { "collection": "old" } }), matching(&|n| n % 5 == 2 && n >= 30)),
        (json!({ "any": [{ "id": "doc-01" }, { "id": "doc-59" }] }), matching(&|n| n == 1 || n == 59)),
        (json!({ "metadata.nothing": "x" }), Vec::new()),
    ];
    for (filter, expected) in cases {
        for mode in ["hybrid", "lexical", "vector"] {
            let query = json!({ "query": "quarterly committee report", "mode": mode, "filter": filter, "limit": 100 });
            let (status, body) = server.post("/v1/search", query).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            let mut found = texts(&body["results"], "document_id");
            found.sort();
            assert_eq!(found, expected, "{mode} {filter}");
        }
    }
    let unknown = json!({ "query": "x", "filter": { "teem": "red" } });
    let detail = problem(&server.post("/v1/search", unknown).await, 400, "invalid-json");
    assert!(detail.contains("teem"), "{detail}");
}

#[tokio::test]
async fn searches_beside_writes_never_show_a_replaced_or_deleted_passage() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let rounds = 25;
    let reads = async {
        // Whatever is visible is one whole version: its two sections agree.
        for _ in 0..rounds * 3 {
            let (_, body) = server.post("/v1/search", json!({ "query": "pelican version", "limit": 20 })).await;
            let versions: std::collections::BTreeSet<String> = body["results"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|p| p["document_id"] == "swap")
                .map(|p| {
                    p["text"]
                        .as_str()
                        .unwrap()
                        .split("version")
                        .nth(1)
                        .unwrap()
                        .split_whitespace()
                        .next()
                        .unwrap()
                        .to_owned()
                })
                .collect();
            assert!(versions.len() <= 1, "two versions at once: {versions:?}");
        }
    };
    let writes = async {
        for n in 0..rounds {
            let part = |name: &str| {
                format!("## {name}\n\nThe pelican version v{n}x {}\n\n", "and so on at some length ".repeat(30))
            };
            server.put_visible("swap", &format!("{}{}", part("One"), part("Two"))).await;
            server.delete("/v1/documents/swap?wait=true").await;
            assert!(server.found("pelican", "hybrid").await.is_empty());
            assert!(server.found("pelican", "vector").await.is_empty());
        }
    };
    tokio::join!(reads, writes);
}

//! What is promised about answerd processes that keep their documents in one Qdrant, beside what is of every shared store.
//!
//! No package registry has a Qdrant: these tests run where `ANSWERD_TEST_QDRANT_URL` names one, and are reported as skipped
//! elsewhere. `make test` runs them with `--run-ignored` then.

use std::sync::Arc;

use answerd::config::Config;
use answerd::stores::document_store::DocumentStore;
use async_trait::async_trait;
use qdrant_client::Payload;
use qdrant_client::qdrant::{
    Condition, CreateCollectionBuilder, DeletePointsBuilder, Distance, Filter, SetPayloadPointsBuilder,
    VectorParamsBuilder,
};
use reqwest::StatusCode;
use serde_json::json;

use crate::common;

use crate::shared_store::{SharedStore, promises, setup, until_text};
use common::proxy::{Proxy, Way};
use common::qdrant::Qdrant;
use common::{Home, Setup, problem};

#[async_trait]
impl SharedStore for Qdrant {
    fn name(&self) -> &'static str {
        "qdrant"
    }

    fn settings(&self) -> String {
        self.settings()
    }

    async fn open(&self, config: Arc<Config>, dimensions: usize) -> Box<dyn DocumentStore> {
        let store = answerd::stores::qdrant::Qdrant::open(&config, "none", dimensions).await;
        Box::new(store.expect("it opens"))
    }

    async fn damage(&self, lost: &str, changed: &str) {
        let client = self.client();
        let of = |document: &str| Filter::must([Condition::matches("document", document.to_owned())]);
        for collection in ["documents", "chunks"] {
            let request = DeletePointsBuilder::new(self.collection(collection)).points(of(lost)).wait(true);
            client.delete_points(request).await.expect("deleted");
        }
        let mut payload = Payload::new();
        payload.insert("start", 1);
        let request = SetPayloadPointsBuilder::new(self.collection("chunks"), payload).points_selector(of(changed));
        client.set_payload(request.wait(true)).await.expect("changed");
    }
}

promises!(Qdrant::start(), ignored: "ANSWERD_TEST_QDRANT_URL names no Qdrant");

/// The same Qdrant, by a way that can be cut.
async fn by_proxy(qdrant: &Qdrant) -> (Proxy, Setup) {
    let proxy = Proxy::start(qdrant.url.trim_start_matches("http://")).await;
    let settings = format!("{}qdrant.timeout_ms = 1000", qdrant.by(&format!("http://{}", proxy.address)));
    (proxy, Setup { settings, ..Setup::default() })
}

#[tokio::test]
#[ignore = "ANSWERD_TEST_QDRANT_URL names no Qdrant"]
async fn a_qdrant_that_goes_away_costs_no_document_and_is_said_to_be_away() {
    let qdrant = Qdrant::start();
    let (proxy, setup) = by_proxy(&qdrant).await;
    let home = Home::new();
    let server = home.serve(&setup).await;
    let mut taken = Vec::new();
    for (round, how) in [Way::Cut, Way::Blocked, Way::Cut].into_iter().enumerate() {
        for n in 0..20 {
            let id = format!("{round}-{n}");
            let path = format!("/v1/documents/{id}");
            match server.put(&path, "text/plain", format!("the text of {id}")).await.0 {
                StatusCode::ACCEPTED => taken.push(id),
                // It went while it was asked.
                status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
            }
            if n == 17 {
                proxy.set(how);
            }
        }
        let said = server.post("/v1/search", json!({ "query": "text" })).await;
        problem(&said, 503, "unavailable");
        assert!(said.1["detail"].as_str().unwrap().contains("Qdrant"), "{said:?}");
        server.until("it is said to be away", async || server.degraded().await.contains("Qdrant")).await;
        // Neither page nor figures fail with it.
        assert_eq!(server.get("/admin/status").await.0, StatusCode::OK);
        assert!(server.http.get(server.url("/metrics")).send().await.unwrap().status().is_success());
        proxy.set(Way::Open);
        server
            .until("it works again", async || {
                server.post("/v1/search", json!({ "query": "text" })).await.0 == StatusCode::OK
            })
            .await;
        server.until("nothing is said any more", async || server.degraded().await == "[]").await;
    }
    assert!(taken.len() >= 54, "{}", taken.len());
    for id in taken {
        until_text(&server, &id, Some(&format!("the text of {id}"))).await;
    }
    // Nor is anything left waiting that was accepted, and of which the answer was lost.
    let waiting = async || server.get("/admin/status").await.1["freshness"]["lag_events"].as_u64();
    server.until("nothing waits", async || waiting().await == Some(0)).await;
}

/// A search sees a document as it was or as it is, never none of it and never both, while it is replaced over and over.
#[tokio::test]
#[ignore = "ANSWERD_TEST_QDRANT_URL names no Qdrant"]
async fn a_document_that_is_replaced_is_found_whole_at_every_moment() {
    let qdrant = Qdrant::start();
    let (here, there) = (Home::new(), Home::new());
    let (a, b) = (here.serve(&setup(&qdrant, "")).await, there.serve(&setup(&qdrant, "")).await);
    let version = |n: usize| {
        let section = |part: usize| format!("## Part {part}\n\nThe zebra of version {n} in part {part}.\n\n");
        format!("# Zebras\n\n{}", (0..4).map(section).collect::<String>())
    };
    a.put_visible("zebras.md", &version(0)).await;
    let writing = async {
        for n in 1..25 {
            let writer = if n % 2 == 0 { &a } else { &b };
            writer.put_visible("zebras.md", &version(n)).await;
        }
    };
    let reading = async {
        for _ in 0..200 {
            for mode in ["lexical", "vector", "hybrid"] {
                let search = json!({ "query": "zebra", "mode": mode, "limit": 50 });
                let (status, found) = b.post("/v1/search", search).await;
                assert_eq!(status, StatusCode::OK, "{found}");
                let results = found["results"].as_array().expect("results");
                let revisions: std::collections::BTreeSet<_> =
                    results.iter().map(|result| result["revision"].as_u64()).collect();
                assert_eq!(revisions.len(), 1, "{mode}: {found}");
                assert!(results.len() >= 4 || results.len() == 1, "{mode}: {found}");
            }
        }
    };
    tokio::join!(writing, reading);
}

#[tokio::test]
#[ignore = "ANSWERD_TEST_QDRANT_URL names no Qdrant"]
async fn collections_that_do_not_fit_are_refused_with_what_to_do() {
    let qdrant = Qdrant::start();
    let home = Home::new();
    drop(home.serve(&setup(&qdrant, "")).await);
    let client = qdrant.client();
    let refused = |said: &[&str]| {
        let output = home.run(&setup(&qdrant, ""), &["search", "anything"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.iter().all(|word| text.contains(word)), "{text}");
    };
    let set = async |name: &str, value: &str| {
        let mut payload = Payload::new();
        payload.insert(name, value);
        let settings = Filter::must_not([Condition::is_empty("schema")]);
        let request = SetPayloadPointsBuilder::new(qdrant.collection("state"), payload).points_selector(settings);
        client.set_payload(request.wait(true)).await.expect("changed");
    };
    set("schema", "99").await;
    refused(&["version \"99\"", "[qdrant] collection"]);
    set("schema", "1").await;
    set("embedding", "other").await;
    refused(&["model other", "[embedding] model"]);
    // A collection of another dimension, and one of another program.
    let chunks = qdrant.collection("chunks");
    client.delete_collection(chunks.as_str()).await.expect("deleted");
    let mut vectors = qdrant_client::qdrant::VectorsConfigBuilder::default();
    vectors.add_named_vector_params("embedding", VectorParamsBuilder::new(768, Distance::Dot));
    client.create_collection(CreateCollectionBuilder::new(&chunks).vectors_config(vectors)).await.expect("made");
    refused(&["768 dimensions", "384", "[qdrant] collection"]);
    client.delete_collection(chunks.as_str()).await.expect("deleted");
    let plain = CreateCollectionBuilder::new(&chunks).vectors_config(VectorParamsBuilder::new(384, Distance::Cosine));
    client.create_collection(plain).await.expect("made");
    refused(&["no vector \"embedding\"", "[qdrant] collection"]);
    // Where it is not there at all.
    let nowhere = Setup { settings: "store.engine = qdrant\nqdrant.url = ".into(), ..Setup::default() };
    let output = home.run(&nowhere, &["check"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("[qdrant] url"), "{output:?}");
}

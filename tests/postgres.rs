//! What is promised about answerd processes that keep their documents in one Postgres, beside what is of every shared
//! store.

use std::sync::Arc;

use answerd::config::Config;
use answerd::stores::document_store::DocumentStore;
use async_trait::async_trait;
use reqwest::StatusCode;
use serde_json::json;

use crate::common;

use crate::shared_store::{SharedStore, promises, setup, until_text};
use common::postgres::Postgres;
use common::{Home, Setup, problem};

#[async_trait]
impl SharedStore for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn settings(&self) -> String {
        self.settings()
    }

    async fn open(&self, config: Arc<Config>, dimensions: usize) -> Box<dyn DocumentStore> {
        let store = answerd::stores::postgres::Postgres::open(&config, "none", dimensions).await;
        Box::new(store.expect("it opens"))
    }

    async fn damage(&self, lost: &str, changed: &str) {
        let client = self.client().await;
        let sql = format!(
            "DELETE FROM answerd.operations WHERE document = '{lost}'; DELETE FROM answerd.documents WHERE document = '{lost}';
             UPDATE answerd.chunks SET start = 1 WHERE document = '{changed}'"
        );
        client.batch_execute(&sql).await.expect("changed");
    }
}

promises!(Postgres::start());

#[tokio::test]
async fn a_postgres_that_is_killed_costs_no_document_and_is_said_to_be_away() {
    let mut postgres = Postgres::start();
    let home = Home::new();
    let server = home.serve(&setup(&postgres, "postgres.timeout_ms=2000")).await;
    let mut taken = Vec::new();
    for round in 0..3 {
        for n in 0..40 {
            let id = format!("{round}-{n}");
            let (status, _) =
                server.put(&format!("/v1/documents/{id}"), "text/plain", format!("the text of {id}")).await;
            match status {
                StatusCode::ACCEPTED => taken.push(id),
                // It went while it was asked.
                status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
            }
            if n == 30 {
                postgres.kill();
            }
        }
        let said = server.post("/v1/search", json!({ "query": "text" })).await;
        problem(&said, 503, "unavailable");
        assert!(said.1["detail"].as_str().unwrap().contains("Postgres"), "{said:?}");
        server.until("it is said to be away", async || server.degraded().await.contains("Postgres")).await;
        // Neither page nor figures fail with it.
        assert_eq!(server.get("/admin/status").await.0, StatusCode::OK);
        assert!(server.http.get(server.url("/metrics")).send().await.unwrap().status().is_success());
        postgres.run();
        server
            .until("it works again", async || {
                server.post("/v1/search", json!({ "query": "text" })).await.0 == StatusCode::OK
            })
            .await;
        server.until("nothing is said any more", async || server.degraded().await == "[]").await;
    }
    assert!(taken.len() >= 90, "{}", taken.len());
    for id in taken {
        until_text(&server, &id, Some(&format!("the text of {id}"))).await;
    }
    // Nor is anything left waiting that was accepted, and of which the answer was lost.
    let waiting = async || server.get("/admin/status").await.1["freshness"]["lag_events"].as_u64();
    server.until("nothing waits", async || waiting().await == Some(0)).await;
}

#[tokio::test]
async fn a_frozen_postgres_is_waited_for_no_longer_than_there_is_time() {
    let postgres = Postgres::start();
    let home = Home::new();
    let server = home.serve(&setup(&postgres, "postgres.timeout_ms=500")).await;
    server.put_visible("a.md", "# A\n\nThe text.").await;
    // All of its processes.
    let freeze = |signal: &str| {
        let pid = postgres.pid().to_string();
        let script = format!("kill -{signal} {pid} $(pgrep -P {pid})");
        assert!(std::process::Command::new("sh").args(["-c", &script]).status().expect("sh").success());
    };
    freeze("STOP");
    let said = server.post("/v1/search", json!({ "query": "text" })).await;
    problem(&said, 503, "unavailable");
    freeze("CONT");
    server
        .until("it works again", async || {
            server.post("/v1/search", json!({ "query": "text" })).await.0 == StatusCode::OK
        })
        .await;
}

#[tokio::test]
async fn tables_that_do_not_fit_are_refused_with_what_to_do() {
    let mut postgres = Postgres::start();
    let home = Home::new();
    drop(home.serve(&setup(&postgres, "")).await);
    let client = postgres.client().await;
    let refused = async |sql: &str, said: &[&str]| {
        client.batch_execute(sql).await.expect("changed");
        let output = home.run(&setup(&postgres, ""), &["search", "anything"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.iter().all(|word| text.contains(word)), "{text}");
    };
    let schema = "UPDATE answerd.settings SET value = '99' WHERE name = 'schema'";
    refused(schema, &["version \"99\"", "[postgres] schema"]).await;
    let dimension = "UPDATE answerd.settings SET value = '1' WHERE name = 'schema'; UPDATE answerd.settings SET value = '768' WHERE name = 'dimensions'";
    refused(dimension, &["768 dimensions", "[embedding] model"]).await;
    let model = "UPDATE answerd.settings SET value = '384' WHERE name = 'dimensions'; UPDATE answerd.settings SET value = 'other' WHERE name = 'embedding'";
    refused(model, &["model other", "[embedding] model"]).await;
    // Where it is not there at all.
    let output = home
        .run(&Setup { settings: "store.engine = postgres\npostgres.url = ".into(), ..Setup::default() }, &["check"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("[postgres] url"), "{output:?}");
    postgres.kill();
}

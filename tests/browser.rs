//! The browser pages in a real browser: see `tests/browser/*.mjs`, which say what they check.

use crate::common;

use std::process::Command;

use common::{Home, Server, Setup, here, sample};

/// Runs one of the programs in `tests/browser` against a service; what it prints is the list of promises that it checked.
fn drive(server: &Server, home: &Home, program: &str, environment: &[(&str, &str)]) {
    let folder = here("tests/browser");
    common::npm_packages(&folder, "axe-core");
    let shots = home.folder.path().join("shots");
    let mut node = Command::new("node");
    node.arg(folder.join(program)).arg(&server.base).arg(&shots).envs(environment.iter().copied());
    let output = node.output().expect("node runs (Debian package nodejs)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A service with the sample documents, all of which can be found.
async fn with_documents(home: &Home, setup: Setup) -> Server {
    let server = home.serve(&Setup { folder: Some(sample()), ..setup }).await;
    server
        .until("documents", async || server.get("/admin/status").await.1["freshness"]["seq"].as_u64() >= Some(13))
        .await;
    server
}

#[tokio::test]
async fn the_chat_page_asks_streams_resumes_and_shows_sources() {
    let home = Home::new();
    let server = with_documents(&home, Setup::default()).await;
    drive(&server, &home, "chat.mjs", &[]);
}

#[tokio::test]
async fn the_documents_page_uploads_until_searchable_and_deletes_until_gone() {
    let home = Home::new();
    let server = with_documents(&home, Setup::default()).await;
    drive(&server, &home, "documents.mjs", &[]);
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn the_admin_page_shows_the_actors_as_they_work_and_as_one_panics() {
    let home = Home::new();
    let failpoints = "retriever=5*off->1*panic(injected)->off".to_owned();
    let server = with_documents(&home, Setup { failpoints, ..Setup::default() }).await;
    drive(&server, &home, "admin.mjs", &[("EXPECT_PANIC", "read/retriever")]);
}

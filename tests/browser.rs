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
    let settings = "cache.enabled=true".to_owned();
    let server = with_documents(&home, Setup { settings, ..Setup::default() }).await;
    drive(&server, &home, "chat.mjs", &[]);
}

#[tokio::test]
async fn the_documents_page_uploads_until_searchable_and_deletes_until_gone() {
    let home = Home::new();
    let server = with_documents(&home, Setup::default()).await;
    drive(&server, &home, "documents.mjs", &[("COLLECTION", "watched")]);
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn the_admin_page_shows_the_actors_as_they_work_and_as_one_panics() {
    let home = Home::new();
    let setup = Setup {
        settings: "identity.enabled=true".into(),
        // The program searches five times before it expects it.
        failpoints: "retriever=5*off->1*panic(injected)->off".into(),
        folder: Some(sample()),
        ..Setup::default()
    };
    let key = common::make_key(&home, &setup, &["root", "--scopes", "ask,write,admin", "--sees-all"]);
    let server = home.serve(&setup).await;
    let status = async || {
        let request = server.http.get(server.url("/admin/status")).bearer_auth(&key).send().await.expect("a response");
        request.json::<serde_json::Value>().await.expect("JSON")
    };
    server.until("documents", async || status().await["freshness"]["seq"].as_u64() >= Some(13)).await;
    drive(&server, &home, "admin.mjs", &[("EXPECT_PANIC", "read/retriever"), ("ANSWERD_KEY", &key)]);
}

#[tokio::test]
async fn the_pages_of_a_service_that_asks_who_calls() {
    let home = Home::new();
    let setup = Setup { settings: "identity.enabled=true".into(), ..Setup::default() };
    let key = |args: &[&str]| common::make_key(&home, &setup, args);
    let (asker, admin) =
        (key(&["asker", "--groups", "hr"]), key(&["admin", "--scopes", "ask,write,admin", "--sees-all"]));
    let server = home.serve(&setup).await;
    for (id, groups, text) in [
        ("for-all.md", "", "# Canteen\n\nThe budget of the canteen is 100 euros."),
        ("for-hr.md", "&visible_to=hr", "# Personnel\n\nThe budget of the personnel office is 200 euros."),
        ("for-it.md", "&visible_to=it", "# Machines\n\nThe budget of the machine room is 300 euros."),
    ] {
        let request = server.http.put(server.url(&format!("/v1/documents/{id}?wait=true{groups}"))).bearer_auth(&admin);
        let response = request.header("content-type", "text/markdown").body(text).send().await.expect("a response");
        assert!(response.status().is_success());
    }
    drive(&server, &home, "signin.mjs", &[("ASKER", &asker), ("ADMIN", &admin)]);
}

#[tokio::test]
async fn the_reference_can_be_read_and_searched_by_everybody() {
    let home = Home::new();
    let setup = Setup { settings: "identity.enabled=true".into(), ..Setup::default() };
    let server = home.serve(&setup).await;
    drive(&server, &home, "docs.mjs", &[]);
}

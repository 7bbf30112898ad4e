//! What is promised over stops, crashes and damage: the catalog is the truth, both indexes follow it.

use crate::common;

use std::fs;
use std::path::Path;

use common::upstream::{Script, Upstream, chat_on};
use common::{Home, Server, Setup, one};
use reqwest::StatusCode;
use serde_json::json;

const DOCUMENTS: usize = 12;

async fn fill(server: &Server) {
    for n in 0..DOCUMENTS {
        server
            .put_visible(&format!("doc-{n:02}"), &format!("# Number {n}\n\nThe lighthouse keeper wrote entry{n}."))
            .await;
    }
}

/// Everything is found, once, by both indexes.
async fn check(server: &Server) {
    server.until("visible", async || server.get("/admin/status").await.1["freshness"]["lag_events"] == 0).await;
    let expected: Vec<String> = (0..DOCUMENTS).map(|n| format!("doc-{n:02}")).collect();
    for mode in ["lexical", "vector", "hybrid"] {
        let mut found = server.found("lighthouse keeper entry", mode).await;
        found.sort();
        assert_eq!(found, expected, "{mode}");
    }
}

/// What is done to a data folder.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path));

/// Every file below a folder, largest first.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = walkdir::WalkDir::new(folder)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| (entry.metadata().unwrap().len(), entry.into_path()))
        .collect();
    files.sort_by(|a, b| b.cmp(a));
    files.into_iter().map(|(_, path)| path).collect()
}

#[tokio::test]
async fn a_restart_finds_everything_without_embedding_again() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    fill(&server).await;
    assert!(server.stop().await.success());
    let server = home.serve(&Setup::default()).await;
    check(&server).await;
    // Only the queries of the check itself were embedded: two modes.
    assert_eq!(server.actor("embedder").await["handled"], 2);
}

#[tokio::test]
async fn lost_or_damaged_indexes_are_made_again_from_the_catalog() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    fill(&server).await;
    assert!(server.stop().await.success());
    let damage: [Damage; 6] = [
        ("lexical index gone", &|state| fs::remove_dir_all(state.join("lexical")).unwrap()),
        ("vector index gone", &|state| fs::remove_dir_all(state.join("vectors")).unwrap()),
        ("vector files cut short", &|state| {
            for path in files(&state.join("vectors")) {
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            }
        }),
        ("a bit of each vector file turned", &|state| {
            for path in files(&state.join("vectors")) {
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x10;
                fs::write(&path, bytes).unwrap();
            }
        }),
        ("the largest lexical files cut short", &|state| {
            for path in files(&state.join("lexical")).iter().take(3) {
                let bytes = fs::read(path).unwrap();
                fs::write(path, &bytes[..bytes.len() / 3]).unwrap();
            }
        }),
        ("garbage in meta.json and manifest", &|state| {
            for path in files(state).iter().filter(|path| path.extension().is_some_and(|e| e == "json")) {
                fs::write(path, "not json at all").unwrap();
            }
        }),
    ];
    for (what, harm) in damage {
        eprintln!("{what}");
        harm(&home.data());
        let server = home.serve(&Setup::default()).await;
        check(&server).await;
        assert!(server.stop().await.success(), "{what}");
    }
}

/// Nothing is kept of what a search found while an index that was lost is made again: the catalog does not change meanwhile.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn what_is_found_in_half_an_index_is_not_kept() {
    let upstream = Upstream::start(Script::default());
    let home = Home::new();
    let settings = format!("{}\ncache.enabled=true", chat_on(&[&upstream]));
    let setup = Setup { settings, ..Setup::default() };
    let server = home.serve(&setup).await;
    server.put_visible("expenses.md", "# Expenses\n\nThe daily limit for meals is 48 euros.").await;
    assert!(server.stop().await.success());
    for index in ["lexical", "vectors"] {
        std::fs::remove_dir_all(home.data().join(index)).expect("an index");
    }
    let slow = Setup { failpoints: "indexer=1*sleep(4000)->off".into(), ..setup };
    let server = home.serve(&slow).await;
    let early = server.answer("What is the daily limit for meals?").await;
    assert_eq!(one(&early, "done")["finish_reason"], "not_found", "{early:?}");
    assert!(one(&early, "done")["lag_events"].as_u64() > Some(0), "{early:?}");
    server.until("the index is made again", async || !server.found("meals", "lexical").await.is_empty()).await;
    let late = server.answer("What is the daily limit for meals?").await;
    assert_eq!(one(&late, "sources")["sources"][0]["document_id"], "expenses.md", "{late:?}");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_or_doubled_by_kill_9() {
    let home = Home::new();
    let mut acknowledged = 0;
    for round in 0..6 {
        let server = home.serve(&Setup::default()).await;
        let until = round * 8 + 8;
        // Killed while documents are on their way: the moment varies with the round.
        let puts = async {
            let first = acknowledged;
            for n in first..until {
                let text =
                    format!("# Number {n}\n\nThe lighthouse keeper wrote entry{n}.\n\n{}", "More of it. ".repeat(60));
                let (status, _) = server.put(&format!("/v1/documents/doc-{n:03}"), "text/markdown", text).await;
                assert_eq!(status, StatusCode::ACCEPTED);
                acknowledged = n + 1;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = puts => {}
            () = tokio::time::sleep(std::time::Duration::from_millis(30 + 40 * round as u64)) => {}
        }
        server.kill();
    }
    let server = home.serve(&Setup::default()).await;
    server.until("visible", async || server.get("/admin/status").await.1["freshness"]["lag_events"] == 0).await;
    let (_, list) = server.get("/v1/documents?limit=1000").await;
    let ids = common::texts(&list["documents"], "id");
    assert!(ids.len() >= acknowledged, "{} of {acknowledged} acknowledged", ids.len());
    assert!(ids.len() <= acknowledged + 6, "more than was sent");
    for document in list["documents"].as_array().unwrap() {
        assert_eq!(document["status"], "visible", "{document}");
    }
    for n in 0..acknowledged {
        let (_, body) = server
            .post(
                "/v1/search",
                json!({ "query": format!("entry{n}"), "mode": "lexical", "filter": { "id": format!("doc-{n:03}") } }),
            )
            .await;
        let chunks: Vec<(u64, u64)> = body["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| (p["start"].as_u64().unwrap(), p["end"].as_u64().unwrap()))
            .collect();
        assert!(!chunks.is_empty(), "doc-{n:03} is lost");
        let distinct: std::collections::BTreeSet<_> = chunks.iter().collect();
        assert_eq!(distinct.len(), chunks.len(), "doc-{n:03} is doubled");
    }
    let (_, status) = server.get("/admin/status").await;
    let indexes = server.actor("write/indexer").await["detail"].clone();
    let vectors = &indexes["vectors"];
    let vectors = vectors["points"].as_u64().unwrap() - vectors["tombstones"].as_u64().unwrap();
    for held in [&indexes["live_chunks"], &indexes["lexical_chunks"], &json!(vectors)] {
        assert_eq!(status["catalog"]["chunks"], *held, "the indexes agree with the catalog: {indexes}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_new_documents_and_keeps_serving_the_old_ones() {
    let home = Home::new();
    // A file system of 12 MiB, which only this process sees.
    let mount = format!("mkdir -p {0} && mount -t tmpfs -o size=12m tmpfs {0}", home.data().display());
    let setup = Setup { before: Some(mount), ..Setup::default() };
    let server = home.serve(&setup).await;
    server.put_visible("first", "The first document, about walruses.").await;
    let mut refused = None;
    for n in 0..40 {
        let text = format!("document {n} {}", "x y z ".repeat(100_000));
        let response = server.put(&format!("/v1/documents/big-{n}"), "text/plain", text).await;
        if response.0 != StatusCode::ACCEPTED {
            refused = Some(response);
            break;
        }
    }
    let detail = common::problem(&refused.expect("the disk is full at some time"), 507, "storage-full");
    assert!(detail.contains("disk"), "{detail}");
    assert_eq!(server.found("walruses", "lexical").await, ["first"]);
    assert_eq!(server.get("/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_data_folder_in_use_or_damaged_is_refused_with_what_to_do() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    fill(&server).await;
    let second = home.run(&Setup::default(), &["serve"]);
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(message.contains("another answerd uses the data folder"), "{message}");
    check(&server).await;
    assert!(server.stop().await.success());

    let catalog = home.data().join("catalog.sqlite");
    let mut bytes = fs::read(&catalog).unwrap();
    let _ = fs::remove_file(home.data().join("catalog.sqlite-wal"));
    for byte in bytes.iter_mut().skip(100).take(4000) {
        *byte = 0xa5;
    }
    fs::write(&catalog, bytes).unwrap();
    let damaged = home.run(&Setup::default(), &["serve"]);
    let message = String::from_utf8_lossy(&damaged.stderr).into_owned();
    assert!(!damaged.status.success());
    assert!(message.contains("damaged") && message.contains("backup"), "{message}");
}

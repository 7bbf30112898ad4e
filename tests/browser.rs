//! The chat page in a real browser: see `tests/browser/chat.mjs`.

use crate::common;

use std::process::Command;

use common::{Home, Setup, here, sample};

#[tokio::test]
async fn the_chat_page_asks_streams_shows_sources_and_stops() {
    let folder = here("tests/browser");
    common::npm_packages(&folder, "playwright-core");
    let home = Home::new();
    let server = home.serve(&Setup { folder: Some(sample()), ..Setup::default() }).await;
    server
        .until("documents", async || server.get("/admin/status").await.1["freshness"]["seq"].as_u64() >= Some(13))
        .await;
    let shots = home.folder.path().join("shots");
    let node = Command::new("node").arg(folder.join("chat.mjs")).arg(&server.base).arg(&shots).output();
    let output = node.expect("node runs (Debian package nodejs)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

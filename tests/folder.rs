//! What is promised about a watched folder.

use crate::common;

use std::fs;
use std::path::Path;

use common::{Home, Server, Setup};

async fn ids(server: &Server) -> Vec<String> {
    common::listed(&server.get("/v1/documents").await.1["documents"])
}

async fn until_ids(server: &Server, expected: &[&str]) {
    server.until(&format!("documents {expected:?}"), async || ids(server).await == expected).await;
    server.until("visible", async || server.get("/admin/status").await.1["freshness"]["lag_events"] == 0).await;
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn what_happens_to_files_happens_to_documents() {
    let watched = tempfile::tempdir().unwrap();
    let folder = watched.path();
    write(folder, "a.md", "# Alpha\n\nThe aardvark eats ants.");
    write(folder, "deep/er/b.txt", "The badger digs.");
    write(folder, ".hidden/c.md", "never seen");
    write(folder, "picture.png", "not a document");
    let home = Home::new();
    let setup = Setup { folder: Some(folder.to_owned()), ..Setup::default() };
    let server = home.serve(&setup).await;
    until_ids(&server, &["a.md", "deep/er/b.txt"]).await;

    // Created, also in a folder that is new.
    write(folder, "new/place/c.md", "The cormorant dives.");
    until_ids(&server, &["a.md", "deep/er/b.txt", "new/place/c.md"]).await;
    assert_eq!(server.found("cormorant", "lexical").await, ["new/place/c.md"]);

    // Changed in place, and by an editor's save through a temporary file.
    write(folder, "a.md", "# Alpha\n\nThe anteater eats termites.");
    server.until("changed", async || server.found("anteater", "lexical").await == ["a.md"]).await;
    assert!(server.found("aardvark", "lexical").await.is_empty());
    fs::write(folder.join(".a.md.swp"), "The albatross glides.").unwrap();
    fs::rename(folder.join(".a.md.swp"), folder.join("a.md")).unwrap();
    server.until("saved atomically", async || server.found("albatross", "lexical").await == ["a.md"]).await;

    // Renamed: a file, and a folder with all that is in it.
    fs::rename(folder.join("a.md"), folder.join("z.md")).unwrap();
    fs::rename(folder.join("new"), folder.join("newer")).unwrap();
    until_ids(&server, &["deep/er/b.txt", "newer/place/c.md", "z.md"]).await;
    assert_eq!(server.found("albatross", "lexical").await, ["z.md"]);

    // Deleted: a file, and a folder.
    fs::remove_file(folder.join("z.md")).unwrap();
    fs::remove_dir_all(folder.join("deep")).unwrap();
    until_ids(&server, &["newer/place/c.md"]).await;
    assert!(server.found("albatross", "lexical").await.is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn links_are_not_followed_out_of_the_folder() {
    let (watched, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = watched.path();
    write(elsewhere.path(), "secret.md", "The salamander is secret.");
    write(folder, "a.md", "The aardvark eats ants.");
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
    link(elsewhere.path(), "before");
    let home = Home::new();
    let setup = Setup { folder: Some(folder.to_owned()), ..Setup::default() };
    let server = home.serve(&setup).await;
    until_ids(&server, &["a.md"]).await;
    // While it is watched, to a folder and to a file; and what comes there after.
    link(elsewhere.path(), "after");
    link(&elsewhere.path().join("secret.md"), "file.md");
    write(elsewhere.path(), "later.md", "The salamander is secret still.");
    write(folder, "b.md", "The badger digs.");
    until_ids(&server, &["a.md", "b.md"]).await;
    // What was a document goes where it becomes one.
    fs::remove_file(folder.join("a.md")).unwrap();
    link(&elsewhere.path().join("secret.md"), "a.md");
    until_ids(&server, &["b.md"]).await;
    assert!(server.found("salamander", "lexical").await.is_empty());
}

#[tokio::test]
async fn what_changed_while_nobody_watched_is_found_at_the_next_start() {
    let watched = tempfile::tempdir().unwrap();
    let folder = watched.path();
    write(folder, "stays.md", "The stoat stays.");
    write(folder, "goes.md", "The goose goes.");
    write(folder, "changes.md", "The chameleon is green.");
    let home = Home::new();
    let setup = Setup { folder: Some(folder.to_owned()), ..Setup::default() };
    let server = home.serve(&setup).await;
    until_ids(&server, &["changes.md", "goes.md", "stays.md"]).await;
    // A document put by HTTP is not the folder's to delete.
    server.put_visible("by-http", "The heron was put by hand.").await;
    assert!(server.stop().await.success());

    fs::remove_file(folder.join("goes.md")).unwrap();
    write(folder, "changes.md", "The chameleon is crimson.");
    write(folder, "comes.md", "The camel comes.");
    let server = home.serve(&setup).await;
    until_ids(&server, &["by-http", "changes.md", "comes.md", "stays.md"]).await;
    server.until("changed", async || server.found("crimson", "lexical").await == ["changes.md"]).await;
    assert!(server.found("goose", "lexical").await.is_empty());
    assert_eq!(server.found("heron", "lexical").await, ["by-http"]);
    // What did not change cost nothing: two files were embedded.
    assert_eq!(server.actor("embedder").await["handled"], 2);
}

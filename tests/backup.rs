//! A backup of the embedded data is made while the service writes, and what was acknowledged before it is in it.

use std::collections::BTreeSet;

use crate::common;
use common::{Home, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_made_while_documents_come_holds_all_that_came_before_it() {
    let home = Home::new();
    let setup = Setup::default();
    let server = home.serve(&setup).await;
    for n in 0..20 {
        server
            .put_visible(&format!("before-{n}.md"), &format!("# Document {n}\n\nThe narwhal number {n} swims."))
            .await;
    }
    let key = common::make_key(&home, &setup, &["kept"]);
    let place = home.folder.path().join("backup");
    // Documents come all the time while it is made.
    let writing = async {
        for n in 0..60 {
            server
                .put_visible(&format!("during-{n}.md"), &format!("# More {n}\n\nThe walrus number {n} sleeps."))
                .await;
        }
    };
    let backing_up = async {
        let (config, place) = (home.command(&setup), place.clone());
        let mut command = config;
        command.arg("backup").arg(&place);
        tokio::task::spawn_blocking(move || command.output().expect("answerd runs")).await.expect("it ends")
    };
    let (made, ()) = tokio::join!(backing_up, writing);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // A folder is for one backup.
    let again = home.run(&setup, &["backup", place.to_str().expect("text")]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("not empty"));
    // Nothing is put over what is there, nor while a service uses it.
    let over = home.run(&setup, &["restore", place.to_str().expect("text")]);
    assert!(!over.status.success() && String::from_utf8_lossy(&over.stderr).contains("another answerd uses"));
    let before = server.get("/admin/status").await.1["catalog"]["commit"].clone();
    server.stop().await;
    let over = home.run(&setup, &["restore", place.to_str().expect("text")]);
    assert!(!over.status.success() && String::from_utf8_lossy(&over.stderr).contains("move it away"));

    let other = Home::new();
    let restored = other.run(&setup, &["restore", place.to_str().expect("text")]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let server = other.serve(&setup).await;
    server
        .until("the indexes are made", async || server.get("/admin/status").await.1["freshness"]["lag_events"] == 0)
        .await;
    let found: BTreeSet<String> = server.found("narwhal", "lexical").await.into_iter().collect();
    assert_eq!(found, (0..20).map(|n| format!("before-{n}.md")).collect());
    assert!(server.found("narwhal number 7", "vector").await.iter().any(|id| id == "before-7.md"));
    // Nothing was embedded again but the question (and a document that had come and was not embedded when it was made).
    assert!(server.actor("embedder").await["handled"].as_u64() <= Some(2));
    let commit = server.get("/admin/status").await.1["catalog"]["commit"].clone();
    assert!(commit.as_u64() <= before.as_u64() && commit.as_u64() >= Some(20), "{commit} of {before}");
    server.put_visible("after.md", "The narwhal is back.").await;
    assert_eq!(server.found("narwhal", "lexical").await.len(), 21);
    let list = String::from_utf8(other.run(&setup, &["keys", "list"]).stdout).expect("text");
    assert!(list.contains(key.split('_').nth(1).expect("an id")), "{list}");
}

#[tokio::test]
async fn a_backup_that_is_damaged_or_not_whole_is_refused() {
    let home = Home::new();
    let setup = Setup::default();
    let server = home.serve(&setup).await;
    server.put_visible("a.md", "The narwhal swims.").await;
    server.stop().await;
    let place = home.folder.path().join("backup");
    let text = place.to_str().expect("text").to_owned();
    assert!(home.run(&setup, &["backup", &text]).status.success());
    let catalog = place.join("catalog.sqlite");
    let whole = std::fs::read(&catalog).expect("the copy");
    let refused = |what: &str| {
        let other = Home::new();
        let said = other.run(&setup, &["restore", &text]);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains(what), "{said}");
        assert!(!other.data().join("catalog.sqlite").exists());
    };
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&catalog, &damaged).expect("written");
    refused("damaged");
    std::fs::write(&catalog, &whole[..middle]).expect("written");
    refused("damaged");
    std::fs::write(&catalog, &whole).expect("written");
    std::fs::remove_file(place.join("backup.json")).expect("removed");
    refused("no backup");
}

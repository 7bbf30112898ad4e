//! The life of a process: from its start until it is ready, what it holds while nothing is asked of it, and how large it is.
//!
//! - *start*: from `exec` to the first 200 of `/readyz`, with 100,000 chunks in the embedded store and all files in the
//!   page cache: after a clean stop, and after `kill -9` in the middle of writes; median of `BENCH_ROUNDS` (default 5)
//! - *memory*: in RAM, some seconds after the start, with the sample documents and with 100,000 chunks
//! - *binary*: its size as it is built, and without symbols
//!
//! `BENCH_CHUNKS`: another number of chunks. They are made once and kept.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "support/made.rs"]
mod made;
#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use answerd::app::{App, Parts};
use answerd::models::minilm::MiniLm;
use common::{Home, Server, Setup, sample};

fn main() {
    let chunks = support::number("BENCH_CHUNKS", 100_000);
    support::run(async {
        let kept = support::kept(&format!("life-{chunks}"));
        if !kept.join("complete").exists() {
            make(chunks, &kept).await;
        }
        few().await;
        many(chunks, &kept).await;
        binary();
    });
}

/// Fills a store, as ingestion would.
async fn make(chunks: usize, folder: &Path) {
    eprintln!("making {chunks} chunks in {}", folder.display());
    let _ = std::fs::remove_dir_all(folder);
    let model = MiniLm::load(&support::models().join("all-MiniLM-L6-v2")).expect("the embedding model");
    let made = made::make(chunks, &support::kept("quality"), &model);
    let mut config = support::config();
    config.data.dir = folder.to_owned();
    let app = App::start(config, Parts { folders: false, chat: false }).await.expect("it starts");
    made::ingest(&app, &made).await;
    app.stop().await;
    std::fs::write(folder.join("complete"), "").expect("a mark");
}

/// A start until readiness, in milliseconds.
async fn start(home: &Home, setup: &Setup) -> (Server, f64) {
    let began = Instant::now();
    let server = home.spawn(setup).await;
    while server.get("/readyz").await.0 != 200 {
        assert!(began.elapsed() < common::PATIENCE, "it is not ready: {}", server.log_text());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (server, began.elapsed().as_secs_f64() * 1e3)
}

/// Memory in RAM once the start is over, in MiB: all of it, and without the pages of files.
async fn idle(server: &Server) -> (u64, u64) {
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("its status");
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number")
    };
    (kib("VmRSS:") / 1024, kib("RssAnon:") / 1024)
}

async fn few() {
    let home = Home::new();
    let setup = Setup { folder: Some(sample()), ..Setup::default() };
    let (server, _) = start(&home, &setup).await;
    server
        .until("the documents are visible", async || {
            server.get("/admin/status").await.1["freshness"]["lag_events"] == 0
        })
        .await;
    assert!(server.stop().await.success());
    let mut times = Vec::new();
    for _ in 0..support::number("BENCH_ROUNDS", 5) {
        let (server, ms) = start(&home, &setup).await;
        times.push(ms);
        assert!(server.stop().await.success());
    }
    let (server, _) = start(&home, &setup).await;
    let (all, own) = idle(&server).await;
    println!(
        "sample documents: ready after {:.0} ms; idle {all} MiB, {own} of them its own",
        support::median(&mut times)
    );
}

async fn many(chunks: usize, kept: &Path) {
    let home = Home::new();
    let copied = Command::new("cp").arg("-r").arg(kept).arg(home.data()).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp {}", kept.display());
    let setup = Setup::default();
    let (mut clean, mut killed) = (Vec::new(), Vec::new());
    // The first one only has the files read.
    let (mut server, _) = start(&home, &setup).await;
    for round in 0..support::number("BENCH_ROUNDS", 5) {
        assert!(server.stop().await.success());
        let (next, ms) = start(&home, &setup).await;
        clean.push(ms);
        // Documents that are on disk, and not yet in what is saved of the indexes.
        for n in 0..50 {
            let id = format!("late/{n}");
            let (status, said) =
                next.put(&format!("/v1/documents/{id}"), "text/plain", format!("{id} in round {round}")).await;
            assert!(status.is_success(), "{said}");
        }
        next.kill();
        let (next, ms) = start(&home, &setup).await;
        killed.push(ms);
        next.until("all is settled", async || next.get("/admin/status").await.1["freshness"]["lag_events"] == 0).await;
        server = next;
    }
    assert!(server.stop().await.success());
    let (server, _) = start(&home, &setup).await;
    let (all, own) = idle(&server).await;
    println!(
        "{chunks} chunks: ready after {:.0} ms, after kill -9 {:.0} ms; idle {all} MiB, {own} of them its own",
        support::median(&mut clean),
        support::median(&mut killed)
    );
    println!("the log of the last start:");
    let log = server.log_text();
    let last = log.rfind("starting").and_then(|at| log[..at].rfind('\n')).map_or(0, |at| at + 1);
    log[last..].lines().for_each(|line| println!("    {line}"));
}

fn binary() {
    let built = Path::new(env!("CARGO_BIN_EXE_answerd"));
    let folder = tempfile::tempdir().expect("a folder");
    let bare = folder.path().join("answerd");
    let stripped = Command::new("strip").arg("-o").arg(&bare).arg(built).status();
    assert!(stripped.is_ok_and(|status| status.success()), "strip (Debian package binutils)");
    let mib = |path: &Path| std::fs::metadata(path).expect("its size").len() as f64 / f64::from(1 << 20);
    println!("binary: {:.1} MiB as built, {:.1} MiB stripped", mib(built), mib(&bare));
}

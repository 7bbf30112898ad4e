//! What a second replica adds: answers a second of one and of two answerd processes on one Postgres, in turn in one run.
//!
//! The model is a scripted server that takes 20 tokens of 25 ms for each answer, and each replica has 16 places on it: what a
//! replica may do at once is bounded by its model, as it is where models are real. Server, replicas, Postgres and clients
//! share the machine. Environment: `BENCH_SECONDS` for each measurement (default 10), `BENCH_ROUNDS` (default 3).

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::postgres::Postgres;
use common::upstream::{Script, Upstream, chat_on_with};
use common::{Home, Server, Setup, sample};
use futures_util::future::join_all;
use serde_json::json;

const SLOTS: usize = 16;
/// Clients of each replica: as many as have a place, so that none waits.
const CLIENTS: usize = SLOTS;

fn main() {
    support::run(async {
        let (postgres, upstream) = (Postgres::start(), Upstream::start(Script::paced(20, 25)));
        let settings = format!("{}{}", postgres.settings(), chat_on_with(&[&upstream], SLOTS, 10_000));
        let homes = [Home::new(), Home::new()];
        let mut replicas = Vec::new();
        for home in &homes {
            let setup = Setup { folder: Some(sample()), settings: settings.clone(), ..Setup::default() };
            let server = home.serve(&setup).await;
            server
                .until("the documents are visible", async || {
                    let (_, status) = server.get("/admin/status").await;
                    status["catalog"]["documents"].as_u64() >= Some(13) && status["freshness"]["lag_events"] == 0
                })
                .await;
            replicas.push(server);
        }
        let (mut one, mut two, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..support::number("BENCH_ROUNDS", 3) {
            let (first, both) = (rate(&replicas[..1]).await, rate(&replicas).await);
            one.push(first);
            two.push(both);
            ratios.push(both / first);
        }
        println!(
            "answers a second: one replica {:.1}, two {:.1}; ratio {:.2} (median of the rounds)",
            support::median(&mut one),
            support::median(&mut two),
            support::median(&mut ratios)
        );
    });
}

/// Answers a second, each question a new one.
async fn rate(replicas: &[Server]) -> f64 {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let seconds = support::number("BENCH_SECONDS", 10) as u64;
    let began = Instant::now();
    let end = began + Duration::from_secs(seconds);
    let clients = replicas.iter().flat_map(|server| (0..CLIENTS).map(move |_| server));
    let answers = join_all(clients.map(|server| async move {
        let mut answers = 0u64;
        while Instant::now() < end {
            let n = ASKED.fetch_add(1, Ordering::Relaxed);
            let question = format!("What is the daily limit for meals on journey {n}?");
            let (status, answer) = server.post("/v1/answers", json!({ "question": question })).await;
            assert!(status.is_success() && answer["cached"] == false, "{answer}");
            answers += 1;
        }
        answers
    }));
    answers.await.iter().sum::<u64>() as f64 / began.elapsed().as_secs_f64()
}

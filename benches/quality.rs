//! Retrieval quality on a collection: `answerd eval` on SciFact. The index is kept, so that a second run only searches.
//!
//! `ANSWERD_COLLECTIONS`: folder of the collections (default `../shared/collections`).

#[path = "support/mod.rs"]
mod support;

fn main() {
    let folder = support::collections().join("scifact-train");
    let data = support::kept("quality");
    let report = support::run(async move { answerd::eval::run(support::config(), &folder, Some(data)).await });
    let report = report.expect("the evaluation runs");
    println!("{report}");
    let ndcg = |mode: &str| report.modes[mode].ndcg_at_10;
    println!(
        "hybrid against lexical: {:.3}; against vector: {:.3}",
        ndcg("hybrid") / ndcg("lexical"),
        ndcg("hybrid") / ndcg("vector")
    );
}

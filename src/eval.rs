//! Measures retrieval on a collection in BEIR layout: `corpus.jsonl` (`_id` or `id`, `title`, `text`), `queries.jsonl`
//! (`_id`, `text`) and `qrels.tsv` (query, document, grade, with a header line).
//!
//! The documents go through the whole write path, and the queries through the retriever. A document's rank is
//! that of its best passage. nDCG is that of Järvelin and Kekäläinen 2002 as trec_eval computes it: gain is the
//! grade, discount log2(rank + 1).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::actors::door::DoorError;
use crate::actors::ingestor::{IngestError, Receive};
use crate::actors::retriever::{Mode, Search};
use crate::app::{App, Parts};
use crate::config::Config;
use crate::documents::event::{COLLECTION_DEFAULT, DocumentId, Metadata, Operation, Upsert};
use crate::retrieval::sight::Sight;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name of the collection: its folder's.
    pub collection: String,
    /// Documents in it.
    pub documents: usize,
    /// Passages they were cut into.
    pub passages: u64,
    /// Queries with at least one judged document.
    pub queries: usize,
    /// Seconds to ingest what the index did not have.
    pub ingest_s: f64,
    /// Memory of this process in RAM after the queries, in bytes.
    pub resident_bytes: Option<u64>,
    /// By mode: hybrid, lexical, vector.
    pub modes: BTreeMap<String, Measured>,
}

/// What was measured in one mode.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Mean nDCG at 10.
    pub ndcg_at_10: f64,
    /// Mean recall at 100.
    pub recall_at_100: f64,
    /// Search without the query's embedding, at the median, in milliseconds.
    pub search_p50_ms: f64,
    /// The same at the 99th percentile.
    pub search_p99_ms: f64,
    /// Search with the query's embedding and the passages' texts, at the median, in milliseconds.
    pub total_p50_ms: f64,
    /// The same at the 99th percentile.
    pub total_p99_ms: f64,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "_id", alias = "id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

/// Judged documents of each query, with their grades.
type Judgements = HashMap<String, HashMap<String, f64>>;

/// Passages asked for, so that a hundred documents are among them.
const DEPTH: usize = 300;

/// Ingests the collection in `folder` and measures all modes.
///
/// # Errors
/// In words: a file that is missing or not of this layout, or what [`App::start`] says.
pub async fn run(mut config: Config, folder: &Path, data: Option<PathBuf>) -> Result<Report, String> {
    let corpus = read_entries(&folder.join("corpus.jsonl"))?;
    let queries = read_entries(&folder.join("queries.jsonl"))?;
    let judgements = read_judgements(&folder.join("qrels.tsv"))?;
    let temporary = tempfile::tempdir().map_err(|error| error.to_string())?;
    config.data.dir = data.unwrap_or_else(|| temporary.path().to_owned());
    config.search.candidates = config.search.candidates.max(DEPTH);
    let app = App::start(config, Parts { folders: false, chat: false }).await?;

    let began = Instant::now();
    let names: HashMap<String, String> =
        corpus.iter().enumerate().map(|(n, entry)| (document_name(n, &entry.id), entry.id.clone())).collect();
    let documents = corpus.len();
    for (n, entry) in corpus.into_iter().enumerate() {
        put(&app, document_name(n, &entry.id), entry).await?;
        if n % 500 == 499 {
            tracing::warn!(documents = n + 1, of = documents, "ingesting");
        }
    }
    app.until_caught_up().await;
    let ingest_s = began.elapsed().as_secs_f64();
    let counts = app.library.store.counts().await.map_err(|error| error.to_string())?;

    let judged: Vec<&Entry> = queries.iter().filter(|query| judgements.contains_key(&query.id)).collect();
    let mut modes = BTreeMap::new();
    for (name, mode) in [("hybrid", Mode::Hybrid), ("lexical", Mode::Lexical), ("vector", Mode::Vector)] {
        modes.insert(name.to_owned(), measure(&app, mode, &judged, &judgements, &names).await?);
    }
    let report = Report {
        collection: folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        documents,
        passages: counts.chunks,
        queries: judged.len(),
        ingest_s,
        resident_bytes: crate::app::resident_bytes(),
        modes,
    };
    app.stop().await;
    Ok(report)
}

/// A name that any id can be turned into.
fn document_name(n: usize, id: &str) -> String {
    if DocumentId::parse(id).is_ok() { id.to_owned() } else { format!("document-{n}") }
}

async fn put(app: &App, name: String, entry: Entry) -> Result<(), String> {
    let upsert = Upsert {
        id: DocumentId::parse(&name).map_err(|error| error.to_string())?,
        revision: None,
        media_type: Some("text/plain".to_owned()),
        title: Some(entry.title).filter(|title| !title.is_empty()),
        url: None,
        collection: COLLECTION_DEFAULT.to_owned(),
        metadata: Metadata::new(),
        content: entry.text.into_bytes(),
    };
    let operation = Operation::Upsert(upsert);
    loop {
        match app.ingestor.ask_patiently(Receive::new(operation.clone(), "the command line")).await {
            Ok(_) => return Ok(()),
            Err(DoorError::Failed(IngestError::Backlog { .. })) => {
                actix_rt::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn measure(
    app: &App,
    mode: Mode,
    queries: &[&Entry],
    judgements: &Judgements,
    names: &HashMap<String, String>,
) -> Result<Measured, String> {
    let (mut ndcg, mut recall) = (0.0, 0.0);
    let (mut search_ms, mut total_ms) = (Vec::new(), Vec::new());
    let settings = app.config().search.clone();
    for query in queries {
        let search = Search {
            query: query.text.clone(),
            mode,
            filter: None,
            sight: Sight::All.into(),
            limit: DEPTH,
            vector: None,
            settings: settings.clone(),
        };
        let found = app.retriever.ask(search).await.map_err(|error| error.to_string())?;
        let mut ranking: Vec<&str> = Vec::new();
        for passage in &found.passages {
            let id = names.get(&passage.document_id).map_or(passage.document_id.as_str(), String::as_str);
            // Some collections have each query among their documents.
            if id != query.id && !ranking.contains(&id) {
                ranking.push(id);
            }
        }
        let grades = &judgements[&query.id];
        ndcg += ndcg_at(10, &ranking, grades);
        recall += recall_at(100, &ranking, grades);
        // As a user has it: few passages, the embedding included.
        let search = Search {
            query: query.text.clone(),
            mode,
            filter: None,
            sight: Sight::All.into(),
            limit: 10,
            vector: None,
            settings: settings.clone(),
        };
        let began = Instant::now();
        let found = app.retriever.ask(search).await.map_err(|error| error.to_string())?;
        total_ms.push(began.elapsed().as_secs_f64() * 1e3);
        search_ms.push(found.index_us as f64 / 1e3);
    }
    let n = queries.len().max(1) as f64;
    Ok(Measured {
        ndcg_at_10: ndcg / n,
        recall_at_100: recall / n,
        search_p50_ms: percentile(&mut search_ms, 0.5),
        search_p99_ms: percentile(&mut search_ms, 0.99),
        total_p50_ms: percentile(&mut total_ms, 0.5),
        total_p99_ms: percentile(&mut total_ms, 0.99),
    })
}

/// Normalised discounted cumulative gain of the first `depth` of a ranking.
pub fn ndcg_at(depth: usize, ranking: &[&str], grades: &HashMap<String, f64>) -> f64 {
    let gain = |n: usize, grade: f64| grade / ((n + 2) as f64).log2();
    let found: f64 =
        ranking.iter().take(depth).enumerate().map(|(n, id)| gain(n, grades.get(*id).copied().unwrap_or(0.0))).sum();
    let mut ideal: Vec<f64> = grades.values().copied().collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    let best: f64 = ideal.into_iter().take(depth).enumerate().map(|(n, grade)| gain(n, grade)).sum();
    if best > 0.0 { found / best } else { 0.0 }
}

/// Share of the relevant documents among the first `depth` of a ranking.
pub fn recall_at(depth: usize, ranking: &[&str], grades: &HashMap<String, f64>) -> f64 {
    let relevant = grades.values().filter(|grade| **grade > 0.0).count();
    let found = ranking.iter().take(depth).filter(|id| grades.get(**id).is_some_and(|grade| *grade > 0.0)).count();
    if relevant > 0 { found as f64 / relevant as f64 } else { 0.0 }
}

/// The value below which a share `p` of the values lies (nearest rank).
pub fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (p * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| {
        format!("cannot read {}: {error}. A collection has corpus.jsonl, queries.jsonl and qrels.tsv.", path.display())
    })
}

fn read_entries(path: &Path) -> Result<Vec<Entry>, String> {
    let parse = |(n, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| format!("{}, line {}: {error}", path.display(), n + 1))
    };
    read(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

fn read_judgements(path: &Path) -> Result<Judgements, String> {
    let mut judgements = Judgements::new();
    for (n, line) in read(path)?.lines().enumerate().skip(1) {
        let parts: Vec<&str> = line.split('\t').collect();
        let grade = parts.get(2).and_then(|grade| grade.trim().parse::<f64>().ok());
        let (&[query, document, ..], Some(grade)) = (parts.as_slice(), grade) else {
            return Err(format!("{}, line {}: not `query<TAB>document<TAB>grade`", path.display(), n + 1));
        };
        judgements.entry(query.to_owned()).or_default().insert(document.to_owned(), grade);
    }
    Ok(judgements)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} documents, {} passages, {} queries; ingested in {:.1} s; {:.0} MiB resident\n",
            self.collection,
            self.documents,
            self.passages,
            self.queries,
            self.ingest_s,
            self.resident_bytes.unwrap_or_default() as f64 / f64::from(1 << 20),
        )?;
        writeln!(f, "mode      nDCG@10  recall@100   index p50 / p99 ms   with embedding and texts p50 / p99 ms")?;
        for (mode, m) in &self.modes {
            writeln!(
                f,
                "{mode:<9} {:>7.4}  {:>10.4}   {:>9.2} / {:<6.2}   {:>9.2} / {:.2}",
                m.ndcg_at_10, m.recall_at_100, m.search_p50_ms, m.search_p99_ms, m.total_p50_ms, m.total_p99_ms
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grades(pairs: &[(&str, f64)]) -> HashMap<String, f64> {
        pairs.iter().map(|(id, grade)| ((*id).to_owned(), *grade)).collect()
    }

    #[test]
    fn ndcg_is_one_for_the_ideal_ranking_and_as_computed_by_hand_otherwise() {
        let grades = grades(&[("a", 2.0), ("b", 1.0)]);
        assert!((ndcg_at(10, &["a", "b", "c"], &grades) - 1.0).abs() < 1e-12);
        // (1 / log2 2 + 2 / log2 3) / (2 / log2 2 + 1 / log2 3)
        assert!((ndcg_at(10, &["b", "a"], &grades) - 0.8597187).abs() < 1e-6);
        assert_eq!(ndcg_at(1, &["c", "a"], &grades), 0.0);
    }

    #[test]
    fn recall_counts_relevant_documents_only() {
        let grades = grades(&[("a", 1.0), ("b", 1.0), ("c", 0.0)]);
        assert_eq!(recall_at(2, &["a", "c", "b"], &grades), 0.5);
        assert_eq!(recall_at(100, &["a", "c", "b"], &grades), 1.0);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&mut values, 0.5), percentile(&mut values, 0.99)), (50.0, 99.0));
        assert_eq!(percentile(&mut [], 0.5), 0.0);
    }
}

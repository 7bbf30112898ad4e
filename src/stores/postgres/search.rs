//! Searching: both rankings and their fusion in one statement, on one snapshot of the database.
//!
//! The lexical stage ranks as BM25 does (Robertson and Zaragoza 2009): rare words count more, a word that occurs again
//! counts less each time, long passages count less. Postgres' own `ts_rank` has the second of these and knows nothing of
//! how rare a word is; that comes from the statistics that `ANALYZE` keeps of the column. Passages that have none of the
//! rarer words are not looked at where the common ones are in too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Client, Transaction};
use parking_lot::Mutex;
use pgvector::Vector;
use tokio_postgres::{Error, IsolationLevel, Row};

use super::filter::{Parameters, condition};
use super::read::{STANDING, standing};
use super::{Postgres, clean};
use crate::config::SearchConfig;
use crate::retrieval::passage::{Passage, Scores, StageScore};
use crate::stores::StoreError;
use crate::stores::document_store::{Hits, Lookup};

/// Passages whose lexical score is computed, about, where words are common.
const SCORED: f64 = 8000.0;
/// How long the statistics of words are used.
const STATISTICS_KEPT: Duration = Duration::from_secs(60);

/// How common words are, as `ANALYZE` found; kept for a while, by process.
#[derive(Default)]
pub(super) struct Statistics(Mutex<Option<(Instant, Arc<Words>)>>);

/// In how many passages words are.
struct Words {
    passages: f64,
    /// Share of the passages that have a word; none where nothing was analysed yet.
    common: HashMap<String, f32>,
    /// The share below which a word is not among them.
    floor: f64,
}

/// A word of the query.
struct Term {
    /// As `tsquery` reads it.
    query: String,
    /// Passages that have it.
    passages: f64,
    /// Inverse document frequency.
    weight: f32,
}

impl Postgres {
    pub(super) async fn find(&self, lookup: Lookup) -> Result<Hits, StoreError> {
        let search = Arc::new(Search {
            lookup,
            exact_below: self.config.index.exact_below,
            words: self
                .statistics
                .0
                .lock()
                .clone()
                .filter(|(at, _)| at.elapsed() < STATISTICS_KEPT)
                .map(|(_, words)| words),
        });
        let (hits, words) = self
            .read("search", |client| {
                let search = Arc::clone(&search);
                Box::pin(async move { search.run(client).await })
            })
            .await?;
        if let Some(words) = words {
            *self.statistics.0.lock() = Some((Instant::now(), words));
        }
        Ok(hits)
    }
}

struct Search {
    lookup: Lookup,
    exact_below: usize,
    words: Option<Arc<Words>>,
}

impl Search {
    /// Gives what it found, and the statistics of words where it had to read them.
    async fn run(&self, client: &mut Client) -> Result<(Hits, Option<Arc<Words>>), Error> {
        let began = Instant::now();
        let t =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
        let standing = standing(&t.query_one(&t.prepare_cached(STANDING).await?, &[]).await?);
        let mut read = None;
        let terms = match &self.lookup.words {
            None => Vec::new(),
            Some(words) => {
                let known = match &self.words {
                    Some(known) => Arc::clone(known),
                    None => Arc::clone(read.insert(Arc::new(statistics(&t).await?))),
                };
                terms(&t, &clean(words), &known).await?
            }
        };
        let exact = self.few_match(&t).await?;
        let mut parameters = Parameters::default();
        let sql = self.statement(&terms, exact, &mut parameters);
        let rows = match &self.lookup.filter {
            None => t.query(&t.prepare_cached(&sql).await?, &parameters.list()).await?,
            // There are as many of these as filters.
            Some(_) => t.query(&sql, &parameters.list()).await?,
        };
        let best_similarity = rows.first().and_then(|row| row.get::<_, Option<f64>>("best")).map(|best| best as f32);
        let index_us = began.elapsed().as_micros() as u64;
        let passages = rows.iter().map(passage).collect();
        Ok((Hits { passages, standing, best_similarity, index_us }, read))
    }

    /// Whether a filter leaves so few passages that all of them are compared.
    async fn few_match(&self, t: &Transaction<'_>) -> Result<bool, Error> {
        let (Some(filter), Some(_)) = (&self.lookup.filter, &self.lookup.vector) else { return Ok(false) };
        let mut parameters = Parameters::default();
        let condition = condition(filter, &mut parameters);
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM chunks c JOIN documents d USING (document) WHERE {condition} LIMIT {}) AS few",
            self.exact_below + 1
        );
        let count: i64 = t.query_one(&sql, &parameters.list()).await?.get(0);
        Ok(count as usize <= self.exact_below)
    }

    fn statement(&self, terms: &[Term], exact: bool, parameters: &mut Parameters) -> String {
        let SearchConfig { rrf_k, lexical_weight, vector_weight, candidates, .. } = self.lookup.settings;
        let limit = self.lookup.limit;
        let depth = candidates.max(limit);
        let (from, allowed) = match &self.lookup.filter {
            None => ("chunks c".to_owned(), "true".to_owned()),
            Some(filter) => ("chunks c JOIN documents d USING (document)".to_owned(), condition(filter, parameters)),
        };
        let nothing =
            |score: &str| format!("SELECT 0::bigint AS chunk, 0::float8 AS {score}, 0::bigint AS rank WHERE false");
        let lexical = match terms.is_empty() {
            true => nothing("score"),
            false => {
                let queries = parameters.add(terms.iter().map(|term| term.query.clone()).collect::<Vec<_>>());
                let weights = parameters.add(terms.iter().map(|term| term.weight).collect::<Vec<_>>());
                let wanted = parameters.add(candidates_of(terms));
                let terms = format!(
                    "unnest(ARRAY(SELECT q::tsquery FROM unnest({queries}::text[]) q), {weights}::real[]) AS terms (query, weight)"
                );
                format!(
                    "SELECT chunk, score, row_number() OVER (ORDER BY score DESC, chunk) AS rank FROM (
                       SELECT c.chunk, (SELECT sum(weight * ts_rank('{{1, 1, 1, 1}}', c.words, query)) FROM {terms})
                              / (0.5 + 0.5 * length(c.words) / 80.0) AS score
                       FROM {from}, (SELECT {wanted}::text::tsquery AS words) AS wanted WHERE c.words @@ wanted.words AND {allowed}
                       ORDER BY score DESC, chunk LIMIT {depth}) AS ranked"
                )
            }
        };
        let vector = match &self.lookup.vector {
            None => nothing("similarity"),
            Some(vector) => {
                let query = parameters.add(Vector::from(vector.clone()));
                // What the index does not know is computed for every row.
                let order = if exact { "+ 0" } else { "" };
                format!(
                    "SELECT chunk, similarity, row_number() OVER (ORDER BY similarity DESC, chunk) AS rank FROM (
                       SELECT c.chunk, -(c.embedding <#> {query}::vector) AS similarity FROM {from} WHERE {allowed}
                       ORDER BY (c.embedding <#> {query}::vector) {order} LIMIT {depth}) AS ranked"
                )
            }
        };
        format!(
            "WITH lexical AS MATERIALIZED ({lexical}), vector AS MATERIALIZED ({vector}), fused AS (
               SELECT chunk, coalesce({lexical_weight:?}::real / ({rrf_k:?} + l.rank), 0) + coalesce({vector_weight:?}::real / ({rrf_k:?} + v.rank), 0) AS fused,
                      l.rank AS l_rank, l.score::float8 AS l_score, v.rank AS v_rank, v.similarity::float8 AS v_score
               FROM lexical l FULL JOIN vector v USING (chunk) ORDER BY fused DESC, chunk LIMIT {limit})
             SELECT fused::float8, l_rank, l_score, v_rank, v_score, (SELECT max(similarity)::float8 FROM vector) AS best,
                    d.document, d.revision, d.title, d.url, d.collection, d.metadata, d.updated_ms,
                    c.section, c.page, c.start, c.stop, substring(d.content FROM c.start + 1 FOR c.stop - c.start) AS passage
             FROM fused JOIN chunks c USING (chunk) JOIN documents d USING (document) ORDER BY fused DESC, chunk"
        )
    }
}

/// What a passage must have of the query to be scored: any of its words, but of common ones no more than it takes.
fn candidates_of(terms: &[Term]) -> String {
    let mut sorted: Vec<&Term> = terms.iter().collect();
    sorted.sort_by(|a, b| a.passages.total_cmp(&b.passages));
    let mut looked_at = 0.0;
    let wanted: Vec<&str> = sorted
        .iter()
        .take_while(|term| {
            let first = looked_at == 0.0;
            looked_at += term.passages;
            first || looked_at <= SCORED
        })
        .map(|term| term.query.as_str())
        .collect();
    wanted.join(" | ")
}

/// The words of a query as they are indexed, and how rare they are.
async fn terms(t: &Transaction<'_>, words: &str, known: &Words) -> Result<Vec<Term>, Error> {
    let sql = t.prepare_cached("SELECT lexeme FROM unnest(to_tsvector('words', $1))").await?;
    let lexemes: Vec<String> = t.query(&sql, &[&words]).await?.iter().map(|row| row.get(0)).collect();
    let queries: Vec<String> =
        lexemes.iter().map(|lexeme| format!("'{}'", lexeme.replace('\\', "\\\\").replace('\'', "''"))).collect();
    let counts: Vec<f64> = match known.common.is_empty() {
        // A small store, or a new one.
        true => {
            let sql = "SELECT (SELECT count(*) FROM chunks WHERE words @@ q::tsquery)::float8 FROM unnest($1::text[]) WITH ORDINALITY AS words (q, n) ORDER BY n";
            let sql = t.prepare_cached(sql).await?;
            t.query(&sql, &[&queries]).await?.iter().map(|row| row.get(0)).collect()
        }
        false => {
            let share = |lexeme: &String| known.common.get(lexeme).map_or(known.floor / 2.0, |share| f64::from(*share));
            lexemes.iter().map(|lexeme| share(lexeme) * known.passages).collect()
        }
    };
    let term = |(query, passages): (String, f64)| {
        let passages = passages.max(1.0);
        let others = (known.passages - passages).max(0.0);
        Term { query, passages, weight: (1.0 + (others + 0.5) / (passages + 0.5)).ln() as f32 }
    };
    Ok(queries.into_iter().zip(counts).map(term).collect())
}

async fn statistics(t: &Transaction<'_>) -> Result<Words, Error> {
    let sql = "SELECT (SELECT reltuples::float8 FROM pg_class WHERE oid = 'chunks'::regclass), most_common_elems::text::text[], most_common_elem_freqs
               FROM pg_stats WHERE schemaname = current_schema() AND tablename = 'chunks' AND attname = 'words'";
    if let Some(row) = t.query_opt(sql, &[]).await?
        && let (Some(words), Some(shares)) = (row.get::<_, Option<Vec<String>>>(1), row.get::<_, Option<Vec<f32>>>(2))
    {
        // Beyond a share for each word there are the least and the greatest of them.
        let floor = shares.get(words.len()).copied().unwrap_or(0.0);
        let passages = row.get::<_, f64>(0).max(1.0);
        return Ok(Words { passages, common: words.into_iter().zip(shares).collect(), floor: floor.into() });
    }
    let passages = t.query_one("SELECT count(*)::float8 FROM chunks", &[]).await?.get(0);
    Ok(Words { passages, common: HashMap::new(), floor: 0.0 })
}

fn passage(row: &Row) -> Passage {
    let stage = |rank: &str, score: &str| {
        let rank: Option<i64> = row.get(rank);
        let score: Option<f64> = row.get(score);
        rank.zip(score).map(|(rank, score)| StageScore { rank: rank as usize, score: score as f32 })
    };
    let json = |name: &str| row.get::<_, serde_json::Value>(name);
    Passage {
        document_id: row.get("document"),
        revision: row.get::<_, i64>("revision") as u64,
        title: row.get("title"),
        url: row.get("url"),
        collection: row.get("collection"),
        section: serde_json::from_value(json("section")).unwrap_or_default(),
        page: row.get::<_, Option<i32>>("page").map(|page| page as u32),
        start: row.get::<_, i32>("start") as usize,
        end: row.get::<_, i32>("stop") as usize,
        text: String::from_utf8_lossy(row.get("passage")).into_owned(),
        updated_at: row.get("updated_ms"),
        metadata: serde_json::from_value(json("metadata")).unwrap_or_default(),
        scores: Scores {
            fused: row.get::<_, f64>("fused") as f32,
            lexical: stage("l_rank", "l_score"),
            vector: stage("v_rank", "v_score"),
        },
    }
}

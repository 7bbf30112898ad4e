//! Searching: both rankings in one request, then their fusion.
//!
//! The rankings are fused here and not by Qdrant: an answer shows at which rank each stage had a passage, and how similar
//! the best one is, and Qdrant's fusion gives neither. By the same formula, from the same two lists, it would be a second
//! run of both for what is there already.
//!
//! Chunks are there before their version is served, and for a moment after it. So every hit is compared with its
//! document's entry, read after it; where one is of another version, the rankings are made again without it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use futures_util::try_join;
use parking_lot::Mutex;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::{
    Condition, CreateFieldIndexCollectionBuilder, FieldType, Filter as Conditions, PointId, Query, QueryPoints,
    QueryPointsBuilder, RepeatedStrings, RetrievedPoint, ScoredPoint, SearchParamsBuilder, VectorInput,
};

use super::filter::{condition, ranges};
use super::schema::{DENSE, SPARSE};
use super::server::{Collection, include, integer, text};
use super::write::section;
use super::{Held, Qdrant, document_point, words};
use crate::retrieval::filter::Filter;
use crate::retrieval::fusion::fuse;
use crate::retrieval::passage::{Passage, Scores, StageScore};
use crate::stores::StoreError;
use crate::stores::document_store::{Hits, Lookup, Standing};

const DOING: &str = "search";
/// How often the rankings are made again. So many versions do not change while one question is asked.
const ROUNDS: usize = 8;
/// Filters whose documents are remembered.
const RESOLVED: usize = 32;

/// What filters came to that Qdrant cannot ask, and the numbers that have an index.
#[derive(Default)]
pub(super) struct Resolved {
    /// Filter, commit, documents; the latest last.
    documents: Mutex<VecDeque<(Filter, u64, Arc<Vec<String>>)>>,
    ranges: Mutex<HashSet<String>>,
}

/// A chunk that a stage found.
struct Hit {
    point: PointId,
    document: String,
    seq: i64,
}

/// What both stages found: the hits, and each stage's ranking of them.
#[derive(Default)]
struct Found {
    hits: Vec<Hit>,
    numbers: HashMap<String, u32>,
}

impl Found {
    /// Takes in a stage's ranking.
    fn ranking(&mut self, points: Vec<ScoredPoint>) -> Vec<(u32, f32)> {
        let mut ranking = Vec::with_capacity(points.len());
        for point in points {
            let Some(id) = point.id.clone() else { continue };
            let key = match &id.point_id_options {
                Some(PointIdOptions::Uuid(uuid)) => uuid.clone(),
                other => format!("{other:?}"),
            };
            let number = *self.numbers.entry(key).or_insert_with(|| {
                let text = |field: &str| point.payload.get(field).and_then(|value| value.as_str()).cloned();
                let seq = point.payload.get("seq").and_then(|value| value.as_integer());
                self.hits.push(Hit {
                    point: id,
                    document: text("document").unwrap_or_default(),
                    seq: seq.unwrap_or_default(),
                });
                self.hits.len() as u32 - 1
            });
            ranking.push((number, point.score));
        }
        ranking
    }

    fn documents(&self, numbers: impl Iterator<Item = u32>) -> Vec<PointId> {
        let mut seen = HashSet::new();
        let documents =
            numbers.map(|n| self.hits[n as usize].document.as_str()).filter(|document| seen.insert(*document));
        documents.map(document_point).collect()
    }
}

impl Qdrant {
    pub(super) async fn find(&self, lookup: Lookup) -> Result<Hits, StoreError> {
        let standing = self.stand().await?;
        let began = Instant::now();
        let allowed = match &lookup.filter {
            None => None,
            Some(filter) => Some(self.allowed(filter, &standing).await?),
        };
        let question = lookup.words.as_deref().and_then(words::of_question);
        let mut stale: Vec<PointId> = Vec::new();
        for round in 1.. {
            let mut found = Found::default();
            let queries = self.queries(&lookup, question.as_ref(), allowed.as_ref(), &stale);
            let mut stages = match queries.is_empty() {
                true => Vec::new(),
                false => self.server.search(queries).await?,
            };
            let vector = match lookup.vector.is_some() {
                true => stages.pop().unwrap_or_default(),
                false => Vec::new(),
            };
            let lexical = found.ranking(stages.pop().unwrap_or_default());
            let vector = found.ranking(vector);
            let best_similarity = vector.first().map(|(_, similarity)| *similarity);
            let (passages, others) = self.passages(&found, &lookup, &lexical, &vector).await?;
            if others.is_empty() || round == ROUNDS {
                let index_us = began.elapsed().as_micros() as u64;
                return Ok(Hits { passages, standing, best_similarity, index_us });
            }
            stale.extend(others);
        }
        unreachable!("the last round returns")
    }

    /// The rankings to ask for: of the words, where there are any, and of the vector, where there is one.
    fn queries(
        &self,
        lookup: &Lookup,
        question: Option<&words::Words>,
        allowed: Option<&Conditions>,
        stale: &[PointId],
    ) -> Vec<QueryPoints> {
        let depth = self.config.search.candidates.max(lookup.limit) as u64;
        let mut fits = allowed.map(|allowed| Conditions::must([allowed.clone().into()])).unwrap_or_default();
        if !stale.is_empty() {
            fits.must_not.push(Condition::has_id(stale.to_vec()));
        }
        let query = |vector: VectorInput, using: &str| {
            QueryPointsBuilder::new(self.server.collection(Collection::Chunks))
                .query(Query::new_nearest(vector))
                .using(using)
                .filter(fits.clone())
                .limit(depth)
                .with_payload(include(&["document", "seq"]))
        };
        let lexical = question
            .map(|words| query(VectorInput::new_sparse(words.indices.clone(), words.values.clone()), SPARSE).build());
        let vector = lookup.vector.as_ref().map(|vector| {
            let ef = self.config.index.ef_search.max(depth as usize) as u64;
            let parameters = SearchParamsBuilder::default().hnsw_ef(ef);
            query(VectorInput::new_dense(vector.clone()), DENSE).params(parameters).build()
        });
        lexical.into_iter().chain(vector).collect()
    }

    /// The fused passages, and the hits that do not count: of versions that are not served, or, where the filter came to
    /// documents that have changed since, of such that do not match.
    async fn passages(
        &self,
        found: &Found,
        lookup: &Lookup,
        lexical: &[(u32, f32)],
        vector: &[(u32, f32)],
    ) -> Result<(Vec<Passage>, Vec<PointId>), StoreError> {
        let config = &self.config.search;
        let rankings = [(lexical, config.lexical_weight), (vector, config.vector_weight)];
        let fused = fuse(&rankings, config.rrf_k, lookup.limit);
        let best: Vec<PointId> = fused.iter().map(|hit| found.hits[hit.chunk as usize].point.clone()).collect();
        let of_all = found.documents(0..found.hits.len() as u32);
        let of_best = found.documents(fused.iter().map(|hit| hit.chunk));
        let fields: &[&str] = &["section", "page", "start", "stop", "passage"];
        let (served, chunks, entries) = try_join!(
            self.server.get(DOING, Collection::Documents, of_all, Some(&["document", "served"])),
            self.server.get(DOING, Collection::Chunks, best, Some(fields)),
            self.server.get(DOING, Collection::Documents, of_best, None),
        )?;
        let served: HashMap<String, Option<i64>> =
            served.iter().map(|point| (text(point, "document"), integer(point, "served"))).collect();
        let counts = |hit: &Hit| served.get(&hit.document).copied().flatten() == Some(hit.seq);
        let mut others: HashSet<usize> = (0..found.hits.len()).filter(|&n| !counts(&found.hits[n])).collect();

        let chunks: HashMap<Option<PointId>, &RetrievedPoint> =
            chunks.iter().map(|point| (point.id.clone(), point)).collect();
        let entries = entries.iter().map(|point| Held::read(&self.server, point)).collect::<Result<Vec<_>, _>>()?;
        let mut passages = Vec::with_capacity(fused.len());
        for hit in fused {
            let Hit { point, document, seq } = &found.hits[hit.chunk as usize];
            let version =
                entries.iter().find(|held| held.entry.document == *document).and_then(|h| h.entry.served.as_ref());
            let (Some(version), Some(chunk)) = (version, chunks.get(&Some(point.clone()))) else {
                others.insert(hit.chunk as usize);
                continue;
            };
            let matches = lookup.filter.as_ref().is_none_or(|filter| filter.matches(&version.fields(document)));
            if version.seq as i64 != *seq || !matches {
                others.insert(hit.chunk as usize);
                continue;
            }
            let stage = |n: usize| hit.ranks.get(n).copied().flatten().map(|(rank, score)| StageScore { rank, score });
            let number = |field: &str| integer(chunk, field).unwrap_or(0) as usize;
            passages.push(Passage {
                document_id: document.clone(),
                revision: version.revision,
                title: version.title.clone(),
                url: version.url.clone(),
                collection: version.collection.clone(),
                section: section(chunk.try_get("section")),
                page: integer(chunk, "page").map(|page| page as u32),
                start: number("start"),
                end: number("stop"),
                text: text(chunk, "passage"),
                updated_at: version.updated_ms,
                metadata: version.metadata.clone(),
                scores: Scores { fused: hit.score, lexical: stage(0), vector: stage(1) },
            });
        }
        Ok((passages, others.into_iter().map(|n| found.hits[n].point.clone()).collect()))
    }

    /// The chunks that a filter allows.
    async fn allowed(&self, filter: &Filter, standing: &Standing) -> Result<Conditions, StoreError> {
        let Some(conditions) = condition(filter) else {
            let strings = self.documents_that_match(filter, standing).await?.to_vec();
            let any = MatchValue::Keywords(RepeatedStrings { strings });
            return Ok(Conditions::must([Condition::matches("document", any)]));
        };
        for range in ranges(filter) {
            if self.resolved.ranges.lock().contains(&range) {
                continue;
            }
            // It makes them quicker, and is not needed to find the same.
            let index = CreateFieldIndexCollectionBuilder::new(
                self.server.collection(Collection::Chunks),
                range.as_str(),
                FieldType::Float,
            );
            match self.server.client.create_field_index(index.wait(false)).await {
                Ok(_) => drop(self.resolved.ranges.lock().insert(range)),
                Err(error) => tracing::debug!(%error, range, "no index on a number"),
            }
        }
        Ok(conditions)
    }

    /// The documents that a filter is true of, found by looking at all of them, and remembered while the commit stays.
    async fn documents_that_match(&self, filter: &Filter, standing: &Standing) -> Result<Arc<Vec<String>>, StoreError> {
        let commit = standing.commit;
        let known = |(known, at, _): &&(Filter, u64, _)| known == filter && *at == commit;
        if let Some((_, _, documents)) = self.resolved.documents.lock().iter().find(known) {
            return Ok(Arc::clone(documents));
        }
        let served = Conditions::must_not([Condition::is_empty("served")]);
        let points = self.server.all(DOING, Collection::Documents, served, Some(&["document", "state"]), None).await?;
        let mut documents = Vec::new();
        for point in points {
            let entry = Held::read(&self.server, &point)?.entry;
            if entry.served.as_ref().is_some_and(|version| filter.matches(&version.fields(&entry.document))) {
                documents.push(entry.document);
            }
        }
        let documents = Arc::new(documents);
        let mut remembered = self.resolved.documents.lock();
        remembered.retain(|(_, at, _)| *at == commit);
        if remembered.len() >= RESOLVED {
            remembered.pop_front();
        }
        remembered.push_back((filter.clone(), commit, Arc::clone(&documents)));
        Ok(documents)
    }
}

//! Searching: both rankings in one request, then their fusion.
//!
//! The rankings are fused here and not by Qdrant: an answer shows at which rank each stage had a passage, and how similar
//! the best one is, and Qdrant's fusion gives neither. By the same formula, from the same two lists, it would be a second
//! run of both for what is there already.
//!
//! Chunks are there before their version is served, and for a moment after it. So every hit is compared with its
//! document's entry, read after it. Where one is of another version, the rankings are made again without it; where its
//! version is so new that some of its chunks may not have been there yet, they are made again with them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use futures_util::try_join;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::{
    Condition, Filter as Conditions, PointId, Query, QueryPoints, QueryPointsBuilder, RetrievedPoint, ScoredPoint,
    SearchParamsBuilder, VectorInput,
};

use super::filter::condition;
use super::schema::{DENSE, SPARSE};
use super::server::{Collection, include, integer, text};
use super::write::section;
use super::{Held, Qdrant, document_point, words};
use crate::retrieval::filter::Filter;
use crate::retrieval::fusion::{Fused, fuse};
use crate::retrieval::passage::{Passage, Scores, StageScore};
use crate::stores::StoreError;
use crate::stores::document_store::{Hits, Lookup, Standing, never_again};

const DOING: &str = "search";
/// How often the rankings are made again. So many versions do not change while one question is asked.
const ROUNDS: usize = 8;
/// Filters whose documents are remembered.
const RESOLVED: usize = 32;

/// What a filter came to that Qdrant cannot ask: the documents that it was true of.
pub(super) struct ResolvedFilter {
    filter: Filter,
    commit: u64,
    documents: Vec<String>,
}

/// A stage's ranking: hits by number, with their scores.
type Ranking<'r> = &'r [(u32, f32)];

/// A chunk that a stage found.
struct Hit {
    point: PointId,
    document: String,
    /// Which attempt at a version it is of.
    attempt: String,
}

/// An attempt whose chunks do not count.
struct LeftOut {
    document: String,
    attempt: String,
    /// It is served, and its document does not match the filter any more.
    unfit: bool,
}

/// What came of one round.
struct Round {
    passages: Vec<Passage>,
    /// Attempts among the hits that do not count.
    stale: Vec<LeftOut>,
    /// Attempts that were left out and are served by now.
    revived: Vec<String>,
    /// A version was served while it was searched.
    young: bool,
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
                self.hits.push(Hit {
                    point: id,
                    document: text("document").unwrap_or_default(),
                    attempt: text("attempt").unwrap_or_default(),
                });
                self.hits.len() as u32 - 1
            });
            ranking.push((number, point.score));
        }
        ranking
    }
}

/// The points of documents, each once.
fn points_of<'d>(documents: impl Iterator<Item = &'d str>) -> Vec<PointId> {
    let mut seen = HashSet::new();
    documents.filter(|document| seen.insert(*document)).map(document_point).collect()
}

impl Qdrant {
    pub(super) async fn find(&self, lookup: Lookup) -> Result<Hits, StoreError> {
        let (mut standing, mut commit) = self.stand_at().await?;
        let began = Instant::now();
        let allowed = match &lookup.filter {
            None => None,
            Some(filter) => Some(self.allowed(filter, &standing).await?),
        };
        let question = lookup.words.as_deref().and_then(words::of_question);
        let mut left_out: Vec<LeftOut> = Vec::new();
        for round in 1.. {
            let mut found = Found::default();
            let queries = self.queries(&lookup, question.as_ref(), allowed.as_ref(), &left_out);
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
            let stages = (lexical.as_slice(), vector.as_slice());
            let done = self.passages(&found, &lookup, stages, &left_out, commit).await?;
            let settled = done.stale.is_empty() && done.revived.is_empty() && !done.young;
            if settled || round == ROUNDS {
                if !settled {
                    standing.commit = never_again();
                }
                let index_us = began.elapsed().as_micros() as u64;
                return Ok(Hits { passages: done.passages, standing, best_similarity, index_us });
            }
            left_out.retain(|known| !done.revived.contains(&known.attempt));
            left_out.extend(done.stale);
            if done.young {
                commit = self.commits.read(&self.server).await?;
            }
        }
        unreachable!("the last round returns")
    }

    /// The rankings to ask for: of the words, where there are any, and of the vector, where there is one.
    fn queries(
        &self,
        lookup: &Lookup,
        question: Option<&words::Words>,
        allowed: Option<&Conditions>,
        left_out: &[LeftOut],
    ) -> Vec<QueryPoints> {
        let depth = lookup.settings.candidates.max(lookup.limit) as u64;
        let mut fits = allowed.map(|allowed| Conditions::must([allowed.clone().into()])).unwrap_or_default();
        // All of an attempt: it may have more chunks than a ranking has places.
        if !left_out.is_empty() {
            let attempts: Vec<String> = left_out.iter().map(|known| known.attempt.clone()).collect();
            fits.must_not.push(Condition::matches("attempt", attempts));
        }
        let query = |vector: VectorInput, using: &str| {
            QueryPointsBuilder::new(self.server.collection(Collection::Chunks))
                .query(Query::new_nearest(vector))
                .using(using)
                .filter(fits.clone())
                .limit(depth)
                .with_payload(include(&["document", "attempt"]))
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

    /// The fused passages of both rankings, made when the commit was at least this.
    async fn passages<'f>(
        &self,
        found: &'f Found,
        lookup: &Lookup,
        (lexical, vector): (Ranking<'_>, Ranking<'_>),
        left_out: &[LeftOut],
        commit: u64,
    ) -> Result<Round, StoreError> {
        let config = &lookup.settings;
        let rankings = [(lexical, config.lexical_weight), (vector, config.vector_weight)];
        let fused = fuse(&rankings, config.rrf_k, lookup.limit);
        let hit = |fused: &Fused| &found.hits[fused.chunk as usize];
        let best: Vec<PointId> = fused.iter().map(|fused| hit(fused).point.clone()).collect();
        let of_hits = found.hits.iter().map(|hit| hit.document.as_str());
        let of_all = points_of(of_hits.chain(left_out.iter().map(|known| known.document.as_str())));
        let of_best = points_of(fused.iter().map(|fused| hit(fused).document.as_str()));
        let fields: &[&str] = &["section", "page", "start", "stop", "passage"];
        let (served, chunks, entries) = try_join!(
            self.server.get(DOING, Collection::Documents, of_all, Some(&["document", "attempt", "commit"])),
            self.server.get(DOING, Collection::Chunks, best, Some(fields)),
            self.server.get(DOING, Collection::Documents, of_best, None),
        )?;
        // By document: the attempt that is served, and since which commit.
        let served: HashMap<String, (String, u64)> = served
            .iter()
            .map(|point| {
                let since = integer(point, "commit").unwrap_or(0) as u64;
                (text(point, "document"), (text(point, "attempt"), since))
            })
            .collect();
        let is_served = |document: &str, attempt: &str| served.get(document).is_some_and(|(now, _)| now == attempt);
        let mut stale: HashMap<&str, LeftOut> = HashMap::new();
        let mut leave_out = |hit: &'f Hit, unfit: bool| {
            let Hit { document, attempt, .. } = hit;
            stale.entry(attempt).or_insert_with(|| LeftOut {
                document: document.clone(),
                attempt: attempt.clone(),
                unfit,
            });
        };
        let mut young = false;
        for hit in &found.hits {
            match is_served(&hit.document, &hit.attempt) {
                true => young |= served.get(&hit.document).is_some_and(|(_, since)| *since > commit),
                false => leave_out(hit, false),
            }
        }
        let back = left_out.iter().filter(|known| !known.unfit && is_served(&known.document, &known.attempt));
        let revived = back.map(|known| known.attempt.clone()).collect();

        let chunks: HashMap<Option<PointId>, &RetrievedPoint> =
            chunks.iter().map(|point| (point.id.clone(), point)).collect();
        let entries = entries.iter().map(|point| Held::read(&self.server, point)).collect::<Result<Vec<_>, _>>()?;
        let mut passages = Vec::with_capacity(fused.len());
        for hit in &fused {
            let fused_hit = &found.hits[hit.chunk as usize];
            let Hit { point, document, attempt } = fused_hit;
            let entry = entries.iter().map(|held| &held.entry).find(|entry| entry.document == *document);
            let version = entry.and_then(|entry| entry.served.as_ref());
            let (Some(version), Some(chunk)) = (version, chunks.get(&Some(point.clone()))) else {
                leave_out(fused_hit, false);
                continue;
            };
            if version.text.key.to_string() != *attempt {
                leave_out(fused_hit, false);
                continue;
            }
            if lookup.filter.as_ref().is_some_and(|filter| !filter.matches(&version.fields(document))) {
                leave_out(fused_hit, true);
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
        Ok(Round { passages, stale: stale.into_values().collect(), revived, young })
    }

    /// The chunks that a filter allows.
    async fn allowed(&self, filter: &Filter, standing: &Standing) -> Result<Conditions, StoreError> {
        match condition(filter) {
            Some(conditions) => Ok(conditions),
            None => {
                let documents = self.documents_that_match(filter, standing.commit).await?;
                Ok(Conditions::must([Condition::matches("document", documents)]))
            }
        }
    }

    /// How many documents are served of each collection, of those that match.
    pub(super) async fn count_collections(&self, filter: Option<&Filter>) -> Result<BTreeMap<String, u64>, StoreError> {
        let served = Conditions::must_not([Condition::is_empty("served")]);
        let fields: &[&str] = &["document", "state", "turn"];
        let mut collections = BTreeMap::new();
        let take = |point| {
            let entry = Held::read(&self.server, &point)?.entry;
            if let Some(version) = &entry.served
                && filter.is_none_or(|filter| filter.matches(&version.fields(&entry.document)))
            {
                *collections.entry(version.collection.clone()).or_default() += 1;
            }
            Ok(())
        };
        self.server.each("count", Collection::Documents, served, Some(fields), None, take).await?;
        Ok(collections)
    }

    /// The documents that a filter is true of, found by looking at all of them, and remembered while the commit stays.
    async fn documents_that_match(&self, filter: &Filter, commit: u64) -> Result<Vec<String>, StoreError> {
        let same = |known: &&ResolvedFilter| known.filter == *filter && known.commit == commit;
        if let Some(known) = self.resolved.lock().iter().find(same) {
            return Ok(known.documents.clone());
        }
        let served = Conditions::must_not([Condition::is_empty("served")]);
        let fields: &[&str] = &["document", "state", "turn"];
        let mut documents = Vec::new();
        let take = |point| {
            let entry = Held::read(&self.server, &point)?.entry;
            if entry.served.as_ref().is_some_and(|version| filter.matches(&version.fields(&entry.document))) {
                documents.push(entry.document);
            }
            Ok(())
        };
        self.server.each(DOING, Collection::Documents, served, Some(fields), None, take).await?;
        let mut resolved = self.resolved.lock();
        resolved.retain(|known| known.commit == commit);
        if resolved.len() >= RESOLVED {
            resolved.pop_front();
        }
        resolved.push_back(ResolvedFilter { filter: filter.clone(), commit, documents: documents.clone() });
        Ok(documents)
    }
}

//! The server: its collections, the few things that are asked of it, and what its errors mean.
//!
//! Every change is waited for, and in the order of the one node that leads (`strong`); what others decide by is read from
//! the majority of the replicas. On a single node both cost nothing.

use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::with_payload_selector::SelectorOptions;
use qdrant_client::qdrant::{
    Condition, CountPointsBuilder, DeletePointsBuilder, Direction, FacetCountsBuilder, Filter, GetPointsBuilder,
    NamedVectors, OrderByBuilder, PointId, PointStruct, QueryBatchPointsBuilder, QueryPoints, ReadConsistencyType,
    RetrievedPoint, ScoredPoint, ScrollPointsBuilder, UpdateMode, UpsertPointsBuilder, VectorsSelector, WriteOrdering,
    WriteOrderingType, facet_value, read_consistency,
};
use qdrant_client::{Payload, Qdrant as Client, QdrantError};
use tonic::Code;
use uuid::Uuid;

use crate::config::QdrantConfig;
use crate::stores::StoreError;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Points of a scroll.
pub(super) const PAGE: u32 = 256;

/// The collections, each a name of its own below the configured one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collection {
    /// A point for each document: see `entry.rs`.
    Documents,
    /// Contents that wait, and source texts, in pieces.
    Contents,
    /// A point for each chunk of a version.
    Chunks,
    /// A point for each event that was taken.
    Events,
    /// Settings, counters, and the processes.
    State,
    /// What the service itself keeps; see `records.rs`.
    Records,
}

impl Collection {
    pub const ALL: [Self; 6] =
        [Self::Documents, Self::Contents, Self::Chunks, Self::Events, Self::State, Self::Records];

    pub fn suffix(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Contents => "contents",
            Self::Chunks => "chunks",
            Self::Events => "events",
            Self::State => "state",
            Self::Records => "records",
        }
    }
}

/// See the module.
pub(super) struct Server {
    pub client: Client,
    pub address: String,
    name: String,
    trouble: Mutex<Option<String>>,
}

/// Reads what the majority of the replicas has.
fn majority() -> read_consistency::Value {
    read_consistency::Value::Type(ReadConsistencyType::Majority.into())
}

fn strong() -> WriteOrdering {
    WriteOrdering { r#type: WriteOrderingType::Strong.into() }
}

/// A point's id from what it is about: the same for everyone.
pub(super) fn id(parts: &[&str]) -> PointId {
    // A length before each, so that no two lists make one text.
    let name: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
    PointId::from(Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string())
}

const NAMESPACE: Uuid = Uuid::from_u128(0x3b1f_5a52_9d0e_4c35_8a4e_6e6f_d0c5_17b2);

/// A point that is only its payload.
pub(super) fn plain(id: PointId, payload: Payload) -> PointStruct {
    PointStruct::new(id, NamedVectors::default(), payload)
}

/// A text that is exactly this. The client's own conversion asks for words where there is a space.
pub(super) fn is(field: &str, text: &str) -> Condition {
    Condition::matches(field, MatchValue::Keyword(text.to_owned()))
}

impl Server {
    pub fn new(config: &QdrantConfig) -> Result<Self, String> {
        let mut settings = Client::from_url(&config.url)
            .api_key(Some(config.api_key.clone()).filter(|key| !key.is_empty()))
            .timeout(Duration::from_millis(config.timeout_ms))
            .connect_timeout(CONNECT)
            .keep_alive_while_idle()
            .skip_compatibility_check();
        settings.pool_size = config.connections;
        let client = settings.build().map_err(|error| format!("[qdrant] url cannot be used: {error}"))?;
        let address = url::Url::parse(&config.url)
            .ok()
            .and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)))
            .unwrap_or_default();
        Ok(Self { client, address, name: config.collection.clone(), trouble: Mutex::default() })
    }

    pub fn collection(&self, which: Collection) -> String {
        format!("{}-{}", self.name, which.suffix())
    }

    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Waits for what is asked, and says what an error means.
    pub async fn run<T>(
        &self,
        doing: &str,
        work: impl Future<Output = Result<T, QdrantError>>,
    ) -> Result<T, StoreError> {
        match work.await {
            Ok(value) => {
                *self.trouble.lock() = None;
                Ok(value)
            }
            Err(error) => Err(self.failed(doing, &error)),
        }
    }

    pub fn unavailable(&self, doing: &str, reason: &str) -> StoreError {
        let reason = format!("the Qdrant {} cannot {doing} now: {reason}", self.address);
        *self.trouble.lock() = Some(reason.clone());
        StoreError::Unavailable(reason)
    }

    fn failed(&self, doing: &str, error: &QdrantError) -> StoreError {
        let status = match error {
            QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => status,
            error => return self.unavailable(doing, &error.to_string()),
        };
        let message = status.message();
        match status.code() {
            _ if message.contains("No space left") || message.contains("out of disk") => {
                StoreError::Full(format!("no room on the disk of the Qdrant {} to {doing}: {message}", self.address))
            }
            // The client reports so that it could not connect, or that the connection ended.
            Code::Internal if message.starts_with("Failed to connect") => self.unavailable(doing, "it does not answer"),
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal => self.unavailable(doing, message),
            Code::Unauthenticated | Code::PermissionDenied => StoreError::Failed(format!(
                "the Qdrant {} does not let us {doing}: {message}. Set [qdrant] api_key.",
                self.address
            )),
            code => StoreError::Failed(format!("the Qdrant {} cannot {doing}: {message} ({code:?})", self.address)),
        }
    }

    /// Points by id, those that are there; with `fields` only these of their payloads.
    pub async fn get(
        &self,
        doing: &str,
        which: Collection,
        ids: Vec<PointId>,
        fields: Option<&[&str]>,
    ) -> Result<Vec<RetrievedPoint>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let request = GetPointsBuilder::new(self.collection(which), ids)
            .with_payload(payload(fields))
            .read_consistency(majority());
        Ok(self.run(doing, self.client.get_points(request)).await?.result)
    }

    fn upsert(&self, which: Collection, points: Vec<PointStruct>) -> UpsertPointsBuilder {
        UpsertPointsBuilder::new(self.collection(which), points).wait(true).ordering(strong())
    }

    /// Adds points, or replaces them.
    pub async fn put(&self, doing: &str, which: Collection, points: Vec<PointStruct>) -> Result<(), StoreError> {
        self.run(doing, self.client.upsert_points(self.upsert(which, points))).await.map(drop)
    }

    /// Adds points that are not there.
    pub async fn add(&self, doing: &str, which: Collection, points: Vec<PointStruct>) -> Result<(), StoreError> {
        let request = self.upsert(which, points).update_mode(UpdateMode::InsertOnly);
        self.run(doing, self.client.upsert_points(request)).await.map(drop)
    }

    /// Replaces a point where its field `turn` is still `before`, or adds it where there is none and `before` says so: of
    /// several that do, one succeeds. `turn` is the new one. Whether it is there now: where another one has replaced it
    /// since, the answer is that it is not.
    pub async fn swap(
        &self,
        doing: &str,
        which: Collection,
        point: PointStruct,
        before: Option<&str>,
        turn: &str,
    ) -> Result<bool, StoreError> {
        let id = point.id.clone().unwrap_or_default();
        let request = self.upsert(which, vec![point]);
        let request = match before {
            None => request.update_mode(UpdateMode::InsertOnly),
            Some(before) => {
                request.update_mode(UpdateMode::UpdateOnly).update_filter(Filter::must([is("turn", before)]))
            }
        };
        self.run(doing, self.client.upsert_points(request)).await?;
        let found = self.get(doing, which, vec![id], Some(&["turn"])).await?;
        Ok(found.first().is_some_and(|point| text(point, "turn") == turn))
    }

    /// Deletes what fits.
    pub async fn delete(&self, doing: &str, which: Collection, fits: Filter) -> Result<(), StoreError> {
        let request = DeletePointsBuilder::new(self.collection(which)).points(fits).wait(true).ordering(strong());
        self.run(doing, self.client.delete_points(request)).await.map(drop)
    }

    /// A page of points that fit, by id, and where the next one begins; see [`Server::all`].
    pub async fn page(
        &self,
        doing: &str,
        which: Collection,
        fits: Filter,
        fields: Option<&[&str]>,
        vector: Option<&str>,
        (from, limit): (Option<PointId>, u32),
    ) -> Result<(Vec<RetrievedPoint>, Option<PointId>), StoreError> {
        let mut request =
            ScrollPointsBuilder::new(self.collection(which)).filter(fits).limit(limit).read_consistency(majority());
        request = request.with_payload(payload(fields));
        if let Some(vector) = vector {
            request = request.with_vectors(VectorsSelector { names: vec![vector.to_owned()] });
        }
        if let Some(from) = from {
            request = request.offset(from);
        }
        let found = self.run(doing, self.client.scroll(request)).await?;
        Ok((found.result, found.next_page_offset))
    }

    /// All points that fit, by id; with `fields` only these of their payloads, with `vector` also that vector.
    pub async fn all(
        &self,
        doing: &str,
        which: Collection,
        fits: Filter,
        fields: Option<&[&str]>,
        vector: Option<&str>,
    ) -> Result<Vec<RetrievedPoint>, StoreError> {
        let mut all = Vec::new();
        let take = |point| {
            all.push(point);
            Ok(())
        };
        self.each(doing, which, fits, fields, vector, take).await?;
        Ok(all)
    }

    /// The same, one after the other, for more than there should be room for.
    pub async fn each(
        &self,
        doing: &str,
        which: Collection,
        fits: Filter,
        fields: Option<&[&str]>,
        vector: Option<&str>,
        mut take: impl FnMut(RetrievedPoint) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut from = None;
        loop {
            let (page, next) = self.page(doing, which, fits.clone(), fields, vector, (from, PAGE)).await?;
            page.into_iter().try_for_each(&mut take)?;
            match next {
                None => return Ok(()),
                next => from = next,
            }
        }
    }

    /// The point with the least, or the greatest, `number` among the documents.
    pub async fn extreme(
        &self,
        doing: &str,
        number: &str,
        greatest: bool,
        fields: &[&str],
    ) -> Result<Option<RetrievedPoint>, StoreError> {
        let direction = if greatest { Direction::Desc } else { Direction::Asc };
        let request = ScrollPointsBuilder::new(self.collection(Collection::Documents))
            .order_by(OrderByBuilder::new(number).direction(direction.into()))
            .with_payload(include(fields))
            .limit(1)
            .read_consistency(majority());
        Ok(self.run(doing, self.client.scroll(request)).await?.result.pop())
    }

    /// How many points fit.
    pub async fn count(&self, doing: &str, which: Collection, fits: Filter) -> Result<u64, StoreError> {
        let request =
            CountPointsBuilder::new(self.collection(which)).filter(fits).exact(true).read_consistency(majority());
        Ok(self.run(doing, self.client.count(request)).await?.result.map_or(0, |result| result.count))
    }

    /// The sum of a small number over the documents that fit.
    pub async fn sum(&self, doing: &str, number: &str, fits: Filter) -> Result<u64, StoreError> {
        let request = FacetCountsBuilder::new(self.collection(Collection::Documents), number)
            .filter(fits)
            .limit(10_000)
            .exact(true)
            .read_consistency(majority());
        let found = self.run(doing, self.client.facet(request)).await?;
        let product = |value: Option<facet_value::Variant>, count: u64| match value {
            Some(facet_value::Variant::IntegerValue(value)) => value as u64 * count,
            _ => 0,
        };
        Ok(found.hits.into_iter().map(|hit| product(hit.value.and_then(|value| value.variant), hit.count)).sum())
    }

    /// Several searches among the chunks at once.
    pub async fn search(&self, queries: Vec<QueryPoints>) -> Result<Vec<Vec<ScoredPoint>>, StoreError> {
        let request = QueryBatchPointsBuilder::new(self.collection(Collection::Chunks), queries);
        let found = self.run("search", self.client.query_batch(request)).await?;
        Ok(found.result.into_iter().map(|batch| batch.result).collect())
    }
}

/// These fields of a payload, or all of it.
fn payload(fields: Option<&[&str]>) -> SelectorOptions {
    fields.map_or(SelectorOptions::Enable(true), |fields| include(fields).into())
}

/// Only these fields of a payload.
pub(super) fn include(fields: &[&str]) -> qdrant_client::qdrant::PayloadIncludeSelector {
    qdrant_client::qdrant::PayloadIncludeSelector { fields: fields.iter().map(|field| (*field).to_owned()).collect() }
}

/// A text of a point's payload; empty where it has none.
pub(super) fn text(point: &RetrievedPoint, field: &str) -> String {
    point.try_get(field).and_then(|value| value.as_str()).cloned().unwrap_or_default()
}

/// An integer of a point's payload.
pub(super) fn integer(point: &RetrievedPoint, field: &str) -> Option<i64> {
    point.try_get(field).and_then(|value| value.as_integer())
}

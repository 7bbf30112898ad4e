//! Reading: operations, documents, sizes, where the store stands.

use std::collections::BTreeMap;

use deadpool_postgres::Client;
use tokio_postgres::{Error, Row};

use super::filter::{Parameters, condition};
use super::{DELETE, FAILED, Postgres, clean};
use crate::documents::Format;
use crate::freshness::AsOf;
use crate::retrieval::filter::Filter;
use crate::stores::StoreError;
use crate::stores::document_store::{
    DocumentPage, DocumentQuery, DocumentRecord, LastOperation, OperationState, Pending, PendingContent, Progress,
    Served, Standing, StoreCounts,
};

/// Where the store stands. The ages of what waits are by the server's clock; of an event it is the bus's word.
pub(super) const STANDING: &str = "
SELECT (SELECT value FROM counters WHERE name = 'commit'),
       (SELECT coalesce(max(seq), 0) FROM operations),
       count(*), min(seq),
       greatest(0, (extract(epoch FROM now()) * 1000)::bigint - min(coalesce(position / 1000000, received_ms)))
FROM operations WHERE state = 0";

/// What [`STANDING`] says.
pub(super) fn standing(row: &Row) -> Standing {
    let (commit, last, waiting): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let (first, lag_ms): (Option<i64>, Option<i64>) = (row.get(3), row.get(4));
    Standing {
        commit: commit as u64,
        as_of: AsOf {
            seq: first.map_or(last, |first| first - 1) as u64,
            lag_ms: lag_ms.filter(|_| waiting > 0).unwrap_or(0) as u64,
            lag_events: waiting as u64,
        },
    }
}

/// The columns of an operation `o` that [`last_operation`] reads.
pub(super) const LAST_OPERATION: &str =
    "o.seq, o.kind, o.revision, o.state, o.reason, o.position, o.received_ms, o.parsed_ms, o.embedded_ms, o.settled_ms";

/// The columns of [`LAST_OPERATION`], from the second one of a row on.
pub(super) fn last_operation(row: &Row) -> LastOperation {
    let state = OperationState::of(row.get::<_, i16>(4));
    let settled_ms = row.get(10);
    LastOperation {
        seq: row.get::<_, i64>(1) as u64,
        delete: row.get::<_, i16>(2) == DELETE,
        revision: row.get::<_, i64>(3) as u64,
        state,
        settled: state != OperationState::Received,
        reason: row.get(5),
        published_ms: row.get::<_, Option<i64>>(6).map(|nanoseconds| nanoseconds / 1_000_000),
        received_ms: row.get(7),
        progress: Progress { parsed_ms: row.get(8), embedded_ms: row.get(9) },
        settled_ms,
        // What is stored is found from then on.
        visible_ms: settled_ms.filter(|_| state == OperationState::Stored),
    }
}

/// The last operation on each document `o`, beside what is served of it `d`.
fn records(rest: &str) -> String {
    format!(
        "SELECT o.document, {LAST_OPERATION}, o.metadata,
                d.revision, d.title, d.url, d.collection, d.media_type, d.format, d.chunk_count, d.updated_ms, d.metadata
         FROM operations o LEFT JOIN documents d USING (document)
         WHERE NOT EXISTS (SELECT 1 FROM operations later WHERE later.document = o.document AND later.seq > o.seq) {rest}"
    )
}

fn record(row: &Row) -> DocumentRecord {
    let served = row.get::<_, Option<i64>>(12).map(|revision| Served {
        revision: revision as u64,
        title: row.get(13),
        url: row.get(14),
        collection: row.get(15),
        media_type: row.get(16),
        format: Format::from_name(row.get(17)),
        chunks: row.get::<_, i32>(18) as u64,
        updated_ms: row.get(19),
        metadata: serde_json::from_value(row.get(20)).unwrap_or_default(),
    });
    DocumentRecord {
        id: row.get(0),
        served,
        metadata: serde_json::from_value(row.get(11)).unwrap_or_default(),
        last: last_operation(row),
    }
}

impl Postgres {
    pub(super) async fn read_operation(&self, seq: u64) -> Result<Option<Pending>, StoreError> {
        self.read("read a waiting operation", move |client| Box::pin(operation(client, seq))).await
    }

    pub(super) async fn read_outcome(&self, seq: u64) -> Result<Option<(OperationState, Option<String>)>, StoreError> {
        self.read("read an operation", move |client| {
            Box::pin(async move {
                let sql = client.prepare_cached("SELECT state, reason FROM operations WHERE seq = $1").await?;
                let row = client.query_opt(&sql, &[&(seq as i64)]).await?;
                Ok(row.map(|row| (OperationState::of(row.get::<_, i16>(0)), row.get(1))))
            })
        })
        .await
    }

    pub(super) async fn read_document(&self, id: &str) -> Result<Option<DocumentRecord>, StoreError> {
        let id = clean(id);
        self.read("read a document", move |client| {
            let id = id.clone();
            Box::pin(async move {
                let sql = client.prepare_cached(&records("AND o.document = $1")).await?;
                Ok(client.query_opt(&sql, &[&id]).await?.as_ref().map(record))
            })
        })
        .await
    }

    pub(super) async fn read_text(&self, id: &str) -> Result<Option<String>, StoreError> {
        let id = clean(id);
        self.read("read a document", move |client| {
            let id = id.clone();
            Box::pin(async move {
                let sql = client.prepare_cached("SELECT content FROM documents WHERE document = $1").await?;
                let row = client.query_opt(&sql, &[&id]).await?;
                Ok(row.map(|row| String::from_utf8_lossy(row.get(0)).into_owned()))
            })
        })
        .await
    }

    pub(super) async fn list(&self, query: &DocumentQuery) -> Result<DocumentPage, StoreError> {
        let after = query.after.as_deref().map(clean).unwrap_or_default();
        let (collection, prefix) = (query.collection.as_deref().map(clean), query.prefix.as_deref().map(clean));
        let limit = query.limit;
        self.read("list the documents", move |client| {
            let (after, collection, prefix) = (after.clone(), collection.clone(), prefix.clone());
            Box::pin(async move {
                let sql = client
                    .prepare_cached(&records(
                        "AND o.document > $1 AND ($2::text IS NULL OR coalesce(nullif(o.collection, ''), d.collection) = $2)
                           AND ($3::text IS NULL OR starts_with(o.document, $3)) AND (d.document IS NOT NULL OR o.kind = 0)
                         ORDER BY o.document LIMIT $4"
                    ))
                    .await?;
                let rows = client.query(&sql, &[&after, &collection, &prefix, &(limit as i64 + 1)]).await?;
                let documents = rows.iter().take(limit).map(record).collect();
                Ok(DocumentPage { documents, more: rows.len() > limit })
            })
        })
        .await
    }

    pub(super) async fn count_collections(&self, filter: Option<Filter>) -> Result<BTreeMap<String, u64>, StoreError> {
        self.read("count", move |client| {
            let filter = filter.clone();
            Box::pin(async move {
                let mut parameters = Parameters::default();
                let fits = filter.map_or_else(|| "true".to_owned(), |filter| condition(&filter, &mut parameters));
                let sql = format!("SELECT d.collection, count(*) FROM documents d WHERE {fits} GROUP BY d.collection");
                let rows = client.query(&sql, &parameters.list()).await?;
                Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1) as u64)).collect())
            })
        })
        .await
    }

    pub(super) async fn count(&self) -> Result<StoreCounts, StoreError> {
        self.read("count", |client| {
            Box::pin(async move {
                let sql = "SELECT (SELECT count(*) FROM documents), (SELECT coalesce(sum(chunk_count), 0)::bigint FROM documents),
                                  (SELECT count(*) FROM operations WHERE state = 0), (SELECT count(*) FROM operations WHERE state = $1 AND NOT EXISTS (SELECT 1 FROM operations later WHERE later.document = operations.document AND later.seq > operations.seq)),
                                  (SELECT coalesce(max(seq), 0) FROM operations), (SELECT value FROM counters WHERE name = 'commit')";
                let row = client.query_one(&client.prepare_cached(sql).await?, &[&FAILED]).await?;
                let number = |n: usize| row.get::<_, i64>(n) as u64;
                Ok(StoreCounts {
                    documents: number(0),
                    chunks: number(1),
                    pending: number(2),
                    failed: number(3),
                    seq: number(4),
                    commit: number(5),
                })
            })
        })
        .await
    }

    pub(super) async fn stand(&self) -> Result<Standing, StoreError> {
        self.read("say where it stands", |client| {
            Box::pin(async move {
                let sql = client.prepare_cached(STANDING).await?;
                Ok(standing(&client.query_one(&sql, &[]).await?))
            })
        })
        .await
    }
}

async fn operation(client: &Client, seq: u64) -> Result<Option<Pending>, Error> {
    let sql = "SELECT document, kind, content, media_type, title, revision, received_ms FROM operations WHERE seq = $1 AND state = 0";
    let row = client.query_opt(&client.prepare_cached(sql).await?, &[&(seq as i64)]).await?;
    Ok(row.map(|row| Pending {
        seq,
        document: row.get(0),
        content: (row.get::<_, i16>(1) != DELETE).then(|| PendingContent {
            bytes: row.get(2),
            media_type: row.get(3),
            title: row.get(4),
        }),
        revision: row.get::<_, i64>(5) as u64,
        received_ms: row.get(6),
    }))
}

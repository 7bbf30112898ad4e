//! The store's documents as they move to another one, and back.

use async_trait::async_trait;
use deadpool_postgres::{Client, Transaction};
use pgvector::Vector;
use tokio_postgres::{Error, Row};

use super::read::{LAST_OPERATION, last_operation};
use super::write::{insert_chunks, lock};
use super::{DELETE, Postgres, UPSERT, clean, clean_metadata};
use crate::documents::event::Metadata;
use crate::stores::StoreError;
use crate::stores::archive::{Archive, Kept, KeptVersion, Said};
use crate::stores::document_store::{DocumentStore, NewChunk, StoreCounts};

fn metadata(row: &Row, name: &str) -> Metadata {
    serde_json::from_value(row.get(name)).unwrap_or_default()
}

/// What is served of a document.
async fn served(client: &Client, document: &str) -> Result<Option<KeptVersion>, Error> {
    let sql = "SELECT revision, seq, media_type, format, title, url, collection, metadata, content, updated_ms FROM documents WHERE document = $1";
    let Some(row) = client.query_opt(&client.prepare_cached(sql).await?, &[&document]).await? else { return Ok(None) };
    let sql =
        "SELECT section, start, stop, page, tokens, hash, embedding FROM chunks WHERE document = $1 ORDER BY chunk";
    let chunks = client.query(&client.prepare_cached(sql).await?, &[&document]).await?;
    let chunk = |row: &Row| NewChunk {
        section: serde_json::from_value(row.get("section")).unwrap_or_default(),
        span: row.get::<_, i32>("start") as usize..row.get::<_, i32>("stop") as usize,
        page: row.get::<_, Option<i32>>("page").map(|page| page as u32),
        tokens: row.get::<_, i32>("tokens") as usize,
        hash: row.get::<_, &[u8]>("hash").try_into().unwrap_or_default(),
        vector: row.get::<_, Vector>("embedding").to_vec(),
    };
    Ok(Some(KeptVersion {
        revision: row.get::<_, i64>("revision") as u64,
        seq: row.get::<_, i64>("seq") as u64,
        media_type: row.get("media_type"),
        format: row.get("format"),
        title: row.get("title"),
        url: row.get("url"),
        collection: row.get("collection"),
        metadata: metadata(&row, "metadata"),
        text: row.get("content"),
        updated_ms: row.get("updated_ms"),
        chunks: chunks.iter().map(chunk).collect(),
    }))
}

async fn kept(client: &Client, comparison: &str, from: &str, limit: i64) -> Result<Vec<Kept>, Error> {
    let sql = client
        .prepare_cached(&format!(
            "SELECT o.document, {LAST_OPERATION}, o.media_type, o.title, o.url, o.collection, o.metadata, o.hash
             FROM operations o WHERE o.document {comparison} $1
               AND NOT EXISTS (SELECT 1 FROM operations later WHERE later.document = o.document AND later.seq > o.seq)
             ORDER BY o.document LIMIT $2"
        ))
        .await?;
    let mut all = Vec::new();
    for row in client.query(&sql, &[&from, &limit]).await? {
        let id: String = row.get("document");
        let said = Said {
            media_type: row.get("media_type"),
            title: row.get("title"),
            url: row.get("url"),
            collection: row.get("collection"),
            metadata: metadata(&row, "metadata"),
            hash: row.get("hash"),
            position: row.get("position"),
        };
        all.push(Kept { last: last_operation(&row), said, served: served(client, &id).await?, id });
    }
    Ok(all)
}

async fn import(t: &Transaction<'_>, kept: &Kept) -> Result<(), Error> {
    let Kept { id, last, said, served } = kept;
    let id = clean(id);
    lock(t, &id).await?;
    t.execute("DELETE FROM documents WHERE document = $1", &[&id]).await?;
    t.execute("DELETE FROM operations WHERE document = $1", &[&id]).await?;
    let kind = if last.delete { DELETE } else { UPSERT };
    let (seq, revision) = (last.seq as i64, last.revision as i64);
    let text = |text: &Option<String>| text.as_deref().map(clean);
    let insert = t
        .prepare_cached(
            "INSERT INTO operations (seq, document, kind, revision, state, reason, received_ms, settled_ms, parsed_ms, embedded_ms,
                                     media_type, title, url, collection, metadata, hash, position)
             OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        )
        .await?;
    t.execute(
        &insert,
        &[
            &seq,
            &id,
            &kind,
            &revision,
            &(last.state as i16),
            &text(&last.reason),
            &last.received_ms,
            &last.settled_ms,
            &last.progress.parsed_ms,
            &last.progress.embedded_ms,
            &text(&said.media_type),
            &text(&said.title),
            &text(&said.url),
            &said.collection,
            &clean_metadata(&said.metadata),
            &said.hash,
            &said.position,
        ],
    )
    .await?;
    // The next operation has a number that was never given.
    let sequence = "SELECT setval(pg_get_serial_sequence('operations', 'seq'), greatest($1, (SELECT last_value FROM operations_seq_seq)))";
    t.query_one(&t.prepare_cached(sequence).await?, &[&seq]).await?;
    if let Some(version) = served {
        let insert = t
            .prepare_cached(
                "INSERT INTO documents (document, revision, seq, media_type, format, title, url, collection, metadata, content, updated_ms, chunk_count)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            )
            .await?;
        let (title, source) = (clean(&version.title), String::from_utf8_lossy(&version.text));
        t.execute(
            &insert,
            &[
                &id,
                &(version.revision as i64),
                &(version.seq as i64),
                &text(&version.media_type),
                &version.format,
                &title,
                &text(&version.url),
                &version.collection,
                &clean_metadata(&version.metadata),
                &version.text,
                &version.updated_ms,
                &(version.chunks.len() as i32),
            ],
        )
        .await?;
        insert_chunks(t, &id, &title, &source, &version.chunks).await?;
    }
    t.execute("UPDATE counters SET value = value + 1 WHERE name = 'commit'", &[]).await.map(drop)
}

#[async_trait]
impl Archive for Postgres {
    fn id(&self) -> String {
        self.id.clone()
    }

    async fn adopt(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.run("take over an id", |client| {
            Box::pin(async move {
                client.execute("UPDATE settings SET value = $1 WHERE name = 'id'", &[&id]).await.map(drop)
            })
        })
        .await
    }

    async fn export(&self, after: &str, limit: usize) -> Result<Vec<Kept>, StoreError> {
        let after = clean(after);
        self.read("read documents to move", move |client| {
            let after = after.clone();
            Box::pin(async move { kept(client, ">", &after, limit as i64).await })
        })
        .await
    }

    async fn export_one(&self, id: &str) -> Result<Option<Kept>, StoreError> {
        let id = clean(id);
        let mut found = self
            .read("read a document to move", move |client| {
                let id = id.clone();
                Box::pin(async move { kept(client, "=", &id, 1).await })
            })
            .await?;
        Ok(found.pop())
    }

    async fn import(&self, document: Kept) -> Result<(), StoreError> {
        self.run("store a moved document", |client| {
            Box::pin(async move {
                let t = client.transaction().await?;
                import(&t, &document).await?;
                t.commit().await
            })
        })
        .await
    }

    async fn events(&self, after: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
        let after = after.to_vec();
        self.read("read events to move", move |client| {
            let after = after.clone();
            Box::pin(async move {
                let sql = "SELECT key, seq FROM events WHERE key > $1 ORDER BY key LIMIT $2";
                let rows = client.query(&client.prepare_cached(sql).await?, &[&after, &(limit as i64)]).await?;
                Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1) as u64)).collect())
            })
        })
        .await
    }

    async fn import_events(&self, events: Vec<(Vec<u8>, u64)>) -> Result<(), StoreError> {
        let (keys, seqs): (Vec<Vec<u8>>, Vec<i64>) = events.into_iter().map(|(key, seq)| (key, seq as i64)).unzip();
        self.run("store moved events", |client| {
            Box::pin(async move {
                let sql = "INSERT INTO events SELECT * FROM unnest($1::bytea[], $2::bigint[]) ON CONFLICT (key) DO UPDATE SET seq = excluded.seq";
                client.execute(&client.prepare_cached(sql).await?, &[&keys, &seqs]).await.map(drop)
            })
        })
        .await
    }

    async fn extent(&self) -> Result<(u64, u64), StoreError> {
        self.read("count", |client| {
            Box::pin(async move {
                let sql = "SELECT (SELECT count(DISTINCT document) FROM operations), (SELECT count(*) FROM events)";
                let row = client.query_one(sql, &[]).await?;
                Ok((row.get::<_, i64>(0) as u64, row.get::<_, i64>(1) as u64))
            })
        })
        .await
    }

    async fn sizes(&self) -> Result<StoreCounts, StoreError> {
        self.counts().await
    }
}

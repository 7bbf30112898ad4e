//! Writing: accepting operations, taking them over, storing what came of them.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_postgres::{Client, Transaction};
use pgvector::Vector;
use tokio_postgres::Error;

use super::{DELETE, FAILED, Postgres, RECEIVED, STORED, SUPERSEDED, UPSERT, clean, clean_json, clean_metadata};
use crate::documents::ParsedDocument;
use crate::documents::event::{Operation, Upsert};
use crate::stores::StoreError;
use crate::stores::admission::{self, Decision, Known, Note, UNBURIED};
use crate::stores::document_store::{NewChunk, Origin, Outcome, Progress, Receipt};

/// How long a process is believed to work on an operation after it last said so.
const CLAIM: Duration = Duration::from_secs(10);
/// Operations taken over at once.
const CLAIMED_AT_ONCE: i64 = 500;
/// Chunks sent in one statement.
const CHUNKS_AT_ONCE: usize = 512;

/// The server's clock, in milliseconds since the Unix epoch: the one that all replicas share.
const NOW_MS: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// A version to store: the document, its chunks, and when it came to its stages.
pub(super) type NewVersion = (ParsedDocument, Vec<NewChunk>, Progress);

impl Postgres {
    pub(super) async fn receive_operation(
        &self,
        operation: Operation,
        origin: Option<Origin>,
    ) -> Result<Receipt, StoreError> {
        let hash = admission::hash(&operation);
        let claim = (self.process.clone(), CLAIM.as_secs_f64());
        self.run("store the received document", |client| {
            Box::pin(async move {
                let t = client.transaction().await?;
                let document = clean(operation.id().as_ref());
                lock(&t, &document).await?;
                if let Some(origin) = &origin
                    && let Some(row) = {
                        let taken = t.prepare_cached("SELECT seq FROM events WHERE key = $1").await?;
                        t.query_opt(&taken, &[&origin.event.as_slice()]).await?
                    }
                {
                    let seq = row.get::<_, i64>(0) as u64;
                    return Ok(Receipt {
                        seq,
                        revision: operation.revision().unwrap_or(0),
                        outcome: Outcome::Repeated,
                    });
                }
                let position = origin.and_then(|origin| origin.position);
                let known = known(&t, &document).await?;
                let receipt = match admission::decide(known.as_ref(), &operation, &hash, position) {
                    Decision::Accept { revision } => {
                        let seq = accept(&t, &document, operation, revision, &hash, position, &claim).await?;
                        Receipt { seq, revision, outcome: Outcome::Accepted }
                    }
                    Decision::Keep { receipt, note } => {
                        if let Some(note) = note {
                            keep_in_mind(&t, &document, &note).await?;
                        }
                        receipt
                    }
                };
                if let Some(origin) = &origin {
                    let sql = "INSERT INTO events VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET seq = excluded.seq";
                    let remember = t.prepare_cached(sql).await?;
                    t.execute(&remember, &[&origin.event.as_slice(), &(receipt.seq as i64)]).await?;
                }
                t.commit().await?;
                Ok(receipt)
            })
        })
        .await
    }

    pub(super) async fn claim_operations(&self, again: bool) -> Result<Vec<(u64, String)>, StoreError> {
        let (process, seconds) = (self.process.clone(), CLAIM.as_secs_f64());
        let mut taken = self
            .run("look for operations that nobody works on", |client| {
                Box::pin(async move {
                    let renew = "UPDATE operations SET claimed_until = now() + make_interval(secs => $2)
                                 WHERE state = 0 AND claimed_by = $1 RETURNING seq, document";
                    let own = client.query(renew, &[&process, &seconds]).await?;
                    let take =
                        "UPDATE operations SET claimed_by = $1, claimed_until = now() + make_interval(secs => $2)
                                WHERE seq IN (SELECT seq FROM operations WHERE state = 0 AND claimed_until < now()
                                              ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED)
                                RETURNING seq, document";
                    let mut rows = client.query(take, &[&process, &seconds, &CLAIMED_AT_ONCE]).await?;
                    if again {
                        rows.extend(own);
                    }
                    Ok(rows.iter().map(|row| (row.get::<_, i64>(0) as u64, row.get(1))).collect::<Vec<_>>())
                })
            })
            .await?;
        taken.sort_unstable();
        Ok(taken)
    }

    /// Stores what came of an operation: a version, or none for a delete. From the commit on it is what searches find.
    pub(super) async fn replace(&self, seq: u64, version: Option<NewVersion>) -> Result<(), StoreError> {
        let doing = if version.is_some() { "store the document's chunks" } else { "delete the document" };
        self.run(doing, |client| Box::pin(replace(client, seq as i64, version))).await?;
        self.settled.tell(seq);
        Ok(())
    }

    pub(super) async fn fail_operation(&self, seq: u64, reason: &str) -> Result<(), StoreError> {
        let reason = clean(reason);
        self.run("record a failed document", |client| {
            Box::pin(async move {
                let sql = format!(
                    "UPDATE operations SET state = $2, reason = $3, settled_ms = {NOW_MS}, content = NULL
                     WHERE seq = $1 AND state = 0"
                );
                client.execute(&sql, &[&(seq as i64), &FAILED, &reason]).await.map(drop)
            })
        })
        .await?;
        self.settled.tell(seq);
        Ok(())
    }
}

/// Until the end of the transaction nobody else writes about the document.
pub(super) async fn lock(t: &Transaction<'_>, document: &str) -> Result<(), Error> {
    let lock = t.prepare_cached("SELECT pg_advisory_xact_lock(hashtextextended($1, 1))").await?;
    t.query_one(&lock, &[&document]).await.map(drop)
}

async fn known(t: &Transaction<'_>, document: &str) -> Result<Option<Known>, Error> {
    let sql = "SELECT seq, revision, kind, state, hash, position FROM operations WHERE document = $1 ORDER BY seq DESC LIMIT 1";
    let row = t.query_opt(&t.prepare_cached(sql).await?, &[&document]).await?;
    Ok(row.map(|row| Known {
        seq: row.get::<_, i64>(0) as u64,
        revision: row.get::<_, i64>(1) as u64,
        delete: row.get::<_, i16>(2) == DELETE,
        failed: row.get::<_, i16>(3) == FAILED,
        hash: row.get(4),
        position: row.get(5),
    }))
}

async fn keep_in_mind(t: &Transaction<'_>, document: &str, note: &Note) -> Result<(), Error> {
    let (seq, revision) = (note.seq as i64, note.revision as i64);
    let operation = t.prepare_cached("UPDATE operations SET revision = $2, position = $3 WHERE seq = $1").await?;
    t.execute(&operation, &[&seq, &revision, &note.position]).await?;
    let served = t.prepare_cached("UPDATE documents SET revision = $3 WHERE document = $1 AND seq = $2").await?;
    t.execute(&served, &[&document, &seq, &revision]).await.map(drop)
}

/// Makes the operation the document's last one; it replaces those that are settled.
async fn accept(
    t: &Transaction<'_>,
    document: &str,
    operation: Operation,
    revision: u64,
    hash: &[u8],
    position: Option<i64>,
    (process, seconds): &(String, f64),
) -> Result<u64, Error> {
    let insert = t
        .prepare_cached(&format!(
            "INSERT INTO operations (document, kind, revision, state, received_ms, media_type, title, url, collection, metadata, content, hash, position, claimed_by, claimed_until)
             VALUES ($1, $2, $3, 0, {NOW_MS}, $4, $5, $6, $7, $8, $9, $10, $11, $12, now() + make_interval(secs => $13)) RETURNING seq"
        ))
        .await?;
    let revision = revision as i64;
    let (kind, upsert) = match operation {
        Operation::Upsert(upsert) => (UPSERT, Some(upsert)),
        Operation::Delete { .. } => (DELETE, None),
    };
    let (media_type, title, url, collection, metadata, content) = match upsert {
        Some(Upsert { media_type, title, url, collection, metadata, content, .. }) => {
            let text = |text: Option<String>| text.map(|text| clean(&text));
            (text(media_type), text(title), text(url), clean(&collection), metadata, Some(content))
        }
        None => (None, None, None, String::new(), Default::default(), None),
    };
    let metadata = clean_metadata(&metadata);
    let hash = content.as_ref().map(|_| hash);
    let row = t
        .query_one(
            &insert,
            &[
                &document,
                &kind,
                &revision,
                &media_type,
                &title,
                &url,
                &collection,
                &metadata,
                &content,
                &hash,
                &position,
                process,
                seconds,
            ],
        )
        .await?;
    let seq: i64 = row.get(0);
    let forget = format!("DELETE FROM operations WHERE document = $1 AND seq < $2 AND state <> 0 AND NOT {UNBURIED}");
    let forget = t.prepare_cached(&forget).await?;
    t.execute(&forget, &[&document, &seq]).await?;
    Ok(seq as u64)
}

async fn replace(client: &mut Client, seq: i64, version: Option<NewVersion>) -> Result<(), Error> {
    let t = client.transaction().await?;
    let Some(row) = t.query_opt("SELECT document FROM operations WHERE seq = $1", &[&seq]).await? else {
        return Ok(());
    };
    let document: String = row.get(0);
    lock(&t, &document).await?;
    // Another replica may have carried it out meanwhile, or a later one.
    let wanted = "SELECT state, EXISTS (SELECT 1 FROM operations later WHERE later.document = $2 AND later.seq > $1 AND later.state = $3)
                  FROM operations WHERE seq = $1";
    let Some(row) = t.query_opt(&t.prepare_cached(wanted).await?, &[&seq, &document, &STORED]).await? else {
        return Ok(());
    };
    let (state, overtaken): (i16, bool) = (row.get(0), row.get(1));
    if state != RECEIVED {
        return Ok(());
    }
    if overtaken {
        let sql = "UPDATE operations SET state = $2, content = NULL WHERE seq = $1";
        t.execute(sql, &[&seq, &SUPERSEDED]).await?;
        return t.commit().await;
    }
    let remove = t.prepare_cached("DELETE FROM documents WHERE document = $1").await?;
    t.execute(&remove, &[&document]).await?;
    let mut progress = Progress::default();
    if let Some((parsed, chunks, stages)) = version {
        progress = stages;
        let title = clean(parsed.title.as_deref().unwrap_or_default());
        let insert = t
            .prepare_cached(&format!(
                "INSERT INTO documents (document, revision, seq, media_type, format, title, url, collection, metadata, content, updated_ms, chunk_count)
                 SELECT document, revision, seq, media_type, $2, coalesce(title, nullif($3, ''), document), url, collection, metadata, $4, {NOW_MS}, $5
                 FROM operations WHERE seq = $1 RETURNING title"
            ))
            .await?;
        let (format, count) = (parsed.format.name(), chunks.len() as i32);
        let row = t.query_one(&insert, &[&seq, &format, &title, &parsed.text.as_bytes(), &count]).await?;
        let title: String = row.get(0);
        insert_chunks(&t, &document, &title, &parsed.text, &chunks).await?;
    }
    let settle = t
        .prepare_cached(&format!(
            "UPDATE operations SET state = $2, settled_ms = {NOW_MS}, content = NULL, parsed_ms = $3, embedded_ms = $4 WHERE seq = $1"
        ))
        .await?;
    t.execute(&settle, &[&seq, &STORED, &progress.parsed_ms, &progress.embedded_ms]).await?;
    let forget = format!("DELETE FROM operations WHERE document = $2 AND seq < $1 AND NOT {UNBURIED}");
    let forget = t.prepare_cached(&forget).await?;
    t.execute(&forget, &[&seq, &document]).await?;
    // Last, so that it is held for no longer than the commit takes.
    let count = t.prepare_cached("UPDATE counters SET value = value + 1 WHERE name = 'commit'").await?;
    t.execute(&count, &[]).await?;
    t.commit().await
}

/// Inserts a document's chunks, in order.
pub(super) async fn insert_chunks(
    t: &Transaction<'_>,
    document: &str,
    title: &str,
    text: &str,
    chunks: &[NewChunk],
) -> Result<(), Error> {
    let insert = t
        .prepare_cached(
            "INSERT INTO chunks (document, section, start, stop, page, tokens, hash, embedding, words)
             SELECT $1, section, start, stop, page, tokens, hash, embedding, to_tsvector('words', concat_ws(E'\\n', $2::text, headings, passage))
             FROM unnest($3::jsonb[], $4::integer[], $5::integer[], $6::integer[], $7::integer[], $8::bytea[], $9::vector[], $10::text[], $11::text[])
                  AS new (section, start, stop, page, tokens, hash, embedding, headings, passage)",
        )
        .await?;
    for some in chunks.chunks(CHUNKS_AT_ONCE) {
        let column = |of: &dyn Fn(&NewChunk) -> i32| some.iter().map(of).collect::<Vec<i32>>();
        let sections: Vec<serde_json::Value> =
            some.iter().map(|chunk| clean_json(&chunk.section.clone().into())).collect();
        let starts = column(&|chunk| chunk.span.start as i32);
        let stops = column(&|chunk| chunk.span.end as i32);
        let pages: Vec<Option<i32>> = some.iter().map(|chunk| chunk.page.map(|page| page as i32)).collect();
        let tokens = column(&|chunk| chunk.tokens as i32);
        let hashes: Vec<&[u8]> = some.iter().map(|chunk| chunk.hash.as_slice()).collect();
        let vectors: Vec<Vector> = some.iter().map(|chunk| Vector::from(chunk.vector.clone())).collect();
        let headings: Vec<String> = some.iter().map(|chunk| clean(&chunk.section.join(" > "))).collect();
        let passages: Vec<String> = some.iter().map(|chunk| clean(&text[chunk.span.clone()])).collect();
        t.execute(
            &insert,
            &[&document, &title, &sections, &starts, &stops, &pages, &tokens, &hashes, &vectors, &headings, &passages],
        )
        .await?;
    }
    Ok(())
}

impl Postgres {
    pub(super) async fn read_vectors(&self, document: &str) -> Result<HashMap<[u8; 32], Vec<f32>>, StoreError> {
        let document = clean(document);
        self.read("read a document's vectors", move |client| {
            let document = document.clone();
            Box::pin(async move {
                let rows = client.query("SELECT hash, embedding FROM chunks WHERE document = $1", &[&document]).await?;
                let known = rows.iter().filter_map(|row| {
                    let hash: [u8; 32] = row.get::<_, &[u8]>(0).try_into().ok()?;
                    Some((hash, row.get::<_, Vector>(1).to_vec()))
                });
                Ok(known.collect())
            })
        })
        .await
    }
}

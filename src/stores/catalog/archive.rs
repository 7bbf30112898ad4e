//! The catalog's documents as they move to another store, and back.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::read::{LAST_OPERATION, last_operation};
use super::write::{DELETE, UPSERT, insert_chunks, next_commit, take_chunks};
use super::{Catalog, from_json, to_json, vector_from_bytes};
use crate::actors::compute::blocking;
use crate::stores::StoreError;
use crate::stores::archive::{Archive, Kept, KeptVersion, Said};
use crate::stores::document_store::{NewChunk, StoreCounts};

/// A catalog that documents are moved out of, or into.
pub struct CatalogArchive(pub Arc<Catalog>);

const KEPT: &str = "media_type, title, url, collection, metadata, hash, position";

fn said(row: &Row<'_>, at: usize) -> rusqlite::Result<Said> {
    Ok(Said {
        media_type: row.get(at)?,
        title: row.get(at + 1)?,
        url: row.get(at + 2)?,
        collection: row.get(at + 3)?,
        metadata: from_json(&row.get::<_, String>(at + 4)?),
        hash: row.get(at + 5)?,
        position: row.get(at + 6)?,
    })
}

/// What is served of a document.
fn served(c: &Connection, document: &str) -> rusqlite::Result<Option<KeptVersion>> {
    let found = c
        .prepare_cached(
            "SELECT version, revision, seq, media_type, format, title, url, collection, metadata, text, updated_ms, first_chunk, chunk_count
             FROM versions WHERE document = ?1 AND retired IS NULL",
        )?
        .query_row([document], |row| {
            let version = KeptVersion {
                revision: row.get::<_, i64>(1)? as u64,
                seq: row.get::<_, i64>(2)? as u64,
                media_type: row.get(3)?,
                format: row.get(4)?,
                title: row.get(5)?,
                url: row.get(6)?,
                collection: row.get(7)?,
                metadata: from_json(&row.get::<_, String>(8)?),
                text: row.get(9)?,
                updated_ms: row.get(10)?,
                chunks: Vec::new(),
            };
            let place: [i64; 3] = [row.get(0)?, row.get(11)?, row.get(12)?];
            Ok((place, version))
        })
        .optional()?;
    let Some((place, mut version)) = found else { return Ok(None) };
    version.chunks = c
        .prepare_cached("SELECT section, start, stop, page, tokens, hash, vector FROM chunks WHERE version = ?1 AND chunk >= ?2 AND chunk < ?2 + ?3 ORDER BY chunk")?
        .query_map(place, |row| {
            let (start, stop): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok(NewChunk {
                section: from_json(&row.get::<_, String>(0)?),
                span: start as usize..stop as usize,
                page: row.get(3)?,
                tokens: row.get::<_, i64>(4)? as usize,
                hash: row.get(5)?,
                vector: vector_from_bytes(row.get_ref(6)?.as_blob()?),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(version))
}

impl Catalog {
    fn kept(&self, condition: &str, from: &str, limit: usize) -> Result<Vec<Kept>, StoreError> {
        self.read("read documents to move", |c| {
            let columns = LAST_OPERATION.split(',').count();
            c.prepare_cached(&format!(
                "SELECT o.document, {LAST_OPERATION}, {KEPT} FROM (SELECT max(seq) AS last FROM operations GROUP BY document) AS newest
                 JOIN operations AS o ON o.seq = newest.last WHERE o.document {condition} ?1 ORDER BY o.document LIMIT ?2"
            ))?
            .query_map(params![from, limit as i64], |row| {
                let id: String = row.get(0)?;
                let served = served(c, &id)?;
                Ok(Kept { last: last_operation(row, 1)?, said: said(row, 1 + columns)?, served, id })
            })?
            .collect()
        })
    }

    fn put_kept(&self, kept: &Kept) -> Result<(), StoreError> {
        let Kept { id, last, said, served } = kept;
        self.write("store a moved document", |t| {
            let commit = next_commit(t)?;
            t.execute("UPDATE versions SET retired = ?2 WHERE document = ?1 AND retired IS NULL", params![id, commit as i64])?;
            t.execute("DELETE FROM operations WHERE document = ?1", [id])?;
            t.prepare_cached(
                "INSERT INTO operations (seq, document, kind, revision, state, reason, received_ms, settled_ms, parsed_ms, embedded_ms, visible_ms,
                                         media_type, title, url, collection, metadata, hash, position)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
            )?
            .execute(params![
                last.seq as i64,
                id,
                if last.delete { DELETE } else { UPSERT },
                last.revision as i64,
                last.state as i64,
                last.reason,
                last.received_ms,
                last.settled_ms,
                last.progress.parsed_ms,
                last.progress.embedded_ms,
                last.visible_ms,
                said.media_type,
                said.title,
                said.url,
                said.collection,
                to_json(&said.metadata),
                said.hash,
                said.position,
            ])?;
            let Some(version) = served else { return Ok(()) };
            let first = take_chunks(t, version.chunks.len())?;
            t.prepare_cached(
                "INSERT INTO versions (document, revision, seq, committed, media_type, format, title, url, collection, metadata, text, hash, updated_ms, first_chunk, chunk_count)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, x'', ?12, ?13, ?14)",
            )?
            .execute(params![
                id,
                version.revision as i64,
                version.seq as i64,
                commit as i64,
                version.media_type,
                version.format,
                version.title,
                version.url,
                version.collection,
                to_json(&version.metadata),
                version.text,
                version.updated_ms,
                first,
                version.chunks.len() as i64,
            ])?;
            insert_chunks(t, t.last_insert_rowid(), first, &version.chunks)
        })
    }
}

#[async_trait]
impl Archive for CatalogArchive {
    fn id(&self) -> String {
        self.0.id().to_owned()
    }

    async fn adopt(&self, id: &str) -> Result<(), StoreError> {
        let (catalog, id) = (Arc::clone(&self.0), id.to_owned());
        blocking(move || {
            catalog.write("take over an id", |t| {
                t.execute("UPDATE settings SET value = ?1 WHERE name = 'id'", [id]).map(drop)
            })
        })
        .await
    }

    async fn export(&self, after: &str, limit: usize) -> Result<Vec<Kept>, StoreError> {
        let (catalog, after) = (Arc::clone(&self.0), after.to_owned());
        blocking(move || catalog.kept(">", &after, limit)).await
    }

    async fn export_one(&self, id: &str) -> Result<Option<Kept>, StoreError> {
        let (catalog, id) = (Arc::clone(&self.0), id.to_owned());
        Ok(blocking(move || catalog.kept("=", &id, 1)).await?.pop())
    }

    async fn import(&self, document: Kept) -> Result<(), StoreError> {
        let catalog = Arc::clone(&self.0);
        blocking(move || catalog.put_kept(&document)).await
    }

    async fn events(&self, after: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
        let (catalog, after) = (Arc::clone(&self.0), after.to_owned());
        blocking(move || {
            catalog.read("read events to move", |c| {
                c.prepare_cached("SELECT key, seq FROM events WHERE key > ?1 ORDER BY key LIMIT ?2")?
                    .query_map(params![after, limit as i64], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?
                    .collect()
            })
        })
        .await
    }

    async fn import_events(&self, events: Vec<(Vec<u8>, u64)>) -> Result<(), StoreError> {
        let catalog = Arc::clone(&self.0);
        blocking(move || {
            catalog.write("store moved events", |t| {
                let mut insert = t.prepare_cached("INSERT OR REPLACE INTO events VALUES (?1, ?2)")?;
                events.iter().try_for_each(|(key, seq)| insert.execute(params![key, *seq as i64]).map(drop))
            })
        })
        .await
    }

    async fn extent(&self) -> Result<(u64, u64), StoreError> {
        let catalog = Arc::clone(&self.0);
        blocking(move || {
            catalog.read("count", |c| {
                c.query_row(
                    "SELECT (SELECT count(DISTINCT document) FROM operations), (SELECT count(*) FROM events)",
                    [],
                    |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)),
                )
            })
        })
        .await
    }

    async fn sizes(&self) -> Result<StoreCounts, StoreError> {
        let catalog = Arc::clone(&self.0);
        blocking(move || catalog.counts()).await
    }
}

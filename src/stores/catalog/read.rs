//! Reading: what is waiting, what changed, what a chunk says, which documents there are.

use std::collections::HashMap;
use std::ops::Range;

use rusqlite::{OptionalExtension, Row, params};

use super::write::{DELETE, RECEIVED};
use super::{Catalog, ChunkId, ChunkText, StoreError, Version, from_json, vector_from_bytes};
use crate::documents::Format;
use crate::stores::document_store::{
    DocumentPage, DocumentQuery, DocumentRecord, LastOperation, OperationState, Pending, PendingContent, Progress,
    Served, StoreCounts,
};

/// What has changed since a commit, cut at a commit's border.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The commit up to which this list is complete.
    pub commit: u64,
    /// Versions to serve from now on.
    pub added: Vec<Version>,
    /// Versions no longer to serve.
    pub retired: Vec<Version>,
    /// Whether there is more beyond `commit`.
    pub more: bool,
}

const VERSION: &str = "version, document, revision, seq, first_chunk, chunk_count, title, url, collection, media_type, metadata, updated_ms";

fn version(row: &Row<'_>) -> rusqlite::Result<Version> {
    version_at(row, 0)
}

/// The columns of [`VERSION`], from column `at` on.
fn version_at(row: &Row<'_>, at: usize) -> rusqlite::Result<Version> {
    let first: ChunkId = row.get(at + 4)?;
    let count: ChunkId = row.get(at + 5)?;
    Ok(Version {
        version: row.get(at)?,
        document: row.get(at + 1)?,
        revision: row.get::<_, i64>(at + 2)? as u64,
        seq: row.get::<_, i64>(at + 3)? as u64,
        chunks: first..first + count,
        title: row.get(at + 6)?,
        url: row.get(at + 7)?,
        collection: row.get(at + 8)?,
        media_type: row.get(at + 9)?,
        metadata: from_json(&row.get::<_, String>(at + 10)?),
        updated_ms: row.get(at + 11)?,
    })
}

impl Catalog {
    /// Operations that wait, in order: `(seq, document, received_ms)`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn pending(&self) -> Result<Vec<(u64, String, i64)>, StoreError> {
        self.read("read the waiting operations", |c| {
            c.prepare("SELECT seq, document, received_ms FROM operations WHERE state = 0 ORDER BY seq")?
                .query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?, row.get(2)?)))?
                .collect()
        })
    }

    /// How an operation ended, and why where it failed. `None` where a later one on its document has replaced it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn outcome(&self, seq: u64) -> Result<Option<(OperationState, Option<String>)>, StoreError> {
        self.read("read an operation", |c| {
            c.prepare_cached("SELECT state, reason FROM operations WHERE seq = ?1")?
                .query_row([seq as i64], |row| Ok((OperationState::of(row.get::<_, i64>(0)?), row.get(1)?)))
                .optional()
        })
    }

    /// A waiting operation with its content; `None` where it is settled.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn operation(&self, seq: u64) -> Result<Option<Pending>, StoreError> {
        self.read("read a waiting operation", |c| {
            c.prepare_cached(
                "SELECT document, kind, content, media_type, title, revision, received_ms FROM operations WHERE seq = ?1 AND state = ?2",
            )?
            .query_row(params![seq as i64, RECEIVED], |row| {
                let content = match row.get::<_, i64>(1)? {
                    DELETE => None,
                    _ => Some(PendingContent { bytes: row.get(2)?, media_type: row.get(3)?, title: row.get(4)? }),
                };
                Ok(Pending {
                    seq,
                    document: row.get(0)?,
                    content,
                    revision: row.get::<_, i64>(5)? as u64,
                    received_ms: row.get(6)?,
                })
            })
            .optional()
        })
    }

    /// Vectors of the served version of a document, by the hash of what was embedded: what a new revision
    /// need not embed again.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn vectors_by_hash(&self, document: &str) -> Result<HashMap<[u8; 32], Vec<f32>>, StoreError> {
        self.read("read a document's vectors", |c| {
            c.prepare_cached(
                "SELECT chunks.hash, vector FROM chunks JOIN versions USING (version) WHERE document = ?1 AND retired IS NULL",
            )?
            .query_map([document], |row| Ok((row.get(0)?, vector_from_bytes(row.get_ref(1)?.as_blob()?))))?
            .collect()
        })
    }

    /// Every version being served, and the commit this is true of.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn live_versions(&self) -> Result<(u64, Vec<Version>), StoreError> {
        self.read("read the documents", |c| {
            let t = c.unchecked_transaction()?;
            let commit = commit(&t)?;
            let live = t
                .prepare(&format!("SELECT {VERSION} FROM versions WHERE retired IS NULL ORDER BY version"))?
                .query_map([], version)?
                .collect::<rusqlite::Result<_>>()?;
            Ok((commit, live))
        })
    }

    /// What changed after commit `since`, in the order of commits, up to about `max_chunks` new chunks.
    /// A document that changed twice appears with its last version only.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn changes(&self, since: u64, max_chunks: usize) -> Result<Changes, StoreError> {
        self.read("read what changed", |c| {
            let t = c.unchecked_transaction()?;
            let last = commit(&t)?;
            let mut upto = last;
            let mut chunks = 0;
            let mut sizes = t.prepare_cached("SELECT committed, chunk_count FROM versions WHERE committed > ?1 ORDER BY committed")?;
            let mut rows = sizes.query([since as i64])?;
            while let Some(row) = rows.next()? {
                let (committed, count): (i64, i64) = (row.get(0)?, row.get(1)?);
                if chunks > 0 && chunks + count as usize > max_chunks {
                    upto = committed as u64 - 1;
                    break;
                }
                chunks += count as usize;
            }
            let range = params![since as i64, upto as i64];
            // Within the range only: a version retired later is still to be served at `upto`.
            let added = t
                .prepare_cached(&format!(
                    "SELECT {VERSION} FROM versions WHERE committed > ?1 AND committed <= ?2 AND (retired IS NULL OR retired > ?2) ORDER BY committed"
                ))?
                .query_map(range, version)?
                .collect::<rusqlite::Result<_>>()?;
            let retired = t
                .prepare_cached(&format!("SELECT {VERSION} FROM versions WHERE retired > ?1 AND retired <= ?2 AND committed <= ?1"))?
                .query_map(range, version)?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Changes { commit: upto, added, retired, more: upto < last })
        })
    }

    /// Places and texts of a version's chunks.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn chunk_texts(&self, chunks: Range<ChunkId>) -> Result<Vec<ChunkText>, StoreError> {
        self.read("read chunks", |c| {
            c.prepare_cached(&format!("{CHUNK_TEXT} WHERE chunk >= ?1 AND chunk < ?2 ORDER BY chunk"))?
                .query_map([chunks.start, chunks.end], chunk_text)?
                .collect()
        })
    }

    /// Place and text of one chunk; `None` where it is purged.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn chunk_text(&self, chunk: ChunkId) -> Result<Option<ChunkText>, StoreError> {
        self.read("read a chunk", |c| {
            c.prepare_cached(&format!("{CHUNK_TEXT} WHERE chunk = ?1"))?.query_row([chunk], chunk_text).optional()
        })
    }

    /// Vectors of a version's chunks.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn vectors(&self, chunks: Range<ChunkId>) -> Result<Vec<(ChunkId, Vec<f32>)>, StoreError> {
        self.read("read vectors", |c| {
            c.prepare_cached("SELECT chunk, vector FROM chunks WHERE chunk >= ?1 AND chunk < ?2 ORDER BY chunk")?
                .query_map([chunks.start, chunks.end], |row| {
                    Ok((row.get(0)?, vector_from_bytes(row.get_ref(1)?.as_blob()?)))
                })?
                .collect()
        })
    }

    /// A document with its last operation; `None` where nothing is known of it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn document(&self, id: &str) -> Result<Option<DocumentRecord>, StoreError> {
        let found = self.read("read a document", |c| {
            c.prepare_cached(&records("WHERE o.document = ?1"))?.query_row([id], record).optional()
        })?;
        Ok(found.map(|record| self.with_visible(record)))
    }

    /// The source text of the served version of a document.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn document_text(&self, id: &str) -> Result<Option<String>, StoreError> {
        self.read("read a document", |c| {
            c.prepare_cached("SELECT text FROM versions WHERE document = ?1 AND retired IS NULL")?
                .query_row([id], |row| row.get::<_, Vec<u8>>(0))
                .optional()
                .map(|text| text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        })
    }

    /// A page of the documents that are served, wait, or failed, by id.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn documents(&self, query: &DocumentQuery) -> Result<DocumentPage, StoreError> {
        self.read("list the documents", |c| {
            let mut statement = c.prepare_cached(&records(
                "WHERE o.document > ?1 AND (?2 IS NULL OR coalesce(nullif(o.collection, ''), v.collection) = ?2)
                   AND (?3 IS NULL OR substr(o.document, 1, length(?3)) = ?3)
                   AND (v.version IS NOT NULL OR o.kind = 0)
                 ORDER BY o.document LIMIT ?4",
            ))?;
            let mut documents: Vec<DocumentRecord> = statement
                .query_map(
                    params![
                        query.after.as_deref().unwrap_or_default(),
                        query.collection,
                        query.prefix,
                        query.limit as i64 + 1
                    ],
                    record,
                )?
                .collect::<rusqlite::Result<_>>()?;
            let more = documents.len() > query.limit;
            documents.truncate(query.limit);
            let documents = documents.into_iter().map(|record| self.with_visible(record)).collect();
            Ok(DocumentPage { documents, more })
        })
    }

    /// Adds what is noted and not yet written.
    fn with_visible(&self, mut record: DocumentRecord) -> DocumentRecord {
        let noted = || self.visible.lock().get(&record.last.seq).copied();
        record.last.visible_ms = record.last.visible_ms.or_else(noted);
        record
    }

    /// Sizes.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn counts(&self) -> Result<StoreCounts, StoreError> {
        self.read("count", |c| {
            let t = c.unchecked_transaction()?;
            let count = |sql: &str| t.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n as u64);
            Ok(StoreCounts {
                documents: count("SELECT count(*) FROM versions WHERE retired IS NULL")?,
                chunks: count("SELECT coalesce(sum(chunk_count), 0) FROM versions WHERE retired IS NULL")?,
                pending: count("SELECT count(*) FROM operations WHERE state = 0")?,
                failed: count(
                    "SELECT count(*) FROM operations WHERE state = 2 AND NOT EXISTS (SELECT 1 FROM operations later WHERE later.document = operations.document AND later.seq > operations.seq)",
                )?,
                seq: count("SELECT coalesce(max(seq), 0) FROM operations")?,
                commit: commit(&t)?,
            })
        })
    }
}

const CHUNK_TEXT: &str = "SELECT chunk, section, start, stop, substr(text, start + 1, stop - start), page FROM chunks JOIN versions USING (version)";

fn chunk_text(row: &Row<'_>) -> rusqlite::Result<ChunkText> {
    let (start, stop): (i64, i64) = (row.get(2)?, row.get(3)?);
    Ok(ChunkText {
        chunk: row.get(0)?,
        section: from_json(&row.get::<_, String>(1)?),
        span: start as usize..stop as usize,
        text: String::from_utf8_lossy(row.get_ref(4)?.as_blob()?).into_owned(),
        page: row.get(5)?,
    })
}

/// The columns of an operation `o` that [`last_operation`] reads.
pub(super) const LAST_OPERATION: &str = "o.seq, o.kind, o.revision, o.state, o.reason, o.position, o.received_ms, o.parsed_ms, o.embedded_ms, o.settled_ms, o.visible_ms";

/// The columns of [`LAST_OPERATION`], from column `at` on.
pub(super) fn last_operation(row: &Row<'_>, at: usize) -> rusqlite::Result<LastOperation> {
    let state = OperationState::of(row.get::<_, i64>(at + 3)?);
    Ok(LastOperation {
        seq: row.get::<_, i64>(at)? as u64,
        delete: row.get::<_, i64>(at + 1)? == DELETE,
        revision: row.get::<_, i64>(at + 2)? as u64,
        state,
        settled: state != OperationState::Received,
        reason: row.get(at + 4)?,
        published_ms: row.get::<_, Option<i64>>(at + 5)?.map(|nanoseconds| nanoseconds / 1_000_000),
        received_ms: row.get(at + 6)?,
        progress: Progress { parsed_ms: row.get(at + 7)?, embedded_ms: row.get(at + 8)? },
        settled_ms: row.get(at + 9)?,
        visible_ms: row.get(at + 10)?,
    })
}

/// The last operation of each document beside its served version.
fn records(rest: &str) -> String {
    format!(
        "SELECT o.document, {LAST_OPERATION}, o.metadata, v.format,
                v.version, v.document, v.revision, v.seq, v.first_chunk, v.chunk_count, v.title, v.url, v.collection, v.media_type, v.metadata, v.updated_ms
         FROM (SELECT max(seq) AS last FROM operations GROUP BY document) AS newest
         JOIN operations AS o ON o.seq = newest.last
         LEFT JOIN versions AS v ON v.document = o.document AND v.retired IS NULL {rest}"
    )
}

fn record(row: &Row<'_>) -> rusqlite::Result<DocumentRecord> {
    let served = match row.get::<_, Option<i64>>(14)? {
        None => None,
        Some(_) => {
            let version = version_at(row, 14)?;
            Some(Served {
                revision: version.revision,
                title: version.title,
                url: version.url,
                collection: version.collection,
                media_type: version.media_type,
                format: row.get::<_, Option<String>>(13)?.and_then(|name| Format::from_name(&name)),
                chunks: version.chunks.len() as u64,
                metadata: version.metadata,
                updated_ms: version.updated_ms,
            })
        }
    };
    Ok(DocumentRecord {
        id: row.get(0)?,
        served,
        metadata: from_json(&row.get::<_, String>(12)?),
        last: last_operation(row, 1)?,
    })
}

fn commit(c: &rusqlite::Connection) -> rusqlite::Result<u64> {
    c.query_row("SELECT value FROM counters WHERE name = 'commit'", [], |row| row.get::<_, i64>(0)).map(|n| n as u64)
}

//! Writing: receiving operations, storing what came of them, forgetting what nobody serves.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Transaction, params};

use super::{Catalog, ChunkId, StoreError, to_json, vector_to_bytes};
use crate::documents::ParsedDocument;
use crate::documents::event::Operation;
use crate::stores::admission::{self, Decision, Known, Note, UNBURIED};
use crate::stores::document_store::{NewChunk, OperationState, Origin, Outcome, Progress, Receipt};

/// `operations.kind`.
pub(super) const UPSERT: i64 = 0;
pub(super) const DELETE: i64 = 1;

/// `operations.state`.
pub(super) const RECEIVED: i64 = OperationState::Received as i64;
const STORED: i64 = OperationState::Stored as i64;
const FAILED: i64 = OperationState::Failed as i64;
const SUPERSEDED: i64 = OperationState::Superseded as i64;

impl Catalog {
    /// Accepts an operation: it is on disk when this returns. Older or equal revisions, unchanged content and
    /// events that were taken before are recognised here and change nothing.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was accepted then.
    pub fn receive(&self, operation: &Operation, origin: Option<&Origin>, now_ms: i64) -> Result<Receipt, StoreError> {
        let hash = admission::hash(operation);
        self.write("store the received document", |t| {
            if let Some(origin) = origin
                && let Some(seq) = taken(t, &origin.event)?
            {
                return Ok(Receipt { seq, revision: operation.revision().unwrap_or(0), outcome: Outcome::Repeated });
            }
            let position = origin.and_then(|origin| origin.position);
            let known = known(t, operation.id().as_ref())?;
            let receipt = match admission::decide(known.as_ref(), operation, &hash, position) {
                Decision::Accept { revision } => accept(t, operation, revision, &hash, position, now_ms)?,
                Decision::Keep { receipt, note } => {
                    if let Some(note) = note {
                        keep_in_mind(t, operation.id().as_ref(), &note)?;
                    }
                    receipt
                }
            };
            if let Some(origin) = origin {
                remember(t, &origin.event, receipt.seq)?;
            }
            Ok(receipt)
        })
    }

    /// Remembers an event that was given up, so that it is not given up again when it is delivered once more.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn remember_event(&self, event: &[u8; 16]) -> Result<(), StoreError> {
        self.write("remember an event", |t| remember(t, event, 0))
    }

    /// Forgets an event, so that it is taken when it comes again.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn forget_event(&self, event: &[u8; 16]) -> Result<(), StoreError> {
        self.write("forget an event", |t| t.execute("DELETE FROM events WHERE key = ?1", [event]).map(|_| ()))
    }

    /// Whether an event was taken or given up.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn knows_event(&self, event: &[u8; 16]) -> Result<bool, StoreError> {
        self.read("look for an event", |c| {
            c.prepare_cached("SELECT EXISTS (SELECT 1 FROM events WHERE key = ?1)")?
                .query_row([event], |row| row.get(0))
        })
    }

    /// Stores the outcome of an upsert: from here on its version is the one to serve. Returns the commit,
    /// or `None` where a later operation has already been stored.
    ///
    /// # Errors
    /// [`StoreError`]; the version before goes on being served then.
    pub fn store_version(
        &self,
        seq: u64,
        parsed: &ParsedDocument,
        chunks: &[NewChunk],
        progress: Progress,
        now_ms: i64,
    ) -> Result<Option<u64>, StoreError> {
        debug_assert!(chunks.iter().all(|chunk| chunk.vector.len() == self.dimensions));
        self.write("store the document's chunks", |t| {
            if !still_wanted(t, seq)? {
                return Ok(None);
            }
            let commit = next_commit(t)?;
            retire(t, seq, commit)?;
            let first = take_chunks(t, chunks.len())?;
            let title = parsed.title.clone().unwrap_or_default();
            t.prepare_cached(
                "INSERT INTO versions (document, revision, seq, committed, media_type, format, title, url, collection, metadata, text, hash, updated_ms, first_chunk, chunk_count)
                 SELECT document, revision, seq, ?2, media_type, ?3, coalesce(title, nullif(?4, ''), document), url, collection, metadata, ?5, hash, ?6, ?7, ?8
                 FROM operations WHERE seq = ?1",
            )?
            .execute(params![
                seq as i64,
                commit as i64,
                parsed.format.name(),
                title,
                parsed.text.as_bytes(),
                now_ms,
                first,
                chunks.len() as i64
            ])?;
            let version = t.last_insert_rowid();
            insert_chunks(t, version, first, chunks)?;
            t.prepare_cached("UPDATE operations SET parsed_ms = ?2, embedded_ms = ?3 WHERE seq = ?1")?.execute(params![
                seq as i64,
                progress.parsed_ms,
                progress.embedded_ms
            ])?;
            settle(t, seq, STORED, None, now_ms)?;
            Ok(Some(commit))
        })
    }

    /// Notes when operations became visible. It is written with the next transaction, or by
    /// [`Catalog::flush`]: a crash in between forgets it.
    pub fn became_visible(&self, seqs: impl IntoIterator<Item = u64>, now_ms: i64) {
        self.visible.lock().extend(seqs.into_iter().map(|seq| (seq, now_ms)));
    }

    /// Writes what was only noted.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn flush(&self) -> Result<(), StoreError> {
        if self.visible.lock().is_empty() {
            return Ok(());
        }
        self.write("note what is visible", |_| Ok(()))
    }

    /// Stores the outcome of a delete. Returns the commit, or `None` where a later operation has
    /// already been stored.
    ///
    /// # Errors
    /// [`StoreError`]; the document goes on being served then.
    pub fn store_delete(&self, seq: u64, now_ms: i64) -> Result<Option<u64>, StoreError> {
        self.write("delete the document", |t| {
            if !still_wanted(t, seq)? {
                return Ok(None);
            }
            let commit = next_commit(t)?;
            retire(t, seq, commit)?;
            settle(t, seq, STORED, None, now_ms)?;
            t.prepare_cached("INSERT INTO deletions VALUES (?1, ?2, ?3)")?.execute(params![
                seq as i64,
                commit as i64,
                now_ms
            ])?;
            Ok(Some(commit))
        })
    }

    /// Of the deletions after the commit `since`, at this time or before, of which something may still be in the files: the
    /// commit up to which nothing of them is left in the tables. Later ones wait for theirs: of them, the indexes may have
    /// something under way.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn to_expunge(&self, deleted_ms: i64, since: u64) -> Result<Option<u64>, StoreError> {
        let found: Option<i64> = self.read("look for deletions", |c| {
            c.prepare_cached(
                "SELECT max(committed) FROM deletions WHERE deleted_ms <= ?1 AND committed > ?2
                 AND NOT EXISTS (SELECT 1 FROM versions WHERE retired <= deletions.committed)",
            )?
            .query_row([deleted_ms, since as i64], |row| row.get(0))
        })?;
        Ok(found.map(|commit| commit as u64))
    }

    /// Leaves nothing in the write-ahead log of what was removed. False where a reader is in the way: later, then.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn truncate_log(&self) -> Result<bool, StoreError> {
        let busy: i64 = self
            .writer
            .lock()
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|error| super::schema::failed("write the catalog's log into it", &error))?;
        Ok(busy == 0)
    }

    /// The operations of the deletions up to this commit: for when nothing of them is left in the files. They are remembered
    /// until that is said ([`Catalog::forget_deletions`]).
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn expunged(&self, commit: u64) -> Result<Vec<u64>, StoreError> {
        self.read("look for what is gone", |c| {
            c.prepare_cached("SELECT seq FROM deletions WHERE committed <= ?1 ORDER BY seq")?
                .query_map([commit as i64], |row| Ok(row.get::<_, i64>(0)? as u64))?
                .collect()
        })
    }

    /// Forgets deletions of which nothing is left in the files.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn forget_deletions(&self, seqs: &[u64]) -> Result<(), StoreError> {
        self.write("note what is gone", |t| {
            let mut forget = t.prepare_cached("DELETE FROM deletions WHERE seq = ?1")?;
            seqs.iter().try_for_each(|seq| forget.execute([*seq as i64]).map(drop))
        })
    }

    /// Gives an operation up; the version before goes on being served.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn give_up(&self, seq: u64, reason: &str, now_ms: i64) -> Result<(), StoreError> {
        self.write("record a failed document", |t| settle(t, seq, FAILED, Some(reason), now_ms))
    }

    /// Removes versions that were retired at or before `commit`: for when no search can show them any more.
    /// Returns the first chunk of each.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn purge(&self, commit: u64) -> Result<Vec<ChunkId>, StoreError> {
        let nothing = self.read("look for retired chunks", |c| {
            c.prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM versions WHERE retired <= ?1)")?
                .query_row([commit as i64], |row| row.get(0))
        })?;
        if nothing {
            return Ok(Vec::new());
        }
        self.write("remove retired chunks", |t| {
            let mut firsts = Vec::new();
            let mut retired = t.prepare_cached(
                "SELECT version, first_chunk, chunk_count FROM versions WHERE retired <= ?1 LIMIT 1000",
            )?;
            let mut rows = retired.query([commit as i64])?;
            while let Some(row) = rows.next()? {
                let (version, first, count): (i64, ChunkId, ChunkId) = (row.get(0)?, row.get(1)?, row.get(2)?);
                t.prepare_cached("DELETE FROM chunks WHERE chunk >= ?1 AND chunk < ?2")?
                    .execute([first, first + count])?;
                t.prepare_cached("DELETE FROM versions WHERE version = ?1")?.execute([version])?;
                if count > 0 {
                    firsts.push(first);
                }
            }
            Ok(firsts)
        })
    }
}

/// The operation of an event that was taken before.
fn taken(t: &Transaction<'_>, event: &[u8; 16]) -> rusqlite::Result<Option<u64>> {
    let seq: Option<i64> =
        t.prepare_cached("SELECT seq FROM events WHERE key = ?1")?.query_row([event], |row| row.get(0)).optional()?;
    Ok(seq.map(|seq| seq as u64))
}

fn remember(t: &Transaction<'_>, event: &[u8; 16], seq: u64) -> rusqlite::Result<()> {
    t.prepare_cached("INSERT OR REPLACE INTO events VALUES (?1, ?2)")?.execute(params![event, seq as i64])?;
    Ok(())
}

fn known(t: &Transaction<'_>, document: &str) -> rusqlite::Result<Option<Known>> {
    t.prepare_cached(
        "SELECT seq, revision, kind, state, hash, position FROM operations WHERE document = ?1 ORDER BY seq DESC LIMIT 1",
    )?
    .query_row([document], |row| {
        Ok(Known {
            seq: row.get::<_, i64>(0)? as u64,
            revision: row.get::<_, i64>(1)? as u64,
            delete: row.get::<_, i64>(2)? == DELETE,
            failed: row.get::<_, i64>(3)? == FAILED,
            hash: row.get(4)?,
            position: row.get(5)?,
        })
    })
    .optional()
}

fn keep_in_mind(t: &Transaction<'_>, document: &str, note: &Note) -> rusqlite::Result<()> {
    t.prepare_cached("UPDATE operations SET revision = ?2, position = ?3 WHERE seq = ?1")?.execute(params![
        note.seq as i64,
        note.revision as i64,
        note.position
    ])?;
    t.prepare_cached("UPDATE versions SET revision = ?3 WHERE document = ?1 AND retired IS NULL AND seq = ?2")?
        .execute(params![document, note.seq as i64, note.revision as i64])?;
    Ok(())
}

/// The operation replaces those on the same document that were not begun or are settled.
fn accept(
    t: &Transaction<'_>,
    operation: &Operation,
    revision: u64,
    hash: &[u8],
    position: Option<i64>,
    now_ms: i64,
) -> rusqlite::Result<Receipt> {
    match operation {
        Operation::Upsert(upsert) => t
            .prepare_cached(
                "INSERT INTO operations (document, kind, revision, state, received_ms, media_type, title, url, collection, metadata, content, hash, position)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                upsert.id.as_ref(),
                UPSERT,
                revision as i64,
                RECEIVED,
                now_ms,
                upsert.media_type,
                upsert.title,
                upsert.url,
                upsert.collection,
                to_json(&upsert.metadata),
                upsert.content,
                hash,
                position
            ])?,
        Operation::Delete { id, .. } => t
            .prepare_cached(
                "INSERT INTO operations (document, kind, revision, state, received_ms, collection, metadata, position)
                 VALUES (?1, ?2, ?3, ?4, ?5, '', '{}', ?6)",
            )?
            .execute(params![id.as_ref(), DELETE, revision as i64, RECEIVED, now_ms, position])?,
    };
    let seq = t.last_insert_rowid();
    t.prepare_cached(&format!(
        "DELETE FROM operations WHERE document = ?1 AND seq < ?2 AND state <> ?3 AND NOT {UNBURIED}"
    ))?
    .execute(params![operation.id().as_ref(), seq, RECEIVED])?;
    Ok(Receipt { seq: seq as u64, revision, outcome: Outcome::Accepted })
}

/// Whether the operation is still to be stored: it is neither settled nor overtaken. One that was
/// overtaken is settled here.
fn still_wanted(t: &Transaction<'_>, seq: u64) -> rusqlite::Result<bool> {
    let wanted: Option<bool> = t
        .prepare_cached(
            "SELECT state = ?2 AND NOT EXISTS (
                 SELECT 1 FROM operations later WHERE later.document = operations.document AND later.seq > ?1 AND later.state = ?3)
             FROM operations WHERE seq = ?1",
        )?
        .query_row(params![seq as i64, RECEIVED, STORED], |row| row.get(0))
        .optional()?;
    if wanted == Some(false) {
        t.execute(
            "UPDATE operations SET state = ?2, content = NULL WHERE seq = ?1 AND state = ?3",
            params![seq as i64, SUPERSEDED, RECEIVED],
        )?;
    }
    Ok(wanted == Some(true))
}

pub(super) fn next_commit(t: &Transaction<'_>) -> rusqlite::Result<u64> {
    let commit: i64 = t
        .prepare_cached("UPDATE counters SET value = value + 1 WHERE name = 'commit' RETURNING value")?
        .query_row([], |row| row.get(0))?;
    Ok(commit as u64)
}

/// Retires the served version of the operation's document.
fn retire(t: &Transaction<'_>, seq: u64, commit: u64) -> rusqlite::Result<()> {
    t.prepare_cached(
        "UPDATE versions SET retired = ?2 WHERE retired IS NULL AND document = (SELECT document FROM operations WHERE seq = ?1)",
    )?
    .execute(params![seq as i64, commit as i64])?;
    Ok(())
}

/// Takes `count` consecutive chunk numbers.
pub(super) fn take_chunks(t: &Transaction<'_>, count: usize) -> rusqlite::Result<ChunkId> {
    let next: i64 = t
        .prepare_cached("UPDATE counters SET value = value + ?1 WHERE name = 'next_chunk' RETURNING value")?
        .query_row([count as i64], |row| row.get(0))?;
    ChunkId::try_from(next - count as i64).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, next))
}

/// Inserts a version's chunks, with consecutive numbers from `first` on.
pub(super) fn insert_chunks(
    t: &Transaction<'_>,
    version: i64,
    first: ChunkId,
    chunks: &[NewChunk],
) -> rusqlite::Result<()> {
    let mut insert = t.prepare_cached("INSERT INTO chunks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    for (number, chunk) in (i64::from(first)..).zip(chunks) {
        insert.execute(params![
            number,
            version,
            to_json(&chunk.section),
            chunk.span.start as i64,
            chunk.span.end as i64,
            chunk.tokens as i64,
            chunk.hash.as_slice(),
            vector_to_bytes(&chunk.vector),
            chunk.page
        ])?;
    }
    Ok(())
}

pub(super) fn note_visible(t: &Transaction<'_>, visible: &BTreeMap<u64, i64>) -> rusqlite::Result<()> {
    let mut note = t.prepare_cached("UPDATE operations SET visible_ms = ?2 WHERE seq = ?1 AND visible_ms IS NULL")?;
    visible.iter().try_for_each(|(seq, at)| note.execute(params![*seq as i64, at]).map(drop))
}

fn settle(t: &Transaction<'_>, seq: u64, state: i64, reason: Option<&str>, now_ms: i64) -> rusqlite::Result<()> {
    t.prepare_cached("UPDATE operations SET state = ?2, reason = ?3, settled_ms = ?4, content = NULL WHERE seq = ?1")?
        .execute(params![seq as i64, state, reason, now_ms])?;
    // Earlier operations on the document that were never begun are void now. What they were to delete is to go all the same.
    if state == STORED {
        t.prepare_cached(
            "INSERT OR IGNORE INTO deletions
             SELECT seq, (SELECT value FROM counters WHERE name = 'commit'), ?2 FROM operations
             WHERE seq < ?1 AND document = (SELECT document FROM operations WHERE seq = ?1) AND kind = ?3 AND state = ?4",
        )?
        .execute(params![seq as i64, now_ms, DELETE, RECEIVED])?;
    }
    t.prepare_cached(&format!(
        "DELETE FROM operations WHERE seq < ?1 AND document = (SELECT document FROM operations WHERE seq = ?1) AND ?2 = ?3 AND NOT {UNBURIED}"
    ))?
    .execute(params![seq as i64, state, STORED])?;
    Ok(())
}

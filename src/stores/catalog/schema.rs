//! The tables of the catalog, and opening its file: lock, checks, migrations.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::stores::StoreError;

/// Version of the tables below, in SQLite's `user_version`.
pub(super) const SCHEMA_VERSION: i64 = 5;

/// - `operations`: what was received. Written, and on disk, before a caller is told so. One row stays for each
///   document as the memory of its last revision; its content is dropped once the operation is settled.
/// - `versions`: a document as it is or was served. Never changed but for `retired`: a new revision is a new row.
/// - `chunks`: the pieces of a version with their vectors. Numbers are given once and never again, and are
///   consecutive within a version.
/// - `events`: the events that were taken, by a hash of source and id.
/// - `deletions`: those of which something may still be in the files.
/// - `counters`: the last commit and the next chunk number.
const SCHEMA: &str = "
CREATE TABLE operations (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    document    TEXT NOT NULL,
    kind        INTEGER NOT NULL,
    revision    INTEGER NOT NULL,
    state       INTEGER NOT NULL,
    reason      TEXT,
    received_ms INTEGER NOT NULL,
    settled_ms  INTEGER,
    media_type  TEXT,
    title       TEXT,
    url         TEXT,
    collection  TEXT NOT NULL,
    metadata    TEXT NOT NULL,
    content     BLOB,
    hash        BLOB
) STRICT;
CREATE INDEX operations_document ON operations (document, seq);
CREATE INDEX operations_state ON operations (state) WHERE state = 0;

CREATE TABLE versions (
    version     INTEGER PRIMARY KEY AUTOINCREMENT,
    document    TEXT NOT NULL,
    revision    INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    committed   INTEGER NOT NULL,
    retired     INTEGER,
    media_type  TEXT,
    format      TEXT NOT NULL,
    title       TEXT NOT NULL,
    url         TEXT,
    collection  TEXT NOT NULL,
    metadata    TEXT NOT NULL,
    text        BLOB NOT NULL,
    hash        BLOB NOT NULL,
    updated_ms  INTEGER NOT NULL,
    first_chunk INTEGER NOT NULL,
    chunk_count INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX versions_live ON versions (document) WHERE retired IS NULL;
CREATE INDEX versions_committed ON versions (committed);
CREATE INDEX versions_retired ON versions (retired) WHERE retired IS NOT NULL;

CREATE TABLE chunks (
    chunk       INTEGER PRIMARY KEY,
    version     INTEGER NOT NULL,
    section     TEXT NOT NULL,
    start       INTEGER NOT NULL,
    stop        INTEGER NOT NULL,
    tokens      INTEGER NOT NULL,
    hash        BLOB NOT NULL,
    vector      BLOB NOT NULL
) STRICT;

CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO counters VALUES ('commit', 0), ('next_chunk', 1);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
";

/// From version 1 to 2. `events` remembers every event that was taken, so that one delivered or replayed again changes
/// nothing; `operations.position` is when the bus received the event behind an operation, which orders events that
/// state no revision.
const TO_2: &str = "
CREATE TABLE events (key BLOB PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
ALTER TABLE operations ADD COLUMN position INTEGER;
";

/// From version 2 to 3: the page of the original on which a chunk starts.
const TO_3: &str = "
ALTER TABLE chunks ADD COLUMN page INTEGER;
";

/// From version 3 to 4: when an operation came to its stages, in milliseconds since the Unix epoch.
const TO_4: &str = "
ALTER TABLE operations ADD COLUMN parsed_ms INTEGER;
ALTER TABLE operations ADD COLUMN embedded_ms INTEGER;
ALTER TABLE operations ADD COLUMN visible_ms INTEGER;
";

/// From version 4 to 5: the deletions of which something may still be in the files.
const TO_5: &str = "
CREATE TABLE deletions (seq INTEGER PRIMARY KEY, committed INTEGER NOT NULL, deleted_ms INTEGER NOT NULL) STRICT;
";

/// What leads to each version of the schema from the one before, the first from nothing.
const STEPS: [&str; SCHEMA_VERSION as usize] = [SCHEMA, TO_2, TO_3, TO_4, TO_5];

/// Takes the data folder for this process alone; the lock ends with the returned file.
pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
    let failed = |doing: &str, error: &std::io::Error| {
        StoreError::Failed(format!(
            "cannot {doing} in the data folder {}: {error}. Give the user that runs answerd a folder it may write, in [data] dir.",
            folder.display()
        ))
    };
    std::fs::create_dir_all(folder).map_err(|error| failed("create files", &error))?;
    let path = folder.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|error| failed("open the lock file", &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Locked(format!(
            "another answerd uses the data folder {}. Stop it, or give this one a folder of its own in [data] dir.",
            folder.display()
        ))),
        Err(std::fs::TryLockError::Error(error)) => Err(failed("lock", &error)),
    }
}

/// Opens (or makes) the catalog for writing.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).map_err(|error| unreadable(path, &error))?;
    let prepare = || -> rusqlite::Result<Result<(), StoreError>> {
        // WAL with synchronous=FULL: a committed transaction is on disk before the caller hears of it.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // What is removed is overwritten: it is not to be found in the file.
        connection.pragma_update(None, "secure_delete", true)?;
        connection.pragma_update(None, "cache_size", -65_536)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            0..=SCHEMA_VERSION => {
                if version > 0 {
                    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
                    if verdict != "ok" {
                        return Ok(Err(damaged(path, &verdict)));
                    }
                }
                if version < SCHEMA_VERSION {
                    let steps = STEPS[version as usize..].concat();
                    connection
                        .execute_batch(&format!("BEGIN; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"))?;
                }
            }
            newer => {
                return Ok(Err(StoreError::Damaged(format!(
                    "the catalog {} has schema {newer}, this answerd knows {SCHEMA_VERSION}. Run the answerd that wrote it, or start with an empty [data] dir.",
                    path.display()
                ))));
            }
        }
        Ok(Ok(()))
    };
    prepare().map_err(|error| unreadable(path, &error))??;
    Ok(connection)
}

/// Opens a connection for reading; any number may read beside the one writer.
pub(in crate::stores) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    Ok(connection)
}

fn damaged(path: &Path, verdict: &str) -> StoreError {
    StoreError::Damaged(format!(
        "the catalog {} is damaged ({verdict}). It is the only copy of what was ingested by HTTP: restore it from a backup, or move it away and ingest again.",
        path.display()
    ))
}

fn unreadable(path: &Path, error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            damaged(path, &error.to_string())
        }
        _ => failed(&format!("open {}", path.display()), error),
    }
}

/// The error of a statement, for the person who gets it.
pub(super) fn failed(doing: &str, error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase, SystemIoFailure};
    match error.sqlite_error_code() {
        Some(DiskFull) => StoreError::Full(format!("no room on the disk to {doing}. Free some; nothing was changed.")),
        Some(DatabaseCorrupt | NotADatabase) => {
            StoreError::Damaged(format!("the catalog is damaged, cannot {doing}: {error}"))
        }
        // SQLite reports a full disk as an I/O error where the write-ahead log cannot grow.
        Some(SystemIoFailure) => {
            StoreError::Full(format!("the disk failed or is full, cannot {doing}: {error}. Nothing was changed."))
        }
        _ => StoreError::Failed(format!("cannot {doing}: {error}")),
    }
}

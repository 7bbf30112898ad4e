//! Small records that belong to the service and not to the documents: API keys, what people thought of answers, what
//! administrators did. They are
//! kept where the documents are, so that replicas share them; in one process, in a file of their own, which the command
//! line may open beside a running service.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};
use serde_json::Value;

use super::StoreError;
use super::postgres::Postgres;
use super::qdrant::QdrantRecords;
use crate::actors::compute::blocking;
use crate::config::{Config, StoreEngine};

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An API key.
    Key,
    /// What somebody thought of an answer.
    Feedback,
    /// What an administrator did, and what came of deletions.
    Audit,
    /// A deletion that is accepted and not complete yet.
    Deletion,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Key, Self::Feedback, Self::Audit, Self::Deletion];

    /// Its name in a store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Feedback => "feedback",
            Self::Audit => "audit",
            Self::Deletion => "deletion",
        }
    }
}

/// Where records are kept.
#[async_trait]
pub trait Records: Send + Sync {
    /// Puts a record, in place of the one of this id. On disk when it returns.
    async fn put(&self, kind: Kind, id: &str, record: &Value) -> Result<(), StoreError>;

    /// Removes a record, if there is one.
    async fn remove(&self, kind: Kind, id: &str) -> Result<(), StoreError>;

    /// A record, if there is one.
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<Value>, StoreError>;

    /// All records of a kind with their ids, in no order.
    async fn all(&self, kind: Kind) -> Result<Vec<(String, Value)>, StoreError>;
}

/// Opens the records of the configured store; see [`open_in`].
///
/// # Errors
/// In words for the operator.
pub fn open(config: &Arc<Config>) -> Result<Arc<dyn Records>, String> {
    open_in(config, config.store.engine)
}

/// Opens the records of a store. A server is not asked for anything yet.
///
/// # Errors
/// In words for the operator.
pub fn open_in(config: &Arc<Config>, engine: StoreEngine) -> Result<Arc<dyn Records>, String> {
    Ok(match engine {
        StoreEngine::Embedded => Arc::new(SqliteRecords::open(&config.data.dir)?),
        StoreEngine::Postgres => Arc::new(Postgres::new(config).map_err(|error| error.to_string())?),
        StoreEngine::Qdrant => Arc::new(QdrantRecords::new(&config.qdrant)?),
    })
}

fn damaged(error: serde_json::Error) -> StoreError {
    StoreError::Damaged(format!("a record in records.sqlite cannot be read: {error}"))
}

/// Records in `records.sqlite`.
struct SqliteRecords(Arc<Mutex<Connection>>);

impl SqliteRecords {
    fn open(folder: &Path) -> Result<Self, String> {
        let path = folder.join("records.sqlite");
        let failed = |error: &dyn std::fmt::Display| format!("cannot open {}: {error}", path.display());
        std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(&path)?;
            // Another process may write at the same time.
            connection.busy_timeout(std::time::Duration::from_secs(10))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // What is overwritten or removed is not to be found in the file.
            connection.pragma_update(None, "secure_delete", true)?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS records (kind TEXT NOT NULL, id TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID",
            )?;
            Ok(connection)
        };
        Ok(Self(Arc::new(Mutex::new(open().map_err(|error| failed(&error))?))))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = Arc::clone(&self.0);
        blocking(move || work(&connection.lock())).await.map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => {
                StoreError::Full("no room on the disk for records.sqlite. Free some; nothing was changed.".into())
            }
            _ => StoreError::Failed(format!("records.sqlite cannot be used: {error}")),
        })
    }
}

/// Leaves nothing in the write-ahead log of what was there before, where that may quote a document.
fn forget_before(connection: &Connection, kind: Kind) -> rusqlite::Result<()> {
    match kind {
        // Where the command line reads at the same time, the next one does.
        Kind::Feedback => connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())),
        Kind::Key | Kind::Audit | Kind::Deletion => Ok(()),
    }
}

#[async_trait]
impl Records for SqliteRecords {
    async fn put(&self, kind: Kind, id: &str, record: &Value) -> Result<(), StoreError> {
        let (id, record) = (id.to_owned(), record.to_string());
        self.run(move |connection| {
            connection.execute("INSERT OR REPLACE INTO records VALUES (?1, ?2, ?3)", (kind.name(), id, record))?;
            forget_before(connection, kind)
        })
        .await
    }

    async fn remove(&self, kind: Kind, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.run(move |connection| {
            connection.execute("DELETE FROM records WHERE kind = ?1 AND id = ?2", (kind.name(), id))?;
            forget_before(connection, kind)
        })
        .await
    }

    async fn get(&self, kind: Kind, id: &str) -> Result<Option<Value>, StoreError> {
        let id = id.to_owned();
        let text: Option<String> = self
            .run(move |connection| {
                connection
                    .prepare_cached("SELECT record FROM records WHERE kind = ?1 AND id = ?2")?
                    .query_row((kind.name(), id), |row| row.get(0))
                    .optional()
            })
            .await?;
        text.map(|text| serde_json::from_str(&text).map_err(damaged)).transpose()
    }

    async fn all(&self, kind: Kind) -> Result<Vec<(String, Value)>, StoreError> {
        let texts = self
            .run(move |connection| {
                let mut query = connection.prepare("SELECT id, record FROM records WHERE kind = ?1")?;
                let texts =
                    query.query_map([kind.name()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
                texts.collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        texts.into_iter().map(|(id, text)| Ok((id, serde_json::from_str(&text).map_err(damaged)?))).collect()
    }
}

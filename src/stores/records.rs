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

/// A record's place among those of its kind: by its `at_ms`, and those of one moment by their ids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// When it was, in milliseconds since the Unix epoch; 0 where it does not say.
    pub at_ms: u64,
    /// Its id.
    pub id: String,
}

impl Place {
    fn of((id, record): &(String, Value)) -> Self {
        Self { at_ms: record["at_ms"].as_u64().unwrap_or(0), id: id.clone() }
    }

    /// As it was written; none where it is no place.
    pub fn parse(text: &str) -> Option<Self> {
        let (at_ms, id) = text.split_once('.')?;
        // A store has its times as signed numbers.
        let at_ms = at_ms.parse::<u64>().ok().filter(|at_ms| i64::try_from(*at_ms).is_ok())?;
        Some(Self { at_ms, id: id.to_owned() })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.at_ms, self.id)
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

    /// At most so many records of a kind, the newest first: those before a place, if one is given.
    async fn newest(
        &self,
        kind: Kind,
        before: Option<&Place>,
        limit: usize,
    ) -> Result<Vec<(String, Value)>, StoreError> {
        let mut all: Vec<(Place, Value)> =
            self.all(kind).await?.into_iter().map(|entry| (Place::of(&entry), entry.1)).collect();
        all.retain(|(place, _)| before.is_none_or(|before| place < before));
        all.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        all.truncate(limit);
        Ok(all.into_iter().map(|(place, record)| (place.id, record)).collect())
    }
}

/// A page of records, and the place before which the next one begins, where there is one.
pub type Page = (Vec<Value>, Option<Place>);

/// The page of at most so many records of a kind before a place, the newest first.
///
/// # Errors
/// Those of the store.
pub async fn page(records: &dyn Records, kind: Kind, before: Option<&Place>, limit: usize) -> Result<Page, StoreError> {
    let mut found = records.newest(kind, before, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(Place::of);
    Ok((found.into_iter().map(|(_, record)| record).collect(), next))
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

/// The time of a record, for SQLite. One that cannot be read has none: it is found when it is asked for.
const AT_MS: &str = "coalesce(CASE WHEN json_valid(record) THEN json_extract(record, '$.at_ms') END, 0)";

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
            connection.execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS records (kind TEXT NOT NULL, id TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID;
                 CREATE INDEX IF NOT EXISTS records_by_time ON records (kind, {AT_MS}, id)",
            ))?;
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

    async fn newest(
        &self,
        kind: Kind,
        before: Option<&Place>,
        limit: usize,
    ) -> Result<Vec<(String, Value)>, StoreError> {
        let (at_ms, id) = before.map_or((i64::MAX, String::new()), |before| (before.at_ms as i64, before.id.clone()));
        let texts = self
            .run(move |connection| {
                let mut query = connection.prepare_cached(&format!(
                    "SELECT id, record FROM records WHERE kind = ?1 AND ({AT_MS}, id) < (?2, ?3) ORDER BY {AT_MS} DESC, id DESC LIMIT ?4"
                ))?;
                let texts = query.query_map((kind.name(), at_ms, id, limit as i64), |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
                })?;
                texts.collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        texts.into_iter().map(|(id, text)| Ok((id, serde_json::from_str(&text).map_err(damaged)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One that cannot page by itself.
    struct Plain(SqliteRecords);

    #[async_trait]
    impl Records for Plain {
        async fn put(&self, kind: Kind, id: &str, record: &Value) -> Result<(), StoreError> {
            self.0.put(kind, id, record).await
        }

        async fn remove(&self, kind: Kind, id: &str) -> Result<(), StoreError> {
            self.0.remove(kind, id).await
        }

        async fn get(&self, kind: Kind, id: &str) -> Result<Option<Value>, StoreError> {
            self.0.get(kind, id).await
        }

        async fn all(&self, kind: Kind) -> Result<Vec<(String, Value)>, StoreError> {
            self.0.all(kind).await
        }
    }

    #[tokio::test]
    async fn pages_have_each_record_once_the_newest_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || SqliteRecords::open(folder.path()).expect("it opens");
        let stores: [Box<dyn Records>; 2] = [Box::new(open()), Box::new(Plain(open()))];
        // Two of one moment, and one without a time.
        for (id, at_ms) in [("b", json!(20)), ("deletion-9", json!(30)), ("a", json!(20)), ("c", json!(null))] {
            stores[0].put(Kind::Audit, id, &json!({ "at_ms": at_ms, "id": id })).await.expect("put");
        }
        stores[0].put(Kind::Feedback, "d", &json!({ "at_ms": 25 })).await.expect("put");
        for store in &stores {
            for limit in 1..6 {
                let (mut ids, mut before) = (Vec::new(), None);
                loop {
                    let (records, next) = page(&**store, Kind::Audit, before.as_ref(), limit).await.expect("a page");
                    assert!(records.len() == limit || next.is_none());
                    ids.extend(records.iter().map(|record| record["id"].as_str().unwrap_or_default().to_owned()));
                    // As it comes back.
                    let Some(next) = next else { break };
                    before = Some(Place::parse(&next.to_string()).expect("a place"));
                }
                assert_eq!(ids, ["deletion-9", "b", "a", "c"]);
            }
        }
        for no_place in ["x", "-1.a", "99999999999999999999.a"] {
            assert_eq!(Place::parse(no_place), None);
        }
    }
}

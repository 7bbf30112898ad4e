//! The catalog: the durable truth, one SQLite file. It holds every document with its chunks and
//! vectors, and every operation that was accepted. Both indexes are derived from it.
//!
//! What is promised here:
//! - an operation is on disk before [`Catalog::receive`] returns its `seq`;
//! - a version becomes the served one in one transaction, and the one before it is kept, retired,
//!   until no search can still show it ([`Catalog::purge`]);
//! - chunk numbers are never given twice, and what a number stands for never changes, so an index
//!   is right exactly when it holds the numbers of the live versions.
//!
//! Every function blocks on the disk: call them from blocking threads.

mod archive;
mod read;
mod schema;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::{ChunkId, StoreError};
use crate::documents::event::Metadata;

pub use archive::CatalogArchive;
pub use read::Changes;
pub(super) use schema::open_reader;

/// A version as the indexes and filters know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Number of the version.
    pub version: i64,
    /// Its document.
    pub document: String,
    /// Revision of the document.
    pub revision: u64,
    /// The operation that made it.
    pub seq: u64,
    /// Its chunks.
    pub chunks: Range<ChunkId>,
    /// Title.
    pub title: String,
    /// Address of the original.
    pub url: Option<String>,
    /// Collection.
    pub collection: String,
    /// Media type as declared.
    pub media_type: Option<String>,
    /// Metadata.
    pub metadata: Metadata,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub updated_ms: i64,
}

/// A chunk's place and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkText {
    /// Its number.
    pub chunk: ChunkId,
    /// Headings above it.
    pub section: Vec<String>,
    /// Byte span in the source text.
    pub span: Range<usize>,
    /// The text of that span.
    pub text: String,
    /// Page or slide of the original on which it starts.
    pub page: Option<u32>,
}

/// The catalog; see the module.
pub struct Catalog {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// Operations that became visible, and when: written with the next transaction, so that it costs none of its own.
    visible: Mutex<BTreeMap<u64, i64>>,
    dimensions: usize,
    id: String,
    // Held for as long as the catalog is open.
    _lock: File,
}

/// Readers kept open; more are opened for the moment and closed again.
const READERS_KEPT: usize = 8;

impl Catalog {
    /// Opens the catalog in `folder`, making it where there is none.
    ///
    /// `embedding` names the embedding model with everything that makes its vectors comparable;
    /// a catalog written with another one is refused, as its vectors would silently find nonsense.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where another process has it, [`StoreError::Damaged`] where it cannot be
    /// trusted, [`StoreError::Full`] and [`StoreError::Failed`] as they come.
    pub fn open(folder: &Path, embedding: &str, dimensions: usize) -> Result<Self, StoreError> {
        Self::open_locked(Self::lock(folder)?, folder, embedding, dimensions)
    }

    /// The same for whom has the [`lock`](Self::lock) of the folder already.
    ///
    /// # Errors
    /// See [`Catalog::open`].
    pub fn open_locked(lock: File, folder: &Path, embedding: &str, dimensions: usize) -> Result<Self, StoreError> {
        let path = folder.join("catalog.sqlite");
        let writer = schema::open_writer(&path)?;
        let id = setting(&writer, "id", &uuid::Uuid::now_v7().to_string())?;
        let catalog = Self {
            path,
            writer: Mutex::new(writer),
            readers: Mutex::default(),
            visible: Mutex::default(),
            dimensions,
            id,
            _lock: lock,
        };
        catalog.claim_embedding(embedding)?;
        Ok(catalog)
    }

    /// Keeps every other process out of a data folder, for as long as the file is held; makes the folder where it is missing.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where another process has it.
    pub fn lock(folder: &Path) -> Result<File, StoreError> {
        schema::lock(folder)
    }

    /// Tells this catalog from every other, for as long as its file lives.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn claim_embedding(&self, embedding: &str) -> Result<(), StoreError> {
        let found = setting(&self.writer.lock(), "embedding", embedding)?;
        if found == embedding {
            return Ok(());
        }
        Err(StoreError::Failed(format!(
            "the data folder was made with the embedding model {found}, the configuration says {embedding}. \
             Their vectors cannot be compared: set [embedding] model back, or give [data] dir a new folder and ingest again."
        )))
    }

    /// Runs `work` on a connection for reading.
    fn read<T>(&self, doing: &str, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let connection = match self.readers.lock().pop() {
            Some(connection) => connection,
            None => schema::open_reader(&self.path).map_err(|error| schema::failed(doing, &error))?,
        };
        let result = work(&connection).map_err(|error| schema::failed(doing, &error));
        let mut readers = self.readers.lock();
        if readers.len() < READERS_KEPT {
            readers.push(connection);
        }
        result
    }

    /// Runs `work` in one write transaction: all of it is on disk when this returns, or none of it.
    fn write<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut writer = self.writer.lock();
        let visible = self.visible.lock().clone();
        let transact = || -> rusqlite::Result<T> {
            let transaction = writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            write::note_visible(&transaction, &visible)?;
            transaction.commit()?;
            self.visible.lock().retain(|seq, _| !visible.contains_key(seq));
            Ok(result)
        };
        transact().map_err(|error| schema::failed(doing, &error))
    }
}

/// A setting of the catalog; where it has none yet, it is `first` from now on.
fn setting(writer: &Connection, name: &str, first: &str) -> Result<String, StoreError> {
    writer
        .query_row(
            "INSERT INTO settings VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = value RETURNING value",
            [name, first],
            |row| row.get(0),
        )
        .map_err(|error| schema::failed("read the catalog's settings", &error))
}

/// The fields a caller's filter can name.
impl crate::retrieval::filter::Fields for Version {
    fn field(&self, name: &str) -> Option<std::borrow::Cow<'_, serde_json::Value>> {
        let fields = crate::retrieval::filter::DocumentFields {
            id: &self.document,
            collection: &self.collection,
            title: &self.title,
            media_type: self.media_type.as_deref(),
            url: self.url.as_deref(),
            updated_ms: self.updated_ms,
            metadata: &self.metadata,
        };
        fields.get(name)
    }
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn from_json<T: serde::de::DeserializeOwned + Default>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_default()
}

fn vector_to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn vector_from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
}

#[cfg(test)]
mod tests;

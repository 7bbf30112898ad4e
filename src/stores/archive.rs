//! Documents with all that is known of them, as they move from one store to another.

use async_trait::async_trait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::StoreError;
use super::document_store::{LastOperation, NewChunk, OperationState, StoreCounts};
use crate::documents::event::Metadata;

/// A store that documents can be moved out of, and into.
#[async_trait]
pub trait Archive: Send + Sync {
    /// The store's id: events know it by that.
    fn id(&self) -> String;

    /// Takes over the id of the store that was moved here.
    async fn adopt(&self, id: &str) -> Result<(), StoreError>;

    /// Up to `limit` documents after one, in an order of the store's own that stays; from the first one after "". Those that
    /// wait to be carried out are not among them: nothing may wait when a store is moved.
    async fn export(&self, after: &str, limit: usize) -> Result<Vec<Kept>, StoreError>;

    /// One document.
    async fn export_one(&self, id: &str) -> Result<Option<Kept>, StoreError>;

    /// Puts a document as it was elsewhere, over what is here of it.
    async fn import(&self, document: Kept) -> Result<(), StoreError>;

    /// Up to `limit` events that were taken, after one, with their operations.
    async fn events(&self, after: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, u64)>, StoreError>;

    /// Remembers events that were taken elsewhere.
    async fn import_events(&self, events: Vec<(Vec<u8>, u64)>) -> Result<(), StoreError>;

    /// Documents there is anything known of, and events.
    async fn extent(&self) -> Result<(u64, u64), StoreError>;

    /// Sizes.
    async fn sizes(&self) -> Result<StoreCounts, StoreError>;
}

/// A document with its last operation, as it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its id.
    pub id: String,
    /// Its last operation.
    pub last: LastOperation,
    /// What the last operation said of the document.
    pub said: Said,
    /// What is served of it.
    pub served: Option<KeptVersion>,
}

/// What an operation says of a document beside its content.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Said {
    /// Media type as declared.
    pub media_type: Option<String>,
    /// Title as given.
    pub title: Option<String>,
    /// Address of the original.
    pub url: Option<String>,
    /// Collection; empty for a delete.
    pub collection: String,
    /// Metadata.
    pub metadata: Metadata,
    /// The hash by which unchanged content is known again.
    pub hash: Option<Vec<u8>>,
    /// When the bus received the event behind it, in nanoseconds since the Unix epoch.
    pub position: Option<i64>,
}

/// A version that is served, whole.
#[derive(Debug, Clone)]
pub struct KeptVersion {
    /// Its revision.
    pub revision: u64,
    /// The operation that made it.
    pub seq: u64,
    /// Media type as declared.
    pub media_type: Option<String>,
    /// The format it was read as.
    pub format: String,
    /// Title.
    pub title: String,
    /// Address of the original.
    pub url: Option<String>,
    /// Collection.
    pub collection: String,
    /// Metadata.
    pub metadata: Metadata,
    /// The source text.
    pub text: Vec<u8>,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub updated_ms: i64,
    /// Its chunks, in their order.
    pub chunks: Vec<NewChunk>,
}

impl Kept {
    /// Whether it waits to be carried out.
    pub fn waits(&self) -> bool {
        self.last.state == OperationState::Received
    }

    /// A hash of all that is known of it: the same in two stores where they keep the same.
    pub fn digest(&self) -> [u8; 32] {
        let Self { id, last, said, served } = self;
        let last = json!([
            last.seq,
            last.delete,
            last.revision,
            last.state as u8,
            last.reason,
            last.received_ms,
            last.settled_ms,
            last.progress.parsed_ms,
            last.progress.embedded_ms
        ]);
        let said =
            json!([said.media_type, said.title, said.url, said.collection, said.metadata, said.hash, said.position]);
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(plain(&json!([id, last, said])).to_string().as_bytes());
        if let Some(version) = served {
            let KeptVersion {
                revision,
                seq,
                media_type,
                format,
                title,
                url,
                collection,
                metadata,
                text,
                updated_ms,
                chunks,
            } = version;
            add(plain(&json!([revision, seq, media_type, format, title, url, collection, metadata, updated_ms]))
                .to_string()
                .as_bytes());
            add(text);
            for chunk in chunks {
                let NewChunk { section, span, page, tokens, hash, vector } = chunk;
                add(plain(&json!([section, span.start, span.end, page, tokens, hash])).to_string().as_bytes());
                add(&vector.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
            }
        }
        hash.finalize().into()
    }
}

/// Numbers and texts as all stores keep them: some know no difference between 1 and 1.0, and no character 0.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => (float as i64).into(),
            _ => value.clone(),
        },
        Value::String(text) => text.replace('\0', "\u{fffd}").into(),
        Value::Array(values) => values.iter().map(plain).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), plain(value))).collect::<serde_json::Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

//! The service's own records: points that are nothing but their payload, in a collection beside those of the documents. It
//! is made with the first use, for the command line may come before any service has.

use async_trait::async_trait;
use qdrant_client::Payload;
use qdrant_client::qdrant::{Filter, RetrievedPoint};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::schema::make_collection;
use super::server::{Collection, Server, id, is, plain, text};
use crate::config::QdrantConfig;
use crate::stores::StoreError;
use crate::stores::records::{Kind, Records};

const DOING: &str = "keep records";

/// See the module.
pub struct QdrantRecords {
    server: Server,
    made: OnceCell<()>,
}

impl QdrantRecords {
    /// The records on a server. It is not asked for anything yet.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn new(config: &QdrantConfig) -> Result<Self, String> {
        Ok(Self { server: Server::new(config)?, made: OnceCell::new() })
    }

    async fn server(&self) -> Result<&Server, StoreError> {
        self.made.get_or_try_init(|| make_collection(&self.server, DOING, Collection::Records, None)).await?;
        Ok(&self.server)
    }
}

#[async_trait]
impl Records for QdrantRecords {
    async fn put(&self, kind: Kind, name: &str, record: &Value) -> Result<(), StoreError> {
        let mut payload = Payload::new();
        payload.insert("kind", kind.name());
        payload.insert("name", name);
        payload.insert("record", record.to_string());
        let point = plain(id(&["record", kind.name(), name]), payload);
        self.server().await?.put(DOING, Collection::Records, vec![point]).await
    }

    async fn remove(&self, kind: Kind, name: &str) -> Result<(), StoreError> {
        let point = id(&["record", kind.name(), name]);
        let fits = Filter::must([qdrant_client::qdrant::Condition::has_id([point])]);
        self.server().await?.delete(DOING, Collection::Records, fits).await
    }

    async fn get(&self, kind: Kind, name: &str) -> Result<Option<Value>, StoreError> {
        let server = self.server().await?;
        let point = id(&["record", kind.name(), name]);
        let points = server.get(DOING, Collection::Records, vec![point], None).await?;
        points.first().map(|point| read(server, point)).transpose()
    }

    async fn all(&self, kind: Kind) -> Result<Vec<(String, Value)>, StoreError> {
        let server = self.server().await?;
        let fits = Filter::must([is("kind", kind.name())]);
        let points = server.all(DOING, Collection::Records, fits, Some(&["name", "record"]), None).await?;
        points.iter().map(|point| Ok((text(point, "name"), read(server, point)?))).collect()
    }
}

fn read(server: &Server, point: &RetrievedPoint) -> Result<Value, StoreError> {
    serde_json::from_str(&text(point, "record")).map_err(|error| {
        StoreError::Damaged(format!("a record in the Qdrant {} cannot be read: {error}", server.address))
    })
}

//! Who did what as an administrator, and when: kept for good where the documents are, and noted before it is done, so that
//! nothing is done that cannot be noted.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::actors::stats::now_ms;
use crate::stores::StoreError;
use crate::stores::records::{Kind, Page, Place, Records, page};

/// See the module.
#[derive(Clone)]
pub struct Audit(Arc<dyn Records>);

impl Audit {
    /// The log in a store.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Self(records)
    }

    /// Notes what somebody is about to do, such as `key.revoke`, and to what.
    ///
    /// # Errors
    /// Those of the store; then it must not be done.
    pub async fn note(&self, by: &str, act: &str, about: Value) -> Result<(), StoreError> {
        tracing::info!(by, act, %about, "an act of administration");
        let record = json!({ "at_ms": now_ms(), "by": by, "act": act, "about": about });
        self.0.put(Kind::Audit, &uuid::Uuid::now_v7().to_string(), &record).await
    }

    /// At most so much of what was noted, before a place if one is given: the newest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn page(&self, before: Option<&Place>, limit: usize) -> Result<Page, StoreError> {
        page(&*self.0, Kind::Audit, before, limit).await
    }

    /// All that was noted, the oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn all(&self) -> Result<Vec<Value>, StoreError> {
        let mut all: Vec<Value> = self.0.all(Kind::Audit).await?.into_iter().map(|(_, record)| record).collect();
        all.sort_by_key(|record| record["at_ms"].as_u64());
        Ok(all)
    }
}

//! The documents of the service, as all its parts share them: the store behind them, what is on its way to it, and the
//! settings.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;

use crate::config::{Config, Live};
use crate::error::ServiceError;
use crate::freshness::{AsOf, OnBus};
use crate::stores::StoreError;
use crate::stores::document_store::{DocumentStore, Progress, Standing};
use crate::telemetry::trace::Origins;

/// See the module.
pub struct Library {
    /// Where the documents are.
    pub store: Arc<dyn DocumentStore>,
    /// The events that are no operations yet.
    pub bus: OnBus,
    /// How far the operations at work in this process are, by `seq`.
    pub progress: DashMap<u64, Progress>,
    /// The traces of the documents' last versions.
    pub origins: Origins,
    settings: Arc<Live>,
}

impl Library {
    /// The documents in a store.
    pub fn new(store: Arc<dyn DocumentStore>, settings: Arc<Live>) -> Arc<Self> {
        let (bus, progress, origins) = (OnBus::default(), DashMap::new(), Origins::default());
        Arc::new(Self { store, bus, progress, origins, settings })
    }

    /// The settings in force. Who works on a request takes them once.
    pub fn config(&self) -> Arc<Config> {
        self.settings.now()
    }

    /// Where the store stands, and with it what waits on the bus.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn standing(&self) -> Result<Standing, StoreError> {
        let bus = self.bus.now();
        let standing = self.store.standing().await?;
        Ok(Standing { as_of: standing.as_of.and(bus), ..standing })
    }

    /// How fresh a search that begins now is.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn as_of(&self) -> Result<AsOf, StoreError> {
        Ok(self.standing().await?.as_of)
    }

    /// Waits until searches see the operation a caller wants to see.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    ///
    /// # Errors
    /// [`ServiceError::NotYetVisible`] after `[search] min_seq_timeout_ms`; what the store says.
    pub async fn wait_for(&self, min_seq: Option<u64>) -> Result<(), ServiceError> {
        let Some(wanted) = min_seq else { return Ok(()) };
        let limit = Duration::from_millis(self.config().search.min_seq_timeout_ms);
        if self.store.reach(wanted, limit).await? {
            return Ok(());
        }
        Err(ServiceError::NotYetVisible { wanted, reached: self.as_of().await?.seq })
    }
}

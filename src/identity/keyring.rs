//! The API keys that are in force. They are kept in the store, where other replicas and the command line make and revoke
//! them too: they are read again every few seconds, and at once for a key that nobody knows here.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use serde_json::json;
use tokio::sync::Mutex;

use super::audit::Audit;
use super::key::{KeyRecord, NewKey, parts};
use super::{Caller, Refused};
use crate::actors::stats::now_ms;
use crate::error::ServiceError;
use crate::stores::StoreError;
use crate::stores::records::{Kind, Records};

/// How often they are read: a key that is revoked elsewhere is good for no longer.
const EVERY: Duration = Duration::from_secs(5);
/// The least time between two readings for keys that nobody knows.
const AGAIN: Duration = Duration::from_millis(100);

/// See the module.
pub struct Keyring {
    records: Arc<dyn Records>,
    audit: Audit,
    known: ArcSwapOption<Known>,
    /// Held while they are read for a key that nobody knows; when the last such reading began.
    reading: Mutex<Option<Instant>>,
    /// Held from reading the store until what was read is known: what is older never replaces what is newer.
    order: Mutex<()>,
}

type Known = HashMap<String, (KeyRecord, Caller)>;

impl Keyring {
    /// The keys in a store.
    pub fn new(records: Arc<dyn Records>) -> Self {
        let audit = Audit::new(Arc::clone(&records));
        Self { records, audit, known: ArcSwapOption::empty(), reading: Mutex::default(), order: Mutex::default() }
    }

    /// The same; they are read as long as somebody has this.
    pub fn start(records: Arc<dyn Records>) -> Arc<Self> {
        let keyring = Arc::new(Self::new(records));
        let watched = Arc::downgrade(&keyring);
        actix_rt::spawn(async move {
            let mut tick = actix_rt::time::interval(EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(keyring) = Weak::upgrade(&watched) else { return };
                // Who was let in is let in, while the store is away.
                if let Err(error) = keyring.read().await {
                    tracing::warn!(%error, "the API keys cannot be read; those that are known count");
                }
            }
        });
        keyring
    }

    /// The holder of a key.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub async fn caller(&self, key: &str) -> Result<Caller, Refused> {
        let unknown = || Refused::Invalid("there is no such API key".into());
        let (id, secret) = parts(key).ok_or_else(unknown)?;
        let known = self.known_with(id).await.map_err(|error| Refused::Unavailable(error.to_string()))?;
        let (record, caller) = known.get(id).ok_or_else(unknown)?;
        if !record.is_opened_by(secret) {
            return Err(unknown());
        }
        match record.out_of_force(now_ms()) {
            Some(why) => Err(Refused::Invalid(why.into())),
            None => Ok(caller.clone()),
        }
    }

    /// What is known; read once more where it has not this key. One reading is for all who wait for it: nobody makes a
    /// store read for each key that is made up.
    async fn known_with(&self, id: &str) -> Result<Arc<Known>, StoreError> {
        let known = || self.known.load_full().filter(|known| known.contains_key(id));
        if let Some(known) = known() {
            return Ok(known);
        }
        let asked = Instant::now();
        let mut reading = self.reading.lock().await;
        match (*reading, self.known.load_full()) {
            (Some(began), Some(known)) if began >= asked => return Ok(known),
            // It was just tried in vain.
            (Some(began), None) if began >= asked => {
                return Err(StoreError::Unavailable("the API keys cannot be read now".into()));
            }
            (Some(began), _) => actix_rt::time::sleep(AGAIN.saturating_sub(began.elapsed())).await,
            (None, _) => {}
        }
        *reading = Some(Instant::now());
        self.read().await
    }

    async fn read(&self) -> Result<Arc<Known>, StoreError> {
        let _order = self.order.lock().await;
        let records = self.list().await?;
        let keys =
            records.into_iter().map(|record| (record.key.id.clone(), (record.clone(), record.caller()))).collect();
        let known: Arc<Known> = Arc::new(keys);
        self.known.store(Some(Arc::clone(&known)));
        Ok(known)
    }

    /// All keys, those too that are not in force any more; the oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let damaged = |error| StoreError::Damaged(format!("the record of an API key cannot be read: {error}"));
        let records = self.records.all(Kind::Key).await?;
        let keys: Result<Vec<KeyRecord>, _> =
            records.into_iter().map(|(_, record)| serde_json::from_value(record)).collect();
        let mut keys = keys.map_err(damaged)?;
        keys.sort_by(|KeyRecord { key: a, .. }, KeyRecord { key: b, .. }| {
            (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id))
        });
        Ok(keys)
    }

    /// Makes a key; gives its record, and the key, which is shown this once.
    ///
    /// # Errors
    /// Where it is not as a key must be, and those of the store.
    pub async fn create(&self, new: NewKey, by: &str) -> Result<(KeyRecord, String), ServiceError> {
        let (record, key) = new.make(by, now_ms()).map_err(ServiceError::Invalid)?;
        self.audit.note(by, "key.create", json!(record.key)).await?;
        self.put(&record).await?;
        Ok((record, key))
    }

    /// Takes a key out of force; gives it as it is then, or none where there is no such key.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn revoke(&self, id: &str, by: &str) -> Result<Option<KeyRecord>, StoreError> {
        let Some(mut record) = self.list().await?.into_iter().find(|record| record.key.id == id) else {
            return Ok(None);
        };
        if record.key.revoked_ms.is_none() {
            self.audit.note(by, "key.revoke", json!({ "id": id, "name": record.key.name })).await?;
            record.key.revoked_ms = Some(now_ms());
            self.put(&record).await?;
        }
        Ok(Some(record))
    }

    async fn put(&self, record: &KeyRecord) -> Result<(), StoreError> {
        self.records.put(Kind::Key, &record.key.id, &json!(record)).await?;
        // At once here, and within a few seconds elsewhere.
        self.read().await.map(drop)
    }
}

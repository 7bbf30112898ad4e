//! The cache of the read path: what questions find, and what the model said. It keeps bytes under keys
//! ([`crate::answer::evidence`]) and knows nothing of what they are: in this process, and where there is a Redis, there
//! too. What is under a key never changes its meaning, so that the one nearest is right. What rests on a deleted document
//! is not kept, and not given: [`Deletions`] forgets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use super::door::{Factory, Role};
use crate::answer::evidence::{Basis, Key};
use crate::config::Live;
use crate::deletion::{Deletions, shared};
use crate::stores::StoreError;
use crate::stores::memory::MemoryCache;
use crate::stores::redis::Redis;

/// What is asked of the cache.
#[derive(Debug, Clone)]
pub enum CacheMessage {
    /// What is kept under a key?
    Get(Key),
    /// Keep this for a while, or as long as what it rests on.
    Put(Key, Bytes, Basis),
    /// This cannot be used.
    Forget(Key),
}

/// How answers came about, counted since the start.
#[derive(Debug, Default)]
pub struct CacheCounts {
    /// Questions whose evidence was kept.
    pub evidence: AtomicU64,
    /// Answers that were kept, under this very question.
    pub answers: AtomicU64,
    /// Answers that were kept under a question that asks the same.
    pub near: AtomicU64,
    /// Answers that another one's generation gave.
    pub shared: AtomicU64,
    /// Answers that were generated.
    pub generated: AtomicU64,
    /// Entries that were not what they must be.
    pub rejected: AtomicU64,
}

impl CacheCounts {
    /// For the admin page, and for the metrics: a name and a number each.
    pub fn all(&self) -> [(&'static str, u64); 6] {
        [
            ("evidence", &self.evidence),
            ("answer", &self.answers),
            ("near", &self.near),
            ("shared", &self.shared),
            ("generated", &self.generated),
            ("rejected", &self.rejected),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// One more of something.
    pub fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The cache; see the module.
pub struct Cache {
    deletions: Arc<Deletions>,
    settings: Arc<Live>,
}

impl Cache {
    /// The factory of the cache. What is kept outlives a restart of the actor.
    pub fn factory(deletions: Arc<Deletions>, settings: Arc<Live>) -> Factory<Self> {
        Arc::new(move || {
            let cache = Self { deletions: Arc::clone(&deletions), settings: Arc::clone(&settings) };
            async move { Ok(cache) }.boxed_local()
        })
    }

    /// What it says of itself.
    pub fn describe(memory: &MemoryCache, redis: Option<&Redis>, counts: &CacheCounts) -> Value {
        json!({ "memory": memory.describe(), "redis": redis.map(Redis::describe), "counts": counts.all().into_iter().collect::<std::collections::BTreeMap<_, _>>() })
    }
}

/// What is looked at of an entry.
#[derive(Deserialize)]
struct Based {
    basis: Basis,
}

impl Role for Cache {
    type Message = CacheMessage;
    type Reply = Option<Bytes>;
    type Error = StoreError;
    const SERIAL: bool = false;

    fn handle(&mut self, message: CacheMessage) -> LocalBoxFuture<'static, Result<Option<Bytes>, StoreError>> {
        let deletions = Arc::clone(&self.deletions);
        let time = Duration::from_secs(self.settings.now().cache.ttl_s);
        async move {
            fail::fail_point!("cache");
            let (memory, redis) = (&deletions.memory, &deletions.redis);
            let named = |key: Key| redis.as_ref().map(|redis| (redis, redis.key("kept", &key.to_string())));
            match message {
                CacheMessage::Get(key) => {
                    let here = memory.get(&key);
                    let (None, Some((redis, name))) = (&here, named(key)) else { return Ok(here) };
                    match redis.get(&name).await {
                        Ok(Some(value)) => {
                            // Without one it is nothing that was put here.
                            let Ok(Based { basis }) = serde_json::from_slice(&value) else { return Ok(Some(value)) };
                            let documents = basis.documents.clone();
                            memory.put(key, value.clone(), basis, time);
                            // After it is kept: what is deleted from here on finds it.
                            if !deletions.deleted.any(&documents) {
                                return Ok(Some(value));
                            }
                            memory.remove(&key);
                            let _ = redis.remove(&name).await;
                        }
                        Ok(None) => {}
                        // It says so itself where it is away; this is about one entry.
                        Err(trouble) => tracing::debug!(%key, %trouble, "not found in Redis"),
                    }
                }
                CacheMessage::Put(key, value, basis) => {
                    let Basis { level, documents } = basis.clone();
                    if deletions.deleted.any(&documents) {
                        return Ok(None);
                    }
                    memory.put(key, value.clone(), basis, time);
                    if let Some((redis, name)) = named(key) {
                        let kept = async {
                            shared::note(redis, level, &name, &documents, time).await?;
                            redis.put(&name, &value, time).await
                        };
                        if let Err(trouble) = kept.await {
                            tracing::debug!(%key, %trouble, "not kept in Redis");
                        }
                    }
                    // After it is kept: what is deleted from here on finds it.
                    if deletions.deleted.any(&documents) {
                        memory.remove(&key);
                        if let Some((redis, name)) = named(key) {
                            let _ = redis.remove(&name).await;
                        }
                    }
                }
                CacheMessage::Forget(key) => {
                    memory.remove(&key);
                    if let Some((redis, name)) = named(key) {
                        let _ = redis.remove(&name).await;
                    }
                }
            }
            Ok(None)
        }
        .boxed_local()
    }
}

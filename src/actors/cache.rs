//! The cache of the read path: what questions find, and what the model said. It keeps bytes under keys
//! ([`crate::answer::evidence`]) and knows nothing of what they are: in this process, and where there is a Redis, there
//! too. What is under a key never changes its meaning, so that the one nearest is right.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde_json::{Value, json};

use super::door::{Factory, Role};
use crate::answer::evidence::Key;
use crate::config::Live;
use crate::stores::StoreError;
use crate::stores::memory::MemoryCache;
use crate::stores::redis::Redis;

/// What is asked of the cache.
#[derive(Debug, Clone)]
pub enum CacheMessage {
    /// What is kept under a key?
    Get(Key),
    /// Keep this for a while.
    Put(Key, Bytes),
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
    memory: Arc<MemoryCache>,
    redis: Option<Arc<Redis>>,
    settings: Arc<Live>,
}

impl Cache {
    /// The factory of the cache. What is kept outlives a restart of the actor.
    pub fn factory(memory: Arc<MemoryCache>, redis: Option<Arc<Redis>>, settings: Arc<Live>) -> Factory<Self> {
        Arc::new(move || {
            let (memory, redis, settings) = (Arc::clone(&memory), redis.clone(), Arc::clone(&settings));
            let cache = Self { memory, redis, settings };
            async move { Ok(cache) }.boxed_local()
        })
    }

    /// What it says of itself.
    pub fn describe(memory: &MemoryCache, redis: Option<&Redis>, counts: &CacheCounts) -> Value {
        json!({ "memory": memory.describe(), "redis": redis.map(Redis::describe), "counts": counts.all().into_iter().collect::<std::collections::BTreeMap<_, _>>() })
    }
}

impl Role for Cache {
    type Message = CacheMessage;
    type Reply = Option<Bytes>;
    type Error = StoreError;
    const SERIAL: bool = false;

    fn handle(&mut self, message: CacheMessage) -> LocalBoxFuture<'static, Result<Option<Bytes>, StoreError>> {
        let (memory, redis) = (Arc::clone(&self.memory), self.redis.clone());
        let time = Duration::from_secs(self.settings.now().cache.ttl_s);
        async move {
            fail::fail_point!("cache");
            let named = |key: Key| redis.as_ref().map(|redis| (redis, redis.key("kept", &key.to_string())));
            match message {
                CacheMessage::Get(key) => {
                    let here = memory.get(&key);
                    let (None, Some((redis, name))) = (&here, named(key)) else { return Ok(here) };
                    match redis.get(&name).await {
                        Ok(Some(value)) => {
                            memory.put(key, value.clone(), time);
                            return Ok(Some(value));
                        }
                        Ok(None) => {}
                        // It says so itself where it is away; this is about one entry.
                        Err(trouble) => tracing::debug!(%key, %trouble, "not found in Redis"),
                    }
                }
                CacheMessage::Put(key, value) => {
                    memory.put(key, value.clone(), time);
                    if let Some((redis, name)) = named(key)
                        && let Err(trouble) = redis.put(&name, &value, time).await
                    {
                        tracing::debug!(%key, %trouble, "not kept in Redis");
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

//! Answers that are open on any replica, counted in Redis: a sorted set for each budget, with a member for each answer and the
//! end of its lease as the score. Who has an answer open renews its lease; the leases of a replica that was killed end by
//! themselves, and those that a Redis has forgotten are there again with the next renewal.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use redis::Script;
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use super::Budget;
use super::shared::key;
use crate::stores::redis::Redis;

/// How long a lease lives without its replica, in milliseconds.
const LEASE_MS: u64 = 15_000;
/// How often leases are renewed: one may be missed.
const RENEW: Duration = Duration::from_secs(5);

/// Takes a lease (`ARGV[1]`, for `ARGV[2]` milliseconds) from all budgets, of which the limits follow, or from none. Gives the
/// number of the first that is full, 0 where there is none.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local t = redis.call('TIME')
         local now = t[1] * 1000 + math.floor(t[2] / 1000)
         for n = 1, #KEYS do
           redis.call('ZREMRANGEBYSCORE', KEYS[n], '-inf', now)
           if redis.call('ZCARD', KEYS[n]) >= tonumber(ARGV[n + 2]) then return n end
         end
         for n = 1, #KEYS do
           redis.call('ZADD', KEYS[n], now + ARGV[2], ARGV[1])
           redis.call('PEXPIRE', KEYS[n], ARGV[2])
         end
         return 0",
    )
});

/// Renews leases (`ARGV[2]` and on) of one budget for `ARGV[1]` milliseconds.
static RENEWAL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local t = redis.call('TIME')
         local now = t[1] * 1000 + math.floor(t[2] / 1000)
         for n = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[n]) end
         redis.call('PEXPIRE', KEYS[1], ARGV[1])
         return true",
    )
});

/// See the module.
pub(super) struct Leases {
    redis: Arc<Redis>,
    handle: Handle,
    /// The leases of this process, each with the keys of its budgets.
    held: Mutex<HashMap<String, Vec<String>>>,
}

/// An answer's leases; given back when it is dropped.
pub(super) struct Lease {
    leases: Arc<Leases>,
    id: String,
}

impl Leases {
    /// Leases in this Redis, renewed as long as anybody refers to them.
    pub(super) fn start(redis: Arc<Redis>, handle: Handle) -> Arc<Self> {
        let leases = Arc::new(Self { redis, handle, held: Mutex::default() });
        let renewed = Arc::downgrade(&leases);
        leases.handle.spawn(async move {
            let mut tick = tokio::time::interval(RENEW);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(leases) = Weak::upgrade(&renewed) else { return };
                leases.renew().await;
            }
        });
        leases
    }

    /// A lease of these budgets, which is yet to be taken.
    pub(super) fn lease(self: &Arc<Self>, budgets: &[Budget]) -> Lease {
        let id = uuid::Uuid::now_v7().simple().to_string();
        let keys = budgets.iter().map(|budget| key(&self.redis, "open", &budget.who)).collect();
        self.held.lock().insert(id.clone(), keys);
        Lease { leases: Arc::clone(self), id }
    }

    /// Takes it from all of its budgets or from none: then gives which of them is full. None where Redis does not answer.
    pub(super) async fn take(&self, lease: &Lease, budgets: &[Budget]) -> Option<Result<(), usize>> {
        let mut call = TAKE.prepare_invoke();
        for budget in budgets {
            call.key(key(&self.redis, "open", &budget.who));
        }
        call.arg(&lease.id).arg(LEASE_MS);
        for budget in budgets {
            call.arg(budget.limits.streams);
        }
        let full: usize = self.redis.invoke(&call).await.ok()?;
        Some(full.checked_sub(1).map_or(Ok(()), Err))
    }

    async fn renew(&self) {
        let mut of_key: HashMap<String, Vec<String>> = HashMap::new();
        for (id, keys) in &*self.held.lock() {
            for key in keys {
                of_key.entry(key.clone()).or_default().push(id.clone());
            }
        }
        for (key, ids) in of_key {
            let mut call = RENEWAL.key(&key);
            call.arg(LEASE_MS).arg(&ids);
            if self.redis.invoke::<bool>(&call).await.is_err() {
                return;
            }
            // What was given back meanwhile must not come back.
            let ended: Vec<String> = {
                let held = self.held.lock();
                ids.into_iter().filter(|id| !held.contains_key(id)).collect()
            };
            if !ended.is_empty() {
                let _ = self.redis.run::<i64>(redis::cmd("ZREM").arg(&key).arg(&ended)).await;
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let keys = self.leases.held.lock().remove(&self.id).unwrap_or_default();
        let (leases, id) = (Arc::clone(&self.leases), std::mem::take(&mut self.id));
        // Whoever drops it may be no thread of the runtime's.
        self.leases.handle.spawn(async move {
            for key in keys {
                let _ = leases.redis.run::<i64>(redis::cmd("ZREM").arg(key).arg(&id)).await;
            }
        });
    }
}

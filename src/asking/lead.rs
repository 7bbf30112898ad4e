//! One generation among replicas: who begins one takes a lease on its answer's key in Redis, and writes what is said to a
//! list there. Others who are asked the same meanwhile read that list. Where the one that has the lease dies, another
//! takes it, and begins again: what was said until then must come again, or the answers that have it fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::flight::Flight;
use crate::answer::evidence::{Key, Level, RestsOn};
use crate::deletion::{Deletions, shared};
use crate::models::{Demand, Finished};
use crate::stores::redis::Redis;

/// How long a lease lives without its holder, and a list.
const LEASE: Duration = Duration::from_secs(5);
/// How long who follows counts as there.
const HEED: Duration = Duration::from_secs(2);
/// How often what was said is sent, and looked for.
const TICK: Duration = Duration::from_millis(100);

/// Who generates an answer.
pub(super) enum Leader {
    /// This replica; others hear what the flight says as long as this is kept.
    This(Lease),
    /// Another one.
    Other(String),
    /// This replica, and nobody hears of it: Redis cannot be asked.
    Alone,
}

/// How another replica's generation ended.
pub(super) enum Followed {
    /// As its model did.
    Ended(Finished),
    /// It gave up, or died.
    Lost,
    /// Nobody here wants it any more.
    Unwanted,
}

/// An entry of the list.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Text(String),
    End(Finished),
}

/// The keys of an answer's generation.
struct Names {
    lease: String,
    /// Kept alive by those who follow.
    heed: String,
    /// To be followed by who leads.
    said: String,
}

/// The leads of one replica.
pub struct Leads {
    redis: Arc<Redis>,
    deletions: Arc<Deletions>,
}

impl Leads {
    /// Leads by way of this Redis.
    pub fn new(redis: Arc<Redis>, deletions: Arc<Deletions>) -> Self {
        Self { redis, deletions }
    }

    fn names(&self, key: Key) -> Names {
        let (id, redis) = (key.to_string(), &self.redis);
        Names { lease: redis.key("lease", &id), heed: redis.key("heed", &id), said: redis.key("said", &id) }
    }

    /// Finds out who generates the answer of a key, which rests on these documents: this one, if nobody does.
    pub(super) async fn ask(&self, key: Key, documents: &[RestsOn], flight: &Arc<Flight>) -> Leader {
        let names = self.names(key);
        let own = uuid::Uuid::now_v7().simple().to_string();
        match self.redis.lease(&names.lease, &own, LEASE).await {
            Err(_) => Leader::Alone,
            Ok(holder) if holder == own => Leader::This(self.begin(names, own, documents.to_vec(), Arc::clone(flight))),
            Ok(holder) => Leader::Other(holder),
        }
    }

    /// Has the flight say what another replica says.
    pub(super) async fn follow(&self, key: Key, leader: &str, flight: &Flight) -> Followed {
        let (names, mut seen) = (self.names(key), 0);
        let list = names.said + leader;
        loop {
            if flight.demand() == Demand::Stop {
                return Followed::Unwanted;
            }
            let _ = self.redis.put(&names.heed, b"1", HEED).await;
            // First the lease: who gives it up has sent everything.
            let lease = self.redis.get(&names.lease).await;
            let said = self.redis.run::<Vec<String>>(redis::cmd("LRANGE").arg(&list).arg(seen).arg(-1)).await;
            let (Ok(lease), Ok(said)) = (lease, said) else { return Followed::Lost };
            seen += said.len();
            for said in said {
                match serde_json::from_str(&said) {
                    Ok(Said::Text(text)) => flight.text(text),
                    Ok(Said::End(finished)) => return Followed::Ended(finished),
                    Err(_) => return Followed::Lost,
                }
            }
            if lease.is_none_or(|holder| *holder != *leader.as_bytes()) {
                return Followed::Lost;
            }
            actix_rt::time::sleep(TICK).await;
        }
    }

    fn begin(&self, names: Names, own: String, documents: Vec<RestsOn>, flight: Arc<Flight>) -> Lease {
        let (sender, mut ended) = tokio::sync::watch::channel(false);
        let (redis, deletions, time) =
            (Arc::clone(&self.redis), Arc::clone(&self.deletions), self.deletions.longest_answer() + 2 * LEASE);
        let list = names.said + &own;
        actix_rt::spawn(async move {
            let (mut sent, mut entries, mut noted) = (0, 0, false);
            loop {
                // By the time that the lease is dropped the flight is over.
                let over = *ended.borrow() || ended.has_changed().is_err();
                noted = noted || shared::note(&redis, Level::Stream, &list, &documents, time).await.is_ok();
                let (text, finished) = flight.said(sent);
                let length = text.len();
                let new = (!text.is_empty()).then_some(Said::Text(text));
                let new = new.into_iter().chain(finished.filter(|_| over).map(Said::End));
                let new: Vec<String> = new.map(|said| serde_json::to_string(&said).unwrap_or_default()).collect();
                if noted
                    && let Ok((Some(there), heed)) = redis.extend((&list, &names.heed), entries, &new, 2 * LEASE).await
                {
                    (sent, entries) = (sent + length, there);
                    flight.heed(heed.map(|_| Instant::now() + HEED));
                }
                // After it is there: what is deleted from here on finds it.
                if deletions.deleted.any(&documents) {
                    let _ = redis.remove(&list).await;
                }
                if over {
                    let _ = redis.release(&names.lease, &own).await;
                    return;
                }
                // One that was lost, because Redis or this process was away, is not taken again: others may lead now.
                let _ = redis.renew(&names.lease, &own, LEASE).await;
                let _ = tokio::time::timeout(TICK, ended.changed()).await;
            }
        });
        Lease(sender)
    }
}

/// The lease on an answer; given back when it is dropped.
pub(super) struct Lease(tokio::sync::watch::Sender<bool>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

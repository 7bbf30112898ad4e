//! What rests on deleted documents is forgotten: in this process, in Redis, in other replicas.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::receipt::{Removal, State};
use super::shared::{self, ByDocument, Notice};
use super::{Deletions, MARGIN};
use crate::actors::compute::blocking;
use crate::actors::stats::now_ms;
use crate::answer::evidence::{Level, RestsOn};
use crate::stores::StoreError;
use crate::stores::records::Kind;
use crate::stores::redis::Redis;

/// How often notices of other replicas are looked for.
const LOOK: Duration = Duration::from_millis(200);
/// How long others have to say that they have done what a notice says, before the receipt is written without.
pub(super) const ANSWER: Duration = Duration::from_secs(2);
/// How often indexes in Redis that have come of age are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// What became of deletions in Redis and in other replicas.
#[derive(Default)]
pub(super) struct Elsewhere {
    /// What Redis had.
    removed: ByDocument,
    /// Why it is to be done again.
    trouble: Option<String>,
    /// The replicas that are there, with what they had, if they said so.
    replicas: BTreeMap<String, Option<ByDocument>>,
}

impl Deletions {
    /// Forgets what this process keeps that rests on these documents.
    pub(super) async fn forget(self: &Arc<Self>, deleted: &[RestsOn]) -> ByDocument {
        let (this, deleted) = (Arc::clone(self), deleted.to_vec());
        blocking(move || {
            let began = Instant::now();
            let counts = this.forget_now(&deleted);
            tracing::debug!(documents = deleted.len(), took_us = began.elapsed().as_micros() as u64, "forgot");
            counts
        })
        .await
    }

    fn forget_now(&self, deleted: &[RestsOn]) -> ByDocument {
        // First of all: who keeps something from here on looks there after it has kept it.
        self.deleted.keep_at_least(self.longest_answer() + MARGIN);
        self.deleted.add(deleted);
        let mut counts = ByDocument::new();
        let mut count = |document, level| counts.entry(document).or_default().add(level);
        let upto = upto(deleted);
        let is_deleted = |one: &RestsOn| upto.get(&one.document).is_some_and(|revision| one.revision <= *revision);
        self.memory.purge(&is_deleted).into_iter().for_each(|(document, level)| count(document, level));
        self.shelf.withdraw(&is_deleted).into_iter().for_each(|document| count(document, Level::Stream));
        counts
    }

    /// Blanks out the answers that people thought something of; how many, by document.
    pub(super) async fn forget_feedback(&self, deleted: &[RestsOn]) -> Result<HashMap<u64, u64>, StoreError> {
        let upto = upto(deleted);
        let mut counts = HashMap::new();
        for (id, mut record) in self.records.all(Kind::Feedback).await? {
            let sources = record["sources"].as_array().into_iter().flatten();
            let of = |source: &Value| {
                let (document, revision) = (source["document_id"].as_str()?, source["revision"].as_u64()?);
                let one = RestsOn::new(self.store(), document, revision);
                (revision <= *upto.get(&one.document)?).then_some(one.document)
            };
            let Some(document) = sources.into_iter().find_map(of).filter(|_| !record["answer"].is_null()) else {
                continue;
            };
            record["answer"] = Value::Null;
            record["withdrawn_ms"] = now_ms().into();
            self.records.put(Kind::Feedback, &id, &record).await?;
            *counts.entry(document).or_default() += 1;
        }
        Ok(counts)
    }

    /// Forgets what Redis has, and has the other replicas forget what they keep; nothing where there is no Redis.
    pub(super) async fn forget_elsewhere(&self, deleted: &[RestsOn]) -> Elsewhere {
        let mut elsewhere = Elsewhere::default();
        let config = self.library.config();
        let Some(redis) = &self.redis else {
            // A command, beside a service that has one.
            if config.redis.is_configured() {
                elsewhere.trouble = Some("this process does not use [redis]".to_owned());
            }
            return elsewhere;
        };
        let keep = Duration::from_secs(config.cache.ttl_s.max(config.answer.keep_s));
        let notice = Notice { from: self.process.clone(), deleted: deleted.to_vec() };
        // First the others: what one of them is about to put into Redis it takes out again.
        let told = shared::tell(redis, &notice, keep).await;
        match shared::purge(redis, deleted).await {
            Ok(removed) => elsewhere.removed = removed,
            Err(trouble) => elsewhere.trouble = Some(trouble.to_string()),
        }
        let told = match told {
            Ok(told) => told,
            Err(trouble) => {
                elsewhere.trouble = Some(trouble.to_string());
                return elsewhere;
            }
        };
        let others = told.replicas.into_iter().filter(|replica| *replica != self.process);
        elsewhere.replicas.extend(others.map(|replica| (replica, None)));
        let began = Instant::now();
        // Who does not look cannot answer.
        let awaited = |replicas: &BTreeMap<String, Option<ByDocument>>| {
            told.here.iter().any(|replica| replicas.get(replica).is_some_and(Option::is_none))
        };
        while awaited(&elsewhere.replicas) && began.elapsed() < ANSWER {
            actix_rt::time::sleep(LOOK / 4).await;
            if let Ok(answers) = shared::answers(redis, &told.notice).await {
                elsewhere.replicas.extend(answers.into_iter().map(|(replica, counts)| (replica, Some(counts))));
            }
        }
        elsewhere
    }

    /// What a receipt says of that.
    pub(super) fn removed_elsewhere(&self, elsewhere: &Elsewhere, document: u64, at_ms: u64) -> Vec<Removal> {
        let mut all = Vec::new();
        if self.redis.is_some() || elsewhere.trouble.is_some() {
            let counts = elsewhere.removed.get(&document).copied().unwrap_or_default();
            for (what, entries) in
                [("shared cache", counts.evidence + counts.answers), ("shared streams", counts.streams)]
            {
                let removal = Removal::removed(what, entries, at_ms);
                all.push(match &elsewhere.trouble {
                    None => removal,
                    Some(trouble) => removal.but(State::Unreachable, format!("{trouble}; it is tried again")),
                });
            }
        }
        for (replica, said) in &elsewhere.replicas {
            let what = format!("memory of replica {replica}");
            all.push(match said {
                Some(counts) => {
                    Removal::removed(what, counts.get(&document).copied().unwrap_or_default().sum(), at_ms)
                }
                None => Removal::removed(what, 0, at_ms).but(
                    State::Told,
                    format!(
                        "it has not said within {} s that it did; it does when it looks, and keeps nothing longer than [cache] ttl_s",
                        ANSWER.as_secs()
                    ),
                ),
            });
        }
        all
    }

    /// Does what other replicas tell, as long as the process runs.
    pub(super) async fn listen(self: Arc<Self>, redis: Arc<Redis>) {
        // From the beginning of what there is: it is as well done once more.
        let mut seen = "0".to_owned();
        // What was withdrawn here, and may have been thought something of until then.
        let mut withdrawn: Vec<RestsOn> = Vec::new();
        loop {
            match shared::look(&redis, &self.process, &seen).await {
                Ok(notices) => {
                    let many = notices.len() > 1;
                    for (id, notice) in notices {
                        if let Some(notice) = notice.filter(|notice| notice.from != self.process) {
                            let counts = self.forget(&notice.deleted).await;
                            if counts.values().any(|counts| counts.streams > 0) {
                                withdrawn.extend(&notice.deleted);
                            }
                            // What this one was about to put there when the other one looked.
                            let purged = shared::purge(&redis, &notice.deleted).await;
                            let answered = match purged {
                                Ok(_) => shared::answer(&redis, &id, &self.process, &counts).await,
                                Err(trouble) => Err(trouble),
                            };
                            // It is read again, and done again.
                            if answered.is_err() {
                                break;
                            }
                        }
                        seen = id;
                    }
                    // Whoever told it has looked at all feedback before that, perhaps.
                    if !withdrawn.is_empty() && self.forget_feedback(&withdrawn).await.is_ok() {
                        withdrawn.clear();
                    }
                    if many {
                        continue;
                    }
                }
                // It says so itself where it is away.
                Err(trouble) => tracing::debug!(%trouble, "could not look for deletions elsewhere"),
            }
            actix_rt::time::sleep(LOOK).await;
        }
    }
}

/// Looks for indexes in Redis that have come of age, as long as the process runs.
pub(super) async fn sweep(redis: Arc<Redis>) {
    loop {
        actix_rt::time::sleep(SWEEP).await;
        while matches!(shared::sweep(&redis).await, Ok(true)) {}
    }
}

/// Up to which revision each document is deleted.
pub(super) fn upto(deleted: &[RestsOn]) -> HashMap<u64, u64> {
    let mut upto = HashMap::new();
    for one in deleted {
        let revision = upto.entry(one.document).or_insert(one.revision);
        *revision = one.revision.max(*revision);
    }
    upto
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_document_that_was_deleted_twice_the_later_deletion_counts() {
        let one = |document, revision| RestsOn { document, revision };
        let deleted = upto(&[one(1, 4), one(2, 9), one(1, 2)]);
        assert_eq!(deleted, HashMap::from([(1, 4), (2, 9)]));
    }
}

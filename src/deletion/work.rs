//! The deletions on their way: each waits until the store is so far, has everything forgotten that rests on its document, and
//! ends with a receipt. What could not be done is tried again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use serde_json::Value;

use super::forget::{ANSWER, upto};
use super::receipt::{Receipt, Removal, State, is_complete, together};
use super::{Deletions, Had};
use crate::actors::stats::now_ms;
use crate::answer::evidence::RestsOn;
use crate::stores::StoreError;
use crate::stores::document_store::OperationState;
use crate::stores::records::Kind;

/// When what could not be done is tried again, first; and how often a receipt of another process is looked for.
pub(super) const AGAIN: Duration = Duration::from_millis(500);
/// The pause before what could not be done is tried again doubles so many times.
const DOUBLINGS: u32 = 7;
/// How often notes of what nobody is at are looked for. Whoever accepted one has as much time before that.
const TAKE_UP: Duration = Duration::from_secs(60);
/// The same where they could not be read.
const TAKE_UP_AGAIN: Duration = Duration::from_secs(5);
/// Receipts that cannot be written in a row before the others of a batch wait, too.
const FAILURES: u32 = 3;
/// Questions to the store at once.
const AT_ONCE: usize = 16;
/// Deletions carried out together: what rests on them is forgotten at once, before any receipt is written.
const BATCH: usize = 2048;

/// A deletion that the store has carried out, or is about to.
pub(super) struct Work {
    pub document: String,
    pub seq: u64,
    /// What it gave the document: all before it is deleted.
    pub revision: u64,
    pub had: Option<Had>,
    pub deleted_ms: u64,
    /// What was done of it, where that could not be noted.
    pub unwritten: Option<Receipt>,
    /// How often it could not be brought to its end.
    pub tries: u32,
}

impl Work {
    /// One that was not begun.
    pub fn new(document: String, seq: u64, revision: u64, had: Option<Had>) -> Self {
        Self { document, seq, revision, had, deleted_ms: now_ms(), unwritten: None, tries: 0 }
    }
}

/// How far the store is with a deletion.
enum Stage {
    /// It is not done, or cannot be asked for.
    Open,
    /// Nothing finds what was deleted.
    Done {
        /// A later write of the document came first, or has come since.
        replaced: bool,
    },
    /// It was given up: the document is served on.
    Failed,
}

impl Deletions {
    /// Does what there is to do, as long as the process runs.
    pub(super) async fn work(self: Arc<Self>) {
        loop {
            self.more.notified().await;
            loop {
                let batch: Vec<Work> = {
                    let mut waiting = self.waiting.lock();
                    let most = waiting.len().min(BATCH);
                    waiting.drain(..most).collect()
                };
                if batch.is_empty() {
                    break;
                }
                self.carry_out(batch).await;
            }
        }
    }

    /// Looks for notes of what nobody is at, as long as the process runs.
    pub(super) async fn take_up_what_was_interrupted(self: Arc<Self>) {
        let mut age = Duration::ZERO;
        loop {
            let pause = match self.take_up_all(age).await {
                Ok(()) => {
                    age = TAKE_UP;
                    TAKE_UP
                }
                Err(error) => {
                    tracing::debug!(%error, "could not look for interrupted deletions");
                    TAKE_UP_AGAIN
                }
            };
            actix_rt::time::sleep(pause).await;
        }
    }

    /// Does a deletion, unless this process is at it.
    pub(super) fn begin(&self, work: Work) {
        if self.underway.lock().insert(work.seq) {
            self.again(vec![work]);
        }
    }

    pub(super) fn again(&self, works: Vec<Work>) {
        self.waiting.lock().extend(works);
        self.more.notify_one();
    }

    /// Takes up what was interrupted, where it was noted so long ago.
    async fn take_up_all(&self, age: Duration) -> Result<(), StoreError> {
        let now = now_ms();
        for (_, note) in self.records.all(Kind::Deletion).await? {
            let Some(seq) = note["seq"].as_u64() else { continue };
            let since = now.saturating_sub(note["at_ms"].as_u64().unwrap_or(0));
            if u128::from(since) < age.as_millis() || self.underway.lock().contains(&seq) {
                continue;
            }
            // One that is not carried out yet comes by itself.
            if !matches!(self.library.store.outcome(seq).await?, Some((OperationState::Received, _))) {
                self.take_up(&note);
            }
        }
        Ok(())
    }

    /// Does what a note says.
    pub(super) fn take_up(&self, note: &Value) {
        let (Some(seq), Some(document)) = (note["seq"].as_u64(), note["document_id"].as_str()) else { return };
        let (revision, had) =
            (note["revision"].as_u64().unwrap_or(0), serde_json::from_value(note["had"].clone()).ok());
        self.begin(Work::new(document.to_owned(), seq, revision, had));
    }

    /// How far the store is with a deletion now.
    async fn stage(&self, seq: u64) -> Stage {
        let store = &self.library.store;
        // An index may not be so far.
        if !store.settle(seq, Duration::ZERO).await.is_ok_and(|settled| settled) {
            return Stage::Open;
        }
        match store.outcome(seq).await {
            Err(_) | Ok(Some((OperationState::Received, _))) => Stage::Open,
            Ok(Some((OperationState::Stored, _))) => Stage::Done { replaced: false },
            // All before it is to be forgotten as well, for it was accepted.
            Ok(Some((OperationState::Superseded, _)) | None) => Stage::Done { replaced: true },
            Ok(Some((OperationState::Failed, _))) => Stage::Failed,
        }
    }

    /// Forgets what rests on deleted documents, everywhere, and writes the receipts.
    async fn carry_out(self: &Arc<Self>, batch: Vec<Work>) {
        let staged: Vec<(Work, Stage)> = stream::iter(batch)
            .map(|work| async move {
                let stage = self.stage(work.seq).await;
                (work, stage)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let (mut receipts, mut works, mut open) = (Vec::new(), Vec::new(), Vec::new());
        for (mut work, stage) in staged {
            match (work.unwritten.take_if(|receipt| receipt.complete), stage) {
                // Nothing but this is left to do.
                (Some(receipt), _) => receipts.push((work, receipt)),
                (None, Stage::Done { replaced }) => works.push((work, replaced)),
                (None, Stage::Open) => open.push(work),
                (None, Stage::Failed) => self.settle(work.seq).await,
            }
        }
        if !open.is_empty() {
            actix_rt::spawn(Arc::clone(self).wait_for(open));
        }
        if !works.is_empty() {
            receipts.extend(self.carry_out_all(works).await);
        }
        if !receipts.is_empty() {
            self.write_all(receipts).await;
        }
    }

    /// Does these as soon as the store has.
    async fn wait_for(self: Arc<Self>, works: Vec<Work>) {
        let waits = works.into_iter().map(|mut work| {
            let deletions = &self;
            async move {
                if !deletions.library.store.settle(work.seq, ANSWER).await.is_ok_and(|settled| settled) {
                    actix_rt::time::sleep(pause(work.tries)).await;
                    work.tries += 1;
                }
                work.deleted_ms = now_ms();
                deletions.again(vec![work]);
            }
        });
        join_all(waits).await;
    }

    /// Does these once more in a while: at once where Redis was away, and is back.
    fn later(self: &Arc<Self>, mut works: Vec<Work>) {
        let tries = works.iter().map(|work| work.tries).min().unwrap_or(0);
        works.iter_mut().for_each(|work| work.tries += 1);
        let wants_redis = works.iter().all(|work| work.unwritten.is_none());
        let deletions = Arc::clone(self);
        actix_rt::spawn(async move {
            actix_rt::time::sleep(pause(tries)).await;
            while wants_redis && deletions.redis.as_ref().is_some_and(|redis| redis.trouble().is_some()) {
                actix_rt::time::sleep(AGAIN).await;
            }
            deletions.again(works);
        });
    }

    /// Forgets what rests on these, which nothing finds any more; gives their receipts. Each comes with whether a later write
    /// of its document replaced it.
    async fn carry_out_all(self: &Arc<Self>, works: Vec<(Work, bool)>) -> Vec<(Work, Receipt)> {
        let rests_on = |work: &Work| RestsOn::new(self.store(), &work.document, work.revision);
        let of: Vec<RestsOn> = works.iter().map(|(work, _)| rests_on(work)).collect();
        let deleted: Vec<RestsOn> =
            upto(&of).into_iter().map(|(document, revision)| RestsOn { document, revision }).collect();
        let here = self.forget(&deleted).await;
        let elsewhere = self.forget_elsewhere(&deleted).await;
        // Last: until an answer is withdrawn everywhere, somebody may say what it was worth.
        let feedback = self.forget_feedback(&deleted).await;
        let at_ms = now_ms();
        let receipt = |((mut work, replaced), rests_on): ((Work, bool), RestsOn)| {
            let count = here.get(&rests_on.document).copied().unwrap_or_default();
            let had = work.had.as_ref();
            let mut removed_from = self.library.store.removed_from(had.map_or(0, |had| had.chunks), at_ms);
            removed_from.push(Removal::removed("evidence cache", count.evidence, at_ms));
            removed_from.push(Removal::removed("answer cache", count.answers, at_ms));
            removed_from.push(Removal::removed("stream buffers", count.streams, at_ms));
            removed_from.push(match &feedback {
                Ok(counts) => Removal::removed("feedback", counts.get(&rests_on.document).copied().unwrap_or(0), at_ms),
                Err(error) => Removal::removed("feedback", 0, at_ms).but(State::Unreachable, error.to_string()),
            });
            removed_from.extend(self.removed_elsewhere(&elsewhere, rests_on.document, at_ms));
            let mut receipt = Receipt {
                document_id: work.document.clone(),
                collection: had.map(|had| had.collection.clone()),
                revision: had.map(|had| had.revision),
                seq: work.seq,
                accepted_ms: None,
                deleted_ms: work.deleted_ms,
                complete: is_complete(&removed_from),
                removed_from,
                remains: self.remains(replaced),
            };
            if let Some(earlier) = work.unwritten.take() {
                receipt = together(earlier, receipt);
            }
            tracing::debug!(seq = work.seq, document = work.document, ?count, complete = receipt.complete, "deleted");
            (work, receipt)
        };
        works.into_iter().zip(of).map(receipt).collect()
    }

    /// Writes receipts; what is not complete after that, or could not be written, is done once more later.
    async fn write_all(self: &Arc<Self>, receipts: Vec<(Work, Receipt)>) {
        let (mut left, mut failed, mut failures) = (Vec::new(), Vec::new(), 0);
        for (mut work, receipt) in receipts {
            // They wait for the same, most likely; one that fails by itself must not hold up the others.
            if failures >= FAILURES {
                work.unwritten = Some(receipt);
                left.push(work);
                continue;
            }
            match self.write(&receipt).await {
                Ok(complete) => {
                    failures = 0;
                    match complete {
                        true => self.settle(work.seq).await,
                        false => left.push(work),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, seq = work.seq, "the receipt of a deletion could not be written; it is tried again");
                    failures += 1;
                    work.unwritten = Some(receipt);
                    failed.push(work);
                }
            }
        }
        self.written.send_replace(());
        left.extend(failed);
        if !left.is_empty() {
            self.later(left);
        }
    }
}

/// The pause before what could not be done so often is tried again.
fn pause(tries: u32) -> Duration {
    AGAIN * (1 << tries.min(DOUBLINGS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_is_tried_more_and_more_rarely() {
        let pauses: Vec<Duration> = (0..20).map(pause).collect();
        assert_eq!((pauses[0], pauses[19]), (AGAIN, Duration::from_secs(64)));
        assert!(pauses.is_sorted());
    }
}

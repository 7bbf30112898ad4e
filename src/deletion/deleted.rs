//! What was deleted a while ago, so that nobody who had read it before keeps it after.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::answer::evidence::RestsOn;

/// Documents beside which those that are old enough are forgotten.
const SWEEP_AT: usize = 1024;

/// See the module. A document that comes again has a newer revision, and is not deleted.
pub struct Deleted {
    /// Up to which revision, and when it was told.
    documents: RwLock<HashMap<u64, (u64, Instant)>>,
    /// How long that is remembered.
    keep: RwLock<Duration>,
}

impl Deleted {
    /// Remembers what is deleted for so long: at least as long as anybody works with what was found before.
    pub fn new(keep: Duration) -> Self {
        Self { documents: RwLock::default(), keep: RwLock::new(keep) }
    }

    /// Remembers it for so long, if that is longer: who began before may still work under what held then.
    pub fn keep_at_least(&self, keep: Duration) {
        let mut now = self.keep.write();
        *now = keep.max(*now);
    }

    /// These documents are deleted, up to these revisions.
    pub fn add(&self, deleted: &[RestsOn]) {
        let now = Instant::now();
        let mut documents = self.documents.write();
        for RestsOn { document, revision } in deleted {
            let known = documents.entry(*document).or_insert((0, now));
            *known = (known.0.max(*revision), now);
        }
        if documents.len() > SWEEP_AT {
            let keep = *self.keep.read();
            documents.retain(|_, (_, since)| since.elapsed() < keep);
        }
    }

    /// Whether this is deleted.
    pub fn has(&self, one: &RestsOn) -> bool {
        self.any(std::slice::from_ref(one))
    }

    /// Whether any of these is deleted.
    pub fn any(&self, of: &[RestsOn]) -> bool {
        let documents = self.documents.read();
        !documents.is_empty()
            && of.iter().any(|one| documents.get(&one.document).is_some_and(|(upto, _)| one.revision <= *upto))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_comes_again_is_not_deleted() {
        let deleted = Deleted::new(Duration::from_secs(60));
        let of = |document: &str, revision| RestsOn::new("store", document, revision);
        assert!(!deleted.has(&of("a", 1)));
        deleted.add(&[of("a", 3)]);
        // A notice that comes late takes nothing back.
        deleted.add(&[of("a", 2)]);
        assert!(deleted.has(&of("a", 1)) && deleted.has(&of("a", 3)));
        assert!(!deleted.has(&of("a", 4)) && !deleted.has(&of("b", 1)));
        assert!(!deleted.has(&RestsOn::new("another store", "a", 1)));
        assert!(deleted.any(&[of("b", 1), of("a", 1)]));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let deleted = Deleted::new(Duration::ZERO);
        for n in 0..10 * SWEEP_AT {
            deleted.add(&[RestsOn::new("store", &n.to_string(), 1)]);
        }
        assert!(deleted.documents.read().len() <= SWEEP_AT);
    }
}

//! What an operation changes, given what is known of its document: the rule by which every store of documents takes
//! operations, however often, late or out of order they come.

use super::document_store::{Outcome, Receipt};
use crate::documents::event::{Operation, content_hash};

/// In SQL, a failed operation whose event is not with the dead letters yet: until it is, its reason is needed, whatever came after
/// it. Burying an event takes its operation's number off it.
pub(super) const UNBURIED: &str =
    "(state = 2 AND position IS NOT NULL AND EXISTS (SELECT 1 FROM events WHERE events.seq = operations.seq))";

/// What a store knows of a document: its last operation.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub seq: u64,
    pub revision: u64,
    pub delete: bool,
    pub failed: bool,
    /// Hash of what was upserted.
    pub hash: Option<Vec<u8>>,
    /// When the bus received the event behind it.
    pub position: Option<i64>,
}

/// What is to be done with an operation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It becomes the document's last operation, and gives it this revision.
    Accept { revision: u64 },
    /// It changes nothing; `note` is what the known operation is to remember of it.
    Keep { receipt: Receipt, note: Option<Note> },
}

/// Revision and position of the known operation from now on; where it is an upsert and still served, the revision is that
/// of the served version too.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub seq: u64,
    pub revision: u64,
    pub position: Option<i64>,
}

impl Known {
    /// Whether it came on the bus at `position` or later. Decides only where no revision does.
    fn is_from_or_after(&self, position: Option<i64>) -> bool {
        matches!((self.position, position), (Some(known), Some(position)) if position <= known)
    }

    fn keep(&self, outcome: Outcome, note: Option<Note>) -> Decision {
        let revision = match (&note, outcome) {
            (Some(note), Outcome::Unchanged) => note.revision,
            _ => self.revision,
        };
        Decision::Keep { receipt: Receipt { seq: self.seq, revision, outcome }, note }
    }
}

/// The hash by which unchanged content is known again; zeros for a delete.
pub(super) fn hash(operation: &Operation) -> [u8; 32] {
    match operation {
        Operation::Upsert(upsert) => content_hash(upsert),
        Operation::Delete { .. } => [0; 32],
    }
}

/// Decides about an operation that came on the bus at `position`, if it did.
pub(super) fn decide(known: Option<&Known>, operation: &Operation, hash: &[u8], position: Option<i64>) -> Decision {
    match operation {
        Operation::Upsert(upsert) => decide_upsert(known, upsert.revision, hash, position),
        Operation::Delete { revision, .. } => decide_delete(known, *revision, position),
    }
}

fn decide_upsert(known: Option<&Known>, given: Option<u64>, hash: &[u8], position: Option<i64>) -> Decision {
    let Some(known) = known else { return Decision::Accept { revision: given.unwrap_or(1) } };
    // What failed may be sent again with the same revision: the cause may have been ours.
    let same = !known.delete && known.hash.as_deref() == Some(hash) && !known.failed;
    match given {
        Some(given) if given < known.revision || (given == known.revision && !known.failed) => {
            known.keep(Outcome::Outdated, None)
        }
        // The revision moves on with no work to do: only its number is remembered.
        Some(given) if same => {
            let note = Note { seq: known.seq, revision: given, position: known.position };
            known.keep(Outcome::Unchanged, Some(note))
        }
        Some(given) => Decision::Accept { revision: given },
        None if known.is_from_or_after(position) => known.keep(Outcome::Outdated, None),
        // So that an event from before this one is still known to be older.
        None if same => {
            let note = Note { seq: known.seq, revision: known.revision, position: position.or(known.position) };
            known.keep(Outcome::Unchanged, Some(note))
        }
        None => Decision::Accept { revision: known.revision + 1 },
    }
}

fn decide_delete(known: Option<&Known>, given: Option<u64>, position: Option<i64>) -> Decision {
    match known {
        // What is on its way and older than this deletion must not bring the document back.
        Some(known) if known.delete => {
            let revision = known.revision.max(given.unwrap_or(0));
            known.keep(Outcome::Absent, Some(Note { seq: known.seq, revision, position: known.position.max(position) }))
        }
        Some(known) if given.is_some_and(|given| given < known.revision) => known.keep(Outcome::Outdated, None),
        Some(known) if given.is_none() && known.is_from_or_after(position) => known.keep(Outcome::Outdated, None),
        // With a revision or a place on the bus, a delete of what never came is remembered: its upsert may still be on
        // the way.
        None if given.is_none() && position.is_none() => {
            Decision::Keep { receipt: Receipt { seq: 0, revision: 0, outcome: Outcome::Absent }, note: None }
        }
        known => Decision::Accept { revision: given.unwrap_or_else(|| known.map_or(1, |known| known.revision + 1)) },
    }
}

//! What is said of a deletion: from where a document was removed, what only hides it, and what was not reached.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What became of a document in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = RemovalState)]
pub enum State {
    /// It is gone.
    Removed,
    /// Nothing finds it any more; its bytes go later, as `detail` says.
    Hidden,
    /// Who has it was told, and has not said that it did.
    Told,
    /// It could not be asked; it is tried again.
    Unreachable,
}

/// A place that had something of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removal {
    /// The place.
    pub what: String,
    /// How much there was: documents, chunks, entries, answers.
    pub entries: u64,
    /// What became of it.
    pub state: State,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Until when, or why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Removal {
    /// So much is gone from there, now.
    pub fn removed(what: impl Into<String>, entries: u64, at_ms: u64) -> Self {
        Self { what: what.into(), entries, state: State::Removed, at_ms, detail: None }
    }

    /// Otherwise, and why.
    pub fn but(self, state: State, detail: impl Into<String>) -> Self {
        Self { state, detail: Some(detail.into()), ..self }
    }
}

/// What became of a document that was deleted. It names the document and quotes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeletionReceipt)]
pub struct Receipt {
    /// The document.
    pub document_id: String,
    /// Its collection, if anything of it was served.
    pub collection: Option<String>,
    /// The revision that was served.
    pub revision: Option<u64>,
    /// The operation.
    pub seq: u64,
    /// When the operation was accepted, where that was noted; in milliseconds since the Unix epoch.
    pub accepted_ms: Option<u64>,
    /// When nothing found it any more.
    pub deleted_ms: u64,
    /// Everything that was reached is done; otherwise it goes on, and the receipt with it.
    pub complete: bool,
    /// Where it was.
    pub removed_from: Vec<Removal>,
    /// What nobody here can reach.
    pub remains: Vec<String>,
}

/// Whether all that was there was reached.
pub fn is_complete(removed_from: &[Removal]) -> bool {
    removed_from.iter().all(|removal| removal.state != State::Unreachable)
}

/// What is known of a place, and what came of trying again. What is gone from it stays gone.
fn again_at(known: Removal, later: Removal) -> Removal {
    let entries = match (known.state, later.state) {
        // The same that was there the first time, or that try itself.
        (State::Hidden, _) | (_, State::Hidden) => known.entries.max(later.entries),
        _ if known.at_ms == later.at_ms => known.entries.max(later.entries),
        _ => known.entries + later.entries,
    };
    match known.state == State::Removed && later.state != State::Removed {
        true => Removal { entries, ..known },
        false => Removal { entries, ..later },
    }
}

/// A receipt that was not complete, and what came of trying again.
pub fn together(earlier: Receipt, later: Receipt) -> Receipt {
    let mut removed_from = earlier.removed_from;
    for removal in later.removed_from {
        match removed_from.iter_mut().find(|known| known.what == removal.what) {
            None => removed_from.push(removal),
            Some(known) => *known = again_at(known.clone(), removal),
        }
    }
    Receipt {
        collection: earlier.collection.or(later.collection),
        revision: earlier.revision.or(later.revision),
        accepted_ms: earlier.accepted_ms.or(later.accepted_ms),
        deleted_ms: earlier.deleted_ms,
        complete: is_complete(&removed_from),
        removed_from,
        ..later
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(removed_from: Vec<Removal>) -> Receipt {
        Receipt {
            document_id: "a".into(),
            collection: None,
            revision: None,
            seq: 7,
            accepted_ms: None,
            deleted_ms: removed_from[0].at_ms,
            complete: is_complete(&removed_from),
            removed_from,
            remains: Vec::new(),
        }
    }

    fn at(state: State, entries: u64, at_ms: u64) -> Removal {
        let removal = Removal::removed("there", entries, at_ms);
        if state == State::Removed { removal } else { removal.but(state, "why") }
    }

    /// What two tries have come to.
    fn both(earlier: Removal, later: Removal) -> (State, u64, bool) {
        let both = together(receipt(vec![earlier]), receipt(vec![later]));
        assert_eq!(both.removed_from.len(), 1);
        (both.removed_from[0].state, both.removed_from[0].entries, both.complete)
    }

    #[test]
    fn what_is_gone_stays_gone_and_counts_once() {
        use State::{Hidden, Removed, Told, Unreachable};
        // The files were rid of it before another try hides it.
        assert_eq!(both(at(Removed, 1, 5), at(Hidden, 1, 9)), (Removed, 1, true));
        assert_eq!(both(at(Hidden, 3, 5), at(Hidden, 3, 9)), (Hidden, 3, true));
        assert_eq!(both(at(Hidden, 0, 5), at(Hidden, 3, 9)), (Hidden, 3, true));
        assert_eq!(both(at(Removed, 2, 5), at(Told, 0, 9)), (Removed, 2, true));
        assert_eq!(both(at(Told, 0, 5), at(Removed, 2, 9)), (Removed, 2, true));
        assert_eq!(both(at(Unreachable, 1, 5), at(Removed, 2, 9)), (Removed, 3, true));
        assert_eq!(both(at(Removed, 2, 5), at(Unreachable, 0, 9)), (Removed, 2, true));
        assert_eq!(both(at(Unreachable, 0, 5), at(Unreachable, 0, 9)), (Unreachable, 0, false));
        // The answer to the first write was lost, and it is the same try.
        assert_eq!(both(at(Removed, 2, 5), at(Removed, 2, 5)), (Removed, 2, true));
        let first = receipt(vec![at(Removed, 2, 5)]);
        assert_eq!(together(first.clone(), first.clone()), first);
    }
}

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

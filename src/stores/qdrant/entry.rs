//! What is known of a document, as one value that changes as a whole: its operations, and what is served of it. The rules
//! are here; how the value gets to the server and back is the parent's business.

use qdrant_client::Payload;
use qdrant_client::qdrant::Value;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::documents::Format;
use crate::retrieval::filter::DocumentFields;
use crate::stores::admission::{Known, Note};
use crate::stores::archive::Said;
use crate::stores::document_store::{DocumentRecord, LastOperation, OperationState, Progress, Served};

/// Bytes that are kept in pieces, as points of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Blob {
    pub key: Uuid,
    pub pieces: u64,
}

/// Accepted operations that are remembered.
const REMEMBERED: usize = 32;

/// An operation, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    pub seq: u64,
    pub delete: bool,
    pub revision: u64,
    pub state: u8,
    pub reason: Option<String>,
    pub received_ms: i64,
    pub parsed_ms: Option<i64>,
    pub embedded_ms: Option<i64>,
    pub settled_ms: Option<i64>,
    pub said: Said,
    /// The content, until it is settled.
    pub content: Option<Blob>,
    /// The event from the bus behind it, until it is known not to be needed for the dead letters.
    pub event: Option<String>,
}

/// What is served.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Version {
    pub seq: u64,
    pub revision: u64,
    pub media_type: Option<String>,
    pub format: String,
    pub title: String,
    pub url: Option<String>,
    pub collection: String,
    pub metadata: crate::documents::event::Metadata,
    pub updated_ms: i64,
    pub chunks: u64,
    /// The commit with which it is served: its chunks were all there before.
    pub commit: u64,
    /// The source text. Its key names the attempt at this version, and is in its chunks: another attempt at the same
    /// operation may have cut them in another way.
    pub text: Blob,
}

/// See the module.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Entry {
    pub document: String,
    /// Those that wait, and the last one, by number.
    pub operations: Vec<Kept>,
    pub served: Option<Version>,
    /// Operations whose result is about to be served, see `Qdrant::serve`.
    pub swapping: Vec<u64>,
    /// The process that works on what waits.
    pub owner: String,
    /// The last operations that were accepted, whatever became of them.
    pub accepted: Vec<u64>,
    /// Contents that nobody needs any more.
    pub useless: Vec<Blob>,
    /// There may be such contents, and chunks of what is neither served nor waits.
    pub untidy: bool,
}

/// What is to be done with the result of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It is to be served.
    Yes,
    /// It is served, has failed, or is not known any more.
    Settled,
    /// A later one has been stored.
    Overtaken,
}

impl Kept {
    pub fn state(&self) -> OperationState {
        OperationState::of(self.state)
    }

    pub fn waits(&self) -> bool {
        self.state() == OperationState::Received
    }

    /// Whether it has failed and its event is not with the dead letters yet: its reason is needed.
    fn is_unburied(&self) -> bool {
        self.state() == OperationState::Failed && self.event.is_some()
    }

    /// When it began to be overdue: where it came by a bus, when that took it.
    fn since_ms(&self) -> i64 {
        self.said.position.map_or(self.received_ms, |position| position / 1_000_000)
    }

    pub fn last_operation(&self) -> LastOperation {
        LastOperation {
            seq: self.seq,
            delete: self.delete,
            revision: self.revision,
            state: self.state(),
            settled: !self.waits(),
            reason: self.reason.clone(),
            published_ms: self.said.position.map(|position| position / 1_000_000),
            received_ms: self.received_ms,
            progress: Progress { parsed_ms: self.parsed_ms, embedded_ms: self.embedded_ms },
            settled_ms: self.settled_ms,
            visible_ms: self.settled_ms.filter(|_| self.state() == OperationState::Stored),
        }
    }
}

impl Entry {
    pub fn new(document: &str) -> Self {
        Self { document: document.to_owned(), ..Self::default() }
    }

    /// The last operation, as the rule of admission sees it.
    pub fn known(&self) -> Option<Known> {
        let last = self.operations.last()?;
        Some(Known {
            seq: last.seq,
            revision: last.revision,
            delete: last.delete,
            failed: last.state() == OperationState::Failed,
            hash: last.said.hash.clone(),
            position: last.said.position,
        })
    }

    pub fn operation(&self, seq: u64) -> Option<&Kept> {
        self.operations.iter().find(|operation| operation.seq == seq)
    }

    fn operation_mut(&mut self, seq: u64) -> Option<&mut Kept> {
        self.operations.iter_mut().find(|operation| operation.seq == seq)
    }

    /// Makes an operation the last one; it replaces those that are settled.
    pub fn accept(&mut self, operation: Kept, owner: &str) {
        self.operations.retain(|operation| operation.waits() || operation.is_unburied());
        self.accepted.push(operation.seq);
        let surplus = self.accepted.len().saturating_sub(REMEMBERED);
        self.accepted.drain(..surplus);
        self.operations.push(operation);
        owner.clone_into(&mut self.owner);
    }

    /// The operation of an event, where it is remembered.
    pub fn of_event(&self, event: &str) -> Option<&Kept> {
        self.operations.iter().find(|operation| operation.event.as_deref() == Some(event))
    }

    /// The numbers of the operations that wait.
    pub fn waiting(&self) -> Vec<u64> {
        self.operations.iter().filter(|operation| operation.waits()).map(|operation| operation.seq).collect()
    }

    /// Chunks of operations below this number are those of what is served, or left over.
    pub fn settled_below(&self) -> u64 {
        let waits = self.operations.iter().find(|operation| operation.waits());
        waits.or(self.operations.last()).map_or(0, |operation| operation.seq + u64::from(!operation.waits()))
    }

    /// Remembers what an operation that changes nothing said of the last one.
    pub fn keep_in_mind(&mut self, note: &Note) {
        if let Some(operation) = self.operation_mut(note.seq) {
            operation.revision = note.revision;
            operation.said.position = note.position;
        }
        if let Some(served) = self.served.as_mut().filter(|served| served.seq == note.seq) {
            served.revision = note.revision;
        }
    }

    pub fn wants(&self, seq: u64) -> Wanted {
        let stored_later = |later: &Kept| later.seq > seq && later.state() == OperationState::Stored;
        match self.operation(seq) {
            Some(operation) if !operation.waits() => Wanted::Settled,
            Some(_) if self.operations.iter().any(stored_later) => Wanted::Overtaken,
            Some(_) => Wanted::Yes,
            None => Wanted::Settled,
        }
    }

    /// Settles an operation: its version is served from here on, or none after a delete. What came before it is
    /// forgotten.
    pub fn store(&mut self, seq: u64, version: Option<Version>, progress: Progress, now_ms: i64) {
        self.useless.extend(self.served.take().map(|served| served.text));
        let (earlier, mut rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.operations).into_iter().partition(|operation| operation.seq < seq);
        let (unburied, earlier): (Vec<_>, Vec<_>) = earlier.into_iter().partition(Kept::is_unburied);
        self.useless.extend(earlier.into_iter().filter_map(|operation| operation.content));
        if let Some(operation) = rest.iter_mut().find(|operation| operation.seq == seq) {
            operation.state = OperationState::Stored as u8;
            operation.settled_ms = Some(now_ms);
            (operation.parsed_ms, operation.embedded_ms) = (progress.parsed_ms, progress.embedded_ms);
            self.useless.extend(operation.content.take());
        }
        self.operations = unburied.into_iter().chain(rest).collect();
        self.swapping.retain(|swapping| *swapping > seq);
        self.served = version;
        self.untidy = true;
    }

    /// Settles an operation that comes to nothing.
    pub fn end(&mut self, seq: u64, state: OperationState, reason: Option<&str>, now_ms: i64) {
        self.swapping.retain(|swapping| *swapping != seq);
        self.untidy = true;
        let Some(operation) = self.operation_mut(seq) else { return };
        operation.state = state as u8;
        operation.reason = reason.map(str::to_owned);
        operation.settled_ms = Some(now_ms);
        let content = operation.content.take();
        self.useless.extend(content);
        // What waits beside it may be another process' that has died since: whoever comes takes it.
        if self.operations.iter().any(Kept::waits) {
            self.owner.clear();
        }
    }

    /// Nothing is left over.
    pub fn tidied(&mut self) {
        self.useless.clear();
        self.untidy = false;
    }

    /// The event of an operation is with the dead letters.
    pub fn bury(&mut self, seq: u64) {
        if let Some(operation) = self.operation_mut(seq) {
            operation.event = None;
        }
    }

    /// As others see it.
    pub fn record(&self) -> Option<DocumentRecord> {
        let last = self.operations.last()?;
        let served = self.served.as_ref().map(|version| Served {
            revision: version.revision,
            title: version.title.clone(),
            url: version.url.clone(),
            collection: version.collection.clone(),
            media_type: version.media_type.clone(),
            format: Format::from_name(&version.format),
            metadata: version.metadata.clone(),
            chunks: version.chunks,
            updated_ms: version.updated_ms,
        });
        let metadata = last.said.metadata.clone();
        Some(DocumentRecord { id: self.document.clone(), served, metadata, last: last.last_operation() })
    }

    /// Whether a list of documents shows it, as one that is served, waits or has failed.
    pub fn is_listed(&self) -> bool {
        self.served.is_some() || self.operations.last().is_some_and(|last| !last.delete)
    }

    /// The collection that it is in, or is about to be.
    pub fn collection(&self) -> &str {
        let said = self.operations.last().map(|last| last.said.collection.as_str()).filter(|name| !name.is_empty());
        said.or(self.served.as_ref().map(|served| served.collection.as_str())).unwrap_or_default()
    }

    /// As it is stored: whole, and beside it what is looked for. `turn` tells this state from every other one.
    pub fn payload(&self, turn: &str) -> Payload {
        let waiting = self.waiting();
        let integers = |numbers: Vec<u64>| numbers.into_iter().map(|n| Value::from(n as i64)).collect::<Vec<_>>();
        let mut payload = Payload::new();
        payload.insert("document", self.document.as_str());
        payload.insert("state", json!(self).to_string());
        payload.insert("turn", turn);
        payload.insert("seqs", integers(self.operations.iter().map(|operation| operation.seq).collect()));
        payload.insert("last", self.operations.last().map_or(0, |last| last.seq) as i64);
        payload.insert("waiting", waiting.len() as i64);
        if let Some(first) = waiting.first().and_then(|first| self.operation(*first)) {
            payload.insert("first", first.seq as i64);
            payload.insert("since_ms", first.since_ms());
        }
        payload.insert("waits", integers(waiting));
        payload.insert("untidy", self.untidy);
        if let Some(served) = &self.served {
            payload.insert("served", served.seq as i64);
            payload.insert("attempt", served.text.key.to_string());
            payload.insert("commit", served.commit as i64);
        }
        payload.insert("failed", self.operations.last().is_some_and(|last| last.state() == OperationState::Failed));
        payload.insert("listed", self.is_listed());
        payload.insert("collection", self.collection());
        let folders = self.document.match_indices('/').map(|(at, _)| self.document[..=at].to_owned());
        payload.insert("folders", folders.collect::<Vec<_>>());
        payload.insert("swapping", !self.swapping.is_empty());
        payload.insert("owner", self.owner.as_str());
        payload
    }
}

impl Version {
    /// As filters see it.
    pub fn fields<'v>(&'v self, document: &'v str) -> DocumentFields<'v> {
        DocumentFields {
            id: document,
            collection: &self.collection,
            title: &self.title,
            media_type: self.media_type.as_deref(),
            url: self.url.as_deref(),
            updated_ms: self.updated_ms,
            metadata: &self.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(seq: u64) -> Kept {
        Kept {
            seq,
            delete: false,
            revision: seq,
            state: 0,
            reason: None,
            received_ms: 1,
            parsed_ms: None,
            embedded_ms: None,
            settled_ms: None,
            said: Said::default(),
            content: Some(Blob { key: Uuid::from_u128(seq.into()), pieces: 1 }),
            event: None,
        }
    }

    fn version(seq: u64) -> Version {
        Version {
            seq,
            revision: seq,
            media_type: None,
            format: "text".into(),
            title: "t".into(),
            url: None,
            collection: "default".into(),
            metadata: Default::default(),
            updated_ms: 5,
            chunks: 1,
            commit: 1,
            text: Blob { key: Uuid::from_u128(1000 + u128::from(seq)), pieces: 1 },
        }
    }

    fn keys(blobs: &[Blob]) -> Vec<u128> {
        blobs.iter().map(|blob| blob.key.as_u128()).collect()
    }

    #[test]
    fn what_waits_stays_until_it_or_a_later_one_is_stored() {
        let mut entry = Entry::new("a");
        for seq in [7, 8, 9] {
            entry.accept(operation(seq), "p");
        }
        assert_eq!(entry.operations.len(), 3);
        entry.end(8, OperationState::Failed, Some("bad"), 2);
        assert_eq!((keys(&entry.useless), entry.owner.as_str(), entry.settled_below()), (vec![8], "", 7));
        entry.tidied();
        assert_eq!((entry.wants(7), entry.wants(8), entry.wants(9)), (Wanted::Yes, Wanted::Settled, Wanted::Yes));
        entry.store(7, Some(version(7)), Progress::default(), 3);
        assert_eq!((keys(&entry.useless), entry.settled_below()), (vec![7], 9));
        assert_eq!(entry.served.as_ref().map(|served| served.seq), Some(7));
        // The text of 7, and 8 is forgotten with it.
        entry.tidied();
        entry.store(9, Some(version(9)), Progress::default(), 4);
        assert_eq!((keys(&entry.useless), entry.settled_below(), entry.untidy), (vec![1007, 9], 10, true));
        assert_eq!((entry.wants(9), entry.wants(7)), (Wanted::Settled, Wanted::Settled));
        entry.accept(operation(12), "p");
        assert_eq!(entry.operations.iter().map(|operation| operation.seq).collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn what_failed_stays_until_its_event_is_with_the_dead_letters() {
        let mut entry = Entry::new("a");
        entry.accept(Kept { event: Some("e".into()), ..operation(1) }, "p");
        entry.end(1, OperationState::Failed, Some("bad"), 2);
        entry.accept(operation(2), "p");
        entry.store(2, Some(version(2)), Progress::default(), 3);
        assert_eq!(entry.operation(1).and_then(|failed| failed.reason.as_deref()), Some("bad"));
        assert_eq!(entry.known().map(|known| known.seq), Some(2));
        entry.bury(1);
        entry.accept(operation(3), "p");
        assert_eq!(entry.operations.iter().map(|operation| operation.seq).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn what_is_about_to_be_served_is_marked_until_it_is_or_a_later_one() {
        let mut entry = Entry::new("a");
        entry.accept(operation(1), "p");
        entry.accept(operation(2), "p");
        entry.swapping = vec![1, 2];
        entry.store(1, Some(version(1)), Progress::default(), 1);
        assert_eq!(entry.swapping, [2]);
        entry.swapping = vec![2, 1];
        entry.store(2, Some(version(2)), Progress::default(), 1);
        assert!(entry.swapping.is_empty());
    }
}

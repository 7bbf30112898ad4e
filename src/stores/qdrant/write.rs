//! Writing: accepting operations, taking them over, serving what came of them.

use std::collections::{BTreeMap, HashMap};

use qdrant_client::Payload;
use qdrant_client::qdrant::{
    Condition, CreateFieldIndexCollectionBuilder, FieldType, Filter, NamedVectors, PointId, PointStruct, Range,
    RetrievedPoint, Value, Vector, vector_output,
};

use super::entry::{Blob, Entry, Kept, Version, Wanted};
use super::filter::{MARKS, NUMBERS, marks, number_of, numbers};
use super::schema::{DENSE, SPARSE};
use super::server::{Collection, id, integer, is, plain, text};
use super::{Held, Qdrant, contents, words};
use crate::documents::ParsedDocument;
use crate::documents::event::{Operation, Upsert};
use crate::stores::StoreError;
use crate::stores::admission::{self, Decision};
use crate::stores::archive::Said;
use crate::stores::document_store::{NewChunk, OperationState, Origin, Outcome, Progress, Receipt};

/// Documents taken over at once.
const CLAIMED_AT_ONCE: u32 = 500;
/// Chunks sent at once.
const CHUNKS_AT_ONCE: usize = 128;
/// Operations of one document that may wait: its point holds all of them.
const MOST_WAITING: usize = 256;
/// Numbers that have an index.
const MOST_INDEXED: usize = 64;

/// A version to store: the document, its chunks, and when it came to its stages.
pub(super) type NewVersion = (ParsedDocument, Vec<NewChunk>, Progress);

fn event_id(event: &[u8; 16]) -> PointId {
    id(&["event", &hex::encode(event)])
}

/// A chunk of an attempt at a version, by its place.
fn chunk_id(attempt: &str, n: usize) -> PointId {
    id(&["chunk", attempt, &n.to_string()])
}

impl Qdrant {
    pub(super) async fn receive_operation(
        &self,
        operation: Operation,
        origin: Option<Origin>,
        now_ms: i64,
    ) -> Result<Receipt, StoreError> {
        const DOING: &str = "store the received document";
        if let Some(origin) = &origin
            && let Some(seq) = self.event_seq(DOING, &origin.event).await?
        {
            return Ok(Receipt { seq, revision: operation.revision().unwrap_or(0), outcome: Outcome::Repeated });
        }
        let document = operation.id().as_ref().to_owned();
        let position = origin.and_then(|origin| origin.position);
        let event = origin.filter(|_| position.is_some()).map(|origin| hex::encode(origin.event));
        let hash = admission::hash(&operation);
        let (mut accepted, mut content) = ((0, 0), None);
        let receipt = loop {
            let mut held = self.hold(DOING, &document).await?;
            let (seq, revision) = accepted;
            // By the try before this one, and others have come since.
            if held.entry.accepted.contains(&seq) {
                break Receipt { seq, revision, outcome: Outcome::Accepted };
            }
            // The same event, by one that was interrupted.
            if let Some(known) = event.as_deref().and_then(|event| held.entry.of_event(event)) {
                break Receipt { seq: known.seq, revision: known.revision, outcome: Outcome::Repeated };
            }
            let known = held.entry.known();
            match admission::decide(known.as_ref(), &operation, &hash, position) {
                Decision::Keep { receipt, note } => {
                    if let Some(note) = note {
                        held.entry.keep_in_mind(&note);
                        if !self.replace_entry(DOING, &mut held).await? {
                            continue;
                        }
                    }
                    contents::delete(&self.server, DOING, content.as_slice()).await?;
                    break receipt;
                }
                Decision::Accept { revision } => {
                    if held.entry.waiting().len() >= MOST_WAITING {
                        contents::delete(&self.server, DOING, content.as_slice()).await?;
                        let reason = format!("{MOST_WAITING} operations on {document:?} wait already");
                        return Err(StoreError::Unavailable(reason));
                    }
                    if let (Operation::Upsert(upsert), None) = (&operation, &content) {
                        content = Some(contents::put(&self.server, DOING, &upsert.content).await?);
                    }
                    // Operations of a document are in the order of their numbers.
                    let last = known.map_or(0, |known| known.seq);
                    if seq <= last {
                        accepted = (self.seqs.next(&self.server).await?, revision);
                    }
                    if accepted.0 <= last {
                        continue;
                    }
                    accepted.1 = revision;
                    let mut new = kept(&operation, accepted.0, revision, &hash, position, content.clone(), now_ms);
                    new.event.clone_from(&event);
                    held.entry.accept(new, &self.presence.process);
                    // Before it is there: who looks for what nobody works on must not take it for that.
                    self.handed.lock().insert(accepted.0);
                    match self.replace_entry(DOING, &mut held).await {
                        Ok(true) => break Receipt { seq: accepted.0, revision, outcome: Outcome::Accepted },
                        Ok(false) => {}
                        Err(error) => {
                            // It may be there all the same; then it is to be found.
                            self.handed.lock().remove(&accepted.0);
                            return Err(error);
                        }
                    }
                }
            }
        };
        // Last: an event that comes again before this is known by its operation.
        if let Some(origin) = &origin
            && let Err(error) = self.put_event(DOING, &origin.event, receipt.seq).await
        {
            self.handed.lock().remove(&receipt.seq);
            return Err(error);
        }
        Ok(receipt)
    }

    pub(super) async fn event_seq(&self, doing: &str, event: &[u8; 16]) -> Result<Option<u64>, StoreError> {
        let found = self.server.get(doing, Collection::Events, vec![event_id(event)], None).await?;
        Ok(found.first().map(|point| integer(point, "seq").unwrap_or(0) as u64))
    }

    pub(super) async fn put_event(&self, doing: &str, event: &[u8; 16], seq: u64) -> Result<(), StoreError> {
        self.put_events(doing, vec![(event.to_vec(), seq)]).await
    }

    pub(super) async fn put_events(&self, doing: &str, events: Vec<(Vec<u8>, u64)>) -> Result<(), StoreError> {
        let points = events
            .into_iter()
            .map(|(event, seq)| {
                let key = hex::encode(&event);
                let mut payload = Payload::new();
                payload.insert("seq", seq as i64);
                payload.insert("key", key.as_str());
                plain(id(&["event", &key]), payload)
            })
            .collect();
        self.server.put(doing, Collection::Events, points).await
    }

    /// See [`DocumentStore::remember_event`](crate::stores::document_store::DocumentStore::remember_event).
    pub(super) async fn bury_event(&self, event: &[u8; 16]) -> Result<(), StoreError> {
        const DOING: &str = "remember an event";
        let seq = self.event_seq(DOING, event).await?.filter(|seq| *seq > 0);
        // In this order: what is interrupted is done again.
        while let Some(seq) = seq
            && let Some(mut held) = self.hold_operation(DOING, seq).await?
            && held.entry.operation(seq).is_some_and(|operation| operation.event.is_some())
        {
            held.entry.bury(seq);
            if self.replace_entry(DOING, &mut held).await? {
                break;
            }
        }
        self.put_event(DOING, event, 0).await
    }

    pub(super) async fn delete_event(&self, doing: &str, event: &[u8; 16]) -> Result<(), StoreError> {
        let fits = Filter::must([Condition::has_id([event_id(event)])]);
        self.server.delete(doing, Collection::Events, fits).await
    }

    pub(super) async fn claim_operations(&self, again: bool) -> Result<Vec<(u64, String)>, StoreError> {
        const DOING: &str = "look for operations that nobody works on";
        let alive = self.presence.beat(&self.server).await?;
        let waits = Condition::range("waiting", Range { gte: Some(1.0), ..Range::default() });
        let own = Filter::must([waits.clone(), is("owner", &self.presence.process)]);
        let mut nobodys = Filter::must([waits]);
        nobodys.must_not = alive.iter().map(|process| is("owner", process)).collect();
        let page = (None, CLAIMED_AT_ONCE);
        let (points, _) = self.server.page(DOING, Collection::Documents, nobodys, None, None, page).await?;
        for point in points {
            let mut held = Held::read(&self.server, &point)?;
            self.presence.process.clone_into(&mut held.entry.owner);
            // Of several that take it over, one does.
            self.replace_entry(DOING, &mut held).await?;
        }
        // What is this process' by now, and was not handed out: also what an interrupted call has left.
        let points = self.server.all(DOING, Collection::Documents, own, Some(&["document", "waits"]), None).await?;
        let taken = self.hand_out(&points, again);
        self.tidy_all().await?;
        Ok(taken)
    }

    /// The operations of this process that wait, in order; without `again` those that nobody was told to carry out.
    fn hand_out(&self, points: &[RetrievedPoint], again: bool) -> Vec<(u64, String)> {
        let waiting = points
            .iter()
            .flat_map(|point| integers(point, "waits").into_iter().map(|seq| (seq, text(point, "document"))));
        let waiting: BTreeMap<u64, String> = waiting.collect();
        let mut handed = self.handed.lock();
        // One that is accepted just now is not among them yet: it is carried out twice then, which does no harm.
        let before = std::mem::replace(&mut *handed, waiting.keys().copied().collect());
        waiting.into_iter().filter(|(seq, _)| again || !before.contains(seq)).collect()
    }

    /// Tidies up what interrupted processes have left.
    async fn tidy_all(&self) -> Result<(), StoreError> {
        const DOING: &str = "tidy up";
        let untidy = Filter::must([Condition::matches("untidy", true)]);
        let page = (None, CLAIMED_AT_ONCE);
        let (points, _) = self.server.page(DOING, Collection::Documents, untidy, None, None, page).await?;
        for point in points {
            self.tidy(DOING, Held::read(&self.server, &point)?).await?;
        }
        Ok(())
    }

    /// Deletes what nobody needs any more of a document: contents, and chunks of what is neither served nor waits.
    async fn tidy(&self, doing: &str, mut held: Held) -> Result<(), StoreError> {
        let Entry { document, served, useless, .. } = &held.entry;
        let settled = Range { lt: Some(held.entry.settled_below() as f64), ..Range::default() };
        let mut fits = Filter::must([is("document", document), Condition::range("seq", settled)]);
        fits.must_not.extend(served.as_ref().map(|served| is("attempt", &served.text.key.to_string())));
        self.server.delete(doing, Collection::Chunks, fits).await?;
        contents::delete(&self.server, doing, useless).await?;
        held.entry.tidied();
        // Where it has changed meanwhile, whoever changed it tidies up.
        self.replace_entry(doing, &mut held).await.map(drop)
    }

    /// Serves what came of an operation: a version, or none for a delete.
    ///
    /// A version is served by one replacement of its document's entry: a search drops the chunks of every version that
    /// the entry does not name. The chunks are there before that, and those of the version before go after it; what an
    /// interrupted process leaves is found by the entry's `untidy`.
    ///
    /// What is found must not change while the commit ([`super::read`]) stays. So the entry is marked first, then the
    /// commit advances, then the replacement takes the mark away. Who reads the commit, sees no mark, and reads the same
    /// commit again knows that all that belongs to this commit is served: each change was marked before the commit
    /// advanced for it, and is not marked any more. A process that dies in between leaves the mark, and meanwhile nothing
    /// is kept under a commit.
    pub(super) async fn serve(&self, seq: u64, new: Option<NewVersion>, now_ms: i64) -> Result<(), StoreError> {
        let doing = if new.is_some() { "store the document's chunks" } else { "delete the document" };
        let Some(held) = self.hold_operation(doing, seq).await? else { return Ok(()) };
        let document = held.entry.document.clone();
        let (mut version, mut progress) = (None, Progress::default());
        match held.entry.wants(seq) {
            Wanted::Settled => return Ok(()),
            Wanted::Overtaken => return self.end(doing, seq, OperationState::Superseded, None, now_ms).await,
            Wanted::Yes => {}
        }
        if let (Some((parsed, chunks, stages)), Some(operation)) = (new, held.entry.operation(seq)) {
            progress = stages;
            let made = self.put_version(doing, &document, operation, &parsed, &chunks, now_ms).await?;
            version = Some(made);
        }
        let mark = |entry: &mut Entry| entry.swapping.push(seq);
        if self.change_wanted(doing, &document, seq, mark).await?.is_some() {
            let commit = self.commits.next(&self.server).await?;
            let serve = |entry: &mut Entry| {
                // The revision may have moved on meanwhile, with no work to do.
                let revision = entry.operation(seq).map(|operation| operation.revision);
                let version = version.clone();
                let version =
                    version.map(|made| Version { revision: revision.unwrap_or(made.revision), commit, ..made });
                entry.store(seq, version, progress, now_ms)
            };
            if let Some(held) = self.change_wanted(doing, &document, seq, serve).await? {
                self.settled.tell(seq);
                return self.tidy(doing, held).await;
            }
        }
        self.settled.tell(seq);
        // Another replica has carried it out, or a later one, and has tidied up before we wrote.
        let held = self.hold(doing, &document).await?;
        if let Some(Version { text, .. }) = version
            && held.entry.served.as_ref().is_none_or(|served| served.text != text)
        {
            let attempt = Filter::must([is("attempt", &text.key.to_string())]);
            self.server.delete(doing, Collection::Chunks, attempt).await?;
            contents::delete(&self.server, doing, &[text]).await?;
        }
        Ok(())
    }

    /// Changes a document's entry as long as an operation is wanted, and gives it as it is then; none where it is not.
    async fn change_wanted(
        &self,
        doing: &str,
        document: &str,
        seq: u64,
        change: impl Fn(&mut Entry),
    ) -> Result<Option<Held>, StoreError> {
        loop {
            let mut held = self.hold(doing, document).await?;
            if held.entry.wants(seq) != Wanted::Yes {
                return Ok(None);
            }
            change(&mut held.entry);
            if self.replace_entry(doing, &mut held).await? {
                return Ok(Some(held));
            }
        }
    }

    /// Settles an operation that comes to nothing.
    pub(super) async fn end(
        &self,
        doing: &str,
        seq: u64,
        state: OperationState,
        reason: Option<&str>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        loop {
            let Some(mut held) = self.hold_operation(doing, seq).await? else { return Ok(()) };
            if held.entry.operation(seq).is_none_or(|operation| !operation.waits()) {
                return Ok(());
            }
            held.entry.end(seq, state, reason, now_ms);
            if self.replace_entry(doing, &mut held).await? {
                self.settled.tell(seq);
                return self.tidy(doing, held).await;
            }
        }
    }

    async fn put_version(
        &self,
        doing: &str,
        document: &str,
        operation: &Kept,
        parsed: &ParsedDocument,
        chunks: &[NewChunk],
        now_ms: i64,
    ) -> Result<Version, StoreError> {
        let Kept { seq, revision, said, .. } = operation;
        let found = parsed.title.clone().filter(|title| !title.is_empty());
        let version = Version {
            seq: *seq,
            revision: *revision,
            media_type: said.media_type.clone(),
            format: parsed.format.name().to_owned(),
            title: said.title.clone().or(found).unwrap_or_else(|| document.to_owned()),
            url: said.url.clone(),
            collection: said.collection.clone(),
            metadata: said.metadata.clone(),
            updated_ms: now_ms,
            chunks: chunks.len() as u64,
            commit: 0,
            text: contents::put(&self.server, doing, parsed.text.as_bytes()).await?,
        };
        self.put_chunks(doing, document, &version, &parsed.text, chunks).await?;
        Ok(version)
    }

    /// Puts the chunks of a version. They are found once its entry names it.
    pub(super) async fn put_chunks(
        &self,
        doing: &str,
        document: &str,
        version: &Version,
        source: &str,
        chunks: &[NewChunk],
    ) -> Result<(), StoreError> {
        let fields = version.fields(document);
        let (marks, numbers) = (marks(&fields), numbers(&fields));
        self.index_numbers(&numbers).await;
        let numbers = Value::from(serde_json::Value::Object(numbers));
        let attempt = version.text.key.to_string();
        for (batch, some) in chunks.chunks(CHUNKS_AT_ONCE).enumerate() {
            let points: Vec<PointStruct> = some
                .iter()
                .enumerate()
                .map(|(n, chunk)| {
                    let n = batch * CHUNKS_AT_ONCE + n;
                    let passage = &source[chunk.span.clone()];
                    let words = words::of_chunk(&version.title, &chunk.section.join(" > "), passage);
                    let mut payload = Payload::new();
                    payload.insert("document", document);
                    payload.insert("seq", version.seq as i64);
                    payload.insert("attempt", attempt.as_str());
                    payload.insert("n", n as i64);
                    payload.insert("section", chunk.section.clone());
                    payload.insert("start", chunk.span.start as i64);
                    payload.insert("stop", chunk.span.end as i64);
                    if let Some(page) = chunk.page {
                        payload.insert("page", i64::from(page));
                    }
                    payload.insert("tokens", chunk.tokens as i64);
                    payload.insert("hash", hex::encode(chunk.hash));
                    payload.insert("passage", passage);
                    payload.insert(MARKS, marks.clone());
                    payload.insert(NUMBERS, numbers.clone());
                    let vectors = NamedVectors::default()
                        .add_vector(DENSE, Vector::new_dense(chunk.vector.clone()))
                        .add_vector(SPARSE, Vector::new_sparse(words.indices, words.values));
                    PointStruct::new(chunk_id(&attempt, n), vectors, payload)
                })
                .collect();
            self.server.put(doing, Collection::Chunks, points).await?;
        }
        Ok(())
    }

    /// Makes an index for numbers that are new: comparing them is quicker with it, and finds the same without.
    async fn index_numbers(&self, numbers: &serde_json::Map<String, serde_json::Value>) {
        for name in numbers.keys() {
            {
                let mut indexed = self.indexed_numbers.lock();
                if indexed.len() >= MOST_INDEXED || !indexed.insert(name.clone()) {
                    continue;
                }
            }
            let chunks = self.server.collection(Collection::Chunks);
            let index = CreateFieldIndexCollectionBuilder::new(chunks, number_of(name), FieldType::Float);
            if let Err(error) = self.server.client.create_field_index(index.wait(false)).await {
                tracing::debug!(%error, name, "no index on a number");
                self.indexed_numbers.lock().remove(name);
            }
        }
    }

    /// The chunks of what is served, in their order.
    pub(super) async fn chunks(&self, doing: &str, served: &Version) -> Result<Vec<NewChunk>, StoreError> {
        let fits = Filter::must([is("attempt", &served.text.key.to_string())]);
        let fields: &[&str] = &["n", "section", "start", "stop", "page", "tokens", "hash"];
        let mut points = self.server.all(doing, Collection::Chunks, fits, Some(fields), Some(DENSE)).await?;
        points.sort_unstable_by_key(|point| integer(point, "n"));
        let chunk = |point: &RetrievedPoint| {
            let vector = point.vectors.as_ref().and_then(|vectors| vectors.get_vector_by_name(DENSE));
            let number = |field: &str| integer(point, field).unwrap_or(0) as usize;
            NewChunk {
                section: section(point.try_get("section")),
                span: number("start")..number("stop"),
                page: integer(point, "page").map(|page| page as u32),
                tokens: number("tokens"),
                hash: hex::decode(text(point, "hash")).ok().and_then(|hash| hash.try_into().ok()).unwrap_or_default(),
                vector: match vector {
                    Some(vector_output::Vector::Dense(dense)) => dense.data,
                    _ => Vec::new(),
                },
            }
        };
        Ok(points.iter().map(chunk).collect())
    }

    pub(super) async fn read_vectors(&self, document: &str) -> Result<HashMap<[u8; 32], Vec<f32>>, StoreError> {
        const DOING: &str = "read a document's vectors";
        let Some(served) = self.hold(DOING, document).await?.entry.served else { return Ok(HashMap::new()) };
        let chunks = self.chunks(DOING, &served).await?;
        Ok(chunks.into_iter().map(|chunk| (chunk.hash, chunk.vector)).collect())
    }
}

/// The integers of a list in a point's payload.
fn integers(point: &RetrievedPoint, field: &str) -> Vec<u64> {
    let list = point.try_get(field).and_then(|value| value.try_list_iter()).into_iter().flatten();
    list.filter_map(|value| value.as_integer()).map(|number| number as u64).collect()
}

/// The headings above a chunk.
pub(super) fn section(value: Option<&Value>) -> Vec<String> {
    let parts = value.and_then(|value| value.try_list_iter()).into_iter().flatten();
    parts.filter_map(|part| part.as_str().cloned()).collect()
}

fn kept(
    operation: &Operation,
    seq: u64,
    revision: u64,
    hash: &[u8],
    position: Option<i64>,
    content: Option<Blob>,
    now_ms: i64,
) -> Kept {
    let said = match operation {
        Operation::Upsert(Upsert { media_type, title, url, collection, metadata, .. }) => Said {
            media_type: media_type.clone(),
            title: title.clone(),
            url: url.clone(),
            collection: collection.clone(),
            metadata: metadata.clone(),
            hash: Some(hash.to_vec()),
            position,
        },
        Operation::Delete { .. } => Said { position, ..Said::default() },
    };
    Kept {
        seq,
        delete: matches!(operation, Operation::Delete { .. }),
        revision,
        state: OperationState::Received as u8,
        reason: None,
        received_ms: now_ms,
        parsed_ms: None,
        embedded_ms: None,
        settled_ms: None,
        said,
        content,
        event: None,
    }
}

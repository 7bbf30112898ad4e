//! Reading: operations, documents, sizes, where the store stands.

use futures_util::try_join;
use qdrant_client::qdrant::{Condition, Filter, Range};

use super::entry::Kept;
use super::server::{Collection, PAGE, integer, is};
use super::{Held, Qdrant, contents};
use crate::freshness::AsOf;
use crate::stores::StoreError;
use crate::stores::document_store::{
    DocumentPage, DocumentQuery, OperationState, Pending, PendingContent, Standing, StoreCounts, never_again,
};

/// How often a text is looked for that another version may have replaced meanwhile.
const TRIES: usize = 8;

impl Qdrant {
    pub(super) async fn read_operation(&self, seq: u64) -> Result<Option<Pending>, StoreError> {
        const DOING: &str = "read a waiting operation";
        let Some(held) = self.hold_operation(DOING, seq).await? else { return Ok(None) };
        let Some(operation) = held.entry.operation(seq).filter(|operation| operation.waits()) else { return Ok(None) };
        let content = match &operation.content {
            None => None,
            Some(blob) => match contents::get(&self.server, DOING, blob).await? {
                Some(bytes) => Some(PendingContent {
                    bytes,
                    media_type: operation.said.media_type.clone(),
                    title: operation.said.title.clone(),
                }),
                None => {
                    let now = self.hold_operation(DOING, seq).await?;
                    let waits = now.and_then(|held| held.entry.operation(seq).map(Kept::waits));
                    return match waits {
                        Some(true) => Err(StoreError::Damaged(format!(
                            "the content of a document that waits is not in the Qdrant {} any more: send it again",
                            self.server.address
                        ))),
                        // It was settled meanwhile.
                        _ => Ok(None),
                    };
                }
            },
        };
        let (revision, received_ms) = (operation.revision, operation.received_ms);
        Ok(Some(Pending { seq, document: held.entry.document.clone(), content, revision, received_ms }))
    }

    pub(super) async fn read_outcome(&self, seq: u64) -> Result<Option<(OperationState, Option<String>)>, StoreError> {
        let held = self.hold_operation("read an operation", seq).await?;
        let operation = held.as_ref().and_then(|held| held.entry.operation(seq));
        Ok(operation.map(|operation| (operation.state(), operation.reason.clone())))
    }

    pub(super) async fn read_text(&self, id: &str) -> Result<Option<String>, StoreError> {
        const DOING: &str = "read a document";
        for _ in 0..TRIES {
            let Some(served) = self.hold(DOING, id).await?.entry.served else { return Ok(None) };
            // Where it is not there, another version has come.
            if let Some(bytes) = contents::get(&self.server, DOING, &served.text).await? {
                return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        Err(StoreError::Damaged(format!(
            "the text of {id:?} is not in the Qdrant {} any more: send the document again",
            self.server.address
        )))
    }

    /// A page of documents, in the order of their points: a server that orders no texts has no other.
    pub(super) async fn list(&self, query: &DocumentQuery) -> Result<DocumentPage, StoreError> {
        const DOING: &str = "list the documents";
        let mut fits = Filter::must([Condition::matches("listed", true)]);
        if let Some(collection) = &query.collection {
            fits.must.push(is("collection", collection));
        }
        if let Some(folder) = query.prefix.as_deref().and_then(|prefix| Some(&prefix[..=prefix.rfind('/')?])) {
            fits.must.push(is("folders", folder));
        }
        let mut from = query.after.as_deref().map(super::document_point);
        let mut documents = Vec::new();
        loop {
            let page = (from, PAGE.min(query.limit as u32 + 2));
            let (points, next) = self.server.page(DOING, Collection::Documents, fits.clone(), None, None, page).await?;
            for point in points {
                let entry = Held::read(&self.server, &point)?.entry;
                let comes_after = query.after.as_deref() != Some(entry.document.as_str());
                let begins_so = query.prefix.as_deref().is_none_or(|prefix| entry.document.starts_with(prefix));
                if comes_after && begins_so {
                    documents.extend(entry.record());
                }
                if documents.len() > query.limit {
                    documents.truncate(query.limit);
                    return Ok(DocumentPage { documents, more: true });
                }
            }
            match next {
                None => return Ok(DocumentPage { documents, more: false }),
                next => from = next,
            }
        }
    }

    pub(super) async fn count(&self) -> Result<StoreCounts, StoreError> {
        const DOING: &str = "count";
        let server = &self.server;
        let served = Filter::must_not([Condition::is_empty("served")]);
        let failed = Filter::must([Condition::matches("failed", true)]);
        let (documents, chunks, pending, failed, last, commit) = try_join!(
            server.count(DOING, Collection::Documents, served),
            // What is about to be served, or was, counts for the moment.
            server.count(DOING, Collection::Chunks, Filter::default()),
            self.waiting_operations(),
            server.count(DOING, Collection::Documents, failed),
            server.extreme(DOING, "last", true, &["last"]),
            self.commits.read(server),
        )?;
        let seq = last.and_then(|point| integer(&point, "last")).unwrap_or(0) as u64;
        Ok(StoreCounts { documents, chunks, pending, failed, seq, commit })
    }

    pub(super) async fn waiting_operations(&self) -> Result<u64, StoreError> {
        let waits = Filter::must([Condition::range("waiting", Range { gte: Some(1.0), ..Range::default() })]);
        self.server.sum("count what waits", "waiting", waits).await
    }

    /// Where it stands. What is said was true when it was read last: the last number before what waits, and the commit
    /// before and after; see [`Qdrant::serve`]. The age of what waits is by this process' clock.
    pub(super) async fn stand(&self) -> Result<Standing, StoreError> {
        self.stand_at().await.map(|(standing, _)| standing)
    }

    /// The same, with the commit as it is counted.
    pub(super) async fn stand_at(&self) -> Result<(Standing, u64), StoreError> {
        const DOING: &str = "say where it stands";
        let server = &self.server;
        let (last, before) = try_join!(server.extreme(DOING, "last", true, &["last"]), self.commits.read(server))?;
        let marked = Filter::must([Condition::matches("swapping", true)]);
        let (first, waiting, marked) = try_join!(
            server.extreme(DOING, "first", false, &["first", "since_ms"]),
            self.waiting_operations(),
            server.count(DOING, Collection::Documents, marked),
        )?;
        let after = self.commits.read(server).await?;
        let last = last.and_then(|point| integer(&point, "last")).unwrap_or(0) as u64;
        let (seq, lag_ms) = match &first {
            None => (last, 0),
            Some(point) => {
                let since = integer(point, "since_ms").unwrap_or(0);
                let age = crate::actors::stats::now_ms() as i64 - since;
                (integer(point, "first").unwrap_or(1) as u64 - 1, age.max(0) as u64)
            }
        };
        let commit = if before == after && marked == 0 { after } else { never_again() };
        let lag_events = if first.is_some() { waiting.max(1) } else { 0 };
        Ok((Standing { commit, as_of: AsOf { seq, lag_ms, lag_events } }, after))
    }
}

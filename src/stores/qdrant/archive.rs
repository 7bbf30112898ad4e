//! The store's documents as they move to another one, and back.

use async_trait::async_trait;
use qdrant_client::Payload;
use qdrant_client::qdrant::{Condition, Filter, Range, SetPayloadPointsBuilder};

use super::entry::{Entry, Kept as KeptOperation, Version};
use super::server::{Collection, id, integer, is, plain, text};
use super::{Held, Qdrant, contents, document_point};
use crate::stores::StoreError;
use crate::stores::archive::{Archive, Kept, KeptVersion};
use crate::stores::document_store::StoreCounts;

const READING: &str = "read documents to move";
const WRITING: &str = "store a moved document";

impl Qdrant {
    async fn whole(&self, entry: Entry) -> Result<Option<Kept>, StoreError> {
        let Entry { document, operations, served, .. } = entry;
        let Some(last) = operations.last() else { return Ok(None) };
        let served = match served {
            None => None,
            Some(version) => {
                let text = contents::get(&self.server, READING, &version.text).await?;
                Some(KeptVersion {
                    chunks: self.chunks(READING, &version).await?,
                    text: text.ok_or_else(|| self.server.unavailable(READING, "a document is being changed"))?,
                    revision: version.revision,
                    seq: version.seq,
                    media_type: version.media_type,
                    format: version.format,
                    title: version.title,
                    url: version.url,
                    collection: version.collection,
                    metadata: version.metadata,
                    updated_ms: version.updated_ms,
                })
            }
        };
        Ok(Some(Kept { id: document, last: last.last_operation(), said: last.said.clone(), served }))
    }

    async fn import_document(&self, kept: Kept) -> Result<(), StoreError> {
        let Kept { id: document, last, said, served } = kept;
        let before = self.hold(WRITING, &document).await?.entry;
        let mut entry = Entry::new(&document);
        entry.operations.push(KeptOperation {
            seq: last.seq,
            delete: last.delete,
            revision: last.revision,
            state: last.state as u8,
            reason: last.reason,
            received_ms: last.received_ms,
            parsed_ms: last.progress.parsed_ms,
            embedded_ms: last.progress.embedded_ms,
            settled_ms: last.settled_ms,
            said,
            content: None,
            event: None,
        });
        self.server.delete(WRITING, Collection::Chunks, Filter::must([is("document", &document)])).await?;
        if let Some(kept) = served {
            let mut version = Version {
                seq: kept.seq,
                revision: kept.revision,
                media_type: kept.media_type,
                format: kept.format,
                title: kept.title,
                url: kept.url,
                collection: kept.collection,
                metadata: kept.metadata,
                updated_ms: kept.updated_ms,
                chunks: kept.chunks.len() as u64,
                commit: 0,
                text: contents::put(&self.server, WRITING, &kept.text).await?,
            };
            let source = String::from_utf8_lossy(&kept.text);
            self.put_chunks(WRITING, &document, &version, &source, &kept.chunks).await?;
            version.commit = self.commits.next(&self.server).await?;
            entry.served = Some(version);
        }
        // The next operation has a number that was never given.
        self.seqs.raise(&self.server, last.seq).await?;
        let turn = uuid::Uuid::now_v7().to_string();
        let point = plain(document_point(&document), entry.payload(&turn));
        self.server.put(WRITING, Collection::Documents, vec![point]).await?;
        self.commits.next(&self.server).await?;
        let useless: Vec<_> = before.served.map(|served| served.text).into_iter().collect();
        contents::delete(&self.server, WRITING, &useless).await
    }
}

#[async_trait]
impl Archive for Qdrant {
    fn id(&self) -> String {
        self.id.clone()
    }

    async fn adopt(&self, store: &str) -> Result<(), StoreError> {
        let mut payload = Payload::new();
        payload.insert("id", store);
        let request = SetPayloadPointsBuilder::new(self.server.collection(Collection::State), payload)
            .points_selector(Filter::must([Condition::has_id([id(&["settings"])])]))
            .wait(true);
        self.server.run("take over an id", self.server.client.set_payload(request)).await.map(drop)
    }

    async fn export(&self, after: &str, limit: usize) -> Result<Vec<Kept>, StoreError> {
        let from = (!after.is_empty()).then(|| document_point(after));
        // The one that it begins with was there before.
        let page = (from, limit as u32 + 1);
        let (points, _) = self.server.page(READING, Collection::Documents, Filter::default(), None, None, page).await?;
        let mut all = Vec::new();
        for point in points {
            let entry = Held::read(&self.server, &point)?.entry;
            if entry.document != after && all.len() < limit {
                all.extend(self.whole(entry).await?);
            }
        }
        Ok(all)
    }

    async fn export_one(&self, id: &str) -> Result<Option<Kept>, StoreError> {
        let entry = self.hold(READING, id).await?.entry;
        self.whole(entry).await
    }

    async fn import(&self, document: Kept) -> Result<(), StoreError> {
        self.import_document(document).await
    }

    async fn events(&self, after: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
        let after = hex::encode(after);
        let from = (!after.is_empty()).then(|| id(&["event", &after]));
        let page = (from, limit as u32 + 1);
        let (points, _) =
            self.server.page("read events to move", Collection::Events, Filter::default(), None, None, page).await?;
        let others = points.iter().filter(|point| text(point, "key") != after).take(limit);
        Ok(others
            .filter_map(|point| Some((hex::decode(text(point, "key")).ok()?, integer(point, "seq")? as u64)))
            .collect())
    }

    async fn import_events(&self, events: Vec<(Vec<u8>, u64)>) -> Result<(), StoreError> {
        for some in events.chunks(1000) {
            self.put_events("store moved events", some.to_vec()).await?;
        }
        Ok(())
    }

    async fn extent(&self) -> Result<(u64, u64), StoreError> {
        // Every document that anything is known of has had an operation.
        let known = Filter::must([Condition::range("last", Range { gte: Some(1.0), ..Range::default() })]);
        Ok((
            self.server.count("count", Collection::Documents, known).await?,
            self.server.count("count", Collection::Events, Filter::default()).await?,
        ))
    }

    async fn sizes(&self) -> Result<StoreCounts, StoreError> {
        self.count().await
    }
}

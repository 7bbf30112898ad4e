//! The indexer brings both indexes up to the catalog's last commit and publishes the view of it.
//!
//! It is driven by level, not by edge: each message only says that there may be something to do, and what
//! is to do is what the catalog has and the indexes have not. Start, replay after a crash, rebuild of
//! a lost index and the next document are therefore the same code.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;
use roaring::RoaringBitmap;

use super::compute::Compute;
use super::door::{Factory, Role};
use super::stats::now_ms;
use crate::stores::StoreError;
use crate::stores::catalog::Version;
use crate::stores::embedded::Indexes;
use crate::stores::tantivy::{LexicalEntry, LexicalIndex};
use crate::stores::view::View;

/// Chunks put into the indexes in one commit of theirs.
const BATCH_CHUNKS: usize = 2048;

/// There may be something to index.
pub struct Wake;

/// The indexer; see the module.
pub struct Indexer {
    indexes: Arc<Indexes>,
    writer: Arc<Mutex<Writer>>,
    compute: Arc<Compute>,
}

/// The lexical index with what it holds, and what is published.
struct Writer {
    lexical: LexicalIndex,
    held: RoaringBitmap,
    live: RoaringBitmap,
    commit: u64,
    /// Versions the catalog serves that an index lacks, oldest first: only after a crash or a loss.
    missing: Vec<Version>,
}

impl Indexer {
    /// The factory of the indexer: opens the lexical index, compares both indexes with the catalog, and
    /// publishes what they agree on. What is missing is indexed with the first messages.
    pub fn factory(indexes: Arc<Indexes>, compute: Arc<Compute>) -> Factory<Self> {
        Arc::new(move || {
            let (indexes, compute) = (Arc::clone(&indexes), Arc::clone(&compute));
            async move {
                let opening = Arc::clone(&indexes);
                let writer = compute.run(move || Writer::open(&opening)).await.map_err(|error| error.to_string())?;
                Ok(Self { indexes, writer: Arc::new(Mutex::new(writer)), compute })
            }
            .boxed_local()
        })
    }
}

impl Role for Indexer {
    type Message = Wake;
    type Reply = u64;
    type Error = StoreError;
    const SERIAL: bool = true;

    fn handle(&mut self, _: Wake) -> LocalBoxFuture<'static, Result<u64, StoreError>> {
        let (indexes, writer) = (Arc::clone(&self.indexes), Arc::clone(&self.writer));
        let compute = Arc::clone(&self.compute);
        async move {
            compute
                .run(move || {
                    fail::fail_point!("indexer");
                    let mut writer = writer.lock();
                    while writer.step(&indexes)? {}
                    // Also those that were announced only after another message had published them.
                    writer.settle(&indexes);
                    writer.expunge(&indexes)?;
                    Ok(writer.commit)
                })
                .await
        }
        .boxed_local()
    }
}

impl Writer {
    fn open(indexes: &Indexes) -> Result<Self, StoreError> {
        let config = &indexes.config;
        let folder = config.data.dir.join("lexical");
        let (lexical, rebuilt) = LexicalIndex::open(&folder, config.index.lexical_memory_bytes)?;
        if let Some(reason) = rebuilt {
            tracing::warn!(reason, "the lexical index is made again from the catalog");
        }
        let held = lexical.chunks()?;
        let vectors = indexes.vectors.chunks();
        let (commit, versions) = indexes.catalog.live_versions()?;
        let mut live = RoaringBitmap::new();
        let mut missing = Vec::new();
        for version in &versions {
            let mut chunks = RoaringBitmap::new();
            chunks.insert_range(version.chunks.clone());
            if chunks.is_subset(&held) && chunks.is_subset(&vectors) {
                live |= chunks;
            } else {
                missing.push(version.clone());
            }
        }
        for version in &missing {
            indexes.freshness.accepted(version.seq, version.updated_ms);
        }
        indexes.documents.add(versions);
        if !missing.is_empty() {
            tracing::info!(documents = missing.len(), "the indexes lack documents of the catalog, adding them");
        }
        missing.reverse();
        let mut writer = Self { lexical, held, live, commit, missing };
        // What the lexical index holds beyond the catalog goes now; a graph's surplus is not live.
        writer.change(indexes, &[], &[])?;
        Ok(writer)
    }

    /// Does a part of what is to do; returns whether there may be more.
    fn step(&mut self, indexes: &Indexes) -> Result<bool, StoreError> {
        if !self.missing.is_empty() {
            return self.recover(indexes).map(|()| true);
        }
        let changes = indexes.catalog.changes(self.commit, BATCH_CHUNKS)?;
        if changes.commit == self.commit {
            return Ok(false);
        }
        self.commit = changes.commit;
        let (added, retired) = (changes.added, changes.retired);
        let result = self.change(indexes, &added, &retired);
        if result.is_err() {
            // Nothing was published: the same changes are found again at the next message.
            self.commit = indexes.views.current().map_or(0, |view| view.commit);
        }
        result?;
        Ok(changes.more)
    }

    /// Goes on to rid the files of the lexical index of what was deleted, if that is wanted.
    fn expunge(&mut self, indexes: &Indexes) -> Result<(), StoreError> {
        let wanted = {
            let expunging = indexes.expunging.lock();
            if expunging.wanted == expunging.done || self.commit < expunging.wanted {
                return Ok(());
            }
            expunging.wanted
        };
        if !self.lexical.rewrite()? {
            return Ok(());
        }
        // Lets go of the view that needs the old files; a search that has begun keeps it until it ends.
        self.change(indexes, &[], &[])?;
        if self.lexical.collect()? {
            indexes.expunging.lock().done = wanted;
        }
        Ok(())
    }

    /// Adds some of the documents that an index lacks.
    fn recover(&mut self, indexes: &Indexes) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        let mut chunks = 0;
        while let Some(version) = self.missing.pop() {
            chunks += version.chunks.len();
            batch.push(version);
            if chunks >= BATCH_CHUNKS {
                break;
            }
        }
        // Some may have been replaced meanwhile; then their chunks may be gone, and the change that
        // replaced them comes with the next step.
        let result = self.change(indexes, &batch, &[]);
        match &result {
            Ok(()) => {
                indexes.freshness.settled(batch.iter().map(|version| version.seq));
                tracing::info!(left = self.missing.len(), "indexed again from the catalog");
            }
            Err(_) => self.missing.extend(batch.into_iter().rev()),
        }
        result
    }

    /// Changes both indexes and publishes the result as the view of `self.commit`.
    fn change(&mut self, indexes: &Indexes, added: &[Version], retired: &[Version]) -> Result<(), StoreError> {
        let _changing = indexes.changing.lock();
        let mut live = self.live.clone();
        for version in retired {
            live.remove_range(version.chunks.clone());
        }
        let in_graph = indexes.vectors.chunks();
        let mut entries = Vec::new();
        for version in added {
            let chunks = version.chunks.clone();
            if chunks.clone().any(|chunk| !in_graph.contains(chunk)) {
                let vectors = indexes.catalog.vectors(chunks.clone())?;
                let new: Vec<(u32, &[f32])> = vectors
                    .iter()
                    .filter(|(chunk, _)| !in_graph.contains(*chunk))
                    .map(|(chunk, vector)| (*chunk, vector.as_slice()))
                    .collect();
                indexes.vectors.insert(&new)?;
            }
            for text in indexes.catalog.chunk_texts(chunks.clone())? {
                if !self.held.contains(text.chunk) {
                    entries.push(LexicalEntry {
                        chunk: text.chunk,
                        title: version.title.clone(),
                        section: text.section.join(" > "),
                        text: text.text,
                    });
                }
            }
            live.insert_range(chunks);
        }
        let surplus = &self.held - &live;
        let snapshot = self.lexical.apply(&entries, &surplus, self.commit)?;
        self.held |= entries.iter().map(|entry| entry.chunk).collect::<RoaringBitmap>();
        self.held -= &surplus;
        self.live = live;
        indexes.documents.add(added.iter().cloned());
        indexes.views.publish(View {
            commit: self.commit,
            partial: !self.missing.is_empty(),
            live: self.live.clone(),
            lexical: snapshot,
            vectors: Arc::clone(&indexes.vectors),
            documents: Arc::clone(&indexes.documents),
            matched: Mutex::default(),
        });
        self.settle(indexes);
        Ok(())
    }

    /// Tells those who wait which operations are visible now. What the indexes still lack is told when it is added.
    fn settle(&self, indexes: &Indexes) {
        let mut unpublished = indexes.unpublished.lock();
        let later = unpublished.split_off(&(self.commit + 1));
        let published = std::mem::replace(&mut *unpublished, later);
        let missing = |seq: &u64| self.missing.iter().any(|version| version.seq == *seq);
        let visible: Vec<u64> = published.into_values().filter(|seq| !missing(seq)).collect();
        indexes.catalog.became_visible(visible.iter().copied(), now_ms() as i64);
        indexes.freshness.settled(visible);
    }
}

//! What a search sees: both indexes, and which chunks count, at one commit of the catalog.
//!
//! The indexer makes a new [`View`] and swaps it in with one pointer: a document changes in both indexes in
//! one step, and a search that has begun goes on with what it began with.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};
use roaring::RoaringBitmap;

use super::ChunkId;
use super::catalog::Version;
use super::document_store::never_again;
use super::hnsw::VectorIndex;
use super::tantivy::LexicalSnapshot;
use crate::retrieval::filter::Filter;

/// The documents of a view by the number of their first chunk. Shared by all views: versions never
/// change, and which of them count is said by [`View::live`].
#[derive(Debug, Default)]
pub struct DocumentTable(RwLock<BTreeMap<ChunkId, Arc<Version>>>);

impl DocumentTable {
    /// Adds versions, before the view that makes them live is published. One without chunks is never found.
    pub fn add(&self, versions: impl IntoIterator<Item = Version>) {
        let mut table = self.0.write();
        table.extend(versions.into_iter().filter(|v| !v.chunks.is_empty()).map(|v| (v.chunks.start, Arc::new(v))));
    }

    /// Removes versions that no view can show any more.
    pub fn remove(&self, versions: impl IntoIterator<Item = ChunkId>) {
        let mut table = self.0.write();
        for first in versions {
            table.remove(&first);
        }
    }

    /// The version a chunk belongs to.
    pub fn of(&self, chunk: ChunkId) -> Option<Arc<Version>> {
        let table = self.0.read();
        let (_, version) = table.range(..=chunk).next_back()?;
        version.chunks.contains(&chunk).then(|| Arc::clone(version))
    }
}

/// Filters whose chunks a view remembers.
const REMEMBERED: usize = 32;

/// Filters, each with the chunks that it matches.
pub type Matched = VecDeque<(Filter, Arc<RoaringBitmap>)>;

/// One state of the indexes; see the module.
pub struct View {
    /// The catalog's commit it shows.
    pub commit: u64,
    /// The indexes still lack documents that the catalog serves: after a loss, until they are added.
    pub partial: bool,
    /// The chunks that count.
    pub live: RoaringBitmap,
    /// The lexical index, at this commit.
    pub lexical: LexicalSnapshot,
    /// The vector index; it may hold chunks that are not live.
    pub vectors: Arc<VectorIndex>,
    /// The documents.
    pub documents: Arc<DocumentTable>,
    /// What filters came to; the latest last.
    pub matched: Mutex<Matched>,
}

impl View {
    /// The commit that what is found here may be kept under.
    pub fn kept_under(&self) -> u64 {
        if self.partial { never_again() } else { self.commit }
    }

    /// The live chunks of documents that match. What a few filters came to is remembered: who sees what is a filter, too,
    /// and the same for all of a group.
    pub fn matching(&self, filter: &Filter) -> Arc<RoaringBitmap> {
        let known = |matched: &Matched| matched.iter().find(|(known, _)| known == filter).map(|(_, c)| Arc::clone(c));
        if let Some(chunks) = known(&self.matched.lock()) {
            return chunks;
        }
        let mut chunks = RoaringBitmap::new();
        self.each_matching(Some(filter), |version| {
            chunks.insert_range(version.chunks.clone());
        });
        let chunks = Arc::new(chunks);
        let mut matched = self.matched.lock();
        if matched.len() >= REMEMBERED {
            matched.pop_front();
        }
        matched.push_back((filter.clone(), Arc::clone(&chunks)));
        chunks
    }

    /// How many live documents match, by collection.
    pub fn collections(&self, filter: Option<&Filter>) -> BTreeMap<String, u64> {
        let mut collections = BTreeMap::new();
        self.each_matching(filter, |version| match collections.get_mut(&version.collection) {
            Some(count) => *count += 1,
            None => {
                collections.insert(version.collection.clone(), 1);
            }
        });
        collections
    }

    fn each_matching(&self, filter: Option<&Filter>, mut take: impl FnMut(&Version)) {
        for (first, version) in self.documents.0.read().iter() {
            if self.live.contains(*first) && filter.is_none_or(|filter| filter.matches(version.as_ref())) {
                take(version);
            }
        }
    }
}

/// Where the current view is found, and which older ones are still looked at.
#[derive(Default)]
pub struct Views {
    current: ArcSwapOption<View>,
    past: Mutex<Vec<Weak<View>>>,
}

impl Views {
    /// The current view; `None` until the indexes are open.
    pub fn current(&self) -> Option<Arc<View>> {
        self.current.load_full()
    }

    /// Publishes a view.
    pub fn publish(&self, view: View) {
        let view = Arc::new(view);
        self.past.lock().push(Arc::downgrade(&view));
        self.current.store(Some(view));
    }

    /// The oldest commit that anybody still looks at.
    pub fn oldest_commit(&self) -> u64 {
        let mut past = self.past.lock();
        past.retain(|view| view.strong_count() > 0);
        past.iter().filter_map(Weak::upgrade).map(|view| view.commit).min().unwrap_or(0)
    }
}

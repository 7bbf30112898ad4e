//! The lexical index: BM25 over title, section path and text of every live chunk, in tantivy.
//!
//! It is derived from the catalog. Each commit carries the catalog's commit it stands for; a folder that cannot be
//! trusted is thrown away and filled again. Nothing but chunk numbers is stored: texts are the catalog's. It never
//! reads a query as anything but words, and never ranks a chunk that its caller does not allow.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ::tantivy::directory::{INDEX_WRITER_LOCK, MmapDirectory};
use ::tantivy::index::SegmentId;
use ::tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use ::tantivy::query::{BooleanQuery, BoostQuery, EnableScoring, Query, TermQuery};
use ::tantivy::schema::{FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use ::tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer,
    TokenStream,
};
use ::tantivy::{
    Directory, FutureResult, Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, SegmentMeta, SegmentReader,
    TantivyDocument, TantivyError, Term,
};
use futures_util::FutureExt;
use roaring::RoaringBitmap;

use super::{ChunkId, Scored, StoreError};

/// Name of the analyzer. Part of the schema: a changed analyzer gets a new name, and so a new index.
const ANALYZER: &str = "answerd_english_2";

/// Words longer than this, in bytes, are left out: they are data, not words.
const LONGEST_WORD: usize = 80;

/// Terms of a query that count; of a longer one, the rarest.
const MOST_TERMS: usize = 64;

/// So much of a query is looked at, in bytes; what is more than that is no question.
const MOST_QUERY_BYTES: usize = 64 * 1024;

/// What a term in the title counts on top of its count in the body, which begins with the title.
///
/// nDCG@10 on SciFact's training claims, whole abstracts and cut into 200 words: 0.6995 and 0.7031 without it, 0.7050
/// and 0.7028 with it; 0.6977 and 0.6959 for the best sum of a text and a title field, 0.6968 and 0.6994 for the best
/// maximum of both. A flat sum of terms is also what tantivy can prune (block-max WAND).
const TITLE_WEIGHT: f32 = 0.2;

/// Share of deleted chunks above which a segment is merged, to be rid of them.
const MOST_DELETED: f32 = 0.25;

/// A chunk as it is indexed.
#[derive(Debug, Clone)]
pub struct LexicalEntry {
    /// Its number.
    pub chunk: ChunkId,
    /// Title of its document.
    pub title: String,
    /// The headings above it.
    pub section: String,
    /// Its text.
    pub text: String,
}

#[derive(Clone, Copy)]
struct Fields {
    chunk: Field,
    title: Field,
    /// Title, section path and text: a chunk is also about what it stands under.
    body: Field,
}

/// The lexical index; see the module. One writer.
pub struct LexicalIndex {
    folder: PathBuf,
    index: Index,
    memory_bytes: usize,
    /// `None` after an error, until the next change.
    writer: Option<IndexWriter>,
    reader: IndexReader,
    fields: Fields,
    /// `None` where nothing is to be rid of.
    expunging: Option<Expunging>,
}

/// How far the files are rid of what was deleted.
struct Expunging {
    rewriting: Vec<Rewriting>,
    /// Segments that need no look any more: those from the beginning, and what was made of one here.
    known: HashSet<SegmentId>,
    /// Segments of which the files are to go; `None` until all are written anew.
    leaving: Option<HashSet<SegmentId>>,
    /// Those that came after the first ones that were to go are among them.
    looked_twice: bool,
}

/// A segment that is written anew, because it has something of what was deleted.
struct Rewriting {
    segment: SegmentId,
    /// It was there at the beginning, when another merge of it may have been under way: one that began before the deletion.
    early: bool,
    work: Option<Merging>,
}

type Merging = FutureResult<Option<SegmentMeta>>;

impl Expunging {
    fn of(metas: &[SegmentMeta]) -> Self {
        let known = metas.iter().map(SegmentMeta::id).collect();
        let mut begun = Self { rewriting: Vec::new(), known, leaving: None, looked_twice: false };
        begun.list(metas, true);
        begun
    }

    fn list<'a>(&mut self, metas: impl IntoIterator<Item = &'a SegmentMeta>, early: bool) {
        let some = metas.into_iter().filter(|meta| meta.num_deleted_docs() > 0);
        self.rewriting.extend(some.map(|meta| Rewriting { segment: meta.id(), early, work: None }));
    }
}

/// The index at one commit, to search.
#[derive(Clone)]
pub struct LexicalSnapshot {
    searcher: Searcher,
    fields: Fields,
}

/// Why an index on disk was not opened.
enum Unopened {
    /// It is of no use, and can be made again.
    Useless(String),
    /// Not its fault: it must not be touched.
    Kept(StoreError),
}

impl From<TantivyError> for Unopened {
    fn from(error: TantivyError) -> Self {
        match failed("open", &error) {
            StoreError::Failed(_) => Self::Useless(error.to_string()),
            kept => Self::Kept(kept),
        }
    }
}

impl LexicalIndex {
    /// Opens the index in `folder`, with so much memory for its writer. Where there is none, or one that cannot be
    /// trusted, an empty one is made; for the latter the second value says why. All files are read once.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where somebody else has it open, [`StoreError::Full`], and [`StoreError::Failed`] where
    /// no index can be made at all.
    pub fn open(folder: &Path, memory_bytes: usize) -> Result<(Self, Option<String>), StoreError> {
        let known = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        let reason = if known {
            // A damaged file can make tantivy panic as well as fail.
            match std::panic::catch_unwind(|| Self::open_existing(folder, memory_bytes)) {
                Ok(Ok(index)) => return Ok((index, None)),
                Ok(Err(Unopened::Kept(error))) => return Err(error),
                Ok(Err(Unopened::Useless(reason))) => Some(reason),
                Err(panic) => Some(crate::actors::door::panic_message(&*panic)),
            }
        } else {
            None
        };
        let made = Self::create(folder, memory_bytes)?;
        Ok((made, reason.map(|reason| format!("{} cannot be used: {reason}", folder.display()))))
    }

    fn open_existing(folder: &Path, memory_bytes: usize) -> Result<Self, Unopened> {
        let index = Index::open_in_dir(folder)?;
        if index.schema() != schema().0 {
            return Err(Unopened::Useless("it was made with another schema".to_owned()));
        }
        // With the writer comes the lock, without which files may go while they are checked.
        let opened = Self::with(folder, index, memory_bytes)?;
        let damaged = opened.index.validate_checksum()?;
        if let Some(file) = damaged.iter().next() {
            return Err(Unopened::Useless(format!("{} is damaged", file.display())));
        }
        // meta.json has no checksum of its own.
        let (found, stated) = (opened.numbers()?.len(), opened.reader.searcher().num_docs());
        if found != stated {
            return Err(Unopened::Useless(format!("it has {found} chunks and states {stated}")));
        }
        Ok(opened)
    }

    fn create(folder: &Path, memory_bytes: usize) -> Result<Self, StoreError> {
        let cannot = |error: std::io::Error| failed("make", &error.into());
        if folder.exists() {
            let directory = MmapDirectory::open(folder).map_err(|error| failed("make", &error.into()))?;
            // Nobody else's index is removed.
            let lock = directory.acquire_lock(&INDEX_WRITER_LOCK).map_err(|error| failed("make", &error.into()))?;
            std::fs::remove_dir_all(folder).map_err(cannot)?;
            drop(lock);
        }
        std::fs::create_dir_all(folder).map_err(cannot)?;
        let directory = MmapDirectory::open(folder).map_err(|error| failed("make", &error.into()))?;
        let index = Index::open_or_create(directory, schema().0).map_err(|error| failed("make", &error))?;
        Self::with(folder, index, memory_bytes).map_err(|error| failed("open", &error))
    }

    fn with(folder: &Path, index: Index, memory_bytes: usize) -> Result<Self, TantivyError> {
        let (_, fields) = schema();
        index.tokenizers().register(ANALYZER, analyzer());
        let writer = Some(new_writer(&index, memory_bytes)?);
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        Ok(Self { folder: folder.to_owned(), index, memory_bytes, writer, reader, fields, expunging: None })
    }

    /// The catalog's commit that the index stands for; 0 for a new one.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where its metadata cannot be read.
    pub fn applied(&self) -> Result<u64, StoreError> {
        let metas = self.index.load_metas().map_err(|error| failed("read", &error))?;
        Ok(metas.payload.and_then(|payload| payload.parse().ok()).unwrap_or(0))
    }

    /// The numbers of all chunks in it.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where a segment cannot be read.
    pub fn chunks(&self) -> Result<RoaringBitmap, StoreError> {
        self.numbers().map_err(|error| failed("read", &error))
    }

    fn numbers(&self) -> Result<RoaringBitmap, TantivyError> {
        let mut chunks = RoaringBitmap::new();
        for segment in self.reader.searcher().segment_readers() {
            let numbers = segment.fast_fields().u64("chunk")?;
            chunks.extend(segment.doc_ids_alive().filter_map(|doc| numbers.first(doc)).map(|n| n as ChunkId));
        }
        Ok(chunks)
    }

    /// How many chunks are in it.
    pub fn num_docs(&self) -> u64 {
        self.reader.searcher().num_docs()
    }

    /// Bytes of its files, those that a merge has made superfluous and a snapshot still holds included.
    pub fn size_on_disk(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return 0 };
        entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum()
    }

    /// Adds and removes chunks in one commit that stands for the catalog's commit `applied`. Chunks that are both
    /// added and removed are removed.
    ///
    /// # Errors
    /// [`StoreError`]. The index then stands where it stood, or where it should: the same change may be applied again.
    pub fn apply(
        &mut self,
        add: &[LexicalEntry],
        remove: &RoaringBitmap,
        applied: u64,
    ) -> Result<LexicalSnapshot, StoreError> {
        if let Err(error) = self.try_apply(add, remove, applied) {
            // Not rolled back: a rollback that fails leaves a writer that panics. Dropping it forgets what was not
            // committed as well, and the next change begins with a new one.
            self.writer = None;
            return Err(failed("write", &error));
        }
        Ok(self.snapshot())
    }

    fn try_apply(&mut self, add: &[LexicalEntry], remove: &RoaringBitmap, applied: u64) -> Result<(), TantivyError> {
        // The last change may have been committed although it failed; it must not be added twice.
        let again = self.writer.is_none();
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(new_writer(&self.index, self.memory_bytes)?),
        };
        let number = |chunk: ChunkId| Term::from_field_u64(self.fields.chunk, u64::from(chunk));
        if again {
            add.iter().for_each(|entry| {
                writer.delete_term(number(entry.chunk));
            });
        }
        for entry in add.iter().filter(|entry| !remove.contains(entry.chunk)) {
            let mut document = TantivyDocument::new();
            document.add_u64(self.fields.chunk, u64::from(entry.chunk));
            document.add_text(self.fields.title, &entry.title);
            document.add_text(self.fields.body, format!("{}\n{}\n{}", entry.title, entry.section, entry.text));
            writer.add_document(document)?;
        }
        for chunk in remove {
            writer.delete_term(number(chunk));
        }
        let mut commit = writer.prepare_commit()?;
        commit.set_payload(&applied.to_string());
        commit.commit()?;
        self.reader.reload()
    }

    /// Writes the segments anew that have something of what was deleted, beside whatever else is done. To be called until it
    /// says that they are; then [`LexicalIndex::collect`], once the snapshots from before are gone.
    ///
    /// # Errors
    /// [`StoreError`]; it can be called again.
    pub fn rewrite(&mut self) -> Result<bool, StoreError> {
        self.try_rewrite().map_err(|error| failed("rewrite", &error))
    }

    fn try_rewrite(&mut self) -> Result<bool, TantivyError> {
        let metas = self.index.searchable_segment_metas()?;
        let expunging = self.expunging.get_or_insert_with(|| Expunging::of(&metas));
        let (index, memory_bytes) = (&self.index, self.memory_bytes);
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(new_writer(index, memory_bytes)?),
        };
        let mut taken = false;
        for Rewriting { segment, early, work } in std::mem::take(&mut expunging.rewriting) {
            let mut at_work = None;
            if let Some(mut work) = work {
                match (&mut work).now_or_never() {
                    None => at_work = Some(work),
                    Some(Ok(made)) => {
                        expunging.known.extend(made.map(|meta| meta.id()));
                        continue;
                    }
                    // Another merge was in the way, or there was no room: begun again, where the segment is still there.
                    Some(Err(_)) => {}
                }
            }
            if at_work.is_none() {
                if metas.iter().all(|meta| meta.id() != segment) {
                    taken |= early;
                    continue;
                }
                at_work = Some(writer.merge(&[segment]));
            }
            expunging.rewriting.push(Rewriting { segment, early, work: at_work });
        }
        if taken {
            // What another merge made of it may have all of it, marked as deleted. A merge of that one begins after the
            // deletion, and leaves it out.
            let new: Vec<&SegmentMeta> = metas.iter().filter(|meta| !expunging.known.contains(&meta.id())).collect();
            expunging.known.extend(new.iter().map(|meta| meta.id()));
            expunging.list(new, false);
        }
        Ok(expunging.rewriting.is_empty())
    }

    /// Removes the files of the segments that were written anew, and of those of which nothing was left. False while
    /// a snapshot still needs some, or a merge that will come to nothing.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn collect(&mut self) -> Result<bool, StoreError> {
        if let Some(writer) = &self.writer {
            writer.garbage_collect_files().wait().map_err(|error| failed("tidy up", &error))?;
        }
        let there = self.strangers().map_err(|error| failed("tidy up", &error))?;
        let Some(expunging) = &mut self.expunging else { return Ok(true) };
        let first = expunging.leaving.is_none();
        let leaving = expunging.leaving.get_or_insert_with(|| there.clone());
        leaving.retain(|segment| there.contains(segment));
        if leaving.is_empty() && !first && !expunging.looked_twice {
            // A merge that read one of them may have written its own meanwhile.
            expunging.looked_twice = true;
            *leaving = there;
        }
        let gone = leaving.is_empty();
        if gone {
            self.expunging = None;
        }
        Ok(gone)
    }

    /// Segments that have files and are not in the index: not any more, or not yet.
    fn strangers(&self) -> Result<HashSet<SegmentId>, TantivyError> {
        let id = |entry: std::fs::DirEntry| {
            let name = entry.file_name();
            SegmentId::from_uuid_string(name.to_str()?.split('.').next()?).ok()
        };
        let mut there: HashSet<SegmentId> =
            std::fs::read_dir(&self.folder)?.filter_map(Result::ok).filter_map(id).collect();
        for meta in self.index.searchable_segment_metas()? {
            there.remove(&meta.id());
        }
        Ok(there)
    }

    /// The index as it is now.
    pub fn snapshot(&self) -> LexicalSnapshot {
        LexicalSnapshot { searcher: self.reader.searcher(), fields: self.fields }
    }
}

/// A chunk in its place: the higher score, and of equal ones the lower number, is the greater.
#[derive(PartialEq)]
struct Ranked(Scored);

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.score.total_cmp(&other.0.score).then(other.0.chunk.cmp(&self.0.chunk))
    }
}

impl LexicalSnapshot {
    /// How many chunks it holds.
    pub fn num_docs(&self) -> u64 {
        self.searcher.num_docs()
    }

    /// The best chunks for free text, best first; ties by number. With `allowed`, only chunks in it are ranked.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where a segment cannot be read.
    pub fn search(
        &self,
        query: &str,
        limit: usize,
        allowed: Option<&RoaringBitmap>,
    ) -> Result<Vec<Scored>, StoreError> {
        self.try_search(query, limit, allowed).map_err(|error| failed("search", &error))
    }

    fn try_search(
        &self,
        query: &str,
        limit: usize,
        allowed: Option<&RoaringBitmap>,
    ) -> Result<Vec<Scored>, TantivyError> {
        let mut best = BinaryHeap::new();
        if limit > 0 && allowed.is_none_or(|allowed| !allowed.is_empty()) {
            let query = self.query(query)?;
            let weight = query.weight(EnableScoring::enabled_from_searcher(&self.searcher))?;
            // What does not score above this is not offered, and mostly not even looked at.
            let mut bar = f32::MIN;
            for segment in self.searcher.segment_readers() {
                let mut rank = ranking(segment, limit, allowed, &mut best)?;
                weight.for_each_pruning(bar, segment, &mut |document, score| {
                    bar = rank(document, score).unwrap_or(bar);
                    bar
                })?;
            }
        }
        Ok(best.into_sorted_vec().into_iter().map(|Reverse(Ranked(hit))| hit).collect())
    }

    /// Any of the query's terms, in the body or, for a little more, in the title. Without terms it finds nothing.
    fn query(&self, text: &str) -> Result<BooleanQuery, TantivyError> {
        let text = &text[..text.floor_char_boundary(MOST_QUERY_BYTES)];
        let mut terms = Vec::new();
        for word in words(text).into_iter().collect::<HashSet<_>>() {
            let frequency = self.searcher.doc_freq(&Term::from_field_text(self.fields.body, &word))?;
            // The body holds the title: what is not in it is nowhere.
            if frequency > 0 {
                terms.push((frequency, word));
            }
        }
        // In one order, so that sums of floats come out the same; the rarest say most.
        terms.sort_unstable();
        terms.truncate(MOST_TERMS);
        let clause = |field: Field, word: &str, weight: f32| -> Box<dyn Query> {
            let term = TermQuery::new(Term::from_field_text(field, word), IndexRecordOption::WithFreqs);
            Box::new(BoostQuery::new(Box::new(term), weight))
        };
        let clauses = terms
            .iter()
            .flat_map(|(_, word)| [clause(self.fields.body, word, 1.0), clause(self.fields.title, word, TITLE_WEIGHT)]);
        Ok(BooleanQuery::union(clauses.collect()))
    }
}

/// What takes the hits of a segment into the `limit` best. Returns the score to exceed from here on, if that is new.
fn ranking<'a>(
    segment: &'a SegmentReader,
    limit: usize,
    allowed: Option<&'a RoaringBitmap>,
    best: &'a mut BinaryHeap<Reverse<Ranked>>,
) -> Result<impl FnMut(u32, f32) -> Option<f32> + 'a, TantivyError> {
    let numbers = segment.fast_fields().u64("chunk")?.first_or_default_col(u64::MAX);
    let alive = segment.alive_bitset();
    Ok(move |document, score| {
        if alive.is_some_and(|alive| alive.is_deleted(document)) {
            return None;
        }
        let chunk = ChunkId::try_from(numbers.get_val(document)).ok()?;
        if allowed.is_some_and(|allowed| !allowed.contains(chunk)) {
            return None;
        }
        best.push(Reverse(Ranked(Scored { chunk, score })));
        if best.len() > limit {
            best.pop();
        }
        // Just below the worst: what equals it may have a lower number.
        if best.len() < limit { None } else { best.peek().map(|Reverse(worst)| worst.0.score.next_down()) }
    })
}

fn new_writer(index: &Index, memory_bytes: usize) -> Result<IndexWriter, TantivyError> {
    let options = IndexWriterOptions::builder()
        .num_worker_threads(1)
        .num_merge_threads(1)
        .memory_budget_per_thread(memory_bytes)
        .build();
    let writer = index.writer_with_options(options)?;
    let mut merging = LogMergePolicy::default();
    merging.set_del_docs_ratio_before_merge(MOST_DELETED);
    writer.set_merge_policy(Box::new(merging));
    Ok(writer)
}

fn schema() -> (Schema, Fields) {
    let mut builder = Schema::builder();
    let indexing = TextFieldIndexing::default().set_tokenizer(ANALYZER).set_index_option(IndexRecordOption::WithFreqs);
    let text = TextOptions::default().set_indexing_options(indexing);
    let fields = Fields {
        chunk: builder.add_u64_field("chunk", FAST | INDEXED),
        title: builder.add_text_field("title", text.clone()),
        body: builder.add_text_field("body", text),
    };
    (builder.build(), fields)
}

fn analyzer() -> TextAnalyzer {
    let words = TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(LONGEST_WORD))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter);
    match StopWordFilter::new(Language::English) {
        Some(stop_words) => words.filter(stop_words).filter(Stemmer::new(Language::English)).build(),
        None => words.filter(Stemmer::new(Language::English)).build(),
    }
}

/// The words of a text as the index has them: folded, stemmed, without those that say nothing.
pub fn words(text: &str) -> Vec<String> {
    static ANALYZER: LazyLock<TextAnalyzer> = LazyLock::new(analyzer);
    let mut words = Vec::new();
    // An analyzer keeps what it works on.
    ANALYZER.clone().token_stream(text).process(&mut |token| words.push(token.text.clone()));
    words
}

fn failed(doing: &str, error: &TantivyError) -> StoreError {
    let text = format!("cannot {doing} the lexical index: {error}");
    if matches!(error, TantivyError::LockFailure(::tantivy::directory::error::LockError::LockBusy, _)) {
        return StoreError::Locked(format!("{text}. Another process uses it: stop that one, or take another folder."));
    }
    // An error of the indexing thread comes as text.
    if ["No space left", "StorageFull", "QuotaExceeded", "os error 28", "os error 122"].iter().any(|s| text.contains(s))
    {
        return StoreError::Full(format!("no room on the disk: {text}. Free some; it is tried again."));
    }
    StoreError::Failed(text)
}

#[cfg(test)]
mod tests;

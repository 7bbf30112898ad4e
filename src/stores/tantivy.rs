//! The lexical index: BM25 over title, section path and text of every live chunk, in tantivy.
//!
//! It is derived from the catalog. Each commit carries the catalog's commit it stands for; a folder that cannot be
//! trusted is thrown away and filled again. Nothing but chunk numbers is stored: texts are the catalog's.

use std::path::Path;

use ::tantivy::collector::{Collector, FilterCollector, TopDocs};
use ::tantivy::directory::MmapDirectory;
use ::tantivy::query::{BooleanQuery, BoostQuery, DisjunctionMaxQuery, Query, TermQuery};
use ::tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions,
};
use ::tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter,
    TextAnalyzer, TokenStream,
};
use ::tantivy::{
    DocAddress, Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, TantivyDocument, TantivyError, Term,
};
use roaring::RoaringBitmap;

use super::{ChunkId, Scored, StoreError};

/// Name of the analyzer. Part of the schema: a changed analyzer gets a new name, and so a new index.
const ANALYZER: &str = "answerd_english_1";

/// Words longer than this, in bytes, are left out: they are data, not words.
const LONGEST_WORD: usize = 80;

/// Terms of a query that count; of a longer one, the rarest.
const MOST_TERMS: usize = 64;

/// Weight of a term in the title and in the section path against one in the text.
const TITLE_WEIGHT: f32 = 1.0;
const SECTION_WEIGHT: f32 = 0.5;

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
    section: Field,
    text: Field,
}

/// The lexical index; see the module. One writer.
pub struct LexicalIndex {
    index: Index,
    writer: IndexWriter,
    reader: IndexReader,
    fields: Fields,
    analyzer: TextAnalyzer,
}

/// The index at one commit, to search.
#[derive(Clone)]
pub struct LexicalSnapshot {
    searcher: Searcher,
    fields: Fields,
    analyzer: TextAnalyzer,
}

impl LexicalIndex {
    /// Opens the index in `folder`. Where there is none, or one that cannot be trusted, an empty one is made; for the
    /// latter the second value says why.
    ///
    /// # Errors
    /// [`StoreError::Full`] or [`StoreError::Failed`] where no index can be made at all.
    pub fn open(folder: &Path, memory_bytes: usize) -> Result<(Self, Option<String>), StoreError> {
        let known = folder.join("meta.json").exists();
        // A damaged file can make tantivy panic as well as fail.
        let opened = std::panic::catch_unwind(|| Self::open_existing(folder, memory_bytes))
            .unwrap_or_else(|panic| Err(crate::actors::door::panic_message(&*panic)));
        match opened {
            Ok(index) => Ok((index, None)),
            Err(reason) => {
                let made = Self::create(folder, memory_bytes)?;
                Ok((made, known.then(|| format!("{} cannot be used: {reason}", folder.display()))))
            }
        }
    }

    fn open_existing(folder: &Path, memory_bytes: usize) -> Result<Self, String> {
        let index = Index::open_in_dir(folder).map_err(|error| error.to_string())?;
        if index.schema() != schema().0 {
            return Err("it was made with another schema".to_owned());
        }
        let damaged = index.validate_checksum().map_err(|error| error.to_string())?;
        if let Some(file) = damaged.iter().next() {
            return Err(format!("{} is damaged", file.display()));
        }
        Self::with(index, memory_bytes).map_err(|error| error.to_string())
    }

    fn create(folder: &Path, memory_bytes: usize) -> Result<Self, StoreError> {
        let make = || -> std::io::Result<()> {
            if folder.exists() {
                std::fs::remove_dir_all(folder)?;
            }
            std::fs::create_dir_all(folder)
        };
        make().map_err(|error| StoreError::Failed(format!("cannot make {}: {error}", folder.display())))?;
        let directory = MmapDirectory::open(folder).map_err(|error| failed("open the folder of", &error.into()))?;
        let index = Index::open_or_create(directory, schema().0).map_err(|error| failed("make", &error))?;
        Self::with(index, memory_bytes).map_err(|error| failed("open", &error))
    }

    fn with(index: Index, memory_bytes: usize) -> Result<Self, TantivyError> {
        let (_, fields) = schema();
        index.tokenizers().register(ANALYZER, analyzer());
        let writer = index.writer_with_num_threads(1, memory_bytes)?;
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        Ok(Self { index, writer, reader, fields, analyzer: analyzer() })
    }

    /// The catalog's commit that the index stands for.
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
        let mut chunks = RoaringBitmap::new();
        for segment in self.reader.searcher().segment_readers() {
            let numbers = segment.fast_fields().u64("chunk").map_err(|error| failed("read", &error))?;
            chunks.extend(segment.doc_ids_alive().filter_map(|doc| numbers.first(doc)).map(|n| n as ChunkId));
        }
        Ok(chunks)
    }

    /// Adds and removes chunks in one commit that stands for the catalog's commit `applied`.
    ///
    /// # Errors
    /// [`StoreError`]; the index is as it was before.
    pub fn apply(
        &mut self,
        add: &[LexicalEntry],
        remove: &RoaringBitmap,
        applied: u64,
    ) -> Result<LexicalSnapshot, StoreError> {
        let result = self.try_apply(add, remove, applied);
        if result.is_err()
            && let Err(error) = self.writer.rollback()
        {
            tracing::error!(%error, "the lexical index could not be rolled back");
        }
        result.map_err(|error| failed("write", &error))?;
        Ok(self.snapshot())
    }

    fn try_apply(&mut self, add: &[LexicalEntry], remove: &RoaringBitmap, applied: u64) -> Result<(), TantivyError> {
        for chunk in remove {
            self.writer.delete_term(Term::from_field_u64(self.fields.chunk, u64::from(chunk)));
        }
        for entry in add {
            let mut document = TantivyDocument::new();
            document.add_u64(self.fields.chunk, u64::from(entry.chunk));
            document.add_text(self.fields.title, &entry.title);
            document.add_text(self.fields.section, &entry.section);
            document.add_text(self.fields.text, &entry.text);
            self.writer.add_document(document)?;
        }
        let mut commit = self.writer.prepare_commit()?;
        commit.set_payload(&applied.to_string());
        commit.commit()?;
        self.reader.reload()
    }

    /// The index as it is now.
    pub fn snapshot(&self) -> LexicalSnapshot {
        LexicalSnapshot { searcher: self.reader.searcher(), fields: self.fields, analyzer: self.analyzer.clone() }
    }
}

impl LexicalSnapshot {
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
        let query = match self.query(query).map_err(|error| failed("search", &error))? {
            Some(query) if limit > 0 => query,
            _ => return Ok(Vec::new()),
        };
        let top = TopDocs::with_limit(limit).order_by_score();
        let found = match allowed {
            None => self.collect(&*query, &top),
            Some(allowed) => {
                let allowed = allowed.clone();
                let filter = move |chunk: u64| allowed.contains(chunk as ChunkId);
                self.collect(&*query, &FilterCollector::new("chunk".to_owned(), filter, top))
            }
        };
        found.map_err(|error| failed("search", &error))
    }

    fn collect(
        &self,
        query: &dyn Query,
        collector: &impl Collector<Fruit = Vec<(f32, DocAddress)>>,
    ) -> Result<Vec<Scored>, TantivyError> {
        let mut found = Vec::new();
        for (score, address) in self.searcher.search(query, collector)? {
            let segment = self.searcher.segment_reader(address.segment_ord);
            if let Some(chunk) = segment.fast_fields().u64("chunk")?.first(address.doc_id) {
                found.push(Scored { chunk: chunk as ChunkId, score });
            }
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk.cmp(&b.chunk)));
        Ok(found)
    }

    /// Any of the query's terms, in any field: for each term the best field counts, with a little of the others.
    fn query(&self, text: &str) -> Result<Option<Box<dyn Query>>, TantivyError> {
        let mut words: Vec<String> = Vec::new();
        let mut analyzer = self.analyzer.clone();
        let mut stream = analyzer.token_stream(text);
        while let Some(token) = stream.next() {
            if !words.contains(&token.text) {
                words.push(token.text.clone());
            }
            // Far more than can count: the rest of a huge query is not even looked at.
            if words.len() >= 16 * MOST_TERMS {
                break;
            }
        }
        if words.len() > MOST_TERMS {
            let frequency =
                |word: &String| self.searcher.doc_freq(&Term::from_field_text(self.fields.text, word));
            let mut by_frequency =
                words.into_iter().map(|word| Ok((frequency(&word)?, word))).collect::<Result<Vec<_>, TantivyError>>()?;
            // What is in no document says nothing; the rarest of the rest say most.
            by_frequency.retain(|(n, _)| *n > 0);
            by_frequency.sort();
            words = by_frequency.into_iter().take(MOST_TERMS).map(|(_, word)| word).collect();
        }
        if words.is_empty() {
            return Ok(None);
        }
        let term = |field: Field, word: &str, weight: f32| -> Box<dyn Query> {
            let term = Term::from_field_text(field, word);
            Box::new(BoostQuery::new(Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)), weight))
        };
        let clauses = words
            .iter()
            .map(|word| -> Box<dyn Query> {
                let fields = vec![
                    term(self.fields.text, word, 1.0),
                    term(self.fields.title, word, TITLE_WEIGHT),
                    term(self.fields.section, word, SECTION_WEIGHT),
                ];
                Box::new(DisjunctionMaxQuery::with_tie_breaker(fields, 0.3))
            })
            .collect();
        Ok(Some(Box::new(BooleanQuery::union(clauses))))
    }
}

fn schema() -> (Schema, Fields) {
    let mut builder = Schema::builder();
    let indexing =
        TextFieldIndexing::default().set_tokenizer(ANALYZER).set_index_option(IndexRecordOption::WithFreqs);
    let text = TextOptions::default().set_indexing_options(indexing);
    let fields = Fields {
        chunk: builder.add_u64_field("chunk", FAST | INDEXED),
        title: builder.add_text_field("title", text.clone()),
        section: builder.add_text_field("section", text.clone()),
        text: builder.add_text_field("text", text),
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

fn failed(doing: &str, error: &TantivyError) -> StoreError {
    let text = format!("cannot {doing} the lexical index: {error}");
    if text.contains("No space left") || text.contains("StorageFull") || text.contains("os error 28") {
        return StoreError::Full(format!("no room on the disk: {text}. Free some; it is tried again."));
    }
    StoreError::Failed(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: usize = 20 << 20;

    fn entry(chunk: ChunkId, title: &str, text: &str) -> LexicalEntry {
        LexicalEntry { chunk, title: title.to_owned(), section: String::new(), text: text.to_owned() }
    }

    fn found(snapshot: &LexicalSnapshot, query: &str, allowed: Option<&RoaringBitmap>) -> Vec<ChunkId> {
        snapshot.search(query, 10, allowed).expect("found").into_iter().map(|hit| hit.chunk).collect()
    }

    fn filled(folder: &Path) -> LexicalIndex {
        let (mut index, _) = LexicalIndex::open(folder, MEMORY).expect("it opens");
        let entries = [
            entry(1, "Cats", "The cat purrs while it is stroking the sofa"),
            entry(2, "Dogs", "A dog barked at cats"),
            entry(3, "Birds", "Swallows fly south"),
        ];
        index.apply(&entries, &RoaringBitmap::new(), 5).expect("applied");
        index
    }

    #[test]
    fn words_are_found_in_every_field_by_their_stem_and_accents_make_no_difference() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut index = filled(folder.path());
        let snapshot =
            index.apply(&[entry(4, "Caf\u{e9}", "cr\u{e8}me br\u{fb}l\u{e9}e")], &RoaringBitmap::new(), 6).expect("applied");
        assert_eq!(found(&snapshot, "barking", None), [2]);
        assert_eq!(found(&snapshot, "cats", None), [1, 2]);
        assert_eq!(found(&snapshot, "creme BRULEE", None), [4]);
        assert_eq!(found(&snapshot, "the of and", None), Vec::<ChunkId>::new());
        assert_eq!(found(&snapshot, "title:cats AND (\"", None), [1, 2]);
    }

    #[test]
    fn only_allowed_chunks_are_ranked_and_removed_ones_are_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut index = filled(folder.path());
        let before = index.snapshot();
        assert_eq!(found(&before, "cats", Some(&RoaringBitmap::from([2]))), [2]);
        let after = index.apply(&[], &RoaringBitmap::from([1]), 6).expect("applied");
        assert_eq!(found(&after, "cats", None), [2]);
        // A search that has begun goes on with what it began with.
        assert_eq!(found(&before, "cats", None), [1, 2]);
        assert_eq!(index.chunks().expect("chunks"), RoaringBitmap::from([2, 3]));
    }

    #[test]
    fn a_reopened_index_has_its_chunks_and_its_commit() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(filled(folder.path()));
        let (index, rebuilt) = LexicalIndex::open(folder.path(), MEMORY).expect("it opens");
        assert_eq!(rebuilt, None);
        assert_eq!((index.applied().expect("applied"), index.chunks().expect("chunks").len()), (5, 3));
    }

    #[test]
    fn a_damaged_index_is_made_anew_and_says_so() {
        for harm in 0..3 {
            let folder = tempfile::tempdir().expect("a folder");
            drop(filled(folder.path()));
            let meta = folder.path().join("meta.json");
            let segment = std::fs::read_dir(folder.path())
                .expect("files")
                .map(|entry| entry.expect("a file").path())
                .find(|path| path.extension().is_some_and(|kind| kind == "idx"))
                .expect("a segment");
            match harm {
                0 => std::fs::write(&meta, "{").expect("written"),
                1 => std::fs::remove_file(&segment).expect("removed"),
                _ => {
                    let mut bytes = std::fs::read(&segment).expect("read");
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0xff;
                    std::fs::write(&segment, bytes).expect("written");
                }
            }
            let (index, rebuilt) = LexicalIndex::open(folder.path(), MEMORY).expect("it opens");
            assert!(rebuilt.is_some(), "{harm}");
            assert!(index.chunks().expect("chunks").is_empty());
        }
    }

    #[test]
    fn a_huge_query_is_cut_to_its_rarest_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let index = filled(folder.path());
        let noise: String = (0..900).map(|n| format!("word{n} ")).collect();
        assert_eq!(found(&index.snapshot(), &format!("{noise} swallows"), None), [3]);
    }
}

//! The document workers take one accepted operation each from its bytes to the indexes:
//! parse, chunk, embed what is new, store, and wait until it is visible.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use sha2::{Digest, Sha256};
use tracing::Instrument;

use super::compute::Compute;
use super::contained::{self, Job};
use super::door::{Door, DoorError, Factory, Role};
use super::embedder::{Embed, Embedder};
use super::stats::now_ms;
use crate::config::HEADING_TOKENS;
use crate::deletion::Deletions;
use crate::documents::parse::{ParseInput, ParseLimits, is_risky, parse};
use crate::documents::{Chunk, ParsedDocument, chunk};
use crate::library::Library;
use crate::models;
use crate::stores::StoreError;
use crate::stores::document_store::{NewChunk, Pending, PendingContent, Progress};

/// What the embedding model puts around a text, in tokens.
const SPECIAL_TOKENS: usize = 2;
/// Texts sent to the embedder at once.
const EMBED_TEXTS: usize = 32;

/// An accepted operation to carry out.
pub struct Process {
    /// Its number.
    pub seq: u64,
}

/// Why an operation was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The document itself cannot be taken. Trying again would not help.
    #[error("{0}")]
    Unfit(String),
    /// Something failed that may be the document's fault. To be tried again, a limited number of times.
    #[error("{0}")]
    Suspect(String),
    /// Something was not available. To be tried again.
    #[error("{0}")]
    Unavailable(String),
}

impl From<StoreError> for ProcessError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What the document workers need.
pub struct DocumentTools {
    /// The store, and the configuration.
    pub library: Arc<Library>,
    /// Threads for parsing and chunking.
    pub compute: Arc<Compute>,
    /// The embedding model, to count tokens with.
    pub model: Arc<dyn models::Embedder>,
    /// The way to the embedder.
    pub embedder: Door<Embedder>,
    /// Forgets what is kept of what is deleted.
    pub deletions: Arc<Deletions>,
}

/// The document workers; see the module. One actor, as many documents at once as its door admits.
pub struct DocumentWorkers(Arc<DocumentTools>);

impl DocumentWorkers {
    /// The factory of the document workers.
    pub fn factory(tools: Arc<DocumentTools>) -> Factory<Self> {
        Arc::new(move || {
            let workers = Self(Arc::clone(&tools));
            async move { Ok(workers) }.boxed_local()
        })
    }
}

impl Role for DocumentWorkers {
    type Message = Process;
    type Reply = ();
    type Error = ProcessError;
    const SERIAL: bool = false;

    fn handle(&mut self, Process { seq }: Process) -> LocalBoxFuture<'static, Result<(), ProcessError>> {
        let tools = Arc::clone(&self.0);
        async move {
            let result = tools.process(seq).await;
            tools.library.progress.remove(&seq);
            result
        }
        .boxed_local()
    }
}

impl DocumentTools {
    async fn process(&self, seq: u64) -> Result<(), ProcessError> {
        let Some(Pending { seq, document, content, revision, .. }) = self.library.store.operation(seq).await? else {
            self.deletions.settled(seq).await?;
            return Ok(());
        };
        match content {
            None => {
                let known = self.library.store.document(&document).await?;
                let delete = self.library.store.store_delete(seq, now_ms() as i64);
                let stored = delete.instrument(tracing::debug_span!("store")).await;
                // Also where that failed: it may be done, and its answer lost.
                self.deletions.carried_out(seq, revision, document, known.and_then(|known| known.served));
                Ok(stored?)
            }
            Some(content) => self.upsert(seq, document, content).await,
        }
    }

    async fn upsert(&self, seq: u64, document: String, content: PendingContent) -> Result<(), ProcessError> {
        let title = content.title.clone();
        let span = tracing::debug_span!("parse", bytes = content.bytes.len());
        let parsed = self.parse(&document, content).instrument(span).await?;
        let (library, model) = (Arc::clone(&self.library), Arc::clone(&self.model));
        let (parsed, chunks) = self
            .compute
            .run(move || {
                fail::fail_point!("document");
                let pieces = cut(&library, &*model, title.as_deref(), &parsed)?;
                Ok::<_, ProcessError>((parsed, pieces))
            })
            .instrument(tracing::debug_span!("chunk"))
            .await?;
        let parsed_ms = Some(now_ms() as i64);
        self.library.progress.insert(seq, Progress { parsed_ms, embedded_ms: None });

        let known = self.library.store.vectors_by_hash(&document).await?;
        let mut vectors: Vec<Option<Vec<f32>>> = chunks.iter().map(|chunk| known.get(&chunk.hash).cloned()).collect();
        let new: Vec<usize> = (0..chunks.len()).filter(|&n| vectors[n].is_none()).collect();
        for some in new.chunks(EMBED_TEXTS) {
            let texts = some.iter().map(|&n| chunks[n].embedded.clone()).collect();
            let embedded = self.embedder.ask_patiently(Embed { texts, urgent: false }).await.map_err(not_embedded)?;
            for (&n, vector) in some.iter().zip(embedded) {
                vectors[n] = Some(vector);
            }
        }
        let progress = Progress { parsed_ms, embedded_ms: Some(now_ms() as i64) };
        self.library.progress.insert(seq, progress);
        tracing::debug!(seq, chunks = chunks.len(), embedded = new.len(), "embedded");

        let chunks: Vec<NewChunk> = chunks
            .into_iter()
            .zip(vectors)
            .map(|(chunk, vector)| NewChunk {
                section: chunk.chunk.section,
                page: parsed.page_at(chunk.chunk.span.start),
                span: chunk.chunk.span,
                tokens: chunk.chunk.tokens,
                hash: chunk.hash,
                vector: vector.unwrap_or_default(),
            })
            .collect();
        let span = tracing::debug_span!("store", chunks = chunks.len());
        let store = self.library.store.store_version(seq, parsed, chunks, progress, now_ms() as i64);
        Ok(store.instrument(span).await?)
    }

    /// Parses a document: here where that is bounded, else in a process of its own.
    async fn parse(&self, document: &str, content: PendingContent) -> Result<ParsedDocument, ProcessError> {
        let settings = self.library.config();
        let config = &settings.ingest;
        let limits = ParseLimits {
            max_text_bytes: config.max_text_bytes,
            max_nesting: config.max_nesting,
            max_pages: config.max_pages,
            max_unpacked_bytes: config.max_unpacked_bytes,
        };
        if is_risky(&content.bytes) {
            let job = Job {
                name: document.to_owned(),
                media_type: content.media_type,
                limits,
                cpu_seconds: config.parse_cpu_s,
                memory_bytes: config.parse_memory_bytes,
            };
            return contained::parse(&job, &content.bytes).await;
        }
        let name = document.to_owned();
        self.compute
            .run(move || {
                let input =
                    ParseInput { name: &name, media_type: content.media_type.as_deref(), bytes: &content.bytes };
                parse(&input, &limits).map_err(|error| ProcessError::Unfit(error.to_string()))
            })
            .await
    }
}

fn not_embedded<E: std::fmt::Display>(error: DoorError<E>) -> ProcessError {
    match error {
        DoorError::Panicked { .. } => ProcessError::Suspect(error.to_string()),
        error => ProcessError::Unavailable(error.to_string()),
    }
}

/// A chunk with what is embedded for it.
struct Piece {
    chunk: Chunk,
    embedded: String,
    hash: [u8; 32],
}

/// Cuts a document into chunks.
fn cut(
    library: &Library,
    model: &dyn models::Embedder,
    title: Option<&str>,
    parsed: &ParsedDocument,
) -> Result<Vec<Piece>, ProcessError> {
    let config = library.config();
    let limits =
        chunk::ChunkLimits { max_tokens: config.chunking.max_tokens, overlap_tokens: config.chunking.overlap_tokens };
    let chunks = chunk::chunk(parsed, &|text| model.count_tokens(text), limits)
        .map_err(|error| ProcessError::Unfit(error.to_string()))?;
    let title = title.or(parsed.title.as_deref()).unwrap_or_default().to_owned();
    let pieces = chunks
        .into_iter()
        .map(|chunk| {
            let headings = headings(&title, &chunk.section, &|text| model.count_tokens(text));
            let embedded = embedded_text(headings, &parsed.text[chunk.span.clone()]);
            let hash = Sha256::digest(embedded.as_bytes()).into();
            Piece { chunk, embedded, hash }
        })
        .collect();
    Ok(pieces)
}

/// What is embedded for a chunk: its text under the title and headings it stands under, without which
/// many a chunk does not say what it is about.
fn embedded_text(mut headings: String, text: &str) -> String {
    if !headings.is_empty() {
        headings.push('\n');
    }
    headings.push_str(text);
    headings
}

/// The title and the headings above a chunk in one line, cut to what the model has room for beside the chunk.
fn headings(title: &str, section: &[String], count_tokens: &dyn Fn(&str) -> usize) -> String {
    let most = HEADING_TOKENS - SPECIAL_TOKENS;
    // A token has a byte at least: most lines need no counting.
    let too_long = |line: &str| line.len() > most && count_tokens(line) > most;
    let below = section.iter().map(String::as_str).filter(|part| *part != title);
    let mut parts: Vec<&str> = std::iter::once(title).chain(below).filter(|part| !part.is_empty()).collect();
    let mut line = parts.join(" > ");
    // Of a deep path the title and the innermost heading say most.
    while parts.len() > 2 && too_long(&line) {
        parts.remove(1);
        line = parts.join(" > ");
    }
    while too_long(&line) {
        let keep = (line.len() * most / count_tokens(&line)).min(line.len() - 1);
        line.truncate(line.floor_char_boundary(keep));
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    #[test]
    fn the_title_and_the_innermost_heading_outlast_the_others() {
        let long = "word ".repeat(60);
        let section = [long.clone(), long, "The innermost".to_owned()];
        assert_eq!(headings("The title", &section, &words), "The title > The innermost");
        assert_eq!(headings("Same", &["Same".into(), "Below".into()], &words), "Same > Below");
        assert_eq!(headings("", &[], &words), "");
    }

    proptest! {
        #[test]
        fn headings_never_take_the_room_of_the_text(title in ".{0,400}", section in proptest::collection::vec(".{0,200}", 0..5)) {
            let bytes = |text: &str| text.len();
            prop_assert!(headings(&title, &section, &bytes).len() <= HEADING_TOKENS - SPECIAL_TOKENS);
        }
    }
}

//! The validated settings: one struct a section of `config.toml`, each field with its unit, its default
//! and its range. [`super::Config::load`] fills them; nothing else reads a configuration file.
//!
//! Every struct takes its defaults for the keys that are not given and refuses keys it does not know.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::models;
use super::{
    BudgetsConfig, CacheConfig, FetchConfig, IdentityConfig, LogConfig, ModelsConfig, NatsConfig, PostgresConfig,
    QdrantConfig, RedisConfig, StoreConfig, TracesConfig,
};
use crate::documents::event::{DocumentId, validate_collection};
use crate::retrieval::sight::validate_group;

/// Bytes in a mebibyte.
pub(super) const MIB: usize = 1 << 20;

/// Tokens of the embedding model's input that its special tokens, the title and the headings above a
/// chunk may take. A chunk's own text and these together stay within the 256 tokens all-MiniLM-L6-v2 sees.
pub const HEADING_TOKENS: usize = 56;

/// Tokens of a prompt that its template, its instructions and the labels of its passages may take.
pub const PROMPT_OVERHEAD_TOKENS: usize = 200;

/// All settings of the service. Each section says itself what it is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    #[garde(dive)]
    pub server: ServerConfig,
    #[garde(dive)]
    pub identity: IdentityConfig,
    #[garde(dive)]
    pub budgets: BudgetsConfig,
    #[garde(dive)]
    pub data: DataConfig,
    #[garde(dive)]
    pub store: StoreConfig,
    #[garde(dive)]
    pub postgres: PostgresConfig,
    #[garde(dive)]
    pub qdrant: QdrantConfig,
    #[garde(length(max = 256), dive)]
    pub folders: Vec<FolderConfig>,
    #[garde(dive)]
    pub ingest: IngestConfig,
    #[garde(dive)]
    pub nats: NatsConfig,
    #[garde(dive)]
    pub fetch: FetchConfig,
    #[garde(dive)]
    pub chunking: ChunkingConfig,
    #[garde(dive)]
    pub embedding: EmbeddingConfig,
    #[garde(dive)]
    pub index: IndexConfig,
    #[garde(dive)]
    pub search: SearchConfig,
    #[garde(dive)]
    pub models: ModelsConfig,
    #[garde(dive)]
    pub answer: AnswerConfig,
    #[garde(dive)]
    pub cache: CacheConfig,
    #[garde(dive)]
    pub redis: RedisConfig,
    #[garde(dive)]
    pub actors: ActorsConfig,
    #[garde(dive)]
    pub log: LogConfig,
    #[garde(dive)]
    pub traces: TracesConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            identity: IdentityConfig::default(),
            budgets: BudgetsConfig::default(),
            data: DataConfig::default(),
            store: StoreConfig::default(),
            postgres: PostgresConfig::default(),
            qdrant: QdrantConfig::default(),
            folders: vec![FolderConfig {
                path: "data/sample".into(),
                collection: "sample".into(),
                ..FolderConfig::default()
            }],
            ingest: IngestConfig::default(),
            nats: NatsConfig::default(),
            fetch: FetchConfig::default(),
            chunking: ChunkingConfig::default(),
            embedding: EmbeddingConfig::default(),
            index: IndexConfig::default(),
            search: SearchConfig::default(),
            models: ModelsConfig::default(),
            answer: AnswerConfig::default(),
            cache: CacheConfig::default(),
            redis: RedisConfig::default(),
            actors: ActorsConfig::default(),
            log: LogConfig::default(),
            traces: TracesConfig::default(),
        }
    }
}

/// `[server]`: the HTTP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port to listen on; port 0 takes a free one.
    #[garde(skip)]
    #[serde(deserialize_with = "socket_address")]
    pub bind: SocketAddr,
    /// Threads that serve HTTP.
    #[garde(range(min = 1, max = 1024))]
    pub workers: usize,
    /// Connections open at once, over all workers.
    #[garde(range(min = 1, max = 1_000_000))]
    pub max_connections: usize,
    /// Largest JSON body of a request, in bytes; a document's own limit is `[ingest] max_document_bytes`.
    #[garde(range(min = 1024, max = 1024 * MIB))]
    pub max_json_bytes: usize,
    /// Largest head of a request, in bytes.
    #[garde(range(min = 1024, max = 131_072))]
    pub max_header_bytes: usize,
    /// Other sites whose pages may call from a browser, as `https://intranet.example.com`; each is one that the keys of its
    /// users are safe with. And where there is no identity, names under which the service itself may be called, beside
    /// addresses and `localhost`.
    #[garde(custom(origins))]
    pub allowed_origins: Vec<String>,
    /// Time a client has to send the head of a request, in milliseconds.
    #[garde(range(min = 100, max = 600_000))]
    pub request_timeout_ms: u64,
    /// Time for the body of a request, in seconds.
    #[garde(range(min = 1, max = 86_400))]
    pub body_timeout_s: u64,
    /// A client that takes nothing of its response for so many seconds is disconnected.
    #[garde(range(min = 1, max = 86_400))]
    pub write_timeout_s: u64,
    /// An SSE comment goes out after so many seconds without an event.
    #[garde(range(min = 1, max = 3600))]
    pub keep_alive_s: u64,
    /// Time that running requests have to end after a signal, in seconds.
    #[garde(range(max = 3600))]
    pub shutdown_timeout_s: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            workers: 2,
            max_connections: 8192,
            max_json_bytes: MIB,
            max_header_bytes: 32 << 10,
            allowed_origins: Vec::new(),
            request_timeout_ms: 5000,
            body_timeout_s: 60,
            write_timeout_s: 60,
            keep_alive_s: 15,
            shutdown_timeout_s: 20,
        }
    }
}

/// `[data]`: where the state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Folder of the state: `catalog.sqlite`, `lexical/`, `vectors/`. Made where it is missing.
    #[garde(custom(given))]
    pub dir: PathBuf,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { dir: "data/state".into() }
    }
}

/// `[[folders]]`: a folder whose files are kept in the index as they change.
/// The id of a file's document is `prefix` and its path below the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder.
    #[garde(custom(given))]
    pub path: PathBuf,
    /// Collection its documents belong to.
    #[garde(custom(collection_name))]
    pub collection: String,
    /// Put before the relative path to make the document's id.
    #[garde(length(max = 128), custom(id_prefix))]
    pub prefix: String,
    /// The groups that may see its documents; with none of them, everybody may.
    #[garde(length(max = 100), custom(group_names))]
    pub visible_to: Vec<String>,
    /// A file is read once nothing has changed it for so many milliseconds.
    #[garde(range(min = 10, max = 60_000))]
    pub debounce_ms: u64,
}

impl Default for FolderConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            collection: String::new(),
            prefix: String::new(),
            visible_to: Vec::new(),
            debounce_ms: 300,
        }
    }
}

/// `[ingest]`: limits of the write path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// Largest document, in bytes as it comes.
    #[garde(range(min = 1, max = 1024 * MIB))]
    pub max_document_bytes: usize,
    /// Largest text of a document once parsed, in bytes.
    #[garde(range(min = 1, max = 1024 * MIB))]
    pub max_text_bytes: usize,
    /// Deepest nesting of elements that a parser follows.
    #[garde(range(min = 1, max = 1024))]
    pub max_nesting: usize,
    /// Most pages or slides of a document; the time to read a PDF grows with their square, and 5,000 stay within
    /// `parse_cpu_s`.
    #[garde(range(min = 1, max = 1_000_000))]
    pub max_pages: usize,
    /// Most bytes that a document which is an archive (DOCX, PPTX, XLSX, ODT, EPUB) may unpack to.
    #[garde(range(min = 1, max = 64 * 1024 * MIB as u64))]
    pub max_unpacked_bytes: u64,
    /// Processor time that a process which parses one document (PDF, office documents, books, RTF, e-mail) may use,
    /// in seconds.
    #[garde(range(min = 1, max = 86_400))]
    pub parse_cpu_s: u64,
    /// Memory that such a process may use, in bytes.
    #[garde(range(min = 128 * MIB as u64, max = 1024 * 1024 * MIB as u64))]
    pub parse_memory_bytes: u64,
    /// Operations accepted but not yet visible to searches; more are refused.
    #[garde(range(min = 1, max = 10_000_000))]
    pub max_pending: usize,
    /// Documents worked on at once.
    #[garde(range(min = 1, max = 256))]
    pub workers: usize,
    /// Tries of a document that makes a worker panic before it is given up.
    #[garde(range(min = 1, max = 100))]
    pub max_attempts: u32,
    /// An upload that waits until its document is visible (`?wait=`) waits at most so long, in seconds.
    #[garde(range(min = 1, max = 3600))]
    pub max_wait_s: u64,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            max_document_bytes: 16 * MIB,
            max_text_bytes: 8 * MIB,
            max_nesting: 256,
            max_pages: 5_000,
            max_unpacked_bytes: 256 * MIB as u64,
            parse_cpu_s: 60,
            parse_memory_bytes: 1024 * MIB as u64,
            max_pending: 10_000,
            workers: 2,
            max_attempts: 5,
            max_wait_s: 30,
        }
    }
}

/// `[chunking]`: how documents are cut into passages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct ChunkingConfig {
    /// Tokens of a chunk's own text, by the embedding model's tokenizer: the model sees 256 tokens,
    /// and the title and the headings above the chunk take up to 56 of them.
    #[garde(range(min = 16, max = 256 - HEADING_TOKENS))]
    pub max_tokens: usize,
    /// Tokens that a chunk repeats from the end of the one before; less than half of `max_tokens`.
    #[garde(skip)]
    pub overlap_tokens: usize,
}

impl Default for ChunkingConfig {
    fn default() -> Self {
        Self { max_tokens: 200, overlap_tokens: 30 }
    }
}

/// `[embedding]`: the embedding model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingConfig {
    /// What computes vectors.
    #[garde(skip)]
    pub engine: EmbeddingEngine,
    /// The name of the model in requests.
    #[garde(custom(models::model_name))]
    pub name: String,
    /// Numbers of a vector of the engine `openai`; changing it makes all vectors anew.
    #[garde(range(min = 2, max = 65_536))]
    pub dimensions: usize,
    /// Folder of the model: `model.safetensors`, `tokenizer.json`, `config.json`. The engine `openai` counts tokens with
    /// its tokenizer.
    #[garde(custom(given))]
    pub model: PathBuf,
    /// Threads that embed documents; 0 is one a core.
    #[garde(range(max = 1024))]
    pub threads: usize,
    /// Tokens of one batch; a batch is cut by tokens, not by texts.
    #[garde(range(min = 256, max = 1 << 20))]
    pub batch_tokens: usize,
    /// Requests that may wait for the model.
    #[garde(range(min = 1, max = 1_000_000))]
    pub queue: usize,
}

impl Default for EmbeddingConfig {
    fn default() -> Self {
        Self {
            engine: EmbeddingEngine::MiniLm,
            name: "all-MiniLM-L6-v2".into(),
            dimensions: 384,
            model: "~/.cache/answerd/models/all-MiniLM-L6-v2".into(),
            threads: 0,
            batch_tokens: 1024,
            queue: 1024,
        }
    }
}

/// What computes vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EmbeddingEngine {
    /// all-MiniLM-L6-v2 in this process.
    #[serde(rename = "minilm")]
    MiniLm,
    /// `/v1/embeddings` of the upstreams that serve `[embedding] name`.
    #[serde(rename = "openai")]
    OpenAi,
}

impl EmbeddingEngine {
    /// Its name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::MiniLm => "minilm",
            Self::OpenAi => "openai",
        }
    }
}

/// `[index]`: the lexical and the vector index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct IndexConfig {
    /// Memory of the lexical index's writer, in bytes; tantivy takes no less than 15 MB.
    #[garde(range(min = 16 * MIB, max = 4095 * MIB))]
    pub lexical_memory_bytes: usize,
    /// Neighbours of a node in the vector graph (HNSW's M).
    #[garde(range(min = 4, max = 128))]
    pub m: usize,
    /// Candidates weighed while a node is put in (HNSW's efConstruction).
    #[garde(range(min = 8, max = 4096))]
    pub ef_construction: usize,
    /// Candidates weighed while searching (HNSW's ef).
    #[garde(range(min = 8, max = 4096))]
    pub ef_search: usize,
    /// Vectors of one segment of the graph: bounds what a rebuild after deletions touches.
    #[garde(range(min = 1024, max = 16_777_216))]
    pub segment_chunks: usize,
    /// A segment is rebuilt once this share of its vectors is deleted, 0 to 1.
    #[garde(range(min = 0.01, max = 1.0))]
    pub rebuild_share: f32,
    /// With so many candidates or fewer, every one is compared instead of walking the graph.
    #[garde(range(max = 16_777_216))]
    pub exact_below: usize,
    /// The indexes are saved at most so often, in seconds; what came later is replayed at a start.
    #[garde(range(min = 1, max = 86_400))]
    pub save_interval_s: u64,
    /// What was deleted is gone from the files of the catalog and the indexes after so many seconds, or soon after: that
    /// rewrites the parts of the indexes that have some of it.
    #[garde(range(max = 31_536_000))]
    pub expunge_s: u64,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            lexical_memory_bytes: 64 * MIB,
            m: 16,
            ef_construction: 200,
            ef_search: 64,
            segment_chunks: 65_536,
            rebuild_share: 0.3,
            exact_below: 4096,
            save_interval_s: 30,
            expunge_s: 86_400,
        }
    }
}

/// `[search]`: searches, for themselves and for answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct SearchConfig {
    /// Hits where the caller asks for no number.
    #[garde(range(min = 1))]
    pub limit_default: usize,
    /// The most hits a caller may ask for.
    #[garde(range(min = 1, max = 10_000))]
    pub limit_max: usize,
    /// Candidates of each stage that go into the fusion.
    #[garde(range(min = 1, max = 10_000))]
    pub candidates: usize,
    /// The k of reciprocal rank fusion: a hit of rank r scores weight / (k + r).
    #[garde(range(min = 0.0, max = 10_000.0))]
    pub rrf_k: f32,
    /// Weight of the lexical stage.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub lexical_weight: f32,
    /// Weight of the vector stage: questions are phrased unlike documents more often than not.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub vector_weight: f32,
    /// A question counts as answerable from this cosine similarity of its best passage on, -1 to 1.
    #[garde(range(min = -1.0, max = 1.0))]
    pub min_similarity: f32,
    /// The same for a passage among the ten best of the lexical stage.
    #[garde(range(min = -1.0, max = 1.0))]
    pub min_similarity_agreed: f32,
    /// Searches at once; more are refused.
    #[garde(range(min = 1, max = 100_000))]
    pub concurrency: usize,
    /// Longest query, in bytes.
    #[garde(range(min = 16, max = MIB))]
    pub max_query_bytes: usize,
    /// A search that asks for a `min_seq` is held at most so long, in milliseconds.
    #[garde(range(max = 600_000))]
    pub min_seq_timeout_ms: u64,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            limit_default: 10,
            limit_max: 100,
            candidates: 100,
            rrf_k: 10.0,
            lexical_weight: 1.0,
            vector_weight: 1.5,
            min_similarity: 0.30,
            min_similarity_agreed: 0.28,
            concurrency: 16,
            max_query_bytes: 4096,
            min_seq_timeout_ms: 5000,
        }
    }
}

/// `[answer]`: answers and their prompts. `evidence_tokens`, `max_question_tokens`, `max_output_tokens` and 200 for the
/// template together must fit `[models.chat] context`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerConfig {
    /// Longest question, in tokens of the chat model.
    #[garde(range(min = 8))]
    pub max_question_tokens: usize,
    /// The most messages of a conversation.
    #[garde(range(min = 1, max = 10_000))]
    pub max_messages: usize,
    /// Tokens of output: the most a caller may ask for, and what one gets who asks for no number.
    #[garde(range(min = 1))]
    pub max_output_tokens: usize,
    /// Tokens of evidence packed into a prompt.
    #[garde(range(min = 64))]
    pub evidence_tokens: usize,
    /// The most tokens of earlier messages in a prompt; they take what the evidence leaves.
    #[garde(skip)]
    pub history_tokens: usize,
    /// Passages packed into a prompt.
    #[garde(range(min = 1, max = 99))]
    pub max_passages: usize,
    /// Randomness where the caller asks for none; 0 takes the likeliest token.
    #[garde(range(min = 0.0, max = 2.0))]
    pub temperature: f32,
    /// Nucleus sampling: the smallest set of tokens with this much probability.
    #[garde(range(min = 0.01, max = 1.0))]
    pub top_p: f32,
    /// Penalty on tokens that were used lately; 1.0 is none.
    #[garde(range(min = 1.0, max = 2.0))]
    pub repeat_penalty: f32,
    /// The name under which programs that speak OpenAI's protocol ask for answers from the documents; every other model
    /// answers by itself.
    #[garde(custom(models::model_name))]
    pub model_name: String,
    /// Answers open at once, those that only wait for their readers too; more are refused.
    #[garde(range(min = 1, max = 1_000_000))]
    pub max_open: usize,
    /// Events that a model writes ahead of its furthest reader; then it is parked.
    #[garde(range(min = 1, max = 1_000_000))]
    pub window: usize,
    /// An answer ends whose readers have left the window full for so long, in seconds.
    #[garde(range(min = 1, max = 3600))]
    pub stall_timeout_s: u64,
    /// An answer goes on for so long after its last reader has left, who may resume it, in seconds.
    #[garde(range(max = 3600))]
    pub resume_grace_s: u64,
    /// The longest that an answer may take in all, in seconds.
    #[garde(range(min = 1, max = 86_400))]
    pub max_time_s: u64,
    /// How long an answer can be read again after its end, in seconds.
    #[garde(range(max = 86_400))]
    pub keep_s: u64,
    /// Ended answers kept at most; the oldest go first.
    #[garde(range(max = 1_000_000))]
    pub keep_max: usize,
}

impl Default for AnswerConfig {
    fn default() -> Self {
        Self {
            max_question_tokens: 512,
            max_messages: 100,
            max_output_tokens: 256,
            evidence_tokens: 480,
            history_tokens: 400,
            max_passages: 4,
            temperature: 0.0,
            top_p: 0.95,
            repeat_penalty: 1.05,
            model_name: "answerd".into(),
            max_open: 4096,
            window: 64,
            stall_timeout_s: 30,
            resume_grace_s: 5,
            max_time_s: 300,
            keep_s: 300,
            keep_max: 1000,
        }
    }
}

/// `[actors]`: restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct ActorsConfig {
    /// Pause before the first restart of an actor, in milliseconds; doubles each time.
    #[garde(range(min = 1, max = 60_000))]
    pub restart_backoff_ms: u64,
    /// Longest pause before a restart, in milliseconds.
    #[garde(range(min = 1, max = 3_600_000))]
    pub restart_backoff_max_ms: u64,
    /// So many restarts of one actor within `unhealthy_window_s` make the service not ready.
    #[garde(range(min = 1, max = 10_000))]
    pub unhealthy_restarts: u32,
    /// See `unhealthy_restarts`, in seconds.
    #[garde(range(min = 1, max = 86_400))]
    pub unhealthy_window_s: u64,
}

impl Default for ActorsConfig {
    fn default() -> Self {
        Self { restart_backoff_ms: 10, restart_backoff_max_ms: 10_000, unhealthy_restarts: 5, unhealthy_window_s: 60 }
    }
}

fn socket_address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "{text:?} is not an IP address with a port, such as 127.0.0.1:8080, 0.0.0.0:80 or [::1]:8080"
        ))
    })
}

pub(super) fn given(path: &Path, _: &()) -> garde::Result {
    if path.as_os_str().is_empty() { Err(garde::Error::new("must be given: it has no value")) } else { Ok(()) }
}

fn group_names(names: &[String], _: &()) -> garde::Result {
    names.iter().try_for_each(|name| validate_group(name)).map_err(garde::Error::new)
}

fn collection_name(name: &str, _: &()) -> garde::Result {
    if name.is_empty() {
        return Err(garde::Error::new("must be given: it has no value"));
    }
    validate_collection(name).map_err(garde::Error::new)
}

/// A prefix is fit if it starts an id.
fn id_prefix(prefix: &str, _: &()) -> garde::Result {
    match DocumentId::parse(&format!("{prefix}x")) {
        Ok(_) => Ok(()),
        Err(error) => Err(garde::Error::new(format!("{prefix:?} cannot start the id of a document: {error}"))),
    }
}

/// An origin is written as browsers write it, or it would never be one that comes.
fn origins(origins: &[String], _: &()) -> garde::Result {
    origins.iter().try_for_each(|origin| match url::Url::parse(origin) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) && url.origin().ascii_serialization() == *origin => Ok(()),
        _ => Err(garde::Error::new(format!("{origin:?} is no origin, such as https://intranet.example.com"))),
    })
}

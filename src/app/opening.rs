//! Opens what the parts of the service work with: stores, models, and what is kept of answers.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Doors, threads};
use crate::actors::cache::{Cache, CacheCounts};
use crate::actors::compute::{Compute, blocking};
use crate::actors::door::{Detail, Door};
use crate::actors::embedder::Embedder;
use crate::actors::model_pool::{ModelPool, PoolDoor, PoolState, PooledWorker};
use crate::actors::model_worker::{EnginePlan, EngineSlot, Loader, ModelWorker, Orphans};
use crate::answer::evidence::Key;
use crate::asking::kept::Kept;
use crate::config::{ChatModelConfig, Config, EmbeddingEngine, Engine, Live, StoreEngine};
use crate::deletion::Deletions;
use crate::freshness::Freshness;
use crate::models::admission::Limits;
use crate::models::llama_cpp::{LlamaCpp, LlamaOptions};
use crate::models::minilm::MiniLm;
use crate::models::mistralrs::{MistralOptions, MistralRs};
use crate::models::openai::{OpenAi, OpenAiOptions, RemoteEmbedder, Upstream};
use crate::models::{self, Generator};
use crate::stores::StoreError;
use crate::stores::catalog::Catalog;
use crate::stores::document_store::DocumentStore;
use crate::stores::embedded::{Embedded, Indexes};
use crate::stores::hnsw::{SavedGraphs, VectorIndex, VectorOptions};
use crate::stores::postgres::Postgres;
use crate::stores::qdrant::Qdrant;
use crate::stores::view::{DocumentTable, Views};

type Graphs = BoxFuture<'static, Result<SavedGraphs, StoreError>>;

/// What of the store of the documents is begun before the embedding model is known.
pub(super) enum Ahead {
    /// The folder, which no other process has from now on, and its graphs on their way into memory: most of a start is this,
    /// and it needs nothing of what is loaded meanwhile.
    Embedded {
        lock: File,
        graphs: Graphs,
    },
    Postgres,
    Qdrant,
}

impl Ahead {
    pub(super) fn begin(config: &Config) -> Result<Self, String> {
        match config.store.engine {
            StoreEngine::Embedded => {}
            StoreEngine::Postgres => return Ok(Self::Postgres),
            StoreEngine::Qdrant => return Ok(Self::Qdrant),
        }
        let lock = Catalog::lock(&config.data.dir).map_err(|error| error.to_string())?;
        let index = &config.index;
        let options = VectorOptions {
            dimensions: dimensions(config).map_err(|error| error.to_string())?,
            m: index.m,
            ef_construction: index.ef_construction,
            ef_search: index.ef_search,
            segment_chunks: index.segment_chunks,
            rebuild_share: index.rebuild_share,
            exact_below: index.exact_below,
        };
        let folder = config.data.dir.join("vectors");
        Ok(Self::Embedded { lock, graphs: blocking(move || SavedGraphs::read(&folder, options)).boxed() })
    }
}

/// A store of the documents that is open but for the graphs of the embedded one.
pub(super) enum Opening {
    Server(Arc<dyn DocumentStore>),
    Embedded(Arc<Catalog>, Graphs),
}

impl Opening {
    /// Opens the store, and finds whether it goes with the embedding model.
    pub(super) async fn begin(
        config: &Arc<Config>,
        model: &dyn models::Embedder,
        ahead: Ahead,
    ) -> Result<Self, StoreError> {
        let (name, dimensions) = (model.name().to_owned(), model.dimensions());
        Ok(match ahead {
            Ahead::Embedded { lock, graphs } => {
                let config = Arc::clone(config);
                let open = move || Catalog::open_locked(lock, &config.data.dir, &name, dimensions);
                Self::Embedded(Arc::new(blocking(open).await?), graphs)
            }
            Ahead::Postgres => Self::Server(Arc::new(Postgres::open(config, &name, dimensions).await?)),
            Ahead::Qdrant => Self::Server(Arc::new(Qdrant::open(config, &name, dimensions).await?)),
        })
    }

    /// The store, and with it the indexes, where they are in this process.
    pub(super) async fn end(
        self,
        config: &Arc<Config>,
    ) -> Result<(Arc<dyn DocumentStore>, Option<Arc<Indexes>>), String> {
        let (catalog, graphs) = match self {
            Self::Server(store) => return Ok((store, None)),
            Self::Embedded(catalog, graphs) => (catalog, graphs),
        };
        let graphs = graphs.await.map_err(|error| error.to_string())?;
        let settings = Arc::clone(config);
        let open = move || {
            let (vectors, lost) = VectorIndex::open(graphs)?;
            if let Some(reason) = lost {
                tracing::warn!(reason, "vector graphs are made again from the catalog");
            }
            let counts = catalog.counts()?;
            Ok::<_, StoreError>(Arc::new(Indexes {
                catalog,
                vectors: Arc::new(vectors),
                documents: Arc::new(DocumentTable::default()),
                views: Views::default(),
                freshness: Freshness::new(counts.seq, []),
                unpublished: parking_lot::Mutex::default(),
                stored: tokio::sync::Notify::new(),
                expunging: parking_lot::Mutex::default(),
                changing: parking_lot::Mutex::default(),
                config: settings,
            }))
        };
        let indexes = blocking(open).await.map_err(|error| error.to_string())?;
        let searching = Compute::new("retriever", threads(0), false)?;
        Ok((Arc::new(Embedded::new(Arc::clone(&indexes), searching)), Some(indexes)))
    }
}

/// How long the vectors of the embedding model are.
fn dimensions(config: &Config) -> Result<usize, models::ModelError> {
    match config.embedding.engine {
        EmbeddingEngine::MiniLm => MiniLm::dimensions_of(&config.embedding.model),
        EmbeddingEngine::OpenAi => Ok(config.embedding.dimensions),
    }
}

/// Loads the embedding model, or finds the way to it.
pub(crate) fn load_embedder(config: &Config) -> Result<Arc<dyn models::Embedder>, models::ModelError> {
    let embedding = &config.embedding;
    Ok(match embedding.engine {
        EmbeddingEngine::MiniLm => Arc::new(MiniLm::load(&embedding.model)?),
        EmbeddingEngine::OpenAi => {
            let upstreams = upstreams(config, &embedding.name);
            Arc::new(RemoteEmbedder::new(&embedding.name, embedding.dimensions, &embedding.model, upstreams)?)
        }
    })
}

/// The servers that have a model, in their order.
fn upstreams(config: &Config, model: &str) -> Vec<Upstream> {
    config.models.upstreams.iter().filter(|upstream| upstream.serves == model).map(Upstream::new).collect()
}

/// Opens the workers of a model and their pool. The models are loaded meanwhile.
pub(super) fn open_model(doors: &Doors, config: &Config, model: &ChatModelConfig, arbiter: &Arbiter) -> PoolDoor {
    let loader: Loader = match model.engine {
        Engine::LlamaCpp => {
            let options = LlamaOptions {
                path: model.path.clone(),
                name: model.name.clone(),
                slots: model.slots,
                context_per_slot: model.context,
                batch_tokens: model.batch_tokens,
                flash_attention: model.flash_attention,
                threads: threads(model.threads),
            };
            Arc::new(move || Ok(LlamaCpp::load(options.clone())? as Arc<dyn Generator>))
        }
        Engine::MistralRs => {
            let options = MistralOptions {
                path: model.path.clone(),
                hub_id: model.hub_id.clone(),
                name: model.name.clone(),
                slots: model.slots,
                context: model.context,
            };
            Arc::new(move || Ok(MistralRs::load(&options)? as Arc<dyn Generator>))
        }
        Engine::OpenAi => {
            let options = OpenAiOptions {
                name: model.name.clone(),
                tokenizer: model.path.clone(),
                slots: model.slots,
                context: model.context,
                upstreams: upstreams(config, &model.name),
            };
            Arc::new(move || Ok(OpenAi::new(options.clone())? as Arc<dyn Generator>))
        }
    };
    let plan = EnginePlan { loader, warm: model.engine != Engine::OpenAi, stall: Duration::from_secs(model.stall_s) };
    // The one that answers from the documents has the plain name.
    let name = match std::ptr::eq(model, &config.models.chat) {
        true => "read/model-pool".to_owned(),
        false => format!("read/model-pool-{}", model.name.replace('/', "-")),
    };
    let capacity = (config.answer.max_open, "[answer] max_open: answers that run, wait or are parked");
    let orphans = Arc::<Orphans>::default();
    let stall = plan.stall;
    let workers = (1..=model.workers).map(|n| {
        let slot = Arc::<EngineSlot>::default();
        let shown = Arc::clone(&slot);
        let detail: Detail = Arc::new(move || shown.describe());
        let factory = ModelWorker::factory(plan.clone(), Arc::clone(&slot), Arc::clone(&orphans));
        let door = doors.open(&format!("{name}/worker-{n}"), capacity, factory, Some(detail), arbiter);
        PooledWorker::new(door, slot, stall)
    });
    let limits = Limits {
        requests: model.queue,
        prefill_tokens: model.queue_tokens,
        first_token: Duration::from_secs(model.first_token_s),
    };
    let state = PoolState::new(model.name.clone(), model.engine.name(), workers.collect(), orphans, limits);
    let shown = Arc::clone(&state);
    let detail: Detail = Arc::new(move || shown.describe());
    let door = doors.open(&name, capacity, ModelPool::factory(Arc::clone(&state)), Some(detail), arbiter);
    PoolDoor { door, state }
}

/// Opens the cache of evidence and answers.
pub(super) async fn open_cache(
    doors: &Doors,
    live: &Arc<Live>,
    embedder: &Door<Embedder>,
    deletions: &Arc<Deletions>,
    arbiter: &Arbiter,
) -> Kept {
    let counts = Arc::<CacheCounts>::default();
    let settings = live.now();
    let cache = &settings.cache;
    let door = cache.enabled.then(|| {
        let (shown, shown_counts) = (Arc::clone(deletions), Arc::clone(&counts));
        doors.open(
            "read/cache",
            (CACHE_CAPACITY, "lookups at once; more go without the cache"),
            Cache::factory(Arc::clone(deletions), Arc::clone(live)),
            Some(Arc::new(move || Cache::describe(&shown.memory, shown.redis.as_deref(), &shown_counts))),
            arbiter,
        )
    });
    let base = blocking(move || setup(&settings)).await;
    Kept::new(door, embedder.clone(), Arc::clone(live), base, counts)
}

/// Lookups in the cache at once.
const CACHE_CAPACITY: usize = 4096;

/// Names all that makes answers differ although the same is asked of the same passages, but for the settings that can change
/// while the service runs: those come to it with each question ([`Kept`]).
fn setup(config: &Config) -> Key {
    let chat = &config.models.chat;
    let parts = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "embedding": [config.embedding.name, config.embedding.engine.name()],
        "chat": chat,
        "file": fingerprint(&chat.path),
        "upstreams": config.models.upstreams,
    });
    Key::of("setup", &parts)
}

/// Tells a model's file from another one of its name: its size, and what its first and last mebibyte are.
fn fingerprint(path: &Path) -> Value {
    use std::io::{Read, Seek, SeekFrom};
    const PART: u64 = 1 << 20;
    let read = || -> std::io::Result<Value> {
        let mut file = std::fs::File::open(path)?;
        let size = file.metadata()?.len();
        let mut part = Vec::new();
        (&mut file).take(PART).read_to_end(&mut part)?;
        file.seek(SeekFrom::Start(size.saturating_sub(PART)))?;
        file.take(PART).read_to_end(&mut part)?;
        Ok(json!([size, hex::encode(Sha256::digest(&part))]))
    };
    // A folder, or a model that is elsewhere.
    read().unwrap_or_default()
}

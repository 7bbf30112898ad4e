//! Builds everything from a configuration, in the order in which it depends on each other, and takes it
//! down again. No other file knows the whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Arbiter;
use dashmap::DashMap;
use serde_json::{Value, json};

use crate::actors::compute::{Compute, blocking};
use crate::actors::document::{DocumentTools, DocumentWorkers};
use crate::actors::door::{Detail, Door, Factory, Plan, RestartPolicy, Role};
use crate::actors::embedder::Embedder;
use crate::actors::folder::{Dirty, Folder, Sync};
use crate::actors::indexer::{Indexer, Indexes, Wake};
use crate::actors::ingestor::{Ingestor, Intake};
use crate::actors::maintainer::{Maintain, Maintainer};
use crate::actors::model_pool::{ModelPool, PoolDoor, PoolState, PooledWorker};
use crate::actors::model_worker::{EnginePlan, EngineSlot, Loader, ModelWorker, Orphans};
use crate::actors::overseer::{Overseer, Registry};
use crate::actors::retriever::Retriever;
use crate::actors::source::{Source, SourceState, TakeEvents};
use crate::actors::stats::{State, now_ms};
use crate::asking::{Asker, Models, Shelf};
use crate::config::{ChatModelConfig, Config, EmbeddingEngine, Engine};
use crate::error::ServiceError;
use crate::freshness::Freshness;
use crate::metrics::{Metrics, Snapshot};
use crate::models::admission::Limits;
use crate::models::llama_cpp::{LlamaCpp, LlamaOptions};
use crate::models::minilm::MiniLm;
use crate::models::mistralrs::{MistralOptions, MistralRs};
use crate::models::openai::{OpenAi, OpenAiOptions, RemoteEmbedder, Upstream};
use crate::models::{self, Generator};
use crate::stores::catalog::{Catalog, Progress};
use crate::stores::dataref::Datarefs;
use crate::stores::hnsw::{VectorIndex, VectorOptions};
use crate::stores::view::{DocumentTable, Views};
use crate::usage::Ledger;

/// Which parts to start. A server has all; a command that only searches needs no model.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// Watch the configured folders.
    pub folders: bool,
    /// Load the chat model.
    pub chat: bool,
}

/// A running answerd, without its HTTP front.
pub struct App {
    /// The configuration.
    pub config: Arc<Config>,
    /// Catalog, indexes, freshness.
    pub indexes: Arc<Indexes>,
    /// The way to the ingestor.
    pub ingestor: Door<Ingestor>,
    /// The way to the retriever.
    pub retriever: Door<Retriever>,
    /// How far the operations at work are, by `seq`.
    pub progress: Arc<DashMap<u64, Progress>>,
    /// The way to the embedder.
    pub embedder: Door<Embedder>,
    /// The embedding model, to count tokens with.
    pub embedding: Arc<dyn models::Embedder>,
    asker: Option<Arc<Asker>>,
    metrics: Arc<Metrics>,
    indexer: Door<Indexer>,
    maintainer: Door<Maintainer>,
    registry: Registry,
    arbiters: Vec<Arbiter>,
    folders_unseen: Arc<tokio::sync::watch::Sender<usize>>,
    stopping: tokio::sync::watch::Sender<bool>,
    /// The source of events, if one is configured.
    pub events: Option<Arc<SourceState>>,
    /// Fetches content that is not in its event.
    pub datarefs: Arc<Datarefs>,
    started: Instant,
}

/// Opens doors on an arbiter, with what all of them have in common.
struct Doors {
    policy: RestartPolicy,
    registry: Registry,
}

impl Doors {
    fn open<R: Role>(
        &self,
        name: &str,
        (capacity, capacity_reason): (usize, &'static str),
        factory: Factory<R>,
        detail: Option<Detail>,
        arbiter: &Arbiter,
    ) -> Door<R> {
        let plan = Plan { name: name.to_owned(), capacity, capacity_reason, policy: self.policy, factory, detail };
        self.registry.watch(Door::open(plan, &arbiter.handle()))
    }
}

/// Threads for `configured`, where 0 is one a core.
fn threads(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

impl App {
    /// Starts the parts asked for. Returns once they work, or with why they cannot.
    ///
    /// # Errors
    /// In words for the operator: a model file that cannot be used, a data folder that is locked or damaged.
    pub async fn start(config: Config, parts: Parts) -> Result<Arc<Self>, String> {
        let config = Arc::new(config);
        let began = Instant::now();
        let settings = Arc::clone(&config);
        let model = blocking(move || load_embedder(&settings)).await.map_err(|error| error.to_string())?;
        let indexes = open_stores(Arc::clone(&config), &*model).await?;

        let policy = RestartPolicy {
            backoff: Duration::from_millis(config.actors.restart_backoff_ms),
            backoff_max: Duration::from_millis(config.actors.restart_backoff_max_ms),
            window: Duration::from_secs(config.actors.unhealthy_window_s),
            unhealthy: config.actors.unhealthy_restarts as usize,
        };
        let doors = Doors { policy, registry: Registry::default() };
        let (write, read, watch) = (Arbiter::new(), Arbiter::new(), Arbiter::new());
        let background = |name, threads| Compute::new(name, threads, true).map(Arc::new);

        let embedder = doors.open(
            "embedder",
            (config.embedding.queue, "[embedding] queue: batches of texts that may wait for the threads"),
            Embedder::factory(Arc::clone(&model), threads(config.embedding.threads), config.embedding.batch_tokens),
            Some(Arc::new({
                let model = Arc::clone(&model);
                move || json!({ "model": model.name(), "dimensions": model.dimensions() })
            })),
            &read,
        );
        let indexer = doors.open(
            "write/indexer",
            (INDEXER_CAPACITY, "every document at work may wait for the next commit"),
            Indexer::factory(Arc::clone(&indexes), background("indexer", threads(0))?),
            Some(index_detail(&indexes)),
            &write,
        );
        let maintainer = doors.open(
            "write/maintainer",
            (1, "one round at a time"),
            Maintainer::factory(Arc::clone(&indexes), background("maintainer", 1)?),
            None,
            &write,
        );
        let progress = Arc::new(DashMap::new());
        let tools = DocumentTools {
            indexes: Arc::clone(&indexes),
            compute: background("parser", config.ingest.workers)?,
            model: Arc::clone(&model),
            embedder: embedder.clone(),
            indexer: indexer.clone(),
            progress: Arc::clone(&progress),
        };
        let workers = doors.open(
            "write/documents",
            (DOCUMENTS_AT_WORK, "enough to fill an index commit while others are parsed and embedded"),
            DocumentWorkers::factory(Arc::new(tools)),
            None,
            &write,
        );
        let ingestor = doors.open(
            "write/ingestor",
            (INGESTOR_CAPACITY, "bodies in memory on their way to the disk"),
            Ingestor::factory(Intake::new(Arc::clone(&indexes), workers)),
            Some(freshness_detail(&indexes)),
            &write,
        );
        let searching = Compute::new("retriever", threads(0), false).map(Arc::new)?;
        let retriever = doors.open(
            "read/retriever",
            (config.search.concurrency, "[search] concurrency: searches that wait for the threads or run"),
            Retriever::factory(Arc::clone(&indexes), embedder.clone(), searching),
            None,
            &read,
        );
        let metrics = Arc::<Metrics>::default();
        let asker = if parts.chat {
            let models = Models(config.models.all().map(|model| open_model(&doors, &config, model, &read)).collect());
            let ledger = Ledger::open(&config.data.dir, Arc::clone(&metrics))
                .map_err(|error| format!("no usage can be recorded: {error}"))?;
            let answer = &config.answer;
            Some(Arc::new(Asker {
                indexes: Arc::clone(&indexes),
                retriever: retriever.clone(),
                models,
                shelf: Arc::new(Shelf::new(Duration::from_secs(answer.keep_s), answer.keep_max)),
                ledger: Arc::new(ledger),
            }))
        } else {
            None
        };
        Overseer::start(doors.registry.clone(), &watch.handle());
        let events = (parts.folders && !config.nats.servers.is_empty()).then(Arc::<SourceState>::default);
        let app = Arc::new(Self {
            datarefs: Arc::new(Datarefs::new(Arc::clone(&config))),
            config,
            indexes,
            ingestor,
            retriever,
            progress,
            embedder,
            embedding: model,
            asker,
            metrics,
            indexer,
            maintainer,
            registry: doors.registry.clone(),
            arbiters: vec![write, read, watch],
            folders_unseen: Arc::default(),
            stopping: tokio::sync::watch::Sender::new(false),
            events,
            started: began,
        });
        app.until_indexes_open().await?;
        if parts.folders {
            app.watch_folders(&doors);
            app.take_events(&doors);
        }
        app.keep_going();
        Ok(app)
    }

    /// Waits until the indexer has published what the indexes and the catalog agree on.
    async fn until_indexes_open(&self) -> Result<(), String> {
        while self.indexes.views.current().is_none() {
            let statuses = self.registry.statuses();
            if let Some(failed) = statuses.iter().find(|status| status.state == State::Failed) {
                let reason = failed.last_error.as_ref().map_or("no reason given", |error| &error.message);
                return Err(format!("{} cannot start: {reason}", failed.name));
            }
            actix_rt::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn watch_folders(&self, doors: &Doors) {
        self.folders_unseen.send_replace(self.config.folders.len());
        for (n, folder) in self.config.folders.iter().enumerate() {
            let dirty: Arc<Dirty> = Arc::default();
            let factory =
                Folder::factory(folder.clone(), Arc::clone(&self.indexes), self.ingestor.clone(), Arc::clone(&dirty));
            let path = folder.path.display().to_string();
            let detail: Detail = Arc::new(move || json!({ "path": path }));
            let reason = "one look at the folder at a time";
            let door =
                doors.open(&format!("write/folder-{}", n + 1), (1, reason), factory, Some(detail), &self.arbiters[0]);
            let unseen = Arc::clone(&self.folders_unseen);
            actix_rt::spawn(async move {
                let mut first = true;
                loop {
                    dirty.some().await;
                    match door.ask_patiently(Sync).await {
                        Ok(seen) => {
                            tracing::debug!(?seen, actor = door.name(), "looked at the folder");
                            if std::mem::take(&mut first) {
                                unseen.send_modify(|folders| *folders -= 1);
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "looking at a folder failed; it is tried again");
                            actix_rt::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                }
            });
        }
    }

    /// Takes events for as long as the process runs, whatever becomes of the connection.
    fn take_events(&self, doors: &Doors) {
        let Some(state) = &self.events else { return };
        let (indexes, datarefs) = (Arc::clone(&self.indexes), Arc::clone(&self.datarefs));
        let factory = Source::factory(indexes, self.ingestor.clone(), datarefs, Arc::clone(state));
        let shown = Arc::clone(state);
        let detail: Detail = Arc::new(move || shown.describe());
        let reason = "one connection; [nats] max_in_flight bounds the events at work";
        let door = doors.open("write/source", (1, reason), factory, Some(detail), &self.arbiters[0]);
        actix_rt::spawn(async move {
            let mut pause = Duration::from_millis(200);
            loop {
                let began = Instant::now();
                if let Err(error) = door.ask_patiently(TakeEvents).await {
                    tracing::warn!(%error, "no events from NATS; trying again");
                }
                pause = if began.elapsed() > Duration::from_secs(60) { Duration::from_millis(200) } else { pause * 2 };
                pause = pause.min(Duration::from_secs(5));
                actix_rt::time::sleep(pause).await;
            }
        });
    }

    /// What works only in part, while the service as a whole does its work: empty where all is well.
    pub fn degraded(&self) -> Vec<String> {
        let events = self.events.iter().flat_map(|events| {
            let absent = events.trouble().map(|why| format!("no events from NATS: {why}"));
            absent.into_iter().chain(events.held_up())
        });
        events.chain(self.pools().flat_map(|pool| pool.state.troubles())).collect()
    }

    /// The models.
    fn pools(&self) -> impl Iterator<Item = &PoolDoor> {
        self.asker.iter().flat_map(|asker| &asker.models.0)
    }

    /// Sets the clocks: the indexer looks for what a failed message left behind, the maintainer makes its rounds,
    /// and a log line tells how far a larger ingestion has come.
    fn keep_going(&self) {
        let (indexer, maintainer) = (self.indexer.clone(), self.maintainer.clone());
        let indexes = Arc::clone(&self.indexes);
        actix_rt::spawn(async move {
            let mut tick = actix_rt::time::interval(Duration::from_secs(1));
            let mut busy = 0;
            loop {
                tick.tick().await;
                // A full door means that a look is under way.
                let _ = indexer.ask(Wake).await;
                let as_of = indexes.freshness.now();
                busy = if as_of.lag_events > 0 { busy + 1 } else { 0 };
                if busy > 0 && busy % 2 == 0 {
                    let live = indexes.views.current().map_or(0, |view| view.live.len());
                    tracing::info!(waiting = as_of.lag_events, passages = live, lag_ms = as_of.lag_ms, "indexing");
                }
            }
        });
        if let Some(asker) = &self.asker {
            let shelf = Arc::clone(&asker.shelf);
            actix_rt::spawn(async move {
                let mut tick = actix_rt::time::interval(Duration::from_secs(1));
                loop {
                    tick.tick().await;
                    shelf.sweep();
                }
            });
        }
        actix_rt::spawn(async move {
            let mut tick = actix_rt::time::interval(Duration::from_secs(2));
            loop {
                tick.tick().await;
                if let Err(error) = maintainer.ask_patiently(Maintain { last: false }).await {
                    tracing::warn!(%error, "a round of maintenance failed; the next one tries again");
                }
            }
        });
    }

    /// The taker of questions.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] where it was started without a chat model.
    pub fn asker(&self) -> Result<&Arc<Asker>, ServiceError> {
        self.asker.as_ref().ok_or_else(|| ServiceError::Unavailable {
            reason: "this answerd runs without a chat model".to_owned(),
            retry_after_s: 60,
        })
    }

    /// Waits until every model can be asked.
    ///
    /// # Errors
    /// Why one cannot be loaded.
    pub async fn until_models_work(&self) -> Result<(), String> {
        for pool in self.pools() {
            while !pool.state.works() {
                if let Some(reason) = pool.state.failed() {
                    return Err(format!("the model {} cannot be used: {reason}", pool.state.name));
                }
                actix_rt::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// Waits until every watched folder has been looked at once, and everything accepted is settled.
    pub async fn until_caught_up(&self) {
        // Its sender lives as long as this.
        let _ = self.folders_unseen.subscribe().wait_for(|unseen| *unseen == 0).await;
        while self.indexes.freshness.unsettled() > 0 {
            actix_rt::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// When it was started, in seconds since the Unix epoch.
    pub fn started_s(&self) -> u64 {
        (now_ms() / 1000).saturating_sub(self.started.elapsed().as_secs())
    }

    /// Why the service is not ready; empty where it is. Without the model that answers from the documents it is not;
    /// another one may fail, and then the service is degraded.
    pub fn troubles(&self) -> Vec<String> {
        let models = self.pools().enumerate().filter(|(n, pool)| {
            let counts = *n == 0 || pool.state.failed().is_none();
            counts && !pool.state.works()
        });
        self.registry.troubles().into_iter().chain(models.flat_map(|(_, pool)| pool.state.troubles())).collect()
    }

    /// Everything the admin page shows.
    ///
    /// # Errors
    /// Where the catalog cannot be read.
    pub async fn status(&self) -> Result<Value, ServiceError> {
        let catalog = Arc::clone(&self.indexes.catalog);
        let counts = blocking(move || catalog.counts()).await?;
        let as_of = self.indexes.freshness.now();
        let troubles = self.troubles();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.started.elapsed().as_secs(),
            "ready": troubles.is_empty(),
            "troubles": troubles,
            "degraded": self.degraded(),
            "events": self.events.as_ref().map(|events| events.describe()),
            "catalog": counts,
            "freshness": as_of,
            "usage": self.asker.as_ref().map(|asker| asker.ledger.describe()),
            "answers_kept": self.asker.as_ref().map(|asker| asker.shelf.len()),
            "resident_bytes": resident_bytes(),
            "actors": self.registry.tree(),
        }))
    }

    /// The metrics, as text.
    ///
    /// # Errors
    /// Where the catalog cannot be read.
    pub async fn metrics_text(&self) -> Result<String, ServiceError> {
        let catalog = Arc::clone(&self.indexes.catalog);
        let counts = blocking(move || catalog.counts()).await?;
        let snapshot = Snapshot {
            as_of: self.indexes.freshness.now(),
            documents: counts.documents,
            chunks: counts.chunks,
            dead_letters: self.events.as_ref().map_or(0, |events| events.dead_letters()),
            resident_bytes: resident_bytes().unwrap_or(0),
            models: self
                .pools()
                .map(|pool| (pool.state.name.clone(), pool.state.describe()["admission"].take()))
                .collect(),
        };
        Ok(self.metrics.text(&snapshot))
    }

    /// Tells connections that stay open by themselves that the service is about to stop.
    pub fn begin_to_stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether it is about to stop.
    pub fn stopping(&self) -> tokio::sync::watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Takes it down: what is accepted and not yet indexed stays in the catalog for the next start.
    pub async fn stop(&self) {
        if let Err(error) = self.maintainer.ask_patiently(Maintain { last: true }).await {
            tracing::warn!(%error, "the vector graphs could not be saved; the next start builds what is missing");
        }
        self.registry.close();
        for pool in self.pools() {
            for engine in pool.state.engines() {
                blocking(move || engine.stop()).await;
            }
        }
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }
}

/// Documents parsed, embedded and indexed at once.
const DOCUMENTS_AT_WORK: usize = 32;
/// One place for each document at work, and some for the clock.
const INDEXER_CAPACITY: usize = DOCUMENTS_AT_WORK + 4;
/// Uploads held in memory at once.
const INGESTOR_CAPACITY: usize = 64;

async fn open_stores(config: Arc<Config>, model: &dyn models::Embedder) -> Result<Arc<Indexes>, String> {
    let (name, dimensions) = (model.name().to_owned(), model.dimensions());
    blocking(move || {
        let folder = &config.data.dir;
        let catalog = Catalog::open(folder, &name, dimensions).map_err(|error| error.to_string())?;
        let index = &config.index;
        let options = VectorOptions {
            dimensions,
            m: index.m,
            ef_construction: index.ef_construction,
            ef_search: index.ef_search,
            segment_chunks: index.segment_chunks,
            rebuild_share: index.rebuild_share,
            exact_below: index.exact_below,
        };
        let (vectors, lost) = VectorIndex::open(&folder.join("vectors"), options).map_err(|error| error.to_string())?;
        if let Some(reason) = lost {
            tracing::warn!(reason, "vector graphs are made again from the catalog");
        }
        let counts = catalog.counts().map_err(|error| error.to_string())?;
        Ok(Arc::new(Indexes {
            catalog: Arc::new(catalog),
            vectors: Arc::new(vectors),
            documents: Arc::new(DocumentTable::default()),
            views: Views::default(),
            freshness: Freshness::new(counts.seq, []),
            unpublished: parking_lot::Mutex::default(),
            changing: parking_lot::Mutex::default(),
            config,
        }))
    })
    .await
}

/// Loads the embedding model, or finds the way to it.
fn load_embedder(config: &Config) -> Result<Arc<dyn models::Embedder>, models::ModelError> {
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
fn open_model(doors: &Doors, config: &Config, model: &ChatModelConfig, arbiter: &Arbiter) -> PoolDoor {
    let loader: Loader = match model.engine {
        Engine::LlamaCpp => {
            let options = LlamaOptions {
                path: model.path.clone(),
                name: model.name.clone(),
                slots: model.slots,
                context_per_slot: model.context,
                batch_tokens: model.batch_tokens,
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

fn index_detail(indexes: &Arc<Indexes>) -> Detail {
    let indexes = Arc::clone(indexes);
    Arc::new(move || {
        let view = indexes.views.current();
        json!({
            "commit": view.as_ref().map(|view| view.commit),
            "live_chunks": view.as_ref().map(|view| view.live.len()),
            "lexical_chunks": view.as_ref().map(|view| view.lexical.num_docs()),
            "vectors": view.as_ref().map(|view| indexes.vectors.stats(&view.live)),
        })
    })
}

fn freshness_detail(indexes: &Arc<Indexes>) -> Detail {
    let indexes = Arc::clone(indexes);
    Arc::new(move || json!(indexes.freshness.now()))
}

/// Memory of this process in RAM, in bytes, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

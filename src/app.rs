//! Builds everything from a configuration, in the order in which it depends on each other, and takes it
//! down again. No other file knows the whole.

mod opening;
mod reloading;
mod startup;
mod watching;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Arbiter;
use serde_json::{Value, json};

pub(crate) use self::opening::load_embedder;
use self::opening::{Ahead, Opening, open_cache, open_model};
pub use self::reloading::{Reload, Unloaded};
pub use self::startup::Startup;
pub use self::watching::{Told, Watching};
use crate::actors::compute::{Compute, blocking};
use crate::actors::document::{DocumentTools, DocumentWorkers};
use crate::actors::door::{Detail, Door, Factory, Plan, RestartPolicy, Role};
use crate::actors::embedder::Embedder;
use crate::actors::folder::{Dirty, Folder, Sync};
use crate::actors::indexer::{Indexer, Wake};
use crate::actors::ingestor::{Ingestor, Intake};
use crate::actors::maintainer::{Maintain, Maintainer};
use crate::actors::model_pool::PoolDoor;
use crate::actors::overseer::{Overseer, Registry};
use crate::actors::retriever::Retriever;
use crate::actors::source::{Source, SourceState, TakeEvents};
use crate::actors::stats::{State, now_ms};
use crate::asking::elsewhere::Elsewhere;
use crate::asking::lead::Leads;
use crate::asking::{Asker, Models, Shelf};
use crate::budgets::Budgets;
use crate::config::{Config, Live};
use crate::deletion::Deletions;
use crate::error::ServiceError;
use crate::identity::Identity;
use crate::identity::audit::Audit;
use crate::library::Library;
use crate::metrics::{Metrics, Snapshot};
use crate::models;
use crate::stores::dataref::Datarefs;
use crate::stores::document_store::DocumentStore;
use crate::stores::embedded::Indexes;
use crate::stores::records::{self, Records};
use crate::stores::redis::Redis;
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
    settings: Arc<Live>,
    reloads: reloading::Reloads,
    startup: Arc<Startup>,
    /// The documents.
    pub library: Arc<Library>,
    /// Who may call; none where everybody may.
    pub identity: Option<Identity>,
    /// How much callers may ask for.
    pub budgets: Arc<Budgets>,
    /// What administrators did.
    pub audit: Audit,
    /// Forgets what is kept of deleted documents, and tells of it.
    pub deletions: Arc<Deletions>,
    /// The service's own records.
    pub records: Arc<dyn Records>,
    /// The way to the ingestor.
    pub ingestor: Door<Ingestor>,
    /// The way to the retriever.
    pub retriever: Door<Retriever>,
    /// The way to the embedder.
    pub embedder: Door<Embedder>,
    /// The embedding model, to count tokens with.
    pub embedding: Arc<dyn models::Embedder>,
    asker: Option<Arc<Asker>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    redis: Option<Arc<Redis>>,
    intake: Arc<Intake>,
    keepers: Option<Keepers>,
    registry: Registry,
    arbiters: Vec<Arbiter>,
    folders_unseen: Arc<tokio::sync::watch::Sender<usize>>,
    stopping: tokio::sync::watch::Sender<bool>,
    /// The source of events, if one is configured.
    pub events: Option<Arc<SourceState>>,
    /// Fetches content that is not in its event.
    pub datarefs: Arc<Datarefs>,
    started: Instant,
    /// What it tells of itself.
    pub watching: Watching,
}

/// Those who keep the indexes of this process.
struct Keepers {
    indexes: Arc<Indexes>,
    indexer: Door<Indexer>,
    maintainer: Door<Maintainer>,
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
        let incidents = Arc::clone(&self.registry.incidents);
        let (name, policy) = (name.to_owned(), self.policy);
        let plan = Plan { name, capacity, capacity_reason, policy, factory, detail, incidents };
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
        Self::start_with(Live::new(config, None), parts, Arc::default()).await
    }

    /// The same with settings that can be read again; and `startup` is told how far it is.
    ///
    /// # Errors
    /// See [`App::start`].
    pub async fn start_with(live: Arc<Live>, parts: Parts, startup: Arc<Startup>) -> Result<Arc<Self>, String> {
        let config = live.now();
        let began = Instant::now();
        startup.comes_to("the embedding model is being loaded");
        let ahead = Ahead::begin(&config)?;
        let settings = Arc::clone(&config);
        let model = blocking(move || {
            fail::fail_point!("start");
            load_embedder(&settings)
        });
        let model = model.await.map_err(|error| error.to_string())?;
        startup.comes_to("the store of the documents is being opened");
        let opening = Opening::begin(&config, &*model, ahead).await.map_err(|error| error.to_string())?;
        let records = records::open(&config)?;
        let identity = match config.identity.enabled {
            true => Some(Identity::start(&live, Arc::clone(&records))?),
            false => None,
        };
        let redis = match config.redis.is_configured() && parts.chat {
            true => Some(Arc::new(Redis::open(&config.redis)?)),
            false => None,
        };

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
        // Loaded while the graphs are read, and not before it is known that the rest can be used.
        let models = parts
            .chat
            .then(|| Models(config.models.all().map(|model| open_model(&doors, &config, model, &read)).collect()));
        let (store, indexes) = opening.end(&config).await?;
        let library = Library::new(store, Arc::clone(&live));
        let keepers = match indexes {
            None => None,
            Some(indexes) => Some(Keepers {
                indexer: doors.open(
                    "write/indexer",
                    (1, "one look at the catalog takes all that is new"),
                    Indexer::factory(Arc::clone(&indexes), background("indexer", threads(0))?),
                    Some(store_detail(&library.store)),
                    &write,
                ),
                maintainer: doors.open(
                    "write/maintainer",
                    (1, "one round at a time"),
                    Maintainer::factory(Arc::clone(&indexes), background("maintainer", 1)?),
                    None,
                    &write,
                ),
                indexes,
            }),
        };
        let shelf = Arc::<Shelf>::default();
        let deletions = Deletions::start(Arc::clone(&library), Arc::clone(&records), Arc::clone(&shelf), redis.clone());
        let tools = DocumentTools {
            deletions: Arc::clone(&deletions),
            library: Arc::clone(&library),
            compute: background("parser", config.ingest.workers)?,
            model: Arc::clone(&model),
            embedder: embedder.clone(),
        };
        let workers = doors.open(
            "write/documents",
            (DOCUMENTS_AT_WORK, "enough to fill an index commit while others are parsed and embedded"),
            DocumentWorkers::factory(Arc::new(tools)),
            None,
            &write,
        );
        let intake = Intake::new(Arc::clone(&library), Arc::clone(&deletions), workers);
        let ingestor = doors.open(
            "write/ingestor",
            (INGESTOR_CAPACITY, "bodies in memory on their way to the disk"),
            Ingestor::factory(Arc::clone(&intake)),
            Some(store_detail(&library.store)).filter(|_| keepers.is_none()),
            &write,
        );
        let retriever = doors.open(
            "read/retriever",
            (config.search.concurrency, "[search] concurrency: searches that wait for the threads or run"),
            Retriever::factory(Arc::clone(&library), embedder.clone()),
            None,
            &read,
        );
        let metrics = Arc::<Metrics>::default();
        let budgets = Budgets::new(&config.budgets, redis.clone());
        let limits = Arc::downgrade(&budgets);
        live.on_change(move |config| {
            if let Some(budgets) = limits.upgrade() {
                budgets.set(&config.budgets);
            }
        });
        let stopping = tokio::sync::watch::Sender::new(false);
        let asker = if let Some(models) = models {
            let ledger = Ledger::open(&config.data.dir, Arc::clone(&metrics))
                .map_err(|error| format!("no usage can be recorded: {error}"))?;
            let shared =
                |redis: &Arc<Redis>| Elsewhere::start(Arc::clone(redis), Arc::clone(&deletions), Arc::clone(&live));
            Some(Arc::new(Asker {
                budgets: Arc::clone(&budgets),
                library: Arc::clone(&library),
                retriever: retriever.clone(),
                models,
                elsewhere: redis.as_ref().map(shared),
                leads: redis.clone().map(|redis| Leads::new(redis, Arc::clone(&deletions))),
                shelf,
                ledger: Arc::new(ledger),
                kept: open_cache(&doors, &live, &embedder, &deletions, &read).await,
                deletions: Arc::clone(&deletions),
                stopping: stopping.subscribe(),
            }))
        } else {
            None
        };
        Overseer::start(doors.registry.clone(), &watch.handle());
        let events = (parts.folders && !config.nats.servers.is_empty()).then(Arc::<SourceState>::default);
        let app = Arc::new(Self {
            datarefs: Arc::new(Datarefs::new(config)),
            settings: live,
            reloads: reloading::Reloads::default(),
            startup,
            library,
            identity,
            audit: Audit::new(Arc::clone(&records)),
            deletions,
            records,
            budgets,
            ingestor,
            retriever,
            embedder,
            embedding: model,
            asker,
            metrics,
            redis,
            intake,
            keepers,
            registry: doors.registry.clone(),
            arbiters: vec![write, read, watch],
            folders_unseen: Arc::default(),
            stopping,
            events,
            started: began,
            watching: Watching::default(),
        });
        app.startup.comes_to("the indexes are being brought up to what is stored");
        app.until_indexes_open().await?;
        if parts.folders {
            app.watch_folders(&doors);
            app.take_events(&doors);
        }
        app.keep_going();
        app.watch_itself();
        app.watch_the_start();
        Ok(app)
    }

    /// The settings in force. Who works on a request takes them once.
    pub fn config(&self) -> Arc<Config> {
        self.settings.now()
    }

    /// Waits until the indexer has published what the indexes and the catalog agree on.
    async fn until_indexes_open(&self) -> Result<(), String> {
        let Some(Keepers { indexes, .. }) = &self.keepers else { return Ok(()) };
        while indexes.views.current().is_none() {
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
        let config = self.config();
        self.folders_unseen.send_replace(config.folders.len());
        for (n, folder) in config.folders.iter().enumerate() {
            let dirty: Arc<Dirty> = Arc::default();
            let factory =
                Folder::factory(folder.clone(), Arc::clone(&self.library), self.ingestor.clone(), Arc::clone(&dirty));
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
        let (library, datarefs) = (Arc::clone(&self.library), Arc::clone(&self.datarefs));
        let factory = Source::factory(library, self.ingestor.clone(), datarefs, Arc::clone(state));
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
            // Why they wait may name documents: that is for the administrators' page.
            let waiting = events.waiting();
            let waiting = (waiting > 0).then(|| format!("{waiting} events wait to be tried again"));
            absent.into_iter().chain(waiting)
        });
        let redis = self.redis.iter().filter_map(|redis| redis.trouble());
        let store = self.library.store.trouble();
        events.chain(redis).chain(store).chain(self.pools().flat_map(|pool| pool.state.troubles())).collect()
    }

    /// The models.
    fn pools(&self) -> impl Iterator<Item = &PoolDoor> {
        self.asker.iter().flat_map(|asker| &asker.models.0)
    }

    /// Sets the clocks: the indexer looks for what is stored, and for what a failed message left behind; the maintainer
    /// makes its rounds; what a replica that died had begun is taken over; and a log line tells how far a larger ingestion
    /// has come.
    fn keep_going(&self) {
        if let Some(Keepers { indexes, indexer, maintainer }) = &self.keepers {
            let catalog = &indexes.catalog;
            let (indexes, indexer, maintainer) = (Arc::clone(indexes), indexer.clone(), maintainer.clone());
            actix_rt::spawn(async move {
                let mut tick = actix_rt::time::interval(Duration::from_secs(1));
                loop {
                    tokio::select! {
                        _ = tick.tick() => {}
                        () = indexes.stored.notified() => {}
                    }
                    if let Err(error) = indexer.ask_patiently(Wake).await {
                        tracing::warn!(%error, "what is stored is not yet visible; it is tried again");
                        tick.tick().await;
                    }
                }
            });
            let deletions = Arc::clone(&self.deletions);
            let catalog = Arc::clone(catalog);
            actix_rt::spawn(async move {
                let mut tick = actix_rt::time::interval(Duration::from_secs(2));
                loop {
                    tick.tick().await;
                    match maintainer.ask_patiently(Maintain { last: false }).await {
                        Ok(gone) => {
                            let said = deletions.expunged(&gone).await;
                            let catalog = Arc::clone(&catalog);
                            let forgotten =
                                said.is_empty() || blocking(move || catalog.forget_deletions(&said)).await.is_ok();
                            if !forgotten {
                                tracing::debug!("what is gone is looked for once more");
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a round of maintenance failed; the next one tries again");
                        }
                    }
                }
            });
        }
        let intake = Arc::clone(&self.intake);
        // Where the ingestor is, whose work it is.
        self.arbiters[0].spawn(async move {
            let mut tick = tokio::time::interval(TAKE_OVER);
            loop {
                tick.tick().await;
                match intake.take_over(false).await {
                    Ok(0) => {}
                    Ok(operations) => tracing::info!(operations, "took over what nobody worked on"),
                    Err(error) => tracing::debug!(%error, "could not look for what nobody works on"),
                }
            }
        });
        let library = Arc::clone(&self.library);
        actix_rt::spawn(async move {
            let mut tick = actix_rt::time::interval(Duration::from_secs(1));
            let mut busy = 0;
            loop {
                tick.tick().await;
                let Ok(as_of) = library.as_of().await else { continue };
                busy = if as_of.lag_events > 0 { busy + 1 } else { 0 };
                if busy > 0 && busy % 2 == 0 {
                    let passages = library.store.counts().await.map_or(0, |counts| counts.chunks);
                    tracing::info!(waiting = as_of.lag_events, passages, lag_ms = as_of.lag_ms, "indexing");
                }
            }
        });
        if let Some(asker) = &self.asker {
            let (shelf, settings) = (Arc::clone(&asker.shelf), Arc::clone(&self.settings));
            actix_rt::spawn(async move {
                let mut tick = actix_rt::time::interval(Duration::from_secs(1));
                loop {
                    tick.tick().await;
                    let answer = &settings.now().answer;
                    shelf.sweep(Duration::from_secs(answer.keep_s), answer.keep_max);
                }
            });
        }
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
        self.until_folders_are_seen().await;
        while self.library.store.waiting().await.is_ok_and(|operations| operations > 0) {
            actix_rt::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every watched folder has been looked at once.
    async fn until_folders_are_seen(&self) {
        // Its sender lives as long as this.
        let _ = self.folders_unseen.subscribe().wait_for(|unseen| *unseen == 0).await;
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
        let stopping = (*self.stopping.borrow()).then(|| "the service is stopping".to_owned());
        let registry = self.registry.troubles().into_iter();
        stopping.into_iter().chain(registry).chain(models.flat_map(|(_, pool)| pool.state.troubles())).collect()
    }

    /// Everything the admin page shows.
    pub async fn status(&self) -> Value {
        let (counts, as_of) = (self.library.store.counts().await.ok(), self.library.as_of().await.ok());
        let troubles = self.troubles();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.started.elapsed().as_secs(),
            "ready": troubles.is_empty(),
            "troubles": troubles,
            "starting": self.startup_troubles(),
            "reload": self.last_reload(),
            "degraded": self.degraded(),
            "events": self.events.as_ref().map(|events| events.describe()),
            "store": self.library.store.describe(),
            "catalog": counts,
            "freshness": as_of,
            "redis": self.redis.as_ref().map(|redis| redis.describe()),
            "usage": self.asker.as_ref().map(|asker| asker.ledger.describe()),
            "answers_kept": self.asker.as_ref().map(|asker| asker.shelf.len()),
            "resident_bytes": resident_bytes(),
            "cpu_share": self.watching.cpu_share(),
            "cores": threads(0),
            "incidents": self.registry.incidents.all(),
            "actors": self.registry.tree(),
        })
    }

    /// The metrics, as text.
    pub async fn metrics_text(&self) -> String {
        let actors = self.registry.statuses();
        let cache = actors.iter().map(|actor| &actor.detail["memory"]).find(|memory| memory.is_object());
        let of_cache = |name: &str| cache.and_then(|memory| memory[name].as_u64()).unwrap_or(0);
        let snapshot = Snapshot {
            store: self.library.store.counts().await.ok().zip(self.library.as_of().await.ok()),
            dead_letters: self.events.as_ref().map_or(0, |events| events.dead_letters()),
            events_taken: self.events.as_ref().map_or(0, |events| events.taken()),
            resident_bytes: resident_bytes().unwrap_or(0),
            cpu: watching::cpu_time(),
            ready: self.troubles().is_empty(),
            degraded: self.degraded().len(),
            answers_open: self.pools().map(|pool| pool.door.depth()).sum(),
            answers_kept: self.asker.as_ref().map_or(0, |asker| asker.shelf.len()),
            cache: (of_cache("entries"), of_cache("bytes")),
            actors,
            answers: self.asker.iter().flat_map(|asker| asker.kept.counts.all()).collect(),
            models: self
                .pools()
                .map(|pool| (pool.state.name.clone(), pool.state.describe()["admission"].take()))
                .collect(),
        };
        self.metrics.text(&snapshot)
    }

    /// Begins to stop: `/readyz` fails, no new question is taken, connections that stay open by themselves end. Returns once
    /// the answers under way have ended, or their time is up.
    pub async fn drain(&self, limit: Duration) {
        self.stopping.send_replace(true);
        let (began, open) = (Instant::now(), || self.asker.as_ref().map_or(0, |asker| asker.shelf.open()));
        while open() > 0 && began.elapsed() < limit {
            actix_rt::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the answers that are still under way; gives how many. Their readers are told why.
    pub fn interrupt(&self) -> usize {
        let Some(asker) = &self.asker else { return 0 };
        let answers = asker.shelf.open();
        if answers > 0 {
            tracing::warn!(answers, "ended before they were complete: the service stops");
            asker.shelf.interrupt(asker.elsewhere.is_some());
        }
        answers
    }

    /// Whether it is about to stop.
    pub fn stopping(&self) -> tokio::sync::watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Takes it down: what is accepted and not yet indexed stays in the catalog for the next start.
    pub async fn stop(&self) {
        if let Some(keepers) = &self.keepers
            && let Err(error) = keepers.maintainer.ask_patiently(Maintain { last: true }).await
        {
            tracing::warn!(%error, "the vector graphs could not be saved; the next start builds what is missing");
        }
        self.registry.close();
        if let Some(elsewhere) = self.asker.as_ref().and_then(|asker| asker.elsewhere.as_ref()) {
            elsewhere.mirror_last().await;
        }
        self.deletions.leave().await;
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
/// How often operations are looked for that nobody works on.
const TAKE_OVER: Duration = Duration::from_secs(3);
/// Uploads held in memory at once.
const INGESTOR_CAPACITY: usize = 64;

fn store_detail(store: &Arc<dyn DocumentStore>) -> Detail {
    let store = Arc::clone(store);
    Arc::new(move || store.describe())
}

/// Memory of this process in RAM, in bytes, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    // In KiB (proc_pid_status(5)).
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(resident.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

//! The store in Postgres with pgvector: documents, chunks, vectors and `seq` on a server that replicas share. A process
//! keeps nothing of it.
//!
//! - An operation is accepted under a lock on its document, so that an older revision never replaces a newer one,
//!   whichever replica is slower.
//! - Who accepts one works on it, and says so every few seconds by the server's clock; what nobody speaks for any more is
//!   taken over. Two that work on the same operation do no harm: the second finds it stored.
//! - A version is replaced, and found, with one transaction.
//!
//! `schema` has the tables, `write` and `read` what the catalog does in the embedded store, `search` both rankings and
//! their fusion in one statement, `filter` filters as SQL, `archive` how documents move to another store, `records` what the
//! service itself keeps here.

mod archive;
mod clean;
mod filter;
mod read;
mod records;
mod schema;
mod search;
mod write;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deadpool_postgres::{Client, Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use tokio_postgres_rustls::MakeRustlsConnect;

use self::clean::{clean, clean_json, clean_metadata};
use self::schema::{Shape, Unfit};
use super::StoreError;
use super::document_store::{
    DocumentPage, DocumentQuery, DocumentRecord, DocumentStore, Hits, Lookup, NewChunk, OperationState, Origin,
    Pending, Progress, Receipt, Standing, StoreCounts,
};
use super::settled::Settled;
use crate::config::{Config, PostgresConfig};
use crate::deletion::receipt::{Removal, State};
use crate::documents::ParsedDocument;
use crate::documents::event::Operation;
use crate::http::root_certificates;
use crate::retrieval::filter::Filter;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a start waits for a server that does not answer yet.
const START: Duration = Duration::from_secs(30);

/// `operations.kind`.
const UPSERT: i16 = 0;
const DELETE: i16 = 1;

/// `operations.state`.
const RECEIVED: i16 = OperationState::Received as i16;
const STORED: i16 = OperationState::Stored as i16;
const FAILED: i16 = OperationState::Failed as i16;
const SUPERSEDED: i16 = OperationState::Superseded as i16;

/// The store; see the module.
pub struct Postgres {
    pool: Pool,
    config: Arc<Config>,
    address: String,
    id: String,
    /// Names this process among the replicas.
    process: String,
    trouble: Mutex<Option<String>>,
    settled: Settled,
    statistics: search::Statistics,
    /// The table of the service's own records is there.
    records: OnceCell<()>,
}

/// A piece of work on a connection.
type Work<'c, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'c>>;

impl Postgres {
    /// The store, of which nothing is asked yet, and of which nobody knows whether it has its tables.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn new(config: &Arc<Config>) -> Result<Self, StoreError> {
        let (pool, address) = pool(config).map_err(StoreError::Failed)?;
        Ok(Self {
            pool,
            config: Arc::clone(config),
            address,
            id: String::new(),
            process: uuid::Uuid::now_v7().to_string(),
            trouble: Mutex::default(),
            settled: Settled::default(),
            statistics: search::Statistics::default(),
            records: OnceCell::new(),
        })
    }

    /// Connects, and makes the tables or brings them up to date. A server that does not answer is waited for a while.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn open(config: &Arc<Config>, embedding: &str, dimensions: usize) -> Result<Self, StoreError> {
        let settings = &config.postgres;
        let mut store = Self::new(config)?;
        let began = Instant::now();
        let shape = Shape {
            schema: &settings.schema,
            embedding,
            dimensions,
            m: config.index.m,
            ef_construction: config.index.ef_construction,
        };
        store.id = loop {
            match store.prepare(&shape).await {
                Err(StoreError::Unavailable(reason)) if began.elapsed() < START => {
                    tracing::warn!(reason, "waiting for Postgres");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                id => break id?,
            }
        };
        Ok(store)
    }

    async fn prepare(&self, shape: &Shape<'_>) -> Result<String, StoreError> {
        let mut client = self.client("open the store").await?;
        let work = async {
            let t = client.transaction().await?;
            let id = schema::prepare(&t, shape).await?;
            t.commit().await?;
            Ok(id)
        };
        work.await.map_err(|unfit| match unfit {
            Unfit::Failed(error) => self.failed("open the store", &error),
            Unfit::Because(reason) => {
                StoreError::Failed(format!("the Postgres {} cannot be used: {reason}", self.address))
            }
        })
    }

    async fn client(&self, doing: &str) -> Result<Client, StoreError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => self.failed(doing, &error),
            error => self.unavailable(doing, &error.to_string()),
        })
    }

    /// Runs `work` on a connection, in the time there is for it.
    async fn run<T>(&self, doing: &str, work: impl FnOnce(&mut Client) -> Work<'_, T>) -> Result<T, StoreError> {
        self.attempt(doing, work).await.map_err(|(error, _)| error)
    }

    /// The same for what may be done twice: once more where the connection had ended, as all do when a server restarts.
    async fn read<T>(&self, doing: &str, work: impl Fn(&mut Client) -> Work<'_, T>) -> Result<T, StoreError> {
        match self.attempt(doing, &work).await {
            Err((StoreError::Unavailable(_), true)) => self.run(doing, &work).await,
            result => result.map_err(|(error, _)| error),
        }
    }

    /// Runs it once. With an error, whether the server had been reached and might answer if it is asked again.
    async fn attempt<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&mut Client) -> Work<'_, T>,
    ) -> Result<T, (StoreError, bool)> {
        let mut client = self.client(doing).await.map_err(|error| (error, false))?;
        match tokio::time::timeout(self.time(), work(&mut client)).await {
            Ok(Ok(value)) => {
                *self.trouble.lock() = None;
                Ok(value)
            }
            Ok(Err(error)) => Err((self.failed(doing, &error), true)),
            Err(_) => {
                // What it still does would be in the way of whoever had the connection next.
                drop(deadpool_postgres::Object::take(client));
                Err((self.unavailable(doing, "it does not answer"), false))
            }
        }
    }

    fn time(&self) -> Duration {
        Duration::from_millis(self.config.postgres.timeout_ms)
    }

    fn unavailable(&self, doing: &str, reason: &str) -> StoreError {
        let reason = format!("the Postgres {} cannot {doing} now: {reason}", self.address);
        *self.trouble.lock() = Some(reason.clone());
        StoreError::Unavailable(reason)
    }

    /// The error of a statement, for the person who gets it.
    fn failed(&self, doing: &str, error: &Error) -> StoreError {
        let Some(said) = error.as_db_error() else {
            // No word of the server's: it is not there, or went while it was asked.
            return self.unavailable(doing, &with_causes(error));
        };
        let (code, message) = (said.code(), said.message());
        match code {
            &SqlState::DISK_FULL => {
                StoreError::Full(format!("no room on the disk of the Postgres {} to {doing}: {message}", self.address))
            }
            // It restarts, fails over, or has too much to do: class 57 is an operator's act, 08 the connection, 53 a want
            // of resources, 40 a transaction that lost against another.
            code if ["57", "08", "53", "40"].iter().any(|class| code.code().starts_with(class))
                || code == &SqlState::READ_ONLY_SQL_TRANSACTION =>
            {
                self.unavailable(doing, message)
            }
            code => {
                StoreError::Failed(format!("the Postgres {} cannot {doing}: {message} ({})", self.address, code.code()))
            }
        }
    }
}

#[async_trait]
impl DocumentStore for Postgres {
    fn id(&self) -> &str {
        &self.id
    }

    async fn receive(&self, operation: Operation, origin: Option<Origin>, _: i64) -> Result<Receipt, StoreError> {
        self.receive_operation(operation, origin).await
    }

    async fn claim(&self, again: bool) -> Result<Vec<(u64, String)>, StoreError> {
        self.claim_operations(again).await
    }

    async fn operation(&self, seq: u64) -> Result<Option<Pending>, StoreError> {
        self.read_operation(seq).await
    }

    async fn vectors_by_hash(
        &self,
        document: &str,
    ) -> Result<std::collections::HashMap<[u8; 32], Vec<f32>>, StoreError> {
        self.read_vectors(document).await
    }

    async fn store_version(
        &self,
        seq: u64,
        parsed: ParsedDocument,
        chunks: Vec<NewChunk>,
        progress: Progress,
        _: i64,
    ) -> Result<(), StoreError> {
        self.replace(seq, Some((parsed, chunks, progress))).await
    }

    async fn store_delete(&self, seq: u64, _: i64) -> Result<(), StoreError> {
        self.replace(seq, None).await
    }

    async fn give_up(&self, seq: u64, reason: &str, _: i64) -> Result<(), StoreError> {
        self.fail_operation(seq, reason).await
    }

    async fn outcome(&self, seq: u64) -> Result<Option<(OperationState, Option<String>)>, StoreError> {
        self.read_outcome(seq).await
    }

    async fn remember_event(&self, event: [u8; 16]) -> Result<(), StoreError> {
        self.run("remember an event", |client| {
            Box::pin(async move {
                let sql = "INSERT INTO events VALUES ($1, 0) ON CONFLICT (key) DO UPDATE SET seq = 0";
                client.execute(sql, &[&event.as_slice()]).await.map(drop)
            })
        })
        .await
    }

    async fn forget_event(&self, event: [u8; 16]) -> Result<(), StoreError> {
        self.run("forget an event", |client| {
            Box::pin(async move {
                client.execute("DELETE FROM events WHERE key = $1", &[&event.as_slice()]).await.map(drop)
            })
        })
        .await
    }

    async fn knows_event(&self, event: [u8; 16]) -> Result<bool, StoreError> {
        self.read("look for an event", |client| {
            Box::pin(async move {
                let sql = "SELECT EXISTS (SELECT 1 FROM events WHERE key = $1)";
                Ok(client.query_one(sql, &[&event.as_slice()]).await?.get(0))
            })
        })
        .await
    }

    async fn document(&self, id: &str) -> Result<Option<DocumentRecord>, StoreError> {
        self.read_document(id).await
    }

    async fn document_text(&self, id: &str) -> Result<Option<String>, StoreError> {
        self.read_text(id).await
    }

    async fn documents(&self, query: &DocumentQuery) -> Result<DocumentPage, StoreError> {
        self.list(query).await
    }

    async fn collections(&self, filter: Option<Filter>) -> Result<BTreeMap<String, u64>, StoreError> {
        self.count_collections(filter).await
    }

    async fn counts(&self) -> Result<StoreCounts, StoreError> {
        self.count().await
    }

    async fn waiting(&self) -> Result<usize, StoreError> {
        self.read("count what waits", |client| {
            Box::pin(async move {
                let sql = client.prepare_cached("SELECT count(*) FROM operations WHERE state = 0").await?;
                Ok(client.query_one(&sql, &[]).await?.get::<_, i64>(0) as usize)
            })
        })
        .await
    }

    async fn standing(&self) -> Result<Standing, StoreError> {
        self.stand().await
    }

    async fn settle(&self, seq: u64, limit: Duration) -> Result<bool, StoreError> {
        self.settled.settle(self, seq, limit).await
    }

    async fn reach(&self, seq: u64, limit: Duration) -> Result<bool, StoreError> {
        self.settled.reach(self, seq, limit).await
    }

    async fn search(&self, lookup: Lookup) -> Result<Hits, StoreError> {
        self.find(lookup).await
    }

    fn removed_from(&self, chunks: u64, at_ms: u64) -> Vec<Removal> {
        let hidden = |what: &str, entries, until: &str| {
            Removal::removed(what, entries, at_ms).but(State::Hidden, until.to_owned())
        };
        vec![
            hidden(
                "Postgres tables",
                1,
                "a dead row and its chunks, until a VACUUM; the write-ahead log is the server's",
            ),
            hidden("Postgres word index (GIN)", chunks, "entries of dead rows, until a VACUUM"),
            hidden("Postgres vector index (HNSW)", chunks, "entries of dead rows, until a VACUUM"),
        ]
    }

    fn describe(&self) -> Value {
        let pool = self.pool.status();
        json!({
            "engine": "postgres",
            "address": self.address,
            "schema": self.config.postgres.schema,
            "process": self.process,
            "connections": pool.size,
            "idle": pool.available,
            "waiting": pool.waiting,
            "trouble": self.trouble(),
        })
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }
}

/// The pool of connections, and where they lead, without secrets.
fn pool(config: &Config) -> Result<(Pool, String), String> {
    let PostgresConfig { url, schema, connections, timeout_ms, tls_ca_file } = &config.postgres;
    let mut to = tokio_postgres::Config::from_str(url)
        // The error names no value.
        .map_err(|error| format!("[postgres] url cannot be used: {}", with_causes(&error)))?;
    let ports = to.get_ports();
    let port = |n: usize| ports.get(n).or_else(|| ports.first()).copied().unwrap_or(5432);
    let hosts: Vec<String> = to
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(n, host)| match host {
            tokio_postgres::config::Host::Tcp(name) => format!("{name}:{}", port(n)),
            tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    let address = format!("{}/{}", hosts.join(","), to.get_dbname().unwrap_or_default());
    if to.get_application_name().is_none() {
        to.application_name("answerd");
    }
    to.connect_timeout(CONNECT).keepalives_idle(Duration::from_secs(30));
    crate::http::use_ring();
    let ca_file = (!tls_ca_file.as_os_str().is_empty()).then_some(tls_ca_file.as_path());
    let tls = rustls::ClientConfig::builder().with_root_certificates(root_certificates(ca_file)?).with_no_client_auth();
    let manager = Manager::from_config(
        to,
        MakeRustlsConnect::new(tls),
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    // Enough candidates are looked at, also where a filter drops most of them. Compiling a statement would take longer than
    // running it. A server that is asked for longer than we wait need not go on.
    let candidates = config.search.candidates.max(config.search.limit_max).max(config.index.ef_search).min(1000);
    let setup = format!(
        "SET search_path = {schema}, public; SET statement_timeout = {timeout_ms}; SET jit = off; \
         SET hnsw.ef_search = {candidates}; SET hnsw.iterative_scan = relaxed_order; SET hnsw.max_scan_tuples = 40000"
    );
    let prepare = Hook::async_fn(move |client, _| {
        let setup = setup.clone();
        Box::pin(async move { client.batch_execute(&setup).await.map_err(HookError::Backend) })
    });
    let pool = Pool::builder(manager)
        .max_size(*connections)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(Duration::from_millis(*timeout_ms)))
        .create_timeout(Some(CONNECT))
        .post_create(prepare)
        .build()
        .map_err(|error| format!("no connections to Postgres: {error}"))?;
    Ok((pool, address))
}

/// An error and what caused it, in one line: the driver's own words say little.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

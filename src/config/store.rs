//! `[store]`, `[postgres]` and `[qdrant]`: where the documents are kept.

use std::path::PathBuf;
use std::str::FromStr;

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What keeps and finds the documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreEngine {
    /// SQLite, tantivy and HNSW in this process, in `[data] dir`.
    #[default]
    Embedded,
    /// Postgres with pgvector, which replicas share.
    Postgres,
    /// Qdrant, which replicas share.
    Qdrant,
}

/// `[store]`: what keeps and finds the documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// `embedded`, `postgres` or `qdrant`.
    #[garde(skip)]
    pub engine: StoreEngine,
}

/// `[postgres]`: a Postgres with pgvector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresConfig {
    /// Its address: `postgres://user:password@host:port/database`, with `?sslmode=require` to insist on TLS; several hosts
    /// with commas between them.
    #[garde(custom(postgres_url))]
    pub url: String,
    /// The schema that holds the tables; made where it is missing.
    #[garde(custom(schema_name))]
    pub schema: String,
    /// The most connections of this process.
    #[garde(range(min = 2, max = 1000))]
    pub connections: usize,
    /// Time for one transaction, and for one search, in milliseconds.
    #[garde(range(min = 100, max = 3_600_000))]
    pub timeout_ms: u64,
    /// The certificate of the authority that signed the server's (PEM); without it, those of the system count.
    #[garde(skip)]
    pub tls_ca_file: PathBuf,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            schema: "answerd".into(),
            connections: 16,
            timeout_ms: 30_000,
            tls_ca_file: PathBuf::new(),
        }
    }
}

/// `[qdrant]`: a Qdrant server or cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct QdrantConfig {
    /// Its address for gRPC: `http://host:6334`, or `https://` for TLS.
    #[garde(custom(qdrant_url))]
    pub url: String,
    /// The key that it asks for, if it does.
    #[garde(skip)]
    pub api_key: String,
    /// What the names of the collections begin with; they are made where they are missing.
    #[garde(custom(collection_name))]
    pub collection: String,
    /// Connections of this process; each takes many requests at once.
    #[garde(range(min = 1, max = 100))]
    pub connections: usize,
    /// Time for one request, in milliseconds.
    #[garde(range(min = 100, max = 3_600_000))]
    pub timeout_ms: u64,
}

impl Default for QdrantConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            api_key: String::new(),
            collection: "answerd".into(),
            connections: 4,
            timeout_ms: 30_000,
        }
    }
}

fn qdrant_url(url: &str, _: &()) -> garde::Result {
    let fits = |url: url::Url| ["http", "https"].contains(&url.scheme()) && url.has_host();
    match url.is_empty() || url::Url::parse(url).is_ok_and(fits) {
        true => Ok(()),
        false => Err(garde::Error::new("an address must be like http://host:6334")),
    }
}

fn collection_name(name: &str, _: &()) -> garde::Result {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match name.chars().all(fits) && (1..=100).contains(&name.len()) {
        true => Ok(()),
        false => Err(garde::Error::new("a collection has a name of letters, digits, _, - and dots, up to 100")),
    }
}

fn postgres_url(url: &str, _: &()) -> garde::Result {
    match url.is_empty() || tokio_postgres::Config::from_str(url).is_ok() {
        true => Ok(()),
        // It may hold a password.
        false => Err(garde::Error::new("an address must be like postgres://user:password@host:5432/database")),
    }
}

fn schema_name(name: &str, _: &()) -> garde::Result {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match name.chars().all(fits) && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 63 {
        true => Ok(()),
        false => Err(garde::Error::new("a schema has a name of small letters, digits and underscores, up to 63")),
    }
}

//! The tables in Postgres, and bringing them up to date.

use deadpool_postgres::Transaction;
use tokio_postgres::Error;

/// Version of the tables below, in `settings`.
pub(super) const SCHEMA_VERSION: i64 = 1;

/// What the tables of the embedded catalog are, without those versions that are retired: a search sees one snapshot of the
/// database, so what is replaced goes with the transaction that replaces it.
///
/// - `operations`: what was received. One row stays for each document as the memory of its last revision. `claimed_by` is
///   the process that works on it, for as long as it says so (`claimed_until`).
/// - `documents`: what is served.
/// - `chunks`: its pieces, with their vectors and their words (title, headings and text).
/// - `events`: the events that were taken, by a hash of source and id.
/// - `counters`: the last commit. It is counted last in each transaction that changes what is found, so that commits are
///   visible in the order of their numbers.
const TABLES: &str = "
-- English stems, and no stop words: how rare a word is, its weight says, and a question may be all of common ones.
CREATE TEXT SEARCH DICTIONARY stems (TEMPLATE = snowball, LANGUAGE = english);
CREATE TEXT SEARCH CONFIGURATION words (COPY = english);
ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING REPLACE english_stem WITH stems;

CREATE TABLE operations (
    seq           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document      text COLLATE \"C\" NOT NULL,
    kind          smallint NOT NULL,
    revision      bigint NOT NULL,
    state         smallint NOT NULL,
    reason        text,
    received_ms   bigint NOT NULL,
    parsed_ms     bigint,
    embedded_ms   bigint,
    settled_ms    bigint,
    media_type    text,
    title         text,
    url           text,
    collection    text COLLATE \"C\" NOT NULL,
    metadata      jsonb NOT NULL,
    content       bytea,
    hash          bytea,
    position      bigint,
    claimed_by    text,
    claimed_until timestamptz
);
CREATE INDEX operations_document ON operations (document, seq DESC);
CREATE INDEX operations_waiting ON operations (seq) WHERE state = 0;

CREATE TABLE documents (
    document    text COLLATE \"C\" PRIMARY KEY,
    revision    bigint NOT NULL,
    seq         bigint NOT NULL,
    media_type  text,
    format      text NOT NULL,
    title       text NOT NULL,
    url         text,
    collection  text COLLATE \"C\" NOT NULL,
    metadata    jsonb NOT NULL,
    content     bytea NOT NULL,
    updated_ms  bigint NOT NULL,
    chunk_count integer NOT NULL
);
-- Passages are cut out of it: uncompressed, only the pieces asked for are read.
ALTER TABLE documents ALTER COLUMN content SET STORAGE EXTERNAL;
CREATE INDEX documents_collection ON documents (collection);
CREATE INDEX documents_metadata ON documents USING gin (metadata jsonb_path_ops);

CREATE TABLE chunks (
    chunk     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document  text COLLATE \"C\" NOT NULL REFERENCES documents ON DELETE CASCADE,
    section   jsonb NOT NULL,
    start     integer NOT NULL,
    stop      integer NOT NULL,
    page      integer,
    tokens    integer NOT NULL,
    hash      bytea NOT NULL,
    embedding vector({dimensions}) NOT NULL,
    words     tsvector NOT NULL
);
CREATE INDEX chunks_document ON chunks (document);
CREATE INDEX chunks_words ON chunks USING gin (words);
CREATE INDEX chunks_embedding ON chunks USING hnsw (embedding vector_ip_ops) WITH (m = {m}, ef_construction = {ef_construction});
-- The statistics tell rare words from common ones.
ALTER TABLE chunks ALTER COLUMN words SET STATISTICS 1000;

CREATE TABLE events (key bytea PRIMARY KEY, seq bigint NOT NULL);
CREATE TABLE counters (name text PRIMARY KEY, value bigint NOT NULL);
INSERT INTO counters VALUES ('commit', 0);
";

/// What the tables depend on.
pub(super) struct Shape<'a> {
    pub schema: &'a str,
    pub embedding: &'a str,
    pub dimensions: usize,
    pub m: usize,
    pub ef_construction: usize,
}

/// Why the tables cannot be used.
pub(super) enum Unfit {
    /// The server said so.
    Failed(Error),
    /// In words for the operator.
    Because(String),
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Makes the tables, or brings them up to date. Several processes may do it at once: one of them does. Gives the store's id.
pub(super) async fn prepare(t: &Transaction<'_>, shape: &Shape<'_>) -> Result<String, Unfit> {
    let Shape { schema, embedding, dimensions, .. } = shape;
    t.query_one("SELECT pg_advisory_xact_lock(hashtextextended('answerd schema ' || $1, 0))", &[schema]).await?;
    let settings = format!("{schema}.settings");
    let there: bool = t.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&settings]).await?.get(0);
    let vector: Option<String> = t
        .query_opt("SELECT installed_version FROM pg_available_extensions WHERE name = 'vector'", &[])
        .await?
        .map(|row| row.get::<_, Option<String>>(0).unwrap_or_default());
    match vector.as_deref() {
        None => return Err(Unfit::Because("the server has no pgvector: install it (0.8 or newer)".into())),
        Some("") => t.batch_execute("CREATE EXTENSION vector").await.map_err(|error| {
            Unfit::Because(format!(
                "pgvector is not in this database ({error}): have an administrator run CREATE EXTENSION vector"
            ))
        })?,
        Some(version) if older_than_0_8(version) => {
            return Err(Unfit::Because(format!(
                "pgvector is {version}, 0.8 or newer is needed: its scans go on where a filter leaves too little. Run ALTER EXTENSION vector UPDATE."
            )));
        }
        Some(_) => {}
    }
    if !there {
        let sql = TABLES
            .replace("{dimensions}", &dimensions.to_string())
            .replace("{m}", &shape.m.to_string())
            .replace("{ef_construction}", &shape.ef_construction.to_string());
        t.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE settings (name text PRIMARY KEY, value text NOT NULL); {sql}"))
            .await?;
        let first = [
            ("id", uuid::Uuid::now_v7().to_string()),
            ("schema", SCHEMA_VERSION.to_string()),
            ("embedding", (*embedding).to_owned()),
            ("dimensions", dimensions.to_string()),
        ];
        for (name, value) in &first {
            t.execute("INSERT INTO settings VALUES ($1, $2)", &[name, value]).await?;
        }
    }
    let setting = async |name: &str| -> Result<String, Error> {
        Ok(t.query_opt("SELECT value FROM settings WHERE name = $1", &[&name])
            .await?
            .map(|row| row.get(0))
            .unwrap_or_default())
    };
    let version = setting("schema").await?;
    if version != SCHEMA_VERSION.to_string() {
        return Err(Unfit::Because(format!(
            "its tables have version {version:?}, this answerd knows {SCHEMA_VERSION}. Run the answerd that made them, or name another [postgres] schema."
        )));
    }
    let (found, found_dimensions) = (setting("embedding").await?, setting("dimensions").await?);
    if found != *embedding || found_dimensions != dimensions.to_string() {
        return Err(Unfit::Because(format!(
            "its vectors were made with the embedding model {found} ({found_dimensions} dimensions), the configuration says {embedding} ({dimensions}). \
             They cannot be compared: set [embedding] model back, or name another [postgres] schema and ingest again."
        )));
    }
    Ok(setting("id").await?)
}

fn older_than_0_8(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (0, 8)
}

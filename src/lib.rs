//! answerd: search an organisation's documents, and call the model.
//!
//! # The two paths
//!
//! *Write*: a document comes by HTTP ([`web::documents`]) or from a folder ([`actors::folder`]) to the ingestor
//! ([`actors::ingestor`]), which puts it into the store ([`stores::document_store`]) before anybody is told so. A document worker
//! ([`actors::document`]) parses it ([`documents::parse`]), cuts it into chunks ([`documents::chunk`]), has the new ones
//! embedded ([`actors::embedder`], [`models::minilm`]) and stores the result. In the embedded store ([`stores::embedded`]) the
//! indexer ([`actors::indexer`]) then brings both indexes ([`stores::tantivy`], [`stores::hnsw`]) up to the catalog
//! ([`stores::catalog`]) and publishes a view ([`stores::view`]); with [`stores::postgres`] the transaction was all.
//!
//! *Read*: a question comes by HTTP ([`web::answers`]) to [`asking`], which has the retriever ([`actors::retriever`])
//! search the store by words and by meaning and fuse both rankings ([`retrieval::fusion`]), packs passages into the token budget
//! ([`answer::budget`], [`answer::prompt`]) and hands the prompt to the model pool ([`actors::model_pool`],
//! [`actors::model_worker`], [`models::llama_cpp`]). What the model says goes through the citation check
//! ([`answer::citation`]) into the answer log ([`answer::log`]), which the client reads as it grows.
//!
//! A request is a task; state is an actor. [`documents`], [`retrieval`] and [`answer`] hold the rules and know neither
//! actix nor tokio; [`stores`] and [`models`] each keep a library in a file; [`actors`] hold order, bounds and failure;
//! [`app`] builds it all; [`library`] is what all of them know of the documents, [`migrate`] moves these; [`freshness`]
//! says how far the index is behind, [`deletion`] forgets what is kept of a deleted document, [`identity`] says who calls,
//! [`budgets`] how much, [`usage`] and [`metrics`] what models did, [`series`] the last hour, [`telemetry`] what happens; [`eval`] measures.

pub mod actors;
pub mod answer;
pub mod app;
pub mod asking;
pub mod budgets;
pub mod cli;
pub mod config;
pub mod deletion;
pub mod documents;
pub mod error;
pub mod eval;
pub mod freshness;
pub mod http;
pub mod identity;
pub mod library;
pub mod metrics;
pub mod migrate;
pub mod models;
pub mod retrieval;
pub mod series;
pub mod stores;
pub mod telemetry;
pub mod usage;
pub mod web;

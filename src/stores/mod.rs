//! Where things are kept.
//!
//! Documents are in a [`document_store`]. The [`embedded`] one has them in one folder: [`catalog`] is the durable truth,
//! with documents, chunks, vectors and the operation number `seq`; [`tantivy`] (lexical) and [`hnsw`] (vectors) are
//! derived from it, hold nothing that it does not hold, and can be rebuilt from it at any time; a search sees both at one
//! commit through a [`view`]. [`postgres`] and [`qdrant`] have them on servers that replicas share. [`archive`] is how they
//! move from one store to another, [`backup`] copies of the embedded one.
//!
//! [`memory`] keeps what was answered for a while, and [`redis`] for all replicas. [`nats`] and [`dataref`] are where
//! documents come from. [`records`] are the service's own: API keys, what people thought of answers.

mod admission;
pub mod archive;
pub mod backup;
pub mod breaker;
pub mod catalog;
pub mod dataref;
pub mod document_store;
pub mod embedded;
pub mod hnsw;
pub mod memory;
pub mod nats;
pub mod postgres;
pub mod qdrant;
pub mod records;
pub mod redis;
mod settled;
pub mod tantivy;
pub mod view;

/// Number of a chunk, given once by the catalog and never again: a changed document gets new ones.
/// Both indexes know chunks by this number only.
pub type ChunkId = u32;

/// A chunk found by an index, with that index's score: BM25, or cosine similarity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// The chunk.
    pub chunk: ChunkId,
    /// Higher is better.
    pub score: f32,
}

/// Why a store could not do its work. The text says what was tried, on which file, what happened and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, or a quota is reached.
    #[error("{0}")]
    Full(String),
    /// The data is damaged, and cannot be rebuilt from elsewhere.
    #[error("{0}")]
    Damaged(String),
    /// It does not answer now; the same may work later.
    #[error("{0}")]
    Unavailable(String),
    /// Another process uses the data folder.
    #[error("{0}")]
    Locked(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}
